"""A simulated app store with a registry and a log of what was shown and clicked, for tests of retraining."""

from __future__ import annotations

import shutil
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from streamfm.bundle import read_manifest
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.finetuning import FineTuneSettings
from streamfm.labels import LabelSettings
from streamfm.model import ModelSettings
from streamfm.pipeline import PipelineSettings, train
from streamfm.registry import CHAMPION, Registry
from streamfm.retraining import Retrainer, RetrainSettings, RoundReport, Tables
from streamfm.settings import TrainSettings
from streamfm.testing import OPENING, AppStore

SPEC = FeatureSpec(
    inputs=(
        Input(name="user_id", type="VARCHAR"),
        Input(name="app_id", type="VARCHAR"),
        Input(name="price", type="DOUBLE"),
        Input(name="ts", type="TIMESTAMP"),
    ),
    features=(
        Feature(name="user_id", kind="categorical", min_count=2),
        Feature(name="app_id", kind="categorical"),
        Feature(name="price", kind="numeric", transform="log1p"),
        Feature(name="hour", kind="categorical", sql="hour(ts)"),
    ),
    label="clicked",
    group="user_id",
    event_time="ts",
    event_id="event_id",
)
STORE = AppStore(seed=11, users=300, apps=40, drift_per_day=0.05, newcomer_share=0.3, growth_days=12)
LABELS = LabelSettings(window_s=1800.0, stalled_s=86_400.0)
SETTINGS = RetrainSettings(labels=LABELS, tuning=FineTuneSettings(threads=1), least_rows=50, int8=False)
LENIENT = replace(SETTINGS, gate=replace(SETTINGS.gate, alpha=1e-9, margin=1.0))
DAY = timedelta(days=1)


def events_of(days: float, rows: int, *, start_day: float = 0.0, first: int = 0) -> pa.Table:
    random = np.random.default_rng([3, first])
    start = OPENING + start_day * DAY
    return STORE.events(rows, random=random, start=start, days=days, first_event=first)


def clicks_of(events: pa.Table) -> pa.Table:
    """One for each impression that was clicked, up to twenty minutes later."""
    clicked = events.filter(pc.equal(events["clicked"], 1))
    later = np.random.default_rng(5).integers(0, 1_200_000_000, clicked.num_rows)
    times = clicked["ts"].cast(pa.int64()).to_numpy() + later
    order = np.argsort(times)
    return pa.table({"event_id": clicked["event_id"], "ts": pa.array(times, pa.timestamp("us"))}).take(pa.array(order))


class Shop:
    """A registry with a first model, and a log that grows day by day."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.registry = folder, Registry(folder / "models")
        self.events: list[pa.Table] = []

    @classmethod
    def copied(cls, first: Path, folder: Path) -> Shop:
        """Of the folder that `opened` filled."""
        shop = cls(Path(shutil.copytree(first, folder)))
        shop.events = [events_of(1, 900, start_day=7, first=4_000)]
        return shop

    def log(self, events: pa.Table) -> None:
        number = len(self.events)
        self.events.append(events)
        shown = events.drop_columns(["clicked", "true_probability"])
        pq.write_table(shown, self.folder / "shown" / f"{number}.parquet")
        pq.write_table(clicks_of(events), self.folder / "clicks" / f"{number}.parquet")

    def retrainer(self, settings: RetrainSettings = SETTINGS, *, name: str = "ctr", **options: Any) -> Retrainer:
        feed = Tables(f"{self.folder}/shown/*.parquet", f"{self.folder}/clicks/*.parquet")
        return Retrainer(self.registry, name, feed, settings, **options)

    def round(self, settings: RetrainSettings = SETTINGS, **options: Any) -> RoundReport:
        with self.retrainer(settings) as retrainer:
            return retrainer.round(**options)

    def champion(self) -> int:
        return self.registry.current("ctr")

    def facts(self, version: int) -> Any:
        return read_manifest(self.registry.root / "ctr" / str(version)).training


def opened(folder: Path) -> None:
    """A registry with a model of seven days, and the log of the eighth."""
    for name in ("shown", "clicks", "models"):
        (folder / name).mkdir()
    settings = PipelineSettings(
        model=ModelSettings(factors=4, hidden=(8,)),
        training=TrainSettings(max_epochs=3, batch_size=128, threads=1),
        name="ctr",
    )
    train(SPEC, events_of(7, 4_000), folder / "models" / "new", settings=settings)
    Registry(folder / "models").publish(folder / "models" / "new", "ctr", alias=CHAMPION)
    Shop(folder).log(events_of(1, 900, start_day=7, first=4_000))
