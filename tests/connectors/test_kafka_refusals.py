"""What cannot work says so, at once, with what to do about it; what passes is tried again."""

from __future__ import annotations

import subprocess
import sys
import uuid
from typing import Any

import pytest

from connectors.kafka_options import OWNED
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError

GIVEN: dict[str, Any] = {
    "bootstrap_servers": "127.0.0.1:1",
    "input_topics": ("events",),
    "output_topic": "scores",
    "group_id": "group",
}

LARGEST = {"kafka-python": "max.request.size", "confluent": "message.max.bytes"}


def fails(**changes: Any) -> str:
    with pytest.raises(StreamError) as failure:
        KafkaSettings(**(GIVEN | changes))
    return str(failure.value)


def test_settings_that_cannot_be_are_named() -> None:
    assert "group_id is empty" in fails(group_id="")
    assert "input_topics is empty" in fails(input_topics=())
    assert "read and written" in fails(output_topic="events")
    assert "the same" in fails(dead_letter_topic="scores")
    assert "guarantee is 'once'" in fails(guarantee="once")
    assert "worker_slot is -1" in fails(worker_slot=-1)
    assert "watchdog_s is 0" in fails(watchdog_s=0)
    assert "session_timeout_s is 4 s, expected more than 5 s" in fails(session_timeout_s=4)
    assert "start is 'yesterday'" in fails(start="yesterday")
    assert "stop is 'latest'" in fails(stop="latest")


def test_a_time_without_a_zone_is_in_utc() -> None:
    settings = KafkaSettings(**GIVEN, start="2026-01-31T12:00:00", stop="2026-01-31T13:00:00+01:00")

    assert settings.start_place == settings.stop_place


def test_a_topic_that_is_not_there_is_named_at_the_start(bare_bench: Any) -> None:
    bare_bench.make(bare_bench.events)
    with pytest.raises(StreamError, match=f"topic '{bare_bench.scores}' is not there") as failure:
        bare_bench.worker()

    assert not isinstance(failure.value, DisturbedError)
    assert "kafka-topics.sh" in str(failure.value.hint)


NO_BROKER = """
import threading, time
from connectors.kafka_events import open_kafka
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError

settings = KafkaSettings(
    bootstrap_servers="127.0.0.1:1", input_topics=("events",), output_topic="scores", group_id="group",
    request_timeout_s=1.0, delivery_timeout_s=2.0,
)
try:
    open_kafka(settings)
except DisturbedError as error:
    print(error)
deadline = time.monotonic() + 20
while threading.active_count() > 1 and time.monotonic() < deadline:
    time.sleep(0.05)
print(threading.active_count())
"""


def test_a_broker_that_is_not_there_is_a_disturbance_and_leaves_no_thread() -> None:
    # In a process of its own: kafka-python leaves sockets that were refused to the garbage collection.
    ran = subprocess.run([sys.executable, "-c", NO_BROKER], capture_output=True, text=True, timeout=60, check=True)

    assert ran.stdout.splitlines() == [
        "connecting to 127.0.0.1:1: KafkaTimeoutError: Unable to bootstrap from ['127.0.0.1:1']",
        "hint: is a broker running there? That of `streamfm broker` needs --client confluent",
        "1",
    ]


def test_a_score_that_is_too_large_names_its_event_and_the_mend(bare_bench: Any) -> None:
    bench = bare_bench
    bench.make(bench.events)
    bench.make(bench.dead)
    bench.make(bench.scores, max_message_bytes="2000")
    bench.produce([b"small", b"x" * 5_000])
    worker = bench.worker()

    with pytest.raises(StreamError) as failure:
        worker.run(2)

    assert not isinstance(failure.value, DisturbedError)
    assert f"{bench.events}[1] offset 0" in failure.value.message
    assert "max.message.bytes" in str(failure.value.hint)
    assert bench.committed()[1] == 0


def test_a_score_that_the_client_refuses_names_its_event_too(bench: Any, client: str) -> None:
    bench.produce([b"x" * 5_000])
    worker = bench.worker(options={f"producer.{LARGEST[client]}": "4000"})

    with pytest.raises(StreamError, match=rf"{bench.events}\[0\] offset 0") as failure:
        worker.run(1)

    assert not isinstance(failure.value, DisturbedError)
    assert LARGEST[client] in str(failure.value.hint).replace("_", ".")


def test_after_a_refusal_nothing_is_committed_in_a_transaction(bare_bench: Any) -> None:
    bench = bare_bench
    bench.make(bench.events, 1)
    bench.make(bench.dead)
    bench.make(bench.scores, 1, max_message_bytes="2000")
    bench.produce([b"small", b"x" * 5_000])
    worker = bench.worker(guarantee="exactly-once")
    worker.send(worker.poll())
    with pytest.raises(StreamError, match=r"MessageSizeTooLarge|MSG_SIZE_TOO_LARGE"):
        worker.sink.flush()

    with pytest.raises(DisturbedError):
        worker.sink.commit()

    assert bench.read(bench.scores) == []
    assert bench.committed() == {0: 0}


