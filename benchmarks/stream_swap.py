"""How much longer do batches take while another champion takes over?

The set-up of `stream_throughput.py`, at-least-once, fp32, kafka-python. A worker watches an alias (once a second, its
default) under half of the load that it can take, and under all of it. Phases take turns, in one process and under one
load: in every second one the champion is replaced every 10 s. A batch's time runs from when it began to fill to when
its scores are acknowledged; under full load that includes answering the next one.

Goal: the 99.9th percentile with swaps at most 50 ms above that without, 60 s and more each.

Traps: quantiles are of all batches, and each replacement must have taken effect. At full load a minute has hardly
1,000 batches, and p99.9 is about the slowest of them; both loads are told. A version is loaded, verified and warmed up
in the worker's process while the other one serves, on the cores that broker, producer and worker share.
"""

from __future__ import annotations

import argparse
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
from _kafka import Prepared, Topics, prepared, running, side, start, start_producer, topics, wait_for_word
from _report import report
from stream_latency import highest_rate

from streamfm.registry import Registry

NAME, SWAP_S, SETTLE_S, BACKLOG = "frappe", 10.0, 3.0, 200_000
RETENTION = {"retention_bytes": 256 << 20, "segment_bytes": 32 << 20, "file_delete_delay_ms": 1_000}


class Swaps:
    """Replaces the champion every so often, between `begin` and `end`."""

    def __init__(self, registry: Registry) -> None:
        """Not yet."""
        self._registry, self._ending = registry, threading.Event()
        self.count = 0

    def during(self, seconds: float) -> None:
        """Swap in the middle of each interval."""
        until = time.monotonic() + seconds
        time.sleep(SWAP_S / 2)
        while True:
            self.count += 1
            self._registry.promote(NAME, 1 + self.count % 2)
            left = until - time.monotonic()
            if left < SWAP_S:
                time.sleep(max(0.0, left))
                return
            time.sleep(SWAP_S)


def worker_and_load(
    common: Prepared, own: Topics, raw: Path, reference: str, rate: float | None
) -> tuple[subprocess.Popen[str], subprocess.Popen[str]]:
    given = side("ours", "kafka-python", common, own, events=0, raw=raw) | {"bundle": reference}
    how = {"per_second": rate} if rate else {"group": own.group, "backlog": BACKLOG}
    return start("_stream_watch.py", given), start_producer(common, own.events, **how)


def phases(common: Prepared, registry: Registry, rate: float | None, options: argparse.Namespace) -> None:
    """Measure one load, and print its figure."""
    load = "half" if rate else "full"
    raw = common.folder / f"swap-{load}.npz"
    swaps = Swaps(registry)
    spans: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    with topics(common.bootstrap, **RETENTION) as own:
        worker, load_process = worker_and_load(common, own, raw, f"{registry.root}/{NAME}@champion", rate)
        with running(worker), running(load_process):
            wait_for_word(worker)
            time.sleep(options.warm_up)
            for _ in range(options.phases):
                for with_swaps in (False, True):
                    began = time.monotonic()
                    swaps.during(options.seconds) if with_swaps else time.sleep(options.seconds)
                    spans[with_swaps].append((began, time.monotonic()))
                    time.sleep(SETTLE_S)
    found = np.load(raw)
    if found["swaps"] != swaps.count:
        raise SystemExit(f"{swaps.count} versions were promoted, {found['swaps']} took over")
    without, with_them = (of_spans(found, spans[kind]) for kind in (False, True))
    tell(load, rate, without, with_them, swaps.count)


def of_spans(found: dict[str, np.ndarray], spans: list[tuple[float, float]]) -> np.ndarray:
    """Milliseconds of the batches acknowledged in these spans."""
    times = found["acknowledged_s"]
    within = np.any([(times >= began) & (times < ended) for began, ended in spans], axis=0)
    return 1e3 * found["batch_s"][within]


def tell(load: str, rate: float | None, without: np.ndarray, with_them: np.ndarray, swaps: int) -> None:
    offered = f"{rate:,.0f} events/s" if rate else "a backlog"
    print(f"  {load} load, {offered}, {swaps} swaps:")
    for name, times in (("without", without), ("with", with_them)):
        p50, p99, p999, most = np.percentile(times, [50, 99, 99.9, 100])
        print(
            f"    {name}: {len(times):,} batches, ms: p50 {p50:.1f}, p99 {p99:.1f}, p99.9 {p999:.1f}, most {most:.1f}"
        )
    above = float(np.percentile(with_them, 99.9) - np.percentile(without, 99.9))
    report(f"stream_swap_{load}_load_p99.9_above", above, "ms", goal="<= 50", higher_is_better=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--load", choices=["half", "full"], help="one only")
    parser.add_argument("--phases", type=int, default=2, help="of each kind")
    parser.add_argument("--seconds", type=float, default=60.0, help="of a phase")
    parser.add_argument("--warm-up", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--backlog", type=int, default=300_000, help="events with which the most is measured")
    options = parser.parse_args()
    with prepared() as common:
        registry = Registry(common.folder / "models")
        for _ in range(2):
            registry.publish(common.bundle, NAME, keep_source=True)
        registry.promote(NAME, 1)
        if options.load != "full":
            phases(common, registry, highest_rate("kafka-python", common, options.backlog) / 2, options)
            registry.promote(NAME, 1)
        if options.load != "half":
            phases(common, registry, None, options)


if __name__ == "__main__":
    main()
