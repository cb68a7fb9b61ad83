"""How many records a second does `streamfm collect` put into the event log, beside consumption alone?

JSON impressions of 255 bytes, Frappe's ten text fields, an event id and a time, in 4 partitions, and a topic of clicks
without any; one process, and the broker on the same machine.

Limit: the same client with the same settings that polls as many records at a time and adds up the bytes of their
values: no decoding, no file.

Traps: the sides take turns, each run is a fresh process with a log of its own, the first tenth of its records is not
measured, and medians of the rounds are compared; the ratio of each round is told. Everything is there before a side
begins. The collector's time ends when the last segment has its name, fsync included, and each record must be in the log
once.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
from typing import Any

import duckdb
from _kafka import Prepared, answer, fill, prepared, start, topics
from _report import report

from connectors.parquet_log import EventLog

EVENTS = {"kafka-python": 800_000, "confluent": 1_500_000}
GOAL = ">= 0.6x"


def with_times(common: Prepared) -> Prepared:
    """The same events, each with a time."""
    values = common.folder / "impressions.jsonl"
    lines = common.values.read_bytes().splitlines()
    values.write_bytes(
        b"\n".join(
            b'{"ts": "2026-01-01T%02d:%02d:%02dZ", ' % (at // 3_600 % 24, at // 60 % 60, at % 60) + line[1:]
            for at, line in enumerate(lines)
        )
    )
    return common._replace(values=values)


def run(kind: str, client: str, common: Prepared, source: str, empty: str, events: int) -> dict[str, Any]:
    """One run in a fresh process."""
    log = common.folder / "log"
    given = {"kind": kind, "client": client, "bootstrap": common.bootstrap, "log": str(log), "events": events}
    try:
        found = answer(start("_collect_side.py", given | {"source": source, "empty": empty}))
        if kind == "collect":
            check(EventLog(log), source, found["records"], events)
            files = list(log.rglob("*.parquet"))
            found |= {"files": len(files), "bytes": sum(path.stat().st_size for path in files)}
    finally:
        shutil.rmtree(log, ignore_errors=True)
    return found


def check(log: EventLog, topic: str, told: int, events: int) -> None:
    """Stop when a record is not in the log, or twice."""
    sql = f"SELECT count(*), count(DISTINCT (_partition, _offset)) FROM ({log.relation(topic)})"
    ((rows, distinct),) = duckdb.sql(sql).fetchall()
    if not told == rows == distinct == events:
        raise SystemExit(f"{events} records, {told} collected, {rows} rows in the log, {distinct} of them distinct")


def measure(client: str, common: Prepared, rounds: int, share: float) -> None:
    """Rounds of both sides, and the figure."""
    events = int(EVENTS[client] * share)
    found: dict[str, list[float]] = {"bare": [], "collect": []}
    with topics(common.bootstrap) as made:
        fill(common, made.events, events)
        for turn in range(rounds):
            for kind, speeds in found.items():
                result = run(kind, client, common, made.events, made.scores, events)
                speeds.append(result["per_second"])
                details = {key: round(value, 1) for key, value in result.items()}
                print(f"  round {turn + 1}, {client}, {kind}: {details}", flush=True)
    ratios = ", ".join(f"{ours / bare:.3f}" for ours, bare in zip(found["collect"], found["bare"], strict=True))
    print(f"  {client}: ratio of each round {ratios}")
    name = f"collect_{client.replace('-', '_')}"
    limit = statistics.median(found["bare"])
    ours = statistics.median(found["collect"])
    report(name, ours, "records/s", limit=limit, goal=GOAL, higher_is_better=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="of both sides")
    parser.add_argument("--share", type=float, default=1.0, help="of each client's number of records")
    parser.add_argument("--client", choices=list(EVENTS), help="one only")
    options = parser.parse_args()
    with prepared() as common:
        timed = with_times(common)
        for client in EVENTS:
            if options.client in (None, client):
                measure(client, timed, options.rounds, options.share)


if __name__ == "__main__":
    main()
