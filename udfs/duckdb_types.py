"""How each input of a query is checked, and carried to the encoder, so that every way to call gives the same score.

What an input takes is streamfm.features.accepted's rule. How values are carried:

    the input is used as         given by itself            out of a whole row
    category, list of categories itself; as its text where  as its text
                                 declared text or HUGEINT
      declared FLOAT, DOUBLE     DOUBLE                     DOUBLE
      declared DATE, TIMESTAMP   the declared type          the declared type
      declared TIMESTAMPTZ       itself                     TIMESTAMPTZ
    number                       DOUBLE                     DOUBLE
    column of an SQL feature     the declared type          the declared type

The type out of a row is written down before the row's own types are known, and text holds them all. But SQL writes 1.0
where the canonical text is '1', so `read_as` tells, once a query, what a text is to be read back as.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamfm.errors import DataError
from streamfm.expressions import Expression, quoted, typed
from streamfm.features import FeatureSpec, Input
from streamfm.features.accepted import Use, accepted, of_sql, refusal, use_of

_UNLIKE_CANONICAL: Mapping[str, pa.DataType] = {
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "DECIMAL": pa.decimal256(76, 38),
    "TIMESTAMP_NS": pa.timestamp("ns"),
}
_READ_AS: Mapping[str, pa.DataType] = {
    **_UNLIKE_CANONICAL,
    **dict.fromkeys(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER"), pa.int64()),
    **dict.fromkeys(("HUGEINT", "UBIGINT", "UHUGEINT"), pa.decimal256(76, 0)),
    "BOOLEAN": pa.bool_(),
}
_ENCODED_AS: Mapping[str, str] = {
    **dict.fromkeys(("FLOAT", "DOUBLE"), "DOUBLE"),
    **{name: name for name in ("DATE", "TIMESTAMP", "TIMESTAMPTZ")},
}
_HUGE = ("HUGEINT", "UHUGEINT")
"""Arrow has no such type: DuckDB hands some of them over as DOUBLE."""
_QUOTED_NAME = re.compile(r'"((?:[^"]|"")*)" (.*)', re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Argument:
    """One input as queries give it.

    Attributes:
        item: The input.
        features: The names of the features made of it.
        uses: What it is used as.
    """

    item: Input
    features: tuple[str, ...]
    uses: frozenset[Use]

    @property
    def is_encoded(self) -> bool:
        """Whether a feature is made of it directly, and not by SQL only."""
        return self.uses != {"sql"}

    @property
    def value(self) -> str:
        """The SQL that hands a value of this input, given by itself, to the encoder."""
        source, kind = quoted(self.item.name), self._encoded
        # ENUM becomes text here: as a dictionary it would be rebuilt for every 2,048 rows.
        is_cast = kind in ("DOUBLE", "DATE", "TIMESTAMP") or self._is_text
        return f"TRY_CAST({source} AS {self._as_list(kind)})" if is_cast else source

    @property
    def carrier(self) -> str:
        """The SQL type in which the encoder's value is taken out of a row."""
        return self._as_list(self._encoded) if self.is_encoded else self.sql_carrier

    @property
    def sql_carrier(self) -> str:
        """The SQL type in which the value for SQL features is taken out of a row."""
        if "sql" not in self.uses:
            return self.carrier
        # As `typed` does: every route rounds by way of DOUBLE.
        return "DOUBLE" if self.item.family == "real" and not self.item.is_list else self.item.type

    def read_as(self, kind: str, *, in_row: bool) -> str:
        """The name of the type to read a carried text of an SQL type back as; empty where it is canonical already."""
        name = of_sql(kind).name
        if self._encoded != "VARCHAR" or not self.is_encoded or not (in_row or self._is_text):
            return ""
        if "number" in self.uses:
            # Without a column it is NULL, but a number all the same.
            return name if name in _READ_AS else "DOUBLE"
        is_text_enough = self.item.family in ("text", "integer", *of_sql(kind).families)
        return name if name in (_UNLIKE_CANONICAL if is_text_enough else _READ_AS) else ""

    def refusal(self, kind: str) -> str | None:
        """Why a value of an SQL type cannot be given, or None when it can."""
        expected = refusal(self.item, self.uses, of_sql(kind))
        if expected is None:
            return None
        made = ", ".join(repr(name) for name in self.features)
        shown = kind if len(kind) <= 60 else kind[:57] + "..."
        return f"input {self.item.name!r} (feature {made}): got {shown}, expected {expected}"

    @property
    def _encoded(self) -> str:
        if self.uses - {"sql"} == {"number"}:
            return "DOUBLE"
        return _ENCODED_AS.get(self._element, "VARCHAR")

    @property
    def _is_text(self) -> bool:
        return (self.item.family == "text" or self._element in _HUGE) and "number" not in self.uses

    @property
    def _element(self) -> str:
        """The declared type, of a list that of its elements, without parameters."""
        return of_sql(self.item.type).name

    def _as_list(self, kind: str) -> str:
        return kind + "[]" if self.item.is_list else kind


