"""A genuine Kafka of its own, whose nodes may be killed; events with known ids under load; readers that count."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import confluent_kafka
import kafka
from confluent_kafka import Consumer, KafkaException, TopicPartition
from kafka.admin import NewTopic
from kafka_launcher import Brokers

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "tests" / "data" / "bundle_v1"
PARTITIONS = 4
COORDINATING_PARTITIONS = 8

Message = tuple[bytes, bytes | None, list[tuple[str, bytes]]]
"""Key (the event's id), value, headers."""


def wait_for(
    ready: Callable[[], object], what: Callable[[], str], limit_s: float = 300.0, every_s: float = 0.1
) -> float:
    """The seconds until it is so; the limit is against what hangs, nothing else."""
    began = time.monotonic()
    while not ready():
        waited_s = time.monotonic() - began
        assert waited_s < limit_s, f"not so after {limit_s:g} s: {what()}"
        time.sleep(every_s)
    return time.monotonic() - began


class Cluster(Brokers):
    """Brokers, and what they tell of topics and groups.

    What is asked while nodes die is asked by librdkafka's consumers, which wait for them; its admin client has aborted
    the process.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        super().__init__(folder, *options)
        self._watching = self._asking("looks-only")
        self._members: dict[str, Any] = {}

    @contextmanager
    def administering(self) -> Iterator[Any]:
        """A client for it, made anew: one from before a node died refuses to connect to it for half a minute."""
        admin = kafka.KafkaAdminClient(bootstrap_servers=self.bootstrap.split(","))
        try:
            yield admin
        finally:
            admin.close()

    def make(self, topic: str, partitions: int = PARTITIONS, **configs: str) -> str:
        named = {key.replace("_", "."): value for key, value in configs.items()}
        with self.administering() as admin:
            admin.create_topics([NewTopic(topic, partitions, self.nodes, topic_configs=named)])
            admin.wait_for_topics([topic])
        return topic

    def delete(self, topic: str) -> None:
        """Delete it; it is gone."""
        with self.administering() as admin:
            admin.delete_topics([topic])
            wait_for(lambda: topic not in admin.list_topics(), lambda: f"{topic} is gone")

    def committed(self, group: str, topic: str) -> Mapping[int, int] | None:
        """Where the group stands in a topic, by partition; None while no broker tells."""
        if group not in self._members:
            self._members[group] = self._asking(group)
        try:
            found = self._members[group].committed([TopicPartition(topic, number) for number in range(PARTITIONS)], 10)
        except KafkaException:
            return None
        if any(place.error for place in found):
            return None
        return {place.partition: place.offset for place in found if place.offset >= 0}

    def _asking(self, group: str) -> Any:
        """A consumer that never joins."""
        return Consumer({"bootstrap.servers": self.bootstrap, "group.id": group, "log_level": 0})

    def leader(self, topic: str, partition: int) -> int:
        """The node that leads a partition."""
        return int(self._watching.list_topics(topic, timeout=30).topics[topic].partitions[partition].leader)

    def is_whole(self, topics: Sequence[str]) -> bool:
        """Whether every replica of the topics is in sync."""
        found = self._watching.list_topics(timeout=30).topics
        return all(len(one.isrs) == self.nodes for topic in topics for one in found[topic].partitions.values())

    def group_coordinator(self, group: str) -> int:
        return self.leader("__consumer_offsets", _coordinating(group))

    def transaction_coordinator(self, transactional_id: str) -> int:
        return self.leader("__transaction_state", _coordinating(transactional_id))

    def close(self) -> None:
        for consumer in (self._watching, *self._members.values()):
            consumer.close()
        super().close()


def _coordinating(name: str) -> int:
    """The partition of Kafka's own topic that holds a group or a transactional id: Java's hash of the name."""
    value = 0
    for letter in name:
        value = (31 * value + ord(letter)) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >> 31 else value
    return abs(signed) % COORDINATING_PARTITIONS


def good_value(number: int) -> bytes:
    """An event that can be scored."""
    return json.dumps(_ROWS[number % len(_ROWS)] | {"event_id": f"{number}"}, ensure_ascii=False).encode()


# Of the eight events of the golden bundle; all of them can be scored.
_ROWS: list[dict[str, Any]] = json.loads(BUNDLE.with_suffix(".json").read_text(encoding="utf-8"))["rows"]


def good_messages(first: int = 0) -> Iterable[Message]:
    """Events without end."""
    while True:
        yield str(first).encode(), good_value(first), [("n", b"%d" % first)]
        first += 1


class Load:
    """Appends messages at a rate, in a thread of its own, whatever happens to the brokers, until it is ended."""

    def __init__(self, bootstrap: str, topic: str, messages: Iterable[Message], per_second: float) -> None:
        self._producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "message.timeout.ms": 600_000,
                "queue.buffering.max.messages": 2_000_000,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
            }
        )
        self._topic, self._messages, self._per_second = topic, messages, per_second
        self._ended = threading.Event()
        self._errors: list[Any] = []
        self._thread = threading.Thread(target=self._produce, daemon=True)
        self._thread.start()

    def _produce(self) -> None:
        began = time.monotonic()
        for sent, (key, value, headers) in enumerate(self._messages):
            while sent >= (time.monotonic() - began) * self._per_second and not self._ended.is_set():
                self._producer.poll(0.01)
            if self._ended.is_set():
                break
            self._producer.produce(self._topic, value, key, headers=headers, on_delivery=self._delivered)
            if sent % 1_000 == 0:
                self._producer.poll(0)

    def _delivered(self, error: Any, message: Any) -> None:
        if error is not None:
            self._errors.append(error)

    def join(self) -> None:
        """Wait until all messages, which must have an end, are stored."""
        self._thread.join(300)
        self.end()

    def abandon(self) -> None:
        """Append no more, and do not ask what became of it."""
        self._ended.set()
        self._thread.join(60)
        self._producer.purge()

    def end(self) -> None:
        """Append no more; what was appended is stored."""
        self._ended.set()
        self._thread.join(60)
        assert self._producer.flush(120) == 0, "the load could not be stored"
        assert not self._errors, f"the load could not be stored: {self._errors[:3]}"


def read_all(bootstrap: str, topic: str, isolation: str = "read_committed") -> list[Any]:
    """Everything in the topic, up to the end that a reader of everything sees.

    The end that a reader of what is committed is told hides open transactions: it must come to the other one.
    """
    options = {"bootstrap_servers": bootstrap.split(","), "auto_offset_reset": "earliest", "enable_auto_commit": False}
    everything = kafka.KafkaConsumer(**options)
    reader = kafka.KafkaConsumer(**options, isolation_level=isolation, max_poll_records=50_000)
    try:
        partitions = [kafka.TopicPartition(topic, number) for number in everything.partitions_for_topic(topic)]
        ends = everything.end_offsets(partitions)
        reader.assign(partitions)
        reader.seek_to_beginning(*partitions)
        records: list[Any] = []

        def is_read() -> bool:
            for part in reader.poll(timeout_ms=200).values():
                records.extend(part)
            return all(reader.position(partition) >= ends[partition] for partition in partitions)

        wait_for(is_read, lambda: f"{topic} is read to its end {ends}", every_s=0.0)
        return records
    finally:
        everything.close()
        reader.close()


def ids(records: Sequence[Any]) -> Counter[bytes]:
    """How often each event is there."""
    return Counter(record.key for record in records)
