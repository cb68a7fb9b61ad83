"""The topics that are collected: which partitions this process owns, and where each goes on.

A topic is told by its id. Where brokers give none, one that ends before the log does was made anew.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from connectors.kafka_client import Bounds, TopicFacts
from connectors.kafka_settings import Place
from connectors.parquet_log_collecting import PartitionCollector, RollSettings
from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_schema import LogSchema
from connectors.parquet_log_topics import Identity, list_topics, open_topic
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Partition, Positions, Record

logger = logging.getLogger(__name__)

UNNAMED = "unnamed"
"""The topic id in the log where brokers give none."""


class Reader(Protocol):
    """A consumer outside of all groups; see `kafka_client.Consumer`."""

    def read_alone(self, positions: Positions) -> None:
        """Read from there."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """As `Consumer.poll`."""

    def positions(self) -> Positions:
        """As `Consumer.positions`."""

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        """As `Consumer.bounds`."""

    def offsets_at(self, partitions: Collection[Partition], time: datetime) -> Positions:
        """As `Consumer.offsets_at`."""

    def commit(self, positions: Positions) -> None:
        """As `Consumer.commit`."""

    def close(self, timeout_s: float) -> None:
        """As `Consumer.close`."""


class Client(Protocol):
    """A client library."""

    def open_unsubscribed(self) -> Reader:
        """A consumer outside of all groups."""

    def facts(self, topics: Sequence[str]) -> Mapping[str, TopicFacts]:
        """What the brokers say of the topics.

        Raises:
            StreamError: One is not there, or this user may not see it.
            DisturbedError: No broker answers.
        """


@dataclass(kw_only=True)
class Collected:
    """What was done; any thread may read it.

    Attributes:
        rows: In the log, by topic.
        errors: Those of them that could not be read, by topic and reason.
        segments: How many, by topic.
        lost: Offsets that Kafka had deleted before they were collected, by topic.
        disturbances: How often the brokers were away, or the like.
    """

    rows: Counter[str] = field(default_factory=Counter)
    errors: Counter[tuple[str, str]] = field(default_factory=Counter)
    segments: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    disturbances: int = 0


class Owned(NamedTuple):
    """A partition that is collected, and how it is read."""

    collector: PartitionCollector
    decoder: RecordDecoder
    errors: Counter[str]


class CollectedTopics:
    """The partitions that this process owns.

    Attributes:
        owned: By topic and number.
        collected: What was done.
    """

    def __init__(
        self,
        log: Path,
        client: Client,
        topics: Mapping[str, LogSchema],
        roll: RollSettings,
        *,
        start: Place,
        skip_lost: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Own nothing yet.

        Args:
            log: The event log's folder.
            client: The library that speaks with Kafka.
            topics: The columns of each.
            roll: When segments end.
            start: Where a partition begins of which the log has nothing.
            skip_lost: Whether to go on where Kafka has deleted records before they were collected.
            clock: Seconds, from any beginning.
        """
        self.owned: dict[Partition, Owned] = {}
        self.collected = Collected()
        self._log, self._client, self._topics, self._roll = log, client, topics, roll
        self._start, self._skip_lost, self._clock = start, skip_lost, clock
        self._facts: dict[str, TopicFacts] = {}

    def open(self) -> Reader:
        """Own the partitions, and read each from where the log ends.

        Raises:
            LockedError: Another process has one of them.
            StreamError: A topic is not there, or records were deleted before they were collected.
            DisturbedError: No broker answers.
        """
        facts = self._known()
        for topic, found in facts.items():
            if topic in self._facts and found[:2] != self._facts[topic][:2]:
                self._disown(topic)
            self._own(topic, found, self._topic_id(topic, found))
        reader = self._client.open_unsubscribed()
        try:
            self._place(reader)
            reader.read_alone({it: owned.collector.position for it, owned in self.owned.items()})
        except BaseException:
            reader.close(0.0)
            raise
        return reader

    def look(self) -> None:
        """See that the topics are those that are read.

        Raises:
            DisturbedError: One was made anew, or has more partitions; opening again finds it.
            StreamError: One is gone; what was read of it is in the log.
        """
        facts = self._known()
        changed = [topic for topic, found in facts.items() if found != self._facts[topic]]
        for topic in changed:
            if facts[topic][:2] != self._facts[topic][:2]:
                self._disown(topic)
        if changed:
            raise DisturbedError(f"made anew, or with more partitions: {', '.join(changed)}")

    def _known(self) -> Mapping[str, TopicFacts]:
        """What the brokers say of the topics; when one is gone, what was read of all is put into the log first."""
        try:
            return self._client.facts(list(self._topics))
        except DisturbedError:
            raise
        except StreamError:
            self.roll(list(self.owned))
            raise

    def close(self) -> None:
        """Let go of everything; what is in no segment is read again by whoever collects next."""
        for owned in self.owned.values():
            owned.collector.close()
        self.owned.clear()

    def take(self, partition: Partition, records: Sequence[Record]) -> None:
        """Decode records of a partition and add them.

        Raises:
            StreamError: As `PartitionCollector.add`.
        """
        owned = self.owned[partition]
        # What was asked for before a disturbance may come twice.
        if records[0].offset < owned.collector.position:
            records = [record for record in records if record.offset >= owned.collector.position]
        if records:
            rows = owned.decoder.decode(records)
            owned.errors.update(rows.errors)
            owned.collector.add(rows.table, records[-1].offset + 1)

    def roll(self, partitions: Collection[Partition]) -> dict[Partition, int]:
        """End the segments of partitions; where the log ends then, of those that had rows.

        Raises:
            StreamError: The disk is full, or the system's error; what is in no segment does not count.
        """
        done: dict[Partition, int] = {}
        for partition in partitions:
            owned = self.owned[partition]
            rows, topic = owned.collector.rows, partition[0]
            if owned.collector.roll() is None:
                continue
            done[partition] = owned.collector.committed
            self.collected.rows[topic] += rows
            self.collected.segments[topic] += 1
            if owned.errors:
                told = ", ".join(f"{count} {reason}" for reason, count in sorted(owned.errors.items()))
                logger.warning("%s: could not be read, kept in _raw: %s", owned.collector.label, told)
                for reason, count in owned.errors.items():
                    self.collected.errors[topic, reason] += count
                owned.errors.clear()
        return done

    def due(self) -> list[Partition]:
        """The partitions of which the segment is to end now."""
        return [partition for partition, owned in self.owned.items() if owned.collector.is_due()]

    def bound(self, max_bytes: int) -> None:
        """Write the largest of what is held in memory, if it is too much together.

        Raises:
            StreamError: The disk is full, or the system's error.
        """
        waiting = {partition: owned.collector.waiting_bytes for partition, owned in self.owned.items()}
        if sum(waiting.values()) > max_bytes:
            self.owned[max(waiting, key=lambda partition: waiting[partition])].collector.flush()

    def follow(self, positions: Positions) -> None:
        """Go on past the markers of transactions, which are no records."""
        for partition in positions.keys() & self.owned.keys():
            collector = self.owned[partition].collector
            collector.position = max(collector.position, positions[partition])

    def _disown(self, topic: str) -> None:
        for partition in [it for it in self.owned if it[0] == topic]:
            collector = self.owned.pop(partition).collector
            if rows := collector.abandon():
                # They may be of the old topic or of the new one: kafka-python does not ask for a topic by its id.
                logger.warning("%s: %d rows since its last segment are abandoned", collector.label, rows)
            collector.close()
        self._facts.pop(topic, None)

    def _own(self, topic: str, facts: TopicFacts, topic_id: str) -> None:
        schema = self._topics[topic]
        folder = open_topic(self._log, Identity(facts.cluster, topic, topic_id), schema)
        label = folder.manifest().label
        for number in range(facts.partitions):
            if (topic, number) not in self.owned:
                collector = PartitionCollector(folder, number, schema.arrow, self._roll, clock=self._clock)
                self.owned[topic, number] = Owned(collector, RecordDecoder(schema, label), Counter())
        self._facts[topic] = facts

    def _topic_id(self, topic: str, facts: TopicFacts) -> str:
        """The topic's id, or of those that we give the latest."""
        if facts.topic_id is not None:
            return facts.topic_id
        given = [found.manifest().identity for found in list_topics(self._log)]
        ids = [it.topic_id for it in given if it[:2] == (facts.cluster, topic)]
        numbers = [int(name.partition("-")[2]) for name in ids if name.startswith(UNNAMED)]
        return f"{UNNAMED}-{max(numbers, default=1)}"

    def _place(self, reader: Reader) -> None:
        """See that each partition has what is to be read next."""
        for topic in {it[0] for it, bounds in self._bounds(reader).items() if self._is_beyond(it, bounds)}:
            self._begin_anew(topic)
        fresh = [it for it, owned in self.owned.items() if owned.collector.is_new]
        for partition, offset in self._starts(reader, fresh).items():
            self.owned[partition].collector.begin_at(offset)
        for partition, bounds in self._bounds(reader).items():
            collector = self.owned[partition].collector
            if collector.position < bounds.begin:
                self._miss(partition, bounds.begin)

    def _bounds(self, reader: Reader) -> Mapping[Partition, Bounds]:
        return reader.bounds(list(self.owned))

    def _is_beyond(self, partition: Partition, bounds: Bounds) -> bool:
        collector = self.owned[partition].collector
        # What is missing at the log's end is read again, and was there nevertheless.
        return not collector.is_new and max(collector.position, collector.known_end) > bounds.end

    def _begin_anew(self, topic: str) -> None:
        """The topic ends before the log does.

        Raises:
            StreamError: Nevertheless it is the same topic.
        """
        facts = self._facts[topic]
        if facts.topic_id is not None:
            raise StreamError(
                f"topic {topic!r} ends before what the log has of it, and is the same topic: records are lost",
                hint="records that come now would have offsets that the log has already; collect into another log",
            )
        number = int(self._topic_id(topic, facts).partition("-")[2]) + 1
        logger.warning("topic %r ends before what the log has of it: it was made anew", topic)
        self._disown(topic)
        self._own(topic, facts, f"{UNNAMED}-{number}")

    def _starts(self, reader: Reader, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Where partitions begin of which the log has nothing."""
        place = self._start
        bounds = reader.bounds(partitions) if partitions else {}
        if place == "earliest":
            return {it: found.begin for it, found in bounds.items()}
        found: Mapping[Partition, int] = {}
        if isinstance(place, datetime) and partitions:
            found = reader.offsets_at(partitions, place)
        elif isinstance(place, int):
            found = {it: max(begin, min(place, end)) for it, (begin, end) in bounds.items()}
        return {it: found.get(it, of.end) for it, of in bounds.items()}

    def _miss(self, partition: Partition, begin: int) -> None:
        """Records were deleted before they were collected.

        Raises:
            StreamError: That is not to be borne.
        """
        collector = self.owned[partition].collector
        lost = f"{collector.label}: offsets {collector.position} to {begin} were deleted before they were collected"
        if not self._skip_lost:
            raise StreamError(lost, hint="--skip-lost goes on after them; raise the topic's retention.ms")
        logger.warning("%s", lost)
        self.collected.lost[partition[0]] += begin - collector.position
        self.roll([partition])
        collector.skip_to(begin)
