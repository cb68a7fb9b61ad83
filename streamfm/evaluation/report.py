"""One table of everything measured on a set of rows, and what the features were worth there; numpy only.

The formulas are in metrics.py and calibration.py; `auc`, `log_loss` and their like can be had from here.
Legend: B rows, F fields, S slots.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamfm.errors import DataError
from streamfm.evaluation.calibration import CalibrationBin, calibration, calibration_bins, estimate_calibration
from streamfm.evaluation.intervals import Estimate, normal_quantile
from streamfm.evaluation.metrics import (
    GroupEstimate,
    auc,
    estimate_auc,
    estimate_group_auc,
    estimate_log_loss,
    estimate_mean_absolute_error,
    estimate_normalised_entropy,
    estimate_r_squared,
    estimate_rmse,
    group_auc,
    log_loss,
    normalised_entropy,
)
from streamfm.evaluation.samples import UndefinedMeasureError, binary_sample, number_sample

if TYPE_CHECKING:
    from streamfm.encoder import Layout

__all__ = [
    "Evaluation",
    "FeatureCoverage",
    "Measure",
    "auc",
    "calibration",
    "calibration_bins",
    "evaluate",
    "feature_coverage",
    "group_auc",
    "log_loss",
    "normalised_entropy",
]

# Rows of ids looked at together: a block of 26 slots stays within the processor's cache.
_BLOCK_ROWS = 16_384


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """One line of an evaluation.

    Attributes:
        name: As in `Evaluation.to_dict`.
        value: The measure, or None where the rows do not determine it.
        low: Lower end of its confidence interval; None, as `high`, where there is none.
        high: Upper end.
        note: Why there is no value, or what it was taken over; empty mostly.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """What `evaluate` found.

    Attributes:
        task: "binary" or "regression".
        rows: Rows with a weight above 0.
        mean_label: Weighted; the base rate when binary.
        mean_prediction: Weighted.
        confidence: Of every interval.
        measures: In the order of a table: for "binary" auc, group_auc (with groups), log_loss,
            normalised_entropy, calibration; for "regression" rmse, mae, r_squared.
        bins: Calibration by decile of the prediction; empty for "regression".
    """

    task: str
    rows: int
    mean_label: float
    mean_prediction: float
    confidence: float
    measures: tuple[Measure, ...]
    bins: tuple[CalibrationBin, ...] = ()

    def measure(self, name: str) -> Measure:
        """The measure of that name.

        Raises:
            DataError: No such measure; names those there are.
        """
        for measure in self.measures:
            if measure.name == name:
                return measure
        message = f"no measure {name!r} in this evaluation"
        raise DataError(message, hint=f"it has {', '.join(measure.name for measure in self.measures)}")

    def to_dict(self) -> dict[str, object]:
        """Everything as JSON types; what is undefined or not finite is None."""
        return {
            "task": self.task,
            "rows": self.rows,
            "mean_label": _json_number(self.mean_label),
            "mean_prediction": _json_number(self.mean_prediction),
            "confidence": self.confidence,
            "measures": {
                m.name: {
                    "value": _json_number(m.value),
                    "low": _json_number(m.low),
                    "high": _json_number(m.high),
                    "note": m.note,
                }
                for m in self.measures
            },
            "calibration_bins": [asdict(one) for one in self.bins],
        }

    def summary_rows(self) -> list[tuple[str, str, str, str]]:
        """Lines of a table, as text: measure, value, interval, note."""
        lines = [
            ("rows", f"{self.rows:,}", "", ""),
            ("mean_label", f"{self.mean_label:.5f}", "", ""),
            ("mean_prediction", f"{self.mean_prediction:.5f}", "", ""),
        ]
        for m in self.measures:
            interval = "" if m.low is None or m.high is None else f"{m.low:.5f} - {m.high:.5f}"
            lines.append((m.name, "undefined" if m.value is None else f"{m.value:.5f}", interval, m.note))
        return lines

    def calibration_rows(self) -> list[tuple[str, str, str, str]]:
        """Lines of a table, as text: range of predictions, rows, mean prediction, observed rate with its interval."""
        return [
            (
                f"{one.lowest:.4f} - {one.highest:.4f}",
                f"{one.rows:,}",
                f"{one.mean_prediction:.4f}",
                f"{one.observed_rate:.4f} ({one.low:.4f} - {one.high:.4f})",
            )
            for one in self.bins
        ]


