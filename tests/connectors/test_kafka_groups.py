"""Workers that come, go, are slow or have the same name: nothing is lost, and in transactions nothing is doubled."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from connectors.kafka_errors import bounded
from streamfm.errors import DisturbedError, StreamError

EVENTS = [b"event %d" % index for index in range(400)]
EXPECTED = sorted(b"scored " + event for event in EVENTS)
BOTH = pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
SLOW = {"max_poll_interval_s": 6.5}


@contextmanager
def in_background(work: Callable[[], object]) -> Any:
    """Runs it until the block ends; what it raises fails the test."""
    errors: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            while not ended.is_set():
                work()
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(60)
    assert not errors, errors
    assert not thread.is_alive()


def scores(bench: Any) -> list[bytes]:
    return sorted(record.value for record in bench.read(bench.scores))


def turn(worker: Any) -> None:
    try:
        polled = worker.source.poll(10, 0.1)
        if polled.records:
            worker.send(polled)
            worker.settle()
    except DisturbedError:
        worker.recover()


@BOTH
def test_two_workers_share_the_events(bench: Any, guarantee: str) -> None:
    bench.produce(EVENTS[:200])
    first = bench.worker(guarantee=guarantee, worker_slot=0)
    assert first.turn(10) == 10
    second = bench.worker(guarantee=guarantee, worker_slot=1)
    with in_background(lambda: turn(first)):
        second.join(1)
        bench.produce(EVENTS[200:])
        bench.until(lambda: bench.all_committed(400), lambda: turn(second))

    assert set(scores(bench)) == set(EXPECTED)
    assert guarantee == "at-least-once" or scores(bench) == EXPECTED


@BOTH
def test_a_revocation_flushes_and_commits_what_was_sent(bench: Any, guarantee: str) -> None:
    bench.produce(EVENTS[:20])
    first = bench.worker(guarantee=guarantee, worker_slot=0)
    polled = first.poll()
    sent = len(polled.records)
    first.send(polled)
    assert bench.committed() == {0: 0, 1: 0}

    second = bench.worker(guarantee=guarantee, worker_slot=1)
    with in_background(lambda: second.source.poll(1, 0.1)):
        bench.until(lambda: bench.all_committed(sent), lambda: first.source.poll(1, 0.1))

    # Settling it again is no error, and does nothing.
    first.settle()
    assert len(scores(bench)) == sent


def test_a_checkpoint_of_before_a_rebalance_is_not_committed(bench: Any) -> None:
    bench.produce(EVENTS[:20])
    first = bench.worker(worker_slot=0)
    old = first.poll(5)
    second = bench.worker(worker_slot=1)
    with in_background(lambda: second.source.poll(1, 0.1)):
        bench.until(lambda: first.assigned() == 1, lambda: first.source.poll(5, 0.1))

    with pytest.raises(DisturbedError, match="rebalanced"):
        first.send(old)
    assert sum(bench.committed().values()) == 0


@BOTH
def test_after_a_rebalance_everything_uncommitted_is_read_again(bench: Any, guarantee: str) -> None:
    bench.produce(EVENTS[:20])
    first = bench.worker(guarantee=guarantee, worker_slot=0)
    first.poll(5)
    second = bench.worker(guarantee=guarantee, worker_slot=1)
    with in_background(lambda: second.source.poll(1, 0.1)):
        bench.until(lambda: first.assigned() == 1, lambda: first.source.poll(5, 0.1))
        first.recover()
        offsets: list[int] = []
        while len(offsets) < 10:
            offsets += [record.offset for record in first.poll(100).records]

    assert offsets == list(range(10))


@pytest.mark.slow
@pytest.mark.faults
def test_a_worker_slower_than_max_poll_interval_doubles_nothing(bench: Any) -> None:
    bench.produce(EVENTS[:20])
    slow = bench.worker(guarantee="exactly-once", worker_slot=0, transaction_timeout_s=60.0, **SLOW)
    polled = slow.poll()
    slow.send(polled)
    slow.sink.flush()
    time.sleep(8)
    other = bench.worker(guarantee="exactly-once", worker_slot=1, **SLOW)
    other.run(20)

    # By now group_metadata() would be (-1, ""), which the broker accepts.
    with pytest.raises(DisturbedError):
        slow.sink.commit()

    slow.recover()
    assert scores(bench) == sorted(b"scored " + event for event in EVENTS[:20])


def test_a_second_worker_of_the_same_slot_locks_out_the_first(bench: Any) -> None:
    bench.produce(EVENTS[:20])
    first = bench.worker(guarantee="exactly-once")
    first.send(first.poll())
    second = bench.worker(guarantee="exactly-once")

    with pytest.raises(DisturbedError):
        first.settle()

    assert scores(bench) == []
    first.sink.abandon()
    first.source.close(5.0)
    second.run(20)
    assert scores(bench) == sorted(b"scored " + event for event in EVENTS[:20])


def test_of_two_workers_of_one_slot_one_ends_and_the_other_goes_on(bench: Any) -> None:
    bench.produce(EVENTS)
    workers = [bench.worker(guarantee="exactly-once"), bench.worker(guarantee="exactly-once")]
    ended: list[StreamError] = []

    def turn_each() -> None:
        for worker in list(workers):
            try:
                turn(worker)
            except StreamError as error:
                ended.append(error)
                workers.remove(worker)
                worker.sink.abandon()
                worker.close()
        if not ended:
            bench.produce(EVENTS[:2])

    bench.until(lambda: bool(ended), turn_each)
    assert "worker_slot" in str(ended[0].hint)
    count = len(bench.read(bench.events))
    bench.until(lambda: bench.all_committed(count), turn_each)
    assert len(scores(bench)) == count


def test_a_second_static_member_of_the_same_name_ends_the_first(bench: Any) -> None:
    bench.produce(EVENTS[:2])
    first = bench.worker(static_membership=True)
    first.send(first.poll())
    second = bench.worker(static_membership=True)
    second.join(2)

    with pytest.raises(StreamError, match=r"FencedInstanceId|FENCED_INSTANCE_ID") as failure:
        first.settle()
    assert not isinstance(failure.value, DisturbedError)
    assert "worker_slot" in str(failure.value)


def test_a_static_member_comes_back_without_a_rebalance(bench: Any) -> None:
    other = bench.worker(static_membership=True, worker_slot=1)
    leaving = bench.worker(static_membership=True, worker_slot=0)
    with in_background(lambda: other.source.poll(1, 0.1)):
        bench.until(lambda: other.assigned() == 1, lambda: leaving.source.poll(1, 0.1))
        # The leader may join once more when it first sees the topic's partitions.
        for _ in range(15):
            leaving.source.poll(1, 0.1)
        leaving.close()
    before = other.source.poll(1, 0.1).checkpoint.assignment
    with in_background(lambda: other.source.poll(1, 0.1)):
        back = bench.worker(static_membership=True, worker_slot=0)
        back.join(1)
        for _ in range(5):
            back.source.poll(1, 0.1)

    assert other.source.poll(1, 0.1).checkpoint.assignment == before


def test_another_thread_may_ask_for_the_lag_at_any_time(bench: Any) -> None:
    bench.produce(EVENTS[:20])
    worker = bench.worker()
    worker.run(20)
    bench.until(lambda: len(worker.source.lag()) == 2, lambda: worker.source.poll(1, 0.1))
    with in_background(lambda: worker.source.poll(1, 0.1)):
        # As /metrics does; with a limit against hanging.
        lags = bounded("asking for the lag", 30.0, lambda: [worker.source.lag() for _ in range(100)])

    assert lags == [{(bench.events, 0): 0, (bench.events, 1): 0}] * 100


@BOTH
def test_workers_that_come_and_go_lose_nothing(bench: Any, guarantee: str) -> None:
    bench.produce(EVENTS)
    steady = bench.worker(guarantee=guarantee, worker_slot=0)
    with in_background(lambda: turn(steady)):
        for slot in (1, 2):
            guest = bench.worker(guarantee=guarantee, worker_slot=slot)
            for _ in range(10):
                turn(guest)
            with suppress(DisturbedError):
                guest.send(guest.source.poll(10, 0.1))
            guest.close()
        bench.until(lambda: bench.all_committed(400), lambda: time.sleep(0.1))

    assert set(scores(bench)) == set(EXPECTED)
    assert guarantee == "at-least-once" or scores(bench) == EXPECTED
