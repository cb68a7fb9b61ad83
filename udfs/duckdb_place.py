"""Where a registration's macros live, and how they are changed without touching what a connection is about."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import duckdb
from duckdb.func import ARROW, SPECIAL

from streamfm.errors import StreamFMError
from streamfm.expressions import quoted

_ATTEMPTS = 20
_PAUSE_S = 0.01

# DuckDB calls what it was given as long as the database lives, but once the connection that created the function is
# closed holds no reference to it: so we do. The very object counts, a bound method not less than what it is bound to.
_kept: list[Callable[..., Any]] = []


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where macros are kept.

    Attributes:
        connection: The connection that was registered on, held weakly: keeping a database open is for its owner.
        database: Its current database when it was registered on.
        schema: The schema.
        is_temporary: Whether the macros are the connection's own, and not kept in the database.
    """

    connection: weakref.ref[duckdb.DuckDBPyConnection] = field(repr=False)
    database: str
    schema: str
    is_temporary: bool

    @classmethod
    def of(cls, con: duckdb.DuckDBPyConnection, *, temporary: bool | None) -> Place:
        """The current database and schema of a connection; temporary, unless said, where it cannot keep macros.

        Raises:
            StreamFMError: The connection is in a transaction or has a half-read result.
        """
        _refuse_busy(con)
        query = """
            SELECT current_database(), current_schema(), NOT readonly AND type = 'duckdb' FROM duckdb_databases()
            WHERE database_name = current_database()"""
        database, schema, can_keep = con.sql(query).fetchall()[0]
        if temporary is None:
            temporary = not can_keep
        elif not (temporary or can_keep):
            hint = "leave `temporary` out: the functions are then this connection's own"
            raise StreamFMError(
                f"database {database!r} is read-only, or none of DuckDB's: it keeps no macros", hint=hint
            )
        return cls(connection=weakref.ref(con), database=database, schema=schema, is_temporary=temporary)

    def path(self, name: str) -> str:
        """A macro's qualified name."""
        parts = ("temp", "main", name) if self.is_temporary else (self.database, self.schema, name)
        return ".".join(quoted(part) for part in parts)

    def create(self, name: str) -> str:
        """The beginning of a statement that creates or replaces a macro."""
        return f"CREATE OR REPLACE {'TEMP ' if self.is_temporary else ''}MACRO {self.path(name)}"

    def definition(self, name: str, asking: Place) -> str | None:
        """The body of a macro of this place, as DuckDB writes it; None when there is no such macro.

        Args:
            name: The macro's.
            asking: Whose connection asks, any of the same database's; temporary macros only their own sees.
        """
        query = """
            SELECT macro_definition FROM duckdb_functions()
            WHERE (database_name, schema_name, function_name) = (?, ?, ?)"""
        parameters = ["temp", "main", name] if self.is_temporary else [self.database, self.schema, name]
        if self.is_temporary:
            con = self._open()
            _refuse_busy(con)
            found = con.sql(query, params=parameters).fetchall()
        else:
            with asking.cursor() as cursor:
                found = cursor.execute(query, parameters).fetchall()
        return str(found[0][0]) if found else None

    def has_function(self, name: str) -> bool:
        """Whether a function, whose name no other process or database has, is one of this database."""
        with self.cursor() as cursor:
            query = "SELECT count(*) FROM duckdb_functions() WHERE function_name = ?"
            return bool(cursor.execute(query, [name]).fetchall()[0][0])

    def is_open(self) -> bool:
        """Whether the connection that was registered on is still there and open."""
        try:
            self.cursor().close()
        except StreamFMError:
            return False
        return True

    def run(self, statements: Iterable[str]) -> None:
        """Run statements in one transaction, so that a query sees the effect of all or of none.

        Raises:
            StreamFMError: The connection is gone, closed or (for temporary macros) not free.
            duckdb.Error: DuckDB refuses.
        """
        script = ["BEGIN", *statements, "COMMIT"]
        if self.is_temporary:
            con = self._open()
            _refuse_busy(con)
            _run_script(con, script)
            return
        for attempt in range(1, _ATTEMPTS + 1):
            with self.cursor() as cursor:
                try:
                    return _run_script(cursor, script)
                except duckdb.TransactionException:
                    # Another transaction is changing the same macros.
                    if attempt == _ATTEMPTS:
                        raise
            time.sleep(_PAUSE_S * attempt)

    def create_function(self, name: str, function: Callable[..., Any], result: str) -> None:
        """Create a function that takes any arguments as Arrow columns, those with NULLs too.

        It is made through a cursor that is closed at once. It stays in the database; and no connection then holds
        Python objects in a cycle, which nanobind would report as leaked when the interpreter ends.
        """
        _kept.append(function)
        with self.cursor() as cursor:
            cursor.create_function(name, function, None, result, type=ARROW, null_handling=SPECIAL)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection of our own to the same database, free whatever the user's is doing.

        Raises:
            StreamFMError: The connection is gone or closed.
        """
        try:
            return self._open().cursor()
        except duckdb.ConnectionException as error:
            hint = "register on a connection that stays open"
            raise StreamFMError("the connection that was registered on is closed", hint=hint) from error

    def _open(self) -> duckdb.DuckDBPyConnection:
        con = self.connection()
        if con is None:
            hint = "register on a connection that stays open"
            raise StreamFMError("the connection that was registered on is gone", hint=hint)
        return con


def _refuse_busy(con: duckdb.DuckDBPyConnection) -> None:
    """Return when a connection can be asked without disturbing what it is about.

    Raises:
        StreamFMError: It has a half-read result, or is in a transaction.
    """
    try:
        first, second = (con.sql("SELECT txid_current()").fetchall() for _ in range(2))
    except duckdb.Error as error:
        hint = "fetch its result to the end, or register on con.cursor()"
        raise StreamFMError(f"the connection is not free: {error}", hint=hint) from error
    # Outside of a transaction every statement has one of its own. BEGIN would tell too, and abort the user's.
    if first == second:
        hint = "COMMIT or ROLLBACK first"
        raise StreamFMError("the connection is in a transaction, which does not see what is registered", hint=hint)


def _run_script(con: duckdb.DuckDBPyConnection, script: Iterable[str]) -> None:
    try:
        for statement in script:
            con.execute(statement)
    except duckdb.Error:
        con.execute("ROLLBACK")
        raise
