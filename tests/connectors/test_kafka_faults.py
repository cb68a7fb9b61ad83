"""Brokers that die or hang under a worker. Minutes; `make faults`."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytestmark = [
    pytest.mark.faults,
    # kafka-python leaves it to the garbage collection to close a socket that was refused.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVENTS = [b"event %d" % index for index in range(3_000)]
BOTH = pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])


@pytest.fixture(autouse=True)
def collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Those sockets are collected while the warnings are still ignored, not at the end of the session."""
    # A log record with a traceback keeps a socket, and pytest the record.
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()


@pytest.fixture
def disturbed(own_brokers: Callable[..., Any], make_bench: Callable[[str], Any]) -> tuple[Any, Any]:
    brokers = own_brokers()
    bench = make_bench(brokers.bootstrap)
    bench.make_all()
    bench.produce(EVENTS)
    return brokers, bench


def run_through(bench: Any, guarantee: str, disturb: Callable[[], object]) -> None:
    """Score everything in small batches, while somebody disturbs."""
    worker = bench.worker(guarantee=guarantee)
    worker.run(500, max_records=50)
    thread = threading.Thread(target=disturb)
    thread.start()
    # As long as the launcher takes, which has a limit of its own.
    while thread.is_alive():
        worker.step(50)
    bench.until(lambda: sum(worker.source.lag().values()) == 0, lambda: worker.step(50))
    bench.until(lambda: bench.all_committed(len(EVENTS)), lambda: worker.step(50))

    found = sorted(record.value for record in bench.read(bench.scores))
    expected = sorted(b"scored " + event for event in EVENTS)
    assert set(found) == set(expected)
    assert guarantee == "at-least-once" or found == expected


@BOTH
def test_a_broker_that_dies_and_comes_back(disturbed: tuple[Any, Any], guarantee: str) -> None:
    brokers, bench = disturbed

    def disturb() -> None:
        brokers.call("kill")
        time.sleep(8)
        brokers.call("resume")

    run_through(bench, guarantee, disturb)


@BOTH
def test_a_broker_that_hangs(disturbed: tuple[Any, Any], guarantee: str) -> None:
    brokers, bench = disturbed

    def disturb() -> None:
        brokers.call("pause")
        time.sleep(20)
        brokers.call("resume")

    run_through(bench, guarantee, disturb)
