"""From files into the event log: JSON lines and Parquet, each row once.

A file is a partition of the topic, by its path; offsets are the bytes at which lines begin, or the numbers of a Parquet
file's rows. So a file that was collected is not collected again, and one that has grown goes on where it was left. What
was collected is told from another file by a digest; a last line that is still being written waits for the next time.

    collect_files(log, "impressions", impressions(spec), ["day-1.jsonl", "day-2.parquet"], stopping=lambda: False)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from connectors.file_rows import RowsDigest, cast_column, rows_between
from connectors.jsonl_files import Input, Line, told
from connectors.kafka_collected_topics import Collected
from connectors.parquet_log_collecting import PartitionCollector, RollSettings
from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_schema import LogSchema
from connectors.parquet_log_topics import Identity, Manifest, PartitionState, TopicFolder, open_topic
from streamfm.errors import StreamError
from streamfm.stream.ports import Event

logger = logging.getLogger(__name__)

_CLUSTER = "files"
_LINES = 8_192
_ROWS = 122_880
_HINT = "a file may only grow; collect another one under another name"


def collect_files(
    log: Path,
    topic: str,
    schema: LogSchema,
    paths: Iterable[Path],
    *,
    stopping: Callable[[], bool],
    roll: RollSettings | None = None,
    collected: Collected | None = None,
) -> Collected:
    """Collect what is new in some files.

    Args:
        log: The event log's folder.
        topic: What the topic is called in it.
        schema: Its columns.
        paths: JSON lines, or Parquet where the name ends so.
        stopping: Asked after each batch; what was read is put into the log first.
        roll: When segments end.
        collected: Is added to.

    Raises:
        LockedError: Another process collects one of the files.
        StreamError: A file cannot be read, is shorter than what was collected of it, or another one than it was; the
            disk is full.
    """
    collected = collected or Collected()
    folder = open_topic(log, Identity(_CLUSTER, topic, "1"), schema)
    for path in paths:
        if stopping():
            break
        source = _Source(folder, topic, path, schema, roll or RollSettings(), collected)
        if path.suffix == ".parquet":
            source.collect_rows(stopping)
        else:
            source.collect_lines(stopping)
    return collected


class _Source:
    """One file, and its partition."""

    def __init__(
        self,
        folder: TopicFolder,
        topic: str,
        path: Path,
        schema: LogSchema,
        roll: RollSettings,
        collected: Collected,
    ) -> None:
        self._folder, self._topic, self._path, self._schema, self._roll = folder, topic, path, schema, roll
        self._collected = collected
        with told(str(path)):
            self._partition = self._number(str(path.resolve(strict=True)))

    def collect_lines(self, stopping: Callable[[], bool]) -> None:
        """Its new lines."""
        with closing(Input(str(self._path))) as lines, closing(self._open()) as collector:
            decoder = RecordDecoder(self._schema, self._folder.manifest().label)
            self._check_same(lines, collector.position)
            lines.seek(collector.position)
            while not stopping() and (found := lines.read_lines(_LINES, 0.0, last=True)):
                whole = self._whole(found)
                if whole:
                    self._add_lines(whole, decoder, collector)
                self._roll_if(collector.is_due(), collector, lines.digest(collector.position))
                # What a writer puts behind the rest of a line would be read as a line of its own.
                if len(whole) < len(found):
                    break
            self._roll_if(bool(collector.rows), collector, lines.digest(collector.position))
            self._note(collector.committed, lines.digest(collector.committed))

    def collect_rows(self, stopping: Callable[[], bool]) -> None:
        """Its new rows."""
        named = [name for name in (self._schema.id, self._schema.time) if name]
        digest = RowsDigest(pa.schema([self._schema.arrow.field(name) for name in named]))
        with closing(self._open()) as collector:
            for table in self._tables(collector.position, digest):
                if stopping():
                    break
                collector.add(table, collector.position + table.num_rows)
                digest.add(table)
                self._collected.errors[self._topic, "missing"] += len(table) - table["_error"].null_count
                self._roll_if(collector.is_due(), collector, digest.text)
            self._roll_if(bool(collector.rows), collector, digest.text)
            self._note(collector.committed, digest.text)
        if not self._collected.errors[self._topic, "missing"]:
            del self._collected.errors[self._topic, "missing"]

    def _open(self) -> PartitionCollector:
        return PartitionCollector(self._folder, self._partition, self._schema.arrow, self._roll)

    def _roll_if(self, is_due: bool, collector: PartitionCollector, digest: str) -> None:
        rows = collector.rows
        if is_due and collector.roll() is not None:
            self._collected.rows[self._topic] += rows
            self._collected.segments[self._topic] += 1
            self._note(collector.committed, digest)

    def _add_lines(self, lines: list[Line], decoder: RecordDecoder, collector: PartitionCollector) -> None:
        rows = decoder.decode([Event("", self._partition, line.offset, -1, None, line.value) for line in lines])
        collector.add(rows.table, lines[-1].end)
        for reason, count in rows.errors.items():
            self._collected.errors[self._topic, reason] += count

    def _whole(self, lines: list[Line]) -> list[Line]:
        """The lines without one at the end that is still being written."""
        if not lines or _is_ended(lines[-1]) or _is_object(lines[-1].value):
            return lines
        logger.info(
            "%s: the last line, at byte %s, has no end yet, and is left for the next time",
            self._path,
            f"{lines[-1].offset:,}",
        )
        return lines[:-1]

    def _number(self, source: str) -> int:
        """The file's partition; a new one where it has none."""

        def numbered(manifest: Manifest) -> Manifest:
            if any(state.source == source for state in manifest.partitions.values()):
                return manifest
            number = max(manifest.partitions, default=-1) + 1
            state = PartitionState(begin=0, end=0, source=source)
            return replace(manifest, partitions={**manifest.partitions, number: state})

        partitions = self._folder.change(numbered).partitions
        return next(number for number, state in partitions.items() if state.source == source)

    def _check_same(self, lines: Input, position: int) -> None:
        """See that what was collected is still what stands there.

        Raises:
            StreamError: It is not.
        """
        state = self._folder.manifest().partitions[self._partition]
        size = self._path.stat().st_size
        is_other = state.digest and lines.digest(state.digested) != state.digest
        if size < position or is_other:
            what = f"has {size:,} bytes, of which {position:,} were collected" if size < position else "is another file"
            raise StreamError(f"{self._path}: {what}", hint=_HINT)

    def _check_same_rows(self, file: pq.ParquetFile, position: int, digest: RowsDigest) -> None:
        """The same of a Parquet file's rows, which the digest has afterwards.

        Raises:
            StreamError: It has fewer; or the ids and times of those that were collected are other ones.
        """
        count = file.metadata.num_rows
        if count < position:
            raise StreamError(f"{self._path}: has {count:,} rows, of which {position:,} were collected", hint=_HINT)
        state = self._folder.manifest().partitions[self._partition]
        for _, table in rows_between(file, digest.names, 0, min(position, state.digested), count=_ROWS):
            digest.add(table)
        # Where a damaged segment is collected again, more is known of the file than the log has.
        known = digest.copy()
        for _, table in rows_between(file, digest.names, position, state.digested, count=_ROWS):
            known.add(table)
        # Of a log that was collected by other columns nothing is known.
        if known.is_comparable(state.digest) and known.text != state.digest:
            what = f"is another file: the {' and '.join(digest.names)} of its first {state.digested:,} rows"
            raise StreamError(f"{self._path}: {what} are not those that were collected", hint=_HINT)
        for _, table in rows_between(file, digest.names, state.digested, position, count=_ROWS):
            digest.add(table)

    def _note(self, end: int, digest: str) -> None:
        def noted(manifest: Manifest) -> Manifest:
            before = manifest.partitions[self._partition]
            # While what was damaged is collected again, the log has been further.
            state = replace(before, end=max(end, before.end), digest=digest, digest_end=end)
            return replace(manifest, partitions={**manifest.partitions, self._partition: state})

        self._folder.change(noted)

    def _tables(self, first: int, digest: RowsDigest) -> Iterator[pa.Table]:
        """The rows of a Parquet file from a number on, with the log's columns; the digest has those before."""
        try:
            with told(str(self._path)), pq.ParquetFile(self._path) as file:
                known = [name for name in file.schema_arrow.names if name in self._schema.arrow.names]
                self._check_named(known)
                self._check_same_rows(file, first, digest)
                for offset, table in rows_between(file, known, first, file.metadata.num_rows, count=_ROWS):
                    yield self._typed(table, offset)
        except pa.ArrowException as error:
            raise StreamError(f"{self._path}: cannot be read: {error}") from error

    def _check_named(self, known: list[str]) -> None:
        missing = [name for name in (self._schema.id, self._schema.time) if name and name not in known]
        if missing:
            raise StreamError(f"{self._path}: has no column {missing[0]!r}, the {self._schema.kind}' id or time")

    def _typed(self, table: pa.Table, first: int) -> pa.Table:
        rows, arrow = table.num_rows, self._schema.arrow
        there = {name: cast_column(table[name], arrow.field(name).type) for name in table.schema.names}
        named = [name for name in (self._schema.id, self._schema.time) if name]
        errors: pa.ChunkedArray = pa.chunked_array([pa.nulls(rows, pa.string())])
        for name in named:
            errors = pc.if_else(pc.is_null(there[name]), pa.scalar(f"missing: {name!r} is NULL"), errors)
        own = {
            "_partition": pa.repeat(f"{self._folder.manifest().label}/{self._partition}", rows),
            "_offset": pa.array(range(first, first + rows), pa.int64()),
            "_error": errors,
        }
        columns = there | own
        return pa.table(
            [columns[field.name] if field.name in columns else pa.nulls(rows, field.type) for field in arrow],
            schema=arrow,
        )


def _is_ended(line: Line) -> bool:
    return line.end > line.offset + len(line.value)


def _is_object(value: bytes) -> bool:
    try:
        return isinstance(msgspec.json.decode(value), dict)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
