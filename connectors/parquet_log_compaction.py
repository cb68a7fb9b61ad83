"""Compaction of the event log: small segments into large ones; readers and collectors go on meanwhile.

A segment of the joined range is written as a collector does it (`parquet_log_writing`): with its name it goes before
those that it was made of, which are removed later (`parquet_log_upkeep`). What is joined is of one day, by UTC, so that
retention still lets rows go by the day; and the time when rows were written goes along with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from connectors.parquet_log import contents_of
from connectors.parquet_log_segments import Piece, Segment
from connectors.parquet_log_topics import Manifest, PartitionState, TopicFolder
from connectors.parquet_log_upkeep import newest_time, reading, tables_of
from connectors.parquet_log_writing import SegmentWriter, remove_partial
from streamfm.errors import StreamError


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


class _Large(NamedTuple):
    """A segment that is made, of pieces next to each other."""

    pieces: tuple[Piece, ...]
    schema: pa.Schema
    written_s: float


class _Small(NamedTuple):
    """A piece that may become part of one.

    Attributes:
        piece: See there.
        schema: Its columns, and those of the pieces before it in its run.
        rows: How many.
        size: Bytes of its file.
        day: Of its newest row, as retention sees it.
        written_s: When its rows were written, in seconds since 1970.
    """

    piece: Piece
    schema: pa.Schema
    rows: int
    size: int
    day: date
    written_s: float


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


def _planned(pieces: Sequence[Piece], settings: CompactSettings) -> Iterator[_Large]:
    """Runs of pieces that are to become one each: next to each other, of one day, and none of them large already."""
    run: list[_Small] = []
    for piece in [*pieces, None]:
        small = _small(piece, settings) if piece is not None else None
        if run and small is not None and (joined := _added(run, small, settings)) is not None:
            run.append(small._replace(schema=joined))
            continue
        if len(run) >= settings.least_files:
            yield _Large(tuple(it.piece for it in run), run[-1].schema, max(it.written_s for it in run))
        # What an overlap cuts begins no run: the segment made of it would not contain it.
        run = [small] if small is not None and small.piece.first == small.piece.segment.start else []


def _small(piece: Piece, settings: CompactSettings) -> _Small | None:
    """What is to be known of a piece; None of one that is large enough."""
    path = piece.segment.path
    with reading(piece.segment):
        found, status = pq.read_metadata(path), path.stat()
        if found.num_rows >= settings.target_rows or status.st_size >= settings.target_bytes:
            return None
        day = newest_time(piece.segment).astimezone(UTC).date()
    return _Small(piece, found.schema.to_arrow_schema(), found.num_rows, status.st_size, day, status.st_mtime)


def _added(run: Sequence[_Small], small: _Small, settings: CompactSettings) -> pa.Schema | None:
    """The columns of a run with one more piece; None where that does not belong to it."""
    last = run[-1]
    if last.piece.segment.partition != small.piece.segment.partition or last.piece.segment.end != small.piece.first:
        return None
    # A file of many days would always have a new row, and retention would never let it go.
    if last.day != small.day:
        return None
    rows, size = sum(it.rows for it in run) + small.rows, sum(it.size for it in run) + small.size
    fits = rows <= settings.target_rows and size <= settings.target_bytes
    return _joined(last.schema, small.schema) if fits else None


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
        return writer.commit(first.first, last.segment.end, written_s=large.written_s)
    except BaseException:
        writer.abandon()
        raise


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
