"""Segments: Parquet files that a range of offsets names, and which of them make the log.

    events-0-00000000000000000000-00000000000000001000.parquet       offsets 0 to 999 of partition 0 of topic events
    events-0-00000000000000000000-00000000000000001000.r1.parquet    the same range, rewritten: it goes before the other

The name is the commit: a segment is there when its file has its name. A range inside another one is ignored, so that a
larger file takes the place of those that it was made of at the moment when it gets its name. Of two ranges that
overlap, the later one is read from where the earlier one ends.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

_NAME = re.compile(
    r"(?P<topic>.+)-(?P<partition>\d+)-(?P<start>\d{20})-(?P<end>\d{20})(?:\.r(?P<revision>\d+))?\.parquet"
)
_MAGIC = b"PAR1"
_FOOTER_BYTES = 8
_LEAST_BYTES = len(_MAGIC) + _FOOTER_BYTES

GONE = "is gone"
"""What is wrong with a file that was superseded and removed since it was listed."""


class Segment(NamedTuple):
    """A file of the log.

    Attributes:
        path: Where it is.
        partition: Of the topic.
        start: Its first offset.
        end: The offset after its last one.
        revision: 0 as it was collected; each time that it was rewritten, one more.
    """

    path: Path
    partition: int
    start: int
    end: int
    revision: int


class Piece(NamedTuple):
    """A segment that is read, from an offset on: its start, unless the one before overlaps it."""

    segment: Segment
    first: int


class Range(NamedTuple):
    """Offsets of a partition, the end exclusive."""

    partition: int
    start: int
    end: int


class Coverage(NamedTuple):
    """What the segments of a topic make together.

    Attributes:
        pieces: What is read, by partition and offset; no offset twice.
        missing: Ranges between them that no segment has.
        overlaps: Ranges that two of them have, neither inside the other; read once.
        superseded: Segments that another one contains.
        ends: Where each partition ends.
    """

    pieces: tuple[Piece, ...]
    missing: tuple[Range, ...]
    overlaps: tuple[Range, ...]
    superseded: tuple[Segment, ...]
    ends: Mapping[int, int]

    def next_offset(self, partition: int) -> int | None:
        """Where collecting goes on: at the end, or at what is missing right before it; None of a new partition."""
        end = self.ends.get(partition)
        starts = (it.start for it in self.missing if it.partition == partition and it.end == end)
        return next(starts, end)


def segment_name(topic: str, partition: int, start: int, end: int, revision: int = 0) -> str:
    """The file's name."""
    suffix = f".r{revision}" if revision else ""
    return f"{topic}-{partition}-{start:020d}-{end:020d}{suffix}.parquet"


def list_segments(folder: Path, topic: str) -> list[Segment]:
    """The segments in a folder, in no order; other files are no business of ours."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            name = _NAME.fullmatch(entry.name)
            if name is not None and name["topic"] == topic and int(name["start"]) < int(name["end"]):
                partition, start, end = (int(name[part]) for part in ("partition", "start", "end"))
                found.append(Segment(Path(entry.path), partition, start, end, int(name["revision"] or 0)))
    return found


def cover(segments: Iterable[Segment], begins: Mapping[int, int], told: Mapping[int, int]) -> Coverage:
    """Which segments are read.

    Args:
        segments: All that are there.
        begins: The first offset that the log is to have, by partition; what is before it was let go, and without one
            the first segment's is.
        told: Where each partition ended at some time, by partition: it was there, whatever the segments say.
    """
    by_partition: defaultdict[int, list[Segment]] = defaultdict(list)
    for segment in segments:
        by_partition[segment.partition].append(segment)
    pieces: list[Piece] = []
    missing: list[Range] = []
    overlaps: list[Range] = []
    superseded: list[Segment] = []
    ends: dict[int, int] = {}
    for partition in sorted({*by_partition, *begins, *told}):
        some = by_partition[partition]
        # Of those that begin together the longest, and of those the latest revision.
        some.sort(key=lambda segment: (segment.start, -segment.end, -segment.revision))
        reached = begins.get(partition, some[0].start if some else 0)
        for segment in some:
            if segment.end <= reached:
                superseded.append(segment)
                continue
            if segment.start > reached:
                missing.append(Range(partition, reached, segment.start))
            first = max(segment.start, reached)
            if pieces and pieces[-1].segment.partition == partition and segment.start < reached:
                overlaps.append(Range(partition, segment.start, reached))
            pieces.append(Piece(segment, first))
            reached = segment.end
        ends[partition] = max(reached, told.get(partition, 0))
        if reached < ends[partition]:
            missing.append(Range(partition, reached, ends[partition]))
    return Coverage(tuple(pieces), tuple(missing), tuple(overlaps), tuple(superseded), ends)


def damage_of(path: Path) -> str | None:
    """What is wrong with a file, as far as its ends tell: a Parquet file that was cut has no footer; None if nothing.

    A file that is gone is one that was superseded meanwhile, and is told as such.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            if size < _LEAST_BYTES:
                return f"has {size} bytes"
            file.seek(0)
            head = file.read(len(_MAGIC))
            file.seek(-_FOOTER_BYTES, os.SEEK_END)
            footer = file.read(_FOOTER_BYTES)
    except FileNotFoundError:
        return GONE
    except OSError as error:
        return error.strerror or str(error)
    length = int.from_bytes(footer[:4], "little")
    if head != _MAGIC or footer[4:] != _MAGIC or length + _LEAST_BYTES > size:
        return "is no whole Parquet file: it was cut off, or changed"
    return None
