"""What people hand over, tables, data frames, dicts, as the Arrow columns that the encoder reads."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from streamfm.encoder.plain import PLAIN_TYPES, plain_value
from streamfm.encoder.values import UNITS, to_array
from streamfm.errors import DataError, MissingColumnsError
from streamfm.features import FeatureSpec
from streamfm.features.inputs import Input

Columns = dict[str, pa.Array | pa.ChunkedArray]
Row = Mapping[str, Any]
Rows = Any
"""An Arrow table or record batch, a pandas or polars data frame (anything that exports an Arrow stream), a sequence of
dicts, or one dict."""

_HINT_AT_FORMS = "give an Arrow table, a pandas or polars data frame, a list of dicts, or one dict"


def to_columns(rows: Rows, spec: FeatureSpec) -> tuple[Columns, int]:
    """The inputs among the rows' columns, by name, and the number of rows B; an input that is not there is left out.

    Dates and instants written as text or number are read by the input's JSON form, wherever they stand.

    Raises:
        MissingColumnsError: None of the specification's inputs is there.
        DataError: Something that holds no rows, or a value that is none of its type; names the input.
    """
    if isinstance(rows, Mapping):
        return _from_dict(rows, spec), 1
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        return _from_arrow(rows, spec), rows.num_rows
    if hasattr(rows, "collect"):
        raise DataError(f"{type(rows).__name__} holds no rows yet", hint="collect() it first")
    if hasattr(rows, "columns") and hasattr(rows, "to_dict"):
        return _from_frame(rows, spec), len(rows)
    if hasattr(rows, "__arrow_c_stream__"):
        return _from_stream(rows, spec)
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        return _from_dicts(rows, spec), len(rows)
    if isinstance(rows, Iterator):
        raise DataError(f"{type(rows).__name__} can be read only once", hint="make a list of it: list(rows)")
    raise DataError(f"{type(rows).__name__} holds no rows", hint=_HINT_AT_FORMS)


def _from_dict(row: Row, spec: FeatureSpec) -> Columns:
    """The columns of one event; a NULL is left out, as an absent input is."""
    columns: Columns = {}
    for name in spec.input_names:
        value = row.get(name)
        if value is not None:
            columns[name] = _of_value(value, spec.input(name))
    if not columns and not any(name in row for name in spec.input_names):
        raise MissingColumnsError(spec.input_names, list(map(str, row)), source="rows")
    return columns


def _of_value(value: Any, item: Input) -> pa.Array:
    if type(value) in PLAIN_TYPES and not item.is_temporal and value == value:
        with suppress(ValueError, struct.error):
            return plain_value(value)
    return to_array([value], item)


def _from_dicts(rows: Sequence[Row], spec: FeatureSpec) -> Columns:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number} is {type(row).__name__}, expected a dict", hint=_HINT_AT_FORMS)
    columns: Columns = {}
    for item in spec.inputs:
        if any(item.name in row for row in rows):
            columns[item.name] = to_array([row.get(item.name) for row in rows], item)
    if not columns and rows:
        raise MissingColumnsError(spec.input_names, list(map(str, rows[0])), source="rows")
    return columns


def _from_arrow(table: pa.Table | pa.RecordBatch, spec: FeatureSpec) -> Columns:
    wanted = _wanted(table.schema.names, spec)
    return {item.name: _read_instants(table.column(item.name), item) for item in wanted}


def _from_stream(rows: Any, spec: FeatureSpec) -> tuple[Columns, int]:
    """From whatever exports an Arrow stream, such as a DuckDB relation."""
    try:
        table = pa.table(rows)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise DataError(f"{type(rows).__name__} holds no rows: {error}", hint=_HINT_AT_FORMS) from error
    return _from_arrow(table, spec), table.num_rows


def _from_frame(frame: Any, spec: FeatureSpec) -> Columns:
    """From a pandas or polars data frame; only the inputs, since other columns may hold what Arrow cannot."""
    wanted = _wanted([str(name) for name in frame.columns], spec)
    return {item.name: _read_instants(_from_series(frame[item.name], item), item) for item in wanted}


def _from_series(series: Any, item: Input) -> pa.Array | pa.ChunkedArray:
    # Python objects are ours to read: pyarrow makes 0.0 of a False beside a float, polars exports their addresses.
    if str(series.dtype).lower() == "object":
        return to_array(series.to_list(), item)
    try:
        return series.to_arrow() if hasattr(series, "to_arrow") else pa.array(series, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"input {item.name!r} ({item.type}): {error}") from error


def _wanted(present: Sequence[str], spec: FeatureSpec) -> list[Input]:
    """The inputs among the columns that are present."""
    wanted = [item for item in spec.inputs if item.name in present]
    if not wanted:
        raise MissingColumnsError(spec.input_names, present, source="rows")
    for item in wanted:
        if present.count(item.name) > 1:
            raise DataError(f"rows: column {item.name!r} is there twice", hint="rename or drop one")
    return wanted


def _read_instants(column: pa.Array | pa.ChunkedArray, item: Input) -> pa.Array | pa.ChunkedArray:
    """Dates and instants that the column has as texts or numbers, by the input's JSON form."""
    kind = column.type.value_type if item.is_list and types.is_nested(column.type) else column.type
    if not item.is_temporal or types.is_temporal(kind) or types.is_null(kind):
        return column
    if types.is_integer(kind) and item.json in UNITS and not item.is_list:
        try:
            return pc.cast(
                pc.multiply_checked(pc.cast(column, pa.int64()), UNITS[item.json]), pa.timestamp("us", "UTC")
            )
        except pa.ArrowInvalid as error:
            raise DataError(f"input {item.name!r} ({item.type}, JSON form {item.json}): {error}") from error
    return to_array(column.to_pylist(), item)
