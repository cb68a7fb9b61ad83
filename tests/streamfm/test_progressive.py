"""Progressive validation on a small simulated log: honest, repeatable, and of use."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from streamfm.data.sources import SourceLike
from streamfm.errors import DataError, SpecError
from streamfm.evaluation.metrics import log_loss
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.model import ModelSettings
from streamfm.pipeline import PipelineSettings, train
from streamfm.progressive import ModeName, ProgressiveReport, ProgressiveSettings, progressive
from streamfm.progressive.rows import read_rows
from streamfm.scoring import Scorer
from streamfm.settings import TrainSettings
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
        Feature(name="user_id", kind="categorical"),
        Feature(name="app_id", kind="categorical"),
        Feature(name="price", kind="numeric", transform="log1p"),
        Feature(name="genres", kind="multivalued", max_length=3),
        Feature(name="hour", kind="categorical", sql="hour(ts)"),
    ),
    label="clicked",
    group="user_id",
    event_time="ts",
    event_id="event_id",
)
ROWS = 2_000
EVENTS = simulate_events(ROWS, seed=5, users=150, apps=30, days=2)
ALL_MODES: tuple[ModeName, ...] = ("frozen", "incremental", "full")
TRAINING = PipelineSettings(
    model=ModelSettings(factors=4, hidden=(8,)), training=TrainSettings(max_epochs=1, batch_size=256, threads=1, seed=3)
)
SETTINGS = ProgressiveSettings(modes=ALL_MODES, shards=8, full_every=3, delay_s=600, training=TRAINING)


def run(rows: SourceLike, **change: Any) -> ProgressiveReport:
    return progressive(SPEC, rows, settings=replace(SETTINGS, **change))


@pytest.fixture(scope="module")
def found() -> ProgressiveReport:
    return run(EVENTS)


def test_no_prediction_depends_on_a_label_that_had_not_come(found: ProgressiveReport) -> None:
    """The labels from some row on are turned round: what was predicted before they came must not move by one bit."""
    poisoned_from = 1_500
    labels = EVENTS["clicked"].to_numpy().copy()
    labels[poisoned_from:] = 1 - labels[poisoned_from:]
    place = EVENTS.schema.get_field_index("clicked")
    poisoned = run(EVENTS.set_column(place, "clicked", pa.array(labels, pa.int8())))
    innocent = np.repeat([s.known <= poisoned_from for s in found.shards], [s.rows for s in found.shards])
    # Shards that begin before the poison, and at least one that begins after it, while its labels are on their way.
    assert poisoned_from - found.warm_start_rows < innocent.sum() < len(innocent)
    for mode, other in zip(found.modes, poisoned.modes, strict=True):
        np.testing.assert_array_equal(mode.predictions[innocent], other.predictions[innocent])
        if mode.mode != "frozen":
            assert (mode.predictions[~innocent] != other.predictions[~innocent]).any()


def test_rows_that_are_yet_to_come_change_nothing(found: ProgressiveReport) -> None:
    """A log that ends earlier gives the same predictions, and the same model before: it was made of the past alone."""
    shorter = run(EVENTS.slice(0, 1_500), warm_start=2 / 3, shards=4)
    assert [shard.known for shard in found.shards[:4]] == [shard.known for shard in shorter.shards]
    for mode, other in zip(found.modes, shorter.modes, strict=True):
        np.testing.assert_array_equal(mode.predictions[:500], other.predictions)


def test_the_same_seed_gives_the_same_bits(found: ProgressiveReport) -> None:
    again = run(EVENTS)
    for mode, other in zip(found.modes, again.modes, strict=True):
        np.testing.assert_array_equal(mode.predictions, other.predictions)


def test_another_replay_seed_replays_other_rows(found: ProgressiveReport) -> None:
    other = run(EVENTS, replay_seed=1, modes=("incremental",))
    assert (other.mode("incremental").predictions != found.mode("incremental").predictions).any()


def test_the_frozen_model_is_that_of_streamfm_train(found: ProgressiveReport, tmp_path: Path) -> None:
    trained = train(SPEC, EVENTS.slice(0, found.shards[0].known), tmp_path / "model", settings=TRAINING)
    scores = Scorer(trained.bundle).score(EVENTS.slice(ROWS // 2))
    np.testing.assert_array_equal(scores, found.mode("frozen").predictions)


def test_full_retraining_happens_every_so_many_shards(found: ProgressiveReport) -> None:
    full = found.mode("full")
    assert [number in (3, 6) for number in range(8)] == [seconds > 0 for seconds in full.learning_s]
    same = found.mode("frozen").predictions[: 3 * 125] == full.predictions[: 3 * 125]
    assert same.all()
    assert 2 == full.rounds


def test_measures_are_those_of_all_predictions(found: ProgressiveReport) -> None:
    labels = EVENTS["clicked"].to_numpy()[ROWS // 2 :]
    for mode in found.modes:
        assert log_loss(labels, mode.predictions) == mode.value("log_loss")
        shares = [shard.rows / found.rows for shard in found.shards]
        losses = [shard["log_loss"] or 0.0 for shard in mode.shards]
        assert mode.value("log_loss") == pytest.approx(np.dot(shares, losses))
        if mode.difference is not None:
            assert mode.value("log_loss") - found.modes[0].value("log_loss") == pytest.approx(mode.difference.value)  # type: ignore[operator]


def test_the_report_is_json(found: ProgressiveReport) -> None:
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert [8, 8] == [len(told["shards"]), len(told["modes"][1]["shards"])]
    assert ["frozen", "incremental", "full"] == [mode["mode"] for mode in told["modes"]]
    assert {"auc", "log_loss", "calibration"} == set(told["modes"][0]["shards"][0])
    assert 600 == told["settings"]["delay_s"]


def test_rows_are_put_in_the_order_of_time_and_then_of_the_event_id() -> None:
    minutes = EVENTS.set_column(1, "ts", pc.floor_temporal(EVENTS["ts"], unit="hour"))
    shuffled = minutes.take(pa.array(np.random.default_rng(1).permutation(ROWS)))
    ordered = read_rows(shuffled, SPEC)
    assert minutes["event_id"].to_pylist() == ordered.table["event_id"].to_pylist()
    np.testing.assert_array_equal(minutes["clicked"].to_numpy(), ordered.batch.labels)
    by_user = read_rows(shuffled, SPEC, ["user_id"])
    keys = [("ts", "ascending"), ("user_id", "ascending"), ("event_id", "ascending")]
    assert minutes.sort_by(keys)["event_id"].to_pylist() == by_user.table["event_id"].to_pylist()


def test_a_part_of_the_rows_is_what_the_encoder_expects() -> None:
    ordered = read_rows(EVENTS, SPEC)
    part, taken = ordered.part(700, 710), ordered.take(np.arange(700, 710))
    assert 10 == part.rows == taken.rows
    for name, column in part.columns.items():
        assert column.equals(taken.columns[name])
    assert EVENTS["app_id"].slice(700, 10).to_pylist() == part.columns["app_id"].to_pylist()
    assert [f"{time.hour}" for time in EVENTS["ts"].slice(700, 10).to_pylist()] == [
        str(hour) for hour in part.columns["hour"].to_pylist()
    ]


def test_a_row_without_a_time_is_refused_by_its_place() -> None:
    times = EVENTS["ts"].to_pylist()
    times[41] = None
    with pytest.raises(DataError, match=r"row 42 \(counted from 1\): event time 'ts' is NULL \(1 such rows\)"):
        run(EVENTS.set_column(1, "ts", pa.array(times)))


def test_a_specification_without_a_time_is_refused() -> None:
    with pytest.raises(SpecError, match="names no event_time"):
        progressive(replace(SPEC, event_time=""), EVENTS, settings=SETTINGS)


def test_a_delay_that_leaves_nothing_to_begin_with_is_refused() -> None:
    with pytest.raises(DataError, match="no label had come when the first of 8 shards began"):
        run(EVENTS, delay_s=86_400.0 * 30)


def test_intervals_of_time_are_shards() -> None:
    hourly = run(EVENTS, modes=("frozen",), shards=None, interval_s=3600.0)
    hours = {time.replace(minute=0, second=0, microsecond=0) for time in EVENTS["ts"].to_pylist()[ROWS // 2 :]}
    assert len(hours) == len(hourly.shards)
