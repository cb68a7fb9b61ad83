"""Encoder: Arrow columns to what the model reads, ids and weights of slots.

Training, SQL, streams and Python all encode here; nothing else turns a value into an id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from streamfm import kernels
from streamfm.category import canonical
from streamfm.errors import DataError
from streamfm.features import Feature, FeatureSpec
from streamfm.kernels import FIRST_VALUE_ROW, NULL_ROW, UNKNOWN_ROW
from streamfm.vocabulary import NumericStatistics, Vocabularies, Vocabulary, hash_texts

Ids = NDArray[np.int32]
Weights = NDArray[np.float32]


class Encoded(NamedTuple):
    """Rows as the model reads them (B rows, S slots).

    Attributes:
        ids: int32 [B, S], rows of the fused table.
        weights: float32 [B, S], or None when every slot always has weight 1.
    """

    ids: Ids
    weights: Weights | None

    def row(self, index: int) -> Encoded:
        """One row of it, [1, S]."""
        part = slice(index, index + 1)
        return Encoded(self.ids[part], None if self.weights is None else self.weights[part])


@dataclass(frozen=True, kw_only=True)
class Field:
    """The slots of one feature: `length` of them from `start` on."""

    name: str
    start: int
    length: int


@dataclass(frozen=True, kw_only=True, eq=False)
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


class Encoder:
    """Encodes columns by a specification and what training saw. Immutable; safe to share between threads."""

    def __init__(self, spec: FeatureSpec, vocabularies: Vocabularies) -> None:
        """Lay the fields out.

        Raises:
            DataError: The vocabularies lack a table or statistics that the specification needs.
        """
        self.spec = spec
        self.vocabularies = vocabularies
        try:
            bases = _first_rows(vocabularies)
            tables = [_Table(vocabularies.tables[f.table], bases[f.table]) for f in spec.features]
            statistics = [vocabularies.numerics[f.name] if f.kind == "numeric" else None for f in spec.features]
        except KeyError as error:
            raise DataError(f"the vocabularies do not fit the specification: they lack {error}") from error
        self.layout = _layout(spec, tables, sum(v.rows for v in vocabularies.tables.values()))
        self._columns = [
            _column(spec, *parts) for parts in zip(spec.features, self.layout.fields, tables, statistics, strict=True)
        ]

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
            array = columns.get(column.source)
            try:
                column.write(_plain(array, rows), ids, weights)
            except (DataError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                hint = error.hint if isinstance(error, DataError) else None
                raise DataError(f"feature {column.name!r}: {error.args[0]}", hint=hint) from error
        return Encoded(ids, weights if self.layout.weighted else None)

    def row_of(self, feature: str, value: object) -> int:
        """The row of the fused table that a single value of a feature has (a numeric feature's is the value's slot).

        Raises:
            DataError: No such feature, or a value it cannot have.
        """
        for column in self._columns:
            if column.name == feature:
                return column.row_of(value)
        raise DataError(f"no feature {feature!r}", hint=f"features: {', '.join(f.name for f in self.spec.features)}")


_NO_WEIGHTS = np.empty((0, 0), np.float32)


class _Table:
    """A vocabulary at its place in the fused table."""

    __slots__ = ("base", "hash_buckets", "seed", "slots")

    def __init__(self, vocabulary: Vocabulary, base: int) -> None:
        self.base = base
        self.seed = vocabulary.seed
        self.slots = vocabulary.slots
        self.hash_buckets = vocabulary.hash_buckets

    def write_rows(self, array: pa.Array, ids: Ids, column: int) -> None:
        """Each value's row into a column of ids."""
        if types.is_dictionary(array.type) and len(array.dictionary) <= 4 * len(array):
            self._write_indices(array, ids, column)
            return
        texts = canonical(array)
        hashes = hash_texts(texts, self.seed)
        validity = texts.buffers()[0]
        kernels.look_up(
            hashes,
            self.slots,
            self.hash_buckets,
            validity.address if validity is not None else 0,
            texts.offset,
            self.base,
            ids,
            column,
        )

    def _write_indices(self, array: pa.DictionaryArray, ids: Ids, column: int) -> None:
        # The last row stands for NULL indices.
        entries = np.empty((len(array.dictionary) + 1, 1), np.int32)
        self.write_rows(array.dictionary, entries[:-1], 0)
        entries[-1] = self.base + NULL_ROW
        indices = pc.fill_null(pc.cast(array.indices, pa.int64()), len(array.dictionary))
        ids[:, column] = entries[indices.to_numpy(), 0]


