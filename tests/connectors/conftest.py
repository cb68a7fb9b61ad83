"""A genuine Kafka, topics of its own for every test, and the adapter driven by hand."""

from __future__ import annotations

import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kafka_launcher import Brokers, why_no_launcher

from connectors.kafka_client import Client
from connectors.kafka_settings import KafkaSettings
from connectors.kafka_sink import KafkaSink
from connectors.kafka_source import KafkaSource, open_with
from streamfm.errors import DisturbedError
from streamfm.stream.ports import Answers, DeadLetter, Polled


@pytest.fixture(scope="session")
def bootstrap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Kafka that all tests share: nobody kills it."""
    if given := os.environ.get("STREAMFM_TEST_BOOTSTRAP"):
        yield given
        return
    if reason := why_no_launcher():
        pytest.skip(f"STREAMFM_TEST_BOOTSTRAP is not set, and {reason}")
    brokers = Brokers(tmp_path_factory.mktemp("kafka") / "cluster")
    try:
        yield brokers.bootstrap
    finally:
        brokers.close()


@pytest.fixture
def own_brokers(tmp_path: Path) -> Iterator[Callable[..., Brokers]]:
    """Starts a cluster for one test, which may kill it."""
    if reason := why_no_launcher():
        pytest.skip(reason)
    started: list[Brokers] = []

    def start(*options: str) -> Brokers:
        started.append(Brokers(tmp_path / f"cluster-{len(started)}", *options))
        return started[-1]

    yield start
    for brokers in started:
        brokers.close()


def _kafka_python(settings: KafkaSettings) -> Client:
    from connectors.kafka_python_client import KafkaPythonClient

    return KafkaPythonClient(settings)


def _confluent(settings: KafkaSettings) -> Client:
    pytest.importorskip("confluent_kafka", reason="the fast client is not installed")
    from connectors.confluent_client import ConfluentClient

    return ConfluentClient(settings)


CLIENTS: dict[str, Callable[[KafkaSettings], Client]] = {"kafka-python": _kafka_python, "confluent": _confluent}


@pytest.fixture(params=sorted(CLIENTS))
def client(request: pytest.FixtureRequest) -> str:
    """The client library."""
    name: str = request.param
    return name


class Bench:
    """Topics, events, workers that are driven by hand, and what they have written."""

    def __init__(self, bootstrap: str, client: str) -> None:
        import kafka

        self.bootstrap, self.client = bootstrap, client
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.events, self.scores, self.dead = (f"{self.name}.{kind}" for kind in ("events", "scores", "dead"))
        self.admin = kafka.KafkaAdminClient(bootstrap_servers=bootstrap)
        self._closing: list[Any] = []

    def make(self, topic: str, partitions: int = 2, **configs: str) -> str:
        self._make([topic], partitions, configs)
        return topic

    def make_all(self, partitions: int = 2) -> None:
        self._make([self.events, self.scores, self.dead], partitions, {})

    def _make(self, topics: list[str], partitions: int, configs: Mapping[str, str]) -> None:
        from kafka.admin import NewTopic

        # Events here are of 1970, and Kafka looks every five minutes for what is older than seven days.
        named = {"retention.ms": "-1"} | {key.replace("_", "."): value for key, value in configs.items()}
        self.admin.create_topics([NewTopic(topic, partitions, 1, topic_configs=named) for topic in topics])
        self.admin.wait_for_topics(topics)

    def settings(self, **changes: Any) -> KafkaSettings:
        given: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap,
            "input_topics": (self.events,),
            "output_topic": self.scores,
            "dead_letter_topic": self.dead,
            "group_id": self.name,
        }
        return KafkaSettings(**(given | changes))

    def client_for(self, settings: KafkaSettings) -> Client:
        return CLIENTS[self.client](settings)

    def worker(self, **changes: Any) -> Worker:
        settings = self.settings(**changes)
        worker = Worker(*open_with(self.client_for(settings), settings))
        self._closing.append(worker)
        return worker

    def produce(self, values: Sequence[bytes | None], topic: str = "", **options: Any) -> None:
        """Append events, the key being the index, in turn over the partitions."""
        import kafka

        producer = kafka.KafkaProducer(bootstrap_servers=self.bootstrap, **options)
        topic = topic or self.events
        count = len(producer.partitions_for(topic))
        futures = [
            producer.send(topic, value, str(index).encode(), [("n", b"%d" % index)], index % count, 1_000 + index)
            for index, value in enumerate(values)
        ]
        producer.flush(30)
        for future in futures:
            future.get(0)
        producer.close(10)

    def read(self, topic: str, isolation: str = "read_committed") -> list[Any]:
        """Everything up to the end that no open transaction hides."""
        import kafka

        consumer = kafka.KafkaConsumer(
            bootstrap_servers=self.bootstrap,
            isolation_level=isolation,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        try:
            partitions = [kafka.TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic)]
            consumer.assign(partitions)
            consumer.seek_to_beginning(*partitions)
            ends = consumer.end_offsets(partitions)
            records: list[Any] = []
            wait_for(lambda: _read_some(consumer, records) or all(consumer.position(p) >= ends[p] for p in partitions))
            return records
        finally:
            consumer.close()

    def committed(self) -> dict[int, int]:
        """Where the group stands, by partition."""
        offsets = self.admin.list_group_offsets({self.name: None})[self.name]
        return {partition.partition: place.offset for partition, place in offsets.items()}

    def until(self, ready: Callable[[], bool], meanwhile: Callable[[], object] = lambda: None) -> None:
        """Do something until it is so."""
        wait_for(lambda: ready() or bool(meanwhile() and False), 60.0)

    def all_committed(self, count: int) -> bool:
        from kafka.errors import KafkaError

        # The broker that the tests ask may be the one that was killed.
        with suppress(KafkaError):
            return sum(self.committed().values()) >= count
        return False

    def close(self) -> None:
        for worker in self._closing:
            worker.close()
        self.admin.close()


def _read_some(consumer: Any, records: list[Any]) -> bool:
    for part in consumer.poll(timeout_ms=200, max_records=100_000).values():
        records.extend(part)
    return False


class Worker:
    """The two ends of a stream, in the order of the loop."""

    def __init__(self, source: KafkaSource, sink: KafkaSink) -> None:
        self.source, self.sink = source, sink

    def poll(self, max_records: int = 1_000, timeout_s: float = 20.0) -> Polled:
        """The next poll with records."""
        polled: list[Polled] = []

        def came() -> bool:
            polled.append(self.source.poll(max_records, 0.2))
            return bool(polled[-1].records)

        wait_for(came, timeout_s)
        return polled[-1]

    def join(self, partitions: int) -> None:
        """Poll until so many partitions are assigned; what came is read again."""
        self._join(lambda count: count == partitions)

    def join_any(self) -> None:
        """Poll until some partition is assigned; what came is read again."""
        self._join(bool)

    def _join(self, enough: Callable[[int], bool]) -> None:
        def joined() -> bool:
            if self.source.poll(1, 0.1).records:
                # Not in a loop without polls: a rebalance would wait for one.
                with suppress(DisturbedError):
                    self.source.rewind()
            return enough(len(self.source.lag()))

        wait_for(joined)

    def assigned(self) -> int:
        """How many partitions it has; their lags are known a little later."""
        consumer = self.source._group.current()
        return len(consumer.assignment()) if consumer else 0

    def send(self, polled: Polled, dead: Sequence[DeadLetter] = ()) -> None:
        """Answer every record by its value."""
        poisoned = {(letter.record.partition, letter.record.offset) for letter in dead}
        records = [record for record in polled.records if (record.partition, record.offset) not in poisoned]
        values = [b"scored " + (record.value or b"") for record in records]
        self.sink.send(Answers(records, values, [("model", b"m@1")], list(dead)), polled.checkpoint)

    def settle(self) -> None:
        self.sink.flush()
        self.sink.commit()

    def turn(self, max_records: int = 1_000) -> int:
        """A batch, from poll to commit."""
        polled = self.poll(max_records)
        self.send(polled)
        self.settle()
        return len(polled.records)

    def recover(self) -> None:
        """As the loop does after a disturbance."""
        self.sink.abandon()

        def rewound() -> bool:
            with suppress(DisturbedError):
                self.source.rewind()
                return True
            return False

        # A broker that was killed takes half a minute to start on a machine that is busy.
        wait_for(rewound, 150.0)

    def step(self, max_records: int = 1_000) -> int:
        """A batch if there is one, from poll to commit, or a recovery; how many events were committed."""
        try:
            polled = self.source.poll(max_records, 0.2)
            if polled.records:
                self.send(polled)
                self.settle()
        except DisturbedError:
            self.recover()
            return 0
        return len(polled.records)

    def run(self, count: int, timeout_s: float = 60.0, poison: bytes = b"", max_records: int = 1_000) -> int:
        """Turns, with recoveries, until so many events were committed; an event with the value `poison` is no JSON."""
        done = 0

        def enough() -> bool:
            nonlocal done
            try:
                polled = self.source.poll(max_records, 0.2)
                if polled.records:
                    bad = [record for record in polled.records if record.value == poison]
                    self.send(polled, [DeadLetter(record, "not_json", "DecodeError", "expected {") for record in bad])
                    self.settle()
                    done += len(polled.records)
            except DisturbedError:
                self.recover()
            return done >= count

        wait_for(enough, timeout_s)
        return done

    def close(self) -> None:
        self.sink.close(5.0)
        self.source.close(5.0)


def wait_for(ready: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Try until it is so; a limit against tests that hang."""
    deadline = time.monotonic() + timeout_s
    while not ready():
        assert time.monotonic() < deadline, f"not so after {timeout_s} s"


def counted(records: Sequence[Any]) -> Counter[bytes]:
    """How often each value is there."""
    return Counter(record.value for record in records)


def once(values: Sequence[bytes]) -> Counter[bytes]:
    """Every event scored once."""
    return Counter(b"scored " + value for value in values)


@pytest.fixture
def bench(bootstrap: str, client: str) -> Iterator[Bench]:
    """Topics with two partitions each."""
    bench = Bench(bootstrap, client)
    try:
        bench.make_all()
        yield bench
    finally:
        bench.close()


@pytest.fixture
def make_bench(client: str) -> Iterator[Callable[[str], Bench]]:
    """Makes one at another broker."""
    made: list[Bench] = []

    def make(bootstrap: str) -> Bench:
        made.append(Bench(bootstrap, client))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


@pytest.fixture
def bare_bench(bootstrap: str, client: str) -> Iterator[Bench]:
    """No topics yet."""
    bench = Bench(bootstrap, client)
    yield bench
    bench.close()
