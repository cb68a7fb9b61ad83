"""From Kafka's topics into the event log: each record once.

A turn polls, decodes, and rolls the segments that are due. Where to go on is what the log's names tell, never what the
group has committed; that is told to Kafka for those who watch lags. What a crash between two steps leaves:

    before a segment has its name   its records are read again
    before Kafka is told            Kafka's number is behind, and nobody goes by it
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from connectors.kafka_client import OutOfRangeError
from connectors.kafka_collected_topics import Client, Collected, CollectedTopics, Reader
from connectors.kafka_settings import KafkaSettings
from connectors.parquet_log_collecting import RollSettings
from connectors.parquet_log_schema import LogSchema
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Partition, Positions, Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class CollectSettings:
    """How the collector goes about it.

    Attributes:
        max_batch_records: Records that are polled and decoded together.
        max_waiting_bytes: Rows held in memory, at most; more are written as smaller row groups.
        skip_lost: Whether to go on where Kafka has deleted records before they were collected; else that is an error.
        idle_s: How long a poll may wait.
        look_s: How often to look whether topics were made anew or have more partitions.
        backoff_s: The first wait after a disturbance; it doubles up to `max_backoff_s`.
        max_backoff_s: The longest.
    """

    max_batch_records: int = 8_192
    max_waiting_bytes: int = 256 << 20
    skip_lost: bool = False
    idle_s: float = 0.1
    look_s: float = 30.0
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0


class Collector:
    """Collects topics until it is told to stop. A context manager: at its end partitions are let go.

    Attributes:
        collected: What was done.
    """

    def __init__(
        self,
        log: Path,
        client: Client,
        kafka: KafkaSettings,
        topics: Mapping[str, LogSchema],
        *,
        settings: CollectSettings | None = None,
        roll: RollSettings | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Connect to nothing yet.

        Args:
            log: The event log's folder.
            client: The library that speaks with Kafka.
            kafka: Where it is, and where a partition begins of which the log has nothing.
            topics: The columns of each topic.
            settings: How to go about it.
            roll: When segments end.
            clock: Seconds, from any beginning.
            sleep: Waits so many seconds, or less if it is to stop.
        """
        self._settings, self._kafka = settings or CollectSettings(), kafka
        self._clock, self._sleep = clock, sleep
        self._topics = CollectedTopics(
            log,
            client,
            topics,
            roll or RollSettings(),
            start=kafka.start_place,
            skip_lost=self._settings.skip_lost,
            clock=clock,
        )
        self.collected = self._topics.collected
        self._reader: Reader | None = None
        self._looked_s = self._moved_s = clock()
        self._failures = 0

    def __enter__(self) -> Collector:
        """The collector itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of everything; what is in no segment is read again by whoever collects next."""
        self._close_reader()
        self._topics.close()

    def run(self, stopping: Callable[[], bool], *, until_end: bool = False) -> Collected:
        """Collect until `stopping()`; then what was read is put into the log.

        Args:
            stopping: Asked at each turn.
            until_end: Stop where the topics end when this begins, or when it begins again after a disturbance.

        Raises:
            LockedError: Another process collects one of the partitions.
            StreamError: It cannot go on; what is in no segment is read again by the next run.
        """
        ends: Positions | None = None
        while not stopping():
            try:
                if self._reader is None:
                    self._reader = self._topics.open()
                    self._looked_s = self._moved_s = self._clock()
                    ends = self._ends(self._reader) if until_end else None
                self._turn(self._reader)
            except DisturbedError as error:
                self._recover(error)
                continue
            if ends is not None and all(self._position(partition) >= end for partition, end in ends.items()):
                break
        self._finish()
        return self.collected

    def behind(self) -> int:
        """How many records are not in the log, of all partitions; asks the brokers.

        Raises:
            DisturbedError: No broker answers, or none was asked yet.
        """
        if self._reader is None:
            raise DisturbedError("not connected")
        owned = self._topics.owned
        return sum(end - owned[it].collector.committed for it, end in self._ends(self._reader).items())

    def _turn(self, reader: Reader) -> None:
        topics = self._topics
        try:
            records = reader.poll(self._settings.max_batch_records, self._settings.idle_s)
        except OutOfRangeError as error:
            # Opening again tells a topic that was made anew from records that were deleted.
            raise DisturbedError(error.message) from error
        for partition, some in _by_partition(records).items():
            topics.take(partition, some)
        if records:
            self._moved_s, self._failures = self._clock(), 0
            topics.bound(self._settings.max_waiting_bytes)
        else:
            topics.follow(reader.positions())
        due = topics.due()
        if due or self._clock() - self._looked_s >= self._settings.look_s:
            self._looked_s = self._clock()
            topics.look()
        self._commit(due)
        self._watch(reader)

    def _commit(self, partitions: Collection[Partition]) -> None:
        """Into the log first, then tell Kafka."""
        done = self._topics.roll(partitions)
        if done and self._reader is not None:
            try:
                self._reader.commit(done)
            except StreamError as error:
                # Nothing depends on it.
                logger.info("the log has them, but Kafka was not told of the offsets: %s", error.message)

    def _finish(self) -> None:
        if self._reader is not None:
            # What comes from a topic that was made anew does not belong into the segment of the old one.
            with suppress(DisturbedError):
                self._topics.look()
        self._commit(list(self._topics.owned))

    def _watch(self, reader: Reader) -> None:
        """Whether the client still lives: something comes where there is something to read.

        Raises:
            DisturbedError: It does not; another is opened.
        """
        if self._clock() - self._moved_s > self._kafka.watchdog_s:
            self._moved_s = self._clock()
            behind = sorted(
                partition for partition, end in self._ends(reader).items() if end > self._position(partition)
            )
            if behind:
                raise DisturbedError(f"nothing came for {self._kafka.watchdog_s:g} s, of {behind[0]}")

    def _recover(self, error: DisturbedError) -> None:
        settings = self._settings
        delay_s = min(settings.backoff_s * 2 ** min(self._failures, 30), settings.max_backoff_s)
        self._failures += 1
        self.collected.disturbances += 1
        logger.warning("disturbed, again in %.1f s (%d in a row): %s", delay_s, self._failures, error.message)
        self._close_reader()
        self._sleep(delay_s)

    def _close_reader(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            reader.close(1.0)

    def _position(self, partition: Partition) -> int:
        return self._topics.owned[partition].collector.position

    def _ends(self, reader: Reader) -> Positions:
        return {it: bounds.end for it, bounds in reader.bounds(list(self._topics.owned)).items()}


def _by_partition(records: Sequence[Record]) -> Mapping[Partition, Sequence[Record]]:
    """The records of each partition, in their order."""
    found: defaultdict[Partition, list[Record]] = defaultdict(list)
    for record in records:
        found[record.topic, record.partition].append(record)
    return found
