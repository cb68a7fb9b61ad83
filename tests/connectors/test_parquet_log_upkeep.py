from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import CLICKED, SHOWN, clicked, rows_of, shown, table

from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_collecting import PartitionCollector, RollSettings
from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_erasure import erase
from connectors.parquet_log_topics import Identity, TopicFolder, open_topic
from connectors.parquet_log_upkeep import CompactSettings, Swept, compact, retain, sweep
from streamfm.errors import StreamError
from streamfm.locking import LockedError
from streamfm.stream.ports import Event


def fill(log: Path, sizes: list[int], topic: str = "shown", values: Callable[[int], bytes] = shown) -> TopicFolder:
    """Segments of so many records each; offsets and times are the numbers."""
    schema = SHOWN if topic == "shown" else CLICKED
    folder = open_topic(log, Identity("c", topic, "1"), schema)
    collector = PartitionCollector(folder, 0, schema.arrow, RollSettings())
    decoder, at = RecordDecoder(schema, topic), collector.position
    for size in sizes:
        events = [Event(topic, 0, number, number * 1_000, None, values(number)) for number in range(at, at + size)]
        at += size
        collector.add(decoder.decode(events).table, at)
        collector.roll()
    collector.close()
    return folder


def files_of(folder: TopicFolder) -> list[str]:
    return sorted(path.name for path in folder.path.glob("*.parquet"))


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


def test_a_record_of_the_future_does_not_hold_its_segment_for_ever(tmp_path: Path) -> None:
    folder = fill(tmp_path, [1])
    collector = PartitionCollector(folder, 0, SHOWN.arrow, RollSettings())
    far = round(datetime(2300, 1, 1, tzinfo=UTC).timestamp() * 1_000)
    collector.add(RecordDecoder(SHOWN, "shown").decode([Event("shown", 0, 1, far, None, shown(1))]).table, 2)
    collector.roll()
    collector.close()
    assert {0: 2} == retain(folder, timedelta(days=1), now=datetime.now(UTC) + timedelta(days=2))


def test_one_users_rows_and_their_clicks_are_gone_and_nobody_elses(tmp_path: Path) -> None:
    folders = [fill(tmp_path, [10, 10]), fill(tmp_path, [20], "clicked", clicked)]
    log = EventLog(tmp_path)
    mine = [f"e{number}" for number in range(20) if number % 7 == 3]
    compact(folders[0], CompactSettings())
    found = erase(log, "user_id", "u3")
    assert ({"shown": len(mine), "clicked": len(mine)}, 0) == (found.rows, found.kept)
    for topic, folder in zip(("shown", "clicked"), folders, strict=True):
        assert [f"e{number}" for number in range(20) if number % 7 != 3] == rows_of(log, topic)
        assert {f"{topic}/0": 20} == log.ends(topic)
        # Not in a single byte that is left.
        assert 1 == len(files_of(folder))
        assert len(mine) == folder.manifest().erased[0]["rows"]
    assert {"shown": 0, "clicked": 0} == erase(log, "user_id", "u3").rows


def test_what_could_not_be_read_loses_its_bytes_where_they_hold_the_user(tmp_path: Path) -> None:
    fill(tmp_path, [3], values=lambda number: b'{"user_id": "u%d", broken' % number)
    log = EventLog(tmp_path)
    assert {"shown": 1} == erase(log, "user_id", "u1").blanked
    rows = rows_of(log, "shown", "_error, _raw", errors=True)
    assert ("not_json: erased", None) == rows[1]
    assert b'{"user_id": "u2", broken' == rows[2][1]


def test_an_erasure_waits_for_readers_and_tells_of_those_that_stay(tmp_path: Path) -> None:
    folder = fill(tmp_path, [10])
    log = EventLog(tmp_path)
    waits: list[float] = []
    with log.snapshot("shown"):
        assert 1 == erase(log, "user_id", "u3", wait_s=0.5, sleep=waits.append).kept
        assert 2 == len(files_of(folder))
    assert 5 == len(waits)
    assert 0 == erase(log, "user_id", "u3").kept
    assert 1 == len(files_of(folder))


def test_an_erasure_that_was_cut_short_is_finished_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, [10, 10])
    fill(tmp_path, [20], "clicked", clicked)
    log = EventLog(tmp_path)
    left = 2

    def rename(self: Path, target: Path, original: Callable[..., Any] = Path.rename) -> Path:
        nonlocal left
        if target.suffix == ".parquet":
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
        renamed: Path = original(self, target)
        return renamed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        with pytest.raises(KeyboardInterrupt):
            erase(log, "user_id", "u3")
    erase(log, "user_id", "u3")
    for topic in ("shown", "clicked"):
        assert [f"e{number}" for number in range(20) if number % 7 != 3] == rows_of(log, topic)


def test_erasing_by_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, [3])
    with pytest.raises(
        StreamError, match=r"no impressions have a column 'uid'\nhint: columns: event_id, made, .*user_id"
    ):
        erase(EventLog(tmp_path), "uid", "u3")


def test_a_file_that_cannot_be_read_is_not_taken_for_one_without_the_user(tmp_path: Path) -> None:
    folder = fill(tmp_path, [3, 3])
    os.truncate(contents_of(folder).coverage.pieces[0].segment.path, 40)
    with pytest.raises(StreamError, match="whether it has rows to erase, nobody knows"):
        erase(EventLog(tmp_path), "user_id", "u1")


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
