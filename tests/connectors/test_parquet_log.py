from __future__ import annotations

import os
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from log_events import NOON, rows_of, table

from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_schema import of_table
from connectors.parquet_log_topics import Identity, open_topic
from streamfm.errors import StreamError
from streamfm.locking import LockedError


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """Three segments of impressions, and one of another partition."""
    log = EventLog(tmp_path / "log")
    for start in (0, 10, 20):
        log.append("shown", table(range(start, start + 10)))
    log.append("shown", table(range(100, 105)), partition=1)
    return log


def names(*numbers: int) -> list[str]:
    return [f"e{number}" for number in numbers]


def test_rows_come_back_with_their_partition_and_offset(log: EventLog) -> None:
    rows = rows_of(log, "shown", "event_id, user_id, ts, _partition, _offset, _timestamp")
    assert ("e12", "u5", NOON.replace(second=12), "shown/0", 12, None) == rows[12]
    assert ("e104", "u6", NOON.replace(minute=1, second=44), "shown/1", 4, None) == rows[-1]
    assert 35 == len(rows)
    assert {"shown/0": 30, "shown/1": 5} == log.ends("shown")
    assert ("shown",) == log.topics()


def test_a_column_that_a_file_has_not_is_null_and_types_are_the_manifests(log: EventLog) -> None:
    log.append("shown", table(range(30, 32), country=pa.array(["de", None])).drop(["user_id"]))
    rows = rows_of(log, "shown", "event_id, user_id, country, typeof(country)")
    assert [("e29", "u1", None, "VARCHAR"), ("e30", None, "de", "VARCHAR"), ("e31", None, None, "VARCHAR")] == rows[
        29:32
    ]


def test_a_topic_of_which_nothing_came_yet_is_a_relation_without_rows(tmp_path: Path) -> None:
    schema = of_table(table(range(0)), "clicks", id="event_id", time="ts")
    open_topic(tmp_path, Identity("c", "clicked", "1"), schema)
    assert [] == rows_of(tmp_path, "clicked", "event_id, ts, _offset")
    assert {} == EventLog(tmp_path).ends("clicked")


def test_a_topic_that_is_not_there_is_refused_by_name(log: EventLog) -> None:
    with pytest.raises(StreamError, match=r"has no topic 'clicked'\nhint: its topics: shown"):
        log.snapshot("clicked")


@pytest.mark.parametrize("harm", ["cut", "removed"])
def test_a_segment_that_is_cut_or_gone_is_refused_by_name_or_left_out(log: EventLog, harm: str) -> None:
    path = contents_of(log.folders("shown")[0]).coverage.pieces[1].segment.path
    if harm == "cut":
        os.truncate(path, 100)
    else:
        path.unlink()
    with pytest.raises(StreamError, match=r"shown/0: offsets 10 to 20 are missing") as refused:
        log.relation("shown")
    assert (path.name in str(refused.value)) == (harm == "cut")
    with log.snapshot(damaged="skip") as snapshot:
        found = duckdb.sql(
            f"SELECT event_id FROM ({snapshot.relation('shown')}) ORDER BY _partition, _offset"
        ).fetchall()
    assert names(*range(10), *range(20, 30), *range(100, 105)) == [name for (name,) in found]


def test_of_ranges_that_overlap_each_row_is_read_once(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    folder = log.folders("shown")[0]
    first, second, *_ = (piece.segment.path for piece in contents_of(folder).coverage.pieces)
    # As after somebody has copied two logs into one folder.
    wide = EventLog(log.folder.parent / "other")
    wide.append("shown", table(range(15)))
    copied = contents_of(wide.folders("shown")[0]).coverage.pieces[0].segment.path
    (folder.path / copied.name).write_bytes(copied.read_bytes())
    assert [*range(30), *range(5)] == rows_of(log, "shown", "_offset")
    assert "shown/0: offsets 10 to 15 are there twice" in caplog.text
    first.unlink()
    assert [*range(30), *range(5)] == rows_of(log, "shown", "_offset")
    second.unlink()
    with pytest.raises(StreamError, match="offsets 15 to 20 are missing"):
        log.relation("shown")


def test_a_topic_made_anew_has_another_folder_and_other_partitions(log: EventLog) -> None:
    schema = of_table(table(range(0)), "impressions", id="event_id", time="ts")
    again = open_topic(log.folder, Identity("local", "shown", "2"), schema)
    assert "shown@2" == again.manifest().label
    assert again.path != log.folders("shown")[0].path
    assert open_topic(log.folder, Identity("local", "shown", "2"), schema).path == again.path
    assert 2 == len(log.folders("shown"))
    assert 35 == len(rows_of(log, "shown"))
    with log.snapshot("shown") as snapshot:
        assert {"shown/0", "shown/1"} == snapshot.finished("shown")


def test_a_topic_of_another_cluster_finishes_none(log: EventLog) -> None:
    schema = of_table(table(range(0)), "impressions", id="event_id", time="ts")
    open_topic(log.folder, Identity("elsewhere", "shown", "2"), schema)
    with log.snapshot("shown") as snapshot:
        assert set() == snapshot.finished("shown")


def test_a_log_of_impressions_takes_no_clicks_under_their_name(log: EventLog) -> None:
    with pytest.raises(StreamError, match="holds impressions, not clicks"):
        log.append("shown", table(range(3)), kind="clicks")


def test_a_partition_has_one_writer(log: EventLog) -> None:
    folder = log.folders("shown")[0]
    with (
        folder.partition_lock(0),
        pytest.raises(LockedError, match=rf"partition 0 of shown is collected already: process {os.getpid()}"),
    ):
        log.append("shown", table(range(3)))
    log.append("shown", table(range(30, 33)))
    assert {"shown/0": 33, "shown/1": 5} == log.ends("shown")


def test_a_manifest_of_another_format_is_refused_by_name(log: EventLog) -> None:
    path = log.folders("shown")[0].manifest_path
    path.write_text(path.read_text().replace('"format": 1', '"format": 9'))
    with pytest.raises(StreamError, match=r"manifest.json: format 9, expected 1"):
        log.topics()


@pytest.mark.parametrize("name", ["a/b", "..", "", "-" * 300])
def test_names_that_would_leave_the_log_are_refused(tmp_path: Path, name: str) -> None:
    schema = of_table(table(range(0)), "impressions", id="event_id", time="ts")
    with pytest.raises(StreamError, match="cannot name a folder"):
        open_topic(tmp_path, Identity(name, "shown", "1"), schema)
