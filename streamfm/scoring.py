"""Scorer: a bundle that answers. Every route, SQL, streams, Python, asks this one.

It reads NumPy, Arrow, compiled kernels and onnxruntime; never torch or onnx.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Literal, overload

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.bundle import Bundle, open_bundle
from streamfm.encoder import Encoded, Encoder
from streamfm.errors import BundleError
from streamfm.explanation import Explanation, Parameters, explain
from streamfm.expressions import Deriver
from streamfm.registry import Hold, hold
from streamfm.rows import Columns, Row, Rows, to_columns

Precision = Literal["fp32", "int8"]
MODEL_FILES: Mapping[Precision, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx"}

CHUNK_ROWS = 2048
"""Rows per call of the network: the activations of a 400-wide layer then stay in a core's cache."""

_LOGIT, _SCORE = ["logit"], ["score"]


class Scorer:
    """Scores events with one version of a model. Immutable; safe to share between threads.

    Attributes:
        bundle: The verified bundle.
        name: The model's name.
        version: Its number in the registry, None for a bundle outside one.
        precision: ``fp32`` or ``int8``.
        spec: The features.
        encoder: Columns to ids and weights.
    """

    def __init__(
        self, bundle: Bundle, *, precision: Precision = "fp32", threads: int = 1, held: Hold | None = None
    ) -> None:
        """Load the network and answer once, so that a model that cannot answer is refused here.

        Args:
            bundle: What `open_bundle` gave.
            precision: Which network of the bundle to ask.
            threads: Of one call of the network; 1 where the caller is parallel itself, as DuckDB is.
            held: What keeps the bundle from being pruned; let go with the scorer.

        Raises:
            BundleError: The bundle has no network of this precision, or it does not run; names the file.
        """
        self.bundle = bundle
        self._held = held
        self.spec = bundle.spec
        self.name, self.version = bundle.manifest.name, bundle.manifest.version
        self.precision = precision
        self.encoder = Encoder(bundle.spec, bundle.vocabularies)
        self._deriver = Deriver(bundle.spec)
        self._session = _open_session(bundle, MODEL_FILES[precision], threads)
        self._warm_up()

    def __repr__(self) -> str:
        """Which model, and how it is asked."""
        return f"Scorer({str(self.bundle.path)!r}, precision={self.precision!r})"

    @overload
    def score(self, rows: Row) -> float: ...
    @overload
    def score(self, rows: Rows) -> NDArray[np.float32]: ...
    def score(self, rows: Rows) -> float | NDArray[np.float32]:
        """Click probabilities, float32 [B]; of one dict, a float. For a regression model, the predicted numbers.

        Args:
            rows: An Arrow table or record batch, a pandas or polars data frame, a list of dicts, or one dict, with the
                inputs of the specification by name; others are ignored, missing ones are NULL.

        Raises:
            DataError: A column that its feature cannot use; names the feature.
        """
        return self._answer(rows, _SCORE)

    @overload
    def logit(self, rows: Row) -> float: ...
    @overload
    def logit(self, rows: Rows) -> NDArray[np.float32]: ...
    def logit(self, rows: Rows) -> float | NDArray[np.float32]:
        """The same as `score` before the sigmoid."""
        return self._answer(rows, _LOGIT)

    def explain(self, row: Row) -> Explanation:
        """What each feature of one event adds to its logit; see `streamfm.explanation` for the method.

        Raises:
            DataError: A value that its feature cannot use; names the feature.
        """
        return self.explain_columns(*self.columns([row]))[0]

    def embedding(self, feature: str, value: object) -> NDArray[np.float32]:
        """The factors of a feature's value, float32 [K]; of an unseen value, those of unknown; of None, of NULL.

        Raises:
            DataError: No such feature, or a value that it cannot have.
        """
        embedding: NDArray[np.float32] = self._parameters.factors[self.encoder.row_of(feature, value)].copy()
        return embedding

    def columns(self, rows: Rows) -> tuple[Columns, int]:
        """The rows as the encoder reads them, SQL features derived, and B."""
        columns, count = to_columns(rows, self.spec)
        return self._deriver.derive(columns, count), count

    def score_columns(self, columns: Columns, rows: int) -> NDArray[np.float32]:
        """Scores, float32 [B], of columns that already include those that SQL derives.

        Raises:
            DataError: As `score`.
        """
        return self._run(columns, rows, _SCORE)

    def logit_columns(self, columns: Columns, rows: int) -> NDArray[np.float32]:
        """The same as `score_columns` before the sigmoid."""
        return self._run(columns, rows, _LOGIT)

    def explain_columns(self, columns: Columns, rows: int) -> list[Explanation]:
        """An explanation for each row of columns that already include those that SQL derives."""
        encoded = self.encoder.encode(columns, rows)
        return [
            explain(encoded.row(index), self.encoder.layout, self._parameters, self._run_logits)
            for index in range(rows)
        ]

    def _answer(self, rows: Rows, output: list[str]) -> float | NDArray[np.float32]:
        columns, count = self.columns(rows)
        answers = self._run(columns, count, output)
        return float(answers[0]) if isinstance(rows, Mapping) else answers

    def _run(self, columns: Columns, rows: int, output: list[str]) -> NDArray[np.float32]:
        if rows <= CHUNK_ROWS:
            return self._run_encoded(self.encoder.encode(columns, rows), output)
        answers = np.empty(rows, np.float32)
        for start in range(0, rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, rows - start)
            part = {name: column.slice(start, count) for name, column in columns.items()}
            answers[start : start + count] = self._run_encoded(self.encoder.encode(part, count), output)
        return answers

    def _run_encoded(self, encoded: Encoded, output: list[str]) -> NDArray[np.float32]:
        feed: dict[str, NDArray[np.int32] | NDArray[np.float32]] = {"ids": encoded.ids}
        if encoded.weights is not None:
            feed["weights"] = encoded.weights
        answers: NDArray[np.float32] = self._session.run(output, feed)[0]
        return answers

    def _run_logits(self, encoded: Encoded) -> NDArray[np.float32]:
        return self._run_encoded(encoded, _LOGIT)

    @cached_property
    def _parameters(self) -> Parameters:
        return Parameters.load(self.bundle.path)

    def _warm_up(self) -> None:
        """Answer for empty events: it compiles the kernels, and shows that the network gives numbers."""
        place = f"{self.bundle.path}: {MODEL_FILES[self.precision]}"
        for rows in (1, 2):
            nothing: Columns = {item.name: pa.nulls(rows) for item in self.spec.inputs}
            columns = self._deriver.derive(nothing, rows)
            try:
                answers = self.score_columns(columns, rows)
            # onnxruntime's exceptions have no base in common.
            except Exception as error:
                raise BundleError(f"{place}: does not run: {error}") from error
            if answers.shape != (rows,) or not np.isfinite(answers).all():
                raise BundleError(f"{place}: answers {answers!r} for {rows} empty events")


def load(reference: str | Path, *, precision: Precision = "fp32", threads: int = 1) -> Scorer:
    """A Scorer of the model that a reference names; while it lives, its version is not pruned.

    Args:
        reference: ``models/ctr@champion`` (an alias), ``models/ctr/3`` (a version), or a bundle's folder.
        precision: ``fp32``, or ``int8`` for the quantised network.
        threads: Of one call of the network.

    Raises:
        RegistryError: No such name, version or alias.
        BundleError: The bundle was refused; names the file.
    """
    held = hold(reference)
    return Scorer(open_bundle(held.resolved.path), precision=precision, threads=threads, held=held)


def _open_session(bundle: Bundle, file: str, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from DuckDB's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if file not in bundle.manifest.files:
        have = [precision for precision, name in MODEL_FILES.items() if name in bundle.manifest.files]
        raise BundleError(f"{bundle.path}: {file}: the bundle has no such network", hint=f"it has {', '.join(have)}")
    model = bundle.read(file)
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions have no base in common.
    except Exception as error:
        raise BundleError(f"{bundle.path}: {file}: onnxruntime refuses it: {error}") from error
