"""When labels are not to be believed: clicks that stall, or a click rate that nobody would expect.

Missing labels are never negatives: a round that looks wrong makes none, says why, and its rows wait for the next.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal, NamedTuple

from streamfm.data.soundness import LeftOut
from streamfm.labels.counting import LabelCounts
from streamfm.labels.heads import Head, awaited
from streamfm.labels.settings import LabelSettings, moment

ENOUGH_ROWS = 1_000
"""Rows without one click that are held to be wrong where nothing is known of the rate before."""

MOST_UNSOUND = 0.01
"""Share of the rows that may have values which cannot be learnt from."""

_RARE = "are clicks collected? Where they are so rare, allow for more: stalled_s, --stalled"

Z = 3.0
"""Standard errors that an interval reaches to either side: 0.3 % of all rounds lie outside by chance."""


class Refusal(NamedTuple):
    """Why there are no labels.

    Attributes:
        reason: "nothing_new", "no_clicks", "stalled", "ctr_out_of_bounds" or "unsound_values".
        message: What was found, what was expected.
        hint: What to do about it.
    """

    reason: Literal["nothing_new", "no_clicks", "stalled", "ctr_out_of_bounds", "unsound_values"]
    message: str
    hint: str


def judge_heads(impressions: Head, clicks: Head, settings: LabelSettings) -> Refusal | None:
    """Whether the logs have come far enough."""
    if impressions.newest_us is None:
        return Refusal(
            "nothing_new",
            f"{impressions.log.source.name}: no new impression",
            "is anything served, and can the log read it? streamfm log show tells",
        )
    if clicks.newest_us is None:
        return Refusal("no_clicks", f"{clicks.log.source.name}: not one click", "are clicks collected?")
    behind_us = impressions.newest_us - clicks.newest_us
    if behind_us > settings.stalled_s * 1e6:
        message = (
            f"{clicks.log.source.name}: the newest is of {_shown(clicks.newest_us)}, {_length(behind_us)} behind "
            f"the impressions, expected at most {timedelta(seconds=settings.stalled_s)}"
        )
        return Refusal("stalled", message, _RARE)
    return _stalled_partition(impressions.newest_us, clicks, settings)


def _stalled_partition(newest_us: int, clicks: Head, settings: LabelSettings) -> Refusal | None:
    """Whether a part of the clicks, for which labels wait, has stalled, which the newest of all does not show."""
    for partition, partition_us in sorted(awaited(clicks, newest_us, settings).items()):
        behind_us = newest_us - partition_us
        if behind_us > settings.stalled_s * 1e6:
            message = (
                f"{clicks.log.source.name}: the newest of {partition} is of {_shown(partition_us)}, "
                f"{_length(behind_us)} behind the impressions, expected at most {timedelta(seconds=settings.stalled_s)}"
            )
            return Refusal("stalled", message, _RARE)
    return None


def judge_counts(counts: LabelCounts, settings: LabelSettings) -> Refusal | None:
    """Whether a round's labels can be believed.

    The click rate is out of bounds where its interval, and that of the rate before, leave no other reading: it is
    below low times the rate before even at the upper end of the one and the lower end of the other, or above high
    times it at the opposite ends. The intervals are Wilson's, at `Z` standard errors. So a round of few rows is
    refused only for a gross error, and a long one for any.
    """
    if counts.closed + counts.again == 0:
        hint = (
            "labels wait until the window after their impression has closed, and for clicks as late as that in every "
            "partition"
        )
        return Refusal("nothing_new", f"no impression was closed ({counts.open:,} are open)", hint)
    low, high = settings.ctr_bounds
    now, before = wilson(counts.in_window, counts.closed), wilson(counts.in_window_before, counts.labelled_before)
    if counts.closed and not counts.in_window:
        message = f"{counts.closed:,} impressions were closed, and not one of them has a click"
        expected = now[1] < low * before[0] if counts.in_window_before else counts.closed >= ENOUGH_ROWS
        if expected:
            return Refusal("no_clicks", message, "are clicks collected, and do they bear the impressions' ids?")
        return Refusal("nothing_new", f"{message}: too few to tell, they wait", "more rows will tell")
    if now[1] < low * before[0] or now[0] > high * before[1]:
        rates = counts.in_window / counts.closed, counts.in_window_before / counts.labelled_before
        message = (
            f"{rates[0]:.3%} of {counts.closed:,} impressions have a click, of the {counts.labelled_before:,} before "
            f"{rates[1]:.3%}: {rates[0] / rates[1]:.2f} times as many, expected {low:g} to {high:g}"
        )
        hint = "is a part of the log missing, or twice there? If the world has changed, --ctr-bounds once"
        return Refusal("ctr_out_of_bounds", message, hint)
    return None


def judge_values(rows: int, sound: int, left_out: Sequence[LeftOut]) -> Refusal | None:
    """Whether few enough rows have values that no model can learn from, to go on without them.

    They are too many where even the lower end of their share's interval is above `MOST_UNSOUND`: one row of ten may be
    an accident, all ten are not.
    """
    unsound = rows - sound
    if wilson(unsound, rows)[0] <= MOST_UNSOUND:
        return None
    message = (
        f"{unsound:,} of {rows:,} labelled rows cannot be learnt from, expected at most {MOST_UNSOUND:.0%}: "
        f"{'; '.join(str(one) for one in left_out)}"
    )
    hint = (
        "mend what writes them: the rows wait until enough sound ones have come; or train a model anew that takes such "
        "values, by a feature of another name with sql = ..."
    )
    return Refusal("unsound_values", message, hint)


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """The interval of a share at `Z` standard errors; (0, 1) without rows.

    Source: Wilson 1927, Probable Inference, the Law of Succession, and Statistical Inference.
    """
    if not rows:
        return 0.0, 1.0
    middle, spread = hits + Z * Z / 2, Z * math.sqrt(hits * (rows - hits) / rows + Z * Z / 4)
    return max(0.0, (middle - spread) / (rows + Z * Z)), min(1.0, (middle + spread) / (rows + Z * Z))


def _shown(us: int) -> str:
    return datetime.fromtimestamp(moment(us).timestamp(), UTC).strftime("%Y-%m-%d %H:%M:%S")


def _length(us: int) -> str:
    return str(timedelta(seconds=us // 1_000_000))
