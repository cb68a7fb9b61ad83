"""One user's rows away for good: the segments that have some are written anew without them.

Impressions are erased by a column's value, clicks by the names of those impressions, and what could not be decoded,
where its bytes hold the value or one of the names. Clicks go first, and impressions only when the clicks of all that
are known have gone: an erasure that was cut short still finds clicks by their impressions when it is run again. What
comes meanwhile is looked for until nothing more is found. A rewritten segment has its range and the next revision
(`parquet_log_segments`): no offset is missing then, and the old file is removed when its last reader has gone, without
a grace period.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_matching import Match, as_text, holds, is_among, names_in, spelling, without, words
from connectors.parquet_log_segments import Piece, Segment
from connectors.parquet_log_topics import Manifest, TopicFolder, list_topics, now_text
from connectors.parquet_log_upkeep import reading, sweep_locked, tables_of
from connectors.parquet_log_writing import SegmentWriter, partial_partitions, remove_partial
from streamfm.errors import StreamError
from streamfm.locking import LockedError

_ROUNDS = 10
"""So often is looked for what came meanwhile: a user who never rests is not waited for."""


class Erased(NamedTuple):
    """What an erasure did.

    Attributes:
        rows: Rows that are gone, by topic.
        blanked: Records that could not be decoded, and of which the bytes are gone, by topic.
        kept: Files with such rows that are still there, since somebody reads them.
        under_way: Partitions that are being collected: what was read of them, and is in no segment, comes after this.
        is_more: Whether rows were still coming in when it ended.
    """

    rows: Mapping[str, int]
    blanked: Mapping[str, int]
    kept: int
    under_way: int
    is_more: bool


def erase(
    log: EventLog,
    column: str,
    value: str,
    *,
    wait_s: float = 60.0,
    now: Callable[[], float] = time.time,
    sleep: Callable[[float], object] = time.sleep,
) -> Erased:
    """Erase the impressions that have a value in a column, and their clicks.

    Args:
        log: The log.
        column: Of the impressions, such as ``user_id``.
        value: Compared as text: 17 is also the number 17.
        wait_s: How long to wait for readers of the old files.
        now: Seconds since 1970.
        sleep: Waits so many seconds.

    Raises:
        LockedError: Other upkeep is under way.
        StreamError: No topic of impressions has the column; a file cannot be read; the disk is full.
    """
    erasure = _Erasure(list_topics(log.folder), log.folder, column, value, now)
    kept = 0
    is_more = True
    for number in range(_ROUNDS):
        is_more = erasure.rewrite()
        if number and not is_more:
            break
        # While readers are waited for, more may come.
        kept = sum(_sweep(folder, wait_s, now, sleep) for folder in erasure.folders)
    under_way = sum(_remove_abandoned(folder) for folder in erasure.folders)
    return Erased(erasure.rows, erasure.blanked, kept, under_way, is_more)


class _Erasure:
    """What is to go, and what has gone.

    Attributes:
        rows: As `Erased`.
        blanked: As `Erased`.
    """

    def __init__(
        self, folders: Sequence[TopicFolder], log: Path, column: str, value: str, now: Callable[[], float]
    ) -> None:
        kinds = {folder.path: folder.manifest() for folder in folders}
        self._clicks = [it for it in folders if kinds[it.path].kind == "clicks"]
        self._impressions = [
            it for it in folders if kinds[it.path].kind == "impressions" and column in kinds[it.path].columns
        ]
        if not self._impressions:
            known = sorted({name for found in kinds.values() for name in found.columns if not name.startswith("_")})
            raise StreamError(f"{log}: no impressions have a column {column!r}", hint=f"columns: {', '.join(known)}")
        self._column, self._values, self._spelling = column, pa.array([value], pa.string()), spelling(value)
        self._now = now
        self._ids: set[str] = set()
        self._looked: set[Path] = set()
        self._clean: dict[Path, Sequence[str]] = {}
        self.rows = {kinds[folder.path].identity.topic: 0 for folder in self.folders}
        self.blanked = dict(self.rows)

    @property
    def folders(self) -> list[TopicFolder]:
        """All that have rows to erase, clicks first."""
        return [*self._clicks, *self._impressions]

    def rewrite(self) -> bool:
        """Erase what is there now; whether that was anything.

        Impressions that come while clicks are erased stay, so that their clicks can still be found: only segments whose
        impressions were known when clicks were erased are written anew.
        """
        before = sum(self.rows.values()) + sum(self.blanked.values())
        for folder in self.folders:
            _remove_abandoned(folder)
        self._look()
        known: set[Path] = set()
        for _ in range(_ROUNDS):
            known = set(self._looked)
            patterns = [self._spelling, *words(sorted(self._ids))]
            ids = pa.array(sorted(self._ids), pa.string())
            for folder in self._clicks:
                self._erase(folder, Match(folder.manifest().id, ids, patterns))
            if not self._look():
                break
        for folder in self._impressions:
            self._erase(folder, Match(self._column, self._values, patterns), known)
        return sum(self.rows.values()) + sum(self.blanked.values()) > before

    def _look(self) -> bool:
        """Add the names of the impressions that are to go; whether there are more."""
        before = len(self._ids)
        for folder in self._impressions:
            id = folder.manifest().id  # as the field of LogSchema
            for piece in _pieces(folder):
                # A segment never changes.
                if piece.segment.path not in self._looked:
                    self._ids |= self._names(piece.segment, id)
                    self._looked.add(piece.segment.path)
        return len(self._ids) > before

    def _names(self, segment: Segment, id: str) -> set[str]:
        table = _read(segment, (id, self._column, "_raw"))
        found: set[str] = set()
        if id in table.schema.names:
            mine = table.filter(is_among(table, self._column, self._values))
            found.update(as_text(mine[id]).drop_null().to_pylist())
        unreadable = table.filter(holds(table, [self._spelling]))
        return found | (names_in(unreadable["_raw"].to_pylist(), id) if unreadable.num_rows else set())

    def _erase(self, folder: TopicFolder, match: Match, known: Container[Path] | None = None) -> None:
        """Rewrite the segments that have what is to go, of all or of those that are known."""
        topic, gone, blank = folder.manifest().identity.topic, 0, 0
        with folder.upkeep_lock():
            remove_partial(folder.path, topic, use="upkeep")
            for piece in _pieces(folder):
                path = piece.segment.path
                # With the same names it was looked through already.
                if self._clean.get(path) == match.patterns or (known is not None and path not in known):
                    continue
                some, more = _rewrite(folder, piece.segment, match)
                gone, blank = gone + some, blank + more
                self._clean[path] = match.patterns
        self.rows[topic] += gone
        self.blanked[topic] += blank
        _note(folder, gone + blank, self._now())


def _rewrite(folder: TopicFolder, segment: Segment, match: Match) -> tuple[int, int]:
    """Write a segment anew, if it has what is to go; how many rows went, and how many lost their bytes."""
    table = _read(segment, (match.column, "_raw"))
    gone = pc.sum(is_among(table, match.column, match.values)).as_py() or 0
    blank = pc.sum(holds(table, match.patterns)).as_py() or 0
    if not gone and not blank:
        return 0, 0
    with reading(segment):
        schema, written_s = pq.read_schema(segment.path).remove_metadata(), segment.path.stat().st_mtime
    topic = folder.manifest().identity.topic
    writer = SegmentWriter(folder.path, topic, segment.partition, schema, use="upkeep")
    try:
        # All of the file: an overlap is cut by whoever reads.
        for rows in tables_of(Piece(segment, segment.start), schema):
            writer.add(without(rows, match))
        writer.commit(segment.start, segment.end, revision=segment.revision + 1, written_s=written_s)
    except BaseException:
        writer.abandon()
        raise
    return gone, blank


def _read(segment: Segment, columns: Sequence[str]) -> pa.Table:
    """Those of the columns that a segment has."""
    with reading(segment):
        there = pq.read_schema(segment.path).names
        return pq.read_table(segment.path, columns=[name for name in dict.fromkeys(columns) if name in there])


def _sweep(folder: TopicFolder, wait_s: float, now: Callable[[], float], sleep: Callable[[float], object]) -> int:
    """Remove the old files; how many stay, since somebody reads them."""
    with folder.upkeep_lock():
        return sweep_locked(folder, grace_s=0.0, wait_s=wait_s, now=now, sleep=sleep).kept


def _remove_abandoned(folder: TopicFolder) -> int:
    """Remove the rows that a collector had in hand when it died; of how many partitions a living one has some."""
    topic, under_way = folder.manifest().identity.topic, 0
    for partition in partial_partitions(folder.path, topic):
        try:
            with folder.partition_lock(partition):
                remove_partial(folder.path, topic, partition)
        except LockedError:
            under_way += 1
    return under_way


def _pieces(folder: TopicFolder) -> tuple[Piece, ...]:
    """What is read of a topic; no more may be hidden in a file that cannot be."""
    contents = contents_of(folder)
    if contents.damaged:
        path, reason = next(iter(contents.damaged.items()))
        raise StreamError(f"{path} {reason}: whether it has rows to erase, nobody knows", hint="restore or remove it")
    return contents.coverage.pieces


def _note(folder: TopicFolder, rows: int, at_s: float) -> None:
    if rows:
        entry = {"at": now_text(datetime.fromtimestamp(at_s, UTC)), "rows": rows}

        def noted(manifest: Manifest) -> Manifest:
            return replace(manifest, erased=(*manifest.erased, entry))

        folder.change(noted)
