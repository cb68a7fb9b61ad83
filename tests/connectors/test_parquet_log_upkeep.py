from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import SHOWN, files_of, fill, rows_of, shown, table

from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_collecting import PartitionCollector, RollSettings
from connectors.parquet_log_compaction import CompactSettings, compact
from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_erasure import erase
from connectors.parquet_log_upkeep import Swept, newest_time, retain, sweep
from streamfm.locking import LockedError
from streamfm.stream.ports import Event


@settings(max_examples=15)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(1, 20))
def test_compaction_leaves_the_rows_and_only_joins(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], target: int
) -> None:
    folder = fill(tmp_path_factory.mktemp("log"), sizes)
    log = EventLog(folder.path.parents[1])
    before = rows_of(log, "shown", "event_id, _offset, price, tags")
    made, used = compact(folder, CompactSettings(target_rows=target))
    assert before == rows_of(log, "shown", "event_id, _offset, price, tags")
    assert len(sizes) - used + len(made) == len(contents_of(folder).coverage.pieces)
    assert all(pq.read_metadata(it.path).num_rows <= target for it in made)
    assert used == sweep(folder, grace_s=-1.0).removed
    assert before == rows_of(log, "shown", "event_id, _offset, price, tags")
    assert {"shown/0": sum(sizes)} == log.ends("shown")


def test_a_reader_goes_on_over_a_compaction_and_holds_the_old_files(tmp_path: Path) -> None:
    folder = fill(tmp_path, [5, 5, 5])
    log = EventLog(tmp_path)
    with log.snapshot("shown") as snapshot:
        relation = snapshot.relation("shown")
        compact(folder, CompactSettings())
        assert Swept(0, 3) == sweep(folder, grace_s=-1.0)
        assert [(15,)] == duckdb.sql(f"SELECT count(*) FROM ({relation})").fetchall()
    assert Swept(0, 3) == sweep(folder, grace_s=600.0)
    assert Swept(3, 0) == sweep(folder, grace_s=-1.0)
    assert 1 == len(files_of(folder))


def test_a_damaged_segment_is_stood_for_by_those_that_it_was_made_of(tmp_path: Path) -> None:
    folder = fill(tmp_path, [5, 5])
    (made,), _ = compact(folder, CompactSettings())
    os.truncate(made.path, 50)
    contents = contents_of(folder)
    assert {made.path} == contents.damaged.keys()
    assert [5, 10] == [piece.segment.end for piece in contents.coverage.pieces]


def test_segments_of_other_columns_are_joined_and_of_other_types_are_not(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append("shown", table(range(3)))
    log.append("shown", table(range(3, 6), country=pa.array(["de"] * 3)))
    log.append("shown", table(range(6, 9), country=pa.array([49] * 3)))
    (folder,) = log.folders("shown")
    before = rows_of(log, "shown", "event_id, CAST(country AS VARCHAR)")
    made, used = compact(folder, CompactSettings())
    assert (1, 2) == (len(made), used)
    assert before == rows_of(log, "shown", "event_id, CAST(country AS VARCHAR)")


def test_compaction_ends_before_a_gap(tmp_path: Path) -> None:
    folder = fill(tmp_path, [5, 5, 5, 5, 5])
    contents_of(folder).coverage.pieces[2].segment.path.unlink()
    made, _ = compact(folder, CompactSettings())
    assert [(0, 10), (15, 25)] == [(it.start, it.end) for it in made]
    assert ["shown/0: offsets 10 to 15 are missing"] == contents_of(folder).problems()


def test_collectors_go_on_after_everything_was_let_go(tmp_path: Path) -> None:
    folder = fill(tmp_path, [5, 5])
    long_after = datetime(2100, 1, 1, tzinfo=UTC)
    assert {0: 10} == retain(folder, timedelta(days=1), now=long_after)
    assert [] == rows_of(tmp_path, "shown")
    assert Swept(2, 0) == sweep(folder, grace_s=-1.0)
    fill(tmp_path, [3])
    assert ["e10", "e11", "e12"] == rows_of(tmp_path, "shown")
    assert {"shown/0": 13} == EventLog(tmp_path).ends("shown")


def test_retention_goes_by_kafkas_time_and_by_whole_segments(tmp_path: Path) -> None:
    folder = fill(tmp_path, [10, 10, 10])
    # Records came at seconds 0 to 29 after 1970.
    now = datetime.fromtimestamp(25, UTC)
    assert {} == retain(folder, timedelta(seconds=16), now=now)
    assert {0: 10} == retain(folder, timedelta(seconds=15), now=now)
    assert [f"e{number}" for number in range(10, 30)] == rows_of(tmp_path, "shown")
    assert {} == retain(folder, timedelta(seconds=15), now=now)


def test_compaction_leaves_days_apart_so_that_retention_lets_them_go(tmp_path: Path) -> None:
    folder = fill(tmp_path, [2, 2, 1, 3, 2, 2], every=timedelta(hours=6))
    made, used = compact(folder, CompactSettings())
    assert ([(0, 4), (4, 8), (8, 12)], 6) == ([(it.start, it.end) for it in made], used)
    fill(tmp_path, [1, 1], every=timedelta(hours=6))
    made, _ = compact(folder, CompactSettings())
    assert [(12, 14)] == [(it.start, it.end) for it in made]
    fourth_day = datetime(1970, 1, 4, tzinfo=UTC)
    assert {0: 4} == retain(folder, timedelta(days=2), now=fourth_day)
    assert [f"e{number}" for number in range(4, 14)] == rows_of(tmp_path, "shown")


def test_rows_without_times_stay_as_old_as_their_files_were(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    old = datetime(2026, 1, 1, 12, tzinfo=UTC)
    for number in range(3):
        segment = log.append("shown", table(range(2 * number, 2 * number + 2)))
        os.utime(segment.path, (old.timestamp() + number, old.timestamp() + number))
    (folder,) = log.folders("shown")
    (made,), _ = compact(folder, CompactSettings())
    assert old + timedelta(seconds=2) == newest_time(made)
    # Superseded a moment ago all the same.
    assert Swept(0, 3) == sweep(folder, grace_s=600.0)
    erase(log, "user_id", "u3")
    assert [old + timedelta(seconds=2)] == [newest_time(it.segment) for it in contents_of(folder).coverage.pieces]
    assert {0: 6} == retain(folder, timedelta(days=1), now=old + timedelta(days=2))


def test_a_record_of_the_future_does_not_hold_its_segment_for_ever(tmp_path: Path) -> None:
    folder = fill(tmp_path, [1])
    collector = PartitionCollector(folder, 0, SHOWN.arrow, RollSettings())
    far = round(datetime(2300, 1, 1, tzinfo=UTC).timestamp() * 1_000)
    collector.add(RecordDecoder(SHOWN, "shown").decode([Event("shown", 0, 1, far, None, shown(1))]).table, 2)
    collector.roll()
    collector.close()
    assert {0: 2} == retain(folder, timedelta(days=1), now=datetime.now(UTC) + timedelta(days=2))


def test_upkeep_is_one_at_a_time(tmp_path: Path) -> None:
    folder = fill(tmp_path, [3, 3])
    with folder.upkeep_lock():
        for work in (
            lambda: compact(folder, CompactSettings()),
            lambda: retain(folder, timedelta(0), now=datetime.now(UTC)),
            lambda: sweep(folder),
        ):
            with pytest.raises(LockedError, match="upkeep is under way"):
                work()
