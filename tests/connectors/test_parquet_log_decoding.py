from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from log_events import CLICKED, NOON, SHOWN, clicked, shown

from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_schema import LogSchema
from streamfm.features import Input
from streamfm.stream.ports import Event

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        name: ANY_JSON | like
        for name, like in {
            "event_id": st.text(max_size=3),
            "ts": st.just(NOON.isoformat()),
            "price": st.floats(),
            "stock": st.integers(-(2**63), 2**63 - 1),
            "tags": st.lists(st.text(max_size=3), max_size=3),
            "made": st.integers(0, 2**40),
        }.items()
    },
)


def records(*values: bytes | None, timestamp: int = 5) -> list[Event]:
    return [Event("shown", 3, 10 + at, timestamp, None, value) for at, value in enumerate(values)]


def rows(*values: bytes | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RecordDecoder(SHOWN, "shown").decode(records(*values)).table.to_pylist()
    return found


@given(st.lists(EVENTS.map(lambda event: json.dumps(event).encode()) | st.none() | st.binary(max_size=20), max_size=12))
def test_every_record_is_a_row_and_either_read_or_kept(values: list[bytes | None]) -> None:
    found = RecordDecoder(SHOWN, "shown").decode(records(*values))
    assert found.table.schema == SHOWN.arrow
    assert list(range(10, 10 + len(values))) == found.table["_offset"].to_pylist()
    for row, value in zip(found.table.to_pylist(), values, strict=True):
        if row["_error"] is None:
            assert row["_raw"] is None
            assert row["event_id"] is not None
            assert row["ts"] is not None
        else:
            assert value == row["_raw"]
            assert row["event_id"] is None
    assert len(values) - found.table["_error"].null_count == len(values) - sum(
        row["_error"] is None for row in found.table.to_pylist()
    )
    assert found.errors.total() == sum(row["_error"] is not None for row in found.table.to_pylist())


@given(st.lists(EVENTS.map(lambda event: json.dumps(event).encode()), min_size=1, max_size=8))
def test_what_a_record_becomes_does_not_depend_on_those_beside_it(values: list[bytes]) -> None:
    def plain(row: dict[str, Any]) -> dict[str, Any]:
        # Messages name the row among several.
        return {key: str(value) for key, value in row.items() if key not in ("_offset", "_error")}

    together = [plain(row) for row in rows(*values)]
    assert [plain(rows(value)[0]) for value in values] == together


def test_values_are_of_the_declared_types() -> None:
    (row,) = rows(shown(3, price=2, stock="7", tags=["a", 1, None], user_id=5, made=1_500, version=4, score=0.25))
    assert {"price": 2.0, "stock": 7, "tags": ["a", "1", None], "user_id": "5"}.items() <= row.items()
    assert datetime(1970, 1, 1, 0, 0, 1, 500_000) == row["made"]
    assert (4, 0.25) == (row["model_version"], row["score"])
    assert ("shown/3", 10, datetime.fromtimestamp(0.005, UTC)) == (row["_partition"], row["_offset"], row["_timestamp"])


def test_categories_have_the_texts_that_the_encoder_gives_them() -> None:
    found = rows(*(shown(1, user_id=value) for value in (1, 1.0, "1", True, 0.5)))
    assert ["1", "1", "1", "true", "0.5"] == [row["user_id"] for row in found]


def test_why_a_record_could_not_be_read_is_told() -> None:
    found = rows(
        b"{",
        None,
        shown(1, event_id=None),
        shown(1, ts=None),
        shown(1, ts="noon"),
        shown(1, stock=1.5),
        shown(1, price=[]),
    )
    reasons = [row["_error"].partition(":")[0] for row in found]
    assert ["not_json", "null_value", "missing_id", "missing_time", "wrong_type", "wrong_type", "wrong_type"] == reasons
    assert "'noon'" in found[4]["_error"]


@pytest.mark.parametrize("text", ["inf", "-Infinity", "1e999", "nan"])
def test_a_text_that_says_no_finite_number_is_no_number(text: str) -> None:
    values = [shown(1, price=text), shown(2, price="2.5"), shown(3, price=None)]
    first, *others = rows(*values)
    assert first["_error"].startswith("wrong_type: input 'price' (DOUBLE) is ")
    assert first["_error"].endswith(", expected a finite number")
    assert values[0] == first["_raw"]
    assert [(None, 2.5), (None, None)] == [(row["_error"], row["price"]) for row in others]


def test_numbers_that_a_float_or_a_list_of_them_cannot_hold_are_refused() -> None:
    inputs = (Input(name="small", type="FLOAT"), Input(name="sizes", type="DOUBLE[]"))
    schema = LogSchema(kind="clicks", id="event_id", time="", columns=(Input(name="event_id", type="VARCHAR"), *inputs))
    events = [{"small": 1e30}, {"small": 1e300}, {"sizes": [1, None, "inf"]}, {"sizes": [1, None, "2"]}, {"sizes": []}]
    values = [json.dumps({"event_id": "e"} | event).encode() for event in events]
    found = RecordDecoder(schema, "shown").decode(records(*values)).table["_error"].to_pylist()
    assert [None, "wrong_type", "wrong_type", None, None] == [error and error.partition(":")[0] for error in found]


def test_times_with_and_without_a_zone_are_instants_in_utc() -> None:
    texts = ["2026-01-01T12:00:00", "2026-01-01T13:00:00+01:00", "2026-01-01 12:00:00Z", "2026-01-01T12:00:00.000000Z"]
    assert [NOON] * 4 == [row["ts"] for row in rows(*(shown(1, ts=text) for text in texts))]
    for text in texts:
        assert NOON == rows(shown(1, ts=text))[0]["ts"]


def test_a_time_that_kafka_does_not_know_is_null() -> None:
    table = RecordDecoder(CLICKED, "clicked").decode(records(clicked(1), timestamp=-1)).table
    assert [None] == table["_timestamp"].to_pylist()


def test_a_large_value_is_kept_as_it_is() -> None:
    value = shown(1, user_id="x" * 5_000)
    found = RecordDecoder(SHOWN, "shown", max_bytes=1_000).decode(records(value, shown(2)))
    assert [f"too_large: {len(value):,} bytes, expected at most 1,000", None] == found.table["_error"].to_pylist()
    assert [value, None] == found.table["_raw"].to_pylist()


def test_events_of_another_json_type_are_read_alike_however_many_there_are() -> None:
    decoder = RecordDecoder(SHOWN, "shown")
    few = [shown(1), shown(2, user_id=2, price=2, stock=2.0), *(shown(number) for number in range(3, 40))]
    many = [shown(number, user_id=number, price="0.5", stock=str(number)) for number in range(40)]
    users = [decoder.decode(records(*values)).table["user_id"].to_pylist() for values in (few, many, many, few)]
    assert ["u1", "2", "u3"] == users[0][:3]
    assert [str(number) for number in range(40)] == users[1] == users[2]
    assert users[0] == users[3]
