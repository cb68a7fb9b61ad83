"""One side of a benchmark, in a process of its own: a worker of streamfm, or the loop without it.

Given as JSON, the fields of `Side`. Prints as JSON what `Result` holds. Of kind `bare` is the loop without decoding and
scoring; of kind `network`, confluent-kafka's with onnxruntime in it, asked about rows that are encoded already.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from connectors.kafka_settings import Guarantee, KafkaSettings
from streamfm.bundle.session import open_session
from streamfm.cli.worker import rarely_collecting
from streamfm.scoring import MODEL_FILES, Precision, load
from streamfm.stream.loop import Stream
from streamfm.stream.measures import Measures
from streamfm.stream.ports import Sink, Source
from streamfm.stream.serving import ServedModels
from streamfm.stream.settings import StreamSettings

WARM_UP_SHARE = 0.1
IDLE_S = 0.1
CALL_LIMIT_S = 30.0
DEFAULTS = StreamSettings()


@dataclass(frozen=True, kw_only=True)
class Side:
    """Who runs, and how far."""

    kind: str
    client: str
    bootstrap: str
    source: str
    target: str
    dead_letters: str
    group: str
    bundle: str = ""
    guarantee: Guarantee = "at-least-once"
    precision: Precision = "fp32"
    threads: int = 1
    events: int
    batch: int = DEFAULTS.max_batch_records
    linger_s: float = DEFAULTS.linger_s
    commit_interval_s: float = DEFAULTS.commit_interval_s
    options: dict[str, str] = field(default_factory=dict)

    @property
    def kafka(self) -> KafkaSettings:
        """What both sides tell Kafka."""
        return KafkaSettings(
            bootstrap_servers=self.bootstrap,
            input_topics=(self.source,),
            output_topic=self.target,
            dead_letter_topic=self.dead_letters,
            group_id=self.group,
            guarantee=self.guarantee,
            options=self.options,
        )


class Result(NamedTuple):
    """What a run came to.

    Attributes:
        per_second: Records committed a second, after the warm-up.
        seconds: That it took for.
        batch: Mean records of a batch.
        user_s: Processor seconds of the process in that time.
    """

    per_second: float
    seconds: float
    batch: float
    user_s: float


class Progress(Protocol):
    """What a bare loop is watched by."""

    def flushed(self, records: Sequence[Any]) -> None:
        """These were acknowledged."""

    def add(self, count: int) -> None:
        """So many more were committed."""

    def is_enough(self) -> bool:
        """Whether the run is over."""


class Marks:
    """When how many records were committed."""

    def __init__(self, events: int) -> None:
        """Nothing yet."""
        self._events, self.done = events, 0
        self._marks: list[tuple[int, float, float]] = []

    def add(self, count: int) -> None:
        """So many more."""
        self.done += count
        self._marks.append((self.done, time.perf_counter(), time.process_time()))

    def flushed(self, records: Sequence[Any]) -> None:
        """Not noted."""

    def is_enough(self) -> bool:
        """Whether the run is over."""
        return self.done >= self._events

    def result(self) -> Result:
        """From the end of the warm-up on."""
        measured = [mark for mark in self._marks if mark[0] >= WARM_UP_SHARE * self._events]
        if len(measured) < 2:
            raise SystemExit("all of it was one batch: more events are needed")
        (first, began, used), (last, ended, used_up) = measured[0], measured[-1]
        seconds = ended - began
        return Result((last - first) / seconds, seconds, (last - first) / (len(measured) - 1), used_up - used)


class MarkingMeasures(Measures):
    """Notes each commit."""

    def __init__(self, marks: Marks) -> None:
        """In those marks."""
        super().__init__()
        self._marks = marks

    def committed(self, records: Any, answered: Any, acknowledged_ms: int) -> None:
        """See `Measures`."""
        super().committed(records, answered, acknowledged_ms)
        self._marks.add(len(records))


def open_ends(side: Side) -> tuple[Source, Sink]:
    """The worker's two ends."""
    if side.client == "confluent":
        from connectors.confluent_events import open_kafka as open_confluent

        return open_confluent(side.kafka)
    from connectors.kafka_events import open_kafka

    return open_kafka(side.kafka)


def make_stream(side: Side, source: Source, sink: Sink, measures: Measures) -> tuple[Stream, ServedModels]:
    """The loop as `streamfm stream` runs it."""
    settings = StreamSettings(
        event_id="event_id",
        max_batch_records=side.batch,
        linger_s=side.linger_s,
        commit_interval_s=side.commit_interval_s,
    )
    models = ServedModels(side.bundle, settings, precision=side.precision, threads=side.threads, clock=time.monotonic)
    stream = Stream(
        source,
        sink,
        models,
        settings,
        clock=time.monotonic,
        now_ms=lambda: time.time_ns() // 1_000_000,
        sleep=time.sleep,
        measures=measures,
    )
    return stream, models


def run_ours(side: Side) -> Result:
    marks = Marks(side.events)
    measures = MarkingMeasures(marks)
    source, sink = open_ends(side)
    stream, _ = make_stream(side, source, sink, measures)
    with rarely_collecting():
        stream.run(marks.is_enough)
    sink.close(CALL_LIMIT_S)
    source.close(CALL_LIMIT_S)
    require_undisturbed(measures)
    return marks.result()


