"""Checks of what people write into a specification: names, keys, types and ranges, with a hint at the mend."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from functools import cache
from typing import Any, Literal, get_args, get_origin, get_type_hints

from streamfm.errors import SpecError

MAX_NAME_LENGTH = 128


def hint_at(name: str, candidates: Iterable[str], *, what: str) -> str:
    """A hint that names the nearest candidate, or all of them."""
    known = list(candidates)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"{what}: {', '.join(known) or 'none'}"


def check_name(name: object, what: str) -> None:
    """Refuse names that SQL, a terminal or a TOML key could not show.

    Raises:
        SpecError: Not 1 to `MAX_NAME_LENGTH` printable characters.
    """
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        shown = repr(name)
        shown = shown if len(shown) <= 60 else shown[:60] + "..."
        raise SpecError(f"{what} name {shown} is not usable: expected 1 to {MAX_NAME_LENGTH} printable characters")


def check_distinct(names: Iterable[str], what: str) -> None:
    """Refuse names that SQL could not tell apart.

    Raises:
        SpecError: A name is there twice, or two differ in case only.
    """
    seen: dict[str, str] = {}
    for name in names:
        other = seen.setdefault(name.casefold(), name)
        if other is not name:
            if other == name:
                raise SpecError(f"{what} {name!r} is there twice", hint="remove or rename one")
            hint = "SQL does not tell upper from lower case; rename one"
            raise SpecError(f"{what}s {other!r} and {name!r} differ in case only", hint=hint)


def check_keys(given: Mapping[str, object], known: Collection[str], where: str) -> None:
    """Refuse keys that nobody would read.

    Raises:
        SpecError: A key that is not known; names the nearest one that is.
    """
    for key in given:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r}", hint=hint_at(key, known, what="keys"))


def check_types(settings: Any, where: str) -> None:
    """Values of a dataclass against its annotations, as far as they are str, int or a choice of texts.

    Raises:
        SpecError: A value of another type, not one of the choices, or a text that no file can hold.
    """
    owner: Any = type(settings)
    for key, (expected, choices) in _annotations(owner).items():
        value = getattr(settings, key)
        if not isinstance(value, expected) or isinstance(value, bool):
            raise SpecError(f"{where}: {key} is {value!r}, expected {_CALLED[expected]}")
        if choices and value not in choices:
            expected_ones = " or ".join(repr(choice) for choice in choices)
            hint = hint_at(str(value), choices, what="choices")
            raise SpecError(f"{where}: {key} is {value!r}, expected {expected_ones}", hint=hint)
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise SpecError(f"{where}: {key} is {value!r}, which holds half a character", hint="write it in UTF-8")


def check_range(settings: object, key: str, low: int, high: int, where: str) -> None:
    """Refuse a number out of its range, both ends of which are allowed.

    Raises:
        SpecError: It is.
    """
    value = getattr(settings, key)
    if not low <= value <= high:
        raise SpecError(f"{where}: {key} is {value}, expected {low:,} to {high:,}")


_CALLED: dict[type, str] = {str: "a text in quotes", int: "a whole number"}


@cache
def _annotations(owner: type) -> dict[str, tuple[type, tuple[str, ...]]]:
    """Each simple field's type, and the choices if it has any."""
    hints = get_type_hints(owner)
    found: dict[str, tuple[type, tuple[str, ...]]] = {}
    for field in fields(owner):
        hint = hints[field.name]
        if get_origin(hint) is Literal:
            found[field.name] = (str, get_args(hint))
        elif hint in _CALLED:
            found[field.name] = (hint, ())
    return found