def evaluate(
    labels: ArrayLike,
    predictions: ArrayLike,
    *,
    weights: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    task: str = "binary",
    confidence: float = 0.95,
) -> Evaluation:
    """Every measure of the task, with its interval.

    What the rows do not determine, such as the AUC of one label, is None, and its note says why.

    Args:
        labels: [B] of 0 and 1, or of numbers for "regression".
        predictions: [B] probabilities, or numbers for "regression".
        weights: [B] non-negative, or None; rows of weight 0 do not count.
        groups: [B], usually the user, for group AUC; None and NaN belong to no group. Not used for "regression".
        task: "binary" or "regression".
        confidence: Of every interval, between 0 and 1.

    Raises:
        DataError: No rows, lengths differ, or a label, prediction or weight that cannot be; names the first row.
    """
    normal_quantile(confidence)  # refuses a confidence that is none
    if task == "binary":
        sample = binary_sample(labels, predictions, weights, probabilities=True)
        measures = _binary_measures(labels, predictions, weights, groups, confidence)
        bins = calibration_bins(labels, predictions, weights, confidence=confidence)
    elif task == "regression":
        sample = number_sample(labels, predictions, weights)
        measures, bins = _regression_measures(labels, predictions, weights, confidence), ()
    else:
        message = f"task is {task!r}, expected 'binary' or 'regression'"
        raise DataError(message)
    return Evaluation(
        task=task,
        rows=len(sample.labels),
        mean_label=sample.mean(sample.labels),
        mean_prediction=sample.mean(sample.predictions),
        confidence=confidence,
        measures=measures,
        bins=bins,
    )


def _binary_measures(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None, groups: ArrayLike | None, confidence: float
) -> tuple[Measure, ...]:
    measures = [_measure("auc", partial(estimate_auc, labels, scores, weights, confidence=confidence))]
    if groups is not None:
        measures.append(
            _group_measure(partial(estimate_group_auc, labels, scores, groups, weights, confidence=confidence))
        )
    for name, estimate in (
        ("log_loss", estimate_log_loss),
        ("normalised_entropy", estimate_normalised_entropy),
        ("calibration", estimate_calibration),
    ):
        measures.append(_measure(name, partial(estimate, labels, scores, weights, confidence=confidence)))
    return tuple(measures)


def _regression_measures(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None, confidence: float
) -> tuple[Measure, ...]:
    return (
        _measure("rmse", partial(estimate_rmse, labels, predictions, weights, confidence=confidence)),
        _measure("mae", partial(estimate_mean_absolute_error, labels, predictions, weights, confidence=confidence)),
        _measure("r_squared", partial(estimate_r_squared, labels, predictions, weights)),
    )


def _measure(name: str, estimate: Callable[[], Estimate]) -> Measure:
    """The line of an estimate; of one that the rows do not determine, its reason."""
    try:
        found = estimate()
    except UndefinedMeasureError as error:
        return Measure(name=name, value=None, note=error.message)
    return Measure(name=name, value=found.value, low=found.low, high=found.high)


def _group_measure(estimate: Callable[[], GroupEstimate]) -> Measure:
    """The line of group AUC, telling how many groups have one."""
    try:
        found = estimate()
    except UndefinedMeasureError as error:
        return Measure(name="group_auc", value=None, note=error.message)
    note = f"{found.groups_used:,} of {found.groups:,} groups have both labels ({found.rows_used:,} rows)"
    return Measure(
        name="group_auc", value=found.estimate.value, low=found.estimate.low, high=found.estimate.high, note=note
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureCoverage:
    """How much of a feature there was, and how much of that the model knows.

    Attributes:
        name: The feature.
        coverage: Share of rows with a value; NULL and an empty list are none.
        unknown_rate: Share of the values that training did not see; None when there is no value.
    """

    name: str
    coverage: float
    unknown_rate: float | None


def feature_coverage(ids: NDArray[np.int32], layout: Layout) -> tuple[FeatureCoverage, ...]:
    """Coverage and unknown rate of every feature, F of them.

    Args:
        ids: int32 [B, S] as encoded, memory-mapped or not; read block by block. The padding of a list is its
            field's NULL row, as the encoder writes it.
        layout: Of the encoder that made them.

    Raises:
        DataError: No rows, or another number of slots than the layout's.
    """
    rows = len(ids)
    if ids.ndim != 2 or ids.shape[1] != layout.slots:
        message = f"ids have shape {ids.shape}, expected [rows, {layout.slots}]"
        raise DataError(message)
    if rows == 0:
        message = "no rows to evaluate"
        raise DataError(message)
    covered, values, unknown = np.zeros((3, len(layout.fields)), dtype=np.int64)
    for start in range(0, rows, _BLOCK_ROWS):
        block = ids[start : start + _BLOCK_ROWS]
        for index, field in enumerate(layout.fields):
            slots = block[:, field.start : field.start + field.length]
            present = slots != layout.null_rows[index]
            covered[index] += np.count_nonzero(present.any(axis=1))
            values[index] += np.count_nonzero(present)
            unknown[index] += np.count_nonzero(slots == layout.unknown_rows[index])
    return tuple(
        FeatureCoverage(
            name=field.name,
            coverage=float(covered[index] / rows),
            unknown_rate=float(unknown[index] / values[index]) if values[index] else None,
        )
        for index, field in enumerate(layout.fields)
    )


def _json_number(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
