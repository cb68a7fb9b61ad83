"""The TOML of a specification: from text to plain values and back. What the values mean is `streamfm.features`'."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from streamfm.errors import SpecError

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """A specification's values as the file has them.

    Attributes:
        settings: The keys above the first table, without `format`.
        inputs: By name: an SQL type, or a table with it.
        features: By name: a table of settings.
    """

    settings: Mapping[str, Any]
    inputs: Mapping[str, Any]
    features: Mapping[str, Any]


def read(text: str, expected_format: int) -> Document:
    """The values in a text; neither keys nor values are checked, but for `format` and `label`.

    Raises:
        SpecError: Not TOML, of another format, without a label, or a section that is not a table.
    """
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SpecError(f"not valid TOML: {error}", hint=_hint_at_syntax(str(error))) from error
    except RecursionError as error:
        raise SpecError("not valid TOML: nested too deeply") from error
    sections = {}
    for key in ("inputs", "features"):
        sections[key] = document.pop(key, {})
        if not isinstance(sections[key], dict):
            raise SpecError(
                f"`{key}` is {sections[key]!r}, expected a table", hint=f"write [{key}] on a line of its own"
            )
    found = document.pop("format", None)
    if found != expected_format or isinstance(found, bool):
        what = "`format` is missing" if found is None else f"format is {found!r}, expected {expected_format}"
        hint = f"write format = {expected_format} in the first line, or upgrade streamfm for a newer one"
        raise SpecError(what, hint=hint)
    if "label" not in document:
        raise SpecError("`label` is missing", hint='above [inputs], write the column to learn: label = "clicked"')
    return Document(settings=document, **sections)


def write(document: Document, file_format: int, comments: Mapping[str, Sequence[str]]) -> str:
    """The text, with comments above the settings, inputs (``inputs.NAME``) and features (``features.NAME``)."""
    lines = [
        "# What an event looks like and what the model makes of it: see docs/features.md.",
        f"format = {file_format}",
    ]
    for key, value in document.settings.items():
        lines += [*_comment_lines(comments.get(key, ())), f"{key} = {_value(value)}"]
    lines += ["", "# Raw columns, in the order of positional SQL calls.", "[inputs]"]
    for name, item in document.inputs.items():
        lines += [*_comment_lines(comments.get(f"inputs.{name}", ())), f"{_key(name)} = {_value(item)}"]
    for name, feature in document.features.items():
        lines += ["", *_comment_lines(comments.get(f"features.{name}", ())), f"[features.{_key(name)}]"]
        lines += [f"{key} = {_value(value)}" for key, value in feature.items()]
    return "\n".join(lines) + "\n"


def named(error: SpecError, source: str) -> SpecError:
    """The error with the name of the file it is about."""
    return SpecError(f"{source}: {error.message}", hint=error.hint)


def _hint_at_syntax(problem: str) -> str | None:
    if "twice" in problem or "overwrite" in problem:
        return "each name may stand once"
    if "Invalid value" in problem:
        return 'texts go in quotes: label = "clicked"'
    if "Expected '=' after a key" in problem:
        return 'names with spaces or dots go in quotes: "app id" = "VARCHAR"'
    return None


def _comment_lines(notes: Sequence[str]) -> Iterator[str]:
    for note in notes:
        for line in note.splitlines():
            shown = "".join(letter if letter.isprintable() else " " for letter in line)
            yield f"# {shown}".rstrip()


def _value(value: str | int | Mapping[str, str]) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_value(text)}" for key, text in value.items()) + " }"
    # A JSON text without escaped surrogates is a TOML basic string, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007F")


def _key(name: str) -> str:
    return name if _BARE_KEY.fullmatch(name) else _value(name)
