"""`streamfm retrain`, once and as a service, and what `models show` tells of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from connectors.parquet_log import EventLog
from connectors.parquet_log_schema import of_table
from connectors.parquet_log_topics import Identity, open_topic
from streamfm.cli.label_sources import LabelSource
from streamfm.registry import Registry
from streamfm.testing import AppStore

SMALL = ("--factors", "2", "--hidden", "4", "--max-epochs", "1", "--batch-size", "256", "--threads", "1")
ROUND = ("--impressions", "shown/*.parquet", "--clicks", "clicks/*.parquet", "--no-int8", "--least-rows", "50")


@pytest.fixture
def shop(folder: Path, streamfm: Any) -> Path:
    """models/fresh/1 of a log that goes on in shown/ and clicks/."""
    events = AppStore(seed=3, users=100, apps=20).events(4_000, random=np.random.default_rng(1), days=8)
    events = events.drop_columns(["true_probability"])
    pq.write_table(events.slice(0, 3_000), "past.parquet")
    (folder / "shown").mkdir()
    (folder / "clicks").mkdir()
    pq.write_table(events.slice(3_000).drop_columns(["clicked"]), "shown/0.parquet")
    clicks = events.slice(3_000).filter(pc.equal(events.slice(3_000)["clicked"], 1)).select(["event_id", "ts"])
    pq.write_table(clicks.append_column("kind", pa.array(["click"] * clicks.num_rows)), "clicks/0.parquet")
    text = (folder / "features.toml").read_text()
    (folder / "features.toml").write_text(text if "event_id =" in text else f'event_id = "event_id"\n{text}')
    assert streamfm("train", "past.parquet", "--out", "models/fresh", *SMALL).code == 0
    return folder


def test_a_round_is_published_told_and_shown(shop: Path, streamfm: Any) -> None:
    done = streamfm("retrain", "models/fresh", *ROUND)

    assert done.code == 0, done.err
    assert "published: " in done.out
    assert "fresh/2 serves as @champion" in done.out
    assert "log_loss" in done.out
    shown = streamfm("models", "show", "models/fresh@champion").out
    assert "fresh/1" in shown
    assert "the round that made it" in shown
    assert "the gate's verdict" in shown


def test_json_tells_everything(shop: Path, streamfm: Any) -> None:
    done = streamfm("retrain", "models/fresh", *ROUND, "--json", "--dry-run")

    found = json.loads(done.out)
    assert (done.code, found["outcome"], found["version"]) == (0, "passed", None)
    assert found["counts"]["positives"] > 0
    assert found["verdict"]["checks"]


def test_exit_codes_tell_refused_from_held(shop: Path, streamfm: Any) -> None:
    assert streamfm("retrain", "models/fresh", *ROUND, "--learning-rate", "0.5", "--replay-ratio", "0").code == 3
    pq.write_table(pq.read_table("clicks/0.parquet").slice(0, 0), "clicks/0.parquet")

    held = streamfm("retrain", "models/fresh", *ROUND)

    assert held.code == 4
    assert "not one click" in held.out
    assert "hint: are clicks collected?" in held.err


def test_kinds_of_clicks_need_a_column_for_weights(shop: Path, streamfm: Any) -> None:
    done = streamfm("retrain", "models/fresh", *ROUND, "--click-kind", "kind", "--positive", "click=2")

    assert done.code == 1
    assert "weight" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "name a log: --log LOG"),
        ((*ROUND, "--every", "1m", "--full"), "for one round"),
        ((*ROUND, "--every", "soon"), "expected a number and its unit"),
        ((*ROUND, "--since", "yesterday"), "expected a time"),
        ((*ROUND, "--positive", "install=much"), "expected KIND=WEIGHT"),
        ((*ROUND, "--hold-out", "1"), "window_share is 1"),
    ],
)
def test_wrong_usage_is_told(shop: Path, streamfm: Any, arguments: tuple[str, ...], says: str) -> None:
    done = streamfm("retrain", "models/fresh", *arguments)

    assert done.code == 2
    assert says in done.err


def test_the_service_makes_rounds_until_it_is_told_to_end(shop: Path) -> None:
    command = [sys.executable, "-m", "streamfm.cli", "retrain", "models/fresh", *ROUND, "--every", "1s"]
    service = subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        until = time.monotonic() + 120
        while Registry("models").current("fresh") == 1 and time.monotonic() < until:
            time.sleep(0.1)
        service.send_signal(signal.SIGTERM)
        out, _ = service.communicate(timeout=120)
    finally:
        service.kill()
    assert service.returncode == 0
    assert re.search(r"published: .*fresh/2 serves as @champion", out)


def test_the_defaults_in_the_help_are_those_of_the_settings(streamfm: Any) -> None:
    from streamfm.finetuning import FineTuneSettings
    from streamfm.gate import GateSettings
    from streamfm.retraining import RetrainSettings

    words = re.sub(r"\s+", " ", streamfm("retrain", "--help").out)
    told = {name: default for name, default in re.findall(r"--([a-z-]+)(?:(?! --)[^\[])*\[default: ([^\]]+)\]", words)}
    for settings, names in (
        (FineTuneSettings(), ("batch-size", "replay-ratio", "replay-weight", "distillation", "seed")),
        (GateSettings(), ("alpha", "margin")),
        (RetrainSettings(), ("least-rows", "keep")),
    ):
        for name in names:
            assert float(told[name]) == getattr(settings, name.replace("-", "_")), name
    assert float(told["hold-out"]) == RetrainSettings().window_share


def test_a_log_is_learnt_by_offsets_and_what_is_damaged_in_it_is_named(shop: Path, streamfm: Any) -> None:
    from connectors.parquet_log import EventLog

    log, shown = EventLog("log"), pq.read_table("shown/0.parquet")
    log.append("clicks", pq.read_table("clicks/0.parquet"), kind="clicks")
    log.append("impressions", shown.slice(0, 700))
    assert streamfm("retrain", "models/fresh", "--log", "log", *ROUND[4:]).code == 0
    # These come late, with times that the first round has closed.
    late = shown.slice(0, 200).set_column(0, "event_id", pa.array([f"late-{number}" for number in range(200)]))
    assert shown.column_names[0] == "event_id"
    log.append("impressions", pa.concat_tables([late, shown.slice(700)]))

    done = streamfm("retrain", "models/fresh", "--log", "log", *ROUND[4:], "--json", "--hold-out", "0.3")

    found = json.loads(done.out)
    facts: Any = Registry("models").show("fresh", 2).manifest.training
    before, after = facts["position"], found["position"]
    (shard,) = [name for name in after["offsets"] if name.startswith("impressions")]
    assert [ends["offsets"][shard] for ends in (before, after)] == [700, 1_200]
    # All that has closed, the late ones among it, without what the first round has learnt.
    times = pa.concat_tables([shown.slice(0, 700), late, shown.slice(700)])["ts"].to_numpy()
    until = np.datetime64(before["closed_until"].rstrip("Z"))
    closes = min(shown["ts"].to_numpy().max(), pq.read_table("clicks/0.parquet")["ts"].to_numpy().max())
    new = (np.arange(1_200) >= 700) | (times >= until)
    assert found["rows"]["learnt"] + found["rows"]["window"] == (new & (times < closes - np.timedelta64(30, "m"))).sum()

    segment = max(Path("log").rglob("impressions-*.parquet"))
    segment.write_bytes(segment.read_bytes()[:-100])
    refused = streamfm("retrain", "models/fresh", "--log", "log", *ROUND[4:])
    assert refused.code == 1
    assert segment.name in refused.err
    assert streamfm("retrain", "models/fresh", "--log", "log", *ROUND[4:], "--skip-damaged").code == 0


def test_the_partitions_of_a_click_topic_that_was_made_anew_are_finished(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    events = pa.table({"event_id": ["a"], "ts": pa.array([0], pa.timestamp("us"))})
    log.append("shown", events)
    log.append("clicked", events, kind="clicks")
    source = LabelSource(log=tmp_path, impressions="", clicks="", skip_damaged=False)
    with source.feed().relations() as relations:
        assert set() == set(relations.finished)
    schema = of_table(events, "clicks", id="event_id", time="ts")
    open_topic(tmp_path, Identity("local", "clicked", "2"), schema)
    with source.feed().relations() as relations:
        assert {"clicked/0"} == set(relations.finished)
