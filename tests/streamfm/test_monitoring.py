"""What monitoring says of rows whose scores, versions and labels are known."""

from __future__ import annotations

import json
import math
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfm.data.sources import open_source
from streamfm.errors import DataError, MissingColumnsError, RegistryError, SpecError
from streamfm.evaluation.calibration import estimate_calibration
from streamfm.evaluation.metrics import auc, estimate_log_loss
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.gate import GateSettings
from streamfm.model import ModelSettings
from streamfm.monitoring import Comparison, MonitorReport, MonitorSettings, ServedRows, compare, monitor, roll_back
from streamfm.monitoring.stability import stability_index
from streamfm.pipeline import PipelineSettings, train
from streamfm.registry import CHAMPION, Registry
from streamfm.scoring import Scorer, load
from streamfm.settings import TrainSettings

SPEC = FeatureSpec(
    inputs=(
        Input(name="user", type="VARCHAR"),
        Input(name="price", type="DOUBLE"),
        Input(name="genres", type="VARCHAR[]"),
        Input(name="ts", type="TIMESTAMP"),
    ),
    features=(
        Feature(name="user", kind="categorical"),
        Feature(name="price", kind="numeric"),
        Feature(name="genres", kind="multivalued", max_length=3),
        Feature(name="hour", kind="categorical", sql="hour(ts)"),
    ),
    label="clicked",
    group="user",
    event_time="ts",
    event_id="event_id",
)
START = datetime(2026, 5, 1)
HOUR = timedelta(hours=1)


