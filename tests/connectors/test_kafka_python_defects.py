"""Defects of kafka-python 3.0.12 that the adapter is built around: each is provoked, and nobody is hurt.

Where a real broker brings a defect about, it does. Elsewhere the one call that fails is provoked in the real client,
and everything around it is genuine. Elsewhere tested: max_poll_interval and a commit during a revocation
(`test_kafka_groups`), auto_offset_reset (`test_kafka_positions`), options that turn idempotence off and deserialisers
that raise (`test_kafka_refusals`).
"""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import kafka
import pytest

from connectors.kafka_python_client import check_libraries
from connectors.kafka_python_errors import translating
from streamfm.errors import DisturbedError, StreamError

EVENTS = [b"event %d" % index for index in range(20)]
EXPECTED = sorted(b"scored " + event for event in EVENTS)
BOTH = pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
SHORT = {"request_timeout_s": 2.0, "delivery_timeout_s": 2.5}
FRESH = {"request_timeout_s": 5.0, "delivery_timeout_s": 6.0}
"""For brokers that have just started."""


@pytest.fixture
def client() -> str:
    """This client only."""
    return "kafka-python"


def scores(bench: Any) -> list[bytes]:
    return sorted(record.value for record in bench.read(bench.scores))


@pytest.fixture
def collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Sockets that were refused are left to the garbage collection: now, while the warnings are ignored."""
    # A log record with a traceback keeps a socket, and pytest the record.
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()


def library_producer(worker: Any) -> Any:
    """kafka-python's own."""
    return worker.sink._producer._producer


def library_consumer(worker: Any) -> Any:
    """kafka-python's own."""
    return worker.source._group.current()._consumer


def once(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, instead: Callable[..., Any]) -> None:
    """The next call goes there; `instead` gets the real method first."""
    real = getattr(owner, name)

    def call(*given: Any, **named: Any) -> Any:
        monkeypatch.setattr(owner, name, real)
        return instead(real, *given, **named)

    monkeypatch.setattr(owner, name, call)


def finishes(bench: Any, worker: Any, guarantee: str = "exactly-once") -> None:
    """Recovers, scores the rest, and nothing is lost or, in transactions, doubled."""
    worker.recover()
    bench.until(lambda: bench.all_committed(len(EVENTS)), lambda: worker.step(5))
    assert set(scores(bench)) == set(EXPECTED)
    assert guarantee == "at-least-once" or scores(bench) == EXPECTED


@BOTH
def test_commit_transaction_succeeds_though_a_record_expired_unsent(
    bench: Any, monkeypatch: pytest.MonkeyPatch, guarantee: str
) -> None:
    """Only the record's future knows that it was lost."""
    from kafka.errors import KafkaTimeoutError
    from kafka.producer.future import FutureProduceResult, FutureRecordMetadata

    def expire(real: object, topic: str, *given: object) -> Any:
        lost = FutureRecordMetadata(FutureProduceResult((topic, 0)), -1, None, None, 0, 0, 0)
        return lost.failure(KafkaTimeoutError("Expiring 1 record(s)"))

    bench.produce(EVENTS)
    worker = bench.worker(guarantee=guarantee)
    polled = worker.poll(5)
    once(monkeypatch, library_producer(worker), "send", expire)
    worker.send(polled)

    with pytest.raises(DisturbedError, match="Expiring"):
        worker.sink.flush()
    with pytest.raises(DisturbedError):
        worker.sink.commit()

    assert bench.committed() == {0: 0, 1: 0}
    finishes(bench, worker, guarantee)


