"""From rows to a bundle and what it is worth, with a network of a few units."""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamfm.data.sources import SourceLike
from streamfm.encoder import Encoder
from streamfm.errors import BundleError, DataError, SpecError, StreamFMError
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.model import DeepFM, ModelSettings
from streamfm.pipeline import PipelineSettings, TrainedBundle, evaluate, train
from streamfm.pipeline.progress import NoProgress
from streamfm.pipeline.room import bundle_sizes
from streamfm.scoring import load
from streamfm.settings import EpochReport, TrainSettings
from streamfm.testing import simulate_events

SPEC = FeatureSpec(
    inputs=(
        Input(name="user_id", type="VARCHAR"),
        Input(name="app_id", type="VARCHAR"),
        Input(name="price", type="DOUBLE"),
        Input(name="genres", type="VARCHAR[]"),
        Input(name="ts", type="TIMESTAMP"),
    ),
    features=(
        Feature(name="user_id", kind="categorical", min_count=2),
        Feature(name="app_id", kind="categorical"),
        Feature(name="price", kind="numeric", transform="log1p"),
        Feature(name="genres", kind="multivalued", max_length=3),
        Feature(name="hour", kind="categorical", sql="hour(ts)"),
    ),
    label="clicked",
    group="user_id",
    event_time="ts",
)
EVENTS = simulate_events(6_000, seed=5, users=300, apps=40)
SETTINGS = PipelineSettings(
    model=ModelSettings(factors=4, hidden=(8,)), training=TrainSettings(max_epochs=2, batch_size=256, threads=1, seed=3)
)
NOW = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)


def train_small(rows: SourceLike, out: Path, **options: Any) -> TrainedBundle:
    return train(SPEC, rows, out, **{"settings": SETTINGS, "now": NOW, **options})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedBundle:
    return train_small(EVENTS, tmp_path_factory.mktemp("models") / "ctr")


def test_the_latest_rows_validate_and_the_bundle_says_how_it_was_made(trained: TrainedBundle) -> None:
    manifest = trained.bundle.manifest
    facts: Any = manifest.training
    assert ("ctr", "2026-02-03T04:05:06+00:00", SPEC.fingerprint) == (
        manifest.name,
        manifest.created_at,
        manifest.spec_fingerprint,
    )
    assert {"train": 5_400, "validation": 600} == facts["rows"]
    times = EVENTS["ts"].to_pylist()
    cut = times[5_400]
    assert [f"{t:%Y-%m-%dT%H:%M:%S.%fZ}" for t in (times[0], times[5_399])] == facts["windows"]["train"]
    assert f"{cut:%Y-%m-%dT%H:%M:%S.%fZ}" == facts["windows"]["validation"][0]
    assert (4, (8,), 2) == (manifest.layout.factors, manifest.layout.hidden, len(facts["report"]["epochs"]))
    assert trained.evaluation.measure("auc").value == manifest.metrics["validation"]["measures"]["auc"]["value"]  # type: ignore[index,call-overload]


def test_the_bundle_scores_as_it_was_evaluated(trained: TrainedBundle) -> None:
    found = evaluate(trained.bundle.path, EVENTS.slice(5_400))
    for measure in trained.evaluation.measures:
        again = found.evaluation.measure(measure.name)
        assert measure.value == pytest.approx(again.value, abs=1e-5)
    scorer = load(trained.bundle.path)
    scores = scorer.score(EVENTS.slice(5_400))
    assert found.evaluation.mean_prediction == pytest.approx(float(scores.mean()), abs=1e-6)


def test_an_evaluation_tells_coverage_and_unknown_rate_of_each_feature(trained: TrainedBundle) -> None:
    rows = EVENTS.slice(0, 100)
    users = ["nobody"] * 25 + [None] * 25 + rows["user_id"].to_pylist()[50:]
    changed = rows.set_column(rows.schema.get_field_index("user_id"), "user_id", pa.array(users))
    found = evaluate(load(trained.bundle.path), changed)
    user = found.features[0]
    assert ("user_id", 0.75) == (user.name, user.coverage)
    assert user.unknown_rate is not None
    assert user.unknown_rate >= 25 / 75
    assert ["user_id", "app_id", "price", "genres", "hour"] == [feature.name for feature in found.features]
    assert {"measures", "features"} <= set(found.to_dict())
    note = found.evaluation.measure("group_auc").note
    assert f"of {len(set(users)) - 1} groups" in note