def served(rows: int, *, seed: int = 0, hours: float = 4, **columns: Any) -> pa.Table:
    """Labelled rows of versions 3 and 4, half the time each, clicked as their scores promise."""
    random = np.random.default_rng(seed)
    score = random.beta(1, 4, rows).astype(np.float32)
    table = {
        "event_id": [f"e{row}" for row in range(rows)],
        "user": [f"u{user}" for user in random.integers(0, 40, rows)],
        "price": random.lognormal(0, 1, rows),
        "genres": [["a", "b"][: random.integers(0, 3)] for _ in range(rows)],
        "ts": [START + HOUR * hours * row / rows for row in range(rows)],
        "clicked": (random.random(rows) < score).astype(np.int8),
        "score": score,
        "model": ["ctr"] * rows,
        "model_version": [3 if row < rows // 2 else 4 for row in range(rows)],
    }
    return pa.table({name: column for name, column in (table | columns).items() if column is not None})


def report_of(table: pa.Table, spec: FeatureSpec = SPEC, **changes: Any) -> MonitorReport:
    told = MonitorSettings(**changes)
    with open_source(table) as source:
        return monitor(ServedRows(source, spec, told, "ctr"), spec, told)


@pytest.mark.parametrize("weighted", [False, True])
def test_every_figure_is_that_of_the_metrics(weighted: bool) -> None:
    weights = np.random.default_rng(1).integers(1, 5, 2_000).astype(np.float64) if weighted else None
    table = served(2_000, weight=weights)
    spec = FeatureSpec(**{**fields_of(SPEC), "weight": "weight"}) if weighted else SPEC
    report = report_of(table, spec)
    labels, scores = table["clicked"].to_numpy(), table["score"].to_numpy()
    groups = {"": slice(None), "3": slice(0, 1_000), "4": slice(1_000, None)}
    assert report.overall is not None
    assert [one.version for one in report.versions] == ["3", "4"]
    for quality in [report.overall, *report.versions]:
        rows = groups[quality.version]
        of_rows = None if weights is None else weights[rows]
        loss = estimate_log_loss(labels[rows], scores[rows], of_rows)
        ratio = estimate_calibration(labels[rows], scores[rows], of_rows)
        assert quality.rows == len(labels[rows])
        assert quality.positives == labels[rows].sum()
        assert quality.log_loss == pytest.approx(loss.value)
        assert (quality.log_loss_low, quality.log_loss_high) == pytest.approx((loss.low, loss.high))
        assert quality.calibration == pytest.approx(ratio.value)
        assert (quality.calibration_low, quality.calibration_high) == pytest.approx((ratio.low, ratio.high))
        assert quality.auc == pytest.approx(auc(labels[rows], scores[rows], of_rows))


def fields_of(spec: FeatureSpec) -> dict[str, Any]:
    names = ("inputs", "features", "label", "group", "event_time", "event_id")
    return {name: getattr(spec, name) for name in names}


def test_every_version_is_told_by_the_hour() -> None:
    report = report_of(served(400, hours=4))
    starts = [START.replace(tzinfo=UTC) + HOUR * hour for hour in range(4)]
    assert [(one.version, one.since, one.rows) for one in report.periods] == [
        ("3", starts[0], 100),
        ("3", starts[1], 100),
        ("4", starts[2], 100),
        ("4", starts[3], 100),
    ]
    assert len(report_of(served(400, hours=4), bucket_s=7200.0).periods) == 2


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 4), st.integers(3, 4)), min_size=1, max_size=40),
)
@settings(max_examples=25, deadline=None)
def test_areas_with_ties_are_those_of_the_metrics(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, versions = (np.array(column) for column in zip(*rows, strict=True))
    table = served(len(rows), clicked=labels, score=scores / 8, model_version=versions)
    for quality in report_of(table).versions:
        mine = versions == int(quality.version)
        if len(np.unique(labels[mine])) == 2:
            assert quality.auc == pytest.approx(auc(labels[mine], scores[mine]), abs=1e-12)
        else:
            assert quality.auc is None
        assert (quality.calibration is None) == (labels[mine].sum() == 0)


def test_rows_of_other_models_and_without_a_score_are_counted_and_left_out() -> None:
    score = np.full(100, 0.2)
    score[:5] = [math.nan, math.inf, -0.1, 1.5, 0.2]
    models = ["ctr"] * 80 + ["other"] * 15 + [None] * 5
    report = report_of(served(100, score=pa.array(score, mask=np.arange(100) == 10), model=models))
    assert (report.unscored, report.others) == (5, 15)
    assert report.overall is not None
    assert report.overall.rows == 80


def test_the_version_may_be_called_as_streams_call_it_or_be_absent() -> None:
    table = served(100)
    as_streams = table.rename_columns([name.replace("model_version", "version") for name in table.column_names])
    assert [one.version for one in report_of(as_streams).versions] == ["3", "4"]
    assert [one.version for one in report_of(table.drop_columns(["model_version", "model"])).versions] == ["—"]


def test_rows_without_any_score_are_refused() -> None:
    with pytest.raises(MissingColumnsError, match="column 'score' not found"):
        report_of(served(10, score=None))
    with pytest.raises(DataError, match="none of 10 labelled rows carries a score of ctr"):
        report_of(served(10, score=pa.nulls(10, pa.float32())))


def test_what_has_not_moved_is_stable() -> None:
    report = report_of(served(4_000))
    assert {one.name for one in report.stability} == {"score", "user", "price", "genres", "hour"}
    by_name = {one.name: one for one in report.stability}
    assert by_name["score"].verdict == by_name["user"].verdict == by_name["price"].verdict == "stable"
    assert by_name["hour"].verdict == "shifted"  # four hours, cut in two
    assert by_name["user"].new_values == 0.0


def test_what_has_moved_is_told() -> None:
    rows, half = 4_000, 2_000
    random = np.random.default_rng(2)
    price = np.concatenate([random.normal(0, 1, half), random.normal(1, 1, half)])
    users = [f"u{user}" for user in random.integers(0, 10, half)] + [f"n{user}" for user in random.integers(0, 5, half)]
    genres = [["a"]] * half + [[]] * half
    by_name = {one.name: one for one in report_of(served(rows, price=price, user=users, genres=genres)).stability}
    assert by_name["price"].verdict == "shifted"
    assert by_name["price"].index == pytest.approx(1.0, abs=0.25)  # of two normals a deviation apart: 1
    assert (by_name["user"].verdict, by_name["user"].new_values) == ("shifted", 1.0)
    assert (by_name["genres"].missing, by_name["genres"].missing_before) == (1.0, 0.0)


def test_recent_rows_may_be_few_and_chance_is_no_move() -> None:
    report = report_of(served(2_000), recent_s=60.0)
    assert {one.verdict for one in report.stability if one.name != "hour"} == {"stable"}
    assert report.recent_from == (START + 4 * HOUR * 1_999 / 2_000 - timedelta(seconds=60)).replace(tzinfo=UTC)
    everything = report_of(served(100), recent_s=1e9)
    assert {one.verdict for one in everything.stability} == {"no rows to compare"}


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), min_size=1, max_size=12))
def test_the_index_is_never_negative_and_knows_no_direction(counts: list[tuple[int, int]]) -> None:
    found = stability_index(counts)
    assert found >= -1e-12
    assert found == pytest.approx(stability_index([(before, now) for now, before in counts]))
    assert stability_index([(now, now) for now, _ in counts]) == pytest.approx(0.0, abs=1e-12)


def test_the_report_is_json() -> None:
    told = report_of(served(300, clicked=np.zeros(300, np.int8))).to_dict()
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert told["overall"]["auc"] is None


