"""The encoder's columns: each writes the slots of one feature, from any Arrow type that can hold its values."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from streamfm.encoder import kernels
from streamfm.encoder.category import as_declared, as_double, canonical, category_texts, decoded, is_number
from streamfm.encoder.kernels import FIRST_VALUE_ROW, NULL_ROW, UNKNOWN_ROW
from streamfm.encoder.vocabulary import NumericStatistics, Vocabulary, offset_width
from streamfm.errors import DataError
from streamfm.features import Feature

Ids = NDArray[np.int32]
Weights = NDArray[np.float32]

# Of a buffer: pa.scalar() imports pandas wherever it is installed, as to_numpy() does.
_NAN = pa.Array.from_buffers(pa.float64(), 1, [None, pa.py_buffer(np.array([np.nan]))])[0]

_ROWS_PER_ENTRY = 2
"""With fewer rows than that for each entry of a dictionary, decoding it costs less than looking up its entries."""


class Column(Protocol):
    """Writes the slots of one feature into ids and weights; weights are 1 before.

    Attributes:
        name: The feature's.
        source: Under which name its values come.
    """

    name: str
    source: str

    def write(self, array: pa.Array, ids: Ids, weights: Weights) -> None:
        """The slots of every row.

        Args:
            array: B values.
            ids: int32 [B, S].
            weights: float32 [B, S], or [0, 0] when no feature has weights.

        Raises:
            DataError: The array's type cannot hold the feature's values.
        """

    def write_missing(self, ids: Ids, weights: Weights) -> None:
        """The slots of rows that all lack a value."""

    def unknown_values(self, array: pa.Array, ids: Ids) -> pa.Array | None:
        """The values that have the row of unknown in the slots that `write` wrote, as often as they do.

        Returns:
            Canonical texts; None of a feature that knows every value.
        """


class Table:
    """A vocabulary at its place in the fused table."""

    __slots__ = ("_buckets", "_seed", "_slots", "base")

    def __init__(self, vocabulary: Vocabulary, base: int) -> None:
        """Put its first row at row `base` of the fused table."""
        self.base = base
        self._seed = vocabulary.seed
        self._slots = vocabulary.slots
        self._buckets = vocabulary.hash_buckets

    def write_rows(self, array: pa.Array, declared: str, ids: Ids, column: int) -> None:
        """Each value's row into a column of ids; values are first as their `declared` SQL type has them."""
        if types.is_dictionary(array.type):
            if _ROWS_PER_ENTRY * len(array.dictionary) <= len(array):
                self._write_entries(array, declared, ids, column)
                return
            array = decoded(array)
        texts = canonical(as_declared(array, declared) if declared else array)
        if not len(texts):
            return
        buffers = texts.buffers()
        validity = buffers[0].address if buffers[0] is not None else 0
        place = (self._seed, self._slots, self._buckets, self.base, ids, column)
        if len(buffers) == 2:
            kernels.find_integers(buffers[1].address, validity, texts.offset, *place)
        else:
            data = buffers[2].address if buffers[2] is not None else 0
            kernels.find_strings(buffers[1].address, offset_width(texts), data, validity, texts.offset, *place)

    def texts(self, array: pa.Array, declared: str, is_wanted: NDArray[np.bool_]) -> pa.Array:
        """The canonical texts of those values that are wanted; values are as in `write_rows`."""
        texts = canonical(as_declared(array, declared) if declared else array)
        return category_texts(texts.filter(pa.array(is_wanted)))

    def _write_entries(self, array: pa.DictionaryArray, declared: str, ids: Ids, column: int) -> None:
        # The last row stands for NULL indices.
        entries = np.empty((len(array.dictionary) + 1, 1), np.int32)
        self.write_rows(array.dictionary, declared, entries[:-1], 0)
        entries[-1] = self.base + NULL_ROW
        indices = pc.fill_null(pc.cast(array.indices, pa.int64()), len(array.dictionary))
        ids[:, column] = entries[indices.to_numpy(), 0]


class Categorical:
    """One slot: the value's row."""

    def __init__(self, feature: Feature, start: int, table: Table, declared: str) -> None:
        """Write column `start`; values are of the `declared` SQL type, empty where that changes nothing."""
        self.name, self.source = feature.name, feature.column
        self._slot, self._table, self._declared = start, table, declared

    def write(self, array: pa.Array, ids: Ids, weights: Weights) -> None:
        """As `Column`."""
        self._table.write_rows(array, self._declared, ids, self._slot)

    def write_missing(self, ids: Ids, weights: Weights) -> None:
        """The NULL row."""
        ids[:, self._slot] = self._table.base + NULL_ROW

    def unknown_values(self, array: pa.Array, ids: Ids) -> pa.Array:
        """As `Column`."""
        return self._table.texts(array, self._declared, ids[:, self._slot] == self._table.base + UNKNOWN_ROW)


