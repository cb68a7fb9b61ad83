r"""Which rows of the event log are one user's: by columns, and in the bytes of what could not be decoded.

Bytes are searched for a text as JSON may write it: "Jörg" is also "J\u00f6rg". What is found there by chance (u1 in
u17) is taken along: of a record that nobody can read, rather too much goes than too little.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

_PATTERN_CHARACTERS = 20_000
"""Of the names that are searched for at a time: RE2 refuses patterns that are too large."""

_BOUND = "[^0-9A-Za-z]"
_SHORT = {'"': '"', "\\": "\\", "/": "/", "\b": "b", "\f": "f", "\n": "n", "\r": "r", "\t": "t"}


class Match(NamedTuple):
    """What is to go.

    Attributes:
        column: Rows with one of `values` there, compared as text.
        values: See there.
        patterns: Records of which the bytes match one of these lose them.
    """

    column: str
    values: pa.Array
    patterns: Sequence[str]


def is_among(table: pa.Table, column: str, values: pa.Array) -> pa.ChunkedArray:
    """Which rows have one of the values in a column, compared as text."""
    if column not in table.schema.names:
        return _repeat(False, table)
    return pc.fill_null(pc.is_in(as_text(table[column]), value_set=values), False)


def holds(table: pa.Table, patterns: Sequence[str]) -> pa.ChunkedArray:
    """Of which rows the bytes match one of the patterns."""
    held = _repeat(False, table)
    if "_raw" not in table.schema.names or table["_raw"].null_count == table.num_rows:
        return held
    for pattern in patterns:
        held = pc.or_(held, pc.fill_null(pc.match_substring_regex(table["_raw"], pattern), False))
    return held


def without(table: pa.Table, match: Match) -> pa.Table:
    """The rows that stay, without the bytes that do not."""
    held = holds(table, match.patterns)
    reasons = pc.list_element(pc.split_pattern(table["_error"], ":", max_splits=1), 0)
    errors = pc.if_else(held, pc.binary_join_element_wise(reasons, pa.scalar("erased"), ": "), table["_error"])
    raw = pc.if_else(held, pa.scalar(None, pa.binary()), table["_raw"])
    names = table.schema.names
    mine = is_among(table, match.column, match.values)
    table = table.set_column(names.index("_error"), "_error", errors).set_column(names.index("_raw"), "_raw", raw)
    return table.filter(pc.invert(mine))


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column's values as text."""
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def names_in(raw: Iterable[bytes], id: str) -> set[str]:  # as the field of LogSchema
    """The names in records that are JSON objects all the same."""
    found: set[str] = set()
    for value in raw:
        try:
            event = msgspec.json.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        name = event.get(id) if isinstance(event, dict) else None
        if isinstance(name, str) or type(name) is int:
            found.add(str(name))
    return found


def spelling(text: str) -> str:
    """A pattern of the bytes in which a text may stand in JSON, each character plain or escaped."""
    return "".join(map(_character, text))


def words(texts: Iterable[str]) -> list[str]:
    """Patterns of the bytes in which one of some texts stands for itself: e1 is not in e17."""
    groups: list[list[str]] = [[]]
    size = 0
    for spelt in map(spelling, texts):
        if size + len(spelt) > _PATTERN_CHARACTERS and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(spelt)
        size += len(spelt)
    return [f"(?:^|{_BOUND})(?:{'|'.join(group)})(?:{_BOUND}|$)" for group in groups if group]


def _character(character: str) -> str:
    # No serialiser escapes these.
    if character.isascii() and character.isalnum():
        return character
    plain = "".join(f"\\x{byte:02x}" for byte in character.encode())
    # JSON escapes UTF-16's units: of an emoji two.
    units = json.dumps(character, ensure_ascii=True)[1:-1].split("\\u")[1:] or [f"{ord(character):04x}"]
    escaped = "".join(f"\\\\u{''.join(map(_digit, unit))}" for unit in units)
    short = [f"\\\\\\x{ord(_SHORT[character]):02x}"] if character in _SHORT else []
    return f"(?:{'|'.join([plain, escaped, *short])})"


def _digit(digit: str) -> str:
    return digit if digit.isdigit() else f"[{digit.lower()}{digit.upper()}]"


def _repeat(value: bool, table: pa.Table) -> pa.ChunkedArray:
    return pa.chunked_array([pa.repeat(value, table.num_rows)])
