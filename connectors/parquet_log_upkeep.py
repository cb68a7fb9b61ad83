"""Upkeep of the event log: old segments away; readers and collectors go on meanwhile.

Retention moves the manifest's begin; compaction (`parquet_log_compaction`) puts a large segment in the place of small
ones. Either way files are superseded then, and they are removed later: when no reader holds a lease, and the grace
period is over, for those who took a list of files without a lease. A crash at any moment leaves the rows as they were,
and the next run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.jsonl_files import told
from connectors.parquet_log import READERS, contents_of
from connectors.parquet_log_segments import Piece, Segment
from connectors.parquet_log_topics import Manifest, PartitionState, TopicFolder
from connectors.parquet_log_writing import ROW_GROUP_ROWS
from streamfm.errors import StreamError

logger = logging.getLogger(__name__)

GRACE_S = 600.0
_AGAIN_S = 0.1


class Swept(NamedTuple):
    """What became of superseded files.

    Attributes:
        removed: How many are gone.
        kept: How many are still there, since somebody may read them.
    """

    removed: int
    kept: int


def retain(folder: TopicFolder, keep: timedelta, *, now: datetime) -> dict[int, int]:
    """Let the oldest rows of a topic go, by whole segments; the new begin of each partition that has one.

    Args:
        folder: The topic's.
        keep: A segment goes when its newest row is older: by Kafka's time, or where there is none, by the file's.
        now: The time.

    Raises:
        LockedError: Other upkeep is under way.
        StreamError: The disk is full, or the system's error.
    """
    with folder.upkeep_lock():
        begins: dict[int, int] = {}
        coverage = contents_of(folder).coverage
        stopped = set()
        for piece in coverage.pieces:
            segment = piece.segment
            if segment.partition in stopped or newest_time(segment) >= now - keep:
                stopped.add(segment.partition)
            else:
                begins[segment.partition] = segment.end

        def moved(manifest: Manifest) -> Manifest:
            states = dict(manifest.partitions)
            for partition, begin in begins.items():
                before = states.get(partition, PartitionState(begin=begin, end=begin))
                states[partition] = replace(before, begin=begin, end=max(begin, before.end))
            return replace(manifest, partitions=states)

        if begins:
            folder.change(moved)
        return begins


def sweep(
    folder: TopicFolder,
    *,
    grace_s: float = GRACE_S,
    wait_s: float = 0.0,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> Swept:
    """Remove superseded files that nobody reads.

    Args:
        folder: The topic's.
        grace_s: A file that was superseded more recently stays.
        wait_s: How long to wait for readers.
        now: Seconds since 1970.
        sleep: Waits so many seconds.

    Raises:
        LockedError: Other upkeep is under way.
        StreamError: The system's error.
    """
    with folder.upkeep_lock():
        return sweep_locked(folder, grace_s=grace_s, wait_s=wait_s, now=now, sleep=sleep)


def sweep_locked(
    folder: TopicFolder, *, grace_s: float, wait_s: float, now: Callable[[], float], sleep: Callable[[float], object]
) -> Swept:
    """As `sweep`, by who has the lock already."""
    coverage = contents_of(folder).coverage
    # Each was superseded before this moment, and whoever takes a lease from now on lists what goes before it.
    old = [it for it in coverage.superseded if now() - _since_s(it, coverage.pieces, folder) >= grace_s]
    kept = len(coverage.superseded) - len(old)
    waits = round(wait_s / _AGAIN_S)
    while old and _is_read(folder, now):
        if waits <= 0:
            return Swept(0, kept + len(old))
        waits -= 1
        sleep(_AGAIN_S)
    for segment in old:
        with told(str(segment.path)):
            segment.path.unlink(missing_ok=True)
    return Swept(len(old), kept)


def rows_of(segment: Segment) -> int:
    """How many rows a segment has.

    Raises:
        StreamError: It cannot be read.
    """
    with reading(segment):
        return int(pq.read_metadata(segment.path).num_rows)


def newest_time(segment: Segment) -> datetime:
    """The time of a segment's newest record, as Kafka has it; where records have no such times, when it was written.

    A record cannot be newer than its file, whatever its producer's clock said.

    Raises:
        StreamError: It cannot be read.
    """
    with reading(segment):
        written = datetime.fromtimestamp(segment.path.stat().st_mtime, UTC)
        found = _newest_told(pq.read_metadata(segment.path))
        if found is None:
            times = pq.read_table(segment.path, columns=["_timestamp"])["_timestamp"]
            found = pc.max(times).as_py()
    return written if found is None else min(found, written)


def _newest_told(metadata: pq.FileMetaData) -> datetime | None:
    """The newest time as the file's statistics tell it, which saves reading the column; None where they do not."""
    newest: list[datetime] = []
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        found = next((it.statistics for it in columns if it.path_in_schema == "_timestamp"), None)
        if found is None or not found.has_min_max:
            return None
        newest.append(found.max)
    return max(newest, default=None)


@contextmanager
def reading(segment: Segment) -> Iterator[None]:
    """A block that reads a segment: errors name it.

    Raises:
        StreamError: Whatever goes wrong.
    """
    try:
        with told(str(segment.path)):
            yield
    except pa.ArrowException as error:
        raise StreamError(f"{segment.path}: cannot be read: {error}", hint="restore the file") from error


def tables_of(piece: Piece, schema: pa.Schema) -> Iterator[pa.Table]:
    """A piece's rows, some at a time, with all columns of a schema.

    Raises:
        StreamError: It cannot be read.
    """
    with reading(piece.segment), pq.ParquetFile(piece.segment.path) as file:
        for batch in file.iter_batches(ROW_GROUP_ROWS):
            table = pa.Table.from_batches([batch])
            if piece.first > piece.segment.start:
                table = table.filter(pc.greater_equal(table["_offset"], piece.first))
            columns = [
                table[field.name] if field.name in table.schema.names else pa.nulls(table.num_rows, field.type)
                for field in schema
            ]
            yield pa.table(columns, schema=schema)


def _since_s(segment: Segment, pieces: Sequence[Piece], folder: TopicFolder) -> float:
    """Since when a file is superseded at the latest, in seconds since 1970."""
    over = [
        it.segment.path
        for it in pieces
        if it.segment.partition == segment.partition
        and it.segment.start < segment.end
        and segment.start < it.segment.end
    ]
    with told(str(segment.path)):
        # Not when it was modified: of a rewritten file that tells when its rows were written first.
        return max(path.stat().st_ctime for path in over or [folder.manifest_path])


def _is_read(folder: TopicFolder, now: Callable[[], float]) -> bool:
    from streamfm.registry.leases import Holder, LeaseBook

    book = LeaseBook(folder.path / READERS, clock=now, holder=Holder.here)
    book.sweep()
    return bool(book.readers(0))