def arguments_of(spec: FeatureSpec, expressions: Mapping[str, Expression]) -> tuple[Argument, ...]:
    """What each input that a feature uses takes, in the order of the specification."""
    found = []
    for item in spec.inputs:
        made = [
            feature
            for feature in spec.features
            if item.name in (expressions[feature.name].columns if feature.sql else [feature.input])
        ]
        if made:
            made.sort(key=lambda feature: bool(feature.sql))
            names, uses = tuple(feature.name for feature in made), frozenset(map(use_of, made))
            found.append(Argument(item=item, features=names, uses=uses))
    return tuple(found)


def row_value(row: str, arguments: Sequence[Argument]) -> str:
    """The SQL that takes the inputs out of a whole row, by name: others fall away, missing ones are NULL."""
    return _cast_row(row, {a.item.name: a.carrier for a in arguments})


def row_for_sql(row: str, arguments: Sequence[Argument]) -> str:
    """The same for SQL features: `row_value` itself, unless one of theirs is carried otherwise."""
    return _cast_row(row, {a.item.name: a.sql_carrier for a in arguments})


def _cast_row(row: str, carriers: Mapping[str, str]) -> str:
    # All of them in either: DuckDB refuses a cast of a row that has none of the names.
    return f"TRY_CAST({row} AS STRUCT({', '.join(f'{quoted(name)} {kind}' for name, kind in carriers.items())}))"


def read_back(array: pa.Array, name: str) -> pa.Array:
    """Texts that SQL made of values of a type, or lists of them, as that type again."""
    kind = _READ_AS[name]
    # Arrow casts views of texts to few types, and views of lists wrongly.
    return map_values(array, lambda values: pc.cast(pc.cast(values, pa.string()), kind))


def map_values(array: pa.Array, change: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """The array with its values, of lists their elements, changed."""
    if not pa.types.is_nested(array.type):
        return change(array)
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets), change(array.flatten()), mask=pc.is_null(array))


def derived_values(expressions: Mapping[str, Expression], arguments: Sequence[Argument], row: str) -> Iterator[str]:
    """The SQL of each SQL feature.

    Args:
        expressions: By feature.
        arguments: What `arguments_of` gave.
        row: What `row_for_sql` gave; empty when each input is given by itself.
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
    in_row, given = _given(kinds, inputs)
    if in_row and any(kind != '"NULL"' for kind in kinds[1:]):
        raise DataError("a whole row and single values in one call", hint="give either")
    refusals = {a: text for a in arguments if (text := a.refusal(given[a.item.name])) is not None}
    if refusals:
        first = next(iter(refusals))
        raise DataError("; ".join(refusals.values()), hint=_hint(first, given[first.item.name]))
    return in_row


def read_as(kinds: Sequence[str], inputs: Sequence[Input], arguments: Sequence[Argument]) -> str:
    """What each argument's text is to be read back as, with commas between; empty when none is."""
    in_row, given = _given(kinds, inputs)
    names = [a.read_as(given[a.item.name], in_row=in_row) for a in arguments]
    return ",".join(names) if any(names) else ""


def _given(kinds: Sequence[str], inputs: Sequence[Input]) -> tuple[bool, dict[str, str]]:
    """Whether it is a whole row, and the SQL type of what is given for each input."""
    if kinds and kinds[0].startswith("STRUCT(") and kinds[0].endswith(")"):
        fields = {name.casefold(): kind for name, kind in struct_fields(kinds[0])}
        return True, {item.name: fields.get(item.name.casefold(), '"NULL"') for item in inputs}
    return False, dict(zip((item.name for item in inputs), kinds, strict=True))


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


def _hint(argument: Argument, kind: str) -> str:
    column, item = of_sql(kind), argument.item
    if column.name in ("STRUCT", "TUPLE"):
        return "only the first argument may be a whole row, with named columns"
    if item.is_list and not column.is_list:
        return f"put single values into a list: [{item.name}]"
    zoned = {"timestamptz"}
    if (item.family == "timestamptz" and column.families & {"timestamp", "date"}) or (
        column.families == zoned and accepted(item, argument.uses) != zoned
    ):
        return f"a cast would go by the session's TimeZone; say which one: {item.name} AT TIME ZONE 'UTC'"
    return f"cast it: {item.name}::{item.type}"
