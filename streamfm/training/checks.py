"""Refuses rows that cannot be trained on, before the first step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.data.dataset import EncodedDataset
from streamfm.encoder import Layout
from streamfm.errors import DataError
from streamfm.settings import TrainSettings

_ROWS_PER_READ = 1 << 20


def check_rows(what: str, rows: EncodedDataset, layout: Layout, settings: TrainSettings) -> None:
    """Return if the rows can be trained on (and validated: an AUC needs both labels).

    Raises:
        DataError: Too few rows, rows of another layout, or labels or sample weights that are impossible; the message
            begins with `what` they are.
    """
    if len(rows) < 2:
        raise DataError(f"{what} rows: {len(rows)} in {rows.folder}, expected at least 2")
    found = (rows.slots, rows.table_rows, rows.weights is not None)
    expected = (layout.slots, layout.rows, layout.weighted)
    if found != expected:
        raise DataError(
            f"{what} rows: (slots, table rows, weighted) are {found}, the model expects {expected}",
            hint="encode them with the model's own vocabularies",
        )
    _check_labels(what, rows, binary=settings.objective == "binary")
    if total_weight(rows) <= 0:
        raise DataError(f"{what} rows: the sample weights add up to 0")


def total_weight(rows: EncodedDataset) -> float:
    """Sum of the sample weights; the number of rows where there are none.

    Raises:
        DataError: A weight is negative or not finite.
    """
    if rows.sample_weights is None:
        return float(len(rows))
    total = 0.0
    for start, weights in _parts(rows.sample_weights):
        allowed = np.isfinite(weights) & (weights >= 0)
        if not allowed.all():
            row = int(np.argmin(allowed))
            raise DataError(f"sample weight of row {start + row} is {weights[row]}, expected a number of 0 or more")
        total += float(weights.sum(dtype=np.float64))
    return total


def mean_label(rows: EncodedDataset) -> float:
    """Weighted mean of the labels."""
    total = 0.0
    for start, labels in _parts(rows.labels):
        weights = None if rows.sample_weights is None else rows.sample_weights[start : start + len(labels)]
        total += float(labels.sum(dtype=np.float64) if weights is None else np.dot(labels.astype(np.float64), weights))
    return total / total_weight(rows)


def _check_labels(what: str, rows: EncodedDataset, *, binary: bool) -> None:
    seen: set[float] = set()
    for start, labels in _parts(rows.labels):
        allowed = (labels == 0) | (labels == 1) if binary else np.isfinite(labels)
        if not allowed.all():
            row = int(np.argmin(allowed))
            expected = "0 or 1" if binary else "a finite number"
            raise DataError(f"{what} rows: the label of row {start + row} is {labels[row]}, expected {expected}")
        if binary and len(seen) < 2:
            seen.update(np.unique(labels).tolist())
    if binary and len(seen) < 2:
        raise DataError(
            f"{what} rows: all {len(rows)} labels are {seen.pop():g}, expected both 0 and 1",
            hint="take rows of a longer time, or check the label column",
        )


def _parts(column: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    for start in range(0, len(column), _ROWS_PER_READ):
        yield start, column[start : start + _ROWS_PER_READ]
