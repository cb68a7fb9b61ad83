"""`streamfm collect` from files, and `streamfm log`. Kafka's is in tests/connectors/test_kafka_collecting.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from log_events import SHOWN, SPEC, clicked, shown

from connectors.parquet_log import EventLog
from connectors.parquet_log_collecting import PartitionCollector, RollSettings

Streamfm = Callable[..., Any]
COLLECT = ("collect", "--log", "log", "--features", "features.toml")
FILES = ("--impressions", "shown-*.jsonl", "--clicks", "clicks.jsonl")


@pytest.fixture
def days(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two days of impressions, clicks, and a specification; the working folder."""
    monkeypatch.chdir(tmp_path)
    Path("features.toml").write_text(SPEC.to_toml())
    for day in (0, 1):
        lines = [shown(number) for number in range(day * 10, day * 10 + 10)]
        Path(f"shown-{day}.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    Path("clicks.jsonl").write_bytes(b"\n".join(clicked(number) for number in range(0, 20, 4)) + b"\nbroken\n")
    return tmp_path


def rows(streamfm: Streamfm, topic: str) -> int:
    ((count,),) = duckdb.sql(f"SELECT count(*) FROM ({streamfm('log', 'sql', 'log', topic).out})").fetchall()
    return int(count)


def test_files_go_into_the_log_and_what_came_is_told(days: Path, streamfm: Streamfm) -> None:
    done = streamfm(*COLLECT, *FILES)
    assert (0, "") == (done.code, done.out)
    assert "clicks: 6 rows in 1 segments, 1 of them unreadable (not_json 1)" in done.err
    assert "impressions: 20 rows in 2 segments" in done.err
    assert "nothing new" in streamfm(*COLLECT, *FILES).err
    assert (20, 5) == (rows(streamfm, "impressions"), rows(streamfm, "clicks"))


def test_a_line_that_is_still_written_is_left_and_told(days: Path, streamfm: Streamfm) -> None:
    with Path("shown-1.jsonl").open("ab") as file:
        file.write(shown(20)[:-9])
    done = streamfm(*COLLECT, *FILES)
    assert "impressions: 20 rows in 2 segments\n" in done.err
    assert "shown-1.jsonl: the last line, at byte" in done.err


def test_a_log_is_shown_compacted_and_let_go(days: Path, streamfm: Streamfm) -> None:
    streamfm(*COLLECT, *FILES)
    with Path("shown-1.jsonl").open("ab") as file:
        file.write(shown(20) + b"\n")
    streamfm(*COLLECT, *FILES)
    found = json.loads(streamfm("log", "show", "log", "--json").out)
    assert [("clicks/0", 6, 1), ("impressions/0", 10, 1), ("impressions/1", 11, 2)] == [
        (it["partition"], it["rows"], it["files"]) for it in found["partitions"]
    ]
    assert "impressions: 2 files into 1; 2 superseded files stay for now" in streamfm("log", "compact", "log").out
    again = streamfm("log", "compact", "log", "--topic", "impressions", "--grace", "0s")
    assert "impressions: 0 files into 0; 2 superseded files removed\n" == again.out
    assert 21 == rows(streamfm, "impressions")
    assert "nothing is so old" in streamfm("log", "retain", "log", "--days", "1").out


def test_a_users_rows_are_erased(days: Path, streamfm: Streamfm) -> None:
    streamfm(*COLLECT, *FILES)
    done = streamfm("log", "erase", "log", "--column", "user_id", "--value", "u1")
    assert (0, "clicks: 1 rows erased\nimpressions: 3 rows erased\n") == (done.code, done.out)
    assert (17, 4) == (rows(streamfm, "impressions"), rows(streamfm, "clicks"))


def test_rows_that_a_collector_has_in_hand_are_told(days: Path, streamfm: Streamfm) -> None:
    streamfm(*COLLECT, *FILES)
    (folder,) = EventLog("log").folders("impressions")
    collector = PartitionCollector(folder, 1, SHOWN.arrow, RollSettings())
    try:
        collector.add(SHOWN.arrow.empty_table(), collector.position)
        done = streamfm("log", "erase", "log", "--column", "user_id", "--value", "u1")
        assert 0 == done.code
        assert "1 partitions are being collected: what is in hand comes after this; run it again then" in done.err
    finally:
        collector.close()


def test_damage_is_shown_and_the_exit_code_tells(days: Path, streamfm: Streamfm) -> None:
    streamfm(*COLLECT, *FILES)
    assert 0 == streamfm("log", "show", "log").code
    (segment,) = Path("log").rglob("clicks-0-*.parquet")
    os.truncate(segment, 30)
    done = streamfm("log", "show", "log")
    assert (1, True) == (done.code, f"{segment.name} is no whole Parquet file" in done.err)
    refused = streamfm("log", "sql", "log", "clicks")
    assert (1, True) == (refused.code, "hint: restore the files" in refused.err)
    assert 0 == streamfm("log", "sql", "log", "clicks", "--skip-damaged").code


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --features FILE, or --model REFERENCE"),
        (("--features", "features.toml", "--until-end"), "--until-end does nothing with files"),
        (("--features", "features.toml", "-b", "x:1", "--impressions", "a,b"), "name one topic each"),
        (("--features", "features.toml", "--impressions", "no*.jsonl"), "no*.jsonl: no file has such a name"),
        (("--features", "features.toml", "--impressions", "a.jsonl"), "a.jsonl: No such file or directory"),
        (("--features", "features.toml", "--also", "x=NUMBERS"), "input 'x'"),
        (("--features", "features.toml", "--roll-s", "0"), "roll_s is 0.0, expected more than 0"),
    ],
)
def test_wrong_use_is_refused_with_a_word(days: Path, streamfm: Streamfm, options: tuple[str, ...], said: str) -> None:
    done = streamfm("collect", "--log", "log", *options)
    assert done.code in (1, 2)
    assert said in done.err


def test_a_specification_without_an_event_id_is_refused_with_the_way_out(days: Path, streamfm: Streamfm) -> None:
    Path("features.toml").write_text(Path("features.toml").read_text().replace('event_id = "event_id"\n', ""))
    done = streamfm(*COLLECT, *FILES)
    assert (1, True) == (done.code, "features.toml has no event_id" in done.err)
    assert 0 == streamfm(*COLLECT, *FILES, "--event-id", "event_id").code


def test_a_models_own_specification_will_do(folder: Path, streamfm: Streamfm) -> None:
    files = ("--impressions", "tomorrow.parquet", "--clicks", "")
    done = streamfm("collect", "--log", "log", "--model", "models/ctr@champion", *files)
    assert (0, True) == (done.code, "impressions: 500 rows" in done.err), done.err
    assert 500 == rows(streamfm, "impressions")
