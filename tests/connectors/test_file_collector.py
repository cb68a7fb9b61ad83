from __future__ import annotations

import json
import logging
import os
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from log_events import CLICKED, NOON, SHOWN, clicked, rows_of, shown, table

from connectors.file_collector import collect_files
from connectors.kafka_collected_topics import Collected
from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_collecting import RollSettings
from connectors.parquet_log_compaction import CompactSettings, compact
from connectors.parquet_log_upkeep import sweep
from streamfm.errors import StreamError

WRITTEN = b"".join(shown(number) + b"\n" for number in range(4))


def collect(log: Path, *paths: Path, rows: int = 1_000_000) -> Collected:
    return collect_files(log, "shown", SHOWN, paths, stopping=lambda: False, roll=RollSettings(roll_rows=rows))


def write_lines(path: Path, numbers: range) -> Path:
    with path.open("ab") as file:
        file.writelines(shown(number) + b"\n" for number in numbers)
    return path


def named(numbers: range) -> list[str]:
    return [f"e{number}" for number in numbers]


def test_files_are_collected_once_each_and_go_on_when_they_grow(tmp_path: Path) -> None:
    log, first = tmp_path / "log", write_lines(tmp_path / "a.jsonl", range(10))
    second = write_lines(tmp_path / "b.jsonl", range(10, 15))
    assert {"shown": 15} == collect(log, first, second).rows
    assert {} == collect(log, second, first).rows
    write_lines(first, range(15, 20))
    assert {"shown": 5} == collect(log, first, second).rows
    assert sorted(named(range(20))) == sorted(rows_of(log, "shown"))
    assert {"shown/0", "shown/1"} == EventLog(log).ends("shown").keys()


def test_offsets_are_the_bytes_at_which_lines_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(shown(1) + b"\n\n" + b"broken\n" + shown(2))
    found = collect(tmp_path / "log", path)
    assert {("shown", "not_json"): 1} == found.errors
    length = len(shown(1))
    rows = rows_of(tmp_path / "log", "shown", "_offset, event_id, _raw", errors=True)
    assert [(0, "e1", None), (length + 2, None, b"broken"), (length + 9, "e2", None)] == rows


def test_a_parquet_file_is_collected_by_its_rows(tmp_path: Path) -> None:
    path, log = tmp_path / "a.parquet", tmp_path / "log"
    pq.write_table(table(range(5), stock=pa.array(range(5), pa.int32()), other=pa.array([0] * 5)), path)
    assert {"shown": 5} == collect(log, path).rows
    pq.write_table(table(range(8)), path)
    assert {"shown": 3} == collect(log, path, rows=2).rows
    assert named(range(8)) == rows_of(log, "shown")
    assert [(4, 4, "u4", NOON.replace(second=4))] == rows_of(log, "shown", "_offset, stock, user_id, ts")[4:5]
    assert {} == collect(log, path).rows


def later(found: pa.Table) -> pa.Table:
    return found.set_column(1, "ts", table(range(1, len(found) + 1))["ts"])


@pytest.mark.parametrize(
    "other",
    [table(range(10, 15)), table([*range(4), 9, *range(4, 9)]), later(table(range(5)))],
    ids=["as many", "more", "other times"],
)
def test_a_parquet_file_of_other_rows_is_refused_by_name(tmp_path: Path, other: pa.Table) -> None:
    path, log = tmp_path / "a.parquet", tmp_path / "log"
    pq.write_table(table(range(5)), path)
    collect(log, path)
    pq.write_table(other, path)
    with pytest.raises(
        StreamError, match=r"a.parquet: is another file: the event_id and ts of its first 5 rows are not"
    ) as refused:
        collect(log, path)
    assert "a file may only grow" in str(refused.value.hint)
    assert named(range(5)) == rows_of(log, "shown")


def test_a_parquet_file_that_is_written_in_another_way_is_the_same_one(tmp_path: Path) -> None:
    path, log = tmp_path / "a.parquet", tmp_path / "log"
    pq.write_table(table(range(50)), path, row_group_size=7)
    collect(log, path)
    grown = table(range(60))
    times = grown["ts"].cast(pa.timestamp("ns", tz="UTC"))
    grown = grown.set_column(0, "event_id", grown["event_id"].dictionary_encode()).set_column(1, "ts", times)
    pq.write_table(grown, path, row_group_size=11)
    assert {"shown": 10} == collect(log, path).rows
    assert named(range(60)) == rows_of(log, "shown")