class Multivalued:
    """A slot for each of the first values of a list, padded with weight 0; a NULL list is one NULL value."""

    def __init__(self, feature: Feature, start: int, table: Table, declared: str) -> None:
        """Write the columns from `start` on; elements are of the `declared` SQL type."""
        self.name, self.source = feature.name, feature.column
        self._start, self._length, self._mean = start, feature.max_length, feature.pooling == "mean"
        self._table, self._declared = table, declared

    def write(self, array: pa.Array, ids: Ids, weights: Weights) -> None:
        """As `Column`."""
        array = _as_list(array)
        if not len(array):
            return
        validity, offsets = array.buffers()[:2]
        kernels.spread_lists(
            offsets.address,
            offset_width(array),
            validity.address if validity is not None else 0,
            array.offset,
            self._rows(_values_of(array)),
            self._mean,
            self._table.base + NULL_ROW,
            ids,
            weights,
            self._start,
            self._length,
        )

    def write_missing(self, ids: Ids, weights: Weights) -> None:
        """The NULL row with weight 1, then padding."""
        ids[:, self._start : self._start + self._length] = self._table.base + NULL_ROW
        weights[:, self._start + 1 : self._start + self._length] = 0.0

    def unknown_values(self, array: pa.Array, ids: Ids) -> pa.Array:
        """As `Column`; the values past the first ones, which have no slot, do not count."""
        array = _as_list(array)
        offsets = array.offsets.to_numpy()
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), np.diff(offsets), 0)
        are_unknown = ids[:, self._start : self._start + self._length] == self._table.base + UNKNOWN_ROW
        are_unknown &= np.arange(self._length) < lengths[:, np.newaxis]
        rows, places = np.nonzero(are_unknown)
        values = _values_of(array)
        is_wanted = np.zeros(len(values), np.bool_)
        is_wanted[offsets[rows] - offsets[0] + places] = True
        return self._table.texts(values, self._declared, is_wanted)

    def _rows(self, values: pa.Array) -> Ids:
        rows = np.empty((len(values), 1), np.int32)
        if types.is_null(values.type):
            rows[:] = self._table.base + NULL_ROW
        else:
            self._table.write_rows(values, self._declared, rows, 0)
        return rows.reshape(-1)


class Number:
    """One slot of the same row, whose weight is the scaled number; the NULL row when there is none."""

    def __init__(self, feature: Feature, start: int, base: int, statistics: NumericStatistics) -> None:
        """Write column `start`; the table's first row is `base`."""
        self.name, self.source = feature.name, feature.column
        self._slot, self._base, self._logarithm = start, base, feature.transform == "log1p"
        self._mean, self._deviation = float(statistics.mean), float(statistics.deviation)

    def write(self, array: pa.Array, ids: Ids, weights: Weights) -> None:
        """As `Column`."""
        are_integers = array.type == pa.int64()
        numbers = array if are_integers else _numbers(array)
        if not len(numbers):
            return
        validity, values = numbers.buffers()
        kernels.scale_numbers(
            values.address,
            are_integers,
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

    def write_missing(self, ids: Ids, weights: Weights) -> None:
        """The NULL row."""
        ids[:, self._slot] = self._base + NULL_ROW

    def unknown_values(self, array: pa.Array, ids: Ids) -> None:
        """As `Column`."""


class Quantile:
    """One slot: the row of the bucket that a number falls into, the NULL row when there is none."""

    def __init__(self, feature: Feature, start: int, base: int, statistics: NumericStatistics) -> None:
        """Write column `start`; the table's first row is `base`."""
        self.name, self.source = feature.name, feature.column
        self._slot, self._base, self._boundaries = start, base, np.array(statistics.boundaries, np.float64)

    def write(self, array: pa.Array, ids: Ids, weights: Weights) -> None:
        """As `Column`."""
        numbers = np.from_dlpack(pc.fill_null(_numbers(array), _NAN))
        rows = np.searchsorted(self._boundaries, numbers, side="right") + FIRST_VALUE_ROW
        ids[:, self._slot] = self._base + np.where(np.isfinite(numbers), rows, NULL_ROW)

    def write_missing(self, ids: Ids, weights: Weights) -> None:
        """The NULL row."""
        ids[:, self._slot] = self._base + NULL_ROW

    def unknown_values(self, array: pa.Array, ids: Ids) -> None:
        """As `Column`."""


def _numbers(array: pa.Array) -> pa.Array:
    """As float64.

    Raises:
        DataError: Not numbers.
    """
    if types.is_dictionary(array.type):
        array = decoded(array)
    if types.is_run_end_encoded(array.type):
        array = pc.run_end_decode(array)
    if not is_number(array.type) and not types.is_boolean(array.type):
        raise DataError(f"it is numeric, but its column holds {array.type}", hint="cast the column to a number")
    return as_double(array)


def _as_list(array: pa.Array) -> pa.Array:
    """As list or large_list.

    Raises:
        DataError: Not lists.
    """
    kind = array.type
    if types.is_list(kind) or types.is_large_list(kind):
        return array
    if not (types.is_fixed_size_list(kind) or types.is_list_view(kind) or types.is_large_list_view(kind)):
        raise DataError(f"it is multivalued, but its column holds {kind}", hint="wrap single values in a list: [value]")
    # Not by a cast: pyarrow 26 casts a slice of views wrongly.
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(offsets, array.flatten(), mask=pc.is_null(array))


def _values_of(array: pa.Array) -> pa.Array:
    """The values between the first and the last offset (those under NULL lists included)."""
    first, last = array.offsets[0].as_py(), array.offsets[len(array)].as_py()
    return array.values.slice(first, last - first)
