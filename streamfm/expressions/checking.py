"""Which SQL a feature may be: parsed by DuckDB itself, allowed node by node, rewritten so that no session changes it.

A feature's expression runs in three places: in a private DuckDB (training, streams, Python), and inside the user's own
session (the SQL functions). It must give the same value in all of them, today and next year. So nothing is allowed that
looks at a table, a clock, a setting or a random number, and what a session could bend is spelled out:

    hour(ts)     a user's macro could shadow it        "system".main."hour"(ts)
    a / 2        SET integer_division                  "system".main."/"(a, 2)
    s = 'x'      SET default_collation                 (s COLLATE C) = ('x' COLLATE C)
    zones        SET TimeZone, SET Calendar            refused, but for ts AT TIME ZONE 'UTC' AT TIME ZONE 'Asia/Tokyo'
    list_sort(l) SET default_order, default_null_order refused, but with both given
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from streamfm.errors import SpecError
from streamfm.expressions.rules import (
    CAST_HINT,
    CAST_TYPES,
    CLOCKS,
    NODE_CLASSES,
    OPERATORS,
    ZONED_TYPES,
    function_refusal,
    pure_functions,
)
from streamfm.features import hint_at

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

MAX_LENGTH = 10_000
_PLACE = "streamfm_input_"
_PLACEHOLDERS = re.compile(rf"{_PLACE}(\d+)_")

Node = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Expression:
    """A feature's SQL that passed the check.

    Attributes:
        sql: As it was written.
        columns: The inputs it uses, in the order of the specification.
        type: The SQL type of its result.
        template: The rewritten text, in which a placeholder stands for each input.
    """

    sql: str
    columns: tuple[str, ...]
    type: str
    template: str = field(repr=False)

    def render(self, values: Mapping[str, str]) -> str:
        """The SQL text with `values` (SQL texts, by input) in the inputs' places."""
        return _PLACEHOLDERS.sub(lambda place: values[self.columns[int(place[1])]], self.template)


def check(sql: str, types: Mapping[str, str], connection: DuckDBPyConnection, *, where: str) -> Expression:
    """The expression, if it is one that gives the same value on every route.

    Args:
        sql: One scalar SQL expression.
        types: The SQL type in which the expression sees each input, by name.
        connection: A DuckDB connection that nobody else uses.
        where: What to name in errors, such as ``feature 'hour'``.

    Raises:
        SpecError: Not a scalar expression, an unknown column or function, wrong types, or something whose value
            depends on the session, the time or DuckDB's release.
    """
    try:
        return _Check(sql, types, connection, where).run()
    except RecursionError as error:
        raise SpecError(f"{where}: its sql is nested too deeply", hint="split it into several features") from error


