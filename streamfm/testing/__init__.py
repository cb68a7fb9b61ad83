"""What tests, benchmarks, examples and the demo share: a simulated app store whose click probabilities are known."""

from streamfm.testing.app_store import OPENING, AppStore, simulate_events

__all__ = ["OPENING", "AppStore", "simulate_events"]
