"""Appends events, in a process of its own: a number of them, evenly so many a second, or as many as are read.

Given as JSON: bootstrap, topic, values (a file of events as JSON lines), maybe keyed, and one of

    events             append so many, and end
    per_second         append so many a second, evenly, until SIGTERM
    group, backlog     append until the group has so many left to read, until SIGTERM

With keyed, the key is the user; else there is none, and the partitions take turns.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from itertools import cycle
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

TICK_S = 0.001
CHUNK_EVENTS = 20_000
LOOK_S = 0.2


class Appender:
    """Appends the events in turn, again and again."""

    def __init__(self, given: dict[str, Any]) -> None:
        """Read them."""
        lines = Path(given["values"]).read_bytes().splitlines()
        keyed = given.get("keyed", False)
        self._events = cycle([(line, str(json.loads(line)["user_id"]).encode() if keyed else None) for line in lines])
        self._topic = given["topic"]
        self.failures: list[str] = []
        # Evenly: each as it is due. Otherwise: cheaply.
        linger_ms = 0 if "per_second" in given else 20
        self._producer = Producer(
            {
                "bootstrap.servers": given["bootstrap"],
                "partitioner": "murmur2_random",
                "linger.ms": linger_ms,
                "queue.buffering.max.messages": 1_000_000,
                "delivery.report.only.error": True,
                "on_delivery": lambda error, _: self.failures.append(str(error)),
            }
        )

    def append(self, count: int) -> None:
        """So many."""
        produce, topic = self._producer.produce, self._topic
        for _, (value, key) in zip(range(count), self._events, strict=False):
            produce(topic, value, key)
        self._producer.poll(0)

    def flush(self) -> None:
        """Until all are there."""
        if self._producer.flush(60) or self.failures:
            raise SystemExit(f"not appended: {self.failures[:1]}")


def append_number(appender: Appender, events: int) -> None:
    for begin in range(0, events, CHUNK_EVENTS):
        appender.append(min(CHUNK_EVENTS, events - begin))
        if begin % (20 * CHUNK_EVENTS) == 0:
            appender.flush()
    appender.flush()


def append_evenly(appender: Appender, per_second: float, stopping: Callable[[], bool]) -> None:
    began, sent = time.monotonic(), 0
    while not stopping():
        due = int((time.monotonic() - began) * per_second) - sent
        appender.append(due)
        sent += due
        time.sleep(TICK_S)
    appender.flush()


def append_backlog(appender: Appender, given: dict[str, Any], stopping: Callable[[], bool]) -> None:
    consumer = Consumer({"bootstrap.servers": given["bootstrap"], "group.id": given["group"]})
    metadata = consumer.list_topics(given["topic"], 30).topics[given["topic"]]
    partitions = [TopicPartition(given["topic"], number) for number in metadata.partitions]
    sent = 0
    committed = 0
    while not stopping():
        # A broker that has just begun does not yet know where groups stand.
        with suppress(KafkaException):
            committed = sum(max(0, place.offset) for place in consumer.committed(partitions, 30))
        wanted = committed + given["backlog"] - sent
        if wanted >= CHUNK_EVENTS:
            appender.append(wanted)
            appender.flush()
            sent += wanted
        else:
            time.sleep(LOOK_S)
    consumer.close()


def main() -> None:
    given = json.loads(sys.argv[1])
    signalled: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: signalled.append(number))
    appender = Appender(given)
    if "events" in given:
        append_number(appender, given["events"])
    elif "per_second" in given:
        append_evenly(appender, given["per_second"], lambda: bool(signalled))
    else:
        append_backlog(appender, given, lambda: bool(signalled))
    print(json.dumps({}))


if __name__ == "__main__":
    main()
