"""Does the memory of a worker stay flat under full load?

`streamfm stream`, the command itself, with metrics served, at-least-once, fp32, for 20 minutes. A producer sees to it
that there is always something to read. The worker's resident memory is read every second.

Limit: the largest value of the second quarter. Goal: that of the last quarter at most 1.05 times as much.

Traps: the first quarter is not looked at: pools and arenas fill. The topics are bounded by bytes, far above the
backlog, so that the disk does not fill; a broker that runs already (STREAMFM_TEST_BOOTSTRAP) looks at that every five
minutes, and needs some gigabytes. Events repeat after 100,000. A worker that stopped scoring would be flat, too: events
must have gone through in every quarter.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

from _kafka import THREADS, Prepared, Topics, appended, prepared, require_alive, running, start_producer, topics
from _report import report
from stream_swap import BACKLOG, RETENTION

GOAL = "<= 1.05"
QUARTERS = 4


def start_worker(common: Prepared, own: Topics, client: str, guarantee: str) -> subprocess.Popen[str]:
    """The command, as anybody would run it."""
    line = [sys.executable, "-m", "streamfm.cli", "stream", str(common.bundle), "--bootstrap-servers", common.bootstrap]
    line += ["--in", own.events, "--out", own.scores, "--dead-letters", own.dead_letters, "--group", own.group]
    line += ["--client", client, "--guarantee", guarantee, "--event-id", "event_id"]
    line += ["--http", "127.0.0.1:0", "--report-s", "60"]
    return subprocess.Popen(line, text=True, env=os.environ | THREADS)


def resident_mb(process: subprocess.Popen[str]) -> float:
    """Resident memory, in 10**6 bytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    kilobytes = next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS:"))
    return int(kilobytes) * 1024 / 1e6


def watch(
    worker: subprocess.Popen[str], common: Prepared, own: Topics, seconds: float
) -> tuple[list[float], list[int]]:
    """Its memory in each second, and how many answers there were at the end of each quarter, beginning with none."""
    memory: list[float] = []
    answers = [appended(common.bootstrap, [own.scores])]
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        require_alive(worker)
        memory.append(resident_mb(worker))
        if spent > len(answers) * seconds / QUARTERS:
            answers.append(appended(common.bootstrap, [own.scores]))
        time.sleep(1.0)
    return memory, [*answers, appended(common.bootstrap, [own.scores])]


def measure(client: str, common: Prepared, options: argparse.Namespace) -> None:
    """Run one client, and print its figure."""
    with topics(common.bootstrap, **RETENTION) as own:
        load = start_producer(common, own.events, group=own.group, backlog=BACKLOG)
        worker = start_worker(common, own, client, options.guarantee)
        with running(load), running(worker):
            while not appended(common.bootstrap, [own.scores]):
                require_alive(worker)
                require_alive(load)
                time.sleep(1.0)
            memory, answers = watch(worker, common, own, 60 * options.minutes)
    rates = [4 * (later - before) / (60 * options.minutes) for before, later in pairwise(answers)]
    size = len(memory) // QUARTERS
    peaks = [max(memory[quarter * size :][:size]) for quarter in range(QUARTERS)]
    print(
        f"  {client}: events/s by quarter {[round(rate) for rate in rates]}, MB at most {[round(it) for it in peaks]}"
    )
    if min(rates) <= 0:
        raise SystemExit("no events went through in a quarter: nothing is said by its memory")
    report(
        f"stream_memory_{client}_last_quarter",
        peaks[3] / peaks[1],
        "x the second quarter's",
        goal=GOAL,
        higher_is_better=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--client", choices=["kafka-python", "confluent"], default="kafka-python")
    parser.add_argument("--guarantee", choices=["at-least-once", "exactly-once"], default="at-least-once")
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    with prepared() as common:
        measure(options.client, common, options)


if __name__ == "__main__":
    main()
