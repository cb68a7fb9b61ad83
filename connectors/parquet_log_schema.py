"""The columns of the event log: those of impressions, those of clicks, and the log's own, in SQL's and Arrow's types.

_partition  VARCHAR      topic and partition, as events/0; of a topic that was made anew events@2/0
_offset     BIGINT       the record's place in the partition
_timestamp  TIMESTAMPTZ  Kafka's time of the record; NULL where there is none
_error      VARCHAR      why the record could not be read; NULL when it could
_raw        BLOB         its bytes, then
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa

from streamfm.errors import StreamError
from streamfm.features import FeatureSpec, Input

Kind = Literal["impressions", "clicks"]

OWN: Mapping[str, str] = {
    "_partition": "VARCHAR",
    "_offset": "BIGINT",
    "_timestamp": "TIMESTAMPTZ",
    "_error": "VARCHAR",
    "_raw": "BLOB",
}
"""The log's own columns, by their SQL types."""

SERVED = (
    Input(name="score", type="DOUBLE"),
    Input(name="model", type="VARCHAR"),
    Input(name="model_version", type="BIGINT"),
)
"""What an answer of `streamfm stream` says of itself; NULL in impressions that were not served by one."""

_INSTANT = "TIMESTAMPTZ"
_WIDE = pa.decimal128(38, 0)
_ARROW: Mapping[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "UUID": pa.string(),
    "BLOB": pa.binary(),
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "HUGEINT": _WIDE,
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "UHUGEINT": _WIDE,
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DATE": pa.date32(),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMPTZ": pa.timestamp("us", tz="UTC"),
}
_SQL: Mapping[pa.DataType, str] = {kind: name for name, kind in _ARROW.items() if name not in ("UUID", "UHUGEINT")}
_DECIMAL = re.compile(r"DECIMAL\((\d+),(\d+)\)")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogSchema:
    """The columns of a topic in the log, without the log's own.

    Attributes:
        kind: ``impressions`` or ``clicks``.
        id: The column that names the event; of clicks, the impression's name.
        time: The column of the event's time; empty: there is none but Kafka's.
        columns: All of them, the two among them, and how JSON writes them.
        aliases: Other names of a field, by column, which count where the column's own is not there.
    """

    kind: Kind
    id: str
    time: str
    columns: tuple[Input, ...]
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names.

        Raises:
            StreamError: A column is there twice, is one of the log's own, or id and time are none.
        """
        names = [item.name.casefold() for item in self.columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise StreamError(f"{self.kind}: column {twice[0]!r} is there twice")
        if own := sorted(set(names) & set(OWN)):
            raise StreamError(f"{self.kind}: column {own[0]!r} has a name of the log's own", hint="rename the field")
        for name in filter(None, (self.id, self.time)):
            if name.casefold() not in names:
                raise StreamError(f"{self.kind}: {name!r} is no column; they are {', '.join(names)}")

    @property
    def sql(self) -> dict[str, str]:
        """The SQL type of each column, the log's own among them."""
        return {item.name: item.type for item in self.columns} | dict(OWN)

    @property
    def arrow(self) -> pa.Schema:
        """The same as Arrow has them, and Parquet."""
        return pa.schema([(name, arrow_type(kind)) for name, kind in self.sql.items()])


def impressions(spec: FeatureSpec, *, also: Sequence[Input] = SERVED, time_form: str = "iso8601") -> LogSchema:
    """The columns of the impressions of a model.

    Args:
        spec: Its specification, with event id and event time.
        also: Fields beside its inputs; those that it has already are left out.
        time_form: How JSON writes the event time, where that is no input: ``iso8601``, ``epoch_s``, ``epoch_ms``, ...

    Raises:
        StreamError: It names no event id or no event time.
    """
    for key in ("event_id", "event_time"):
        if not getattr(spec, key):
            name = spec.source or "the specification"
            raise StreamError(
                f"{name} has no {key}: an impression is joined with its clicks by id and time",
                hint=f'write {key} = "COLUMN" into it, or give --{key.replace("_", "-")}',
            )
    own = [_id(spec.event_id), Input(name=spec.event_time, type=_INSTANT, json=time_form)]
    inputs = {item.name.casefold(): item for item in spec.inputs}
    columns = [inputs.pop(item.name.casefold(), item) for item in own]
    columns += inputs.values()
    taken = {item.name.casefold() for item in columns} | {spec.label.casefold()}
    columns += [item for item in also if item.name.casefold() not in taken]
    names = {item.name for item in columns}
    # What `streamfm stream` writes is called `version`.
    aliases = {"model_version": "version"} if "model_version" in names and "version" not in names else {}
    return LogSchema(
        kind="impressions", id=spec.event_id, time=spec.event_time, columns=tuple(columns), aliases=aliases
    )


def clicks(
    *,
    id: str = "event_id",  # as the field of LogSchema
    time: str = "ts",
    kind: str = "",
    id_type: str = "VARCHAR",
    time_form: str = "iso8601",
    also: Sequence[Input] = (),
) -> LogSchema:
    """The columns of clicks.

    Args:
        id: The field that names the impression.
        time: The field of the click's time; empty: Kafka's `_timestamp` is all there is.
        kind: The field that tells a click from an install; empty: there is none.
        id_type: The SQL type of the id, which is that of the impressions'.
        time_form: How JSON writes the time.
        also: More fields.
    """
    columns = [Input(name=id, type=id_type)]
    columns += [Input(name=time, type=_INSTANT, json=time_form)] if time else []
    columns += [Input(name=kind, type="VARCHAR")] if kind else []
    return LogSchema(kind="clicks", id=id, time=time, columns=(*columns, *also))


def of_table(table: pa.Table, kind: Kind, *, id: str, time: str) -> LogSchema:  # as the field
    """The columns that a table has.

    Raises:
        StreamError: A column of a type that no input has, or without id and time.
    """
    columns = tuple(
        Input(name=name, type=sql_type(of))
        for name, of in zip(table.schema.names, table.schema.types, strict=True)
        if name not in OWN
    )
    return LogSchema(kind=kind, id=id, time=time, columns=columns)


def arrow_type(kind: str) -> pa.DataType:
    """What holds values of an SQL type, as `normalise_type` spells it."""
    if kind.endswith("[]"):
        return pa.list_(arrow_type(kind[:-2]))
    if decimal := _DECIMAL.fullmatch(kind):
        return pa.decimal128(int(decimal[1]), int(decimal[2]))
    return _ARROW[kind]


def sql_type(kind: pa.DataType) -> str:
    """The SQL type of an Arrow column.

    Raises:
        StreamError: No input has such values.
    """
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"{sql_type(kind.value_type)}[]"
    if pa.types.is_dictionary(kind):
        return sql_type(kind.value_type)
    if pa.types.is_timestamp(kind):
        return _INSTANT if kind.tz else "TIMESTAMP"
    if pa.types.is_decimal128(kind) and kind != _WIDE:
        return f"DECIMAL({kind.precision},{kind.scale})"
    # A column without a value has no type.
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind) or pa.types.is_null(kind):
        return "VARCHAR"
    if kind not in _SQL:
        raise StreamError(f"{kind} is no type that an input has")
    return _SQL[kind]


def _id(name: str) -> Input:
    return Input(name=name, type="VARCHAR")
