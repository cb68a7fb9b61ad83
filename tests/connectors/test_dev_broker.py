from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from connectors.dev_broker import KAFKA_PYTHON_API_VERSION, LIMITS, DevBroker
from streamfm.errors import StreamError

confluent_kafka = pytest.importorskip("confluent_kafka", reason="the development broker is a part of confluent-kafka")
kafka = pytest.importorskip("kafka")

WAIT_S = 20.0
VALUES = [str(number).encode() for number in range(200)]
KEPT_BYTES = 5 << 20
BATCH_BYTES = 1_000_000
# The second member of a group waits for nearly so long.
SESSION_MS = 2_000


@pytest.fixture
def broker() -> Iterator[DevBroker]:
    with DevBroker({"events": 3, "scores": 1}) as running:
        yield running


def produce(broker: DevBroker, values: list[bytes], partition: int = 0) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers, "acks": "all"})
    failed: list[Any] = []
    for value in values:
        producer.produce("events", value, partition=partition, on_delivery=lambda error, _: failed.append(error))
        producer.poll(0)
    assert 0 == producer.flush(WAIT_S)
    assert {None} == set(failed)


def confluent_consumer(broker: DevBroker) -> Any:
    return confluent_kafka.Consumer(
        {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": "group",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "session.timeout.ms": SESSION_MS,
            "heartbeat.interval.ms": SESSION_MS // 4,
        }
    )


def kafka_python(broker: DevBroker, kind: type, **options: Any) -> Any:
    return kind(bootstrap_servers=broker.bootstrap_servers, api_version=KAFKA_PYTHON_API_VERSION, **options)


def test_topics_have_the_partitions_that_were_asked_for(broker: DevBroker) -> None:
    assert broker.bootstrap_servers.startswith("127.0.0.1:")
    topics = (
        confluent_kafka.Producer({"bootstrap.servers": broker.bootstrap_servers}).list_topics(timeout=WAIT_S).topics
    )
    assert {"events": 3, "scores": 1} == {name: len(topic.partitions) for name, topic in topics.items()}


def test_confluent_kafka_produces_consumes_and_goes_on_where_its_group_committed(broker: DevBroker) -> None:
    produce(broker, VALUES)
    first = confluent_consumer(broker)
    first.subscribe(["events"])
    assert VALUES[:150] == [message.value() for message in first.consume(150, WAIT_S)]
    first.commit(offsets=[confluent_kafka.TopicPartition("events", 0, 150)], asynchronous=False)
    first.close()

    second = confluent_consumer(broker)
    second.subscribe(["events"])
    assert VALUES[150:] == [message.value() for message in second.consume(50, WAIT_S)]
    second.close()


def test_kafka_python_produces_consumes_and_goes_on_where_its_group_committed(broker: DevBroker) -> None:
    producer = kafka_python(broker, kafka.KafkaProducer, acks="all")
    futures = [producer.send("events", value, partition=0) for value in VALUES]
    assert list(range(len(VALUES))) == [future.get(WAIT_S).offset for future in futures]
    producer.close(WAIT_S)

    group: dict[str, Any] = {"group_id": "group", "auto_offset_reset": "earliest", "enable_auto_commit": False}
    group |= {"session_timeout_ms": SESSION_MS, "heartbeat_interval_ms": SESSION_MS // 4}
    partition = kafka.TopicPartition("events", 0)
    first = kafka_python(broker, kafka.KafkaConsumer, **group)
    first.subscribe(["events"])
    assert VALUES[:150] == poll_until(first, 150)
    first.commit({partition: kafka.OffsetAndMetadata(150, "", -1)})
    first.close()

    second = kafka_python(broker, kafka.KafkaConsumer, **group)
    second.subscribe(["events"])
    assert VALUES[150:] == poll_until(second, 50)
    second.close()


def poll_until(consumer: Any, count: int) -> list[bytes]:
    values: list[bytes] = []
    for _ in range(int(WAIT_S)):
        for records in consumer.poll(1_000, max_records=count - len(values)).values():
            values += [record.value for record in records]
        if len(values) == count:
            break
    return values


def test_it_drops_what_is_older_than_the_latest_5_mb_as_its_limits_say(broker: DevBroker) -> None:
    assert "5 MB" in LIMITS
    size = 50_000
    produce(broker, [bytes(size)] * 200)
    consumer = confluent_consumer(broker)
    low, high = consumer.get_watermark_offsets(confluent_kafka.TopicPartition("events", 0), timeout=WAIT_S)
    consumer.close()
    assert 200 == high
    # It drops whole batches of the producer.
    assert KEPT_BYTES - BATCH_BYTES - size < (high - low) * size <= KEPT_BYTES


def test_another_process_reaches_it(broker: DevBroker) -> None:
    code = (
        "import sys, confluent_kafka;"
        "producer = confluent_kafka.Producer({'bootstrap.servers': sys.argv[1]});"
        "producer.produce('scores', b'from elsewhere');"
        "sys.exit(producer.flush(20))"
    )
    subprocess.run([sys.executable, "-c", code, broker.bootstrap_servers], check=True, timeout=60)
    consumer = confluent_consumer(broker)
    consumer.assign([confluent_kafka.TopicPartition("scores", 0, 0)])
    assert [b"from elsewhere"] == [message.value() for message in consumer.consume(1, WAIT_S)]
    consumer.close()


def test_two_brokers_do_not_know_each_other_and_end_once(broker: DevBroker) -> None:
    with DevBroker({"other": 1}) as other:
        assert broker.bootstrap_servers != other.bootstrap_servers
        other.close()
    produce(broker, VALUES[:1])


def test_a_topic_has_a_partition_at_least() -> None:
    with pytest.raises(StreamError, match="'events' has 0 partitions, expected 1 or more"):
        DevBroker({"events": 0})


def test_without_confluent_kafka_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    with pytest.raises(StreamError, match=r"streamfm\[confluent\]"):
        DevBroker({})
