"""One side of `collect_throughput.py`, in a process of its own: the collector, or consumption alone.

Given as JSON, the fields of `Side`. Prints as JSON what `Result` holds.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from _frappe import FEATURES
from _kafka import PARTITIONS

from connectors.kafka_collector import Collector, CollectSettings
from connectors.kafka_settings import KafkaSettings
from connectors.parquet_log_schema import LogSchema, clicks, impressions
from streamfm.cli.worker import rarely_collecting
from streamfm.features import FeatureSpec

WARM_UP_SHARE = 0.1
IDLE_MS = 100
BATCH = CollectSettings().max_batch_records


@dataclass(frozen=True, kw_only=True)
class Side:
    """Who runs, and how far."""

    kind: str
    client: str
    bootstrap: str
    source: str
    empty: str
    log: str
    events: int

    @property
    def kafka(self) -> KafkaSettings:
        """What both sides tell Kafka."""
        return KafkaSettings(
            bootstrap_servers=self.bootstrap,
            input_topics=(self.source, self.empty),
            output_topic="-",
            group_id=f"bench-{self.source}",
        )


class Result(NamedTuple):
    """What a run came to.

    Attributes:
        per_second: Records a second, after the warm-up.
        seconds: That it took for.
        user_s: Processor seconds of the process in that time.
        records: How many there were.
    """

    per_second: float
    seconds: float
    user_s: float
    records: int


class Marks:
    """When the warm-up was over."""

    def __init__(self, events: int) -> None:
        self._least, self._first = WARM_UP_SHARE * events, 0
        self._began = (0.0, 0.0)

    def seen(self, records: int) -> None:
        """So many have come in all."""
        if not self._first and records >= self._least:
            self._first, self._began = records, (time.perf_counter(), time.process_time())

    def result(self, records: int) -> Result:
        """Now it is over."""
        seconds = time.perf_counter() - self._began[0]
        return Result((records - self._first) / seconds, seconds, time.process_time() - self._began[1], records)


def schemas() -> tuple[LogSchema, LogSchema]:
    """Of impressions: Frappe's ten texts, an id and a time; and of clicks."""
    inputs = "".join(f'{name} = "VARCHAR"\n' for name in FEATURES)
    features = "".join(f'[features.{name}]\nkind = "categorical"\n' for name in FEATURES)
    head = 'format = 1\nlabel = "label"\nevent_id = "event_id"\nevent_time = "ts"\n'
    return impressions(FeatureSpec.from_toml(f"{head}[inputs]\n{inputs}{features}")), clicks()


def collect(side: Side) -> Result:
    if side.client == "confluent":
        from connectors.confluent_client import ConfluentClient as Client
    else:
        from connectors.kafka_python_client import KafkaPythonClient as Client  # type: ignore[assignment]
    marks = Marks(side.events)
    shown, clicked = schemas()
    topics = {side.source: shown, side.empty: clicked}
    with Collector(Path(side.log), Client(side.kafka), side.kafka, topics) as collector, rarely_collecting():
        owned = collector._topics.owned

        def looked() -> bool:
            marks.seen(sum(one.collector.position for one in owned.values()))
            return False

        collected = collector.run(looked, until_end=True)
    if collected.errors or collected.disturbances:
        raise SystemExit(f"errors {collected.errors}, {collected.disturbances} disturbances")
    return marks.result(collected.rows[side.source])


def bare_kafka_python(side: Side) -> Result:
    import kafka

    from connectors.kafka_python_client import _consumer_config

    consumer = kafka.KafkaConsumer(**(_consumer_config(side.kafka) | {"group_id": None}))
    partitions = [kafka.TopicPartition(side.source, number) for number in range(PARTITIONS)]
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    marks, records, size = Marks(side.events), 0, 0
    with rarely_collecting():
        while records < side.events:
            for part in consumer.poll(IDLE_MS, BATCH).values():
                records += len(part)
                size += sum(len(record.value) for record in part)
            marks.seen(records)
        return marks.result(records)


def bare_confluent(side: Side) -> Result:
    from confluent_kafka import Consumer, TopicPartition

    from connectors.confluent_config import consumer_config

    consumer = Consumer(consumer_config(side.kafka) | {"enable.partition.eof": False})
    consumer.assign([TopicPartition(side.source, number, 0) for number in range(PARTITIONS)])
    marks, records, size = Marks(side.events), 0, 0
    with rarely_collecting():
        while records < side.events:
            messages: list[Any] = consumer.consume(BATCH, IDLE_MS / 1000)
            records += len(messages)
            size += sum(len(message.value()) for message in messages)
            marks.seen(records)
        return marks.result(records)


def main() -> None:
    side = Side(**json.loads(sys.argv[1]))
    bare = bare_confluent if side.client == "confluent" else bare_kafka_python
    print(json.dumps((collect if side.kind == "collect" else bare)(side)._asdict()))


if __name__ == "__main__":
    main()
