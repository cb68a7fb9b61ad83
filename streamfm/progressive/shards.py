"""Where a log is cut, and which labels are known at each cut: all that keeps predictions from seeing their answers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamfm.errors import DataError
from streamfm.progressive.settings import ProgressiveSettings

MICROSECONDS = 1_000_000


class Shard(NamedTuple):
    """Rows that are predicted by one state of a model.

    Attributes:
        start: Its first row.
        end: Its last row + 1.
        known: So many rows, the earliest, have labels that came before the shard began; never more than `start`.
    """

    start: int
    end: int
    known: int


def cut(times: NDArray[np.int64], first: int, settings: ProgressiveSettings) -> list[Shard]:
    """The shards of the rows from `first` on.

    A label is known when its event lies `delay_s` before the shard's first event, or earlier, and `delay_shards`
    shards lie between. Rows of one instant follow each other, so that without a delay the earlier ones are known.

    Args:
        times: int64 [N], microseconds, ascending.
        first: Rows before this one are the warm start's.
        settings: Shards and delays.

    Raises:
        DataError: Fewer rows than shards.
    """
    starts = _starts(times, first, settings)
    came = np.searchsorted(times, times[starts] - round(settings.delay_s * MICROSECONDS), side="right")
    earlier = np.maximum(np.arange(len(starts)) - settings.delay_shards, 0)
    known = np.minimum(came, starts[earlier])
    ends = np.append(starts[1:], len(times))
    return [Shard(*map(int, shard)) for shard in zip(starts, ends, known, strict=True)]


def _starts(times: NDArray[np.int64], first: int, settings: ProgressiveSettings) -> NDArray[np.intp]:
    rows = len(times) - first
    if settings.interval_s is not None:
        intervals = times[first:] // round(settings.interval_s * MICROSECONDS)
        return first + np.flatnonzero(np.diff(intervals, prepend=intervals[0] - 1))
    shards = settings.shards or 1
    if rows < shards:
        raise DataError(f"{rows:,} rows after the warm start, expected at least one for each of {shards:,} shards")
    return first + (np.arange(shards) * rows) // shards
