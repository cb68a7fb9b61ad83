"""Events as they are stored, as Python values of the inputs, column by column.

What JSON may write in the place of an input:

    the input is                         JSON
    a date, an instant as ISO 8601       text
    an instant since 1970                number, or text in ISO 8601
    anything else                        text, integer, number, true or false: whichever its features accept
                                         (`streamfm.features.accepted`)
    a list                               a list of these
    each of them                         null, or not there

Fields that are no inputs are ignored, of a field that is there twice the latter counts, and an event without any of the
inputs has only missing values.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple, Protocol, Union, get_args

import msgspec

from streamfm.errors import StreamError
from streamfm.expressions import expressions_of
from streamfm.features import FeatureSpec, Input
from streamfm.features.accepted import Use, accepted, use_of
from streamfm.stream.ports import DeadLetter, Record
from streamfm.stream.settings import StreamSettings

_JSON_TYPES: Mapping[str, type] = {"text": str, "integer": int, "real": float, "boolean": bool}
_NULL = msgspec.Raw(b"null")
_NO_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")
MAX_MESSAGE = 500
_TUPLES = 256
"""Events that are tuples at a time: few enough that the garbage collector does not look for them."""

_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError, TypeError)


class Decoded(NamedTuple):
    """Events (B of them), and those that are none.

    Attributes:
        records: Where they were stored.
        values: Of each input that a feature uses, B values; what is not there is None.
        kept: Of the event id, if there is to be one, and of each field that the answer repeats, B values as msgspec's
            JSON encoder takes them; what is not there is null.
        dead_letters: The others, and why.
    """

    records: Sequence[Record]
    values: Mapping[str, Sequence[Any]]
    kept: Mapping[str, Sequence[Any]]
    dead_letters: Sequence[DeadLetter]


class Decoder(Protocol):
    """Reads events, whatever they are written in.

    Attributes:
        inputs: The inputs that it reads, and how; two decoders with the same read them alike.
    """

    inputs: Mapping[str, Any]

    def decode(self, records: Sequence[Record]) -> Decoded:
        """The events of the records, in their order; never raises for what a record holds."""


def uses_of(spec: FeatureSpec) -> dict[str, frozenset[Use]]:
    """What each input is used as, by name; those that no feature uses are left out."""
    expressions = expressions_of(spec)
    uses: dict[str, frozenset[Use]] = {}
    for feature in spec.features:
        for name in expressions[feature.name].columns if feature.sql else [feature.input]:
            uses[name] = uses.get(name, frozenset()) | {use_of(feature)}
    return uses


MakeDecoder = Callable[[FeatureSpec, StreamSettings], Decoder]
"""Makes what reads the events of a specification."""


class JsonDecoder:
    """Reads events that are JSON objects in UTF-8.

    Attributes:
        inputs: The inputs that a feature uses, and the types that JSON may write them in.
    """

    def __init__(self, spec: FeatureSpec, settings: StreamSettings) -> None:
        """Make msgspec's decoder.

        Raises:
            StreamError: The event id is an input that can be neither a text nor an integer.
        """
        self.inputs: Mapping[str, Any] = {
            name: _json_type(spec.input(name), uses) for name, uses in uses_of(spec).items()
        }
        self._event_id = settings.event_id
        self._max_bytes = settings.max_event_bytes
        self._kept = tuple(dict.fromkeys(name for name in (settings.event_id, *settings.keep) if name))
        self._types: dict[str, Any] = dict.fromkeys(self._kept, msgspec.Raw) | self.inputs
        if self._event_id:
            self._types[self._event_id] = _event_id_type(self._event_id, self.inputs.get(self._event_id))
        self._decode = _decoder(self._types)

    def decode(self, records: Sequence[Record]) -> Decoded:
        """As `Decoder`."""
        limit = self._max_bytes
        values = [v if (v := record.value) is not None and len(v) <= limit else None for record in records]
        text = b"".join(filter(None, values))
        # msgspec skips fields that nobody reads without a look at their UTF-8.
        events, refused = self._read(records, values, self._decode if text.isascii() else self._decode_utf8)
        letters = list(refused.values())
        if refused:
            records = [record for place, record in enumerate(records) if place not in refused]
        fields = _transposed(events, tuple(self._types))
        if self._event_id and None in fields[self._event_id]:
            is_named = [name is not None for name in fields[self._event_id]]
            letters += [_unnamed(record, self._event_id) for record in _without(records, is_named)]
            records = list(compress(records, is_named))
            fields = {name: list(compress(values, is_named)) for name, values in fields.items()}
        inputs, kept = ({name: fields[name] for name in names} for names in (self.inputs, self._kept))
        if b"\n" in text or b"\r" in text:
            kept = {name: list(map(_on_one_line, column)) for name, column in kept.items()}
        return Decoded(records, inputs, kept, letters)

    def _read(
        self, records: Sequence[Record], values: Sequence[bytes | None], decode: Callable[[Any], msgspec.Struct]
    ) -> tuple[list[msgspec.Struct], dict[int, DeadLetter]]:
        """The events of the values, and those that are none by their places."""
        events: list[msgspec.Struct] = []
        refused: dict[int, DeadLetter] = {}
        waiting = map(decode, values)
        while True:
            try:
                # Those before the one that fails stay, and the next turn begins after it.
                events.extend(waiting)
            except _REFUSED as error:
                place = len(events) + len(refused)
                refused[place] = self._refusal(records[place], error)
            else:
                return events, refused

    def _decode_utf8(self, value: bytes) -> msgspec.Struct:
        str(value, "utf-8")
        return self._decode(value)

    def _refusal(self, record: Record, error: Exception) -> DeadLetter:
        if record.value is None:
            return DeadLetter(record, "null_value", "DataError", "the record has no value")
        if (size := len(record.value)) > self._max_bytes:
            message = f"the value has {size:,} bytes, expected at most {self._max_bytes:,}"
            return DeadLetter(record, "too_large", "DataError", message)
        # What msgspec says of a field ends with its path.
        is_of_field = isinstance(error, msgspec.ValidationError) and " - at `$" in str(error)
        reason = "wrong_type" if is_of_field else "not_json"
        return DeadLetter(record, reason, type(error).__name__, str(error)[:MAX_MESSAGE])


def _transposed(events: Sequence[msgspec.Struct], fields: Sequence[str]) -> dict[str, list[Any]]:
    """Each field's values."""
    columns: dict[str, list[Any]] = {name: [] for name in fields}
    for start in range(0, len(events), _TUPLES):
        some = map(msgspec.structs.astuple, events[start : start + _TUPLES])
        for column, values in zip(columns.values(), zip(*some, strict=True), strict=True):
            column.extend(values)
    return columns