def test_a_parquet_file_goes_on_where_the_time_is_another_column(tmp_path: Path) -> None:
    path, log = tmp_path / "a.parquet", tmp_path / "log"
    pq.write_table(table(range(5)), path)
    collect_files(log, "clicked", replace(CLICKED, time=""), [path], stopping=lambda: False)
    pq.write_table(table(range(8)), path)
    assert {"clicked": 3} == collect_files(log, "clicked", CLICKED, [path], stopping=lambda: False).rows


def test_what_was_collected_before_a_crash_is_known(tmp_path: Path) -> None:
    path, log, turns = tmp_path / "a.parquet", tmp_path / "log", iter([False, False])
    pq.write_table(table(range(130_000)), path)
    with pytest.raises(StopIteration):
        collect_files(log, "shown", SHOWN, [path], stopping=lambda: next(turns), roll=RollSettings(roll_rows=10))
    pq.write_table(table(range(1, 130_001)), path)
    with pytest.raises(StreamError, match=r"its first 122,880 rows"):
        collect(log, path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_upkeep_after_a_crash_before_the_note_makes_no_other_file_of_it(tmp_path: Path, name: str) -> None:
    def write(count: int) -> None:
        path.write_bytes(b"".join(shown(number) + b"\n" for number in range(count)))
        if path.suffix == ".parquet":
            pq.write_table(table(range(count)), path)

    path, log = tmp_path / name, tmp_path / "log"
    write(5)
    collect(log, path)
    (folder,) = EventLog(log).folders("shown")
    before = folder.manifest().partitions[0]
    write(8)
    collect(log, path)
    end = folder.manifest().partitions[0].end
    # As the crash left it, and then upkeep, which notes how far segments go.
    folder.change(lambda manifest: replace(manifest, partitions={0: replace(before, end=end)}))
    write(9)
    assert {"shown": 1} == collect(log, path).rows


def grow(path: Path, count: int) -> None:
    if path.suffix == ".parquet":
        pq.write_table(table(range(count)), path)
    else:
        path.write_bytes(b"".join(shown(number) + b"\n" for number in range(count)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
@pytest.mark.parametrize("more", [0, 3])
def test_a_last_segment_that_was_cut_is_collected_again(tmp_path: Path, name: str, more: int) -> None:
    path, log = tmp_path / name, tmp_path / "log"
    for count in (5, 10):
        grow(path, count)
        collect(log, path)
    (folder,) = EventLog(log).folders("shown")
    os.truncate(contents_of(folder).coverage.pieces[-1].segment.path, 50)
    grow(path, 10 + more)
    assert {"shown": 5 + more} == collect(log, path).rows
    assert named(range(10 + more)) == rows_of(log, "shown")
    assert {} == collect(log, path).rows


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_compacted_segment_that_was_cut_when_its_parts_were_gone_is_collected_again(
    tmp_path: Path, name: str
) -> None:
    path, log = tmp_path / name, tmp_path / "log"
    for count in (5, 10):
        grow(path, count)
        collect(log, path)
    (folder,) = EventLog(log).folders("shown")
    (made,), _ = compact(folder, CompactSettings())
    sweep(folder, grace_s=-1.0)
    os.truncate(made.path, 50)
    assert {"shown": 10} == collect(log, path).rows
    assert named(range(10)) == rows_of(log, "shown")


def test_another_file_is_no_substitute_for_one_whose_segment_was_cut(tmp_path: Path) -> None:
    path, log = tmp_path / "a.parquet", tmp_path / "log"
    grow(path, 10)
    collect(log, path)
    (folder,) = EventLog(log).folders("shown")
    os.truncate(contents_of(folder).coverage.pieces[0].segment.path, 50)
    pq.write_table(table(range(1, 12)), path)
    with pytest.raises(StreamError, match="is another file"):
        collect(log, path)


def test_rows_without_a_name_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(range(2)).set_column(0, "event_id", pa.array(["e0", None])), path)
    assert {("shown", "missing"): 1} == collect(tmp_path / "log", path).errors
    assert ["e0"] == rows_of(tmp_path / "log", "shown")
    assert [None, "missing: 'event_id' is NULL"] == rows_of(tmp_path / "log", "shown", "_error", errors=True)


@pytest.mark.parametrize("harm", ["shorter", "other"])
def test_a_file_that_is_not_what_was_collected_is_refused(tmp_path: Path, harm: str) -> None:
    path, log = write_lines(tmp_path / "a.jsonl", range(10)), tmp_path / "log"
    collect(log, path)
    path.write_bytes(shown(0) if harm == "shorter" else path.read_bytes().replace(b"u", b"v") + shown(11))
    with pytest.raises(StreamError, match=r"a.jsonl: (has .* bytes, of which .* were collected|is another file)"):
        collect(log, path)
    assert named(range(10)) == rows_of(log, "shown")


def test_a_parquet_file_without_the_id_or_that_is_none_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(range(5)).drop(["event_id"]), path)
    with pytest.raises(StreamError, match=r"a.parquet: has no column 'event_id'"):
        collect(tmp_path / "log", path)
    path.write_bytes(b"no Parquet at all")
    with pytest.raises(StreamError, match=r"a.parquet: cannot be read"):
        collect(tmp_path / "log", path)


def test_stopping_puts_what_was_read_into_the_log(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"".join(clicked(number) + b"\n" for number in range(20_000)))
    turns = iter([False, False, True])
    found = collect_files(tmp_path / "log", "clicked", CLICKED, [path], stopping=lambda: next(turns))
    assert {"clicked": 8_192} == found.rows
    again = collect_files(tmp_path / "log", "clicked", CLICKED, [path], stopping=lambda: False)
    assert {"clicked": 20_000 - 8_192} == again.rows
    assert named(range(20_000)) == rows_of(tmp_path / "log", "clicked")


def test_a_last_line_that_is_still_written_is_left_for_the_next_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    path, log, last = write_lines(tmp_path / "a.jsonl", range(2)), tmp_path / "log", shown(2)
    begin = path.stat().st_size
    with path.open("ab") as file:
        file.write(last[:20])
    found = collect(log, path)
    assert ({"shown": 2}, {}) == (found.rows, found.errors)
    assert f"{path}: the last line, at byte {begin:,}, has no end yet, and is left for the next time" in caplog.text
    with path.open("ab") as file:
        file.write(last[20:] + b"\n")
    found = collect(log, path)
    assert ({"shown": 1}, {}) == (found.rows, found.errors)
    assert named(range(3)) == rows_of(log, "shown", errors=True)


@pytest.mark.parametrize("last", [b"12", b"[]", b"null", b'"e2"', b'{"event_id": "e2"', b"\xff"])
def test_only_a_whole_object_is_a_line_without_a_newline(tmp_path: Path, last: bytes) -> None:
    path, log = tmp_path / "a.jsonl", tmp_path / "log"
    path.write_bytes(shown(1) + b"\n" + last)
    assert {"shown": 1} == collect(log, path).rows
    path.write_bytes(shown(1) + b"\n" + last + b"\n" + shown(3))
    assert {"shown": 2} == collect(log, path).rows


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, len(WRITTEN)), max_size=3).map(sorted))
def test_however_a_file_grows_each_event_is_there_once(cuts: list[int]) -> None:
    with TemporaryDirectory() as folder:
        path, log = Path(folder) / "a.jsonl", Path(folder) / "log"
        for cut in [*cuts, len(WRITTEN)]:
            path.write_bytes(WRITTEN[:cut])
            assert not collect(log, path).errors
        assert named(range(4)) == rows_of(log, "shown", errors=True)


def test_what_a_file_was_is_in_the_manifest(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", range(3))
    collect(tmp_path / "log", path)
    manifest = json.loads(EventLog(tmp_path / "log").folders("shown")[0].manifest_path.read_text())
    assert str(path) == manifest["partitions"]["0"]["source"]
    assert path.stat().st_size == manifest["partitions"]["0"]["end"]
