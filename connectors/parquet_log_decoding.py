"""Records as rows of the log: JSON objects by msgspec, in columns of the types that the schema says.

What JSON may write in the place of a column is what `streamfm stream` takes for an input, and a text that says a number
where a number is declared. Fields that are no columns are ignored, columns that the event does not have are NULL. A
record that cannot be read is a row all the same, with `_error` and `_raw` and nothing else: not a single one is lost.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Union

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from connectors.parquet_log_schema import LogSchema, arrow_type
from streamfm.encoder.category import category_texts
from streamfm.encoder.plain import plain_array
from streamfm.encoder.values import to_array
from streamfm.errors import DataError
from streamfm.features import Input
from streamfm.stream.ports import Record

_USUAL: Mapping[str, type] = {"text": str, "integer": int, "real": float, "boolean": bool}
_SCALARS: Mapping[str, tuple[type, ...]] = {
    "text": (str, int, float, bool),
    "integer": (int, float, bool, str),
    "real": (float, bool, str),
    "boolean": (bool,),
}
_TUPLES = 256
_UNUSUAL_SHARE = 0.1
"""With more events that need a second look, each gets the longer one at once."""
_MAX_MESSAGE = 500
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)
_NOT_CONVERTED = (DataError, pa.ArrowException, ValueError, OverflowError)


class Rows(NamedTuple):
    """Records as rows.

    Attributes:
        table: As many rows as records, in their order.
        errors: How many of them could not be read, by reason.
    """

    table: pa.Table
    errors: Counter[str]


class _Refused(NamedTuple):
    reason: str
    message: str


class RecordDecoder:
    """Reads the records of a topic."""

    def __init__(self, schema: LogSchema, label: str, *, max_bytes: int = 8 << 20) -> None:
        """Make msgspec's decoder.

        Args:
            schema: The columns.
            label: What rows call the topic in `_partition`.
            max_bytes: A larger value is not read, and kept as it is.
        """
        self.arrow = schema.arrow
        self._schema, self._label, self._max_bytes = schema, label, max_bytes
        self._types = {item.name: arrow_type(item.type) for item in schema.columns}
        self._fields = list(dict.fromkeys([*self._types, *schema.aliases.values()]))
        items = {item.name: item for item in schema.columns}
        items |= {other: items[name] for name, other in schema.aliases.items()}
        self._decode_any = _decoder({name: _json_type(items[name]) for name in self._fields})
        # A choice of types takes msgspec a third more time than the one that most events have.
        self._decode = _decoder({name: _usual_type(items[name]) for name in self._fields})

    def decode(self, records: Sequence[Record]) -> Rows:
        """The rows of some records of one partition, in the order of their offsets; never raises for what they hold."""
        refused: dict[int, _Refused] = {}
        events = self._read(records, refused)
        fields = self._fields_of(events)
        try:
            arrays = self._arrays(fields)
        except _NOT_CONVERTED:
            bad = self._unreadable(fields, range(len(events)))
            places = [place for place in range(len(records)) if place not in refused]
            refused |= {places[at]: reason for at, reason in bad.items()}
            good = [at for at in range(len(events)) if at not in bad]
            arrays = self._arrays({name: [of[at] for at in good] for name, of in fields.items()})
        return Rows(self._table(records, arrays, refused), Counter(one.reason for one in refused.values()))

    def _read(self, records: Sequence[Record], refused: dict[int, _Refused]) -> list[Any]:
        """The events of the values; those that are none are noted by their places."""
        values = [v if (v := record.value) is not None and len(v) <= self._max_bytes else None for record in records]
        events: list[Any] = []
        waiting = map(self._decode, values)
        unusual = 0
        while True:
            try:
                # Those before the one that fails stay, and the next turn begins after it.
                events.extend(waiting)
            except _REFUSED:
                place = len(events) + len(refused)
                try:
                    events.append(self._decode_any(values[place]))
                    unusual += 1
                except _REFUSED as error:
                    refused[place] = self._refusal(records[place], error)
            else:
                break
        if unusual > len(records) * _UNUSUAL_SHARE:
            self._decode = self._decode_any
        return events

    def _refusal(self, record: Record, error: Exception) -> _Refused:
        if record.value is None:
            return _Refused("null_value", "the record has no value")
        if len(record.value) > self._max_bytes:
            return _Refused("too_large", f"{len(record.value):,} bytes, expected at most {self._max_bytes:,}")
        # What msgspec says of a field ends with its path.
        is_of_field = isinstance(error, msgspec.ValidationError) and " - at `$" in str(error)
        return _Refused("wrong_type" if is_of_field else "not_json", str(error))

    def _fields_of(self, events: list[Any]) -> dict[str, list[Any]]:
        """Each column's values, as JSON has them."""
        fields: dict[str, list[Any]] = {name: [] for name in self._fields}
        for start in range(0, len(events), _TUPLES):
            some = map(msgspec.structs.astuple, events[start : start + _TUPLES])
            for column, values in zip(fields.values(), zip(*some, strict=True), strict=True):
                column.extend(values)
        for name, other in self._schema.aliases.items():
            own, others = fields[name], fields.pop(other)
            fields[name] = [second if first is None else first for first, second in zip(own, others, strict=True)]
        return fields

    def _arrays(self, fields: Mapping[str, list[Any]]) -> dict[str, pa.Array]:
        """The values in the columns' types.

        Raises:
            DataError: One that its column cannot hold, or an event without a name or time; so do Arrow's errors.
        """
        for name, reason in ((self._schema.id, "missing_id"), (self._schema.time, "missing_time")):
            if name and None in fields[name]:
                raise _MissingError(reason, f"field {name!r} is not there, or null")
        return {item.name: _array(fields[item.name], item, self._types[item.name]) for item in self._schema.columns}

    def _unreadable(self, fields: Mapping[str, list[Any]], places: Sequence[int]) -> dict[int, _Refused]:
        """The events that no row can hold, found by halves."""
        try:
            self._arrays({name: [of[at] for at in places] for name, of in fields.items()})
        except _NOT_CONVERTED as error:
            if len(places) > 1:
                half = len(places) // 2
                return self._unreadable(fields, places[:half]) | self._unreadable(fields, places[half:])
            reason = error.reason if isinstance(error, _MissingError) else "wrong_type"
            return {places[0]: _Refused(reason, error.message if isinstance(error, DataError) else str(error))}
        return {}

    def _table(
        self, records: Sequence[Record], arrays: Mapping[str, pa.Array], refused: Mapping[int, _Refused]
    ) -> pa.Table:
        """The rows of what was read and of what was not, in the order of the records."""
        count = len(records)
        # Of a client without times, or a topic without them, they are -1.
        times = [None if record.timestamp < 0 else record.timestamp * 1_000 for record in records]
        own = {
            "_partition": pa.repeat(f"{self._label}/{records[0].partition if records else 0}", count),
            "_offset": plain_array([record.offset for record in records], int),
            "_timestamp": plain_array(times, int).view(self.arrow.field("_timestamp").type),
        }
        if refused:
            errors: list[str | None] = [None] * count
            raw: list[bytes | None] = [None] * count
            for place, (reason, message) in refused.items():
                errors[place], raw[place] = f"{reason}: {message}"[:_MAX_MESSAGE], records[place].value
            own |= {"_error": pa.array(errors, pa.string()), "_raw": pa.array(raw, pa.binary())}
            # Where a record was not read, the columns have nothing.
            numbers = iter(range(count))
            rows = pa.array([None if place in refused else next(numbers) for place in range(count)], pa.int64())
            arrays = {name: array.take(rows) for name, array in arrays.items()}
        else:
            own |= {name: pa.nulls(count, self.arrow.field(name).type) for name in ("_error", "_raw")}
        columns = {**arrays, **own}
        return pa.table([columns[name] for name in self.arrow.names], schema=self.arrow)


