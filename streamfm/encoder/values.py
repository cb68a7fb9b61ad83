"""Python values, as dicts and JSON bring them, as Arrow arrays."""

from __future__ import annotations

import datetime as dt
import numbers
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa

from streamfm.encoder.category import category_texts
from streamfm.encoder.plain import PLAIN_TYPES, plain_array, plain_lists
from streamfm.errors import DataError
from streamfm.features.inputs import Input

UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
"""Microseconds in a unit of each JSON form that is a number."""

_INSTANT = pa.timestamp("us", tz="UTC")
_LIST_OF_TEXTS = pa.list_(pa.string())
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_FIRST_DAY = dt.date(1970, 1, 1).toordinal()
_MICROSECOND = dt.timedelta(microseconds=1)
_WIDE_INTEGERS = (pa.decimal128(38, 0), pa.decimal256(76, 0))
EXACT_IN_DOUBLE = 2**53
_NUMBERS = (int, float, np.number)
_ALIKE = {bool, float, Decimal, dt.date, np.bool_, np.float16, np.float32, np.float64}
"""Types of which values have the same texts together as alone."""
_NOT_CONVERTED = (pa.ArrowException, ValueError, TypeError, OverflowError)


def to_array(values: Sequence[Any], item: Input) -> pa.Array:
    """Values of one input as an Arrow array, of whatever type holds them as they are; None, NaN and NaT are NULL.

    Dates and instants are read from their JSON form. Values that no type holds together become their canonical texts.

    Raises:
        DataError: A value that is none of its type; names the input and, among several, the row.
    """
    if item.is_temporal:
        read = _date if item.family == "date" else partial(_microseconds, form=item.json)
        kind = pa.date32() if item.family == "date" else _INSTANT
        converted = _each(values, partial(_of_list, convert=read) if item.is_list else read, item)
        return _typed(converted, pa.list_(kind) if item.is_list else kind, item)
    if not item.is_list and isinstance(next(filter(_is_there, values), None), str):
        # Texts only, as events mostly have: this is found out by trying.
        with suppress(*_NOT_CONVERTED):
            return plain_array(values, str)
    if item.is_list:
        # Data frames write NaN where a list is missing.
        values = [None if _is_missing(value) else value for value in values]
    kinds = _kinds(values, item)
    # Data frames read lists from files as NumPy's arrays, which are pyarrow's to read.
    of_arrays = item.is_list and any(isinstance(value, np.ndarray) for value in values)
    try:
        if len(kinds) <= 1 and kinds <= PLAIN_TYPES.keys() and not of_arrays:
            kind = next(iter(kinds), type(None))
            return plain_lists(values, kind) if item.is_list else plain_array(values, kind)
        if kinds == {int, float} and not of_arrays and _are_exact(values, item):
            return plain_lists(values, float) if item.is_list else plain_array(values, float)
        if len(kinds) <= 1 or all(issubclass(kind, _NUMBERS) and kind is not bool for kind in kinds):
            return pa.array(values, from_pandas=True)
    except _NOT_CONVERTED:
        pass
    return _mixed(values, item)


def _kinds(values: Sequence[Any], item: Input) -> set[type]:
    """The Python types of the values, or of the lists' elements; None has none."""
    if item.is_list:
        values = [element for value in values if isinstance(value, (list, tuple)) for element in value]
    return set(map(type, values)) - {type(None)}


def _are_exact(values: Sequence[Any], item: Input) -> bool:
    """Whether a float64 holds each integer among the values, or the lists' elements, as it is."""
    if item.is_list:
        values = [element for value in values if value is not None for element in value]
    return all(type(value) is not int or abs(value) <= EXACT_IN_DOUBLE for value in values)


def _mixed(values: Sequence[Any], item: Input) -> pa.Array:
    """Values that pyarrow has no type for, or takes for another: huge integers, several types in one column."""
    if item.is_list:
        return _typed(_all_texts(values, item), _LIST_OF_TEXTS, item)
    values = [None if _is_missing(value) else value for value in values]
    present = [value for value in values if value is not None]
    if all(isinstance(value, numbers.Integral) and not isinstance(value, bool) for value in present):
        for kind in _WIDE_INTEGERS:
            try:
                return pa.array([None if value is None else int(value) for value in values], kind)
            except _NOT_CONVERTED:
                continue
    if item.family == "real" and all(isinstance(value, (numbers.Real, Decimal)) for value in present):
        return _typed(_each(values, _float, item), pa.float64(), item)
    return _typed(_all_texts(values, item), pa.string(), item)


def _typed(values: list[Any], kind: pa.DataType, item: Input) -> pa.Array:
    try:
        if kind == pa.string():
            return plain_array(values, str)
        if kind == pa.float64():
            return plain_array(values, float)
        if kind == _LIST_OF_TEXTS:
            return plain_lists(values, str)
        if kind == _INSTANT:
            return plain_array(values, int).view(kind)
        if kind == pa.date32():
            days = plain_array([None if value is None else value.toordinal() - _FIRST_DAY for value in values], int)
            return days.cast(pa.int32()).view(kind)
        return pa.array(values, kind)
    except _NOT_CONVERTED as error:
        raise DataError(f"input {item.name!r} ({item.type}): {error}") from error


