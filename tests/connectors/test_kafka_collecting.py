"""The collector on a genuine Kafka, by both clients."""

from __future__ import annotations

import gc
import logging
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from log_events import CLICKED, SHOWN, SPEC, clicked, rows_of, shown

from connectors.kafka_collected_topics import Collected
from connectors.kafka_collector import Collector, CollectSettings
from connectors.parquet_log import EventLog
from connectors.parquet_log_collecting import RollSettings
from streamfm.errors import StreamError

COUNT = 400
Bench = Any


@pytest.fixture
def topics(bench: Bench) -> Bench:
    """Topics with events."""
    bench.produce([shown(number) for number in range(COUNT)])
    bench.produce([clicked(number) for number in range(0, COUNT, 4)], bench.scores)
    return bench


def collect(
    bench: Bench,
    log: Path,
    *,
    skip_lost: bool = False,
    until_end: bool = True,
    stopping: Callable[[], bool] | None = None,
) -> Collected:
    settings = bench.settings(input_topics=(bench.events, bench.scores), output_topic="-", dead_letter_topic="")
    with Collector(
        log,
        bench.client_for(settings),
        settings,
        {bench.events: SHOWN, bench.scores: CLICKED},
        settings=CollectSettings(max_batch_records=100, skip_lost=skip_lost, look_s=1.0),
        roll=RollSettings(roll_rows=150, roll_s=1.0),
    ) as collector:
        return collector.run(stopping or (lambda: False), until_end=until_end)


def numbers(log: Path, topic: str) -> list[int]:
    return sorted(int(name[1:]) for name in rows_of(log, topic))


