"""Python's texts, integers, floats and booleans as Arrow arrays.

Not by pa.array(), which imports pandas wherever that is installed, and takes longer for one value.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from struct import Struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

PLAIN_TYPES: dict[type, pa.DataType] = {
    str: pa.string(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
    type(None): pa.null(),
}
"""The Arrow types that hold values of a Python type as they are; pyarrow would cut 3.5 to fit an integer type."""

_CODES = {int: "q", float: "d"}
_ONES: dict[type, Callable[[Any], bytes]] = {int: Struct("=q").pack, float: Struct("=d").pack, bool: Struct("=?").pack}
_OFFSETS = Struct("=ii").pack
_FIRST = np.zeros(1, np.int64)


def plain_value(value: Any) -> pa.Array:
    """One value of a type in `PLAIN_TYPES`, neither None nor NaN, as an array.

    Raises:
        ValueError: A text that has no UTF-8.
        struct.error: An integer of more than 64 bits.
    """
    kind = type(value)
    if kind is str:
        data = value.encode()
        buffers = [None, pa.py_buffer(_OFFSETS(0, len(data))), pa.py_buffer(data)]
    else:
        buffers = [None, pa.py_buffer(_ONES[kind](value))]
    return pa.Array.from_buffers(PLAIN_TYPES[kind], 1, buffers)


def plain_array(values: Sequence[Any], kind: type) -> pa.Array:
    """Values of one type in `PLAIN_TYPES` as an array; None and NaN are NULL.

    Raises:
        ValueError: A text that has no UTF-8.
        OverflowError: An integer of more than 64 bits, or texts of more than 2 GiB.
    """
    if kind is type(None):
        return pa.nulls(len(values))
    if kind is str:
        return _text_array(values)
    if kind is bool:
        flags = _bits([value is True for value in values])
        buffers = [_validity([value is not None for value in values]), flags]
    else:
        buffers = _number_buffers(values, _CODES[kind])
    return pa.Array.from_buffers(PLAIN_TYPES[kind], len(values), buffers)


def _text_array(values: Sequence[Any]) -> pa.Array:
    """As one text with a NUL between two, cut where the NULs are: nothing is done text by text."""
    validity = None
    try:
        data = "\0".join(values).encode()
    except TypeError:
        validity = _validity([value is not None for value in values])
        values = ["" if value is None else value for value in values]
        data = "\0".join(values).encode()
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 0)
    if len(ends) == len(values) - 1:
        data = data.replace(b"\0", b"")
        # Before each end stood as many NULs as texts.
        inner = ends - np.arange(len(ends))
        offsets = _offsets_at(np.concatenate([_FIRST, inner, [len(data)]]))
    else:
        # There are NULs in the texts, or there is no text at all.
        texts = [value.encode() for value in values]
        data, offsets = b"".join(texts), _offsets([len(text) for text in texts])
    return pa.Array.from_buffers(pa.string(), len(values), [validity, offsets, pa.py_buffer(data)])


def _number_buffers(values: Sequence[Any], code: str) -> list[pa.Buffer | None]:
    is_valid: Sequence[bool] = ()
    try:
        numbers = array(code, values)
    except TypeError:
        is_valid = [value is not None for value in values]
        numbers = array(code, [0 if value is None else value for value in values])
    # NaN differs from itself, and is NULL, too.
    if code == "d" and np.isnan(np.frombuffer(numbers)).any():
        is_valid = [value is not None and value == value for value in values]
    return [_validity(is_valid), pa.py_buffer(numbers)]


def plain_lists(values: Sequence[Any], kind: type) -> pa.Array:
    """Lists of values of one type in `PLAIN_TYPES` as an array; None is a NULL list.

    Raises:
        TypeError: Something that is no list.
        ValueError: As `plain_array`.
        OverflowError: As `plain_array`.
    """
    for value in values:
        if value is not None and not isinstance(value, (list, tuple)):
            raise TypeError(f"{type(value).__name__} is no list")
    elements = plain_array([element for value in values if value is not None for element in value], kind)
    is_valid = [value is not None for value in values]
    buffers = [_validity(is_valid), _offsets([0 if value is None else len(value) for value in values])]
    return pa.Array.from_buffers(pa.list_(elements.type), len(values), buffers, children=[elements])


def _offsets(lengths: Sequence[int]) -> pa.Buffer:
    # int32: it refuses what is more.
    return pa.py_buffer(array("i", [0, *accumulate(lengths)]))


def _offsets_at(places: NDArray[np.int64]) -> pa.Buffer:
    if places[-1] > np.iinfo(np.int32).max:
        raise OverflowError(f"texts of {places[-1]:,} bytes")
    return pa.py_buffer(places.astype(np.int32))


def _bits(flags: Sequence[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(flags, np.bool_), bitorder="little"))


def _validity(is_valid: Sequence[bool]) -> pa.Buffer | None:
    return None if all(is_valid) else _bits(is_valid)