def require_undisturbed(measures: Measures) -> None:
    """Leave when something went wrong that a figure would not show."""
    if measures.disturbances or measures.scores != measures.events:
        raise SystemExit(f"{measures.disturbances} disturbances, {measures.scores} scores of {measures.events} events")


def run_bare_kafka_python(side: Side) -> Result:
    marks = Marks(side.events)
    bare_kafka_python(side, marks)
    return marks.result()


def bare_kafka_python(side: Side, progress: Progress) -> None:
    """The loop without decoding and scoring; with a commit interval, it commits as seldom as the worker."""
    import kafka

    from connectors.kafka_python_client import _consumer_config, _producer_config

    settings = side.kafka
    consumer = kafka.KafkaConsumer(side.source, **(_consumer_config(settings) | {"auto_offset_reset": "earliest"}))
    producer = kafka.KafkaProducer(**(_producer_config(settings) | {"value_serializer": None}))
    consumer.partitions_for_topic(side.source)
    if settings.is_exactly_once:
        producer.init_transactions()
    send, target = producer.send, side.target
    uncommitted, due_s = 0, 0.0
    offsets: dict[Any, Any] = {}
    while not progress.is_enough():
        records = poll_kafka_python(consumer, side)
        if records:
            if settings.is_exactly_once and not uncommitted:
                producer.begin_transaction()
            for record in records:
                send(target, record.value, record.key)
            producer.flush(CALL_LIMIT_S)
            progress.flushed(records)
            due_s = due_s if uncommitted else time.monotonic() + side.commit_interval_s
            uncommitted += len(records)
            offsets |= {
                kafka.TopicPartition(record.topic, record.partition): kafka.OffsetAndMetadata(record.offset + 1, "", -1)
                for record in last_of_each(records)
            }
        if uncommitted and time.monotonic() >= due_s:
            if settings.is_exactly_once:
                producer.send_offsets_to_transaction(offsets, consumer.group_metadata())
                producer.commit_transaction()
            else:
                consumer.commit(offsets)
            progress.add(uncommitted)
            uncommitted = 0
    producer.close(CALL_LIMIT_S)
    consumer.close()


def poll_kafka_python(consumer: Any, side: Side) -> list[Any]:
    """A batch, filled as the worker's: by number, or for `linger_s` after its first record."""
    records = [record for part in consumer.poll(IDLE_S * 1000, side.batch).values() for record in part]
    until = time.monotonic() + side.linger_s
    while records and len(records) < side.batch and (left := until - time.monotonic()) > 0:
        for part in consumer.poll(left * 1000, side.batch - len(records)).values():
            records += part
    return records


def last_of_each(records: list[Any]) -> list[Any]:
    """The last record of each partition."""
    return list({record.partition: record for record in records}.values())


def run_bare_confluent(side: Side) -> Result:
    from confluent_kafka import Consumer, Producer, TopicPartition

    from connectors.confluent_config import consumer_config, producer_config

    settings, marks = side.kafka, Marks(side.events)
    ask = network(side) if side.kind == "network" else None
    consumer = Consumer(consumer_config(settings) | {"auto.offset.reset": "earliest", "enable.partition.eof": False})
    producer = Producer(producer_config(settings) | {"delivery.report.only.error": True})
    consumer.subscribe([side.source])
    if settings.is_exactly_once:
        producer.init_transactions(CALL_LIMIT_S)
    produce, target = producer.produce, side.target
    while not marks.is_enough():
        messages = consumer.consume(side.batch, IDLE_S)
        if not messages:
            continue
        if ask is not None:
            ask(len(messages))
        if settings.is_exactly_once:
            producer.begin_transaction()
        ends: dict[Any, Any] = {}
        for message in messages:
            produce(target, message.value(), message.key())
            ends[message.partition()] = message.offset() + 1
        producer.flush(CALL_LIMIT_S)
        offsets = [TopicPartition(side.source, partition, end) for partition, end in ends.items()]
        if settings.is_exactly_once:
            producer.send_offsets_to_transaction(offsets, consumer.consumer_group_metadata(), CALL_LIMIT_S)
            producer.commit_transaction(CALL_LIMIT_S)
        else:
            consumer.commit(offsets=offsets, asynchronous=False)
        marks.add(len(messages))
    consumer.close()
    return marks.result()


def network(side: Side) -> Callable[[int], object]:
    """Asks onnxruntime, and nothing else, about so many rows, at most a batch."""
    bundle = Path(side.bundle)
    layout = load(bundle).encoder.layout
    session = open_session(
        (bundle / MODEL_FILES[side.precision]).read_bytes(), name=side.precision, threads=side.threads
    )
    ids = np.random.default_rng(1).integers(0, layout.rows, (side.batch, layout.slots), np.int32)
    return lambda count: session.run(["score"], {"ids": ids[:count]})


KINDS = {
    ("ours", "kafka-python"): run_ours,
    ("ours", "confluent"): run_ours,
    ("bare", "kafka-python"): run_bare_kafka_python,
    ("bare", "confluent"): run_bare_confluent,
    ("network", "confluent"): run_bare_confluent,
}


def main() -> None:
    side = Side(**json.loads(sys.argv[1]))
    result = KINDS[side.kind, side.client](side)
    print(json.dumps(result._asdict()))


if __name__ == "__main__":
    main()
