"""Strict reading of a JSON object: every key once, by its type, and none left over."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from streamfm.errors import BundleError

Json: TypeAlias = "bool | int | float | str | Sequence[Json] | Mapping[str, Json] | None"

_LARGEST = (1 << 63) - 1


class Keys:
    """The keys of one JSON object of a file; each is taken by its type, `finish` refuses the rest."""

    def __init__(self, body: Mapping[str, Json], *, file: str, prefix: str = "") -> None:
        """Read from `body`; messages name `file`, and keys by `prefix`."""
        self._body = body
        self._file = file
        self._prefix = prefix
        self._taken: set[str] = set()

    @classmethod
    def parse(cls, data: bytes, *, file: str) -> Keys:
        """The object in a file's bytes.

        Raises:
            BundleError: Not UTF-8, not JSON, not an object, or a key in it twice.
        """
        try:
            body = json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise BundleError(f"{file}: not JSON: {error}", hint="it was cut off or changed; copy it again") from error
        if not isinstance(body, dict):
            raise BundleError(f"{file}: expected a JSON object, got {type(body).__name__}")
        return cls(body, file=file)

    def names(self) -> list[str]:
        """All keys, sorted."""
        return sorted(self._body)

    def integer(self, key: str, *, minimum: int = 0) -> int:
        """A whole number of at least `minimum` that 64 bits hold."""
        value: int = self._take(key, int, "a whole number")
        if not minimum <= value <= _LARGEST:
            raise self.wrong(key, f"expected a whole number from {minimum}, got {value}")
        return value

    def integers(self, key: str) -> tuple[int, ...]:
        """A list of whole numbers from 1."""
        values: list[Json] = self._take(key, list, "a list of whole numbers")
        whole = tuple(value for value in values if type(value) is int and 0 < value <= _LARGEST)
        if len(whole) != len(values):
            raise self.wrong(key, f"expected whole numbers from 1, got {values!r:.80}")
        return whole

    def number(self, key: str) -> float:
        """A number."""
        value: float = self._take(key, (int, float), "a number")
        return float(value)

    def text(self, key: str) -> str:
        """A text."""
        value: str = self._take(key, str, "a text")
        return value

    def boolean(self, key: str) -> bool:
        """True or false."""
        value: bool = self._take(key, bool, "true or false")
        return value

    def optional_integer(self, key: str, *, minimum: int = 0) -> int | None:
        """A whole number, or None for null."""
        return None if self._is_null(key) else self.integer(key, minimum=minimum)

    def optional_text(self, key: str) -> str | None:
        """A text, or None for null."""
        return None if self._is_null(key) else self.text(key)

    def mapping(self, key: str) -> dict[str, Json]:
        """An object with any content."""
        value: dict[str, Json] = self._take(key, dict, "an object")
        return value

    def inner(self, key: str) -> Keys:
        """An object, to be read key by key."""
        return Keys(self.mapping(key), file=self._file, prefix=f"{self._prefix}{key}.")

    def texts(self) -> dict[str, str]:
        """This object itself as texts by any key."""
        return {key: self.text(key) for key in self._body}

    def finish(self) -> None:
        """Refuse the keys that were not taken.

        Raises:
            BundleError: Names all of them.
        """
        unknown = sorted(self._body.keys() - self._taken)
        if unknown:
            near = difflib.get_close_matches(unknown[0], self._taken, n=1)
            known = ", ".join(sorted(self._taken))
            names = ", ".join(f"{self._prefix}{key}" for key in unknown)
            raise BundleError(
                f"{self._file}: unknown key {names}",
                hint=f"did you mean {self._prefix}{near[0]}?" if near else f"known are {known}",
            )

    def wrong(self, key: str, what: str) -> BundleError:
        """The error that says what is wrong with a key."""
        return BundleError(f"{self._file}: key {self._prefix}{key}: {what}")

    def _take(self, key: str, kind: type | tuple[type, ...], expected: str) -> Any:
        if key not in self._body:
            raise BundleError(f"{self._file}: key {self._prefix}{key} is missing")
        self._taken.add(key)
        value = self._body[key]
        # In Python, True is an int; in JSON it is not.
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise self.wrong(key, f"expected {expected}, got {value!r:.80}")
        return value

    def _is_null(self, key: str) -> bool:
        """Take the key when its value is null."""
        null = key in self._body and self._body[key] is None
        if null:
            self._taken.add(key)
        return null


def _refuse_constant(constant: str) -> Json:
    raise ValueError(f"{constant} is no JSON number")


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    body = dict(pairs)
    if len(body) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return body
