"""What tests, benchmarks, examples and the demo share: a simulated app store whose click probabilities are known.

And doubles of a stream's two ends, over the ports of `streamfm.stream`, with a clock that nobody waits for.
"""

from streamfm.testing.app_store import OPENING, AppStore, simulate_events
from streamfm.testing.streams import (
    Batch,
    Crash,
    Disturbance,
    Failure,
    FakeClock,
    Fault,
    ListSink,
    ListSource,
    Rebalance,
    Silence,
    events_of,
)

__all__ = [
    "OPENING",
    "AppStore",
    "Batch",
    "Crash",
    "Disturbance",
    "Failure",
    "FakeClock",
    "Fault",
    "ListSink",
    "ListSource",
    "Rebalance",
    "Silence",
    "events_of",
    "simulate_events",
]
