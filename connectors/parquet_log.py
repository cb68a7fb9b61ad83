"""The event log: impressions and clicks as Parquet files that anything can read, and SQL over a snapshot of them.

    with EventLog("log").snapshot() as snapshot:
        connection.sql(f"SELECT count(*) FROM ({snapshot.relation('impressions')})")

Guarantee: each record once, by name. A segment is named by its partition and range of offsets, and its name is the
commit; a collector goes on where the names end. Readers never wait for a writer, nor it for them.

What a relation has: the columns of the events, and `_partition` ('events/0'), `_offset` and `_timestamp`. Segments that
a larger one contains are left out, of ranges that overlap each offset is read once, a column that a file has not is
NULL. A file that was cut off, or a range that is missing, is refused, or left out on request, and named either way.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa

from connectors.parquet_log_schema import OWN, Kind, of_table
from connectors.parquet_log_segments import GONE, Coverage, Segment, cover, damage_of, list_segments
from connectors.parquet_log_topics import Identity, Manifest, TopicFolder, list_topics, open_topic
from connectors.parquet_log_writing import SegmentWriter, remove_partial
from streamfm.errors import StreamError

logger = logging.getLogger(__name__)

Damaged = Literal["refuse", "skip"]

READERS = ".readers"
_LOCAL = "local"


class Contents(NamedTuple):
    """A topic as a snapshot has it.

    Attributes:
        manifest: What is known of it beside the files.
        coverage: What is read of it.
        damaged: Files that are left out, and why.
    """

    manifest: Manifest
    coverage: Coverage
    damaged: dict[Path, str]

    def problems(self) -> list[str]:
        """What is missing, damaged or there twice, in words."""
        label = self.manifest.label
        return [
            *(f"{path.name} {reason}" for path, reason in self.damaged.items()),
            *(f"{label}/{it.partition}: offsets {it.start} to {it.end} are missing" for it in self.coverage.missing),
        ]


class EventLog:
    """A folder of topics."""

    def __init__(self, folder: str | Path) -> None:
        """Of a folder, which need not be there yet."""
        self.folder = Path(folder).absolute()

    def topics(self) -> tuple[str, ...]:
        """The names of the topics, each once."""
        return tuple(sorted({folder.manifest().identity.topic for folder in list_topics(self.folder)}))

    def topic_of(self, kind: Kind, *, option: str) -> str:
        """The log's only topic of a kind.

        Raises:
            StreamError: It has none, or several; the hint names the option that tells which.
        """
        manifests = [folder.manifest() for folder in list_topics(self.folder)]
        found = sorted({manifest.identity.topic for manifest in manifests if manifest.kind == kind})
        if len(found) != 1:
            have = f"several topics of {kind}: {', '.join(found)}" if found else f"no topic of {kind}"
            hint = f"{option} names one" if found else "streamfm collect makes it"
            raise StreamError(f"{self.folder}: has {have}", hint=hint)
        return found[0]

    def folders(self, topic: str) -> list[TopicFolder]:
        """The folders of a topic: one for each time that it was made, or for each cluster.

        Raises:
            StreamError: The log has no such topic.
        """
        found = [folder for folder in list_topics(self.folder) if folder.manifest().identity.topic == topic]
        if not found:
            have = ", ".join(self.topics()) or "none"
            raise StreamError(f"{self.folder}: has no topic {topic!r}", hint=f"its topics: {have}")
        return found

    def relation(self, topic: str, *, errors: bool = False, damaged: Damaged = "refuse") -> str:
        """As `Snapshot.relation` of a snapshot that nothing protects but the grace period of superseded files."""
        return self._look((topic,), damaged).relation(topic, errors=errors)

    def ends(self, topic: str) -> dict[str, int]:
        """Where each partition of a topic ends: {'events/0': 1000}.

        Raises:
            StreamError: The log has no such topic.
        """
        return self._look((topic,), "skip").ends(topic)

    def snapshot(self, *topics: str, damaged: Damaged = "refuse") -> Snapshot:
        """The files of topics, or of all, as they are now; a context manager, in which none of them goes away.

        Args:
            topics: Their names; none for all.
            damaged: Whether files that were cut off, and missing ranges, are refused, or left out with a warning.

        Raises:
            StreamError: The log has no such topic; something is damaged, and to be refused.
        """
        # First the leases, then the listing: whoever removes files looks for leases after it has renamed.
        names = topics or self.topics()
        leases = [_lease(folder) for name in names for folder in self.folders(name)]
        try:
            found = self._look(names, damaged)
        except BaseException:
            for lease in leases:
                lease.release()
            raise
        found.leases = leases
        return found

    def append(
        self,
        topic: str,
        table: pa.Table,
        *,
        kind: Kind = "impressions",
        id: str = "event_id",  # as the field of LogSchema
        time: str = "ts",
        partition: int = 0,
    ) -> Segment:
        """Write a table's rows as the next segment of a topic of the cluster ``local``.

        Args:
            topic: Its name; made where it is not there.
            table: The events; offsets go on where the partition ends.
            kind: ``impressions`` or ``clicks``.
            id: The column that names the event.
            time: The column of its time.
            partition: Of the topic.

        Raises:
            StreamError: A column of a type that no input has; another process collects it; the disk is full.
        """
        schema = of_table(table, kind, id=id, time=time)
        folder = open_topic(self.folder, Identity(_LOCAL, topic, "1"), schema)
        with folder.partition_lock(partition):
            remove_partial(folder.path, topic, partition)
            manifest = folder.manifest()
            start = contents_of(folder).coverage.ends.get(partition, 0)
            rows = table.num_rows
            own = {
                "_partition": pa.repeat(f"{manifest.label}/{partition}", rows),
                "_offset": pa.array(range(start, start + rows), pa.int64()),
            }
            for name, column in own.items():
                table = table.append_column(name, column)
            for name in OWN.keys() - own.keys():
                table = table.append_column(name, pa.nulls(rows, schema.arrow.field(name).type))
            table = table.select(schema.arrow.names).cast(schema.arrow)
            writer = SegmentWriter(folder.path, topic, partition, schema.arrow)
            writer.add(table)
            return writer.commit(start, start + rows)

    def _look(self, topics: Iterable[str], damaged: Damaged) -> Snapshot:
        found = {topic: [contents_of(folder) for folder in self.folders(topic)] for topic in topics}
        problems = [problem for some in found.values() for one in some for problem in one.problems()]
        if problems and damaged == "refuse":
            more = f", and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise StreamError(
                f"{self.folder}: {'; '.join(problems[:5])}{more}",
                hint="restore the files, or read what is there without them: --skip-damaged",
            )
        for problem in problems:
            logger.warning("%s: %s; left out", self.folder, problem)
        for contents in (one for some in found.values() for one in some):
            for it in contents.coverage.overlaps:
                label = contents.manifest.label
                logger.warning("%s/%d: offsets %d to %d are there twice, and read once", label, *it)
        return Snapshot(found)


class Snapshot:
    """The files of some topics at one moment. A context manager, at whose end they may go away."""

    def __init__(self, contents: dict[str, list[Contents]]) -> None:
        """Of topics by name; of each, of all that had this name."""
        self._contents = contents
        self.leases: list[Lease] = []

    def __enter__(self) -> Snapshot:
        """The snapshot itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let the files go."""
        self.release()

    def release(self) -> None:
        """The same."""
        for lease in self.leases:
            lease.release()

    def contents(self, topic: str) -> list[Contents]:
        """What there is of a topic."""
        return self._contents[topic]

    def ends(self, topic: str) -> dict[str, int]:
        """Where each partition of a topic ends: {'events/0': 1000}."""
        return {
            f"{contents.manifest.label}/{partition}": end
            for contents in self._contents[topic]
            for partition, end in contents.coverage.ends.items()
        }

    def finished(self, topic: str) -> frozenset[str]:
        """The partitions to which nobody writes any more, since the cluster's topic was deleted and made anew."""
        latest: dict[str, int] = {}
        for manifest, *_ in self._contents[topic]:
            latest[manifest.identity.cluster] = max(manifest.ordinal, latest.get(manifest.identity.cluster, 0))
        return frozenset(
            f"{manifest.label}/{partition}"
            for manifest, coverage, _ in self._contents[topic]
            if manifest.ordinal < latest[manifest.identity.cluster]
            for partition in coverage.ends
        )

    def relation(self, topic: str, *, errors: bool = False) -> str:
        """SQL (a SELECT) over a topic's rows, in no order; the same rows however often it is asked.

        Args:
            topic: Its name.
            errors: Whether records that could not be read are among them, with the columns `_error` and `_raw`.
        """
        some = self._contents[topic]
        columns: dict[str, str] = {}
        for contents in reversed(some):
            columns |= contents.manifest.columns
        typed = ", ".join(f"CAST(NULL AS {kind}) AS {_name(name)}" for name, kind in columns.items())
        parts = [f"SELECT {typed} WHERE false"]
        pieces = [piece for contents in some for piece in contents.coverage.pieces]
        whole = [piece.segment.path for piece in pieces if piece.first == piece.segment.start]
        if whole:
            parts.append(f"SELECT * FROM {_read(whole)}")
        parts += [
            f"SELECT * FROM {_read([piece.segment.path])} WHERE _offset >= {piece.first}"
            for piece in pieces
            if piece.first > piece.segment.start
        ]
        together = " UNION ALL BY NAME ".join(parts)
        if errors:
            return f"SELECT * FROM ({together})"
        return f"SELECT * EXCLUDE (_error, _raw) FROM ({together}) WHERE _error IS NULL"