class _Check:
    """One expression on its way through the check."""

    def __init__(self, sql: str, types: Mapping[str, str], connection: DuckDBPyConnection, where: str) -> None:
        self.sql, self.types, self.connection, self.where = sql, types, connection, where
        self.names = {name.casefold(): name for name in types}
        self.used: set[str] = set()
        self.functions = pure_functions(connection)

    def refuse(self, what: str, hint: str | None = None) -> SpecError:
        return SpecError(f"{self.where}: sql = {self.sql[:200]!r}: {what}", hint=hint)

    def run(self) -> Expression:
        node = self.parse()
        self.walk(node)
        columns = tuple(name for name in self.types if name in self.used)
        places = {name: f"{_PLACE}{number}_" for number, name in enumerate(columns)}
        for child in _nodes(node):
            if child.get("class") == "COLUMN_REF":
                child["column_names"] = [places[self.names[child["column_names"][0].casefold()]]]
        inputs = ", ".join([*(f"NULL::{self.types[name]} AS {place}" for name, place in places.items()), "NULL AS _"])
        self.collate(node, inputs)
        template = self.text_of(node)
        return Expression(sql=self.sql, columns=columns, type=self.bind(template, inputs), template=template)

    def parse(self) -> Node:
        if not self.sql.strip() or len(self.sql) > MAX_LENGTH:
            raise self.refuse(f"expected one SQL expression of at most {MAX_LENGTH:,} characters")
        if _PLACE in self.sql:
            raise self.refuse("names beginning with 'streamfm_input_' are kept for streamfm")
        query = "SELECT json_serialize_sql(?::VARCHAR, skip_null := true, skip_empty := true)"
        parsed = json.loads(self.ask(query, f"SELECT {self.sql}\n"))
        if parsed["error"]:
            raise self.refuse(parsed["error_message"])
        statements = parsed["statements"]
        node = statements[0]["node"]
        known = {"type": "SELECT_NODE", "cte_map": {}, "aggregate_handling": "STANDARD_HANDLING"}
        rest = {key: value for key, value in node.items() if key not in ("select_list", "from_table")}
        one = len(statements) == 1 and rest == known and len(node["select_list"]) == 1
        if not one or node["from_table"].get("type") != "EMPTY":
            raise self.refuse("expected one scalar expression: no FROM, WHERE, ORDER BY or second column")
        expression: Node = node["select_list"][0]
        if expression.get("alias"):
            raise self.refuse("an expression has no alias", hint="the feature's name is its name")
        return expression

    def walk(self, node: Node) -> None:
        for child in _nodes(node):
            kind = child["class"]
            if kind not in NODE_CLASSES or (kind == "OPERATOR" and child["type"] not in OPERATORS):
                what = child["type"].lower().replace("_", " ")
                hint = "only functions, operators, CASE and casts over the inputs"
                raise self.refuse(f"{what} is not allowed in a feature", hint)
            if kind == "COLUMN_REF":
                self.column(child)
            elif kind == "FUNCTION":
                self.function(child)
            elif kind == "TYPE" and (child["type_name"].upper() not in CAST_TYPES or "schema" in child):
                raise self.refuse(f"a cast to {child['type_name']} is not allowed in a feature", CAST_HINT)

    def column(self, node: Node) -> None:
        path = node["column_names"]
        name = self.names.get(path[0].casefold())
        if name is not None and len(path) == 1:
            self.used.add(name)
        elif path[-1].casefold() in CLOCKS:
            raise self.refuse(f"{path[-1]} reads the clock", hint="use the event's own time: an input")
        else:
            raise self.refuse(f"no input {'.'.join(path)!r}", hint=hint_at(path[-1], self.types, what="inputs"))

    def function(self, node: Node) -> None:
        name = node["function_name"].casefold()
        path = [part.casefold() for part in node["qualified_name"]["path"]]
        if path not in ([name], ["system", "main", name]):
            raise self.refuse(f"function {'.'.join(path)!r} is not allowed", hint=f"write {name}(...)")
        arguments = node.get("arguments", [])
        if refusal := function_refusal(name, len(arguments), self.functions):
            raise self.refuse(*refusal)
        if node["distinct"] or "filter" in node or node.get("order_bys", {}).get("orders"):
            raise self.refuse(f"{name}() takes no DISTINCT, FILTER or ORDER BY here")
        if name != "struct_pack" and any("name" in argument for argument in arguments):
            raise self.refuse(f"{name}() takes no named arguments here")
        # In function form an operator is bound by its name too: no macro and no setting takes its place.
        node.update(catalog="system", schema="main", is_operator=False)
        node["qualified_name"] = {"path": ["system", "main", name]}
        node["function_name"] = name

    def collate(self, node: Node, inputs: str) -> None:
        """Text is compared byte by byte, whatever the session's collation."""
        for child in list(_nodes(node)):
            keys = _operands(child)
            kinds = {kind for owner, key in keys if (kind := self.type_of(owner[key], inputs)) != '"NULL"'}
            if kinds == {"VARCHAR"}:
                for owner, key in keys:
                    owner[key] = {"class": "COLLATE", "type": "COLLATE", "child": owner[key], "collation": "C"}
            elif any(kind != "VARCHAR" and "VARCHAR" in kind for kind in kinds):
                hint = "compare their parts, or use list_has(), list_has_all()"
                raise self.refuse("lists or structs of text are compared by the session's collation", hint)

    def type_of(self, node: Node, inputs: str) -> str:
        return str(self.ask(f"SELECT typeof({self.text_of(node)}) FROM (SELECT {inputs})"))

    def ask(self, query: str, *parameters: str) -> Any:
        import duckdb

        try:
            return self.connection.execute(query, list(parameters)).fetchall()[0][0]
        except duckdb.Error as error:
            raise self.refuse(_first_lines(str(error))) from error

    def text_of(self, node: Node) -> str:
        select = {"type": "SELECT_NODE", "select_list": [node], "from_table": {"type": "EMPTY"}, "cte_map": {}}
        tree = {"error": False, "statements": [{"node": {**select, "aggregate_handling": "STANDARD_HANDLING"}}]}
        text = str(self.ask("SELECT json_deserialize_sql(?::JSON)", json.dumps(tree)))
        return "(" + text.removeprefix("SELECT ") + ")"

    def bind(self, template: str, inputs: str) -> str:
        """The type of the result; the bound expression must not pass through a type that a time zone bends."""
        query = f"SELECT {template} AS result FROM (SELECT {inputs})"
        kind = str(self.ask(f"SELECT typeof(result) FROM ({query})"))
        options = "skip_null := true, skip_empty := true, skip_default := true, optimize := false"
        plan = json.loads(self.ask(f"SELECT json_serialize_plan(?::VARCHAR, {options})", query))
        if plan["error"]:
            raise self.refuse(_first_lines(plan["error_message"]))
        if _is_zoned(plan["plans"][0]["expressions"][0], inside_zone=False):
            hint = "local time is ts AT TIME ZONE 'UTC' AT TIME ZONE 'Asia/Tokyo'; inputs are in UTC already"
            raise self.refuse("a time with a time zone depends on the session's TimeZone", hint)
        return kind


