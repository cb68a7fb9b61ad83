from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_events import table

from connectors.file_rows import RowsDigest, rows_between

SCHEMA = pa.schema([("event_id", pa.string()), ("ts", pa.timestamp("us", tz="UTC"))])
ROWS = st.lists(st.tuples(st.text(max_size=3) | st.none(), st.integers(-(1 << 62), 1 << 62) | st.none()), max_size=8)


def digest_of(*parts: list[tuple[str | None, int | None]]) -> str:
    digest = RowsDigest(SCHEMA)
    for rows in parts:
        times = pa.array([time for _, time in rows], pa.int64()).cast(SCHEMA.field("ts").type)
        digest.add(pa.table([pa.array([name for name, _ in rows], pa.string()), times], schema=SCHEMA))
    return digest.text


@given(ROWS, st.integers(0, 8))
def test_a_digest_is_of_the_rows_however_they_come(rows: list[tuple[str | None, int | None]], cut: int) -> None:
    assert digest_of(rows) == digest_of(rows[:cut], rows[cut:])


@given(ROWS, ROWS)
def test_other_rows_have_another_digest(
    one: list[tuple[str | None, int | None]], other: list[tuple[str | None, int | None]]
) -> None:
    assert (one == other) == (digest_of(one) == digest_of(other))


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.binary(), pa.int64(), pa.uint64(), pa.decimal128(38, 0), pa.date32(), pa.timestamp("us")]
)
def test_ids_may_be_of_any_type(kind: pa.DataType) -> None:
    texts: set[str] = set()
    for numbers in ([1, 2], [1, 3], [1, None]):
        ids = pa.array(numbers, pa.int32())
        ids = ids.cast(pa.string()).cast(kind) if kind in (pa.string(), pa.binary()) else ids.cast(pa.int64())
        ids = ids.cast(pa.int32()).cast(kind) if kind == pa.date32() else ids.cast(kind)
        digest = RowsDigest(pa.schema([("id", kind)]))
        digest.add(pa.table({"id": ids}))
        texts.add(digest.text)
    assert 3 == len(texts)


@pytest.mark.parametrize(("first", "last"), [(0, 20), (3, 8), (7, 7), (13, 14), (14, 20), (20, 20), (0, 99)])
def test_rows_are_read_by_their_numbers(tmp_path: Path, first: int, last: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table(range(20)), path, row_group_size=7)
    with pq.ParquetFile(path) as file:
        parts = list(rows_between(file, ["event_id"], first, last, count=4))
    assert [f"e{number}" for number in range(20)][first:last] == [
        name for _, part in parts for name in part["event_id"].to_pylist()
    ]
    assert [number for number, _ in parts] == [
        first + sum(len(part) for _, part in parts[:at]) for at in range(len(parts))
    ]
