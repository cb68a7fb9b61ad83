"""Rounds again and again, until someone says stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from streamfm.errors import StreamFMError
from streamfm.retraining.reports import RoundReport
from streamfm.retraining.rounds import Retrainer

log = logging.getLogger(__name__)

Told = Callable[[RoundReport | StreamFMError | OSError], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pace:
    """When rounds begin.

    Attributes:
        every_s: From the beginning of one to the beginning of the next; one that takes longer is followed at once.
        max_backoff_s: After errors in a row the wait doubles up to this.
    """

    every_s: float
    max_backoff_s: float = 600.0

    def wait_s(self, took_s: float, errors: int) -> float:
        """How long to wait after a round."""
        if not errors:
            return max(0.0, self.every_s - took_s)
        return max(self.every_s, min(self.every_s * 2.0**errors, self.max_backoff_s)) - min(took_s, self.every_s)


def serve(
    retrainer: Retrainer,
    pace: Pace,
    *,
    told: Told,
    wait: Callable[[float], bool],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Round after round.

    An error of a round is told, and the next round tries anew: it may be mended meanwhile (a full disk, a segment that
    is missing), nothing was published, and nothing is left out.

    Args:
        retrainer: Makes them.
        pace: When.
        told: Handed every report, and every error.
        wait: Waits for so many seconds; True when it is time to end.
        clock: Seconds.
    """
    errors = 0
    while True:
        began = clock()
        try:
            told(retrainer.round())
            errors = 0
        except (StreamFMError, OSError) as error:
            told(error)
            errors += 1
        if wait(pace.wait_s(clock() - began, errors)):
            return
