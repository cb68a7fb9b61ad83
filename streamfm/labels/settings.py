"""What makes a label, and up to where a model has been trained."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from streamfm.errors import DataError, SpecError
from streamfm.features.checks import check_name

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TIMES = ("closed_until", "clicks_until")


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSettings:
    """How impressions and clicks become labelled rows.

    A click counts for an impression when it names its id and comes between the impression and `window_s` after it,
    both included.

    Attributes:
        impression_id: Column of the impressions that names them.
        impression_time: Column of the impressions that says when they were shown.
        click_id: Column of the clicks that names their impression.
        click_time: Column of the clicks that says when they came.
        click_kind: Column of the clicks that says of which kind they are; none, and every click is a positive.
        positives: Sample weight of each kind of click; others are counted and left out. An impression with clicks of
            several kinds takes the largest weight. Without `click_kind`, one kind of any name.
        window_s: How long after its impression a click counts, in event time.
        lateness_s: How much later than others an event may come to the log; labels wait so much longer.
        future_s: An event that is more than so much later than the clock is left out until its time has come.
        lookback_s: How long an impression is remembered once it was labelled: copies of it that are at most so much
            apart are known as copies, and clicks up to so long after the window as late ones. Every round reads so
            much of the log again.
        late_positives: Whether late clicks teach, too; see `streamfm.labels.late`.
        negative_share: Share of the rows without a click that is kept, by a hash of the id.
        ctr_bounds: The click rate of a round, relative to that of the rows labelled in the `lookback_s` before, that is
            believed; (0, inf) for any.
        stalled_s: How far the clicks, or one of their partitions, may be behind the impressions before they are held to
            be stalled. Until then labels wait for them.
        label: Column to add: 1 or 0.
        weight: Column of sample weights to add; none, and none is added.
        score: Column of the impressions that holds the served probability, for `late_positives`; where it is absent
            the click rate stands for it.
    """

    impression_id: str = "event_id"
    impression_time: str = "ts"
    click_id: str = "event_id"
    click_time: str = "ts"
    click_kind: str = ""
    positives: Mapping[str, float] = field(default_factory=lambda: {"click": 1.0})
    window_s: float = 1800.0
    lateness_s: float = 0.0
    future_s: float = 300.0
    lookback_s: float = 86_400.0
    late_positives: bool = False
    negative_share: float = 1.0
    ctr_bounds: tuple[float, float] = (0.5, 2.0)
    stalled_s: float = 3600.0
    label: str = "clicked"
    weight: str = ""
    score: str = "score"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        object.__setattr__(self, "positives", dict(self.positives))
        object.__setattr__(self, "ctr_bounds", tuple(self.ctr_bounds))
        for name in ("impression_id", "impression_time", "click_id", "click_time", "label"):
            check_name(getattr(self, name), name)
        for name in ("window_s", "lateness_s", "future_s", "lookback_s", "stalled_s"):
            value = getattr(self, name)
            if not (0 <= value < 1e9):
                raise SpecError(f"{name} is {value}, expected at least 0 and less than 1e9 seconds")
        if not 0 < self.negative_share <= 1:
            raise SpecError(f"negative_share is {self.negative_share}, expected more than 0 and at most 1")
        low, high = self.ctr_bounds
        if not 0 <= low <= 1 <= high:
            raise SpecError(f"ctr_bounds are {low} and {high}, expected 0 <= low <= 1 <= high")
        self._check_positives()

    def _check_positives(self) -> None:
        for kind, weight in self.positives.items():
            if not (math.isfinite(weight) and weight > 0):
                raise SpecError(f"positives: {kind!r} has weight {weight}, expected a finite number above 0")
        if not self.positives or (len(self.positives) > 1 and not self.click_kind):
            hint = "click_kind names the column that tells them apart" if self.positives else None
            raise SpecError(f"positives has {len(self.positives)} kinds, expected one", hint=hint)
        if self.label.casefold() == self.weight.casefold():
            raise SpecError(f"label and weight are the same column {self.label!r}", hint="name another weight")
        if not self.weight and (self.late_positives or set(self.positives.values()) != {1.0}):
            what = "late_positives needs" if self.late_positives else "positives of other weights than 1 need"
            hint = 'add weight = "sample_weight" to features.toml, and train anew'
            raise SpecError(f"{what} a column for weights", hint=hint)

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        # JSON has no infinity: None stands for a bound that is none.
        bounds = [None if math.isinf(bound) else bound for bound in self.ctr_bounds]
        return values | {"positives": dict(self.positives), "ctr_bounds": bounds}


@dataclass(frozen=True, kw_only=True, slots=True)
class Position:
    """The rows that a model and its ancestors have been trained on.

    They are exactly the impressions with a time before `closed_until` and, where the log has offsets, an offset before
    the end of their partition.

    Attributes:
        closed_until: An instant, in UTC.
        offsets: End (exclusive) of each "topic/partition" of impressions and clicks; a partition of a listed topic that
            is not listed has not been read at all, and for topics without any the time alone counts.
        clicks_until: Clicks before it were joined; None for the end of the last window. It stays where only a part of
            the rows is trained on, and `closed_until` is set back to the end of that part.
    """

    closed_until: datetime
    offsets: Mapping[str, int] = field(default_factory=dict)
    clicks_until: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse what is no position.

        Raises:
            DataError: A time without a zone, or a negative offset.
        """
        for name in _TIMES:
            if (value := getattr(self, name)) is not None:
                if value.tzinfo is None:
                    raise DataError(f"{name} is {value} without a time zone", hint="give it in UTC")
                object.__setattr__(self, name, value.astimezone(UTC))
        object.__setattr__(self, "offsets", dict(self.offsets))
        for partition, end in self.offsets.items():
            if end < 0:
                raise DataError(f"the offset of {partition!r} is {end}, expected at least 0")

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        value: dict[str, Any] = {
            "closed_until": _text(self.closed_until),
            "offsets": dict(sorted(self.offsets.items())),
        }
        return value | ({} if self.clicks_until is None else {"clicks_until": _text(self.clicks_until)})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Position:
        """What `to_json` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            offsets = {str(partition): int(end) for partition, end in value.get("offsets", {}).items()}
            times = {name: datetime.fromisoformat(value[name]) for name in _TIMES if name in value}
            return cls(**times, offsets=offsets)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{value!r:.200} is no position: {error}") from error


def _text(value: datetime) -> str:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def logit_correction(negative_share: float) -> float:
    """What to add to the logit of a model that was trained on so large a share of the negatives.

    Kept negatives stand for 1 / w each: the model learns p, with odds 1 / w times too high. The probability is
    q = p / (p + (1 - p) / w), that is logit(q) = logit(p) + ln(w).

    Source: He et al. 2014, Practical Lessons from Predicting Clicks on Ads at Facebook, 6.3.
    """
    if not 0 < negative_share <= 1:
        raise SpecError(f"negative_share is {negative_share}, expected more than 0 and at most 1")
    return math.log(negative_share)


def microseconds(moment: datetime) -> int:
    """Since 1970.

    Raises:
        DataError: A time without a zone.
    """
    if moment.tzinfo is None:
        raise DataError(f"{moment} has no time zone", hint="give it in UTC")
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """The instant so many microseconds after 1970, in UTC."""
    return EPOCH + timedelta(microseconds=value)
