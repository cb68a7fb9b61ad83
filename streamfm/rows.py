"""What people hand over, tables, data frames, dicts, as the Arrow columns that the encoder reads."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from streamfm.category import category_texts
from streamfm.errors import DataError, MissingColumnsError
from streamfm.features import FeatureSpec, Input

Columns = dict[str, pa.Array | pa.ChunkedArray]
Row = Mapping[str, Any]
Rows = Any
"""An Arrow table or record batch, a pandas or polars data frame (anything that exports an Arrow stream), a sequence of
dicts, or one dict."""

_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)


def to_columns(rows: Rows, spec: FeatureSpec) -> tuple[Columns, int]:
    """The inputs among the rows' columns, by name, and the number of rows B; an input that is not there is left out.

    Raises:
        MissingColumnsError: None of the specification's inputs is there.
        DataError: Something that holds no rows, or a column of values that no type holds together; names the input.
    """
    if isinstance(rows, Mapping):
        return _from_dicts([rows], spec), 1
    if isinstance(rows, (pa.Table, pa.RecordBatch)):
        return _from_arrow(rows, spec), rows.num_rows
    if hasattr(rows, "__arrow_c_stream__"):
        table = _to_table(rows, spec)
        return _from_arrow(table, spec), table.num_rows
    if isinstance(rows, Sequence) and not isinstance(rows, (str, bytes)):
        if not all(isinstance(row, Mapping) for row in rows):
            raise DataError("expected a sequence of dicts, one an event")
        return _from_dicts(rows, spec), len(rows)
    hint = "give an Arrow table, a pandas or polars data frame, a list of dicts, or one dict"
    raise DataError(f"{type(rows).__name__} holds no rows", hint=hint)


def _from_arrow(table: pa.Table | pa.RecordBatch, spec: FeatureSpec) -> Columns:
    present = set(table.schema.names)
    columns = {name: table.column(name) for name in spec.input_names if name in present}
    if not columns:
        raise MissingColumnsError(spec.input_names, table.schema.names, source="rows")
    return columns


def _to_table(frame: Any, spec: FeatureSpec) -> pa.Table:
    """The inputs' columns only: others may hold what Arrow cannot."""
    names = [str(name) for name in frame.columns]
    wanted = [name for name in spec.input_names if name in names]
    if not wanted:
        raise MissingColumnsError(spec.input_names, names, source="rows")
    try:
        return pa.table(frame[wanted])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"rows: {error}", hint="a column mixes types; make its values one type") from error


def _from_dicts(rows: Sequence[Row], spec: FeatureSpec) -> Columns:
    columns: Columns = {}
    for item in spec.inputs:
        name = item.name
        if len(rows) == 1:
            if name in rows[0]:
                columns[name] = _to_array([rows[0][name]], item)
        elif any(name in row for row in rows):
            columns[name] = _to_array([row.get(name) for row in rows], item)
    if not columns and rows:
        raise MissingColumnsError(spec.input_names, list(rows[0]), source="rows")
    return columns


def _to_array(values: list[Any], item: Input) -> pa.Array:
    try:
        if item.family in ("timestamp", "timestamptz") and not item.is_list:
            return pa.array([_microseconds(value, item.json) for value in values], pa.timestamp("us", tz="UTC"))
        if item.family == "date":
            values = [dt.date.fromisoformat(v) if isinstance(v, str) else v for v in values]
        return pa.array(values)
    except (
        pa.ArrowInvalid,
        pa.ArrowTypeError,
        pa.ArrowNotImplementedError,
        ValueError,
        TypeError,
        OverflowError,
    ) as error:
        if item.family in ("text", "integer", "boolean") and not item.is_list:
            return _mixed(values, item)
        raise DataError(f"input {item.name!r} ({item.type}): {error}") from error


def _mixed(values: list[Any], item: Input) -> pa.Array:
    """Values of several types, each as its canonical text."""
    try:
        texts = [category_texts(pa.array([value]))[0].as_py() for value in values]
    except (pa.ArrowException, DataError, OverflowError) as error:
        raise DataError(f"input {item.name!r} ({item.type}): {error}") from error
    return pa.array(texts, pa.string())


def _microseconds(value: Any, form: str) -> int | None:
    """An instant since 1970 in UTC: an ISO 8601 text, a datetime or date, or a number in the unit of `form`."""
    if value is None:
        return None
    if isinstance(value, (int, float)) and form in _UNITS:
        return round(value * _UNITS[form])
    if isinstance(value, str):
        value = dt.datetime.fromisoformat(value)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime):
        raise TypeError(f"{value!r} is not an instant written as {form}")
    if value.tzinfo is None:
        value = value.replace(tzinfo=dt.UTC)
    return (value - _EPOCH) // _MICROSECOND