@pytest.mark.parametrize(
    "change", [{"bucket_s": 0.0}, {"recent_s": 0.0}, {"categories": 0}, {"moved": 0.5}, {"score": ""}]
)
def test_settings_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(change))):
        MonitorSettings(**change)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry: version 1 has learnt who clicks, version 2 the contrary."""
    folder = tmp_path_factory.mktemp("monitored")
    registry = Registry(folder / "models")
    pipeline = PipelineSettings(
        model=ModelSettings(factors=4, hidden=(8,)),
        training=TrainSettings(max_epochs=2, batch_size=64, threads=1),
        name="ctr",
    )
    for version in (1, 2):
        table = clicking(2_000, seed=version)
        if version == 2:
            table = table.set_column(table.column_names.index("clicked"), "clicked", [1 - table["clicked"].to_numpy()])
        train(SPEC, table, folder / "new", settings=pipeline)
        registry.publish(folder / "new", "ctr", alias=CHAMPION)
    return folder / "models"


def clicking(rows: int, *, seed: int) -> pa.Table:
    """Rows of which cheap apps are clicked."""
    table = served(rows, seed=seed)
    cheap = table["price"].to_numpy() < 1
    clicked = np.random.default_rng(seed).random(rows) < np.where(cheap, 0.6, 0.1)
    return table.set_column(table.column_names.index("clicked"), "clicked", [clicked.astype(np.int8)])


def scored_by(scorer: Scorer, rows: int) -> pa.Table:
    table = clicking(rows, seed=9)
    columns = {"score": scorer.score(table), "model_version": pa.array([scorer.version] * rows)}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, [column])
    return table


def test_a_version_that_is_worse_than_its_parent_is_rolled_back(trained: Path, tmp_path: Path) -> None:
    registry = Registry(shutil.copytree(trained, tmp_path / "models"))
    good, bad = (load(registry.root / "ctr" / number) for number in ("1", "2"))
    with open_source(scored_by(bad, 800)) as source:
        rows = ServedRows(source, SPEC, MonitorSettings(), "ctr")
        found = compare(rows, bad, good, MonitorSettings(), GateSettings())
    assert found.is_worse
    assert found.low is not None
    assert found.low > 0.001
    assert (found.served, found.other, found.rows) == (2, 1, 800)
    assert found.skew == pytest.approx(0.0, abs=1e-5)
    assert "worse" in str(found)

    roll_back(registry, "ctr", found, alias=CHAMPION)
    assert registry.current("ctr") == 1
    assert registry.last_move("ctr").kind == "rollback"
    with pytest.raises(RegistryError, match="is at 1, expected 2"):
        roll_back(registry, "ctr", found, alias=CHAMPION)
    with pytest.raises(RegistryError, match="was nowhere before"):
        registry.rollback("ctr")


def test_where_the_alias_was_elsewhere_before_it_is_promoted(trained: Path, tmp_path: Path) -> None:
    registry = Registry(shutil.copytree(trained, tmp_path / "models"))
    registry.publish(registry.root / "ctr" / "1", "ctr", alias=CHAMPION)
    registry.promote("ctr", 2)
    found = Comparison(served=2, other=1, rows=800, margin=0.001, is_worse=True)
    roll_back(registry, "ctr", found, alias=CHAMPION)
    move = registry.last_move("ctr")
    assert (move.version, move.kind, move.earlier) == (1, "promote", (1, 2, 3, 2))


def test_a_move_is_undone_only_while_it_is_the_last(trained: Path, tmp_path: Path) -> None:
    registry = Registry(shutil.copytree(trained, tmp_path / "models"))
    looked_at = registry.last_move("ctr")
    registry.promote("ctr", 1)
    registry.promote("ctr", 2)
    with pytest.raises(RegistryError, match="ctr@champion moved meanwhile"):
        registry.rollback("ctr", expected=looked_at)
    assert registry.current("ctr") == 2
    assert registry.rollback("ctr", expected=registry.last_move("ctr")).version == 1


def test_a_version_that_is_better_stays_and_strange_scores_are_told(trained: Path) -> None:
    good, bad = (load(trained / "ctr" / number) for number in ("1", "2"))
    table = scored_by(good, 800)
    scores = table["score"].to_numpy().copy()
    scores[7] = abs(scores[7] - 0.5)
    table = table.set_column(table.column_names.index("score"), "score", [scores])
    with open_source(table) as source:
        rows = ServedRows(source, SPEC, MonitorSettings(), "ctr")
        found = compare(rows, good, bad, MonitorSettings(), GateSettings())
        nothing = compare(rows, bad, good, MonitorSettings(), GateSettings())
    assert not found.is_worse
    assert found.difference is not None
    assert found.difference < 0
    assert found.skew is not None
    assert found.skew > 0.05
    assert str(found).endswith("from those computed anew")
    assert (nothing.rows, nothing.is_worse, nothing.difference) == (0, False, None)


def test_few_rows_prove_nothing(trained: Path) -> None:
    good, bad = (load(trained / "ctr" / number) for number in ("1", "2"))
    for rows in (1, 20):
        with open_source(scored_by(bad, rows)) as source:
            served_rows = ServedRows(source, SPEC, MonitorSettings(), "ctr")
            found = compare(served_rows, bad, good, MonitorSettings(), GateSettings())
        assert not found.is_worse
        assert json.dumps(found.to_dict(), allow_nan=False)
