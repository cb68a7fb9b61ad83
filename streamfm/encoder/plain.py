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
    # NaN differs from itself.
    is_valid = [value is not None and value == value for value in values]
    if kind is str:
        texts = [b"" if value is None else value.encode() for value in values]
        buffers = [_offsets([len(text) for text in texts]), pa.py_buffer(b"".join(texts))]
    else:
        numbers: list[Any] = [0 if value is None else value for value in values]
        buffers = [_bits(numbers) if kind is bool else pa.py_buffer(array(_CODES[kind], numbers))]
    return pa.Array.from_buffers(PLAIN_TYPES[kind], len(values), [_validity(is_valid), *buffers])


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


def _bits(flags: Sequence[bool]) -> pa.Buffer:
    return pa.py_buffer(np.packbits(np.array(flags, np.bool_), bitorder="little"))


def _validity(is_valid: Sequence[bool]) -> pa.Buffer | None:
    return None if all(is_valid) else _bits(is_valid)
