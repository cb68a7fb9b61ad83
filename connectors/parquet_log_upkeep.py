"""Upkeep of the event log: small segments into large ones, old ones away; readers and collectors go on meanwhile.

Compaction writes a segment of the joined range, as a collector does (`parquet_log_writing`): with its name it goes
before those that it was made of. Retention moves the manifest's begin. Either way files are superseded then, and they
are removed later: when no reader holds a lease, and the grace period is over, for those who took a list of files
without a lease. A crash at any moment leaves the rows as they were, and the next run goes on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.jsonl_files import told
from connectors.parquet_log import READERS, contents_of
from connectors.parquet_log_segments import Piece, Segment
from connectors.parquet_log_topics import Manifest, PartitionState, TopicFolder
from connectors.parquet_log_writing import ROW_GROUP_ROWS, SegmentWriter, remove_partial
from streamfm.errors import StreamError

logger = logging.getLogger(__name__)

GRACE_S = 600.0
_AGAIN_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class CompactSettings:
    """How large segments become.

    Attributes:
        target_rows: A segment of so many rows is large enough.
        target_bytes: One of so many bytes is, too.
        least_files: Fewer are not worth it.

    Raises:
        StreamError: A setting out of its range; names it.
    """

    target_rows: int = 4_000_000
    target_bytes: int = 256 << 20
    least_files: int = 2

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("target_rows", 1), ("target_bytes", 1), ("least_files", 2)):
            if getattr(self, name) < least:
                raise StreamError(f"{name} is {getattr(self, name)}, expected {least} or more")


class Swept(NamedTuple):
    """What became of superseded files.

    Attributes:
        removed: How many are gone.
        kept: How many are still there, since somebody may read them.
    """

    removed: int
    kept: int


class _Large(NamedTuple):
    """A segment that is made, of pieces next to each other."""

    pieces: tuple[Piece, ...]
    schema: pa.Schema


def compact(folder: TopicFolder, settings: CompactSettings) -> tuple[list[Segment], int]:
    """Join small segments of a topic; those that were made, and of how many.

    Raises:
        LockedError: Other upkeep is under way.
        StreamError: The disk is full, or the system's error; the log is as it was before.
    """
    with folder.upkeep_lock():
        manifest = folder.manifest()
        remove_partial(folder.path, manifest.identity.topic, use="upkeep")
        made, used = [], 0
        pieces = contents_of(folder).coverage.pieces
        for large in _planned(pieces, settings):
            made.append(_join(folder, manifest, large))
            used += len(large.pieces)
        _note_ends(folder, made, pieces)
        return made, used


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
    """The time of a segment's newest record, as Kafka has it; of a segment without such times, when it was written.

    A record cannot be newer than its file, whatever its producer's clock said.

    Raises:
        StreamError: It cannot be read.
    """
    with reading(segment):
        written = datetime.fromtimestamp(segment.path.stat().st_mtime, UTC)
        times = pq.read_table(segment.path, columns=["_timestamp"])["_timestamp"]
        newest = pc.max(times).as_py()
    return written if newest is None else min(newest, written)


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


def _planned(pieces: Sequence[Piece], settings: CompactSettings) -> Iterator[_Large]:
    """Runs of pieces that are to become one each: without a gap between them, and none of them large already."""
    run: list[Piece] = []
    schema = pa.schema([])
    rows = size = 0
    for piece in [*pieces, None]:
        if piece is not None:
            with reading(piece.segment):
                found = pq.read_metadata(piece.segment.path)
                some, more = found.num_rows, piece.segment.path.stat().st_size
                joined = _joined(schema, found.schema.to_arrow_schema())
            is_next = bool(run) and _is_next(run[-1], piece) and joined is not None
            is_small = some < settings.target_rows and more < settings.target_bytes
            fits = rows + some <= settings.target_rows and size + more <= settings.target_bytes
            if is_small and is_next and fits and joined is not None:
                run.append(piece)
                schema, rows, size = joined, rows + some, size + more
                continue
        if len(run) >= settings.least_files:
            yield _Large(tuple(run), schema)
        run, schema, rows, size = [], pa.schema([]), 0, 0
        # What an overlap cuts begins no run: the segment made of it would not contain it.
        if piece is not None and is_small and piece.first == piece.segment.start:
            run, schema, rows, size = [piece], found.schema.to_arrow_schema(), some, more


def _is_next(before: Piece, after: Piece) -> bool:
    return before.segment.partition == after.segment.partition and before.segment.end == after.first


def _joined(first: pa.Schema, second: pa.Schema) -> pa.Schema | None:
    """The columns of both; None where one has another type in each."""
    try:
        return pa.unify_schemas([first.remove_metadata(), second.remove_metadata()])
    except pa.ArrowException:
        return None


def _join(folder: TopicFolder, manifest: Manifest, large: _Large) -> Segment:
    """Write the pieces' rows as one segment."""
    first, last = large.pieces[0], large.pieces[-1]
    partition = first.segment.partition
    writer = SegmentWriter(folder.path, manifest.identity.topic, partition, large.schema, use="upkeep")
    try:
        for piece in large.pieces:
            for table in tables_of(piece, large.schema):
                writer.add(table)
        # Its range is that of the names, also where it begins with an overlap or a gap in the offsets.
        return writer.commit(first.first, last.segment.end)
    except BaseException:
        writer.abandon()
        raise


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


def _note_ends(folder: TopicFolder, made: Sequence[Segment], pieces: Sequence[Piece]) -> None:
    """How far the log had come stays known, should somebody lose the files."""
    # In reverse, so that the first one stands.
    begins = {piece.segment.partition: piece.segment.start for piece in reversed(pieces)}

    def noted(manifest: Manifest) -> Manifest:
        states = dict(manifest.partitions)
        for segment in made:
            begin = begins[segment.partition]
            before = states.get(segment.partition, PartitionState(begin=begin, end=begin))
            states[segment.partition] = replace(before, end=max(before.end, segment.end))
        return replace(manifest, partitions=states)

    if made:
        folder.change(noted)


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
        return max(path.stat().st_mtime for path in over or [folder.manifest_path])


def _is_read(folder: TopicFolder, now: Callable[[], float]) -> bool:
    from streamfm.registry.leases import Holder, LeaseBook

    book = LeaseBook(folder.path / READERS, clock=now, holder=Holder.here)
    book.sweep()
    return bool(book.readers(0))