def _each(values: Sequence[Any], convert: Callable[[Any], Any], item: Input) -> list[Any]:
    converted = []
    for number, value in enumerate(values):
        try:
            converted.append(convert(value))
        except (*_NOT_CONVERTED, DataError) as error:
            row = f"row {number}: " if len(values) > 1 else ""
            reason = error.message if isinstance(error, DataError) else str(error)
            form = f", JSON form {item.json}" if item.is_temporal else ""
            message = f"{row}input {item.name!r} ({item.type}{form}) is {_shown(value)}: {reason}"
            raise DataError(message, hint=_hint_at_form(value, item)) from error
    return converted


def _shown(value: Any) -> str:
    try:
        return repr(value)[:100]
    except ValueError:
        return "a number of thousands of digits"


def _of_list(values: Any, convert: Callable[[Any], Any]) -> list[Any] | None:
    if values is None:
        return None
    if isinstance(values, (str, bytes)):
        raise TypeError("expected a list")
    return [convert(value) for value in values]


def _all_texts(values: Sequence[Any], item: Input) -> list[Any]:
    """The canonical texts of the values, or of the lists' elements."""
    try:
        if not item.is_list:
            return _texts(values)
        lists = [_of_list(value, lambda element: element) for value in values]
        texts = iter(_texts([element for elements in lists if elements is not None for element in elements]))
        return [None if elements is None else list(islice(texts, len(elements))) for elements in lists]
    except (*_NOT_CONVERTED, DataError):
        # One by one: the error names the row, or there are values of one type that Arrow cannot hold together.
        return _each(values, partial(_of_list, convert=_text) if item.is_list else _text, item)


def _texts(values: Sequence[Any]) -> list[str | None]:
    """The canonical text of each value; of one type all at once, which costs Arrow little more than one."""
    texts: list[str | None] = [None] * len(values)
    places: defaultdict[type, list[int]] = defaultdict(list)
    for place, value in enumerate(values):
        if type(value) in _ALIKE:
            places[type(value)].append(place)
        else:
            texts[place] = _text(value)
    for of_type in places.values():
        found = category_texts(_of_one_type([values[place] for place in of_type])).to_pylist()
        for place, text in zip(of_type, found, strict=True):
            texts[place] = text
    return texts


def _text(value: Any) -> str | None:
    """The canonical text of one value."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, (int, np.integer)) and not isinstance(value, (bool, np.timedelta64)):
        return str(value)
    text: str | None = category_texts(_of_one_type([value]))[0].as_py()
    return text


def _of_one_type(values: Sequence[Any]) -> pa.Array:
    kind = type(values[0])
    return plain_array(values, kind) if kind in PLAIN_TYPES else pa.array(values, from_pandas=True)


def _float(value: Any) -> float | None:
    return None if value is None else float(value)


def _is_there(value: Any) -> bool:
    return value is not None


def _is_missing(value: Any) -> bool:
    if isinstance(value, (float, np.floating, np.datetime64)):
        return bool(value != value)
    # pandas' NA and NaT, without pandas.
    return value is None or type(value).__name__ in ("NAType", "NaTType")


def _date(value: Any) -> dt.date | None:
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return dt.date.fromisoformat(value)
    value = _of_numpy(value)
    if isinstance(value, dt.datetime):
        return _in_utc(value).date()
    if isinstance(value, dt.date):
        return value
    raise TypeError("expected a date")


def _microseconds(value: Any, form: str) -> int | None:
    """An instant since 1970 in UTC: an ISO 8601 text, a datetime or date, or a number in the unit of `form`."""
    if _is_missing(value):
        return None
    if form in UNITS and type(value) is not bool and isinstance(value, numbers.Real):
        return int(value) * UNITS[form] if isinstance(value, numbers.Integral) else round(float(value) * UNITS[form])
    value = dt.datetime.fromisoformat(value) if isinstance(value, str) else _of_numpy(value)
    if isinstance(value, dt.date) and not isinstance(value, dt.datetime):
        value = dt.datetime(value.year, value.month, value.day)
    if not isinstance(value, dt.datetime):
        raise TypeError("expected " + ("an ISO 8601 text" if form == "iso8601" else "a number, or an ISO 8601 text"))
    return (_in_utc(value) - _EPOCH) // _MICROSECOND


def _of_numpy(value: Any) -> Any:
    """NumPy's instant as Python's; anything else as it is."""
    return value.astype("datetime64[us]").item() if isinstance(value, np.datetime64) else value


def _in_utc(value: dt.datetime) -> dt.datetime:
    return value.replace(tzinfo=dt.UTC) if value.tzinfo is None else value.astimezone(dt.UTC)


def _hint_at_form(value: Any, item: Input) -> str | None:
    if type(value) in (int, float) and item.family in ("timestamp", "timestamptz") and item.json == "iso8601":
        return f'if it counts from 1970, declare so: {item.name} = {{ type = "{item.type}", json = "epoch_ms" }}'
    return None
