"""What progressive validation found: measures over all predictions, shard by shard, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamfm.data.labelled_rows import LabelledBatch
from streamfm.evaluation import Evaluation, evaluate
from streamfm.evaluation.intervals import Estimate, mean_estimate
from streamfm.evaluation.metrics import PROBABILITY_CLIP
from streamfm.progressive.modes import Predictions
from streamfm.progressive.rows import OrderedRows
from streamfm.progressive.shards import Shard

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHOWN = {"binary": ("auc", "log_loss", "calibration"), "regression": ("rmse", "mae")}


class ShardReport(NamedTuple):
    """One shard, as every mode saw it.

    Attributes:
        begins: Event time of its first row, ISO 8601 in UTC.
        ends: Of its last row.
        rows: How many.
        known: Labels that had come when it was predicted, since the beginning of the log.
        weight: Sum of the sample weights; the number of rows where there are none.
        mean_label: Of its rows, weighted; None where all weights are 0.
    """

    begins: str
    ends: str
    rows: int
    known: int
    weight: float
    mean_label: float | None


@dataclass(frozen=True, kw_only=True, eq=False)
class ModeReport:
    """One mode.

    Attributes:
        mode: Its name.
        evaluation: Of all predictions.
        difference: Log loss (of a regression, squared error) less that of the first mode, row by row: below 0 is
            better; None of the first mode itself.
        rounds: How often it learnt.
        learning_s: Seconds that it learnt before each shard; 0 where it did not.
        predicting_s: Seconds that all predictions took.
        shards: The measures of each shard by name; None where its rows do not determine one.
        predictions: float64 [rows], in the order of the rows.
    """

    mode: str
    evaluation: Evaluation
    difference: Estimate | None
    rounds: int
    learning_s: tuple[float, ...]
    predicting_s: float
    shards: tuple[Mapping[str, float | None], ...]
    predictions: Predictions = field(repr=False)

    def value(self, measure: str) -> float | None:
        """A measure of all predictions, such as "auc"."""
        return self.evaluation.measure(measure).value

    @property
    def seconds_per_round(self) -> float | None:
        """Mean time of a round of learning."""
        return sum(self.learning_s) / self.rounds if self.rounds else None

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, as JSON types."""
        return {
            "mode": self.mode,
            "evaluation": self.evaluation.to_dict(),
            "difference": None if self.difference is None else asdict(self.difference),
            "rounds": self.rounds,
            "seconds_per_round": self.seconds_per_round,
            "learning_s": list(self.learning_s),
            "predicting_s": self.predicting_s,
            "shards": [dict(shard) for shard in self.shards],
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class ProgressiveReport:
    """What `progressive` found.

    Attributes:
        source: What the rows are called.
        warm_start_rows: Rows that only trained the first model, and were not predicted.
        warm_start_s: Seconds that took; 0 for a model that was there.
        shards: In the order of time.
        modes: In the order asked for.
        settings: What it was told, as JSON types.
    """

    source: str
    warm_start_rows: int
    warm_start_s: float
    shards: tuple[ShardReport, ...]
    modes: tuple[ModeReport, ...]
    settings: Mapping[str, Any]

    @property
    def rows(self) -> int:
        """Rows predicted."""
        return sum(shard.rows for shard in self.shards)

    def mode(self, name: str) -> ModeReport:
        """The mode of that name.

        Raises:
            KeyError: It was not asked for.
        """
        return {mode.mode: mode for mode in self.modes}[name]

    def periods(self, measure: str, count: int) -> list[tuple[str, int, *tuple[float | None, ...]]]:
        """A measure over time: of up to `count` runs of shards, when it begins, its rows, and the value of each mode.

        Shards count by their weight; those that do not determine the measure are left out.
        """
        periods = min(count, len(self.shards))
        starts = [number * len(self.shards) // periods for number in range(periods)]
        return [self._period(measure, slice(start, end)) for start, end in pairwise([*starts, len(self.shards)])]

    def _period(self, measure: str, part: slice) -> tuple[str, int, *tuple[float | None, ...]]:
        shards = self.shards[part]
        weights = [shard.weight for shard in shards]
        values = (_mean([shard[measure] for shard in mode.shards[part]], weights) for mode in self.modes)
        return shards[0].begins, sum(shard.rows for shard in shards), *values

    def to_dict(self) -> dict[str, Any]:
        """Everything but the predictions, as JSON types."""
        return {
            "source": self.source,
            "warm_start_rows": self.warm_start_rows,
            "warm_start_s": self.warm_start_s,
            "rows": self.rows,
            "shards": [shard._asdict() for shard in self.shards],
            "modes": [mode.to_dict() for mode in self.modes],
            "settings": dict(self.settings),
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Course:
    """What a mode did, before anything is measured."""

    mode: str
    task: str
    predictions: Predictions
    rounds: int
    learning_s: tuple[float, ...]
    predicting_s: float


def mode_report(
    course: Course, first: Course, batch: LabelledBatch, groups: NDArray[Any] | None, shards: list[Shard]
) -> ModeReport:
    """The measures of a mode.

    Args:
        course: What it did.
        first: What the first mode did.
        batch: All rows.
        groups: Of all rows; NaN where one is in none.
        shards: Rows that were predicted.
    """
    task = course.task
    begin = shards[0].start
    labels, weights = batch.labels[begin:], None if batch.sample_weights is None else batch.sample_weights[begin:]
    difference = None
    if course is not first:
        losses = [_losses(labels, one.predictions, task) for one in (course, first)]
        shares = None if weights is None else weights.astype(np.float64)
        difference = mean_estimate(losses[0] - losses[1], shares, 0.95)
    measured = evaluate(
        labels, course.predictions, weights=weights, groups=None if groups is None else groups[begin:], task=task
    )
    return ModeReport(
        mode=course.mode,
        evaluation=measured,
        difference=difference,
        rounds=course.rounds,
        learning_s=course.learning_s,
        predicting_s=course.predicting_s,
        shards=tuple(
            _of_shard(labels, course.predictions, weights, slice(shard.start - begin, shard.end - begin), task)
            for shard in shards
        ),
        predictions=course.predictions,
    )


def shard_reports(rows: OrderedRows, shards: list[Shard]) -> tuple[ShardReport, ...]:
    """What every mode saw."""
    return tuple(_shard_report(rows, shard) for shard in shards)


def _shard_report(rows: OrderedRows, shard: Shard) -> ShardReport:
    part = slice(shard.start, shard.end)
    labels, weights = rows.batch.labels[part].astype(np.float64), rows.batch.sample_weights
    shares = np.ones(len(labels)) if weights is None else weights[part].astype(np.float64)
    weight = float(shares.sum())
    return ShardReport(
        begins=_iso(rows.times[shard.start]),
        ends=_iso(rows.times[shard.end - 1]),
        rows=len(labels),
        known=shard.known,
        weight=weight,
        mean_label=float(labels @ shares) / weight if weight else None,
    )


def _of_shard(
    labels: NDArray[np.float32], predictions: Predictions, weights: NDArray[np.float32] | None, rows: slice, task: str
) -> dict[str, float | None]:
    weighted = None if weights is None else weights[rows]
    if weighted is not None and not weighted.any():
        return dict.fromkeys(_SHOWN[task])
    found = evaluate(labels[rows], predictions[rows], weights=weighted, task=task)
    return {name: found.measure(name).value for name in _SHOWN[task]}


def _mean(values: list[float | None], weights: list[float]) -> float | None:
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    total = sum(weight for _, weight in known)
    return sum(value * weight for value, weight in known) / total if total else None


def _losses(labels: NDArray[np.float32], predictions: Predictions, task: str) -> Predictions:
    """[B] loss of each row."""
    if task == "regression":
        return np.asarray((labels - predictions) ** 2, np.float64)
    clipped = np.clip(predictions, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    return np.asarray(-np.log(np.where(labels == 1, clipped, 1 - clipped)))


def _iso(microseconds: np.int64) -> str:
    return (_EPOCH + timedelta(microseconds=int(microseconds))).isoformat().replace("+00:00", "Z")
