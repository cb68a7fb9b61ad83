"""Kafka for the benchmarks: a broker, topics, events, and sides that run in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from _frappe import FEATURES
from sql_scoring import read_events, write_bundle

HERE = Path(__file__).resolve().parent
LAUNCHER = HERE.parents[1] / "shared" / "kafka" / "broker"
PARTITIONS = 4
DISTINCT_EVENTS = 100_000
ENDING_S = 60.0
# What is deleted is gone at once, and what is bounded is looked at often: topics are large, and many.
BROKER = {"log.retention.check.interval.ms": 10_000, "log.segment.delete.delay.ms": 1_000}
THREADS = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE)}


class Prepared(NamedTuple):
    """What every stream benchmark begins with.

    Attributes:
        bootstrap: The broker's address.
        folder: Deleted at the end.
        bundle: A model, Frappe's network with random weights.
        values: A file of events as JSON lines.
    """

    bootstrap: str
    folder: Path
    bundle: Path
    values: Path


@contextmanager
def prepared() -> Iterator[Prepared]:
    """A broker, a model and events; leaves the program with a word where there is no Kafka."""
    # Whoever ends the benchmark ends its broker.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="streamfm-bench-") as name:
        folder = Path(name)
        with _broker(folder / "kafka") as bootstrap:
            table, source = read_events(DISTINCT_EVENTS)
            bundle, _ = write_bundle(folder / "bundle", table)
            values = folder / "events.jsonl"
            lines = [
                json.dumps({"event_id": f"{number:06d}"} | row).encode()
                for number, row in enumerate(table.select(FEATURES).to_pylist())
            ]
            values.write_bytes(b"\n".join(lines))
            print(f"{statistics.mean(map(len, lines)):.0f} bytes an event, {source}", flush=True)
            yield Prepared(bootstrap, folder, bundle, values)


@contextmanager
def _broker(folder: Path) -> Iterator[str]:
    if given := os.environ.get("STREAMFM_TEST_BOOTSTRAP"):
        yield given
        return
    missing = None if LAUNCHER.exists() else f"no {LAUNCHER}"
    missing = missing or (None if shutil.which("java") else "no java on the PATH")
    if missing:
        print(
            f"no Kafka: STREAMFM_TEST_BOOTSTRAP is not set, and there is {missing}; nothing measured", file=sys.stderr
        )
        raise SystemExit(0)
    settings = [text for name, value in BROKER.items() for text in ("--set", f"{name}={value}")]
    try:
        yield _launch("start", folder, *settings)
    finally:
        _launch("destroy", folder)


def _launch(command: str, folder: Path, *options: str) -> str:
    line = [str(LAUNCHER), command, str(folder), *options]
    return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, timeout=200).stdout.strip()


class Topics(NamedTuple):
    """The topics of one run, and its group."""

    events: str
    scores: str
    dead_letters: str
    group: str


@contextmanager
def topics(bootstrap: str, *, events: str | None = None, **config: Any) -> Iterator[Topics]:
    """Fresh topics of four partitions, deleted at the end; events may be those of another run.

    Args:
        bootstrap: The broker's address.
        events: A topic that is there, and stays.
        **config: Of the topics, with underscores in place of dots.
    """
    from confluent_kafka.admin import AdminClient, NewTopic

    name = f"b{uuid.uuid4().hex[:8]}"
    made = Topics(events or f"{name}.events", f"{name}.scores", f"{name}.dead", name)
    new = [topic for topic in made[:3] if topic != events]
    named = {key.replace("_", "."): str(value) for key, value in config.items()}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=named) for topic in new]).values():
        future.result(30)
    # A broker tells of a topic before it can be written to.
    time.sleep(1.0)
    try:
        yield made
    finally:
        for future in admin.delete_topics(new).values():
            future.result(30)


def appended(bootstrap: str, topics: Sequence[str]) -> int:
    """How many offsets the topics have used; with transactions some of them are markers."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "looks-only"})
    ends = [
        consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=30)[1]
        for topic in topics
        for partition in range(PARTITIONS)
    ]
    consumer.close()
    return sum(ends)


def start(script: str, given: Mapping[str, object], *, python: Path | str = sys.executable) -> subprocess.Popen[str]:
    """A side in a process of its own, which gets what is given as JSON; `answer` waits for it."""
    line = [str(python), str(HERE / script), json.dumps(given, default=str)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, env=os.environ | THREADS)


def answer(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What it prints last, as JSON."""
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"{process.args!r} ended with exit code {process.returncode}")
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


@contextmanager
def running(process: subprocess.Popen[Any]) -> Iterator[None]:
    """Ends it, in good order if it can; leaves when it ended by itself, or badly."""
    try:
        yield
        require_alive(process)
    finally:
        process.terminate()
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
    if process.wait():
        raise SystemExit(f"{process.args!r} ended with exit code {process.returncode}")


def require_alive(process: subprocess.Popen[Any]) -> None:
    """Leave when it has ended."""
    if process.poll() is not None:
        raise SystemExit(f"{process.args!r} has ended by itself, with exit code {process.returncode}")


def wait_for_word(process: subprocess.Popen[str]) -> None:
    """Until it prints a line."""
    if process.stdout is None or not process.stdout.readline():
        process.wait(ENDING_S)
        require_alive(process)


def fill(prepared: Prepared, topic: str, events: int, *, keyed: bool = False) -> None:
    """Append so many events to the topic."""
    answer(start_producer(prepared, topic, events=events, keyed=keyed))


def start_producer(prepared: Prepared, topic: str, **how: object) -> subprocess.Popen[str]:
    """See `_stream_producer.py`; it goes on until it is terminated."""
    return start(
        "_stream_producer.py",
        {"bootstrap": prepared.bootstrap, "topic": topic, "values": prepared.values} | how,
    )


def side(kind: str, client: str, prepared: Prepared, topics: Topics, **how: object) -> dict[str, object]:
    """What `_stream_side.py` and its like are given."""
    return {
        "kind": kind,
        "client": client,
        "bootstrap": prepared.bootstrap,
        "source": topics.events,
        "target": topics.scores,
        "dead_letters": topics.dead_letters,
        "group": topics.group,
        "bundle": str(prepared.bundle),
    } | how
