"""Which columns an input takes: the one rule of training, of the Scorer's SQL features and of the SQL functions.

It depends on what an input is declared as and on what is made of it, never on which route brings the column:

    the input is used as                     families of columns that it takes
    category, list of categories             text, integer, real, boolean, date, timestamp
      declared FLOAT, DOUBLE or DECIMAL      integer, real, boolean
      declared DATE or TIMESTAMP             date, timestamp
      declared TIMESTAMPTZ                   timestamptz
    number                                   integer, real, boolean
    column of an SQL feature, declared text  text, integer, boolean
      integer                                integer, real, boolean, text
      real                                   integer, real, boolean
      boolean, date, timestamptz             the same
      timestamp                              timestamp, date

An input that is used in several ways takes what all of them take. A column without a type (all NULL) is always taken.
Arrow has no integer of more than 64 bits: there a decimal of scale 0 is an integer.
Arrow's instants are in UTC, so they are timestamps with and without a zone; SQL's two are not the same, since a cast
between them goes by the session's TimeZone.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import pyarrow as pa
from pyarrow import types

from streamfm.features.inputs import FAMILIES, Family, Input
from streamfm.features.spec import Feature

Use = Literal["category", "number", "sql"]

_NUMBERS = frozenset({"integer", "real", "boolean"})
_CATEGORIES = _NUMBERS | {"text", "date", "timestamp"}
_ACCEPTED: Mapping[Use, Mapping[Family, frozenset[str]]] = {
    "category": {
        **dict.fromkeys(("text", "integer", "boolean"), _CATEGORIES),
        "real": _NUMBERS,
        # A text or a number would be read by the input's JSON form, which SQL does not know.
        **dict.fromkeys(("date", "timestamp"), frozenset({"date", "timestamp"})),
        "timestamptz": frozenset({"timestamptz"}),
    },
    "number": dict.fromkeys(FAMILIES.values(), _NUMBERS),
    "sql": {
        "text": frozenset({"text", "integer", "boolean"}),
        "integer": _NUMBERS | {"text"},
        "real": _NUMBERS,
        "boolean": frozenset({"boolean"}),
        "date": frozenset({"date"}),
        "timestamp": frozenset({"timestamp", "date"}),
        "timestamptz": frozenset({"timestamptz"}),
    },
}
_SPOKEN = {
    "text": "VARCHAR",
    "boolean": "BOOLEAN",
    "date": "DATE",
    "timestamp": "TIMESTAMP",
    "timestamptz": "TIMESTAMPTZ",
}

_SQL_FAMILIES: Mapping[str, str] = {
    **FAMILIES,
    **dict.fromkeys(("ENUM", "JSON"), "text"),
    **dict.fromkeys(("TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS"), "timestamp"),
    "DECIMAL": "real",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    '"NULL"': "null",
}
_ARRAY = re.compile(r"\[\d*\]$")
_WHOLE_DECIMAL = re.compile(r"DECIMAL\(\d+,0\)")


@dataclass(frozen=True, slots=True)
class ColumnType:
    """What a column holds, whatever engine brings it.

    Attributes:
        families: What its values are (of lists, the elements); empty for what no input takes, ``null`` without a type.
        is_list: Whether they come in lists.
        name: The SQL type without its parameters, such as ``DECIMAL``; empty when it came from Arrow.
    """

    families: frozenset[str]
    is_list: bool
    name: str = ""

    def is_number(self) -> bool:
        """Whether it is one number a row, or without a type."""
        return not self.is_list and bool(self.families & {*_NUMBERS, "null"})


@lru_cache(maxsize=1024)
def of_sql(kind: str) -> ColumnType:
    """The type that DuckDB's typeof() writes so, such as ``ENUM('a', 'b')[3]``."""
    element = _ARRAY.sub("", kind)
    name = element.split("(", maxsplit=1)[0]
    # A decimal without a fraction is an integer, as it is in Arrow: wide integers come as such.
    family = "integer" if _WHOLE_DECIMAL.fullmatch(element) else _SQL_FAMILIES.get(name)
    return ColumnType(frozenset({family} if family else ()), element != kind, name)


def of_arrow(kind: pa.DataType) -> ColumnType:
    """The type of an Arrow column."""
    lists = (types.is_list, types.is_large_list, types.is_fixed_size_list, types.is_list_view, types.is_large_list_view)
    if any(is_list(kind) for is_list in lists):
        return ColumnType(_of_arrow_value(kind.value_type), is_list=True)
    return ColumnType(_of_arrow_value(kind), is_list=False)


def _of_arrow_value(kind: pa.DataType) -> frozenset[str]:
    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return _of_arrow_value(kind.value_type)
    if types.is_timestamp(kind):
        return frozenset({"timestamp", "timestamptz"})
    for name, is_kind in (
        ("null", types.is_null),
        ("integer", _is_whole),
        ("real", types.is_floating),
        ("real", types.is_decimal),
        ("boolean", types.is_boolean),
        ("date", types.is_date),
        ("text", types.is_string),
        ("text", types.is_large_string),
        ("text", types.is_string_view),
    ):
        if is_kind(kind):
            return frozenset({name})
    return frozenset({"text"} if isinstance(kind, (pa.UuidType, pa.JsonType)) else ())


def _is_whole(kind: pa.DataType) -> bool:
    return bool(types.is_integer(kind) or (types.is_decimal(kind) and kind.scale == 0))


def use_of(feature: Feature) -> Use:
    """How a feature uses its input, or those of its SQL."""
    if feature.sql:
        return "sql"
    return "number" if feature.kind == "numeric" else "category"


def accepted(item: Input, uses: Collection[Use]) -> frozenset[str]:
    """The families that an input takes (of a list, its elements)."""
    return frozenset.intersection(*(_ACCEPTED[use][item.family] for use in uses))


def refusal(item: Input, uses: Collection[Use], column: ColumnType) -> str | None:
    """What the input takes instead of such a column, in words; None when it takes it."""
    families = accepted(item, uses)
    if "null" in column.families and (item.is_list or not column.is_list):
        return None
    if item.is_list != column.is_list:
        return "a list" if item.is_list else f"single values: {spoken(families)}"
    return None if families & column.families else spoken(families)


def spoken(families: Collection[str]) -> str:
    """The families as an error names them, such as ``a number, VARCHAR or DATE``."""
    number = "a number" if "real" in families else "an integer"
    names = [number] if "integer" in families else []
    names += [name for family, name in _SPOKEN.items() if family in families]
    return ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0]
