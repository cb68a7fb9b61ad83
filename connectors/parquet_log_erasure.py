"""One user's rows away for good: the segments that have some are written anew without them.

Impressions are erased by a column's value, clicks by the names of those impressions, and what could not be decoded,
where its bytes hold the value. Clicks go first: an erasure that was cut short still finds them by their impressions
when it is run again. A rewritten segment has its range and the next revision (`parquet_log_segments`): no offset
is missing then, and the old file is removed when its last reader has gone, without a grace period.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_segments import Piece
from connectors.parquet_log_topics import Manifest, TopicFolder, list_topics, now_text
from connectors.parquet_log_upkeep import reading, sweep_locked, tables_of
from connectors.parquet_log_writing import SegmentWriter, remove_partial
from streamfm.errors import StreamError


class Erased(NamedTuple):
    """What an erasure did.

    Attributes:
        rows: Rows that are gone, by topic.
        blanked: Records that could not be decoded, and of which the bytes are gone, by topic.
        kept: Files with such rows that are still there, since somebody reads them.
    """

    rows: Mapping[str, int]
    blanked: Mapping[str, int]
    kept: int


class _Match(NamedTuple):
    """What is to go.

    Attributes:
        column: Rows with one of `values` there, compared as text.
        values: See there.
        raw: Records whose bytes hold this.
    """

    column: str
    values: pa.Array
    raw: bytes


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
    folders = list_topics(log.folder)
    impressions = [it for it in folders if it.manifest().kind == "impressions" and column in it.manifest().columns]
    if not impressions:
        known = sorted({name for it in folders for name in it.manifest().columns if not name.startswith("_")})
        raise StreamError(f"{log.folder}: no impressions have a column {column!r}", hint=f"columns: {', '.join(known)}")
    own = pa.array([value], pa.string())
    ids = pa.array(sorted({name for folder in impressions for name in _ids(folder, column, own)}), pa.string())
    raw = value.encode()
    rows: dict[str, int] = {}
    blanked: dict[str, int] = {}
    kept = 0
    for folder in [*(it for it in folders if it.manifest().kind == "clicks"), *impressions]:
        manifest = folder.manifest()
        is_clicks = manifest.kind == "clicks"
        match = _Match(manifest.id, ids, raw) if is_clicks else _Match(column, own, raw)
        topic = manifest.identity.topic
        with folder.upkeep_lock():
            gone, blank = _erase(folder, match)
            kept += sweep_locked(folder, grace_s=0.0, wait_s=wait_s, now=now, sleep=sleep).kept
        rows[topic] = rows.get(topic, 0) + gone
        blanked[topic] = blanked.get(topic, 0) + blank
        _note(folder, gone + blank, now())
    return Erased(rows, blanked, kept)


def _ids(folder: TopicFolder, column: str, values: pa.Array) -> set[str]:
    """The names of the impressions that are to go."""
    found: set[str] = set()
    name = folder.manifest().id
    for piece in _pieces(folder):
        with reading(piece.segment):
            there = pq.read_schema(piece.segment.path).names
            if column not in there or name not in there:
                continue
            table = pq.read_table(piece.segment.path, columns=list(dict.fromkeys((name, column))))
            found.update(_text(table.filter(_has(table, column, values))[name]).drop_null().to_pylist())
    return found


def _erase(folder: TopicFolder, match: _Match) -> tuple[int, int]:
    """Rewrite the segments that have what is to go; how many rows went, and how many lost their bytes."""
    topic = folder.manifest().identity.topic
    remove_partial(folder.path, topic, use="upkeep")
    gone = blank = 0
    for piece in _pieces(folder):
        segment = piece.segment
        with reading(segment):
            schema = pq.read_schema(segment.path).remove_metadata()
            looked = [name for name in (match.column, "_raw") if name in schema.names]
            table = pq.read_table(segment.path, columns=looked)
            mine, raw = (
                pc.sum(_has(table, match.column, match.values)).as_py(),
                pc.sum(_holds(table, match.raw)).as_py(),
            )
        if not mine and not raw:
            continue
        gone, blank = gone + (mine or 0), blank + (raw or 0)
        writer = SegmentWriter(folder.path, topic, segment.partition, schema, use="upkeep")
        try:
            # All of the file: an overlap is cut by whoever reads.
            for rows in tables_of(Piece(segment, segment.start), schema):
                writer.add(_without(rows, match))
            writer.commit(segment.start, segment.end, revision=segment.revision + 1)
        except BaseException:
            writer.abandon()
            raise
    return gone, blank


def _without(table: pa.Table, match: _Match) -> pa.Table:
    """The rows that stay, without the bytes that do not."""
    held = _holds(table, match.raw)
    reasons = pc.list_element(pc.split_pattern(table["_error"], ":", max_splits=1), 0)
    errors = pc.if_else(held, pc.binary_join_element_wise(reasons, pa.scalar("erased"), ": "), table["_error"])
    raw = pc.if_else(held, pa.scalar(None, pa.binary()), table["_raw"])
    names = table.schema.names
    table = table.set_column(names.index("_error"), "_error", errors).set_column(names.index("_raw"), "_raw", raw)
    return table.filter(pc.invert(_has(table, match.column, match.values)))


def _has(table: pa.Table, column: str, values: pa.Array) -> pa.ChunkedArray:
    if column not in table.schema.names:
        return pa.chunked_array([pa.repeat(False, table.num_rows)])
    return pc.fill_null(pc.is_in(_text(table[column]), value_set=values), False)


def _holds(table: pa.Table, raw: bytes) -> pa.ChunkedArray:
    return pc.fill_null(pc.match_substring(table["_raw"], raw), False)


def _text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column if pa.types.is_string(column.type) else column.cast(pa.string())


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
