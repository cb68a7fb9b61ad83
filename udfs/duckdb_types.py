"""Which SQL types each input takes in a query, and how a value of it is carried to the encoder.

The rule is the same for a single value and for a column of a whole row, so that both give the same score:

    the input is used as         accepted                                            carried as
    category, list of categories VARCHAR, ENUM, UUID, integers, BOOLEAN, DATE,       itself; out of a row, its text
                                 TIMESTAMP
      declared FLOAT, DOUBLE     numbers                                             DOUBLE
      or DECIMAL
      declared TIMESTAMPTZ       TIMESTAMPTZ                                         itself
    number                       numbers, BOOLEAN                                    DOUBLE
    column of an SQL feature     its declared family only (integers for BIGINT, ...) the declared type

A FLOAT for a BIGINT category is refused, not rounded; an untyped NULL is accepted anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from streamfm.errors import DataError
from streamfm.expressions import Expression, quoted, typed
from streamfm.features import FeatureSpec, Input

_INTEGERS = frozenset(
    f"{sign}{width}" for sign in ("", "U") for width in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
)
_NUMBERS = _INTEGERS | {"FLOAT", "DOUBLE", "DECIMAL"}
_TEXTS = frozenset({"VARCHAR", "ENUM", "UUID"})
_TIMES = frozenset({"DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS"})
_CATEGORIES = _TEXTS | _INTEGERS | _TIMES | {"BOOLEAN"}
_FAMILIES: Mapping[str, frozenset[str]] = {
    "text": _TEXTS,
    "integer": _INTEGERS,
    "real": _NUMBERS,
    "boolean": frozenset({"BOOLEAN"}),
    "date": frozenset({"DATE"}),
    "timestamp": _TIMES | {"TIMESTAMP_NS"},
    "timestamptz": frozenset({"TIMESTAMPTZ"}),
}
_SPELLINGS = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ", '"NULL"': "NULL"}
_ARRAY = re.compile(r"\[\d*\]$")
_QUOTED_NAME = re.compile(r'"((?:[^"]|"")*)" (.*)', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One input as queries give it.

    Attributes:
        item: The input.
        features: The names of the features made of it.
        accepted: The SQL types it takes (of a list, its elements).
        carrier: The SQL type in which it is taken out of a row.
        is_number: Whether only numeric features are made of it.
        is_encoded: Whether a feature is made of it directly, and not by SQL only.
    """

    item: Input
    features: tuple[str, ...]
    accepted: frozenset[str]
    carrier: str
    is_number: bool
    is_encoded: bool

    @property
    def value(self) -> str:
        """The SQL that hands a value of this input, given by itself, to the encoder."""
        source = quoted(self.item.name)
        wanted = "DOUBLE" if self.is_number else {"text": "VARCHAR", "real": "DOUBLE"}.get(self.item.family)
        if wanted is None:
            return source
        # ENUM becomes text here: as a dictionary it would be rebuilt for every 2,048 rows.
        return f"TRY_CAST({source} AS {wanted}{'[]' if self.item.is_list else ''})"

    def refusal(self, kind: str) -> str | None:
        """Why a value of an SQL type cannot be given, or None when it can."""
        base, is_list = _base(kind)
        if base == "NULL" or (base in self.accepted and is_list == self.item.is_list):
            return None
        expected = "a list" if self.item.is_list and not is_list else _spoken(self.accepted)
        made = ", ".join(repr(name) for name in self.features)
        shown = kind if len(kind) <= 60 else kind[:57] + "..."
        return f"input {self.item.name!r} (feature {made}): got {shown}, expected {expected}"


def arguments_of(spec: FeatureSpec, expressions: Mapping[str, Expression]) -> tuple[Argument, ...]:
    """What each input that a feature uses takes, in the order of the specification."""
    return tuple(found for item in spec.inputs if (found := _argument(item, spec, expressions)) is not None)


def _argument(item: Input, spec: FeatureSpec, expressions: Mapping[str, Expression]) -> Argument | None:
    derived = [name for name, expression in expressions.items() if item.name in expression.columns]
    plain = [feature for feature in spec.features if not feature.sql and feature.input == item.name]
    if not derived and not plain:
        return None
    kinds = {feature.kind for feature in plain}
    family = _FAMILIES[item.family]
    if derived or len(kinds) > 1 or (kinds != {"numeric"} and item.family in ("real", "timestamptz")):
        accepted = family
    else:
        accepted = _NUMBERS | {"BOOLEAN"} if kinds == {"numeric"} else _CATEGORIES
    return Argument(
        item=item,
        features=tuple(feature.name for feature in plain) + tuple(derived),
        accepted=accepted,
        carrier=_carrier(item, kinds, is_derived=bool(derived)),
        is_number=kinds == {"numeric"},
        is_encoded=bool(plain),
    )


