"""Clicks come back: rounds of retraining in a store whose tastes turn, and to which half of all users come later.

Run it: python examples/06_keep_it_fresh.py
"""

import tempfile
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import streamfm
from streamfm.evaluation import log_loss
from streamfm.labels import LabelSettings
from streamfm.pipeline import PipelineSettings
from streamfm.retraining import Retrainer, RetrainSettings, Tables
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import OPENING, AppStore

STORE = AppStore(seed=1, users=400, apps=60, drift_per_day=0.1, newcomer_share=0.5, growth_days=12)


def day(number: int, days: int = 1) -> pa.Table:
    where = {"start": OPENING + timedelta(days=number), "days": days, "first_event": 1_000_000 * number}
    return STORE.events(2_000 * days, random=np.random.default_rng(number), **where)


def write_down(events: pa.Table, folder: Path, number: int) -> None:
    """What was shown, and the clicks; a log of Kafka's topics is written by `streamfm collect`."""
    clicks = events.filter(pc.equal(events["clicked"], 1)).select(["event_id", "ts"])
    pq.write_table(clicks, folder / f"clicks-{number}.parquet")
    pq.write_table(events.drop_columns(["clicked", "true_probability"]), folder / f"shown-{number}.parquet")


def main(folder: Path) -> None:
    past = day(0, days=5).drop_columns(["true_probability"])
    spec = streamfm.propose(past, "clicked").spec
    training = TrainSettings(max_epochs=3, batch_size=256)
    settings = PipelineSettings(model=ModelSettings(factors=8, hidden=(16,)), training=training)
    registry = streamfm.Registry(folder / "models")
    first = streamfm.train(spec, past, folder / "first", settings=settings)
    registry.publish(first.bundle.path, "apps", alias="champion")
    feed = Tables(str(folder / "shown-*.parquet"), str(folder / "clicks-*.parquet"))
    how = RetrainSettings(labels=LabelSettings(window_s=600, stalled_s=86_400))
    with Retrainer(registry, "apps", feed, how) as retrainer:
        for number in range(5, 10):
            write_down(day(number), folder, number)
            print(f"day {number}: {retrainer.round().outcome}, @champion is apps/{registry.current('apps')}")
    tomorrow = day(10)
    for reference in ("apps/1", "apps@champion"):
        loss = log_loss(tomorrow["clicked"], streamfm.load(registry.root / reference).score(tomorrow))
        print(f"{reference}: log loss of the day after {loss:.4f}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(temporary))
