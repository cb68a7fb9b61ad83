from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from log_events import SHOWN, clicked, files_of, fill, rows_of, shown, table

from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_collecting import PartitionCollector, RollSettings
from connectors.parquet_log_compaction import CompactSettings, compact
from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_erasure import erase
from connectors.parquet_log_segments import segment_name
from connectors.parquet_log_topics import Manifest, TopicFolder
from streamfm.errors import StreamError
from streamfm.stream.ports import Event

OTHERS = [f"e{number}" for number in range(20) if number % 7 != 3]
FRESH = 24


def arrive(log: Path) -> None:
    """Another impression of the user u3 and its click."""
    fill(log, [1], values=lambda number: shown(FRESH))
    fill(log, [1], "clicked", lambda number: clicked(FRESH))


def of_user(log: Path) -> list[str]:
    """What is left of the user."""
    names = {f"e{number}" for number in range(3, 28, 7)}
    return [name for topic in ("shown", "clicked") for name in rows_of(log, topic) if name in names]


def test_one_users_rows_and_their_clicks_are_gone_and_nobody_elses(tmp_path: Path) -> None:
    folders = [fill(tmp_path, [10, 10]), fill(tmp_path, [20], "clicked", clicked)]
    log = EventLog(tmp_path)
    mine = [f"e{number}" for number in range(20) if number % 7 == 3]
    compact(folders[0], CompactSettings())
    found = erase(log, "user_id", "u3")
    assert ({"shown": len(mine), "clicked": len(mine)}, 0) == (found.rows, found.kept)
    for topic, folder in zip(("shown", "clicked"), folders, strict=True):
        assert OTHERS == rows_of(log, topic)
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
        assert OTHERS == rows_of(log, topic)


class ErasedMeanwhile(TopicFolder):
    """A folder whose manifest is read before and after its files are listed; a user is erased between the two."""

    reads = 0

    def manifest(self) -> Manifest:
        self.reads += 1
        if self.reads == 2:
            erase(EventLog(self.path.parents[1]), "user_id", "u3")
        return super().manifest()


def test_who_listed_files_right_before_an_erasure_still_knows_where_the_log_ends(tmp_path: Path) -> None:
    folder = fill(tmp_path, [10, 10])
    contents = contents_of(ErasedMeanwhile(folder.path))
    assert ({0: 20}, {}) == (contents.coverage.ends, contents.damaged)
    assert [1, 1] == [piece.segment.revision for piece in contents.coverage.pieces]


def test_a_link_to_nowhere_is_told_as_such(tmp_path: Path) -> None:
    folder = fill(tmp_path, [10])
    (folder.path / segment_name("shown", 0, 10, 20)).symlink_to(tmp_path / "nowhere")
    assert ["is gone"] == list(contents_of(folder).damaged.values())


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


def test_what_comes_while_readers_are_waited_for_is_erased_with_its_clicks(tmp_path: Path) -> None:
    fill(tmp_path, [10, 10])
    fill(tmp_path, [20], "clicked", clicked)
    log, waits = EventLog(tmp_path), 0

    def sleep(seconds: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 1:
            arrive(tmp_path)

    with log.snapshot("clicked"):
        found = erase(log, "user_id", "u3", wait_s=0.3, sleep=sleep)
    assert ({"shown": 4, "clicked": 4}, False) == (found.rows, found.is_more)
    assert [] == of_user(tmp_path)


def test_what_comes_while_clicks_are_erased_keeps_its_clicks_findable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, [10, 10])
    fill(tmp_path, [20], "clicked", clicked)
    has_come = False

    def rename(self: Path, target: Path, original: Callable[..., Any] = Path.rename) -> Path:
        nonlocal has_come
        if not has_come and target.name.endswith(".r1.parquet"):
            has_come = True
            arrive(tmp_path)
        renamed: Path = original(self, target)
        return renamed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename)
        found = erase(EventLog(tmp_path), "user_id", "u3")
    assert {"shown": 4, "clicked": 4} == found.rows
    assert [] == of_user(tmp_path)


def test_a_user_who_never_rests_is_told(tmp_path: Path) -> None:
    fill(tmp_path, [10])
    log = EventLog(tmp_path)

    def sleep(seconds: float) -> None:
        fill(tmp_path, [1], values=lambda number: shown(FRESH, event_id=f"more{number}"))

    with log.snapshot("shown"):
        assert erase(log, "user_id", "u3", wait_s=0.1, sleep=sleep).is_more
    assert not erase(log, "user_id", "u3").is_more


@pytest.mark.parametrize("is_ascii", [True, False])
def test_unreadable_bytes_hold_the_user_however_json_writes_the_name(tmp_path: Path, is_ascii: bool) -> None:
    value = {"event_id": "e1", "user_id": "J\u00f6rg", "price": "nonsense"}
    fill(tmp_path, [1], values=lambda number: json.dumps(value, ensure_ascii=is_ascii).encode())
    fill(tmp_path, [3], "clicked", clicked)
    log = EventLog(tmp_path)
    found = erase(log, "user_id", "J\u00f6rg")
    assert ({"shown": 1, "clicked": 0}, {"shown": 0, "clicked": 1}) == (found.blanked, found.rows)
    assert [None] == rows_of(log, "shown", "_raw", errors=True)
    # Its name was in the bytes, too.
    assert ["e0", "e2"] == rows_of(log, "clicked")


def test_unreadable_clicks_lose_their_bytes_where_these_name_the_impression(tmp_path: Path) -> None:
    fill(tmp_path, [20])
    fill(tmp_path, [20], "clicked", lambda number: b'{"event_id":"e%d","ts":"nonsense"}' % number)
    log = EventLog(tmp_path)
    assert {"shown": 0, "clicked": 3} == erase(log, "user_id", "u3").blanked
    names = [f"e{number}" for number in range(20)]
    kept = [b'{"event_id":"%s","ts":"nonsense"}' % name.encode() if name in OTHERS else None for name in names]
    assert kept == rows_of(log, "clicked", "_raw", errors=True)


def test_rows_without_a_name_are_erased(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.append("shown", table([3, 4]).set_column(0, "event_id", pa.array([None, "e4"])))
    assert {"shown": 1} == erase(log, "user_id", "u3").rows
    assert ["e4"] == rows_of(log, "shown")


def test_rows_in_the_hand_of_a_collector_that_died_are_gone_and_of_a_living_one_are_told(tmp_path: Path) -> None:
    folder = fill(tmp_path, [3])
    log = EventLog(tmp_path)
    rows = RecordDecoder(SHOWN, "shown").decode([Event("shown", 0, 3, 3_000, None, shown(3))]).table
    collector = PartitionCollector(folder, 0, SHOWN.arrow, RollSettings())
    collector.add(rows, 4)
    collector.flush()
    (partial,) = folder.path.glob(".collect.*.partial")
    left = partial.with_name(partial.name.replace("shown-0.", "shown-1."))
    os.link(partial, left)
    assert 1 == erase(log, "user_id", "u3").under_way
    # Nobody collects partition 1.
    assert (True, False) == (partial.exists(), left.exists())
    collector.roll()
    collector.close()
    found = erase(log, "user_id", "u3")
    assert ({"shown": 1}, 0) == (found.rows, found.under_way)
