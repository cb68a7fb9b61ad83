"""A private DuckDB that plans a query over Arrow columns once, and then runs it: planning costs more than one event."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from typing import TYPE_CHECKING

import pyarrow as pa

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_MAX_QUERIES = 64
"""So many are kept by a connection; with one more it is replaced."""


def private_connection() -> DuckDBPyConnection:
    """A DuckDB of our own: in memory, in UTC, one thread, out of reach of files, networks and Python's variables."""
    import duckdb

    connection = duckdb.connect(config={"threads": 1, "python_enable_replacements": False})
    connection.execute("""
        SET TimeZone = 'UTC'; SET autoload_known_extensions = false; SET autoinstall_known_extensions = false;
        SET enable_external_access = false; SET lock_configuration = true""")
    return connection


def run(select: str, table: pa.Table) -> pa.Table:
    """The result of `SELECT select` FROM the table, by this thread's private DuckDB.

    Raises:
        duckdb.Error: The query fails; the next call works again.
    """
    import duckdb

    try:
        return _queries().run(select, table)
    except (duckdb.FatalException, duckdb.InternalException):
        # DuckDB has given its database up; the next call opens another.
        del _local.queries
        raise


class _Rows:
    """What a prepared query reads: other rows at each run, of the same types."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self.table.__arrow_c_stream__(requested_schema)


class _Queries:
    """The prepared queries of one connection, which serves one thread of one process."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.connection = private_connection()
        _opened.add(self.connection)
        self._rows: dict[tuple[str, pa.Schema], tuple[int, _Rows]] = {}

    @property
    def is_full(self) -> bool:
        return len(self._rows) >= _MAX_QUERIES

    def run(self, select: str, table: pa.Table) -> pa.Table:
        key = (select, table.schema)
        if key not in self._rows:
            self._rows[key] = self._prepare(select, table)
        number, rows = self._rows[key]
        rows.table = table
        try:
            return self.connection.sql(f"EXECUTE query_{number}").to_arrow_table()
        finally:
            rows.table = table.slice(0, 0)

    def _prepare(self, select: str, table: pa.Table) -> tuple[int, _Rows]:
        number, rows = len(self._rows), _Rows(table)
        self.connection.register(f"rows_{number}", rows)
        self.connection.execute(f"PREPARE query_{number} AS SELECT {select} FROM rows_{number}")
        return number, rows


_local = threading.local()
_opened: weakref.WeakSet[DuckDBPyConnection] = weakref.WeakSet()
_inherited: list[DuckDBPyConnection] = []


def _queries() -> _Queries:
    """Those of this thread."""
    queries: _Queries | None = getattr(_local, "queries", None)
    if queries is None or queries.process != os.getpid() or queries.is_full:
        queries = _local.queries = _Queries()
    return queries


def _hold() -> None:
    _inherited.extend(_opened)


def _keep() -> None:
    # To close a connection that came with a fork would wait for threads that did not: keep it for ever.
    for connection in _inherited:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold, after_in_parent=_inherited.clear, after_in_child=_keep)
