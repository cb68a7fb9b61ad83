"""Scorer: a bundle that answers. Every route, SQL, streams, Python, asks this one.

It reads NumPy, Arrow, compiled kernels and onnxruntime; never torch or onnx.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import Literal, NamedTuple, overload

import numpy as np
import onnxruntime
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.bundle import Bundle, open_bundle
from streamfm.bundle.session import open_session
from streamfm.encoder import Encoded, Encoder
from streamfm.errors import BundleError, DataError, SpecError
from streamfm.explanation import Explanation, Parameters, explain
from streamfm.expressions import Deriver
from streamfm.registry import Hold, hold
from streamfm.rows import Columns, Row, Rows, to_columns

Precision = Literal["fp32", "int8"]
MODEL_FILES: Mapping[Precision, str] = {"fp32": "model.onnx", "int8": "model.int8.onnx"}

CHUNK_ROWS = 2048
"""Rows encoded together: as many as DuckDB hands over."""

NETWORK_ROWS = 256
"""Rows of one call of the network: two layers of 400 float32 units then stay in a core's second-level cache."""

_LOGIT, _SCORE, _BOTH = ["logit"], ["score"], ["logit", "score"]

# Two kinds of columns that between them call every kernel.
_EMPTY_COLUMNS: tuple[Mapping[str, pa.DataType], ...] = (
    {"categorical": pa.string(), "multivalued": pa.list_(pa.string()), "numeric": pa.float64()},
    {"categorical": pa.int64(), "multivalued": pa.list_(pa.int64()), "numeric": pa.float64()},
)


class Scored(NamedTuple):
    """What a model says of B events (F features).

    Attributes:
        scores: float32 [B].
        logits: float32 [B], or None where they were not asked for.
        unknown: int64 [F], in how many events each feature, in the order of the specification, has a value that
            training did not see; always 0 of hashed and numeric ones.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32] | None
    unknown: NDArray[np.int64]


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
            DataError: No such precision, or less than one thread.
        """
        if precision not in MODEL_FILES:
            raise DataError(f"precision is {precision!r}, expected {' or '.join(map(repr, MODEL_FILES))}")
        if threads < 1:
            raise DataError(f"threads is {threads}, expected 1 or more")
        self.bundle = bundle
        self._held = held
        self.spec = bundle.spec
        self.name, self.version = bundle.manifest.name, bundle.manifest.version
        self.precision = precision
        self.encoder = Encoder(bundle.spec, bundle.vocabularies)
        self._deriver = _deriver(bundle)
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
            MissingColumnsError: None of the inputs is there.
        """
        return self._answer(rows, _SCORE)

    @overload
    def logit(self, rows: Row) -> float: ...
    @overload
    def logit(self, rows: Rows) -> NDArray[np.float32]: ...
    def logit(self, rows: Rows) -> float | NDArray[np.float32]:
        """The same as `score` before the sigmoid."""
        return self._answer(rows, _LOGIT)

    @overload
    def explain(self, rows: Row) -> Explanation: ...
    @overload
    def explain(self, rows: Rows) -> list[Explanation]: ...
    def explain(self, rows: Rows) -> Explanation | list[Explanation]:
        """What each feature of each event adds to its logit; of one dict, a single explanation.

        See `streamfm.explanation` for the method.

        Raises:
            DataError: As `score`.
        """
        explanations = self.explain_columns(*self.columns(rows))
        return explanations[0] if isinstance(rows, Mapping) else explanations

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
            DataError: As `score`, or a column that has not as many rows.
        """
        return self._ask(columns, rows, _SCORE)

    def logit_columns(self, columns: Columns, rows: int) -> NDArray[np.float32]:
        """The same as `score_columns` before the sigmoid."""
        return self._ask(columns, rows, _LOGIT)

    def answer_columns(self, columns: Columns, rows: int, *, with_logit: bool = False) -> Scored:
        """Scores and what is told beside them, encoded once; the columns are the inputs', SQL features derived here.

        Raises:
            DataError: As `score_columns`, or an SQL feature fails.
        """
        output = _BOTH if with_logit else _SCORE
        asked, unknown = [], np.zeros(len(self.spec.features), np.int64)
        for encoded in self._chunks(self._deriver.derive(columns, rows), rows):
            asked.append(self._run(encoded, output))
            unknown += self.encoder.layout.count_unknown(encoded.ids)
        answers = [_joined(parts) for parts in zip(*asked, strict=True)]
        return Scored(answers[-1], answers[0] if with_logit else None, unknown)

    def explain_columns(self, columns: Columns, rows: int) -> list[Explanation]:
        """An explanation for each row of columns that already include those that SQL derives."""
        return [
            explanation
            for encoded in self._chunks(columns, rows)
            for explanation in explain(encoded, self.encoder.layout, self._parameters, self._logits)
        ]

    def _answer(self, rows: Rows, output: list[str]) -> float | NDArray[np.float32]:
        columns, count = self.columns(rows)
        answers = self._ask(columns, count, output)
        return float(answers[0]) if isinstance(rows, Mapping) else answers

    def _ask(self, columns: Columns, rows: int, output: list[str]) -> NDArray[np.float32]:
        return _joined([self._run(encoded, output)[0] for encoded in self._chunks(columns, rows)])

    def _chunks(self, columns: Columns, rows: int) -> Iterator[Encoded]:
        """The rows encoded, `CHUNK_ROWS` at a time; at least one chunk, so that columns are checked in any case."""
        if rows <= CHUNK_ROWS:
            yield self.encoder.encode(columns, rows)
            return
        for name, column in columns.items():
            if len(column) != rows:
                raise DataError(f"column {name!r} has {len(column)} rows, expected {rows}")
        for start in range(0, rows, CHUNK_ROWS):
            count = min(CHUNK_ROWS, rows - start)
            yield self.encoder.encode({name: column.slice(start, count) for name, column in columns.items()}, count)

    def _run(self, encoded: Encoded, output: list[str]) -> list[NDArray[np.float32]]:
        """The outputs [B] of the network, asked for `NETWORK_ROWS` at a time."""
        rows = len(encoded.ids)
        if rows <= NETWORK_ROWS:
            return self._call(encoded, output)
        parts = [self._call(encoded.part(start, NETWORK_ROWS), output) for start in range(0, rows, NETWORK_ROWS)]
        return [np.concatenate(answers) for answers in zip(*parts, strict=True)]

    def _call(self, encoded: Encoded, output: list[str]) -> list[NDArray[np.float32]]:
        feed: dict[str, NDArray[np.int32] | NDArray[np.float32]] = {"ids": encoded.ids}
        if encoded.weights is not None:
            feed["weights"] = encoded.weights
        answers: list[NDArray[np.float32]] = self._session.run(output, feed)
        return answers

    def _logits(self, encoded: Encoded) -> NDArray[np.float32]:
        return self._run(encoded, _LOGIT)[0]

    @cached_property
    def _parameters(self) -> Parameters:
        return Parameters.load(self.bundle.path)

    def _warm_up(self) -> None:
        """Answer for empty events: it loads the kernels, and shows that the network gives numbers."""
        place = f"{self.bundle.path}: {MODEL_FILES[self.precision]}"
        for rows, kinds in enumerate(_EMPTY_COLUMNS, start=1):
            encoded = self.encoder.encode(self._empty_columns(rows, kinds), rows)
            try:
                answers = self._run(encoded, _BOTH)
            # onnxruntime's exceptions have no base in common.
            except Exception as error:
                raise BundleError(f"{place}: does not run: {error}") from error
            for answer in answers:
                if answer.shape != (rows,) or answer.dtype != np.float32 or not np.isfinite(answer).all():
                    raise BundleError(f"{place}: answers {answer!r} for {rows} empty events")

    def _empty_columns(self, rows: int, kinds: Mapping[str, pa.DataType]) -> Columns:
        # Of two features with one input, the numeric one decides: categories may be numbers.
        features = sorted(self.spec.features, key=lambda feature: feature.kind == "numeric")
        columns: Columns = {feature.column: pa.nulls(rows, kinds[feature.kind]) for feature in features}
        # An expression may fail for an event without values. That is then the event's error, not the bundle's.
        with suppress(DataError):
            columns |= self._deriver.derive({}, rows)
        return columns