def test_after_a_refusal_no_reader_waits_for_the_transaction(bare_bench: Any) -> None:
    import kafka

    bench = bare_bench
    bench.make(bench.events, 1)
    bench.make(bench.dead)
    bench.make(bench.scores, 1, max_message_bytes="200000")
    bench.produce([b"small" * 20_000] * 3 + [b"x" * 500_000])
    worker = bench.worker(guarantee="exactly-once", transaction_timeout_s=300.0)
    worker.send(worker.poll(1))
    worker.sink.flush()
    polled = worker.poll()

    def pass_on() -> None:
        # On a busy machine the refusal is there before all is sent.
        worker.send(polled)
        worker.sink.flush()

    with pytest.raises(StreamError, match=r"MessageSizeTooLarge|MSG_SIZE_TOO_LARGE"):
        pass_on()

    # As the loop does, and then the command.
    worker.sink.abandon()
    worker.sink.close(5.0)

    def end(isolation: str) -> int:
        reader = kafka.KafkaConsumer(bootstrap_servers=bench.bootstrap, isolation_level=isolation)
        partition = kafka.TopicPartition(bench.scores, 0)
        found: int = reader.end_offsets([partition])[partition]
        reader.close()
        return found

    # The end of an open transaction's topic is before it.
    bench.until(lambda: end("read_committed") == end("read_uncommitted") > 0)


def test_a_transaction_timeout_that_the_broker_refuses_is_told(bench: Any) -> None:
    with pytest.raises(StreamError, match=r"InvalidTransactionTimeout|INVALID_TRANSACTION_TIMEOUT") as failure:
        bench.worker(guarantee="exactly-once", transaction_timeout_s=100_000.0)

    assert not isinstance(failure.value, DisturbedError)
    assert "transaction.max.timeout.ms" in str(failure.value.hint)


@pytest.mark.parametrize("option", sorted(OWNED))
def test_options_that_the_guarantee_rests_on_cannot_be_given(option: str, client: str, bare_bench: Any) -> None:
    for given in (option, option.replace("_", "."), f"producer.{option}", f"consumer.{option}"):
        with pytest.raises(StreamError) as failure:
            bare_bench.client_for(bare_bench.settings(options={given: "1"}))
        assert OWNED[option] in str(failure.value)
        assert given in str(failure.value)


def test_options_are_typed_by_the_clients_defaults() -> None:
    from connectors.kafka_options import options_for

    known: Any = {
        "consumer": {"fetch_min_bytes": 1, "check_crcs": True, "ssl_cafile": None, "security_protocol": "PLAINTEXT"},
        "producer": {"linger_ms": 0, "api_version": None, "security_protocol": "PLAINTEXT", "send_buffer_bytes": None},
    }
    options = {
        "security.protocol": "SSL",
        "consumer.fetch_min_bytes": "7",
        "check.crcs": "false",
        "ssl_cafile": "/ca.pem",
        "producer.linger.ms": "5",
        "api_version": "2.3",
        "send_buffer_bytes": "9",
    }

    assert options_for("consumer", options, known) == {
        "security_protocol": "SSL",
        "fetch_min_bytes": 7,
        "check_crcs": False,
        "ssl_cafile": "/ca.pem",
    }
    assert options_for("producer", options, known) == {
        "security_protocol": "SSL",
        "linger_ms": 5,
        "api_version": (2, 3),
        "send_buffer_bytes": 9,
    }


def test_options_that_are_unknown_or_of_another_type_are_told(client: str, bare_bench: Any) -> None:
    def fails(name: str, value: str) -> str:
        with pytest.raises(StreamError) as failure:
            bare_bench.client_for(bare_bench.settings(options={name: value}))
        return str(failure.value)

    if client == "confluent":
        assert 'No such configuration property: "linger.mss"' in fails("producer.linger_mss", "5")
        assert '"queue.buffering.max.ms"' in fails("linger_ms", "soon")
        return
    assert "did you mean 'linger_ms'?" in fails("producer.linger_mss", "5")
    assert "option 'linger_ms' is 'soon', expected a value like 0" in fails("linger_ms", "soon")
    assert "cannot be given as text" in fails("socket_options", "x")


def test_options_reach_the_client(bench: Any) -> None:
    bench.produce([b"a" * 1_000])
    bench.worker(options={"producer.compression_type": "zstd"}).run(1)

    (score,) = bench.read(bench.scores)
    assert score.value == b"scored " + b"a" * 1_000


def test_names_are_unique_by_group_instance_and_slot() -> None:
    name = uuid.uuid4().hex
    settings = KafkaSettings(**(GIVEN | {"group_id": name, "instance": "host-a", "worker_slot": 4}))

    assert settings.worker_name == f"{name}-host-a-4"


def test_what_somebody_must_mend_is_told_from_inside_another_error() -> None:
    from kafka.errors import CoordinatorNotAvailableError, KafkaError, TopicAuthorizationFailedError

    from connectors.kafka_python_errors import translated

    refused = translated("sending", KafkaError("Cannot perform send", TopicAuthorizationFailedError({"scores"})))
    passing = translated("sending", KafkaError("Cannot perform send", CoordinatorNotAvailableError()))

    assert not isinstance(refused, DisturbedError)
    assert "kafka-acls.sh" in str(refused.hint)
    assert isinstance(passing, DisturbedError)
