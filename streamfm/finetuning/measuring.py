"""What is measured of a chunk: its loss, the values that the model does not know, the drift of its numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.data.labelled_rows import LabelledBatch
from streamfm.encoder import Encoded, Encoder
from streamfm.encoder.kernels import FIRST_VALUE_ROW
from streamfm.errors import DataError
from streamfm.finetuning.report import NumericDrift


def check_rows(rows: LabelledBatch, *, binary: bool) -> None:
    """Return if the rows can be learnt from; their labels may all be the same.

    Raises:
        DataError: A label or sample weight that is impossible, or not one for each row; names the row.
    """
    for what, column in (("labels", rows.labels), ("sample weights", rows.sample_weights), ("times", rows.times)):
        if column is not None and column.shape != (rows.rows,):
            raise DataError(f"{what} of shape {column.shape}, expected one for each of {rows.rows} rows")
    labels = rows.labels
    _require(
        labels, (labels == 0) | (labels == 1) if binary else np.isfinite(labels), "label", "0 or 1" if binary else ""
    )
    if (weights := rows.sample_weights) is not None:
        _require(weights, np.isfinite(weights) & (weights >= 0), "sample weight", "a number of 0 or more")


def mean_loss(
    logits: NDArray[np.float32], labels: NDArray[Any], weights: NDArray[Any] | None, *, binary: bool
) -> float | None:
    """Weighted mean of the log loss, or of the squared error; None where nothing weighs anything."""
    if not len(labels) or (weights is not None and not weights.any()):
        return None
    numbers = logits.astype(np.float64)
    losses = np.logaddexp(0, numbers) - labels * numbers if binary else (numbers - labels) ** 2
    return float(np.average(losses, weights=weights))


def unknown_shares(encoder: Encoder, encoded: Encoded) -> dict[str, float]:
    """By feature, the share of the rows with a value that the vocabularies do not have."""
    counts = encoder.layout.count_unknown(encoded.ids) / max(len(encoded.ids), 1)
    return {field.name: float(count) for field, count in zip(encoder.layout.fields, counts, strict=True)}


def numeric_drift(encoder: Encoder, encoded: Encoded) -> dict[str, NumericDrift]:
    """By numeric feature, how its numbers lie; nothing without rows."""
    layout, drift = encoder.layout, {}
    for feature, field, null in zip(encoder.spec.features, layout.fields, layout.null_rows, strict=True):
        if feature.kind != "numeric" or not len(encoded.ids):
            continue
        ids = encoded.ids[:, field.start]
        are_there = ids != null
        present = float(are_there.mean())
        if feature.is_numeric_slot and encoded.weights is not None:
            numbers = encoded.weights[are_there, field.start].astype(np.float64)
            moments = (float(numbers.mean()), float(numbers.std())) if len(numbers) else (None, None)
            drift[feature.name] = NumericDrift(present=present, mean=moments[0], deviation=moments[1])
        else:
            buckets = encoder.vocabularies.tables[feature.table].rows - FIRST_VALUE_ROW
            counts = np.bincount(ids[are_there] - null - FIRST_VALUE_ROW, minlength=buckets)
            shares = tuple((counts / max(int(counts.sum()), 1)).tolist())
            drift[feature.name] = NumericDrift(present=present, buckets=shares)
    return drift


def _require(values: NDArray[Any], allowed: NDArray[np.bool_], what: str, expected: str) -> None:
    if not allowed.all():
        row = int(np.argmin(allowed))
        raise DataError(f"the {what} of row {row} is {values[row]}, expected {expected or 'a finite number'}")