def _nodes(value: Any) -> Iterator[Node]:
    """Every node of a parsed expression, parents first."""
    if isinstance(value, dict):
        if "class" in value:
            yield value
        for child in value.values():
            yield from _nodes(child)
    elif isinstance(value, list):
        for child in value:
            yield from _nodes(child)


def _operands(node: Node) -> list[tuple[Any, Any]]:
    """Where a comparison keeps what it compares: containers and keys."""
    if node["class"] == "COMPARISON":
        return [(node, "left"), (node, "right")]
    if node["class"] == "BETWEEN":
        return [(node, "input"), (node, "lower"), (node, "upper")]
    if node["type"] in ("COMPARE_IN", "COMPARE_NOT_IN"):
        return [(node["children"], number) for number in range(len(node["children"]))]
    return []


def _is_zoned(bound: Any, *, inside_zone: bool) -> bool:
    """Whether a bound expression has a zoned type anywhere but between two AT TIME ZONE."""
    if isinstance(bound, list):
        return any(_is_zoned(child, inside_zone=inside_zone) for child in bound)
    if not isinstance(bound, dict):
        return False
    is_zone = bound.get("qname", {}).get("path", [""])[-1] == "timezone"
    kind = json.dumps(bound.get("return_type", {}))
    zoned = any(f'"{name}"' in kind for name in ZONED_TYPES)
    if zoned and not (is_zone and inside_zone):
        return True
    children = [value for key, value in bound.items() if key not in ("return_type", "arguments")]
    return any(_is_zoned(child, inside_zone=is_zone and not zoned) for child in children)


def _first_lines(text: str) -> str:
    """A DuckDB error without its candidates, position and source line."""
    text = text.split("\n\nLINE ", maxsplit=1)[0].split("\n\tCandidate", maxsplit=1)[0]
    return text.removeprefix("Binder Error: ").strip()
