"""Labels, predictions and weights as checked arrays: what every measure starts from. Legend: B rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamfm.errors import DataError

Floats: TypeAlias = NDArray[np.float64]


class UndefinedMeasureError(DataError):
    """Rows that are right in themselves, but do not determine a measure: one label only has no AUC."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Rows that can be measured: all finite, one weight each, none of weight zero.

    Attributes:
        labels: [B] float64.
        predictions: [B] float64.
        weights: [B] float64, or None when every row counts 1.
        kept: [B before] True for the rows still here, or None when all are (rows of weight 0 are dropped).
    """

    labels: Floats
    predictions: Floats
    weights: Floats | None
    kept: NDArray[np.bool_] | None

    def mean(self, values: Floats) -> float:
        """Weighted mean of [B] values."""
        return float(np.average(values, weights=self.weights))


def binary_sample(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, probabilities: bool = False
) -> Sample:
    """Rows whose labels are 0 or 1.

    Args:
        labels: [B] of 0 and 1 (or booleans).
        scores: [B] numbers.
        weights: [B] non-negative, or None.
        probabilities: Whether scores must lie in [0, 1].

    Raises:
        DataError: No rows, lengths differ, a label other than 0 and 1, a score that is NaN or infinite (or no
            probability), a weight that is negative, NaN or infinite, or all weights zero. The first such row is named.
    """
    sample = number_sample(labels, scores, weights)
    _check_rows("label", sample, sample.labels, (sample.labels == 0) | (sample.labels == 1), expected="0 or 1")
    if probabilities:
        inside = (sample.predictions >= 0) & (sample.predictions <= 1)
        _check_rows("prediction", sample, sample.predictions, inside, expected="a probability from 0 to 1")
    return sample


def number_sample(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> Sample:
    """Rows whose labels are any finite numbers; else as `binary_sample`."""
    label_values = numbers("label", labels)
    predicted = numbers("prediction", predictions)
    same_length(("labels", label_values), ("predictions", predicted))
    if len(label_values) == 0:
        message = "no rows to evaluate"
        raise DataError(message, hint="check the source, and the filter that it was read with")
    if weights is None:
        return Sample(labels=label_values, predictions=predicted, weights=None, kept=None)
    row_weights = numbers("weight", weights)
    same_length(("labels", label_values), ("weights", row_weights))
    if (row_weights < 0).any():
        row = int(np.argmax(row_weights < 0))
        message = f"weight of row {row} is {row_weights[row]:g}, expected 0 or more"
        raise DataError(message)
    kept = row_weights > 0
    if not kept.any():
        message = "every weight is 0: no row is left to evaluate"
        raise DataError(message)
    return Sample(labels=label_values[kept], predictions=predicted[kept], weights=row_weights[kept], kept=kept)


def numbers(what: str, values: ArrayLike) -> Floats:
    """[B] finite numbers as float64.

    Raises:
        DataError: Not one-dimensional, not numbers, or the first row that is NULL, NaN or infinite.
    """
    array = np.asarray(values)
    if array.ndim != 1:
        message = f"{what}s have shape {array.shape}, expected one dimension: [rows]"
        raise DataError(message)
    try:
        floats: Floats = array.astype(np.float64, copy=False)
    except (TypeError, ValueError) as error:
        message = f"{what}s of type {array.dtype} are not numbers: {error}"
        raise DataError(message) from error
    finite = np.isfinite(floats)
    if not finite.all():
        row = int(np.argmin(finite))
        message = f"{what} of row {row} is {floats[row]}, expected a finite number ({int((~finite).sum())} such rows)"
        raise DataError(message, hint="rows are counted from 0; NULL reads as nan")
    return floats


def group_codes(groups: ArrayLike, rows: int) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
    """Sortable codes [B], one value a group, and [B] whether the row has a group (None and NaN are none).

    Integers are their own codes; anything that is not a number is compared as text.

    Raises:
        DataError: Not one group for each row.
    """
    values = np.asarray(groups)
    if values.shape != (rows,):
        message = f"groups have shape {values.shape}, expected ({rows},): one for each row"
        raise DataError(message)
    if values.dtype.kind in "iub":
        return values, np.ones(rows, dtype=np.bool_)
    known = np.asarray(values == values, dtype=np.bool_)  # NaN is what differs from itself
    if values.dtype.kind == "O":
        known &= values != np.array(None, dtype=object)
    if values.dtype.kind == "f":
        return values, known
    codes = np.zeros(rows, dtype=np.int64)
    codes[known] = np.unique(values[known].astype(np.str_), return_inverse=True)[1]
    return codes, known


def run_starts(*columns: NDArray[np.generic]) -> NDArray[np.intp]:
    """Places in [B] sorted rows where any column's value changes; the first is 0."""
    changes = np.zeros(len(columns[0]), dtype=np.bool_)
    changes[0] = True
    for values in columns:
        changes[1:] |= values[1:] != values[:-1]
    return np.flatnonzero(changes)


def same_length(*named: tuple[str, NDArray[np.generic]]) -> None:
    """Raise a DataError unless all arrays have equally many rows."""
    if len({len(array) for _, array in named}) > 1:
        lengths = ", ".join(f"{name} {len(array)}" for name, array in named)
        message = f"numbers of rows differ: {lengths}"
        raise DataError(message)


def _check_rows(what: str, sample: Sample, values: Floats, right: NDArray[np.bool_], *, expected: str) -> None:
    """Raise a DataError for the first row that is not right, by its place among the rows that came in."""
    if right.all():
        return
    first = int(np.argmin(right))
    row = first if sample.kept is None else int(np.flatnonzero(sample.kept)[first])
    message = f"{what} of row {row} is {values[first]:g}, expected {expected} ({int((~right).sum())} such rows)"
    raise DataError(message, hint="rows are counted from 0; a prediction is a score, not a logit")
