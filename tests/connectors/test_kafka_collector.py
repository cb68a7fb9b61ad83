"""The collector over topics in memory, and what comes of each disturbance. Genuine Kafka: test_kafka_collecting."""

from __future__ import annotations

import os
import resource
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from log_events import CLICKED, SHOWN, clicked, rows_of, shown
from memory_topics import MARKER, SETTINGS, MemoryCluster

from connectors.kafka_collected_topics import Collected
from connectors.kafka_collector import Collector, CollectSettings
from connectors.parquet_log import EventLog, contents_of
from connectors.parquet_log_collecting import RollSettings
from connectors.parquet_log_compaction import CompactSettings, compact
from connectors.parquet_log_upkeep import sweep
from streamfm.errors import StreamError
from streamfm.locking import LockedError
from streamfm.testing.streams import FakeClock

Collect = Callable[..., Collected]


def values(*numbers: int) -> list[bytes]:
    return [shown(number) for number in numbers]


@pytest.fixture
def cluster() -> MemoryCluster:
    """Twenty impressions in two partitions, and five clicks."""
    return MemoryCluster(
        shown=[values(*range(0, 20, 2)), values(*range(1, 20, 2))], clicked=[[clicked(number) for number in range(5)]]
    )


@pytest.fixture
def collect(cluster: MemoryCluster, tmp_path: Path) -> Collect:
    """Collects until the end, as a process of its own would."""

    def run(start: str = "earliest", *, rows: int = 1_000_000, batch: int = 3, skip_lost: bool = False) -> Collected:
        clock = FakeClock()
        with Collector(
            tmp_path / "log",
            cluster,
            replace(SETTINGS, start=start),
            {"shown": SHOWN, "clicked": CLICKED},
            settings=CollectSettings(max_batch_records=batch, skip_lost=skip_lost),
            roll=RollSettings(roll_rows=rows),
            clock=clock.monotonic,
            sleep=clock.sleep,
        ) as collector:
            return collector.run(lambda: False, until_end=True)

    return run


def collected_names(tmp_path: Path, topic: str = "shown") -> list[str]:
    return sorted(rows_of(tmp_path / "log", topic), key=lambda name: int(name[1:]))


def named(*numbers: int) -> list[str]:
    return [f"e{number}" for number in numbers]


