"""Everything streamfm raises on purpose.

StreamFMError
├── SpecError             a feature specification is wrong
├── DataError             rows do not fit: a label, a type, an empty table
│   └── MissingColumnsError   columns that are needed and not there
├── BundleError           a bundle's file is missing, changed, hostile or of another format
├── RegistryError         a name, version or alias that is not there, or cannot move
├── ParityError           an exported model does not answer as the trained one
└── StreamError           a stream cannot go on: a topic is not there, events were lost, too many dead letters
    └── DisturbedError        for the moment; nothing is lost, and it is tried again
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence


class StreamFMError(Exception):
    """Base of all errors raised by streamfm: what is wrong, and a hint at the mend.

    Attributes:
        message: What was found and what was expected, naming the file, column, row or feature.
        hint: What to do about it, or None.
    """

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep the parts; `str()` joins them."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """The message, with the hint on a line of its own."""
        return f"{self.message}\nhint: {self.hint}" if self.hint else self.message


class SpecError(StreamFMError, ValueError):
    """A feature specification that cannot be used; the message names the file and the key."""


class DataError(StreamFMError, ValueError):
    """Rows that cannot be used; the message names the column, feature or row."""


class MissingColumnsError(DataError):
    """Columns that are needed and not there.

    Attributes:
        missing: The absent columns, in the order in which they are needed.
        available: The columns that are there.
    """

    def __init__(self, missing: Sequence[str], available: Sequence[str], *, source: str) -> None:
        """Name every missing column at once; the hint names what the first may have been meant to be."""
        self.missing = tuple(missing)
        self.available = tuple(available)
        names = ", ".join(repr(name) for name in missing)
        super().__init__(f"{source}: column {names} not found", hint=self._hint())

    def _hint(self) -> str:
        have = ", ".join(self.available[:30]) or "no columns"
        # A CSV with a line of another length is read as one column, which has the whole header for a name.
        if len(self.available) == 1 and any(delimiter in have for delimiter in ",;\t|"):
            return f"it has one column, {have!r}: a line probably has more or fewer fields than the header"
        near = difflib.get_close_matches(self.missing[0], self.available, n=1, cutoff=0.6)
        meant = f"did you mean {near[0]!r}? " if near else ""
        return f"{meant}it has {have}"


class BundleError(StreamFMError, RuntimeError):
    """A bundle that was refused; the message names the file inside it."""


class RegistryError(StreamFMError, LookupError):
    """A model name, version or alias that is not there, or an alias that cannot move."""


class ParityError(StreamFMError, RuntimeError):
    """An exported model whose answers differ from the trained one's; nothing was published."""


class StreamError(StreamFMError, RuntimeError):
    """A stream that cannot go on; the message names the topic, partition and offset. Nothing uncommitted is lost."""


class DisturbedError(StreamError):
    """A stream that cannot go on for the moment: a broker is away, or the group rebalances.

    Everything since the last commit is read again.
    """
