"""How `streamfm collect` is run: the defaults of its options, and news of it."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from connectors.kafka_collected_topics import Collected
    from connectors.parquet_log_collecting import RollSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectOptions:
    """How the collector is run.

    Attributes:
        roll_s: Seconds after which a segment ends.
        roll_rows: Rows with which it does.
        roll_mb: Megabytes with which it does.
        drain_s: Seconds in which SIGTERM must have been obeyed.
        report_s: Seconds between two lines of news; 0 for none.
    """

    roll_s: float = 15.0
    roll_rows: int = 1_000_000
    roll_mb: int = 128
    drain_s: float = 30.0
    report_s: float = 10.0

    def roll(self) -> RollSettings:
        """When a segment ends.

        Raises:
            StreamError: A setting out of its range.
        """
        from connectors.parquet_log_collecting import RollSettings

        return RollSettings(roll_s=self.roll_s, roll_rows=self.roll_rows, roll_bytes=self.roll_mb * 1_000_000)


@contextmanager
def reported(report_s: float, collected: Collected) -> Iterator[None]:
    """A block with a line of news every `report_s`, while there is any."""
    ended = threading.Event()

    def report() -> None:
        before, since_s = 0, time.monotonic()
        while not ended.wait(report_s):
            rows, now_s = collected.rows.total(), time.monotonic()
            if rows != before:
                per_second = (rows - before) / (now_s - since_s)
                unreadable = collected.errors.total()
                logger.info("%s rows in the log, %s a second, %s unreadable", *_said(rows, per_second, unreadable))
            before, since_s = rows, now_s

    if report_s:
        threading.Thread(target=report, name="streamfm-report", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def _said(*numbers: float) -> list[str]:
    return [f"{number:,.0f}" for number in numbers]
