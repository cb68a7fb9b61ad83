"""Events into a topic and records out of it, for demonstrations and examples; with confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Self, cast

import confluent_kafka

from streamfm.errors import StreamError
from streamfm.stream.ports import Event

_FLUSH_S = 30.0
_POLL_S = 0.2
_POLL_RECORDS = 1_000


def append(
    bootstrap_servers: str,
    topic: str,
    events: Iterable[tuple[bytes | None, bytes | None]],
    *,
    per_second: float = float("inf"),
) -> None:
    """Append keys and values to a topic, at most so many a second, stamped with the time.

    Raises:
        StreamError: Not all of them were acknowledged.
    """
    failures: list[str] = []

    def told(error: confluent_kafka.KafkaError | None, _: object) -> None:
        if error is not None:
            failures.append(str(error))

    producer = confluent_kafka.Producer(
        {"bootstrap.servers": bootstrap_servers, "partitioner": "murmur2_random", "linger.ms": 5}
    )
    began = time.monotonic()
    for count, (key, value) in enumerate(events):
        due_s = count / per_second - (time.monotonic() - began)
        # Shorter waits than this are not kept to.
        if due_s > 0.005:
            time.sleep(due_s)
        while True:
            with suppress(BufferError):
                producer.produce(topic, value, key, on_delivery=told)
                break
            producer.poll(0.1)
        producer.poll(0)
    if producer.flush(_FLUSH_S) or failures:
        raise StreamError(f"{topic}: events were not acknowledged: {failures[0] if failures else 'in time'}")


class TopicReader:
    """The records of a topic from its first one on, each once. A context manager."""

    def __init__(self, bootstrap_servers: str, topic: str, *, timeout_s: float = 30.0) -> None:
        """Begin at the beginning.

        Raises:
            StreamError: There is no such topic, or no broker answers in time.
        """
        self._consumer = confluent_kafka.Consumer(
            {
                "bootstrap.servers": bootstrap_servers,
                "group.id": f"read-{topic}",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
            }
        )
        try:
            partitions = self._consumer.list_topics(topic, timeout_s).topics[topic].partitions
        except confluent_kafka.KafkaException as error:
            self._consumer.close()
            raise StreamError(f"{bootstrap_servers}: topic {topic!r} cannot be read: {error}") from error
        self._consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in partitions])

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Let go."""
        self._consumer.close()

    def read(self, count: int, *, timeout_s: float) -> Iterator[Event]:
        """The next records, `count` of them or as many as come in time."""
        deadline_s, seen = time.monotonic() + timeout_s, 0
        while seen < count and (left_s := deadline_s - time.monotonic()) > 0:
            for message in self._consumer.consume(min(_POLL_RECORDS, count - seen), min(left_s, _POLL_S)):
                if message.error() is None:
                    seen += 1
                    yield _event(message)


def records(bootstrap_servers: str, topic: str, *, count: int, timeout_s: float) -> Iterator[Event]:
    """The first records of a topic, `count` of them or as many as there are in time."""
    with TopicReader(bootstrap_servers, topic, timeout_s=timeout_s) as reader:
        yield from reader.read(count, timeout_s=timeout_s)


def _event(message: confluent_kafka.Message) -> Event:
    _, timestamp = message.timestamp()
    return Event(
        message.topic() or "",
        message.partition() or 0,
        message.offset() or 0,
        timestamp,
        message.key(),
        message.value(),
        cast("list[tuple[str, bytes | None]]", message.headers() or []),
    )