def test_rows_can_be_files_and_the_specification_too(tmp_path: Path) -> None:
    (tmp_path / "features.toml").write_text(SPEC.to_toml())
    for name, part in (
        ("train", EVENTS.slice(0, 3_000)),
        ("valid", EVENTS.slice(3_000, 500)),
        ("test", EVENTS.slice(4_000, 700)),
    ):
        pq.write_table(part, tmp_path / f"{name}.parquet")
    made = train(
        tmp_path / "features.toml",
        tmp_path / "train.parquet",
        tmp_path / "bundle",
        valid=tmp_path / "valid.parquet",
        test=f"SELECT * FROM '{tmp_path}/test.parquet'",
        settings=SETTINGS,
    )
    facts: Any = made.bundle.manifest.training
    assert {"train": 3_000, "validation": 500} == facts["rows"]
    assert made.test is not None
    assert (500, 700) == (made.evaluation.rows, made.test.rows)
    assert {"validation", "test"} == set(made.bundle.manifest.metrics)


def test_the_same_rows_and_seed_give_the_same_bundle(trained: TrainedBundle, tmp_path: Path) -> None:
    again = train_small(EVENTS, tmp_path / "ctr")
    different = {
        name for name, entry in again.bundle.manifest.files.items() if entry != trained.bundle.manifest.files[name]
    }
    assert set() == different


def test_a_regression_learns_numbers(tmp_path: Path) -> None:
    rated = EVENTS.append_column("stars", pa.array(np.random.default_rng(1).normal(3, 1, 6_000)))
    spec = replace(SPEC, label="stars", task="regression", group="")
    made = train(spec, rated, tmp_path / "stars", settings=SETTINGS)
    assert "regression" == made.bundle.manifest.task
    assert made.evaluation.measure("rmse").value == pytest.approx(1.0, abs=0.2)
    assert load(made.bundle.path).score(rated.slice(0, 5)).mean() == pytest.approx(3.0, abs=0.8)


def test_progress_hears_of_every_stage(tmp_path: Path) -> None:
    class Listener(NoProgress):
        def __init__(self) -> None:
            self.heard: dict[str, tuple[int, int]] = {}

        def stage(self, what: str, done: int, rows: int) -> None:
            self.heard[what] = done, rows

        def end_epoch(self, epoch: EpochReport) -> None:
            self.heard["epoch"] = epoch.epoch, 2

    listener = Listener()
    train_small(EVENTS, tmp_path / "ctr", progress=listener)
    assert {
        "counting": (0, 5_400),
        "encoding training rows": (5_400, 5_400),
        "encoding validation rows": (600, 600),
        "epoch": (2, 2),
        "exporting": (600, 600),
    } == listener.heard


@pytest.mark.parametrize(
    ("name", "value"), [("valid_fraction", 0.0), ("valid_fraction", 1.0), ("on_interrupt", "stop")]
)
def test_impossible_settings_are_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(SpecError, match=f"{name} is {value!r}, expected"):
        PipelineSettings(**{name: value})


# --- what goes wrong leaves nothing


class Stopper(NoProgress):
    """Stops at a stage, by an exception or as Ctrl-C does."""

    def __init__(self, where: str, *, by_signal: bool = False) -> None:
        self.where, self.by_signal = where, by_signal

    def stage(self, what: str, done: int, rows: int) -> None:
        self.reach(what)

    def end_epoch(self, epoch: EpochReport) -> None:
        self.reach("epoch")

    def reach(self, what: str) -> None:
        if what == self.where and self.by_signal:
            os.kill(os.getpid(), signal.SIGINT)
        elif what == self.where:
            raise RuntimeError("the plug was pulled")


@pytest.mark.parametrize(
    "where", ["counting", "encoding training rows", "encoding validation rows", "epoch", "exporting"]
)
def test_a_failure_at_any_stage_leaves_nothing(where: str, tmp_path: Path) -> None:
    (tmp_path / "temporary").mkdir()
    settings = replace(SETTINGS, folder=str(tmp_path / "temporary"))
    with pytest.raises(RuntimeError, match="the plug was pulled"):
        train_small(EVENTS, tmp_path / "ctr", settings=settings, progress=Stopper(where))
    assert [tmp_path / "temporary"] == list(tmp_path.rglob("*"))


def test_ctrl_c_while_training_exports_the_best_so_far(tmp_path: Path) -> None:
    made = train_small(EVENTS, tmp_path / "ctr", progress=Stopper("epoch", by_signal=True))
    assert (True, 1) == (made.report.interrupted, len(made.report.epochs))
    assert load(made.bundle.path).score({"user_id": "u"}) > 0