@pytest.mark.parametrize("call", ["poll", "commit"])
def test_requests_to_a_broker_that_dies_while_it_is_connected_to_fail_with_a_plain_error(
    bench: Any, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """It is a disturbance, like that of a broker that dies later; any other RuntimeError is not."""

    def fail(real: object, *given: object, **named: object) -> None:
        raise RuntimeError("Transport closed for writes")

    bench.produce(EVENTS)
    worker = bench.worker()
    worker.send(worker.poll(5))
    once(monkeypatch, library_consumer(worker), call, fail)

    with pytest.raises(DisturbedError, match="closed for writes"):
        worker.poll(5) if call == "poll" else worker.settle()

    finishes(bench, worker, "at-least-once")
    with pytest.raises(RuntimeError, match="of our own"), translating("polling"):
        raise RuntimeError("an error of our own")


def test_offsets_of_a_failed_send_offsets_leak_into_the_next_transaction(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A producer whose transaction failed is not used again."""

    def refuse(real: Callable[..., None], offsets: object, membership: Any) -> None:
        real(offsets, membership._replace(generation_id=membership.generation_id + 7))

    bench.produce(EVENTS)
    worker = bench.worker(guarantee="exactly-once")
    worker.send(worker.poll(20))
    worker.sink.flush()
    once(monkeypatch, library_producer(worker), "send_offsets_to_transaction", refuse)
    with pytest.raises(DisturbedError):
        worker.sink.commit()

    worker.recover()
    bench.until(lambda: worker.step(1) == 1)
    bench.until(lambda: bench.all_committed(1))
    assert sum(bench.committed().values()) == 1
    assert len(scores(bench)) == 1
    finishes(bench, worker)


@pytest.mark.parametrize("call", ["send_offsets_to_transaction", "commit_transaction"])
@pytest.mark.faults
def test_transactional_calls_may_hang_for_ever(bench: Any, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """They wait without a limit for a broker that was away; the adapter does not wait for them."""
    ended = threading.Event()
    bench.produce(EVENTS)
    worker = bench.worker(guarantee="exactly-once", **SHORT)
    worker.send(worker.poll(5))
    worker.sink.flush()
    monkeypatch.setattr(library_producer(worker), call, lambda *given: ended.wait())
    try:
        with pytest.raises(DisturbedError, match="not done after 4 s"):
            worker.sink.commit()
        finishes(bench, worker)
    finally:
        ended.set()


def test_the_leader_of_a_group_may_be_stuck_on_a_fresh_topic(bare_bench: Any) -> None:
    """It was in 9 of 24 starts, silently, where it subscribed before it had seen the topic's partitions."""
    bench = bare_bench
    for topic in (bench.scores, bench.dead):
        bench.make(topic)
    for attempt in range(6):
        topic = bench.make(f"{bench.events}.{attempt}")
        worker = bench.worker(input_topics=(topic,), group_id=f"{bench.name}-{attempt}")
        worker.join(2)
        worker.close()


def test_a_time_out_of_a_transactional_request_is_fatal_to_the_producer(bench: Any) -> None:
    """It can never be used again; another can, so it is a disturbance and no more."""
    from kafka.errors import RequestTimedOutError

    bench.produce(EVENTS)
    worker = bench.worker(guarantee="exactly-once")
    worker.send(worker.poll(5))
    worker.sink.flush()
    library_producer(worker)._transaction_manager.transition_to_fatal_error(RequestTimedOutError("after 9999 ms"))

    with pytest.raises(DisturbedError, match="RequestTimedOut"):
        worker.sink.commit()

    finishes(bench, worker)


@BOTH
@pytest.mark.faults
def test_flush_has_its_time_limit_for_every_batch_anew(
    bench: Any, monkeypatch: pytest.MonkeyPatch, guarantee: str
) -> None:
    """With many partitions that is for ever; and it passes over batches that have failed. It was 40 s instead of 25."""
    from kafka.producer.future import FutureProduceResult, FutureRecordMetadata

    def never(real: object, topic: str, *given: object) -> Any:
        return FutureRecordMetadata(FutureProduceResult((topic, 0)), -1, None, None, 0, 0, 0)

    limits: list[float] = []
    bench.produce(EVENTS)
    worker = bench.worker(guarantee=guarantee, **SHORT)
    polled = worker.poll(5)
    producer = library_producer(worker)
    once(monkeypatch, producer, "send", never)
    real_flush = producer.flush
    monkeypatch.setattr(producer, "flush", lambda timeout: [limits.append(timeout), real_flush(timeout)])
    worker.send(polled)

    with pytest.raises(DisturbedError, match="Timeout after waiting"):
        worker.sink.flush()

    assert limits == [1.0]
    finishes(bench, worker, guarantee)


def test_unknown_broker_id_escapes_once_and_then_nothing_comes_for_ever(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The consumer is replaced."""
    from kafka.errors import UnknownBrokerIdError

    def escape(real: object, *given: object, **named: object) -> None:
        raise UnknownBrokerIdError("1")

    bench.produce(EVENTS)
    worker = bench.worker()
    worker.turn(5)
    before = library_consumer(worker)
    monkeypatch.setattr(before, "poll", lambda **named: {})
    once(monkeypatch, before, "poll", escape)

    with pytest.raises(DisturbedError, match="UnknownBrokerId"):
        worker.source.poll(5, 0.1)

    finishes(bench, worker, "at-least-once")
    assert library_consumer(worker) is not before


def test_the_producer_bounds_no_memory(bench: Any) -> None:
    """The adapter waits while more than `max_in_flight` records are not acknowledged."""
    bench.produce([b"x" * 100] * 500)
    worker = bench.worker(max_in_flight=30)
    polled = worker.poll(500)
    worker.send(polled)

    assert len(polled.records) > 30
    assert len(worker.sink._producer._pending) < 30
    worker.settle()
    assert len(bench.read(bench.scores)) == len(polled.records)


def test_a_codec_that_is_missing_makes_poll_spin_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the worker does not start without it."""
    from kafka import codec

    monkeypatch.setattr(codec, "has_lz4", lambda: False)

    with pytest.raises(StreamError, match="Kafka needs lz4") as failure:
        check_libraries()
    assert "streamfm[stream]" in str(failure.value.hint)


def test_a_static_member_that_is_idle_is_not_told_that_its_name_is_anothers(bench: Any) -> None:
    """Its heartbeats end, and it polls on. A new consumer would take the name back, and so on for ever: it ends."""
    now = [0.0]
    first = bench.worker(static_membership=True, watchdog_s=20.0)
    first.join(2)
    # The leader may join once more when it first sees the topic's partitions; it would be told then.
    for _ in range(15):
        first.source.poll(1, 0.1)
    # On a machine that is busy that may be under way yet; without partitions it has nothing to ask about.
    first.join(2)
    second = bench.worker(static_membership=True)
    second.join(2)
    first.source._clock = lambda: now[0]
    first.source._moved_s = dict.fromkeys(first.source._moved_s, 0.0)

    def ask() -> None:
        now[0] += 21.0
        # Only the watchdog's time passes, not that of a worker that is no member.
        first.source._member_s = now[0]
        # On a machine that is busy a rebalance may be under way when it asks; then it asks again.
        with suppress(DisturbedError):
            first.source.poll(1, 0.1)

    with pytest.raises(StreamError, match="FencedInstanceId") as failure:
        bench.until(lambda: False, ask)

    assert not isinstance(failure.value, DisturbedError)
    assert "another worker runs with the same" in str(failure.value.hint)


def ends(bench: Any, isolation: str) -> dict[Any, int]:
    """Up to where such a reader of the scores gets."""
    consumer = kafka.KafkaConsumer(bootstrap_servers=bench.bootstrap, isolation_level=isolation)
    found: dict[Any, int] = consumer.end_offsets([kafka.TopicPartition(bench.scores, number) for number in range(2)])
    consumer.close()
    return found


@pytest.mark.faults
def test_a_transaction_that_the_broker_timed_out_is_in_an_invalid_state(own_brokers: Any, make_bench: Any) -> None:
    """Both commit and abort raise "Invalid transition"; the records are not lost."""
    brokers = own_brokers("--set", "transaction.abort.timed.out.transaction.cleanup.interval.ms=200")
    bench = make_bench(brokers.bootstrap)
    bench.make_all()
    bench.produce(EVENTS)
    worker = bench.worker(guarantee="exactly-once", transaction_timeout_s=1.0)
    worker.send(worker.poll(5))
    worker.sink.flush()
    # The last stable offset moves on when the transaction is aborted.
    bench.until(lambda: ends(bench, "read_committed") == ends(bench, "read_uncommitted"))

    with pytest.raises(DisturbedError):
        worker.sink.commit()

    finishes(bench, worker)


@pytest.mark.faults
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_close_with_unsent_records_raises_and_leaves_its_thread(own_brokers: Any, make_bench: Any) -> None:
    """The sink's does not raise, and the thread ends when the records have expired."""
    brokers = own_brokers()
    bench = make_bench(brokers.bootstrap)
    bench.make_all()
    bench.produce(EVENTS)
    worker = bench.worker(**FRESH)
    worker.turn(5)
    polled = worker.poll(5)
    sender = library_producer(worker)._sender
    brokers.call("kill")
    worker.send(polled)

    worker.sink.close(0.5)

    brokers.call("resume")
    bench.until(lambda: not sender.is_alive())
    finishes(bench, worker, "at-least-once")


@pytest.mark.faults
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_commit_hangs_for_ever_when_the_broker_dies_in_a_transaction(own_brokers: Any, make_bench: Any) -> None:
    """Also when the broker comes back meanwhile. The adapter's ends in time, and the next producer decides."""
    brokers = own_brokers()
    bench = make_bench(brokers.bootstrap)
    bench.make_all()
    bench.produce(EVENTS)
    worker = bench.worker(guarantee="exactly-once", **FRESH)
    worker.send(worker.poll(5))
    worker.sink.flush()
    brokers.call("kill")

    with pytest.raises(DisturbedError):
        worker.sink.commit()

    brokers.call("resume")
    finishes(bench, worker)