class Lease:
    """Keeps a topic's files from going away, where the log can be written."""

    def __init__(self, folder: TopicFolder) -> None:
        """Take it."""
        from streamfm.registry.leases import Holder, LeaseBook

        self._lease = LeaseBook(folder.path / READERS, clock=time.time, holder=Holder.here).take(0)

    def release(self) -> None:
        """Let go; a second time does nothing."""
        self._lease.release()


def _lease(folder: TopicFolder) -> Lease:
    return Lease(folder)


def contents_of(folder: TopicFolder) -> Contents:
    """What there is of a topic now; a damaged file is left out, so that those that it was made of may stand for it.

    Raises:
        StreamError: The manifest cannot be read.
    """
    topic = folder.manifest().identity.topic
    segments = list_segments(folder.path, topic)
    while True:
        found = _contents(folder, segments)
        if GONE not in found.damaged.values():
            return found
        # What took its place has come since the listing. A link to nowhere is listed again.
        before, segments = segments, list_segments(folder.path, topic)
        if set(segments) == set(before):
            return found


def _contents(folder: TopicFolder, segments: list[Segment]) -> Contents:
    """What segments that were listed make."""
    # After the listing: retention first moves the begin, and then removes files.
    manifest = folder.manifest()
    begins = {number: state.begin for number, state in manifest.partitions.items()}
    ends = {number: state.end for number, state in manifest.partitions.items()}
    damaged: dict[Path, str] = {}
    while True:
        there = [segment for segment in segments if segment.path not in damaged]
        found = cover(there, begins, ends)
        fresh = {piece.segment.path: reason for piece in found.pieces if (reason := damage_of(piece.segment.path))}
        if not fresh:
            return Contents(manifest, found, damaged)
        damaged |= fresh


def _read(paths: list[Path]) -> str:
    named = ", ".join("'" + str(path).replace("'", "''") + "'" for path in paths)
    return f"read_parquet([{named}], union_by_name = true, hive_partitioning = false)"


def _name(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
