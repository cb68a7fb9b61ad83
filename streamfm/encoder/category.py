"""Which category a value is: the one written rule that every route shares.

A category is the canonical text of a value, whatever type brought it. So the integer 1, the float 1.0 that pandas makes
of it beside a missing value, the decimal 1.00, the string '1' and the dictionary entry '1' are the same category:

    value                 canonical text                                            example
    NULL, NaN             none: the missing value                                   —
    text                  itself, byte by byte (no trimming, no case folding)       ' Ab' -> ' Ab'
    dictionary, ENUM      that of the entry                                         -> 'Ab'
    whole number          its digits, whatever type holds it; no exponent           -7, -7.0, -7.00 -> '-7'
    other float           the shortest digits that read back as the same float      0.1 -> '0.1'
                          (float16: as the same float64); no exponent               1e-7 -> '0.0000001'
    other decimal         its digits without trailing zeros                         1.50 -> '1.5'
    infinity              'inf', '-inf'
    boolean               'true', 'false'
    date                  ISO 8601                                                  '2024-02-29'
    timestamp             'YYYY-MM-DD HH:MM:SS' in UTC, with the fraction's digits  '2024-02-29 12:00:00.5'
                          up to microseconds (nanoseconds are cut) if there are any
    UUID                  lower case, with hyphens

Texts of integers, booleans, dates and timestamps without a zone (years 1 to 9999), ENUM and UUID are also what DuckDB's
CAST(... AS VARCHAR) gives, so that nothing changes when SQL casts them to an input declared as VARCHAR.

Before that, values of an input declared FLOAT, DOUBLE, BOOLEAN, DATE or TIMESTAMP become values of that type, as SQL's
cast makes them: `as_declared`.
"""

from __future__ import annotations

import struct
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from streamfm.errors import DataError

_TRAILING_ZEROS = r"\.?0+$"
_UTC_MICROSECONDS = pa.timestamp("us")
_ARROW_TYPES = {"FLOAT": pa.float32(), "DOUBLE": pa.float64(), "BOOLEAN": pa.bool_(), "DATE": pa.date32()}

# Not by pa.scalar(), nor by Python's own, of which pyarrow makes them: that imports pandas wherever it is installed.
_ZERO, _INT64_LIMIT = pa.Array.from_buffers(pa.float64(), 2, [None, pa.py_buffer(struct.pack("=dd", 0.0, 2.0**63))])
_FALSE = pa.Array.from_buffers(pa.bool_(), 1, [None, pa.py_buffer(b"\0")])[0]

# One event at a time, pc.cast would spend most of its time on making these.
_CAST = pc.get_function("cast")
_TO_TEXT = pc.CastOptions.safe(pa.string())
_TO_INTEGER = pc.CastOptions.safe(pa.int64())
_TO_DOUBLE = pc.CastOptions.unsafe(pa.float64())
_TO_REAL = {"FLOAT": pc.CastOptions.unsafe(pa.float32()), "DOUBLE": _TO_DOUBLE}


def canonical(array: pa.Array) -> pa.Array:
    """The values as categories: string or large_string, or int64, which stands for its digits.

    Raises:
        DataError: A type whose values are no categories, such as binary or a struct.
    """
    kind = array.type
    if types.is_string(kind) or types.is_large_string(kind) or kind == pa.int64():
        return array
    if types.is_dictionary(kind):
        return canonical(decoded(array))
    if types.is_integer(kind) and not types.is_uint64(kind):
        return _CAST.call([array], _TO_INTEGER)
    if _is_cast_enough(kind):
        return _CAST.call([array], _TO_TEXT)
    if types.is_floating(kind):
        return _float_texts(array)
    if types.is_decimal(kind):
        return _decimal_texts(array)
    if types.is_timestamp(kind):
        return pc.replace_substring_regex(pc.cast(_in_utc(array), pa.string()), pattern=_TRAILING_ZEROS, replacement="")
    if types.is_run_end_encoded(kind):
        return canonical(pc.run_end_decode(array))
    if isinstance(kind, pa.UuidType):
        return pa.array([None if value is None else str(value) for value in array.to_pylist()], pa.string())
    if isinstance(kind, pa.JsonType):
        return canonical(array.storage)
    raise DataError(f"values of type {kind} cannot be categories", hint=_hint_at_type(kind))


def category_texts(array: pa.Array) -> pa.Array:
    """The canonical texts themselves, as string."""
    return pc.cast(canonical(array), pa.string())