def test_each_record_is_in_the_log_once(topics: Bench, tmp_path: Path) -> None:
    assert {topics.events: COUNT, topics.scores: COUNT // 4} == collect(topics, tmp_path).rows
    topics.produce([shown(number) for number in range(COUNT, COUNT + 10)])
    assert {topics.events: 10} == collect(topics, tmp_path).rows
    assert list(range(COUNT + 10)) == numbers(tmp_path, topics.events)
    assert list(range(0, COUNT, 4)) == numbers(tmp_path, topics.scores)
    assert COUNT + 10 + COUNT // 4 == sum(offset for offset in topics_committed(topics).values())
    times = rows_of(tmp_path, topics.events, "epoch_ms(_timestamp)")
    assert {1_000 + number for number in range(COUNT)} <= set(times)


def topics_committed(bench: Bench) -> dict[Any, int]:
    offsets = bench.admin.list_group_offsets({bench.name: None})[bench.name]
    return {partition: place.offset for partition, place in offsets.items()}


def test_of_transactions_only_what_was_committed_is_collected_and_their_markers_are_passed(
    topics: Bench, tmp_path: Path
) -> None:
    import kafka

    producer = kafka.KafkaProducer(bootstrap_servers=topics.bootstrap, transactional_id=topics.name)
    producer.init_transactions()
    for number, ends in ((COUNT, producer.commit_transaction), (COUNT + 1, producer.abort_transaction)):
        producer.begin_transaction()
        producer.send(topics.events, shown(number), partition=0)
        producer.flush()
        ends()
    producer.close()
    collect(topics, tmp_path)
    assert list(range(COUNT + 1)) == numbers(tmp_path, topics.events)
    assert {} == collect(topics, tmp_path).rows


def test_a_topic_made_anew_is_another_one(topics: Bench, tmp_path: Path) -> None:
    collect(topics, tmp_path)
    topics.admin.delete_topics([topics.events])
    topics.until(lambda: topics.events not in topics.admin.list_topics())
    topics.make(topics.events)
    topics.produce([shown(number) for number in range(COUNT, COUNT + 6)])
    assert {topics.events: 6} == collect(topics, tmp_path).rows
    assert list(range(COUNT + 6)) == numbers(tmp_path, topics.events)
    assert {f"{topics.events}@2/0": 3, f"{topics.events}@2/1": 3}.items() <= EventLog(tmp_path).ends(
        topics.events
    ).items()


def test_records_that_retention_deleted_before_are_named(topics: Bench, tmp_path: Path) -> None:
    import kafka

    collect(topics, tmp_path)
    topics.produce([shown(number) for number in range(COUNT, COUNT + 20)])
    half = COUNT // 2
    topics.admin.delete_records({kafka.TopicPartition(topics.events, 0): half + 4})
    with pytest.raises(StreamError, match=rf"/0: offsets {half} to {half + 4} were deleted before they were collected"):
        collect(topics, tmp_path)
    assert {topics.events: 4} == collect(topics, tmp_path, skip_lost=True).lost
    assert 2 * COUNT // 2 + 16 == len(numbers(tmp_path, topics.events))


def test_a_topic_that_is_not_there_is_refused_by_name(bare_bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(StreamError, match=f"topic '{bare_bench.name}.* is not there"):
        collect(bare_bench, tmp_path)


@pytest.fixture
def command(topics: Bench, tmp_path: Path) -> list[str]:
    """`streamfm collect`, as people run it."""
    (tmp_path / "features.toml").write_text(SPEC.to_toml())
    return [
        *(sys.executable, "-m", "streamfm.cli", "collect", "--log", str(tmp_path / "log")),
        *("--features", str(tmp_path / "features.toml"), "-b", topics.bootstrap, "--client", topics.client),
        *("--impressions", topics.events, "--clicks", topics.scores, "--group", topics.name),
        *("--roll-s", "0.3"),
    ]


def test_killed_again_and_again_it_loses_and_doubles_nothing(topics: Bench, tmp_path: Path, command: list[str]) -> None:
    made = COUNT

    def produced() -> None:
        nonlocal made
        topics.produce([shown(number) for number in range(made, made + 100)])
        made += 100

    log = tmp_path / "log"
    for _ in range(3):
        before = len(list(log.rglob("*.parquet")))
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            produced()
            topics.until(lambda before=before: len(list(log.rglob("*.parquet"))) > before)
            produced()
            process.kill()
    done = subprocess.run([*command, "--until-end"], capture_output=True, text=True, timeout=120)
    assert 0 == done.returncode, done.stderr
    assert list(range(made)) == numbers(log, topics.events)
    assert list(range(0, COUNT, 4)) == numbers(log, topics.scores)


def test_sigterm_puts_what_was_read_into_the_log_and_a_second_collector_is_refused(
    topics: Bench, tmp_path: Path, command: list[str]
) -> None:
    log = tmp_path / "log"
    process = subprocess.Popen([*command, "--roll-s", "600"], stderr=subprocess.PIPE, text=True)
    topics.until(lambda: bool(list(log.rglob("*.partial"))))
    other = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (1, True) == (other.returncode, f"is collected already: process {process.pid}" in other.stderr)
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    _, told = process.communicate(timeout=60)
    assert (0, True) == (process.returncode, f"{topics.events}: {COUNT} rows" in told)
    assert list(range(COUNT)) == numbers(log, topics.events)


@pytest.fixture
def collected(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Sockets that kafka-python leaves to the garbage collection are collected while warnings of them are ignored."""
    caplog.set_level(logging.CRITICAL, "kafka")
    yield
    gc.collect()


@pytest.mark.faults
@pytest.mark.usefixtures("collected")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_broker_that_is_killed_and_comes_back_costs_nothing(
    own_brokers: Callable[..., Any], make_bench: Callable[[str], Bench], tmp_path: Path
) -> None:
    brokers = own_brokers()
    bench = make_bench(brokers.bootstrap)
    bench.make_all()
    bench.produce([shown(number) for number in range(COUNT)])
    stop = threading.Event()
    found: list[Collected] = []
    worker = threading.Thread(
        target=lambda: found.append(collect(bench, tmp_path, until_end=False, stopping=stop.is_set))
    )
    worker.start()
    try:
        bench.until(lambda: bool(list(tmp_path.rglob("*.parquet"))))
        brokers.call("kill")
        time.sleep(3.0)
        brokers.call("resume")
        bench.produce([shown(number) for number in range(COUNT, 2 * COUNT)])
        bench.until(lambda: 2 * COUNT == len(numbers(tmp_path, bench.events)))
    finally:
        stop.set()
        worker.join(60.0)
    assert list(range(2 * COUNT)) == numbers(tmp_path, bench.events)
    assert found[0].disturbances
