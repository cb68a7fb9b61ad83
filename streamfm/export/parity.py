"""Parity: proof that an exported network answers as the trained model, and what int8 costs.

The facts go into the manifest under `parity`:

    rows                       rows of the proof, real ones that training did not see
    batch_sizes                the sizes of batches that were asked for, besides one after the other
    fp32.max_abs_diff          largest difference of a score from torch's (of a regression: in parts of max(1, |score|))
    fp32.max_abs_diff_logit    the same of a logit
    fp32.limit                 what max_abs_diff may be
    int8.max_abs_diff          largest and mean difference of a score from torch's; measured, without a limit
    int8.mean_abs_diff
    int8.calibration_rows      training rows that set the scales
    int8.auc, auc_loss         AUC on the proof's labels, and what it is below torch's (null when all labels are equal)
    int8.log_loss, log_loss_increase    log loss, and what it is above torch's
    int8.rmse, rmse_increase   of a regression, instead of the four
    *.max_abs_diff_batches     largest difference of a row's score between any two of the batch sizes
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from streamfm.bundle.session import open_session
from streamfm.encoder import Encoded, Layout
from streamfm.errors import BundleError, DataError, ParityError
from streamfm.evaluation.metrics import auc, estimate_rmse, log_loss
from streamfm.evaluation.samples import UndefinedMeasureError
from streamfm.export.network import Task

BATCH_SIZES = (1, 3, 2048, 2049)
"""One row, a rest, DuckDB's chunk, and one more."""

BATCH_LIMIT = 1e-6
"""How far a row's score may differ between two batches: every route gives the same score."""

_CHUNK_ROWS = 2048

Floats = NDArray[np.float32]
Facts = dict[str, Any]


class Answers(NamedTuple):
    """What a network says of rows: logits and scores, float32 [B] each."""

    logits: Floats
    scores: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Proof:
    """Real rows, and what the trained model says of them.

    Attributes:
        task: What the score is.
        layout: The interface that an exported network must have.
        rows: B encoded rows, at least one.
        logits: The trained model's, float32 [B], all finite.
        labels: [B].
        sample_weights: [B], or None.
    """

    task: Task
    layout: Layout
    rows: Encoded
    logits: Floats
    labels: NDArray[Any]
    sample_weights: NDArray[Any] | None = None

    def __post_init__(self) -> None:
        """Refuse rows that prove nothing.

        Raises:
            DataError: No rows, or not one label for each.
            ParityError: The trained model's own answers are no numbers.
        """
        if len(self.rows.ids) == 0:
            raise DataError("no rows to prove parity on", hint="the validation rows are empty")
        if len(self.labels) != len(self.rows.ids):
            raise DataError(f"{len(self.labels)} labels for {len(self.rows.ids)} rows to prove parity on")
        finite = np.isfinite(self.logits)
        if not finite.all():
            row = int(np.argmin(finite))
            raise ParityError(
                f"the trained model's logit for row {row} is {self.logits[row]} ({int((~finite).sum())} such rows)",
                hint="training diverged, or a numeric feature has extreme values: log1p or quantile tames it",
            )

    @property
    def scores(self) -> NDArray[np.float64]:
        """The trained model's scores [B]."""
        logits = self.logits.astype(np.float64)
        # The sigmoid in a form that no logit makes overflow.
        return 0.5 + 0.5 * np.tanh(0.5 * logits) if self.task == "binary" else logits


def prove_fp32(path: Path, proof: Proof, *, limit: float) -> Facts:
    """The facts of a network that answers as the trained model.

    Args:
        path: The ONNX file.
        proof: Rows and the trained model's answers.
        limit: What a score may differ.

    Raises:
        ParityError: Another interface, a score that differs by more than `limit`, or one that depends on its batch.
    """
    session = _open(path, proof.layout)
    answers = _answers(session, proof.rows)
    differences = _differences(proof, answers.scores)
    _require(path, differences, limit, "differs from the trained model's")
    return {
        "max_abs_diff": float(differences.max()),
        "max_abs_diff_logit": float(np.abs(answers.logits - proof.logits).max()),
        "max_abs_diff_batches": _batch_difference(path, session, proof, answers),
        "limit": limit,
    }


def measure_int8(path: Path, proof: Proof) -> Facts:
    """What a quantised network costs, in difference from the trained model and in quality.

    Raises:
        ParityError: Another interface, an answer that is no number, or a score that depends on its batch.
    """
    session = _open(path, proof.layout)
    answers = _answers(session, proof.rows)
    differences = _differences(proof, answers.scores)
    _require(path, differences, math.inf, "is no number; it differs from the trained model's")
    return {
        "max_abs_diff": float(differences.max()),
        "mean_abs_diff": float(differences.mean()),
        "max_abs_diff_batches": _batch_difference(path, session, proof, answers),
        **_quality(proof, answers.scores),
    }