def as_declared(array: pa.Array, declared: str) -> pa.Array:
    """Values as SQL's cast to a declared scalar type makes them, where that would change their canonical text.

    Args:
        array: Of any type.
        declared: The normalised SQL type of the input, or of its elements.
    """
    kind = array.type
    if kind == _ARROW_TYPES.get(declared):
        return array
    if declared in _TO_REAL and (is_number(kind) or types.is_boolean(kind)):
        # By way of float64, as in SQL: Arrow's own step from a decimal to float32 rounds otherwise.
        return _CAST.call([as_double(array) if types.is_decimal(kind) else array], _TO_REAL[declared])
    if declared == "BOOLEAN" and is_number(kind):
        return pc.not_equal(_without_nan(as_double(array)), _ZERO)
    if declared == "DATE" and types.is_timestamp(kind):
        return pc.cast(pc.floor_temporal(_in_utc(array), unit="day"), pa.date32())
    if declared in ("TIMESTAMP", "TIMESTAMPTZ") and types.is_date(kind):
        return pc.cast(array, _UTC_MICROSECONDS)
    return array


def is_number(kind: pa.DataType) -> bool:
    """Whether values of an Arrow type are numbers (booleans are not)."""
    return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)  # type: ignore[no-any-return]


def as_double(array: pa.Array) -> pa.Array:
    """Numbers or booleans as float64; of a decimal the nearest, as in SQL."""
    if types.is_decimal(array.type):
        # By way of its digits: Arrow's own step makes 0.30000000000000004 of 0.3.
        array = _CAST.call([array], _TO_TEXT)
    return _CAST.call([array], _TO_DOUBLE)


def decoded(array: pa.DictionaryArray) -> pa.Array:
    """The entries that a dictionary array stands for."""
    if types.is_string_view(array.type.value_type):
        # Arrow cannot take from views, which is what polars exports.
        entries = pc.cast(array.dictionary, pa.large_string())
        return pc.take(entries, array.indices)
    return array.dictionary_decode()


def _is_cast_enough(kind: pa.DataType) -> bool:
    return (  # type: ignore[no-any-return]
        types.is_uint64(kind)
        or types.is_boolean(kind)
        or types.is_date(kind)
        or types.is_string_view(kind)
        or types.is_null(kind)
    )


def _float_texts(array: pa.Array) -> pa.Array:
    if types.is_float16(array.type):
        array = pc.cast(array, pa.float64())
    numbers = _without_nan(array)
    wide = pc.cast(numbers, pa.float64())
    is_whole = pc.and_(pc.equal(wide, pc.trunc(wide)), pc.less(pc.abs(wide), _INT64_LIMIT))
    digits = pc.cast(pc.if_else(is_whole, wide, _ZERO), pa.int64())
    if pc.all(is_whole).as_py() is not False:
        return digits
    texts = pc.if_else(is_whole, pc.cast(digits, pa.string()), pc.cast(numbers, pa.string()))
    return _without_exponents(texts, wide)


def _without_nan(array: pa.Array) -> pa.Array:
    # NaN is how pandas writes a missing value.
    return pc.if_else(pc.is_nan(array), pa.nulls(1, array.type)[0], array)


def _without_exponents(texts: pa.Array, values: pa.Array) -> pa.Array:
    """Texts like '1e-7' in plain digits; beyond 2**53 every float is whole, and has the digits of its integer."""
    has_exponent = pc.fill_null(pc.match_substring(texts, "e"), _FALSE)
    if not pc.any(has_exponent).as_py():
        return texts
    plain = [
        str(int(value)) if value.is_integer() else f"{Decimal(text):f}"
        for text, value in zip(
            texts.filter(has_exponent).to_pylist(), values.filter(has_exponent).to_pylist(), strict=True
        )
    ]
    return pc.replace_with_mask(texts, has_exponent, pa.array(plain, pa.string()))


def _decimal_texts(array: pa.Array) -> pa.Array:
    texts = pc.cast(array, pa.string())
    has_exponent = pc.fill_null(pc.match_substring(texts, "E"), _FALSE)
    if pc.any(has_exponent).as_py():
        plain = [f"{Decimal(text):f}" for text in texts.filter(has_exponent).to_pylist()]
        texts = pc.replace_with_mask(texts, has_exponent, pa.array(plain, pa.string()))
    if array.type.scale <= 0:
        return texts
    return pc.replace_substring_regex(texts, pattern=_TRAILING_ZEROS, replacement="")


def _in_utc(array: pa.Array) -> pa.Array:
    # A cast to a type without a zone gives the time in UTC. Seconds may not fit microseconds: that is an error.
    return pc.cast(array, _UTC_MICROSECONDS, safe=array.type.unit != "ns")


def _hint_at_type(kind: pa.DataType) -> str:
    if types.is_list(kind) or types.is_large_list(kind) or types.is_list_view(kind) or types.is_fixed_size_list(kind):
        return "lists belong to a multivalued feature; columns of many events go in as a table"
    return "cast them to VARCHAR"