class _Categorical:
    def __init__(self, feature: Feature, field: Field, table: _Table, real: pa.DataType | None) -> None:
        self.name, self.source = feature.name, feature.column
        self._slot, self._table, self._real = field.start, table, real

    def write(self, array: pa.Array | None, ids: Ids, weights: Weights) -> None:
        if array is None or types.is_null(array.type):
            ids[:, self._slot] = self._table.base + NULL_ROW
            return
        if self._real is not None and _is_number(array.type):
            array = pc.cast(array, self._real, safe=False)
        self._table.write_rows(array, ids, self._slot)

    def row_of(self, value: object) -> int:
        ids = np.empty((1, self._slot + 1), np.int32)
        self.write(pa.array([value]), ids, _NO_WEIGHTS)
        return int(ids[0, self._slot])


class _Multivalued:
    def __init__(self, feature: Feature, field: Field, table: _Table) -> None:
        self.name, self.source = feature.name, feature.column
        self._field, self._table, self._mean = field, table, feature.pooling == "mean"

    def write(self, array: pa.Array | None, ids: Ids, weights: Weights) -> None:
        start, length, base = self._field.start, self._field.length, self._table.base
        if array is None or types.is_null(array.type):
            ids[:, start : start + length] = base + NULL_ROW
            weights[:, start] = 1.0
            weights[:, start + 1 : start + length] = 0.0
            return
        if not (types.is_list(array.type) or types.is_large_list(array.type)):
            array = _as_list(array)
        validity, offsets = array.buffers()[:2]
        width = 4 if types.is_list(array.type) else 8
        rows = self._rows(_values_of(array))
        if len(array):
            kernels.spread_lists(
                offsets.address,
                width,
                validity.address if validity is not None else 0,
                array.offset,
                rows,
                self._mean,
                base,
                ids,
                weights,
                start,
                length,
            )

    def _rows(self, values: pa.Array) -> Ids:
        rows = np.full((len(values), 1), self._table.base + NULL_ROW, np.int32)
        if not types.is_null(values.type):
            self._table.write_rows(values, rows, 0)
        return rows.reshape(-1)

    def row_of(self, value: object) -> int:
        return int(self._rows(pa.array([value]))[0])


class _Number:
    def __init__(self, feature: Feature, field: Field, base: int, statistics: NumericStatistics) -> None:
        self.name, self.source = feature.name, feature.column
        self._slot, self._base, self._logarithm = field.start, base, feature.transform == "log1p"
        self._mean, self._deviation = statistics.mean, statistics.deviation

    def write(self, array: pa.Array | None, ids: Ids, weights: Weights) -> None:
        if array is None or types.is_null(array.type):
            ids[:, self._slot] = self._base + NULL_ROW
            return
        numbers = _numbers(array)
        validity, values = numbers.buffers()
        kernels.scale_numbers(
            values.address if values is not None else 0,
            validity.address if validity is not None else 0,
            numbers.offset,
            self._logarithm,
            self._mean,
            self._deviation,
            self._base,
            ids,
            weights,
            self._slot,
        )

    def row_of(self, value: object) -> int:
        return self._base + (NULL_ROW if value is None else FIRST_VALUE_ROW)


