"""Ctrl-C during a query. DuckDB's Python hears it only in some calls, and not before a first chunk is there."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import duckdb

_Result = TypeVar("_Result")
_PATIENCE_S = 0.1


def interruptible(connection: duckdb.DuckDBPyConnection, call: Callable[[], _Result]) -> _Result:
    """What `call`, which runs a query on the connection, returns or raises; Ctrl-C ends the query.

    The query runs in another thread: the main one then waits in Python, where signals are heard. Other threads hear no
    signals anyhow, and make the call themselves.

    Raises:
        KeyboardInterrupt: Ctrl-C; the query has ended, and the connection is free.
    """
    if threading.current_thread() is not threading.main_thread():
        return call()
    results: list[_Result] = []
    errors: list[BaseException] = []
    begun, cancelled, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        try:
            if not cancelled.is_set():
                results.append(call())
        except BaseException as error:
            errors.append(error)
        finally:
            done.set()

    try:
        threading.Thread(target=work, name="streamfm-query", daemon=True).start()
        done.wait()
    except BaseException:
        # A thread that has not begun by now will see this, and run nothing.
        cancelled.set()
        # An interruption that comes before the query has begun is lost: hence more than one.
        while begun.is_set() and not done.is_set():
            connection.interrupt()
            done.wait(_PATIENCE_S)
        raise
    if errors:
        # Left in the list, it would hold this frame, and this frame it.
        raise errors.pop()
    return results[0]


def is_query_interrupted(error: BaseException) -> bool:
    """Whether it is DuckDB's way to tell of Ctrl-C: of several, depending on where that found it."""
    return isinstance(error, duckdb.InterruptException) or (
        isinstance(error, RuntimeError) and str(error) == "Query interrupted"
    )