def _open(path: Path, layout: Layout) -> onnxruntime.InferenceSession:
    """The network, with the interface that a bundle's has: names, types, shapes, any number of rows."""
    try:
        session = open_session(path.read_bytes(), name=path.name, threads=1)
    except BundleError as error:
        raise ParityError(error.message) from error
    expected = {"ids": ("tensor(int32)", ["any", layout.slots])}
    if layout.weighted:
        expected["weights"] = ("tensor(float)", ["any", layout.slots])
    expected |= {name: ("tensor(float)", ["any"]) for name in ("logit", "score")}
    found = {
        node.name: (node.type, [size if isinstance(size, int) else "any" for size in node.shape])
        for node in (*session.get_inputs(), *session.get_outputs())
    }
    if found != expected:
        raise ParityError(f"{path.name}: its inputs and outputs are {found}, expected {expected}")
    return session


def _run(session: onnxruntime.InferenceSession, rows: Encoded) -> Answers:
    feed: dict[str, NDArray[Any]] = {"ids": rows.ids}
    if rows.weights is not None:
        feed["weights"] = rows.weights
    logits, scores = session.run(["logit", "score"], feed)
    if logits.shape != (len(rows.ids),) or scores.shape != logits.shape:
        raise ParityError(f"{len(rows.ids)} rows gave logits {logits.shape} and scores {scores.shape}")
    return Answers(logits, scores)


def _answers(session: onnxruntime.InferenceSession, rows: Encoded) -> Answers:
    """Of all rows, asked for in chunks of 2,048 as SQL does."""
    starts = range(0, len(rows.ids), _CHUNK_ROWS)
    parts = [_run(session, _take(rows, slice(start, start + _CHUNK_ROWS))) for start in starts]
    return Answers(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _batch_difference(path: Path, session: onnxruntime.InferenceSession, proof: Proof, answers: Answers) -> float:
    """The largest difference of a row's score between batch sizes; rows are repeated where there are too few."""
    worst = 0.0
    for places in _batches(len(proof.rows.ids)):
        scores = _run(session, _take(proof.rows, places)).scores
        differences = np.abs(scores - answers.scores[places]) / _unit(proof, answers.scores[places])
        _require(path, differences, BATCH_LIMIT, "differs between batches")
        worst = max(worst, float(differences.max()))
    return worst


def _batches(rows: int) -> Iterator[NDArray[np.intp]]:
    """For every batch size, the places of rows that begin, and of rows that end the sample."""
    for size in BATCH_SIZES:
        yield np.arange(size) % rows
        yield np.arange(rows - size, rows) % rows


def _take(rows: Encoded, places: slice | NDArray[np.intp]) -> Encoded:
    return Encoded(rows.ids[places], None if rows.weights is None else rows.weights[places])


def _unit(proof: Proof, scores: NDArray[Any]) -> NDArray[Any] | float:
    """What differences are measured in: 1, or the number itself where a regression's is larger."""
    return 1.0 if proof.task == "binary" else np.maximum(1.0, np.abs(scores))


def _differences(proof: Proof, scores: Floats) -> NDArray[np.float64]:
    expected = proof.scores
    differences: NDArray[np.float64] = np.abs(scores - expected) / _unit(proof, expected)
    return differences


def _require(path: Path, differences: NDArray[Any], limit: float, what: str) -> None:
    """Raise unless all differences are numbers up to the limit."""
    wrong = ~(differences <= limit)
    if wrong.any():
        worst = int(np.nanargmax(np.where(np.isnan(differences), np.inf, differences)))
        raise ParityError(
            f"{path.name}: the score of row {worst} {what} by {differences[worst]:.3g}, expected at most {limit:g} "
            f"({int(wrong.sum())} such rows of {len(wrong)})",
            hint="the exported network is not the trained one: report this with the versions of onnx and onnxruntime",
        )


def _quality(proof: Proof, scores: Floats) -> Facts:
    labels, weights = proof.labels, proof.sample_weights
    if proof.task == "regression":
        rmse = estimate_rmse(labels, scores, weights).value
        return {"rmse": rmse, "rmse_increase": rmse - estimate_rmse(labels, proof.scores, weights).value}
    loss = log_loss(labels, scores, weights)
    facts: Facts = {"log_loss": loss, "log_loss_increase": loss - log_loss(labels, proof.scores, weights)}
    try:
        area = auc(labels, scores, weights)
    except UndefinedMeasureError:
        return facts | {"auc": None, "auc_loss": None}
    return facts | {"auc": area, "auc_loss": auc(labels, proof.scores, weights) - area}
