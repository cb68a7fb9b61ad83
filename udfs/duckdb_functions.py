"""The Python functions that DuckDB calls: columns of at most 2,048 rows in, one answer a row out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.errors import DataError
from streamfm.explanation import Explanation, Parameters
from streamfm.features import Feature
from streamfm.rows import Columns
from streamfm.scoring import Scorer
from udfs.duckdb_types import Argument, is_row, map_values, read_as, read_back

Column: TypeAlias = "pa.Array | pa.ChunkedArray"

CONTRIBUTION = pa.struct(
    [("feature", pa.string())] + [(name, pa.float64()) for name in ("first_order", "pairs", "deep", "total")]
)
EXPLANATION_SQL = "STRUCT(feature VARCHAR, first_order DOUBLE, pairs DOUBLE, deep DOUBLE, total DOUBLE)[]"
BASE = "(base)"


class Serving:
    """One version of a model behind its functions.

    DuckDB may call a function long after another version took its place (a prepared statement, a half-read result), so
    functions are never removed. What they hold on to can be let go, and is loaded again when a late call comes.
    """

    def __init__(self, scorer: Scorer, reload: Callable[[], Scorer] | None) -> None:
        """Serve `scorer`; `reload` opens the same version again."""
        self._scorer: Scorer | None = scorer
        self._parameters: Parameters | None = None
        self._reload = reload
        self._lock = threading.Lock()
        self.last_used_s = time.monotonic()

    def scorer(self) -> Scorer:
        """The scorer, loaded again when it was let go."""
        self.last_used_s = time.monotonic()
        scorer = self._scorer
        if scorer is None:
            with self._lock:
                if self._scorer is None and self._reload is not None:
                    self._scorer = self._reload()
                scorer = self._scorer
        assert scorer is not None, "only what can be reloaded is let go"
        return scorer

    def parameters(self) -> Parameters:
        """The tables that explanations and embeddings read, loaded when they are first asked for."""
        parameters = self._parameters
        if parameters is None:
            parameters = self._parameters = Parameters.load(self.scorer().bundle.path)
        return parameters

    def let_go(self) -> None:
        """Free the network and the tables, if they can be had again."""
        self._parameters = None
        if self._reload is not None:
            self._scorer = None


class Functions:
    """The functions of one version, as DuckDB calls them: each takes one-chunk Arrow columns and returns an array."""

    def __init__(self, serving: Serving, arguments: Sequence[Argument], derived: Sequence[str]) -> None:
        """Functions that are given what `read_as` says, the inputs, as one struct or one by one, and SQL features."""
        self.serving = serving
        self._arguments = tuple(arguments)
        self._of_row = (*(a.item.name for a in arguments), *derived)
        self._of_values = (*(a.item.name for a in arguments if a.is_encoded), *derived)
        self._spec = serving.scorer().spec

    def score(self, *columns: Column) -> pa.Array:
        """Scores, float32 [B]."""
        return pa.array(self.serving.scorer().score_columns(self._named(columns), len(columns[0])))

    def logit(self, *columns: Column) -> pa.Array:
        """Logits, float32 [B]."""
        return pa.array(self.serving.scorer().logit_columns(self._named(columns), len(columns[0])))

    def explain(self, *columns: Column) -> pa.Array:
        """For each row, a list of what each feature adds to the logit; the first entry is what there is without any."""
        explanations = self.serving.scorer().explain_columns(self._named(columns), len(columns[0]))
        return pa.array([_contributions(e) for e in explanations], pa.list_(CONTRIBUTION))

    def embedding(self, features: Column, values: Column) -> pa.Array:
        """The factors of each value of a feature, a fixed-size list of K; NULL where the feature's name is NULL."""
        names = features.to_pylist()
        factors = self.serving.parameters().factors
        rows = np.zeros(len(names), np.int64)
        for name in set(names) - {None}:
            wanted = np.array([name == other for other in names])
            rows[wanted] = self._rows(self._feature(name), _one_chunk(values).filter(pa.array(wanted)))
        flat = pa.array(np.ascontiguousarray(factors[rows]).reshape(-1))
        mask = pa.array([name is None for name in names])
        return pa.FixedSizeListArray.from_arrays(flat, factors.shape[1], mask=mask)

    def is_row(self, *kinds: Column) -> pa.Array:
        """Whether a call gives a whole row; raises when it gives what the features cannot use."""
        calls = zip(*(column.to_pylist() for column in kinds), strict=True)
        return pa.array([is_row(call, self._spec.inputs, self._arguments) for call in calls], pa.bool_())

    def read_as(self, *kinds: Column) -> pa.Array:
        """What the texts of a call are to be read back as."""
        calls = zip(*(column.to_pylist() for column in kinds), strict=True)
        return pa.array([read_as(call, self._spec.inputs, self._arguments) for call in calls], pa.string())

    def has_feature(self, names: Column) -> pa.Array:
        """True; raises for a name that is no feature's."""
        return pa.array([name is None or bool(self._feature(name)) for name in names.to_pylist()], pa.bool_())

    def _named(self, columns: Sequence[Column]) -> Columns:
        first, *arrays = [_one_chunk(column) for column in columns]
        if pa.types.is_struct(arrays[0].type):
            arrays = [*map(_plain, arrays[0].flatten()), *arrays[1:]]
            named = dict(zip(self._of_row, arrays, strict=True))
        else:
            named = dict(zip(self._of_values, arrays, strict=True))
        names = first[0].as_py() if len(first) else ""
        for argument, name in zip(self._arguments, names.split(",") if names else (), strict=False):
            if name:
                named[argument.item.name] = read_back(named[argument.item.name], name)
        return named

    def _feature(self, name: str) -> Feature:
        for feature in self._spec.features:
            if feature.name == name:
                return feature
        known = ", ".join(feature.name for feature in self._spec.features)
        raise DataError(f"no feature {name!r}", hint=f"features: {known}")

    def _rows(self, feature: Feature, values: pa.Array) -> NDArray[np.int32]:
        """Each value's row of the fused table."""
        encoder = self.serving.scorer().encoder
        if feature.kind == "multivalued":
            values = pa.ListArray.from_arrays(pa.array(np.arange(len(values) + 1, dtype=np.int32)), values)
        start = next(field.start for field in encoder.layout.fields if field.name == feature.name)
        return encoder.encode({feature.column: values}, len(values)).ids[:, start]


def _one_chunk(column: Column) -> pa.Array:
    array = column.chunk(0) if isinstance(column, pa.ChunkedArray) and column.num_chunks == 1 else column
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    return _plain(array)


def _plain(array: pa.Array) -> pa.Array:
    # SET arrow_lossless_conversion dresses types up.
    is_list = pa.types.is_nested(array.type) and not pa.types.is_struct(array.type)
    if (array.type.value_type if is_list else array.type) != _BOOL8:
        return array
    return map_values(array, lambda values: values.storage.cast(pa.bool_()))


_BOOL8 = pa.bool8()


def _contributions(explanation: Explanation) -> list[dict[str, object]]:
    base = {"feature": BASE, "first_order": None, "pairs": None, "deep": None, "total": explanation.base}
    return [
        base,
        *(
            {name: getattr(c, name) for name in ("feature", "first_order", "pairs", "deep", "total")}
            for c in explanation.contributions
        ),
    ]
