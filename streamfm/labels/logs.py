"""Impressions and clicks as SQL: where they are read, which columns matter, which rows were there before.

A log is any rows that streamfm reads. One of an event log has two columns more, `_partition` ("topic/0") and `_offset`,
which say in which order events came, so that late ones are told from those that were there.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import duckdb
import pyarrow as pa

from streamfm.data.column_names import refuse_repeated, refuse_repeated_in_files
from streamfm.data.duckdb_errors import first_paragraph
from streamfm.data.readers import find_files, format_of, literal, scan
from streamfm.data.sources import Source, SourceLike, is_query
from streamfm.errors import DataError
from streamfm.expressions import quoted
from streamfm.features import Input
from streamfm.labels.settings import Position, microseconds

PARTITION, OFFSET, ARRIVAL = "_partition", "_offset", "_timestamp"
_TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_NS", "TIMESTAMP_MS", "TIMESTAMP_S")
_SECOND_US = 1_000_000


@dataclass(frozen=True)
class Read:
    """Rows that were trained on, or clicks that were joined: before an instant, and before the ends of partitions.

    Attributes:
        until_us: Microseconds since 1970; times before it.
        ends: End of each partition that was read; none where the time alone counts.
    """

    until_us: int
    ends: Mapping[str, int] = field(default_factory=dict)


class Log:
    """Impressions or clicks.

    Attributes:
        source: All rows.
        identity: SQL of the id.
        time: SQL of the time, as it is there.
        kind: Its type.
        us: SQL of the time in microseconds since 1970, in UTC; NULL where there is none, or one that is infinite.
        has_offsets: Whether it has the columns `_partition` and `_offset`.
        arrival: The column of the broker's time; None where there is none.
    """

    def __init__(self, source: Source, identity: str, time: str, *others: str) -> None:
        """Find the columns.

        Raises:
            MissingColumnsError: Names all that are absent.
            DataError: The time is no date or timestamp.
        """
        source.require([identity, time, *others])
        self.source = source
        self.identity = source.column(identity)
        self.time = source.column(time)
        self.kind = next(kind for name, kind in source.columns.items() if quoted(name) == self.time)
        if self.kind not in _TIMES:
            hint = f"make one of seconds since 1970 in SQL: SELECT * REPLACE (make_timestamp({self.time} * 1000000) ..."
            raise DataError(f"{source.name}: time {time!r} holds {self.kind}, expected TIMESTAMP", hint=hint)
        self.us = f"epoch_us({self.time})"
        names = {name.casefold() for name in source.columns}
        self.has_offsets = {PARTITION, OFFSET} <= names
        self.arrival = ARRIVAL if self.has_offsets and ARRIVAL in names else None

    @cached_property
    def identity_type(self) -> str:
        """SQL type of the id."""
        return next(kind for name, kind in self.source.columns.items() if quoted(name) == self.identity)

    def since(self, us: int | None) -> str:
        """SQL that DuckDB skips parts of files by: true of all rows from an instant on, and of few before."""
        if us is None:
            return "true"
        # In the column's own type, since a cast of the column keeps DuckDB from its statistics.
        return f"{self.time} >= CAST(make_timestamp({us - _SECOND_US}) AS {self.kind})"

    def before(self, read: Read | None) -> str:
        """SQL that is true of the rows that were read before."""
        if read is None:
            return "false"
        before = f"{self.us} < {read.until_us}"
        if self.has_offsets and read.ends:
            before += f" AND {self._within(read.ends)}"
        # Of a row without a time nobody can say.
        return f"coalesce({before}, true)"

    def visible(self, ends: Mapping[str, int]) -> str:
        """SQL that is true of the rows before the ends of their partitions."""
        return self._within(ends) if self.has_offsets else "true"

    def _within(self, ends: Mapping[str, int]) -> str:
        if not ends:
            return "false"
        cases = " ".join(f"WHEN {literal(partition)} THEN {end}" for partition, end in ends.items())
        return f"{OFFSET} < CASE {PARTITION} {cases} ELSE 0 END"


def ends_of(position: Position | None, partitions: Sequence[str]) -> dict[str, int]:
    """The ends that a position has for the topics of some partitions."""
    topics = {partition.rpartition("/")[0] for partition in partitions}
    offsets = position.offsets if position else {}
    return {partition: end for partition, end in offsets.items() if partition.rpartition("/")[0] in topics}


def read_before(position: Position | None, partitions: Sequence[str], *, window_us: int | None = None) -> Read | None:
    """What a position says was read of a log.

    Args:
        position: See there.
        partitions: Of the log.
        window_us: Of clicks, the window, to whose last end they were joined; None for impressions.
    """
    if position is None:
        return None
    until_us = microseconds(position.closed_until) + (window_us or 0)
    if window_us is not None and position.clicks_until is not None:
        until_us = microseconds(position.clicks_until)
    return Read(until_us, ends_of(position, partitions))


def source_of(
    rows: SourceLike, name: str, connection: duckdb.DuckDBPyConnection, inputs: Sequence[Input] = ()
) -> Source:
    """Rows as SQL on a connection; unlike those of `open_source` they are not stored first, save texts.

    Args:
        rows: As `open_source` takes them, but no open source.
        name: "impressions" or "clicks", for messages and tables.
        connection: Where they are read.
        inputs: Declared columns, which decide how CSV and JSON are read.

    Raises:
        DataError: As of `open_source`.
    """
    if is_query(rows):
        source = Source(name, connection, rows.strip().removesuffix(";"))
        refuse_repeated(name, list(source.columns))
        return source
    if isinstance(rows, (str, os.PathLike)):
        return _source_of_files([os.fspath(rows)], name, connection, inputs)
    if isinstance(rows, (list, tuple)) and all(isinstance(path, (str, os.PathLike)) for path in rows):
        return _source_of_files([os.fspath(path) for path in rows], name, connection, inputs)
    return _source_of_table(rows, name, connection)


def _source_of_files(
    paths: Sequence[str], name: str, connection: duckdb.DuckDBPyConnection, inputs: Sequence[Input]
) -> Source:
    files = find_files(paths)
    title = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
    query = scan(files, inputs, Source(title, connection, "", files=files).describe)
    source = Source(title, connection, query, files=files)
    refuse_repeated_in_files(title, files, list(source.columns), source.execute)
    if format_of(files[0]) != "parquet":
        source.execute(f"CREATE TABLE streamfm_log_of_{name} AS {query}")
        source.sql = f"SELECT * FROM streamfm_log_of_{name}"
    return source


def _source_of_table(rows: SourceLike, name: str, connection: duckdb.DuckDBPyConnection) -> Source:
    title = f"{name} ({type(rows).__name__})"
    if not hasattr(rows, "__arrow_c_stream__"):
        hint = "give a path, a list of paths, an SQL query, an Arrow table, or a pandas or polars data frame"
        raise DataError(f"{title} holds no rows", hint=hint)
    try:
        table = rows if isinstance(rows, pa.Table) else pa.table(rows)
        connection.register(f"streamfm_log_of_{name}", table)
    except (pa.ArrowException, TypeError, duckdb.Error) as error:
        raise DataError(f"{title}: {first_paragraph(str(error))}", hint="make each column one type") from error
    refuse_repeated(title, table.column_names)
    return Source(title, connection, f"SELECT * FROM streamfm_log_of_{name}")
