"""What SQL features may be made of: node by node, function by function; `streamfm.expressions.checking` reads it."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

NODE_CLASSES = {
    *("FUNCTION", "COLUMN_REF", "CONSTANT", "CAST", "OPERATOR", "COMPARISON", "CONJUNCTION", "CASE", "BETWEEN", "TYPE"),
}
OPERATORS = {
    *("OPERATOR_NOT", "OPERATOR_IS_NULL", "OPERATOR_IS_NOT_NULL", "OPERATOR_COALESCE", "OPERATOR_TRY"),
    *("COMPARE_IN", "COMPARE_NOT_IN", "ARRAY_EXTRACT", "ARRAY_SLICE"),
}
_SYMBOLS = {
    *("+", "-", "*", "/", "//", "%", "**", "^", "&", "|", "<<", ">>", "~", "@", "||", "~~", "!~~", "~~*"),
    *("!~~*", "~~~", "->>"),
}
CAST_TYPES = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    *("UHUGEINT", "FLOAT", "DOUBLE", "DECIMAL", "VARCHAR", "BLOB", "BOOLEAN", "DATE", "TIME", "INTERVAL"),
    *("UUID", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "LIST"),
}
# CONSISTENT in duckdb_functions(), and yet: a clock, a value that changes between releases, another function by name
# (list_aggregate), or a function made for the optimizer that brings the whole database down when it is called by hand.
_DENIED = {
    *("current_localtime", "current_localtimestamp", "hash", "list_aggregate", "list_aggr", "array_aggregate"),
    *("array_aggr", "aggregate", "alias", "combine", "constant_or_null", "create_sort_key", "finalize"),
    *("get_type", "hive_partition_component", "index_key", "invoke", "json_deserialize_sql", "json_serialize_plan"),
    *("json_serialize_sql", "make_type", "cast_to_type", "replace_type", "remap_struct", "parse_duckdb_log_message"),
    *("switch", "to_aggregate_state", "variant_normalize", "bitstring_byte_comparable", "timetz_byte_comparable"),
    *("unpivot_list",),
}
_DENIED_NAME = re.compile(r"__.*|(icu_)?collate_.*|icu_sort_key|st_.*|variant_.*")
_SORTS = {
    *("list_sort", "array_sort", "list_grade_up", "array_grade_up", "grade_up"),
}
_REVERSE_SORTS = {"list_reverse_sort", "array_reverse_sort"}
CLOCKS = {
    *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "now", "today"),
    *("age", "get_current_timestamp"),
}
_INSTEAD = {
    "if": "CASE WHEN ... THEN ... ELSE ... END",
    "nullif": "CASE WHEN a = b THEN NULL ELSE a END",
    "split_part": "string_split(s, ',')[1]",
    "current_localtimestamp": "the event's own time",
}
ZONED_TYPES = {"TIMESTAMP WITH TIME ZONE", "TIME WITH TIME ZONE", "TIMESTAMP_TZ_NS"}

CAST_HINT = "casts are to numbers, VARCHAR, BOOLEAN, DATE, TIME, TIMESTAMP, INTERVAL, UUID, BLOB and lists of them"

_RULE = "allowed are DuckDB's own scalar functions whose value depends on their arguments alone"
_functions: frozenset[str] = frozenset()


def pure_functions(connection: DuckDBPyConnection) -> frozenset[str]:
    """DuckDB's own scalar functions whose value depends on their arguments alone, by what DuckDB says of them."""
    global _functions
    if not _functions:
        rows = connection.execute("""
            SELECT function_name FROM duckdb_functions() GROUP BY function_name
            HAVING bool_or(function_type = 'scalar') AND bool_and(database_name = 'system') AND bool_and(
                function_type = 'table' OR (function_type = 'scalar' AND stability = 'CONSISTENT'))""").fetchall()
        _functions = frozenset(name for (name,) in rows if re.fullmatch(r"[a-z][a-z0-9_]*", name))
    return _functions


def function_refusal(name: str, arguments: int, functions: frozenset[str]) -> tuple[str, str | None] | None:
    """Why a function cannot be called in a feature, and a hint; None when it can.

    Args:
        name: In lower case.
        arguments: How many it is given.
        functions: What `pure_functions` gave.
    """
    if name in CLOCKS and (name != "age" or arguments != 2):
        return f"{name}() reads the clock", "use the event's own time: an input"
    if name in _REVERSE_SORTS or (name in _SORTS and arguments != 3):
        return f"the order of {name}() depends on the session's settings", "write list_sort(x, 'ASC', 'NULLS LAST')"
    if name in _INSTEAD or name in _DENIED or _DENIED_NAME.fullmatch(name):
        return f"function {name!r} is not allowed in a feature", f"use {_INSTEAD[name]}" if name in _INSTEAD else _RULE
    if name in functions or name in _SYMBOLS:
        return None
    near = difflib.get_close_matches(name, functions - _DENIED, n=1, cutoff=0.75)
    return f"no function {name!r} for features", f"did you mean {near[0]!r}?" if near else _RULE