def test_each_record_is_there_once_however_often_it_is_run(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    assert {"shown": 20, "clicked": 5} == collect().rows
    assert {} == collect().rows
    cluster.topics["shown"].partitions[1] += values(20, 21)
    assert {"shown": 2} == collect().rows
    assert named(*range(22)) == collected_names(tmp_path)
    assert named(*range(5)) == collected_names(tmp_path, "clicked")
    assert {("shown", 0): 10, ("shown", 1): 12, ("clicked", 0): 5} == cluster.committed


@pytest.mark.parametrize("rows", [1, 4, 100])
def test_segments_end_with_so_many_rows(collect: Collect, tmp_path: Path, rows: int) -> None:
    found = collect(rows=rows)
    assert {1: 8, 4: 4, 100: 2}[rows] == found.segments["shown"]
    assert named(*range(20)) == collected_names(tmp_path)


def test_what_kafka_says_of_the_group_is_nothing_to_go_by(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    collect()
    cluster.committed.clear()
    assert {} == collect().rows
    assert named(*range(20)) == collected_names(tmp_path)


def test_records_that_cannot_be_read_are_counted_and_kept(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    cluster.topics["shown"].partitions[0] += [b"broken", None]
    found = collect()
    assert {("shown", "not_json"): 1, ("shown", "null_value"): 1} == found.errors
    assert named(*range(20)) == collected_names(tmp_path)
    rows = rows_of(tmp_path / "log", "shown", "_offset, _error IS NULL, _raw", errors=True)
    assert [(10, False, b"broken"), (11, False, None)] == [row for row in rows if not row[1]]


def test_disturbances_are_waited_out(cluster: MemoryCluster, collect: Collect, tmp_path: Path) -> None:
    cluster.disturbances = 7
    assert 7 == collect().disturbances
    assert named(*range(20)) == collected_names(tmp_path)


@pytest.mark.parametrize(
    ("start", "first"), [("earliest", 0), ("latest", 10), ("4", 4), ("1970-01-01T00:00:00.007", 7)]
)
def test_a_new_partition_begins_where_it_is_told_and_that_is_kept(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path, start: str, first: int
) -> None:
    collect(start)
    cluster.topics["shown"].partitions[0] += values(20)
    collect("latest")
    offsets = rows_of(tmp_path / "log", "shown", "_partition, _offset")
    assert list(range(first, 11)) == [offset for partition, offset in offsets if partition == "shown/0"]


@pytest.mark.parametrize("has_ids", [True, False], ids=["by its id", "by its end"])
def test_a_topic_made_anew_with_lower_offsets_begins_anew(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path, has_ids: bool
) -> None:
    cluster.has_ids = has_ids
    collect()
    cluster.make("shown", [values(50, 51), values(52)])
    assert {"shown": 3} == collect().rows
    assert {} == collect().rows
    assert named(*range(20), 50, 51, 52) == collected_names(tmp_path)
    assert {"shown/0": 10, "shown/1": 10, "shown@2/0": 2, "shown@2/1": 1} == EventLog(tmp_path / "log").ends("shown")


def test_a_topic_made_anew_while_it_is_read_goes_on_with_the_new_one(cluster: MemoryCluster, tmp_path: Path) -> None:
    clock, turns = FakeClock(), 0

    def stopping() -> bool:
        nonlocal turns
        turns += 1
        clock.sleep(10.0)
        if turns == 10:
            cluster.make("shown", [values(50, 51), values(52)])
        return turns > 20

    topics = {"shown": SHOWN, "clicked": CLICKED}
    with Collector(tmp_path / "log", cluster, SETTINGS, topics, clock=clock.monotonic, sleep=clock.sleep) as collector:
        found = collector.run(stopping)
    assert named(*range(20), 50, 51, 52) == collected_names(tmp_path)
    assert 23 == found.rows["shown"]


def test_a_topic_that_is_deleted_leaves_what_was_read_in_the_log(cluster: MemoryCluster, tmp_path: Path) -> None:
    clock, turns = FakeClock(), 0

    def stopping() -> bool:
        nonlocal turns
        turns += 1
        if turns == 6:
            del cluster.topics["shown"]
            clock.sleep(60.0)
        return turns > 30

    topics = {"shown": SHOWN, "clicked": CLICKED}
    reads = CollectSettings(max_batch_records=100)
    with (
        Collector(
            tmp_path / "log", cluster, SETTINGS, topics, settings=reads, clock=clock.monotonic, sleep=clock.sleep
        ) as collector,
        pytest.raises(StreamError, match="topic 'shown' is not there"),
    ):
        collector.run(stopping)
    assert named(*range(20)) == collected_names(tmp_path)


def test_the_same_topic_that_ends_earlier_is_refused(cluster: MemoryCluster, collect: Collect) -> None:
    collect()
    del cluster.topics["shown"].partitions[1][5:]
    with pytest.raises(StreamError, match="'shown' ends before what the log has of it, and is the same topic"):
        collect()


def test_records_deleted_before_they_were_collected_are_refused_or_skipped(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    collect()
    cluster.topics["shown"].partitions[0] += values(*range(20, 25))
    cluster.delete_before("shown", 0, 13)
    lost = "shown/0: offsets 10 to 13 were deleted before they were collected"
    with pytest.raises(StreamError, match=rf"{lost}\nhint: --skip-lost"):
        collect()
    found = collect(skip_lost=True)
    assert (2, {"shown": 3}) == (found.rows["shown"], found.lost)
    assert lost in caplog.text
    # The log is whole: somebody has said that they are gone.
    assert named(*range(20), 23, 24) == collected_names(tmp_path)
    assert {} == collect().rows


def test_records_deleted_behind_the_markers_of_a_transaction_leave_a_whole_log(
    cluster: MemoryCluster, tmp_path: Path
) -> None:
    clock, turns = FakeClock(), 0
    partition = cluster.topics["shown"].partitions[0]
    partition += [MARKER] * 3

    def stopping() -> bool:
        nonlocal turns
        turns += 1
        if turns == 20:
            # While it is connected, and behind the markers.
            partition.extend(values(*range(20, 37)))
            cluster.delete_before("shown", 0, 25)
        return turns > 40

    with Collector(
        tmp_path / "log",
        cluster,
        SETTINGS,
        {"shown": SHOWN, "clicked": CLICKED},
        settings=CollectSettings(max_batch_records=5, skip_lost=True),
        roll=RollSettings(roll_rows=5),
        clock=clock.monotonic,
        sleep=clock.sleep,
    ) as collector:
        found = collector.run(stopping)
    assert {"shown": 12} == found.lost
    assert named(*range(20), *range(32, 37)) == collected_names(tmp_path)


def test_partitions_that_are_added_are_collected_from_their_beginning(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    collect()
    cluster.topics["shown"].partitions.append(values(20, 21))
    assert {"shown": 2} == collect().rows
    assert named(*range(22)) == collected_names(tmp_path)


def test_a_segment_that_was_cut_at_the_end_of_the_log_is_collected_again(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    collect(rows=4)
    folder = EventLog(tmp_path / "log").folders("shown")[0]
    last = contents_of(folder).coverage.pieces[-1].segment
    last.path.write_bytes(last.path.read_bytes()[:-20])
    collect()
    assert named(*range(20)) == collected_names(tmp_path)


def cut_compacted(log: Path) -> None:
    """Cut the impressions' only segment of each partition, which compaction made."""
    folder = EventLog(log).folders("shown")[0]
    compact(folder, CompactSettings())
    sweep(folder, grace_s=-1.0)
    for piece in contents_of(folder).coverage.pieces:
        os.truncate(piece.segment.path, 50)


def test_a_compacted_segment_that_was_cut_is_collected_again_in_other_segments(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    collect(rows=4)
    cut_compacted(tmp_path / "log")
    assert {"shown": 20} == collect(rows=4).rows
    # The damaged ones are gone: no segment has their names.
    assert named(*range(20)) == collected_names(tmp_path)
    assert {} == collect().rows


def test_what_was_cut_and_deleted_since_is_refused_or_skipped(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    collect(rows=4)
    cut_compacted(tmp_path / "log")
    cluster.delete_before("shown", 0, 6)
    with pytest.raises(StreamError, match="shown/0: offsets 0 to 6 were deleted before they were collected"):
        collect()
    assert {"shown": 14} == collect(skip_lost=True).rows
    assert named(*range(1, 13, 2), *range(12, 20)) == collected_names(tmp_path)


def test_a_topic_made_anew_is_told_by_how_far_the_log_ever_came(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    cluster.has_ids = False
    collect(rows=4)
    cut_compacted(tmp_path / "log")
    cluster.make("shown", [values(50, 51), values(52)])
    assert {"shown": 3} == collect().rows
    assert {"shown/0": 10, "shown/1": 10, "shown@2/0": 2, "shown@2/1": 1} == EventLog(tmp_path / "log").ends("shown")


def test_another_collector_is_refused_by_name_and_goes_on_when_the_first_has_ended(
    cluster: MemoryCluster, collect: Collect, tmp_path: Path
) -> None:
    topics = {"shown": SHOWN, "clicked": CLICKED}
    with Collector(tmp_path / "log", cluster, SETTINGS, topics) as first:
        first.run(lambda: False, until_end=True)
        with pytest.raises(LockedError, match="partition 0 of shown is collected already: process"):
            collect()
    cluster.topics["shown"].partitions[0] += values(20)
    assert {"shown": 1} == collect().rows
    assert named(*range(21)) == collected_names(tmp_path)


def test_a_full_disk_ends_it_and_counts_nothing(cluster: MemoryCluster, collect: Collect, tmp_path: Path) -> None:
    cluster.topics["shown"].partitions[0] += [shown(number, user_id="x" * number) for number in range(20, 500)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3_000, hard))
    try:
        with pytest.raises(StreamError, match="the disk is full"):
            collect()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [] == list((tmp_path / "log").rglob("*.partial"))
    collect()
    assert named(*range(500)) == collected_names(tmp_path)


def test_the_log_is_fresh_after_so_many_seconds(cluster: MemoryCluster, tmp_path: Path) -> None:
    clock, seen = FakeClock(), []

    def stopping() -> bool:
        clock.sleep(1.0)
        seen.append(len(rows_of(tmp_path / "log", "shown")) if seen else 0)
        return len(seen) > 25

    with Collector(
        tmp_path / "log",
        cluster,
        SETTINGS,
        {"shown": SHOWN, "clicked": CLICKED},
        roll=RollSettings(roll_s=15.0),
        clock=clock.monotonic,
        sleep=clock.sleep,
    ) as collector:
        collector.run(stopping)
    assert 0 == seen[14]
    assert 20 == seen[18]
