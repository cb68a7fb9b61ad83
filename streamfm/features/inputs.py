"""Input: one raw column of an event, with the SQL type it has and the form that JSON gives it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from streamfm.errors import SpecError
from streamfm.features.checks import check_keys, check_name, check_types, hint_at

Family = Literal["text", "integer", "real", "boolean", "date", "timestamp", "timestamptz"]

_SIGNED = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
FAMILIES: dict[str, Family] = {
    "VARCHAR": "text",
    "UUID": "text",
    **dict.fromkeys((*_SIGNED, "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"), "integer"),
    "FLOAT": "real",
    "DOUBLE": "real",
    "BOOLEAN": "boolean",
    "DATE": "date",
    "TIMESTAMP": "timestamp",
    "TIMESTAMPTZ": "timestamptz",
}
"""What kind of value each SQL type holds; DECIMAL(p,s) is ``real`` too, and an ENUM is text."""

JSON_FORMS: dict[Family, tuple[str, ...]] = {
    "text": ("string",),
    "integer": ("integer",),
    "real": ("number",),
    "boolean": ("boolean",),
    "date": ("iso8601",),
    "timestamp": ("iso8601", "epoch_s", "epoch_ms", "epoch_us"),
    "timestamptz": ("iso8601", "epoch_s", "epoch_ms", "epoch_us"),
}
"""How JSON may write each family; the first is the default."""

_SYNONYMS = {
    **dict.fromkeys(("STRING", "TEXT", "CHAR", "BPCHAR"), "VARCHAR"),
    **{"INT1": "TINYINT", "INT2": "SMALLINT", "SHORT": "SMALLINT", "INT": "INTEGER", "INT4": "INTEGER"},
    **{"SIGNED": "INTEGER", "INT8": "BIGINT", "LONG": "BIGINT", "INT128": "HUGEINT"},
    **{"REAL": "FLOAT", "FLOAT4": "FLOAT", "FLOAT8": "DOUBLE", "BOOL": "BOOLEAN", "LOGICAL": "BOOLEAN"},
    **dict.fromkeys(("DECIMAL", "NUMERIC", "DEC"), "DECIMAL(18,3)"),
    **dict.fromkeys(("DATETIME", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMP_US"), "TIMESTAMP"),
    "TIMESTAMP WITHOUT TIME ZONE": "TIMESTAMP",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ",
}
_DECIMAL = re.compile(r"(?:DECIMAL|NUMERIC|DEC)\s?\(\s?(\d{1,2})\s?(?:,\s?(\d{1,2})\s?)?\)")
_TEXT = re.compile(r"(?:VARCHAR|CHAR|BPCHAR|TEXT|STRING)\s?\(\s?\d+\s?\)|ENUM\s?\(.*\)")
_MAX_DECIMAL_DIGITS = 38


def normalise_type(declared: str) -> str:
    """The SQL type in the one spelling used throughout, such as ``BIGINT`` or ``VARCHAR[]``.

    Raises:
        SpecError: A type that no feature can be made of.
    """
    text = " ".join(declared.upper().split())
    if text.endswith("[]"):
        return _scalar_type(text[:-2].rstrip(), declared) + "[]"
    return _scalar_type(text, declared)


def _scalar_type(text: str, declared: str) -> str:
    if _TEXT.fullmatch(text):
        return "VARCHAR"
    text = _SYNONYMS.get(text, text)
    if decimal := _DECIMAL.fullmatch(text):
        digits, scale = int(decimal[1]), int(decimal[2] or 0)
        if 1 <= digits <= _MAX_DECIMAL_DIGITS and scale <= digits:
            return f"DECIMAL({digits},{scale})"
        hint = f"1 to {_MAX_DECIMAL_DIGITS} digits, of which at most all are behind the point"
        raise SpecError(f"SQL type {declared!r} is no DECIMAL that SQL has", hint=hint)
    if text not in FAMILIES:
        known = [*FAMILIES, "DECIMAL(p,s)", "VARCHAR[]"]
        hint = hint_at(text, known, what="types")
        if text.endswith("]"):
            hint = "a list is of single values and of any length: VARCHAR[]"
        raise SpecError(f"SQL type {declared[:60]!r} is not one that an input can have", hint=hint)
    return text


@dataclass(frozen=True, kw_only=True, slots=True)
class Input:
    """One raw column of an event.

    Attributes:
        name: Its name in tables, SQL, JSON and dicts.
        type: Its SQL type, normalised (``VARCHAR``, ``BIGINT``, ``TIMESTAMP``, ``VARCHAR[]``, ...).
        json: How JSON and dicts write it: ``string``, ``integer``, ``number``, ``boolean``, ``iso8601``, ``epoch_s``,
            ``epoch_ms`` or ``epoch_us``; for a list, the form of its elements. Empty: the type's first form.
    """

    name: str
    type: str
    json: str = ""

    def __post_init__(self) -> None:
        """Normalise the type, fill in the JSON form.

        Raises:
            SpecError: A bad name, an unknown type, or a JSON form that the type does not have.
        """
        check_name(self.name, "input")
        where = f"input {self.name!r}"
        check_types(self, where)
        try:
            object.__setattr__(self, "type", normalise_type(self.type))
        except SpecError as error:
            raise SpecError(f"{where}: {error.message}", hint=error.hint) from None
        forms = JSON_FORMS[self.family]
        object.__setattr__(self, "json", self.json or forms[0])
        if self.json not in forms:
            hint = f"forms of {self.type}: {', '.join(forms)}"
            raise SpecError(f"{where}: JSON form {self.json!r} does not go with {self.type}", hint=hint)

    @classmethod
    def from_declared(cls, name: str, declared: object) -> Input:
        """The input of a TOML value: an SQL type, or a table of `type` and `json`.

        Raises:
            SpecError: Neither of them, or as for the class itself.
        """
        where = f"input {name!r}"
        if isinstance(declared, str):
            return cls(name=name, type=declared)
        if not isinstance(declared, dict):
            hint = f'write {name} = "VARCHAR", or {name} = {{ type = "TIMESTAMP", json = "epoch_ms" }}'
            raise SpecError(f"{where} is {declared!r}, expected its SQL type", hint=hint)
        check_keys(declared, ("type", "json"), where)
        if "type" not in declared:
            raise SpecError(f"{where}: `type` is missing", hint=f'write {name} = {{ type = "TIMESTAMP", json = ... }}')
        return cls(name=name, **declared)

    def declared(self) -> str | dict[str, str]:
        """The TOML value, as short as it can be."""
        if self.json == JSON_FORMS[self.family][0]:
            return self.type
        return {"type": self.type, "json": self.json}

    @property
    def is_list(self) -> bool:
        """Whether an event holds a list of values here."""
        return self.type.endswith("[]")

    @property
    def family(self) -> Family:
        """What kind of value it is (of a list: its elements)."""
        return FAMILIES.get(self.type.removesuffix("[]"), "real")

    @property
    def is_temporal(self) -> bool:
        """Whether it is a date or an instant, which JSON writes as a text or a number."""
        return self.family in ("date", "timestamp", "timestamptz")
