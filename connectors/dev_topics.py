"""Events into a topic and records out of it, for demonstrations and examples; with confluent-kafka."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import cast

import confluent_kafka

from streamfm.errors import StreamError
from streamfm.stream.ports import Event

_FLUSH_S = 30.0


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


def records(bootstrap_servers: str, topic: str, *, count: int, timeout_s: float) -> Iterator[Event]:
    """The first records of a topic, `count` of them or as many as there are in time."""
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "group.id": f"read-{topic}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 50,
        }
    )
    try:
        partitions = consumer.list_topics(topic, timeout_s).topics[topic].partitions
        consumer.assign([confluent_kafka.TopicPartition(topic, number, 0) for number in partitions])
        deadline_s, seen = time.monotonic() + timeout_s, 0
        while seen < count and time.monotonic() < deadline_s:
            for message in consumer.consume(min(1_000, count - seen), 0.2):
                if message.error() is None:
                    seen += 1
                    yield _event(message)
    finally:
        consumer.close()


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
