"""Topics in memory that a collector reads: made anew, cut at the beginning, or disturbed where a test says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from connectors.kafka_client import Bounds, OutOfRangeError, TopicFacts
from connectors.kafka_errors import no_topic
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError
from streamfm.stream.ports import Event, Partition, Positions

SETTINGS = KafkaSettings(
    bootstrap_servers="memory:1", input_topics=("shown", "clicked"), output_topic="-", group_id="g"
)

MARKER = b"the marker of a transaction"
"""A value that stands for an offset without a record."""


@dataclass
class MemoryTopic:
    topic_id: str | None
    partitions: list[list[bytes | None]]
    begins: dict[int, int] = field(default_factory=dict)


class MemoryCluster:
    """A `Client` of topics that are held here; each call takes the next of the disturbances, if there is one.

    Attributes:
        topics: By name.
        committed: What the collector has told.
        disturbances: How many of the next polls fail.
    """

    def __init__(self, **topics: Sequence[Sequence[bytes | None]]) -> None:
        self._ids = 0
        self.topics: dict[str, MemoryTopic] = {}
        self.committed: dict[Partition, int] = {}
        self.disturbances = 0
        self.has_ids = True
        for name, partitions in topics.items():
            self.make(name, partitions)

    def make(self, name: str, partitions: Sequence[Sequence[bytes | None]]) -> None:
        """Make a topic, or make it anew."""
        self._ids += 1
        self.topics[name] = MemoryTopic(f"id{self._ids}", [list(values) for values in partitions])

    def delete_before(self, name: str, partition: int, offset: int) -> None:
        """As retention does."""
        self.topics[name].begins[partition] = offset

    def open_unsubscribed(self) -> MemoryReader:
        return MemoryReader(self)

    def facts(self, topics: Sequence[str]) -> Mapping[str, TopicFacts]:
        found = {}
        for name in topics:
            if name not in self.topics:
                raise no_topic(name, "memory:1")
            topic = self.topics[name]
            found[name] = TopicFacts("memory", topic.topic_id if self.has_ids else None, len(topic.partitions))
        return found


class MemoryReader:
    """A `Reader`."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster
        self._positions: dict[Partition, int] = {}

    def read_alone(self, positions: Positions) -> None:
        self._positions = dict(positions)

    def poll(self, max_records: int, timeout_s: float) -> list[Event]:
        cluster = self._cluster
        if cluster.disturbances:
            cluster.disturbances -= 1
            raise DisturbedError("the broker is away")
        found: list[Event] = []
        for (name, number), position in self._positions.items():
            # Of a topic that was deleted, clients bring nothing.
            if name not in cluster.topics:
                continue
            begin, end = self.bounds([(name, number)])[name, number]
            if not begin <= position <= end:
                raise OutOfRangeError((name, number), position)
            values = cluster.topics[name].partitions[number][position : position + max_records - len(found)]
            found += [
                Event(name, number, position + at, position + at, None, value)
                for at, value in enumerate(values)
                if value is not MARKER
            ]
            self._positions[name, number] = position + len(values)
        return found

    def positions(self) -> Positions:
        return dict(self._positions)

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        topics = self._cluster.topics
        return {
            (name, number): Bounds(topics[name].begins.get(number, 0), len(topics[name].partitions[number]))
            for name, number in partitions
        }

    def offsets_at(self, partitions: Collection[Partition], time: datetime) -> Positions:
        at = round(time.timestamp() * 1000)
        ends = {it: bounds.end for it, bounds in self.bounds(partitions).items()}
        return {it: at for it, end in ends.items() if at < end}

    def commit(self, positions: Positions) -> None:
        self._cluster.committed.update(positions)

    def close(self, timeout_s: float) -> None:
        self._positions.clear()
