"""One segment from its first row to its name.

    1 write     rows, into a file with a temporary name
    2 fsync     the file
    3 rename    to the name that tells its offsets: the commit
    4 fsync     the folder

and only then does whoever collects tell Kafka. What a crash leaves: before 3, a temporary file, which the partition's
next writer removes, and the rows are read again; between 3 and 4, the name or no name; after 4, the segment.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.jsonl_files import told
from connectors.parquet_log_segments import Segment, segment_name
from streamfm import files
from streamfm.errors import StreamError

COMPRESSION = "zstd"
ROW_GROUP_ROWS = 122_880
"""As DuckDB's own: what one of its threads reads at a time."""

Use = Literal["collect", "upkeep"]

# Arrow writes without Python's lock: meanwhile the next records are read.
_BESIDE = ThreadPoolExecutor(1, thread_name_prefix="streamfm-parquet")

_SUFFIX = ".partial"


class SegmentWriter:
    """A segment under way; `commit` or `abandon` ends it.

    Attributes:
        rows: How many were given.
        waiting_bytes: How much of them is still held in memory.
    """

    def __init__(self, folder: Path, topic: str, partition: int, schema: pa.Schema, *, use: Use = "collect") -> None:
        """Begin a file with a temporary name.

        Args:
            folder: The topic's.
            topic: Its name.
            partition: Of the topic; the lock of that use is held.
            schema: Of all rows to come.
            use: Whether rows are collected, or rewritten by upkeep.

        Raises:
            StreamError: The disk is full, or the system's error.
        """
        self._folder, self._topic, self._partition = folder, topic, partition
        self._temporary = folder / f"{_prefix(topic, partition, use)}{files.token()}{_SUFFIX}"
        self._waiting: list[pa.Table] = []
        self._pending: Future[None] | None = None
        self._waiting_rows = self.rows = self.waiting_bytes = 0
        with told(str(self._temporary)):
            self._file = self._temporary.open("xb")
        self._writer = pq.ParquetWriter(self._file, schema, compression=COMPRESSION, store_schema=False)

    @property
    def bytes(self) -> int:
        """How large the file is as yet."""
        return self._file.tell()

    def add(self, table: pa.Table) -> None:
        """Step 1: take rows, and begin to write those that fill row groups; what goes wrong, a later call tells.

        Raises:
            StreamError: The disk is full, or the system's error; nothing of the segment counts.
        """
        self._waiting.append(table)
        self.rows += table.num_rows
        self._waiting_rows += table.num_rows
        self.waiting_bytes += table.nbytes
        while self._waiting_rows >= ROW_GROUP_ROWS:
            self._write(ROW_GROUP_ROWS)

    def flush(self) -> None:
        """Write what is held in memory as a row group, however small.

        Raises:
            StreamError: As `add`.
        """
        if self._waiting_rows:
            self._write(self._waiting_rows)

    def commit(self, start: int, end: int, *, revision: int = 0, written_s: float | None = None) -> Segment:
        """Steps 2 to 4.

        Args:
            start: The first offset that the segment stands for, whether there is a record or not.
            end: The offset after the last one.
            revision: Of a rewritten segment.
            written_s: When its rows were written first, in seconds since 1970, which its file tells then; None: now.

        Raises:
            StreamError: The disk is full, or the system's error; nothing of the segment counts.
        """
        path = self._folder / segment_name(self._topic, self._partition, start, end, revision)
        if not start < end:
            raise StreamError(f"{path.name}: an empty range")
        self.flush()
        with self._told():
            self._settle()
            self._writer.close()
            self._file.close()
            if written_s is not None:
                os.utime(self._temporary, (written_s, written_s))
            files.fsync_file(self._temporary)
            self._temporary.rename(path)
            files.fsync_folder(self._folder)
        return Segment(path, self._partition, start, end, revision)

    def abandon(self) -> None:
        """Let go of what was written; never raises."""
        with suppress(OSError, pa.ArrowException):
            self._settle()
        with suppress(OSError, pa.ArrowException):
            self._writer.close()
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    def _write(self, rows: int) -> None:
        table = pa.concat_tables(self._waiting)
        rest = table.slice(rows)
        self._waiting, self._waiting_rows, self.waiting_bytes = [rest], rest.num_rows, rest.nbytes
        with self._told():
            self._settle()
            self._pending = _BESIDE.submit(self._writer.write_table, table.slice(0, rows), ROW_GROUP_ROWS)

    def _settle(self) -> None:
        """Wait for the row group that is being written; raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A block after whose failure nothing of the segment stays, and the system's errors name its file."""
        try:
            with told(str(self._temporary)):
                yield
        except BaseException:
            self.abandon()
            raise


def remove_partial(folder: Path, topic: str, partition: int | None = None, *, use: Use = "collect") -> None:
    """Remove what a writer that died has left, of a partition or of all; the lock of that use is held."""
    for path in folder.glob(f"{_prefix(topic, partition, use)}*{_SUFFIX}"):
        with told(str(path)):
            path.unlink(missing_ok=True)


def partial_partitions(folder: Path, topic: str) -> list[int]:
    """The partitions of which a collector has rows in hand, or died with them."""
    begin = _prefix(topic, None, "collect")
    names = [path.name.removeprefix(begin) for path in folder.glob(f"{begin}*{_SUFFIX}")]
    return sorted({int(number) for name in names if (number := name.partition(".")[0]).isdigit()})


def _prefix(topic: str, partition: int | None, use: Use) -> str:
    return f".{use}.{topic}-" + ("" if partition is None else f"{partition}.")