def _on_one_line(value: Any) -> Any:
    """Of JSON as the event has it, line ends between its tokens as spaces: sinks may write a line for each answer."""
    return msgspec.Raw(bytes(value).translate(_NO_LINE_ENDS)) if isinstance(value, msgspec.Raw) else value


def _without(records: Sequence[Record], is_named: Sequence[bool]) -> list[Record]:
    return [record for record, named in zip(records, is_named, strict=True) if not named]


def _unnamed(record: Record, field: str) -> DeadLetter:
    return DeadLetter(record, "missing_event_id", "DataError", f"field {field!r} is not there, or null")


def _json_type(item: Input, uses: Collection[Use]) -> Any:
    """What msgspec reads in the place of an input."""
    if item.is_temporal:
        types = {str} if item.json == "iso8601" else {str, int, float}
    else:
        types = {_JSON_TYPES[family] for family in accepted(item, uses) if family in _JSON_TYPES}
    value: Any = Union[(*types, None)]
    return list[value] | None if item.is_list else value


def _event_id_type(name: str, as_input: Any) -> Any:
    types = {str, int} if as_input is None else {str, int} & set(get_args(as_input))
    if not types:
        raise StreamError(
            f"event_id is {name!r}, an input of the model that is neither text nor integer",
            hint="name a field that has a text or an integer for each event",
        )
    return Union[(*types, None)]


def _decoder(types: Mapping[str, Any]) -> Callable[[Any], msgspec.Struct]:
    """Reads one event. Its attributes have names of our own: a field's need not be one that Python has."""
    fields = [
        (f"field_{place}", kind, _NULL if kind is msgspec.Raw else None) for place, kind in enumerate(types.values())
    ]
    rename = {f"field_{place}": name for place, name in enumerate(types)}
    # A struct holds no reference to itself, and thousands of them need not be searched for one.
    return msgspec.json.Decoder(msgspec.defstruct("Event", fields, rename=rename, gc=False)).decode
