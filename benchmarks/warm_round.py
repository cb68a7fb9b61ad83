"""How long is a round of `streamfm retrain --every`, from 1,000 newly closed rows to a stream that answers by them?

A model of ten categorical features, 100,000 of whose values are users (16 factors, 64-32), serves a stream: `streamfm
stream` reads a growing file of events, 200 a second, and looks for a new version every second, its default. A
`Retrainer` has made one round. Then, again and again, 1,000 impressions and their clicks come to a log of Parquet
files, whose earlier rows are 100,000; the clock runs from the beginning of the round (label join, training with as many
replayed rows, export with its proof, gate, publication) to the first answer of the new version in the stream's output.

Goal: 5 s, by the slowest round.

Traps: rounds that the gate refuses would be shorter; they are counted, and labels are drawn at random by a fixed rule,
so that there is something to learn. The first round, in which kernels are compiled and the parent is opened, is told
apart. Worker, retraining and the writer of events share the machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _report import report

from streamfm.features import Feature, FeatureSpec, Input
from streamfm.labels import LabelSettings
from streamfm.model import ModelSettings
from streamfm.pipeline import PipelineSettings, train
from streamfm.registry import CHAMPION, Registry
from streamfm.retraining import Retrainer, RetrainSettings, RoundReport, Tables
from streamfm.settings import TrainSettings

CARDINALITIES = {
    "user_id": 100_000, "app_id": 2_000, "daytime": 7, "weekday": 7, "isweekend": 2, "homework": 3, "cost": 2,
    "weather": 9, "country": 80, "city": 233,
}  # fmt: skip
ROWS, NEW_ROWS, PER_SECOND, GOAL_S = 100_000, 1_000, 200, 5.0
START = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = FeatureSpec(
    inputs=tuple(Input(name=name, type="VARCHAR") for name in CARDINALITIES),
    features=tuple(Feature(name=name, kind="categorical") for name in CARDINALITIES),
    label="clicked",
    event_time="ts",
    event_id="event_id",
)


class World:
    """Events, ten a second, whose click rate depends on the app and the country."""

    def __init__(self) -> None:
        """Begin at `START`."""
        self._random = np.random.default_rng(1)
        self._lift = self._random.normal(size=CARDINALITIES["app_id"])
        self.rows = 0

    def next(self, rows: int, *, every_user: bool = False) -> pa.Table:
        """The next rows, with `clicked`."""
        drawn = {name: self._random.integers(0, count, rows) for name, count in CARDINALITIES.items()}
        if every_user:
            drawn["user_id"] = np.arange(rows) % CARDINALITIES["user_id"]
        logit = self._lift[drawn["app_id"]] + drawn["country"] / 40 - 2.5
        clicked = self._random.random(rows) < 1 / (1 + np.exp(-logit))
        numbers = np.arange(self.rows, self.rows + rows)
        self.rows += rows
        times = (np.datetime64(START.replace(tzinfo=None), "us") + numbers * np.timedelta64(100, "ms")).astype("M8[us]")
        columns = {name: pa.array([f"{name}-{value}" for value in values]) for name, values in drawn.items()}
        named = {"event_id": pa.array([f"e{number}" for number in numbers]), "ts": pa.array(times)}
        return pa.table(named | columns | {"clicked": pa.array(clicked.astype(np.int8))})


class Log:
    """Impressions and clicks in two folders."""

    def __init__(self, folder: Path) -> None:
        """Empty."""
        self.shown, self.clicks, self._files = folder / "shown", folder / "clicks", 0
        for place in (self.shown, self.clicks):
            place.mkdir()

    def append(self, events: pa.Table) -> None:
        """Write the impressions, and a click at the very time of each that was clicked."""
        clicked = events.filter(pa.compute.equal(events["clicked"], 1)).select(["event_id", "ts"])
        pq.write_table(events.drop_columns(["clicked"]), self.shown / f"{self._files:06d}.parquet")
        pq.write_table(clicked, self.clicks / f"{self._files:06d}.parquet")
        self._files += 1

    def feed(self) -> Tables:
        """All of it."""
        return Tables(f"FROM '{self.shown}/*.parquet'", f"FROM '{self.clicks}/*.parquet'")


class Answers:
    """What the stream writes: when each version answered for the first time."""

    def __init__(self, path: Path) -> None:
        """Read on in the background."""
        self._path = path
        self.first: dict[int, float] = {}
        threading.Thread(target=self._follow, daemon=True).start()

    def _follow(self) -> None:
        while not self._path.exists():
            time.sleep(0.01)
        with self._path.open() as file:
            rest = ""
            while True:
                rest += file.readline()
                if not rest.endswith("\n"):
                    time.sleep(0.005)
                    continue
                self.first.setdefault(json.loads(rest)["version"], time.monotonic())
                rest = ""

    def wait(self, version: int, limit_s: float = 60.0) -> float:
        """When a version answered first; waits for it."""
        until = time.monotonic() + limit_s
        while version not in self.first:
            if time.monotonic() > until:
                raise SystemExit(f"version {version} did not answer in {limit_s:g} s")
            time.sleep(0.005)
        return self.first[version]


def feed_stream(path: Path, events: pa.Table, ended: threading.Event) -> None:
    """Append events, over and over."""
    lines = [json.dumps(row, default=str) + "\n" for row in events.drop_columns(["clicked"]).to_pylist()]
    with path.open("a", buffering=1) as file:
        number = 0
        while not ended.is_set():
            file.write(lines[number % len(lines)])
            number += 1
            time.sleep(1 / PER_SECOND)


def first_model(folder: Path, events: pa.Table) -> Registry:
    settings = PipelineSettings(
        model=ModelSettings(factors=16, hidden=(64, 32)), training=TrainSettings(max_epochs=8, threads=1), name="ctr"
    )
    registry = Registry(folder / "models")
    registry.root.mkdir()
    train(SPEC, events, registry.root / "new", settings=settings)
    registry.publish(registry.root / "new", "ctr", alias=CHAMPION)
    return registry


def measured(retrainer: Retrainer, answers: Answers, log: Log, world: World) -> tuple[RoundReport, float]:
    log.append(world.next(NEW_ROWS))
    began = time.monotonic()
    found = retrainer.round()
    if found.outcome != "published":
        return found, time.monotonic() - began
    assert found.version is not None
    return found, answers.wait(found.version) - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    ended = threading.Event()
    with tempfile.TemporaryDirectory() as text:
        folder, world = Path(text), World()
        log = Log(folder)
        first = world.next(ROWS, every_user=True)
        log.append(first)
        registry = first_model(folder, first)
        input_path, output = folder / "events.jsonl", folder / "scores.jsonl"
        threading.Thread(target=feed_stream, args=(input_path, first.slice(0, 1_000), ended), daemon=True).start()
        while not input_path.exists():
            time.sleep(0.01)
        command = ["stream", f"{registry.root}/ctr@{CHAMPION}", "--in", str(input_path), "--out", str(output)]
        worker = subprocess.Popen([sys.executable, "-m", "streamfm.cli", *command, "--follow"])
        try:
            answers = Answers(output)
            answers.wait(1)
            settings = RetrainSettings(labels=LabelSettings(window_s=0.0), keep=3)
            clock = lambda: (START + timedelta(days=365)).timestamp()  # noqa: E731
            with Retrainer(registry, "ctr", log.feed(), settings, clock=clock) as retrainer:
                rounds = [measured(retrainer, answers, log, world) for _ in range(options.rounds + 1)]
        finally:
            ended.set()
            worker.terminate()
            worker.wait(30)
    for found, seconds in rounds:
        stages = ", ".join(f"{name} {value:.2f}" for name, value in found.seconds.items())
        why = "" if found.verdict is None else "; ".join(found.verdict.reasons)
        print(f"{found.outcome} {seconds:.2f} s ({stages}; {found.rows}) {why}", flush=True)
    report("warm_round_first", rounds[0][1], "s", higher_is_better=False)
    published = [seconds for found, seconds in rounds[1:] if found.outcome == "published"]
    report("warm_round_published", len(published), "rounds", limit=options.rounds, higher_is_better=True)
    report("warm_round_median", float(np.median(published)), "s", higher_is_better=False)
    report("warm_round", max(published), "s", limit=GOAL_S, goal=f"<= {GOAL_S:g}", higher_is_better=False)


if __name__ == "__main__":
    main()