class _Quantile:
    def __init__(self, feature: Feature, field: Field, base: int, statistics: NumericStatistics) -> None:
        self.name, self.source = feature.name, feature.column
        self._slot, self._base, self._boundaries = field.start, base, np.array(statistics.boundaries)

    def write(self, array: pa.Array | None, ids: Ids, weights: Weights) -> None:
        if array is None or types.is_null(array.type):
            ids[:, self._slot] = self._base + NULL_ROW
            return
        numbers = _numbers(array).to_numpy(zero_copy_only=False)
        rows = np.searchsorted(self._boundaries, numbers, side="right") + FIRST_VALUE_ROW
        ids[:, self._slot] = self._base + np.where(np.isfinite(numbers), rows, NULL_ROW)

    def row_of(self, value: object) -> int:
        ids = np.empty((1, self._slot + 1), np.int32)
        self.write(pa.array([value]), ids, _NO_WEIGHTS)
        return int(ids[0, self._slot])


_Column = _Categorical | _Multivalued | _Number | _Quantile


def _column(
    spec: FeatureSpec, feature: Feature, field: Field, table: _Table, statistics: NumericStatistics | None
) -> _Column:
    if statistics is not None and feature.transform == "quantile":
        return _Quantile(feature, field, table.base, statistics)
    if statistics is not None:
        return _Number(feature, field, table.base, statistics)
    if feature.kind == "multivalued":
        return _Multivalued(feature, field, table)
    real = None
    if feature.input and spec.input(feature.input).family == "real":
        real = pa.float32() if spec.input(feature.input).type == "FLOAT" else pa.float64()
    return _Categorical(feature, field, table, real)


def _first_rows(vocabularies: Vocabularies) -> dict[str, int]:
    bases, rows = {}, 0
    for name, vocabulary in vocabularies.tables.items():
        bases[name] = rows
        rows += vocabulary.rows
    if rows > np.iinfo(np.int32).max:
        raise DataError(f"the tables have {rows} rows together, more than int32 can number", hint="raise min_count")
    return bases


def _layout(spec: FeatureSpec, tables: list[_Table], rows: int) -> Layout:
    fields, start = [], 0
    for feature in spec.features:
        fields.append(Field(name=feature.name, start=start, length=feature.slots))
        start += feature.slots
    bases = np.array([table.base for table in tables], np.int32)
    return Layout(
        fields=tuple(fields),
        slots=start,
        rows=rows,
        weighted=any(f.is_numeric_slot or f.kind == "multivalued" for f in spec.features),
        null_rows=bases + np.int32(NULL_ROW),
        unknown_rows=bases + np.int32(UNKNOWN_ROW),
    )


def _plain(array: pa.Array | pa.ChunkedArray | None, rows: int) -> pa.Array | None:
    if array is None:
        return None
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks == 1 else array.combine_chunks()
    if len(array) != rows:
        raise DataError(f"its column has {len(array)} rows, expected {rows}")
    return array


def _is_number(kind: pa.DataType) -> bool:
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)  # type: ignore[no-any-return]


def _numbers(array: pa.Array) -> pa.Array:
    """As float64.

    Raises:
        DataError: Not numbers.
    """
    if types.is_boolean(array.type):
        array = pc.cast(array, pa.uint8())
    if not _is_number(array.type):
        raise DataError(f"it is numeric, but its column holds {array.type}", hint="cast the column to a number")
    return pc.cast(array, pa.float64(), safe=False)


def _as_list(array: pa.Array) -> pa.Array:
    kind = array.type
    if types.is_fixed_size_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind):
        return pc.cast(array, pa.list_(kind.value_type))
    raise DataError(f"it is multivalued, but its column holds {kind}", hint="wrap single values in a list: [value]")


def _values_of(array: pa.Array) -> pa.Array:
    """The values between the first and the last offset (those under NULL lists included)."""
    first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    return array.values.slice(first, last - first)
