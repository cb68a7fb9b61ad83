"""Ctrl-C during a query. DuckDB's Python hears it only in some calls, and not before a first chunk is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import duckdb

_Result = TypeVar("_Result")
_PATIENCE_S = 0.1


def interruptible(connection: duckdb.DuckDBPyConnection, call: Callable[[], _Result]) -> _Result:
    """What `call`, which runs a query on the connection, returns or raises; Ctrl-C ends the query.

    The query runs in another thread: the main one then waits in Python, where signals are heard.

    Raises:
        KeyboardInterrupt: Ctrl-C; the query has ended, and the connection is free.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name="streamfm-query", daemon=True).start()
    try:
        done.wait()
    except BaseException:
        # An interruption that comes before the query has begun is lost: hence more than one.
        while not done.is_set():
            connection.interrupt()
            done.wait(_PATIENCE_S)
        raise
    if errors:
        raise errors[0]
    return results[0]
