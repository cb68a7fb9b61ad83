"""What is the fast client's own: the broker for demonstrations, a broker that hangs, librdkafka's names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("confluent_kafka", reason="the fast client is not installed")

import confluent_kafka

from connectors.confluent_config import OWNED_NAMES
from connectors.confluent_consumer import ConfluentConsumer
from connectors.confluent_events import open_kafka
from connectors.dev_broker import DevBroker
from connectors.kafka_check import check
from connectors.kafka_options import OWNED
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Answers, Polled

SHORT = {"request_timeout_s": 1.0, "delivery_timeout_s": 1.5, "transaction_timeout_s": 3.0}


def settings(bootstrap_servers: str, **changes: Any) -> KafkaSettings:
    given: dict[str, Any] = {"input_topics": ("events",), "output_topic": "scores", "group_id": "group"}
    return KafkaSettings(bootstrap_servers=bootstrap_servers, **(given | changes))


def produce(bootstrap_servers: str, count: int) -> None:
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap_servers})
    for index in range(count):
        producer.produce("events", b"event %d" % index, b"%d" % index)
    assert producer.flush(20) == 0


def answers(polled: Polled) -> Answers:
    return Answers(polled.records, [b"scored " + (record.value or b"") for record in polled.records], [], [])


@pytest.fixture
def dev_broker() -> Iterator[DevBroker]:
    with DevBroker({"events": 2, "scores": 2}) as broker:
        yield broker


@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_the_broker_for_demonstrations_will_do(dev_broker: DevBroker, guarantee: str) -> None:
    produce(dev_broker.bootstrap_servers, 50)
    source, sink = open_kafka(settings(dev_broker.bootstrap_servers, guarantee=guarantee))
    values: list[bytes | None] = []
    while len(values) < 50:
        polled = source.poll(20, 0.2)
        if polled.records:
            sink.send(answers(polled), polled.checkpoint)
            sink.flush()
            sink.commit()
        values += [record.value for record in polled.records]
    sink.close(5.0)
    source.close(5.0)

    assert sorted(values, key=repr) == sorted((b"event %d" % index for index in range(50)), key=repr)


@pytest.mark.faults
@pytest.mark.parametrize("client", ["confluent"])
@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_a_broker_that_hangs_disturbs_every_call_and_none_hangs(
    own_brokers: Callable[..., Any], make_bench: Callable[[str], Any], guarantee: str
) -> None:
    brokers = own_brokers()
    bench = make_bench(brokers.bootstrap)
    bench.make_all()
    bench.produce([b"event %d" % index for index in range(50)])
    worker = bench.worker(guarantee=guarantee, **SHORT)
    worker.turn(10)
    polled = worker.poll(10)
    consumer = worker.source._group.current()
    brokers.call("pause")
    try:
        worker.send(polled)
        with pytest.raises(DisturbedError):
            worker.sink.flush()
        worker.sink.abandon()
        assert worker.source.poll(10, 0.1).checkpoint is not None
        for call in (
            worker.source.rewind,
            lambda: consumer.commit({(bench.events, 0): 1}),
            lambda: consumer.bounds([(bench.events, 0)]),
            lambda: bench.worker(worker_slot=1, **SHORT),
        ):
            with pytest.raises(DisturbedError):
                call()
    finally:
        brokers.call("resume")

    worker.recover()
    worker.run(40)
    values = [record.value for record in bench.read(bench.scores)]
    assert set(values) == {b"scored event %d" % index for index in range(50)}
    assert guarantee == "at-least-once" or len(values) == 50


@pytest.mark.parametrize("option", sorted(OWNED_NAMES.keys() - OWNED.keys()))
def test_options_by_other_names_of_librdkafka_cannot_be_given_either(option: str) -> None:
    for given in (option, option.replace("_", ".")):
        with pytest.raises(StreamError, match=given):
            open_kafka(settings("127.0.0.1:1", options={given: "1"}))


def test_a_consumer_leaves_even_where_the_library_loses_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def __init__(self, config: object) -> None:
            pass

        def unsubscribe(self) -> None:
            pass

        def poll(self, timeout: float) -> None:
            pass

        def close(self) -> None:
            raise SystemError("_PyErr_SetObject: exception <class 'str'> is not a BaseException subclass")

    monkeypatch.setattr("connectors.confluent_consumer.Consumer", Failing)
    ConfluentConsumer({}, settings("b:1")).close(1.0)


def test_a_consumer_whose_handle_another_call_has_is_asked_no_longer_than_its_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()

    class Taken:
        def __init__(self, config: object) -> None:
            pass

        def committed(self, partitions: object, timeout: float) -> None:
            ended.wait(30)

    monkeypatch.setattr("connectors.confluent_consumer.Consumer", Taken)
    consumer = ConfluentConsumer({}, settings("b:1", request_timeout_s=0.1))
    with pytest.raises(DisturbedError, match=r"asking for what is committed: not done after 2\.1 s"):
        consumer.committed([("events", 0)])
    ended.set()


def test_a_consumer_lets_go_of_its_partitions_before_it_closes(
    dev_broker: DevBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In `close` itself, that could wait for ever.
    called: list[str] = []

    class Telling(confluent_kafka.Consumer):
        def unassign(self) -> None:
            called.append("unassign")
            super().unassign()

        def close(self) -> None:
            called.append("close")
            super().close()

    monkeypatch.setattr("connectors.confluent_consumer.Consumer", Telling)
    produce(dev_broker.bootstrap_servers, 1)
    source, sink = open_kafka(settings(dev_broker.bootstrap_servers))
    while not source.poll(1, 0.2).records:
        pass
    sink.close(5.0)
    source.close(5.0)

    assert called == ["unassign", "close"]


def test_the_broker_for_demonstrations_passes_the_check_though_it_tells_no_sizes(
    client: str,
) -> None:
    options = {"kafka-python": {"api_version": "2.3"}, "confluent": {}}[client]
    with DevBroker({"events": 2, "scores": 2, "dead": 1}) as broker:
        produce(broker.bootstrap_servers, 1)
        checks, record = check(
            settings(broker.bootstrap_servers, dead_letter_topic="dead", options=options, request_timeout_s=1.0), client
        )
    assert all(is_right for _, is_right, _ in checks), checks
    assert checks[-1][2].startswith("not known: ")
    assert record is not None