class Ear(NoProgress):
    """Keeps what it is told of."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def stage(self, what: str, done: int, rows: int) -> None:
        self.heard.append(what)

    def end_epoch(self, epoch: EpochReport) -> None:
        self.heard.append("epoch")


@pytest.mark.parametrize(
    ("test", "message"),
    [
        ("tomorow.parquet", "tomorow.parquet: no such file"),
        (EVENTS.drop_columns(["price"]), "the Table: column 'price' not found"),
        (
            EVENTS.set_column(EVENTS.column_names.index("clicked"), "clicked", pa.array([2] * 6_000)),
            "label 'clicked' is 2, expected 0 or 1",
        ),
    ],
    ids=["no file", "no column", "label"],
)
def test_rows_to_test_on_that_cannot_be_used_are_refused_before_training(
    test: SourceLike, message: str, tmp_path: Path
) -> None:
    ear = Ear()
    with pytest.raises(DataError, match=re.escape(message)):
        train_small(EVENTS, tmp_path / "ctr", test=test, progress=ear)
    assert [] == ear.heard
    assert [] == list(tmp_path.iterdir())


def test_a_table_that_no_network_can_hold_is_refused_before_any_row_is_encoded(tmp_path: Path) -> None:
    settings = replace(SETTINGS, model=ModelSettings(factors=50_000_000, hidden=()))
    ear = Ear()
    with pytest.raises(BundleError, match=r"the table of [0-9]+ rows takes .* GB, an ONNX file holds 2 GB"):
        train_small(EVENTS, tmp_path / "ctr", settings=settings, progress=ear)
    assert {"counting"} == set(ear.heard)


@pytest.mark.parametrize("table_update", ["dense", "lazy"])
@pytest.mark.parametrize("average", [True, False])
def test_the_room_that_is_held_is_a_little_more_than_what_the_bundle_takes(
    average: bool, table_update: Any, tmp_path: Path
) -> None:
    training = replace(SETTINGS.training, max_epochs=1, average=average, table_update=table_update)
    model = ModelSettings(factors=32, hidden=(64,), batch_norm=True)
    made = train_small(EVENTS, tmp_path / "ctr", settings=replace(SETTINGS, model=model, training=training)).bundle
    layout = Encoder(SPEC, made.vocabularies).layout
    sizes = bundle_sizes(DeepFM(layout, model), made.vocabularies, int8=True, average=average)
    taken = [made.manifest.files[name].size for name in ("weights.safetensors", "model.onnx", "model.int8.onnx")]
    assert [True] * 3 == [size <= held <= size + (1 << 17) for size, held in zip(taken, sizes, strict=False)]
    assert sum(entry.size for entry in made.manifest.files.values()) <= sum(sizes)


def test_a_bundle_for_which_there_is_no_room_is_refused_before_training(tmp_path: Path, file_size_limit) -> None:
    settings = replace(SETTINGS, model=ModelSettings(factors=512, hidden=(8,)))
    ear = Ear()
    with file_size_limit(1 << 20), pytest.raises(BundleError) as caught:
        train_small(EVENTS, tmp_path / "ctr", settings=settings, progress=ear)
    assert f"{tmp_path}/ctr: no room for the bundle's " in caught.value.message
    assert f" bytes in {tmp_path}: File too large" in caught.value.message
    assert "make room there, or write the bundle to another disk" == caught.value.hint
    assert "epoch" not in ear.heard
    assert [] == list(tmp_path.iterdir())


def test_the_best_weights_lie_in_the_temporary_folder_that_was_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "no such folder"))
    training = replace(SETTINGS.training, max_epochs=1, table_update="lazy", batch_size=2048)
    settings = replace(
        SETTINGS, model=ModelSettings(factors=1024, hidden=()), training=training, folder=str(tmp_path / "temporary")
    )
    train_small(EVENTS, tmp_path / "ctr", settings=settings)


@pytest.mark.parametrize("where", ["epoch", "encoding training rows"])
def test_ctrl_c_leaves_nothing_where_that_is_wanted_or_nothing_is_learnt(where: str, tmp_path: Path) -> None:
    settings = replace(SETTINGS, on_interrupt="discard")
    with pytest.raises(KeyboardInterrupt):
        train_small(EVENTS, tmp_path / "ctr", settings=settings, progress=Stopper(where, by_signal=True))
    assert [] == list(tmp_path.iterdir())


def test_a_place_that_is_taken_is_told_before_the_rows_are_read(trained: TrainedBundle) -> None:
    with pytest.raises(BundleError, match="is there already"):
        train_small("no such file.parquet", trained.bundle.path)


def test_validation_rows_of_one_label_are_refused_by_name(tmp_path: Path) -> None:
    clicked = EVENTS.filter(pa.compute.equal(EVENTS["clicked"], 1))
    with pytest.raises(DataError, match="label 'clicked' is 1 in all"):
        train_small(EVENTS, tmp_path / "ctr", valid=clicked)
    assert [] == list(tmp_path.iterdir())


def test_without_torch_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(StreamFMError) as caught:
        train_small(EVENTS, tmp_path / "ctr")
    assert ("training needs torch, which is not installed", "pip install 'streamfm[train]'") == (
        caught.value.message,
        caught.value.hint,
    )
