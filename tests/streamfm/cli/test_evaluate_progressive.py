"""`streamfm evaluate --progressive`: what continuous training would have been worth."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

SMALL = ("--factors", "2", "--hidden", "4", "--epochs", "1", "--batch-size", "256")


def test_a_model_is_trained_on_the_first_half_and_goes_on_learning(folder: Path, streamfm) -> None:
    options = (
        "--features",
        "features.toml",
        "--shards",
        "5",
        "--modes",
        "frozen,incremental,full",
        "--full-every",
        "2",
    )
    done = streamfm("evaluate", "--progressive", "events.parquet", *options, *SMALL)
    assert 0 == done.code
    assert done.out.startswith("events.parquet: 1,250 rows, 2026-01-")
    assert "in 5 shards of as many rows each, after 1,250 rows of warm start" in done.out
    for word in ("auc", "calibration", "log loss against frozen", "s a round", "log_loss over time"):
        assert word in done.out
    lines = [line for line in done.out.splitlines() if any(mode in line for mode in ("│ frozen", "│ incr", "│ full"))]
    assert ["frozen", "incremental", "full"] == [line.split("│")[1].strip() for line in lines]
    assert ["0", "5", "2"] == [line.split("│")[-3].strip() for line in lines]


def test_a_model_that_is_there_goes_on_with_the_rows_it_has_not_seen(folder: Path, streamfm) -> None:
    both = pa.concat_tables([pq.read_table("events.parquet"), pq.read_table("tomorrow.parquet")])
    pq.write_table(both, "log.parquet")
    done = streamfm("evaluate", "--progressive", "models/ctr@champion", "log.parquet", "--interval", "6h", "--json")
    found = json.loads(done.out)
    assert (2_500, 500) == (found["warm_start_rows"], found["rows"])
    assert [0, 6, 12, 18] == sorted({int(s["begins"][11:13]) // 6 * 6 for s in found["shards"]})
    plain = json.loads(streamfm("evaluate", "models/ctr@champion", "tomorrow.parquet", "--json").out)
    frozen = found["modes"][0]["evaluation"]["measures"]
    assert plain["measures"]["auc"]["value"] == pytest.approx(frozen["auc"]["value"], abs=1e-9)


def test_rows_that_the_model_has_seen_are_not_predicted(folder: Path, streamfm) -> None:
    done = streamfm("evaluate", "--progressive", "models/ctr@champion", "events.parquet")
    assert (1, "") == (done.code, done.out)
    assert "events.parquet: no row is later than 2026-" in done.err
    assert "hint: give a log that goes on after that" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["models/ctr/1"], "Missing argument 'DATA...'"),
        (["models/ctr/1", "--progressive"], "Missing argument 'DATA...'"),
        (["models/ctr/1", "events.parquet", "--delay", "5m"], "--delay does nothing without --progressive"),
        (["models/ctr/1", "events.parquet", "--progressive", "--threads", "2"], "--threads does nothing with"),
        (["models/ctr/1", "events.parquet", "--progressive", "--warm-start", ".6"], "--warm-start does nothing with a"),
        (["events.parquet", "--progressive", "--features", "f", "--modes", "melted"], "'melted': expected some of"),
        (["events.parquet", "--progressive", "--features", "f", "--modes", "full,full"], "modes are full, full"),
        (["a", "--progressive", "--features", "f", "--shards", "9", "--interval", "5m"], "expected one of the two"),
        (["a", "--progressive", "--features", "f", "--replay", "-1"], "replay_ratio is -1.0"),
    ],
)
def test_wrong_usage(folder: Path, streamfm, arguments: list[str], said: str) -> None:
    done = streamfm("evaluate", *arguments)
    assert (2, "") == (done.code, done.out)
    assert said in done.err
