from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from log_events import CLICKED, NOON, SHOWN, clicked, rows_of, shown, table

from connectors.file_collector import collect_files
from connectors.kafka_collected_topics import Collected
from connectors.parquet_log import EventLog
from connectors.parquet_log_collecting import RollSettings
from streamfm.errors import StreamError


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


def test_what_a_file_was_is_in_the_manifest(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", range(3))
    collect(tmp_path / "log", path)
    manifest = json.loads(EventLog(tmp_path / "log").folders("shown")[0].manifest_path.read_text())
    assert str(path) == manifest["partitions"]["0"]["source"]
    assert path.stat().st_size == manifest["partitions"]["0"]["end"]
