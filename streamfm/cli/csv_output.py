"""Rows of a query as CSV on standard output, written as DuckDB writes a file."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import duckdb

_CHUNK_BYTES = 1 << 16


def print_csv(connection: duckdb.DuckDBPyConnection, write: Callable[[str], object]) -> None:
    """Print what `write`, which is given a file's name, has the connection write there.

    The file is a pipe of ours, and a thread copies it to standard output: if DuckDB opened that itself, as /dev/stdout,
    a file that the shell appends to would be cut off.

    Raises:
        BrokenPipeError: The reader has gone.
        KeyboardInterrupt: Ctrl-C.
        Exception: Whatever `write` raises.
    """
    from streamfm.data.interruptible import interruptible

    sys.stdout.flush()
    source, sink = os.pipe()
    errors: list[OSError] = []
    copier = threading.Thread(target=_copy, args=(source, sys.stdout.fileno(), errors), name="streamfm-csv")
    copier.start()
    try:
        interruptible(connection, lambda: write(f"/dev/fd/{sink}"))
    except Exception:
        # Where the thread has failed, the pipe is closed, and DuckDB's complaint is about that.
        if not errors:
            raise
    finally:
        os.close(sink)
        copier.join()
    if errors:
        raise errors[0]


def _copy(source: int, target: int, errors: list[OSError]) -> None:
    """Copy bytes from one descriptor to another, until the end; closes the source."""
    try:
        while chunk := os.read(source, _CHUNK_BYTES):
            view = memoryview(chunk)
            while view:
                view = view[os.write(target, view) :]
    except OSError as error:
        errors.append(error)
    finally:
        os.close(source)
