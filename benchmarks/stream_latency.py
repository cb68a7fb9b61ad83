"""How long from an event's append to its score's acknowledgement, at half of the load that one worker can take?

The set-up of `stream_throughput.py`, at-least-once, fp32. First the most that a worker with kafka-python takes is
measured: what it answers while as many events are appended as it scores from a backlog. Then another process appends
half as many a second, evenly, for a minute after a warm-up: to a worker with each client, and to kafka-python's bare
loop, which neither decodes nor scores. A worker with confluent-kafka then gets half of its own, larger, load, too. The
topic's timestamps are the broker's (LogAppendTime), and an event's latency ends when the flush of its batch has
returned.

Goals: the median at most 10 ms, the 99th percentile at most 25 ms. Batches wait `--linger-ms` for more events after
their first: 2 by default, as the worker's.

Traps: broker, worker and producer share the machine, and its clock; the clock of the timestamps has milliseconds, cut
off, so figures are up to 1 ms too high. Quantiles are of all events, not of a histogram. The load is said, and that it
was kept up: events answered in that minute must be those offered. Load that the producer puts on the broker is its own:
a thousand small requests a second. The bare loop commits as seldom as the worker, so it is what this client leaves to
be won on this machine.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _kafka import Prepared, answer, fill, prepared, running, side, start, start_producer, topics, wait_for_word
from _report import report

GOALS = {50: "<= 10", 99: "<= 25"}
KEPT_UP = 0.98
OVERLOAD_S = (5.0, 20.0)  # warm-up and measurement


class Load(NamedTuple):
    """A side, and half of whose load it gets."""

    kind: str
    client: str
    load_of: str


SIDES = {
    "bare": Load("bare", "kafka-python", "kafka-python"),
    "kafka-python": Load("ours", "kafka-python", "kafka-python"),
    "confluent": Load("ours", "confluent", "kafka-python"),
    "confluent_at_half_of_its_load": Load("ours", "confluent", "confluent"),
}


def highest_rate(name: str, common: Prepared, backlog: int, **how: object) -> float:
    """Events a second that it answers while more are appended; the producer takes its share of the machine."""
    load = SIDES[name]
    with topics(common.bootstrap) as own:
        fill(common, own.events, backlog + 50_000)
        found = answer(start("_stream_side.py", side(load.kind, load.client, common, own, events=backlog, **how)))
    answered, _ = offer(name, common, float(found["per_second"]), OVERLOAD_S, **how)
    return len(answered) / OVERLOAD_S[1]


def offer(name: str, common: Prepared, per_second: float, seconds: tuple[float, float], **how: object) -> Any:
    """What a watched side wrote down in the seconds after the warm-up, under that load."""
    raw = common.folder / f"{name}.npz"
    warm_up_s, measured_s = seconds
    with topics(common.bootstrap, message_timestamp_type="LogAppendTime") as own:
        given = side(SIDES[name].kind, SIDES[name].client, common, own, events=0, raw=raw, **how)
        worker = start("_stream_watch.py", given)
        with running(worker), running(start_producer(common, own.events, per_second=per_second)):
            wait_for_word(worker)
            time.sleep(warm_up_s)
            began = time.monotonic()
            time.sleep(measured_s)
            ended = time.monotonic()
    return latencies(raw, began, ended)


def latencies(raw: Path, began: float, ended: float) -> tuple[Any, float]:
    """Milliseconds of each event acknowledged in that time, and mean events of a batch."""
    found = np.load(raw)
    within = (found["acknowledged_s"] >= began) & (found["acknowledged_s"] < ended)
    return found["latency_ms"][np.repeat(within, found["counts"])], float(found["counts"][within].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=list(SIDES), help="one only")
    parser.add_argument("--rate", type=float, help="events a second, instead of half of the most")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--warm-up", type=float, default=15.0, metavar="SECONDS")
    parser.add_argument("--linger-ms", type=float, default=2.0)
    parser.add_argument(
        "--backlog", type=int, default=300_000, help="events with which kafka-python's most is measured"
    )
    options = parser.parse_args()
    how = {"linger_s": options.linger_ms / 1000}
    with prepared() as common:
        rates: dict[str, float] = {}
        for name in SIDES if options.side is None else [options.side]:
            whose = SIDES[name].load_of
            if whose not in rates:
                backlog = options.backlog * (1 if whose == "kafka-python" else 3)
                rates[whose] = options.rate or highest_rate(whose, common, backlog, **how) / 2
            rate = rates[whose]
            found, batch = offer(name, common, rate, (options.warm_up, options.seconds), **how)
            answered = len(found) / options.seconds
            print(
                f"  {name}: {rate:,.0f} events/s offered, {answered:,.0f} answered, {batch:.0f} a batch, "
                f"linger {options.linger_ms:g} ms, p99.9 {np.quantile(found, 0.999):.1f} ms, most {found.max():.1f} ms"
            )
            if answered < KEPT_UP * rate:
                print("  the load was not kept up: these are latencies of a backlog")
            for percent, goal in GOALS.items():
                value = float(np.percentile(found, percent))
                if name == "bare":
                    print(f"  bare: p{percent} {value:.1f} ms")
                    continue
                limit = float(goal.split()[1])
                figure = f"stream_latency_{name}_p{percent}"
                report(figure, value, "ms", limit=limit, goal=goal, higher_is_better=False)


if __name__ == "__main__":
    main()
