"""Rows from anywhere: files, an SQL query, Arrow, a data frame; read by a private DuckDB, in UTC, larger than memory.

A `Source` is one SQL query on a connection of its own. Nothing is loaded before it is asked for, what does not fit in
memory is spilled to a temporary folder that is gone afterwards.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

import duckdb
import pyarrow as pa

from streamfm.data.column_names import refuse_repeated, refuse_repeated_in_files
from streamfm.data.connection import connected
from streamfm.data.duckdb_errors import duckdb_errors, first_paragraph
from streamfm.data.interruptible import interruptible
from streamfm.data.readers import find_files, format_of, literal, scan
from streamfm.errors import DataError, MissingColumnsError
from streamfm.expressions import quoted
from streamfm.features import Input

SourceLike = Any
"""A path or glob (.parquet, .csv, .json, .jsonl), a folder of Parquet files, a list of them, an SQL query (beginning
with SELECT, WITH or FROM), an Arrow table, a pandas or polars data frame, or a `Source` that is open already."""

BATCH_ROWS = 32_768
_Result = TypeVar("_Result")
_QUERY = re.compile(r"\s*(?:--[^\n]*\n\s*)*\(*\s*(SELECT|WITH|FROM)(?=[\s(*'\"])", re.IGNORECASE)
_NUMBER = quoted("streamfm row number")


class Source:
    """Rows, as one SQL query on a DuckDB connection of their own; made by `open_source`.

    Attributes:
        name: For messages: the path, "the SQL query" or the kind of table.
        connection: The DuckDB connection, in UTC.
        sql: The query that gives all rows, in a fixed order.
        is_text: Whether it is read from text files, so that declared inputs decide on its types.
    """

    def __init__(
        self,
        name: str,
        connection: duckdb.DuckDBPyConnection,
        sql: str,
        *,
        files: Sequence[str] = (),
        storage: Path | None = None,
        is_text: bool = False,
    ) -> None:
        """Read nothing yet; `storage` is the file that `keep` writes, None where reading again is cheap."""
        self.name = name
        self.connection = connection
        self.sql = sql
        self.is_text = is_text
        self._all_rows, self._condition = sql, "true"
        self._files = tuple(files)
        self._storage = storage

    def keep(self) -> None:
        """Store the rows in the temporary folder where reading them again would parse text, or run a query, again.

        Raises:
            DataError: A file or the query cannot be read to its end.
        """
        if self._storage is not None:
            self.execute(f"ATTACH {literal(str(self._storage))} AS stored")
            self.execute(f"CREATE TABLE stored.rows AS {self.sql}")
            self.sql = self._all_rows = "SELECT * FROM stored.rows"
            self._storage = None

    @cached_property
    def columns(self) -> Mapping[str, str]:
        """SQL type of each column, by name."""
        return self.describe(self.sql)

    @cached_property
    def rows(self) -> int:
        """How many there are."""
        return int(self.fetch("count(*)")[0])

    def column(self, name: str) -> str:
        """The column as an SQL identifier; as in SQL, upper and lower case are the same.

        Raises:
            MissingColumnsError: There is none.
        """
        self.require([name])
        return quoted(self._by_name[name.casefold()])

    def require(self, names: Sequence[str]) -> None:
        """Refuse the source unless it has all these columns.

        Raises:
            MissingColumnsError: Names all that are absent.
        """
        missing = [name for name in dict.fromkeys(names) if name.casefold() not in self._by_name]
        if missing:
            raise MissingColumnsError(missing, list(self.columns), source=self.name)

    @cached_property
    def _by_name(self) -> dict[str, str]:
        return {name.casefold(): name for name in self.columns}

    def describe(self, query: str) -> dict[str, str]:
        """SQL type of each column of a query, by name."""
        return {name: kind for name, kind, *_ in self.execute(f"DESCRIBE {query}")}

    def select(self, expressions: str, rest: str = "") -> str:
        """A query over the rows; `rest` follows FROM."""
        return f"SELECT {expressions} FROM ({self.sql}) {rest}"

    def fetch(self, expressions: str, rest: str = "") -> tuple[Any, ...]:
        """The first row of a query over the rows.

        Raises:
            DataError: DuckDB refuses the query, or a file; names it.
        """
        return self.execute(self.select(expressions, rest))[0]

    def execute(self, query: str) -> list[tuple[Any, ...]]:
        """All rows of any query.

        Raises:
            DataError: As `fetch`.
            KeyboardInterrupt: Ctrl-C; the query has ended.
        """
        return self._ask(lambda: self.connection.execute(query).fetchall())

    def batches(self, query: str, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """The result of a query as it comes, `rows` at a time.

        Raises:
            DataError: As `fetch`.
            KeyboardInterrupt: Ctrl-C; the query has ended.
        """
        # Left open, the reader would keep the connection busy for as long as an error is kept.
        with self._ask(lambda: self.connection.sql(query).to_arrow_reader(rows)) as reader:
            while (batch := self._ask(lambda: next(reader, None))) is not None:
                yield batch

    @contextmanager
    def table(self, name: str, query: str) -> Iterator[None]:
        """Keep the result of a query, in its order, as a table of that name for the length of a block."""
        self.execute(f"CREATE OR REPLACE TABLE {name} AS {query}")
        try:
            yield
        finally:
            with suppress(duckdb.Error):
                self.connection.execute(f"DROP TABLE {name}")

    def schema(self, query: str) -> pa.Schema:
        """The Arrow types of a query's columns."""
        return self._ask(lambda: self.connection.sql(f"SELECT * FROM ({query}) LIMIT 0").to_arrow_table()).schema

    def first_row(self, condition: str, shown: str) -> tuple[str, Any]:
        """Where the first row is for which a condition holds, as a text, and the value of `shown` there.

        Args:
            condition: SQL over the columns; some row fulfils it.
            shown: SQL over the columns.
        """
        numbered = f"SELECT *, row_number() OVER () AS {_NUMBER} FROM ({self._all_rows})"
        where = f"WHERE ({self._condition}) AND ({condition}) ORDER BY {_NUMBER} LIMIT 1"
        number, value = self.execute(f"SELECT {_NUMBER}, {shown} FROM ({numbered}) {where}")[0]
        return self._place(number), value

    def part(self, name: str, condition: str) -> Source:
        """The rows for which a condition over the columns, or over `ROW_NUMBER`, holds; do not close it."""
        part = Source(f"{self.name} ({name})", self.connection, self.sql, files=self._files)
        part._all_rows, part._condition = self._all_rows, f"({self._condition}) AND ({condition})"
        numbered = f"SELECT *, row_number() OVER () AS {_NUMBER} FROM ({self._all_rows})"
        rows, without = (numbered, f" EXCLUDE ({_NUMBER})") if _NUMBER in part._condition else (self._all_rows, "")
        part.sql = f"SELECT *{without} FROM ({rows}) WHERE {part._condition}"
        return part

    def _place(self, number: int) -> str:
        file = self.name
        for file in self._files if len(self._files) > 1 else ():
            count = int(self.execute(f"SELECT count(*) FROM ({scan([file], (), self.describe)})")[0][0])
            if number <= count:
                break
            number -= count
        return f"{file}: row {number:,} (counted from 1)"

    def _ask(self, call: Callable[[], _Result]) -> _Result:
        """What a call that runs a query on the connection returns; its errors are ours, and Ctrl-C ends the query."""
        with duckdb_errors(self.name):
            return interruptible(self.connection, call)


