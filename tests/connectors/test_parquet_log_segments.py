from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.parquet_log_segments import Range, Segment, cover, damage_of, list_segments, segment_name

FOLDER = Path("log")

RANGES = st.lists(
    st.tuples(st.integers(0, 1), st.integers(0, 20), st.integers(1, 12), st.integers(0, 2)), max_size=12
).map(lambda some: [segment(partition, start, start + length, revision) for partition, start, length, revision in some])


def segment(partition: int, start: int, end: int, revision: int = 0) -> Segment:
    return Segment(FOLDER / segment_name("events", partition, start, end, revision), partition, start, end, revision)


@given(RANGES, st.dictionaries(st.integers(0, 1), st.integers(0, 15)))
def test_each_offset_that_some_segment_has_is_read_once_and_the_others_are_missing(
    segments: list[Segment], begins: dict[int, int]
) -> None:
    found = cover(segments, begins, {})
    for partition in (0, 1):
        mine = [it for it in segments if it.partition == partition]
        begin = begins.get(partition, min((it.start for it in mine), default=0))
        there = {offset for it in mine for offset in range(it.start, it.end) if offset >= begin}
        read = [
            offset
            for piece in found.pieces
            if piece.segment.partition == partition
            for offset in range(max(piece.first, begin), piece.segment.end)
        ]
        assert sorted(there) == read
        gone = {offset for it in found.missing if it.partition == partition for offset in range(it.start, it.end)}
        assert set(range(begin, max(there, default=begin))) - there == gone
        if partition in found.ends:
            assert max(there, default=begin - 1) + 1 == found.ends[partition]


@given(RANGES)
def test_the_order_of_the_listing_does_not_matter(segments: list[Segment]) -> None:
    assert cover(segments, {}, {}).pieces == cover(list(reversed(segments)), {}, {}).pieces


def test_a_larger_segment_goes_before_those_that_it_contains() -> None:
    small, large = [segment(0, 0, 5), segment(0, 5, 9)], segment(0, 0, 9)
    found = cover([*small, large], {}, {})
    assert [large] == [piece.segment for piece in found.pieces]
    assert tuple(small) == found.superseded


def test_a_later_revision_goes_before_the_same_range() -> None:
    found = cover([segment(0, 0, 5), segment(0, 0, 5, 2), segment(0, 0, 5, 1)], {}, {})
    assert [2] == [piece.segment.revision for piece in found.pieces]


def test_overlaps_are_named_and_what_the_manifest_has_seen_is_missing_when_it_is_gone() -> None:
    found = cover([segment(0, 0, 5), segment(0, 3, 9)], {}, {0: 12})
    assert (Range(0, 3, 5),) == found.overlaps
    assert (Range(0, 9, 12),) == found.missing
    assert {0: 12} == found.ends


def test_collecting_goes_on_at_what_is_missing_right_before_the_end() -> None:
    gap, cut = [segment(0, 0, 5), segment(0, 7, 9)], [segment(0, 0, 5)]
    assert 9 == cover(gap, {}, {}).next_offset(0)
    assert 9 == cover(gap, {}, {0: 9}).next_offset(0)
    assert 5 == cover(cut, {}, {0: 9}).next_offset(0)
    assert 0 == cover([], {0: 0}, {0: 9}).next_offset(0)
    assert cover(cut, {}, {}).next_offset(1) is None


def test_names_are_read_back_and_other_files_are_left_alone(tmp_path: Path) -> None:
    made = {segment_name("a-b.c", 3, 10, 20), segment_name("a-b.c", 3, 10, 20, 4)}
    for name in (*made, segment_name("a-b", 3, 1, 2), segment_name("a-b.c", 1, 5, 5), "notes.parquet", ".x.partial"):
        (tmp_path / name).touch()
    found = list_segments(tmp_path, "a-b.c")
    assert made == {it.path.name for it in found}
    assert {(3, 10, 20, 0), (3, 10, 20, 4)} == {it[1:] for it in found}
    assert "a-b.c-3-00000000000000000010-00000000000000000020.parquet" in made


@pytest.mark.parametrize("kept", [0, 3, 11, 0.5, 0.99])
def test_a_file_that_was_cut_is_told_from_a_whole_one(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": list(range(1_000))}), path)
    assert damage_of(path) is None
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert damage_of(path) is not None
    path.unlink()
    assert "is gone" == damage_of(path)
