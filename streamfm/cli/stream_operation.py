"""How a worker of `streamfm stream` is run: the defaults of its options."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Operation:
    """How a worker is run.

    Attributes:
        watch_s: How often to look for new versions; 0 never.
        http: Host and port of the metrics; None for none.
        max_lag: Events behind, above which it is not ready.
        stalled_s: Seconds without a turn of the loop, above which it is not healthy.
        drain_s: Seconds in which SIGTERM must have been obeyed.
        report_s: Seconds between two lines of news; 0 for none.
    """

    watch_s: float = 1.0
    http: tuple[str, int] | None = None
    max_lag: int = 100_000
    stalled_s: float = 120.0
    drain_s: float = 30.0
    report_s: float = 10.0