ROW_NUMBER = _NUMBER
"""The row's number, from 1, in the conditions of `Source.part`."""


@contextmanager
def open_source(
    rows: SourceLike,
    *,
    inputs: Sequence[Input] = (),
    threads: int | None = None,
    memory_limit: str = "2GB",
    folder: str | Path | None = None,
) -> Iterator[Source]:
    """Rows to read; inside `with`.

    The result of an SQL query is stored in the temporary folder first, so that every pass sees the same rows in the
    same order; files, tables and frames are read where they are.

    Args:
        rows: See `SourceLike`.
        inputs: Declared columns, which decide how CSV and JSON are read.
        threads: Of DuckDB; all cores by default.
        memory_limit: Of DuckDB; what does not fit is spilled.
        folder: Where to spill; the system's temporary folder by default.

    Raises:
        DataError: No such file, a file of an unknown format or a damaged one, SQL that does not run, something that
            holds no rows, or a column that is there twice.
    """
    if isinstance(rows, Source):
        yield rows
        return
    with connected(threads=threads, memory_limit=memory_limit, folder=folder) as (connection, spill):
        yield _source(rows, inputs, connection, spill)


def is_query(rows: SourceLike) -> TypeGuard[str]:
    """Whether it is SQL, not a path or a table."""
    return isinstance(rows, str) and _QUERY.match(rows) is not None


def _source(rows: SourceLike, inputs: Sequence[Input], connection: duckdb.DuckDBPyConnection, folder: str) -> Source:
    if is_query(rows):
        return _source_of_query(rows, connection, folder)
    if isinstance(rows, (str, os.PathLike)):
        return _source_of_files([os.fspath(rows)], inputs, connection, folder)
    if isinstance(rows, (list, tuple)) and all(isinstance(path, (str, os.PathLike)) for path in rows):
        return _source_of_files([os.fspath(path) for path in rows], inputs, connection, folder)
    return _source_of_table(rows, connection)


def _source_of_query(query: str, connection: duckdb.DuckDBPyConnection, folder: str) -> Source:
    sql = query.strip().removesuffix(";")
    source = Source("the SQL query", connection, sql, storage=Path(folder) / "rows.duckdb")
    refuse_repeated(source.name, [str(name) for name, *_ in source.execute(f"DESCRIBE {sql}")])
    source.keep()
    return source


def _source_of_files(
    paths: Sequence[str], inputs: Sequence[Input], connection: duckdb.DuckDBPyConnection, folder: str
) -> Source:
    files = find_files(paths)
    name = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    query = scan(files, inputs, Source(name, connection, "", files=files).describe)
    is_text = format_of(files[0]) != "parquet"
    storage = Path(folder) / "rows.duckdb" if is_text else None
    source = Source(name, connection, query, files=files, storage=storage, is_text=is_text)
    refuse_repeated_in_files(name, files, list(source.columns), source.execute)
    return source


def _source_of_table(rows: SourceLike, connection: duckdb.DuckDBPyConnection) -> Source:
    kind = type(rows).__name__
    if not hasattr(rows, "__arrow_c_stream__"):
        hint = "give a path, a list of paths, an SQL query, an Arrow table, or a pandas or polars data frame"
        raise DataError(f"{kind} holds no rows", hint=hint)
    # A pandas data frame with a name twice cannot become a table; of others, the table's names tell.
    if hasattr(rows, "columns") and hasattr(rows, "to_dict"):
        refuse_repeated(f"the {kind}", [str(name) for name in rows.columns])
    try:
        table = rows if isinstance(rows, pa.Table) else pa.table(rows)
        connection.register("streamfm_rows", table)
    except (pa.ArrowException, TypeError, duckdb.Error) as error:
        hint = "a column mixes types: make its values one type"
        raise DataError(f"the {kind}: {first_paragraph(str(error))}", hint=hint) from error
    refuse_repeated(f"the {kind}", table.column_names)
    return Source(f"the {kind}", connection, "SELECT * FROM streamfm_rows")
