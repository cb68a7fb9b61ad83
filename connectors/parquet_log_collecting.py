"""One partition on its way into the log: rows are gathered, segments rolled; whatever they come from.

Whoever opens it owns the partition: nobody else adds to it until it is closed, or this process ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pyarrow as pa

from connectors.jsonl_files import told
from connectors.parquet_log import contents_of
from connectors.parquet_log_segments import Segment, list_segments
from connectors.parquet_log_topics import Manifest, PartitionState, TopicFolder
from connectors.parquet_log_writing import SegmentWriter, remove_partial
from streamfm.errors import StreamError


@dataclass(frozen=True, kw_only=True, slots=True)
class RollSettings:
    """When a segment ends; what is in none is not in the log.

    Attributes:
        roll_rows: It has so many rows, about.
        roll_bytes: It is so large, about, compressed.
        roll_s: So much time has passed since its first row came: how fresh the log is.

    Raises:
        StreamError: A setting out of its range; names it.
    """

    roll_rows: int = 1_000_000
    roll_bytes: int = 128 << 20
    roll_s: float = 15.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise StreamError(f"{name} is {getattr(self, name)}, expected more than 0")


class PartitionCollector:
    """Adds to one partition of the log.

    Attributes:
        partition: Its number.
        position: The offset of the next record that it takes.
        committed: Where the log ends, or is whole up to.
        known_end: How far the log ever came; what is missing or damaged right before it is collected again.
        rows: How many rows are on their way.
        is_new: Whether nobody has said yet where the partition begins.
    """

    def __init__(
        self,
        folder: TopicFolder,
        partition: int,
        schema: pa.Schema,
        settings: RollSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Own the partition; it goes on where the log ends, or at what is missing or damaged right before its end.

        Raises:
            LockedError: Another process owns it.
            StreamError: The manifest cannot be read, or the system's error.
        """
        self._folder, self._schema, self._settings, self._clock = folder, schema, settings, clock
        self.partition = partition
        self._topic = folder.manifest().identity.topic
        self._writer: SegmentWriter | None = None
        self.rows = 0
        self._first_s = 0.0
        with ExitStack() as stack:
            stack.enter_context(folder.partition_lock(partition))
            remove_partial(folder.path, self._topic, partition)
            contents = contents_of(folder)
            start = contents.coverage.next_offset(partition)
            # Before the first segment there is no end, and somebody has to say where to begin.
            self.is_new = start is None
            self.committed = self.position = start or 0
            listed = [it for it in list_segments(folder.path, self._topic) if it.partition == partition]
            self._damaged = [it for it in listed if it.path in contents.damaged and it.start >= self.committed]
            self.known_end = max([contents.coverage.ends.get(partition, 0), *(it.end for it in self._damaged)])
            self._stack = stack.pop_all()

    @property
    def label(self) -> str:
        """How its rows call it."""
        return f"{self._folder.manifest().label}/{self.partition}"

    def begin_at(self, offset: int) -> None:
        """Say where a new partition begins; the manifest keeps it.

        Raises:
            StreamError: The disk is full, or the system's error.
        """

        def begun(manifest: Manifest) -> Manifest:
            before = manifest.partitions.get(self.partition, PartitionState(begin=offset, end=offset))
            state = replace(before, begin=offset, end=offset)
            return replace(manifest, partitions={**manifest.partitions, self.partition: state})

        self._folder.change(begun)
        self.committed = self.position = offset
        self.is_new = False

    def skip_to(self, offset: int) -> None:
        """Go on at a later offset; an empty segment stands for those between, which nobody can read any more.

        Raises:
            StreamError: The disk is full, or the system's error.
        """
        self.roll()
        writer = SegmentWriter(self._folder.path, self._topic, self.partition, self._schema)
        # Not from the position: it may have gone past the markers of transactions, which no segment has then.
        writer.commit(self.committed, offset)
        self.committed = self.position = offset

    def add(self, table: pa.Table, position: int) -> None:
        """Take rows.

        Args:
            table: Of the schema, in the order of their offsets.
            position: The offset that is next.

        Raises:
            StreamError: The disk is full, or the system's error; nothing since the last segment counts.
        """
        if not self.rows:
            self._first_s = self._clock()
        if self._writer is None:
            self._writer = SegmentWriter(self._folder.path, self._topic, self.partition, self._schema)
        self.rows += table.num_rows
        self._writer.add(table)
        self.position = position

    @property
    def waiting_bytes(self) -> int:
        """What is held in memory."""
        return self._writer.waiting_bytes if self._writer else 0

    def flush(self) -> None:
        """Put what is held in memory into the file, as a row group.

        Raises:
            StreamError: As `add`.
        """
        if self._writer is not None:
            self._writer.flush()

    def is_due(self) -> bool:
        """Whether the segment is to end now."""
        if not self.rows:
            return False
        settings = self._settings
        size = self._writer.bytes if self._writer else 0
        is_late = self._clock() - self._first_s >= settings.roll_s
        return is_late or self.rows >= settings.roll_rows or size >= settings.roll_bytes

    def roll(self) -> Segment | None:
        """End the segment: its rows are in the log when this returns; None when there are none.

        Raises:
            StreamError: The disk is full, or the system's error; nothing of the segment counts.
        """
        writer, self._writer = self._writer, None
        if writer is None:
            return None
        try:
            self._remove_damaged()
            segment = writer.commit(self.committed, self.position)
        except BaseException:
            self.abandon()
            raise
        self.committed, self.rows = self.position, 0
        return segment

    def _remove_damaged(self) -> None:
        """Remove the damaged files whose range was read again: a new one of another range would not take their place.

        Before its commit: a crash between the two leaves what is missing, and it is read once more.
        """
        for segment in [it for it in self._damaged if it.end <= self.position]:
            with told(str(segment.path)):
                segment.path.unlink(missing_ok=True)
            self._damaged.remove(segment)

    def abandon(self) -> int:
        """Let go of the rows of the segment that has not ended; how many they were. They are to be read again."""
        rows, self.rows = self.rows, 0
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.abandon()
        self.position = self.committed
        return rows

    def close(self) -> None:
        """Abandon what is not in the log, and let the partition go."""
        self.abandon()
        self._stack.close()
