"""What does retraining on 1 % new rows cost, beside full training on everything?

A simulated log of impressions and clicks (300,000 rows in 28 days, 20,000 users, 600 apps) as two tables. Its first
96 % train a model, by `streamfm.train` and its defaults (factors 32, 400-400-400, until validation stops improving),
which is published. Three rounds of retraining learn what that training held back to validate, a tenth of the log, and 1
% each. Then the last 1 % arrives, and a `Retrainer` that has opened nothing yet makes the round that is timed: label
join over the whole log, fine-tuning with as many replayed rows, export of both networks with their proof, gate,
publication.

Limit: the time of the full training, of 4 % fewer rows than everything. Goal: at most .05 of it.

Traps: full training needs no label join here, which favours it; libraries are imported and kernels compiled before
either is timed, by a small training and a small round; a round that the gate refuses exports, too, and only does not
publish, so its outcome is printed; both use the same number of threads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from _report import report
from progressive_drift import SPEC

from streamfm.features import FeatureSpec
from streamfm.labels import LabelSettings
from streamfm.pipeline import PipelineSettings, train
from streamfm.registry import CHAMPION, Registry
from streamfm.retraining import Retrainer, RetrainSettings, RoundReport, Tables
from streamfm.settings import TrainSettings
from streamfm.testing import simulate_events

NEW_SHARE, GOAL = 0.01, 0.05
WINDOW_SHARE = RetrainSettings().window_share


class Log:
    """Impressions and clicks in two folders."""

    def __init__(self, folder: Path) -> None:
        """Empty."""
        self.shown, self.clicks, self._files = folder / "shown", folder / "clicks", 0
        for place in (self.shown, self.clicks):
            place.mkdir(parents=True)

    def append(self, events: pa.Table) -> None:
        """Write the impressions, and a click at the very time of each that was clicked."""
        clicks = events.filter(pc.equal(events["clicked"], 1)).select(["event_id", "ts"])
        name = f"{self._files:06d}.parquet"
        pq.write_table(events.drop_columns(["clicked", "true_probability"]), self.shown / name)
        pq.write_table(clicks, self.clicks / name)
        self._files += 1

    def feed(self) -> Tables:
        """All of it."""
        return Tables(f"FROM '{self.shown}/*.parquet'", f"FROM '{self.clicks}/*.parquet'")


def measure(rows: int, settings: PipelineSettings, folder: Path) -> tuple[float, float, RoundReport]:
    """Seconds of full training and of one round, and what came of the round."""
    events = simulate_events(rows, seed=7, users=max(100, rows // 15), apps=600)
    # A round judges on the newest of its rows, which the next one learns: the rounds before leave few.
    ends = [round(rows * (1 - rounds * NEW_SHARE)) for rounds in (4, 3, 2, 1, 0)]
    spec, log, registry = FeatureSpec.from_toml(SPEC), Log(folder), Registry(folder / "models")
    registry.root.mkdir()
    log.append(events.slice(0, ends[0]))
    began = time.perf_counter()
    train(spec, events.slice(0, ends[0]), registry.root / "new", settings=settings)
    full_s = time.perf_counter() - began
    registry.publish(registry.root / "new", "ctr", alias=CHAMPION)
    for start, end in pairwise(ends):
        log.append(events.slice(start, end - start))
        began = time.perf_counter()
        window_share = WINDOW_SHARE if end == rows else 0.02
        found = one_round(registry, log, events["ts"][end - 1].as_py(), window_share)
        round_s = time.perf_counter() - began
        print(f"round {found.outcome}, {round_s:.2f} s, {dict(found.rows)}", flush=True)
    return full_s, round_s, found


def one_round(registry: Registry, log: Log, newest: datetime, window_share: float) -> RoundReport:
    """A round a day after the newest event."""
    now = (newest.replace(tzinfo=UTC) + timedelta(days=1)).timestamp()
    settings = RetrainSettings(labels=LabelSettings(window_s=0.0), window_share=window_share)
    with Retrainer(registry, "ctr", log.feed(), settings, clock=lambda: now) as retrainer:
        return retrainer.round()


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=300_000)
    arguments.add_argument("--threads", type=int, default=2)
    options = arguments.parse_args()
    training = TrainSettings(threads=options.threads)
    with tempfile.TemporaryDirectory() as folder:
        warm = TrainSettings(threads=options.threads, max_epochs=1)
        measure(12_000, PipelineSettings(training=warm, name="ctr"), Path(folder) / "warm-up")
        full_s, round_s, found = measure(
            options.rows, PipelineSettings(training=training, name="ctr"), Path(folder) / "log"
        )
    stages = ", ".join(f"{name} {value:.2f}" for name, value in found.seconds.items())
    print(f"full training {full_s:.1f} s; round {found.outcome}, {round_s:.2f} s ({stages}), {dict(found.rows)}")
    report("retrain_cost", round_s / full_s, "of full training", goal=f"<= {GOAL}", higher_is_better=False)


if __name__ == "__main__":
    main()
