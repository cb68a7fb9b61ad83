"""Encoder: Arrow columns to what the model reads, ids and weights of slots.

Training, SQL, streams and Python all encode here; nothing else turns a value into an id.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import types

from streamfm.encoder.columns import Categorical, Column, Ids, Multivalued, Number, Quantile, Table, Weights
from streamfm.encoder.kernels import FIRST_VALUE_ROW, NULL_ROW, UNKNOWN_ROW
from streamfm.encoder.values import to_array
from streamfm.encoder.vocabulary import NumericStatistics, Vocabularies, Vocabulary
from streamfm.errors import DataError
from streamfm.features import Feature, FeatureSpec
from streamfm.features.inputs import Input

__all__ = ["Encoded", "Encoder", "Field", "Ids", "Layout", "Weights"]

_NO_WEIGHTS = np.empty((0, 0), np.float32)
_CAST_FAMILIES = ("real", "boolean", "date", "timestamp", "timestamptz")


class Encoded(NamedTuple):
    """Rows as the model reads them (B rows, S slots).

    Attributes:
        ids: int32 [B, S], rows of the fused table.
        weights: float32 [B, S], or None when every slot always has weight 1.
    """

    ids: Ids
    weights: Weights | None

    def part(self, start: int, count: int) -> Encoded:
        """Up to `count` rows of them from `start` on."""
        rows = slice(start, start + count)
        return Encoded(self.ids[rows], None if self.weights is None else self.weights[rows])


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """The slots of one feature: `length` of them from `start` on."""

    name: str
    start: int
    length: int


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Layout:
    """How a row is laid out (F fields, S slots).

    Attributes:
        fields: One for each feature, in the order of their slots.
        slots: S.
        rows: Rows of the fused table.
        weighted: Whether any slot's weight can differ from 1.
        null_rows: int32 [F], each field's row for NULL.
        unknown_rows: int32 [F], each field's row for a value that training did not see.
    """

    fields: tuple[Field, ...]
    slots: int
    rows: int
    weighted: bool
    null_rows: NDArray[np.int32]
    unknown_rows: NDArray[np.int32]

    def count_unknown(self, ids: Ids) -> NDArray[np.int64]:
        """How many rows of ids int32 [B, S] have a value that training did not see, int64 [F]."""
        if self.slots == len(self.fields):
            is_unknown = ids == self.unknown_rows
        else:
            is_slot = ids == np.repeat(self.unknown_rows, [field.length for field in self.fields])
            is_unknown = np.logical_or.reduceat(is_slot, [field.start for field in self.fields], axis=1)
        counts: NDArray[np.int64] = np.count_nonzero(is_unknown, axis=0)
        return counts


class Encoder:
    """Encodes columns by a specification and what training saw. Immutable; safe to share between threads."""

    def __init__(self, spec: FeatureSpec, vocabularies: Vocabularies) -> None:
        """Lay the fields out.

        Raises:
            DataError: The vocabularies lack a table or statistics that the specification needs, or have others.
        """
        self.spec = spec
        self.vocabularies = vocabularies
        bases, rows = _first_rows(vocabularies)
        starts = [0, *accumulate(feature.slots for feature in spec.features)]
        self._columns = [
            _column(spec, feature, start, vocabularies, bases)
            for feature, start in zip(spec.features, starts, strict=False)
        ]
        null_rows = np.array([bases[feature.table] + NULL_ROW for feature in spec.features], np.int32)
        self.layout = Layout(
            fields=tuple(
                Field(name=feature.name, start=start, length=feature.slots)
                for feature, start in zip(spec.features, starts, strict=False)
            ),
            slots=starts[-1],
            rows=rows,
            weighted=any(f.is_numeric_slot or f.kind == "multivalued" for f in spec.features),
            null_rows=null_rows,
            unknown_rows=null_rows + np.int32(UNKNOWN_ROW - NULL_ROW),
        )

    def encode(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> Encoded:
        """The rows' ids and weights.

        Args:
            columns: By input name, or feature name for one that SQL derives; an absent one is all NULL.
            rows: B, the length of every column.

        Raises:
            DataError: A column of another length, or of a type that its feature cannot use; names the feature.
        """
        ids = np.empty((rows, self.layout.slots), np.int32)
        weights = np.ones((rows, self.layout.slots), np.float32) if self.layout.weighted else _NO_WEIGHTS
        for column in self._columns:
            _write(column, columns.get(column.source), rows, ids, weights)
        return Encoded(ids, weights if self.layout.weighted else None)

    def unknown_values(
        self, columns: Mapping[str, pa.Array | pa.ChunkedArray], encoded: Encoded
    ) -> Iterator[tuple[str, pa.Array]]:
        """The values that training did not see, feature by feature: its table, and their canonical texts.

        Args:
            columns: As `encode` had them.
            encoded: What it made of them.

        Yields:
            A text as often as it is there; features without an unknown value are left out.
        """
        counts = self.layout.count_unknown(encoded.ids)
        for column, feature, count in zip(self._columns, self.spec.features, counts, strict=True):
            array = columns.get(column.source)
            if count and array is not None:
                texts = column.unknown_values(_one_array(array), encoded.ids)
                if texts is not None:
                    yield feature.table, texts

    def row_of(self, feature: str, value: object) -> int:
        """The row of the fused table that one value of a feature has; of a numeric feature, its slot's.

        Args:
            feature: Its name.
            value: As a dict would bring it; of a multivalued feature, one of its values. None has the NULL row.

        Raises:
            DataError: No such feature, or a value it cannot have.
        """
        for column, field, known in zip(self._columns, self.layout.fields, self.spec.features, strict=True):
            if column.name == feature:
                item = self.spec.input(known.input) if known.input else Input(name=feature, type="VARCHAR")
                single = Input(name=item.name, type=item.type.removesuffix("[]"), json=item.json)
                array = to_array([value], single)
                if known.kind == "multivalued":
                    array = pa.ListArray.from_arrays(pa.array([0, 1], pa.int32()), array)
                ids = np.empty((1, self.layout.slots), np.int32)
                _write(column, array, 1, ids, np.ones(ids.shape, np.float32))
                return int(ids[0, field.start])
        raise DataError(f"no feature {feature!r}", hint=f"features: {', '.join(f.name for f in self.spec.features)}")


def _write(column: Column, array: pa.Array | pa.ChunkedArray | None, rows: int, ids: Ids, weights: Weights) -> None:
    try:
        array = _one_array(array)
        if array is not None and len(array) != rows:
            raise DataError(f"its column has {len(array)} rows, expected {rows}")
        if array is None or types.is_null(array.type):
            column.write_missing(ids, weights)
        else:
            column.write(array, ids, weights)
    except (DataError, pa.ArrowException) as error:
        hint = error.hint if isinstance(error, DataError) else None
        raise DataError(f"feature {column.name!r}: {error.args[0]}", hint=hint) from error


def _one_array(array: pa.Array | pa.ChunkedArray | None) -> pa.Array | None:
    if isinstance(array, pa.ChunkedArray):
        return array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    return array


def _column(
    spec: FeatureSpec, feature: Feature, start: int, vocabularies: Vocabularies, bases: Mapping[str, int]
) -> Column:
    try:
        vocabulary = vocabularies.tables[feature.table]
        statistics = vocabularies.numerics[feature.name] if feature.kind == "numeric" else NumericStatistics()
    except KeyError as error:
        raise DataError(f"feature {feature.name!r}: the vocabularies lack {error}", hint=_FIT_AGAIN) from error
    _check_fit(feature, vocabulary, statistics)
    if feature.kind == "numeric":
        kind = Number if feature.is_numeric_slot else Quantile
        return kind(feature, start, bases[feature.table], statistics)
    declared = ""
    if feature.input and spec.input(feature.input).family in _CAST_FAMILIES:
        declared = spec.input(feature.input).type.removesuffix("[]")
    table = Table(vocabulary, bases[feature.table])
    return (Multivalued if feature.kind == "multivalued" else Categorical)(feature, start, table, declared)


_FIT_AGAIN = "they were made for another specification: fit them again"


def _check_fit(feature: Feature, vocabulary: Vocabulary, statistics: NumericStatistics) -> None:
    """Whether every row that the feature can write is one of the vocabulary's."""
    if feature.kind == "numeric":
        kind = "number" if feature.is_numeric_slot else "quantile"
        fits = vocabulary.rows > FIRST_VALUE_ROW + len(statistics.boundaries)
    else:
        kind = "hashed" if feature.hash_buckets else "values"
        fits = vocabulary.hash_buckets == feature.hash_buckets
    if vocabulary.kind != kind or not fits:
        got = f"{vocabulary.kind} with {vocabulary.rows} rows"
        raise DataError(f"feature {feature.name!r}: its table {vocabulary.name!r} holds {got}", hint=_FIT_AGAIN)


def _first_rows(vocabularies: Vocabularies) -> tuple[dict[str, int], int]:
    """Each table's first row in the fused table, and how many rows there are."""
    bases, rows = {}, 0
    for name, vocabulary in vocabularies.tables.items():
        bases[name] = rows
        rows += vocabulary.rows
    if rows > np.iinfo(np.int32).max:
        hint = "raise min_count, or hash the largest features"
        raise DataError(f"the tables have {rows:,} rows together, more than int32 can number", hint=hint)
    return bases, rows
