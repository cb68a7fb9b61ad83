"""`streamfm monitor` on a log that a published model has served."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from connectors.parquet_log import EventLog
from streamfm.bundle import read_manifest
from streamfm.features import FeatureSpec
from streamfm.pipeline import PipelineSettings, train
from streamfm.registry import Registry
from streamfm.scoring import load
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import simulate_events

from .conftest import Streamfm

SPEC = FeatureSpec.from_toml("""
    format = 1
    label = "clicked"
    group = "user_id"
    event_time = "ts"
    event_id = "event_id"
    [inputs]
    user_id = "VARCHAR"
    app_id = "VARCHAR"
    [features]
    user_id.kind = "categorical"
    app_id.kind = "categorical"
""")


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """models/ctr/1, models/ctr/2 (champion), and what both served; version 2 has learnt that everything is clicked."""
    folder = tmp_path_factory.mktemp("monitored")
    events = simulate_events(4_000, seed=3, users=100, apps=20).drop_columns(["true_probability"])
    # In CSV they look like numbers, and are none.
    users = pc.binary_join_element_wise("1", pc.utf8_slice_codeunits(events["user_id"], len("user-")), ".50", "")
    events = events.set_column(events.column_names.index("user_id"), "user_id", users)
    settings = PipelineSettings(
        model=ModelSettings(factors=2, hidden=(4,)),
        training=TrainSettings(max_epochs=2, batch_size=128, threads=1),
        name="ctr",
    )
    registry, learnt = Registry(folder / "models"), events.slice(0, 2_000)
    mistaken = learnt["clicked"].to_numpy() | (np.arange(2_000) % 3 != 0)
    for clicked in (learnt["clicked"], pa.chunked_array([mistaken.astype(np.int32)])):
        table = learnt.set_column(learnt.column_names.index("clicked"), "clicked", clicked)
        train(SPEC, table, folder / "new", settings=settings)
        registry.publish(folder / "new", "ctr", alias="champion")
    shown = events.slice(2_000)
    versions = np.repeat([1, 2], 1_000)
    scorers = [load(folder / "models" / "ctr" / str(version)) for version in (1, 2)]
    scores = [scorer.score(shown.slice(1_000 * part, 1_000)) for part, scorer in enumerate(scorers)]
    served = shown.drop_columns(["clicked"]).append_column("score", pa.array(np.concatenate(scores)))
    served = served.append_column("model", pa.array(["ctr"] * 2_000)).append_column("version", pa.array(versions))
    clicks = shown.filter(pc.equal(shown["clicked"], 1)).select(["event_id", "ts"])
    # Something happens later, so that all of them are closed.
    late = pa.array(
        [pc.add(pc.max(shown["ts"]), pa.scalar(7_200_000_000, pa.duration("us"))).as_py()], shown["ts"].type
    )
    clicks = pa.concat_tables([clicks, pa.table({"event_id": ["nothing"], "ts": late}).cast(clicks.schema)])
    last = served.slice(0, 1).set_column(served.column_names.index("ts"), "ts", late)
    last = last.set_column(0, "event_id", pa.array(["last"])) if served.column_names[0] == "event_id" else last
    pq.write_table(pa.concat_tables([served, last]), folder / "shown.parquet")
    pq.write_table(clicks, folder / "clicks.parquet")
    return folder


@pytest.fixture
def here(monitored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    copy = Path(shutil.copytree(monitored, tmp_path / "work"))
    monkeypatch.chdir(copy)
    return copy


def adopt(models: Path, version: int, parent: int) -> None:
    """Make a version say that it was trained on from another."""
    folder = models / "ctr" / str(version)
    (folder / "manifest.json").write_bytes(replace(read_manifest(folder), parent=f"ctr/{parent}").to_bytes())


TABLES = ("--impressions", "shown.parquet", "--clicks", "clicks.parquet", "--window", "1h")


def test_it_tells_versions_periods_and_stability(here: Path, streamfm: Streamfm) -> None:
    done = streamfm("monitor", "models/ctr", *TABLES, "--bucket", "1d")
    assert done.code == 0, done.err
    for title in ("by version", "by period", "stability, since "):
        assert title in done.out
    told = json.loads(streamfm("monitor", "models/ctr", *TABLES, "--json").out)
    assert [(one["version"], one["rows"]) for one in told["versions"]] == [("1", 1_000), ("2", 1_000)]
    first, second = (one["calibration"] for one in told["versions"])
    assert first == pytest.approx(1.0, abs=0.25)
    assert second > 2
    assert {one["name"] for one in told["stability"]} == {"score", "user_id", "app_id"}
    assert next(one for one in told["stability"] if one["name"] == "score")["verdict"] == "shifted"
    assert told["comparison"] is None
    assert told["labels"]["closed"] == 2_000
    assert (told["outcome"], told["refusal"]) == ("measured", None)


def test_a_row_that_cannot_be_measured_is_left_out_and_told(here: Path, streamfm: Streamfm) -> None:
    shown = pq.read_table("shown.parquet")
    apps = ["x" * (1 << 20) + "x", *shown["app_id"].to_pylist()[1:]]
    pq.write_table(shown.set_column(shown.column_names.index("app_id"), "app_id", pa.array(apps)), "shown.parquet")
    done = streamfm("monitor", "models/ctr", *TABLES)
    assert done.code == 0, done.err
    event_id = shown["event_id"][0].as_py()
    assert "1 row left out: feature 'app_id': column 'app_id' holds 1,048,577 bytes" in done.err
    assert f"as in event '{event_id}'" in done.err
    told = json.loads(streamfm("monitor", "models/ctr", *TABLES, "--json").out)
    assert [(one["rows"], one["event_id"]) for one in told["left_out"]] == [(1, event_id)]
    assert [(one["version"], one["rows"]) for one in told["versions"]] == [("1", 999), ("2", 1_000)]


def test_a_worse_version_is_named_and_rolled_back_on_request_only(here: Path, streamfm: Streamfm) -> None:
    registry = Registry(here / "models")
    adopt(here / "models", 2, parent=1)
    told = streamfm("monitor", "models/ctr@champion", *TABLES)
    assert told.code == 3, told.err
    assert "version 2 against version 1: +" in told.out
    assert "hint: streamfm models promote models/ctr/1 rolls back" in told.err
    assert registry.current("ctr") == 2

    done = streamfm("monitor", "models/ctr", *TABLES, "--against", "1", "--rollback")
    assert done.code == 3
    assert "models/ctr@champion → 1" in done.err
    assert registry.current("ctr") == 1

    again = streamfm("models", "rollback", "models/ctr")
    assert again.code == 1
    assert registry.current("ctr") == 1


@pytest.mark.parametrize(("serving", "other"), [(1, 2), (2, 2), (2, 1)])
def test_it_rolls_back_to_ancestors_only(here: Path, streamfm: Streamfm, serving: int, other: int) -> None:
    registry = Registry(here / "models")
    registry.promote("ctr", serving)
    told = streamfm("monitor", "models/ctr", *TABLES, "--against", str(other), "--rollback")
    assert told.code == 1
    assert f"ctr/{other} is not known to be an ancestor of ctr/{serving}" in told.err
    assert "hint: without --rollback" in told.err
    assert registry.current("ctr") == serving
    assert streamfm("monitor", "models/ctr", *TABLES, "--against", str(other)).code in (0, 3)


def test_a_parent_of_another_registry_is_none(here: Path, streamfm: Streamfm) -> None:
    adopt(here / "models", 1, parent=2)
    Registry(here / "models").promote("ctr", 1)
    done = streamfm("monitor", "models/ctr", *TABLES, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["comparison"] is None


def test_a_version_without_a_parent_is_not_rolled_back(here: Path, streamfm: Streamfm) -> None:
    done = streamfm("monitor", "models/ctr", *TABLES, "--rollback")
    assert done.code == 0
    assert "has no parent to roll back to" in done.err
    assert Registry(here / "models").current("ctr") == 2


def test_the_event_log_is_read_as_tables_are(here: Path, streamfm: Streamfm) -> None:
    log = EventLog("log")
    shown = pq.read_table("shown.parquet").rename_columns(
        [name.replace("version", "model_version") for name in pq.read_schema("shown.parquet").names]
    )
    log.append("impressions", shown)
    log.append("clicks", pq.read_table("clicks.parquet"), kind="clicks")
    told = json.loads(streamfm("monitor", "models/ctr", "--log", "log", "--window", "1h", "--json").out)
    expected = json.loads(streamfm("monitor", "models/ctr", *TABLES, "--json").out)
    assert told["versions"] == expected["versions"]


def test_since_leaves_out_what_is_older(here: Path, streamfm: Streamfm) -> None:
    times = pq.read_table("shown.parquet")["ts"].to_pylist()
    since = f"{times[1_500]:%Y-%m-%dT%H:%M:%S.%f}"
    told = json.loads(streamfm("monitor", "models/ctr", *TABLES, "--since", since, "--json").out)
    assert [(one["version"], one["rows"]) for one in told["versions"]] == [("2", 500)]
    nothing = streamfm("monitor", "models/ctr", *TABLES, "--since", "1s")
    assert nothing.code == 0
    assert nothing.out.startswith("held: ")
    told = json.loads(streamfm("monitor", "models/ctr", *TABLES, "--since", "1s", "--json").out)
    assert (told["outcome"], told["refusal"]["reason"]) == ("nothing", "nothing_new")


def test_declared_types_decide_how_csv_is_read(here: Path, streamfm: Streamfm) -> None:
    shown = pq.read_table("shown.parquet").drop_columns(["installed_categories", "genres"])
    pa.csv.write_csv(shown, "shown.csv")
    read = streamfm("monitor", "models/ctr", "--impressions", "shown.csv", *TABLES[2:], "--against", "1", "--json")
    assert read.code == 3, read.err
    expected = streamfm("monitor", "models/ctr", *TABLES, "--against", "1", "--json")
    assert json.loads(read.out)["comparison"]["skew"] < 1e-5
    assert json.loads(read.out)["stability"] == json.loads(expected.out)["stability"]


def test_rows_count_by_the_weights_they_were_shown_with(here: Path, streamfm: Streamfm) -> None:
    shown = pq.read_table("shown.parquet")
    shown = shown.append_column("importance", pa.array(np.arange(shown.num_rows) % 2, pa.float32()))
    pq.write_table(shown, "shown.parquet")
    spec = replace(SPEC, weight="importance")
    settings = PipelineSettings(
        model=ModelSettings(factors=2, hidden=(4,)), training=TrainSettings(max_epochs=1, threads=1), name="ctr"
    )
    clicked = pa.array(np.arange(shown.num_rows) % 3 == 0, pa.int32())
    train(spec, shown.append_column("clicked", clicked), here / "new", settings=settings)
    Registry("models").publish("new", "ctr", alias="champion")

    done = streamfm("monitor", "models/ctr", *TABLES, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["overall"]["rows"] == 1_000
    # Where clicks give weights, that is what the column holds.
    pq.write_table(shown.drop_columns(["importance"]), "shown.parquet")
    weighted = streamfm("monitor", "models/ctr", *TABLES, "--positive", "click=2", "--json")
    assert weighted.code == 0, weighted.err
    assert json.loads(weighted.out)["overall"]["rows"] == 2_000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--since", "yesterday"), "--since 'yesterday': expected 24h"),
        (("--score", "points"), "column 'points' not found"),
        (("--against", "7"), "7"),
        (("--error", "0"), "lineage_alpha is 0"),
        (("--recent", "0s"), "recent_s is 0"),
    ],
)
def test_what_cannot_be_done_is_said(here: Path, streamfm: Streamfm, arguments: tuple[str, ...], message: str) -> None:
    done = streamfm("monitor", "models/ctr", *TABLES, *arguments)
    assert done.code in (1, 2)
    assert message in done.err
    assert "Traceback" not in done.err


def test_stalled_clicks_hold_it(here: Path, streamfm: Streamfm) -> None:
    clicks = pq.read_table("clicks.parquet")
    pq.write_table(clicks.sort_by("ts").slice(0, 5), "clicks.parquet")
    done = streamfm("monitor", "models/ctr", *TABLES)
    assert done.code == 4
    assert done.out.startswith("held: ")
    as_json = streamfm("monitor", "models/ctr", *TABLES, "--json")
    assert as_json.code == 4
    told = json.loads(as_json.out)
    assert (told["outcome"], told["refusal"]["reason"]) == ("held", "stalled")
    assert "behind the impressions" in told["refusal"]["message"]
    assert told["labels"]["impressions"] == 2_001
