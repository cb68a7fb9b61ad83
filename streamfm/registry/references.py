"""References: how people and programs name a model. `models/ctr@champion`, `models/ctr/3`, or a bundle's folder."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from streamfm.errors import RegistryError

NUMBERS_FOLDER = "numbers"
"""Each model's folder has it; that is how a registry's `ctr/3` is told from a bundle that happens to be called 3."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_VERSION = re.compile(r"[1-9][0-9]{0,15}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """A reference taken apart; nothing needs to exist.

    Attributes:
        text: As it was written.
        folder: The registry's root; the bundle's folder when `name` is None.
        name: The model.
        version: Its number, for `models/ctr/3`.
        alias: Its alias, for `models/ctr@champion`.
    """

    text: str
    folder: Path
    name: str | None = None
    version: int | None = None
    alias: str | None = None


def parse_reference(reference: str | os.PathLike[str]) -> Reference:
    """The parts of a reference. A folder that is there and is no registry's is a bundle's, whatever its name.

    Raises:
        RegistryError: Empty, or a model or alias that cannot be a name.
    """
    text = os.fspath(reference)
    path = Path(text)
    if not text.strip() or "\0" in text:
        raise RegistryError(
            f"{text!r} is no reference", hint="write models/ctr@champion, models/ctr/3, or a bundle's folder"
        )
    if "@" in path.name and not path.is_dir():
        name, _, alias = path.name.rpartition("@")
        check_alias(alias)
        return Reference(text=text, folder=path.parent, name=check_name(name, what="a model"), alias=alias)
    model = path.parent
    if is_version(path.name) and _NAME.fullmatch(model.name) and (is_model(model) or not path.is_dir()):
        return Reference(text=text, folder=model.parent, name=model.name, version=int(path.name))
    return Reference(text=text, folder=path)


def is_version(text: str) -> bool:
    """Whether it is a version's number as the registry writes it."""
    return _VERSION.fullmatch(text) is not None


def is_model(folder: Path) -> bool:
    """Whether a folder is a model's in a registry."""
    return (folder / NUMBERS_FOLDER).is_dir()


def check_name(name: str, *, what: str) -> str:
    """The name itself, when a model or alias may be called so.

    Raises:
        RegistryError: It has other characters than letters, digits and `. _ -`, begins with one of these, or is longer
            than 100.
    """
    if not _NAME.fullmatch(name):
        raise RegistryError(
            f"{name!r} cannot be the name of {what}",
            hint="names have letters, digits and . _ -, begin with a letter or digit, and have at most 100 characters",
        )
    return name


def check_alias(alias: str) -> str:
    """The alias itself, when it may be one.

    Raises:
        RegistryError: As `check_name`, or it is a number.
    """
    if alias.isdigit():
        raise RegistryError(f"alias {alias!r} is a number", hint=f"a version is written models/ctr/{alias}")
    return check_name(alias, what="an alias")