def load(reference: str | os.PathLike[str], *, precision: Precision = "fp32", threads: int = 1) -> Scorer:
    """A Scorer of the model that a reference names; while it lives, its version is not pruned.

    Args:
        reference: ``models/ctr@champion`` (an alias), ``models/ctr/3`` (a version), or a bundle's folder.
        precision: ``fp32``, or ``int8`` for the quantised network.
        threads: Of one call of the network.

    Raises:
        RegistryError: No such name, version or alias.
        BundleError: The bundle was refused; names the file.
        DataError: No such precision, or less than one thread.
    """
    held = hold(reference)
    try:
        bundle = open_bundle(held.resolved.path)
        found, expected = bundle.manifest, held.resolved
        if (found.name, found.version) != (expected.name, expected.version):
            raise BundleError(
                f"{bundle.path}: manifest.json: the bundle is {found.name}/{found.version}, "
                f"expected {expected.name}/{expected.version}",
                hint="a version was copied or renamed by hand; publish it instead",
            )
        return Scorer(bundle, precision=precision, threads=threads, held=held)
    except BaseException:
        held.release()
        raise


def _joined(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _deriver(bundle: Bundle) -> Deriver:
    try:
        return Deriver(bundle.spec)
    except SpecError as error:
        raise BundleError(f"{bundle.path}: features.toml: {error.message}", hint=error.hint) from error


def _open_session(bundle: Bundle, file: str, threads: int) -> onnxruntime.InferenceSession:
    if file not in bundle.manifest.files:
        have = [precision for precision, name in MODEL_FILES.items() if name in bundle.manifest.files]
        raise BundleError(f"{bundle.path}: {file}: the bundle has no such network", hint=f"it has {', '.join(have)}")
    return open_session(bundle.read(file), name=f"{bundle.path}: {file}", threads=threads)