def _carrier(item: Input, kinds: Collection[str], *, is_derived: bool) -> str:
    if item.family in ("real", "timestamptz"):
        carrier = {"real": "DOUBLE", "timestamptz": "TIMESTAMPTZ"}[item.family]
    elif is_derived and item.family != "text":
        return item.type
    elif len(kinds) > 1:
        # Read as a category and as a number: integers fit, and their digits stay.
        carrier = "DECIMAL(38,0)" if item.family == "integer" else "BOOLEAN"
    else:
        carrier = "DOUBLE" if kinds == {"numeric"} else "VARCHAR"
    return carrier + ("[]" if item.is_list else "")


def row_value(row: str, arguments: Sequence[Argument]) -> str:
    """The SQL that takes the inputs out of a whole row, by name: others fall away, missing ones are NULL."""
    return f"TRY_CAST({row} AS STRUCT({', '.join(f'{quoted(a.item.name)} {a.carrier}' for a in arguments)}))"


def derived_values(expressions: Mapping[str, Expression], arguments: Sequence[Argument], row: str) -> Iterator[str]:
    """The SQL of each SQL feature.

    Args:
        expressions: By feature.
        arguments: What `arguments_of` gave.
        row: What `row_value` gave; empty when each input is given by itself.
    """
    source = f"({row})." if row else ""
    values = {a.item.name: typed(a.item, source + quoted(a.item.name)) for a in arguments}
    for expression in expressions.values():
        yield expression.render(values)


def is_row(kinds: Sequence[str], inputs: Sequence[Input], arguments: Sequence[Argument]) -> bool:
    """Whether a call gives a whole row, by the SQL types of what it gives for each input.

    Raises:
        DataError: A type that an input does not take, or a row together with single values; names the features.
    """
    given = dict(zip((item.name for item in inputs), kinds, strict=True))
    row = kinds[0] if kinds and kinds[0].startswith("STRUCT(") else None
    if row is not None:
        if any(kind != '"NULL"' for kind in kinds[1:]):
            raise DataError("a whole row and single values in one call", hint="give either")
        fields = {name.casefold(): kind for name, kind in struct_fields(row)}
        given = {item.name: fields.get(item.name.casefold(), '"NULL"') for item in inputs}
    refusals = [text for a in arguments if (text := a.refusal(given[a.item.name])) is not None]
    if refusals:
        first = next(a for a in arguments if a.refusal(given[a.item.name]) is not None)
        raise DataError("; ".join(refusals), hint=_hint(first, given[first.item.name]))
    return row is not None


def struct_fields(kind: str) -> Iterator[tuple[str, str]]:
    """Names and types in the text of a STRUCT type, such as ``STRUCT(a INTEGER, "b c" ENUM('x', 'y'))``."""
    start, depth, quote = len("STRUCT("), 0, ""
    for position in range(start, len(kind)):
        character = kind[position]
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif (character == "," and not depth) or position == len(kind) - 1:
            yield _field(kind[start:position].strip())
            start = position + 1
        else:
            depth += (character == "(") - (character == ")")


def _field(text: str) -> tuple[str, str]:
    if named := _QUOTED_NAME.fullmatch(text):
        return named[1].replace('""', '"'), named[2]
    name, _, kind = text.partition(" ")
    return name, kind


def _base(kind: str) -> tuple[str, bool]:
    element = _ARRAY.sub("", kind)
    name = _SPELLINGS.get(element, element)
    return name.split("(", maxsplit=1)[0], element != kind


def _spoken(accepted: frozenset[str]) -> str:
    rest, numbers = set(accepted), []
    for group, name in ((_NUMBERS, "a number"), (_INTEGERS, "an integer")):
        if group <= rest:
            numbers.append(name)
            rest -= group
    order = ("VARCHAR", "ENUM", "UUID", "BOOLEAN", "DATE", "TIMESTAMP", "TIMESTAMPTZ")
    names = [*numbers, *(name for name in order if name in rest)]
    return ", ".join(names[:-1]) + " or " + names[-1] if len(names) > 1 else names[0]


def _hint(argument: Argument, kind: str) -> str:
    (base, is_list), item = _base(kind), argument.item
    if base in ("STRUCT", "TUPLE"):
        return "only the first argument may be a whole row, with named columns"
    if item.is_list and not is_list:
        return f"put single values into a list: [{item.name}]"
    if {base, item.type} == {"TIMESTAMP", "TIMESTAMPTZ"}:
        return f"a cast would go by the session's TimeZone; say which one: {item.name} AT TIME ZONE 'UTC'"
    if item.family == "text" and base in _NUMBERS and "BIGINT" in argument.accepted:
        return f"cast it to what training saw, {item.name}::BIGINT or {item.name}::VARCHAR"
    return f"cast it: {item.name}::{item.type}"
