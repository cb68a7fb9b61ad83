"""Which category a value is: the one written rule that every route shares.

A category is the canonical text of a value, whatever type brought it. So the integer 1, the float 1.0 that pandas makes
of it beside a missing value, the decimal 1.00, the string '1' and the dictionary entry '1' are the same category:

    type                  canonical text                                            example
    NULL, NaN             none: the missing value                                   —
    string, dictionary    itself, byte by byte (no trimming, no case folding)       ' Ab' -> ' Ab'
    integer               decimal digits                                            -7 -> '-7'
    boolean               'true', 'false'                                           true -> 'true'
    float                 digits of the integer when it is one within int64, else   3.0 -> '3'
                          the shortest digits that read back as the same float      0.1 -> '0.1'
    decimal               without trailing zeros                                    1.50 -> '1.5'
    date                  ISO 8601                                                  '2024-02-29'
    timestamp             'YYYY-MM-DD HH:MM:SS', with the fraction's digits up to   '2024-02-29 12:00:00.5'
                          microseconds when there are any; in UTC
"""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from streamfm.errors import DataError

_TRAILING_ZEROS = r"\.?0+$"
_INT64_LIMIT = 2.0**63


def canonical(array: pa.Array) -> pa.Array:
    """The values as categories: string or large_string, or int64, which stands for its digits.

    Raises:
        DataError: A type whose values are no categories, such as binary or a struct.
    """
    kind = array.type
    if types.is_string(kind) or types.is_large_string(kind) or kind == pa.int64():
        return array
    if types.is_dictionary(kind):
        return canonical(array.dictionary_decode())
    if types.is_uint64(kind):
        return pc.cast(array, pa.string())
    if types.is_integer(kind):
        return pc.cast(array, pa.int64())
    if types.is_boolean(kind) or types.is_null(kind) or types.is_date(kind) or types.is_string_view(kind):
        return pc.cast(array, pa.string())
    if types.is_floating(kind):
        return _float_texts(array)
    if types.is_decimal(kind):
        return _decimal_texts(array)
    if types.is_timestamp(kind):
        return _timestamp_texts(array)
    raise DataError(f"values of type {kind} cannot be categories", hint="cast them to VARCHAR")


def category_texts(array: pa.Array) -> pa.Array:
    """The canonical texts themselves, as string."""
    return pc.cast(canonical(array), pa.string())


def _float_texts(array: pa.Array) -> pa.Array:
    # NaN is how pandas writes a missing value.
    numbers = pc.if_else(pc.is_nan(array), pa.scalar(None, array.type), array)
    wide = pc.cast(numbers, pa.float64())
    whole = pc.and_(pc.equal(wide, pc.trunc(wide)), pc.less(pc.abs(wide), _INT64_LIMIT))
    digits = pc.cast(pc.if_else(whole, wide, 0.0), pa.int64())
    if pc.all(whole).as_py() is not False:
        return digits
    return pc.if_else(whole, pc.cast(digits, pa.string()), pc.cast(numbers, pa.string()))


def _decimal_texts(array: pa.Array) -> pa.Array:
    texts = pc.cast(array, pa.string())
    if array.type.scale <= 0:
        return texts
    return pc.replace_substring_regex(texts, pattern=_TRAILING_ZEROS, replacement="")


def _timestamp_texts(array: pa.Array) -> pa.Array:
    # A cast to a type without a zone gives the time in UTC; nanoseconds are cut, as DuckDB's TIMESTAMP cuts them.
    micros = pc.cast(array, pa.timestamp("us"), safe=False)
    return pc.replace_substring_regex(pc.cast(micros, pa.string()), pattern=_TRAILING_ZEROS, replacement="")