class _MissingError(DataError):
    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def _array(values: list[Any], item: Input, kind: pa.DataType) -> pa.Array:
    """Values of one column, as JSON has them, in its type.

    Raises:
        DataError: One of them is none of its type; so do Arrow's errors.
    """
    if values and values[0] is None and values.count(None) == len(values):
        return pa.nulls(len(values), kind)
    if item.is_temporal and not item.is_list:
        return _instants(values, item, kind)
    array = to_array(values, item)
    if kind == pa.string() and array.type != kind:
        # As the encoder has it: 1, 1.0 and "1" are one category.
        return category_texts(array).cast(kind)
    array = array if array.type == kind else array.cast(kind)
    _refuse_infinite(array.flatten() if item.is_list else array, item)
    return array


def _refuse_infinite(array: pa.Array, item: Input) -> None:
    """JSON has no such numbers, but a text or a type that is too small for one makes them; training refuses them.

    Raises:
        DataError: A number that is infinite, or none.
    """
    if pa.types.is_floating(array.type):
        wrong = array.filter(pc.invert(pc.is_finite(array)))
        if len(wrong):
            raise DataError(f"input {item.name!r} ({item.type}) is {wrong[0]}, expected a finite number")


def _instants(values: list[Any], item: Input, kind: pa.DataType) -> pa.Array:
    if item.json == "iso8601" and values and isinstance(values[0], str):
        try:
            # Arrow reads them all at once, if all are written with a zone, or all without one, as the type has it.
            return plain_array(values, str).cast(kind)
        except (pa.ArrowException, ValueError, TypeError):
            pass
    array = to_array(values, item)
    # Arrow would not take the zone from an instant; there it is UTC's, as everywhere.
    return array.view(kind) if pa.types.is_timestamp(kind) else array.cast(kind)


def _json_type(item: Input) -> Any:
    """What msgspec reads in the place of a column."""
    if item.is_temporal:
        types: tuple[type, ...] = (str,) if item.json == "iso8601" else (str, int, float)
    else:
        types = _SCALARS[item.family]
    if item.type.startswith("DECIMAL"):
        # Which holds integers that a float does not.
        types = (int, *types)
    value: Any = Union[(*types, None)]
    return list[value] | None if item.is_list else value


def _usual_type(item: Input) -> Any:
    """What stands there in most events."""
    if item.is_temporal or item.is_list or item.type.startswith("DECIMAL"):
        return _json_type(item)
    return _USUAL[item.family] | None


def _decoder(types: Mapping[str, Any]) -> Callable[[Any], Any]:
    """Reads one event. Its attributes have names of our own: a field's need not be one that Python has."""
    fields = [(f"field_{place}", kind, None) for place, kind in enumerate(types.values())]
    rename = {f"field_{place}": name for place, name in enumerate(types)}
    # A struct holds no reference to itself, and thousands of them need not be searched for one.
    return msgspec.json.Decoder(msgspec.defstruct("Event", fields, rename=rename, gc=False)).decode
