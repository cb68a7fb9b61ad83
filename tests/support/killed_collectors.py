"""Ends processes that collect or compact at each of their steps, and tells what the next one makes of it.

    python killed_collectors.py FOLDER collect|compact|erase|retain [STEP NTH]

For each step there is a child that ends (os._exit) right before or after it, and one that goes on. A line of JSON each.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow.parquet as pq
from log_events import CLICKED, SHOWN, clicked, shown
from memory_topics import SETTINGS, MemoryCluster, MemoryReader

from connectors.kafka_collector import Collector, CollectSettings
from connectors.parquet_log import EventLog
from connectors.parquet_log_collecting import RollSettings
from connectors.parquet_log_compaction import CompactSettings, compact
from connectors.parquet_log_erasure import erase
from connectors.parquet_log_upkeep import retain, sweep
from streamfm import files

KILLED = 99
RECORDS = 20


class Step(NamedTuple):
    """A call after, or right before, which the process ends: the so manieth."""

    owner: Any
    name: str
    nth: int
    is_after: bool


def steps() -> Iterator[Step]:
    for owner, name in (
        (pq.ParquetWriter, "write_table"),
        (pq.ParquetWriter, "close"),
        (files, "fsync_file"),
        (Path, "rename"),
        (files, "fsync_folder"),
        (files, "replace_file"),
        (Path, "unlink"),
        (MemoryReader, "commit"),
    ):
        for nth in (1, 2, 5):
            for is_after in (False, True):
                yield Step(owner, name, nth, is_after)


def collect(log: Path) -> None:
    cluster = MemoryCluster(
        shown=[[shown(number) for number in range(RECORDS)]], clicked=[[clicked(number) for number in range(RECORDS)]]
    )
    with Collector(
        log,
        cluster,
        SETTINGS,
        {"shown": SHOWN, "clicked": CLICKED},
        settings=CollectSettings(max_batch_records=3),
        roll=RollSettings(roll_rows=6),
    ) as collector:
        collector.run(lambda: False, until_end=True)


def compact_all(log: Path) -> None:
    for topic in ("shown", "clicked"):
        for folder in EventLog(log).folders(topic):
            compact(folder, CompactSettings())
            sweep(folder, grace_s=-1.0)


def erase_one(log: Path) -> None:
    erase(EventLog(log), "user_id", "u3", wait_s=0.0)


def retain_some(log: Path) -> None:
    """Of records that came at so many milliseconds after 1970, those before the twelfth, by whole segments."""
    for topic in ("shown", "clicked"):
        for folder in EventLog(log).folders(topic):
            retain(folder, timedelta(0), now=datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=12))
            sweep(folder, grace_s=-1.0)


def dying(step: Step) -> None:
    """Let this process end there."""
    original, calls = getattr(step.owner, step.name), 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == step.nth and not step.is_after:
            os._exit(KILLED)
        result = original(*arguments, **options)
        if calls == step.nth:
            os._exit(KILLED)
        return result

    setattr(step.owner, step.name, call)


def in_child(work: Callable[[], object]) -> tuple[int, Any]:
    """The exit code of a process that does it, and what it found."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            result = work()
            os.write(writing, json.dumps(result).encode())
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        text = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(text) if text else None


def names(relation: str) -> list[str]:
    return [
        name for (name,) in duckdb.sql(f"SELECT event_id FROM ({relation}) ORDER BY _partition, _offset").fetchall()
    ]


def read(log: Path) -> dict[str, list[str]]:
    found = EventLog(log)
    return {topic: names(found.relation(topic)) for topic in ("shown", "clicked")}


def reading_while(log: Path, work: Callable[[], object]) -> tuple[int, list[list[str]]]:
    """The exit code of the work, and what a reader that was there before sees after it."""
    reading, writing = os.pipe()
    go_in, go_out = os.pipe()
    child = os.fork()
    if child == 0:
        with EventLog(log).snapshot() as snapshot:
            relations = [snapshot.relation(topic) for topic in ("shown", "clicked")]
            os.write(writing, b"ready")
            os.read(go_in, 1)
            os.write(writing, json.dumps([names(relation) for relation in relations]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        assert pipe.read(5) == b"ready"
        code, _ = in_child(work)
        os.write(go_out, b"g")
        seen = json.loads(pipe.read(1 << 20))
    os.waitpid(child, 0)
    return code, seen


WORK: dict[str, Callable[[Path], None]] = {
    "collect": collect,
    "compact": compact_all,
    "erase": erase_one,
    "retain": retain_some,
}


def main() -> None:
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    work, first = WORK[kind], folder / "first"
    if kind != "collect":
        in_child(lambda: collect(first))
    only = sys.argv[3:]
    for number, step in enumerate(step for step in steps() if not only or [step.name, str(step.nth)] == only):
        log = folder / str(number)
        if kind != "collect":
            shutil.copytree(first, log)

        def killed(step: Step = step, log: Path = log) -> None:
            dying(step)
            work(log)

        seen: list[list[str]] = []
        if kind == "collect":
            code, _ = in_child(killed)
        else:
            code, seen = reading_while(log, killed)
        if code == 0:
            # The step is never reached.
            continue
        between = in_child(lambda log=log: read(log))[1] if kind != "collect" else None  # type: ignore[misc]
        again, _ = in_child(lambda log=log: work(log))  # type: ignore[misc]
        found = in_child(lambda log=log: read(log))[1]  # type: ignore[misc]
        left = sorted(path.name for path in log.rglob("*.partial"))
        line = {"step": [step.name, step.nth, step.is_after], "codes": [code, again], "found": found, "left": left}
        sys.stdout.write(json.dumps(line | {"seen": seen, "between": between}) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
