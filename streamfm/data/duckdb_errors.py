"""What DuckDB says of a file or a query, as our errors: where, what, and how to mend it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from streamfm.data.full_disk import HINT, is_full
from streamfm.data.interruptible import is_query_interrupted
from streamfm.errors import DataError

_FILE_IN_MESSAGE = re.compile(r"^\s*file = (.+)$", re.MULTILINE)


@contextmanager
def duckdb_errors(name: str) -> Iterator[None]:
    """DuckDB's errors in a block as ours; while a result streams they arrive by way of Arrow.

    Args:
        name: What is read, for errors that name no file.

    Raises:
        DataError: DuckDB refuses a query, or a file.
        KeyboardInterrupt: A query was interrupted.
    """
    try:
        yield
    except Exception as error:
        if is_query_interrupted(error):
            raise KeyboardInterrupt from error
        if isinstance(error, (duckdb.Error, OSError, pa.ArrowInvalid)):
            raise _translated(name, error) from error
        raise


def first_paragraph(text: str) -> str:
    """The first lines of a DuckDB or Arrow message, on one."""
    lines = text.split("\n\n", maxsplit=1)[0].splitlines()
    return " ".join(line.strip()[:300] for line in lines)


def _translated(name: str, error: Exception) -> DataError:
    text = str(error)
    file = _FILE_IN_MESSAGE.search(text)
    place = file[1] if file else name
    first = first_paragraph(text)
    hint = None
    if "converting column" in first:
        hint = "declare the column's type in [inputs], or mend the value"
    elif "unicode" in first.lower() or "utf-8" in first.lower() or "utf8" in first.lower():
        hint = "save it as UTF-8, or read it with SQL: read_csv('...', encoding = 'latin-1')"
    elif is_full(error):
        hint = HINT
    elif isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory" in text:
        hint = "raise memory_limit"
    return DataError(f"{place}: {first}", hint=hint)
