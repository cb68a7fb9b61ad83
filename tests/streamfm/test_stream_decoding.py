"""Events of all shapes as values of the inputs, or as dead letters; never an exception."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamfm.features import FeatureSpec
from streamfm.stream.decoding import Decoded, JsonDecoder
from streamfm.stream.ports import Event, Record
from streamfm.stream.settings import StreamSettings

SPEC = FeatureSpec.from_toml("""
format = 1
label = "clicked"
[inputs]
"user id" = "VARCHAR"
price = "DOUBLE"
tags = "VARCHAR[]"
class = "INTEGER"
ts = { type = "TIMESTAMP", json = "epoch_ms" }
day = "DATE"
code = "VARCHAR"
on = "BOOLEAN"
unused = "VARCHAR"
[features.user]
kind = "categorical"
input = "user id"
[features.price]
kind = "numeric"
[features.tags]
kind = "multivalued"
max_length = 2
[features.class]
kind = "categorical"
[features.ts]
kind = "categorical"
hash_buckets = 8
[features.day]
kind = "categorical"
[features.upper]
kind = "categorical"
sql = "upper(code)"
[features.off]
kind = "categorical"
sql = "NOT \\"on\\""
""")


@cache
def decoder(**settings: Any) -> JsonDecoder:
    return JsonDecoder(SPEC, StreamSettings(**settings))


def decode(*values: bytes | None, **settings: Any) -> Decoded:
    records = [Event("clicks", 3, offset, 5, b"key", value) for offset, value in enumerate(values)]
    return decoder(**settings).decode(records)


def reason(value: bytes | None, **settings: Any) -> str | None:
    """Why it is a dead letter; None when it is an event."""
    decoded = decode(value, **settings)
    if decoded.dead_letters:
        (letter,) = decoded.dead_letters
        assert decoded.records == []
        assert all(len(column) == 0 for column in decoded.values.values())
        assert letter.message
        return letter.reason
    assert len(decoded.records) == 1
    return None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "null_value"),
        (b"", "not_json"),
        (b"   ", "not_json"),
        (b"null", "not_json"),
        (b"5", "not_json"),
        (b'"text"', "not_json"),
        (b"[{}]", "not_json"),
        (b"{} {}", "not_json"),
        (b"{", "not_json"),
        (b'{"user id": "ann",}', "not_json"),
        (b"{'user id': 'ann'}", "not_json"),
        (b"{user: 1}", "not_json"),
        (b'{"price": NaN}', "not_json"),
        (b'{"price": -Infinity}', "not_json"),
        (b'{"price": 01}', "not_json"),
        (b'{"price": .5}', "not_json"),
        (b'\xef\xbb\xbf{"price": 1}', "not_json"),
        ('{"price": 1}'.encode("utf-16"), "not_json"),
        (b'{"user id": "\xff"}', "not_json"),
        (b'{"nobody reads this": "\xff"}', "not_json"),
        (b'{"\xc3": 1}', "not_json"),
        (b'{"user id": "\xed\xa0\x80"}', "not_json"),
        (b'{"user id": "\\ud800"}', "not_json"),
        (b'{"user id": "\\ud800 and more text"}', "not_json"),
        (b'{"user id": "a\nb"}', "not_json"),
        (b'{"user id": "a\x00b"}', "not_json"),
        (b'{"deep": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "not_json"),
        (b'{"deep": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}", "not_json"),
        (b'{"tags": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "wrong_type"),
        (b'{"user id": ["ann"]}', "wrong_type"),
        (b'{"user id": {"name": "ann"}}', "wrong_type"),
        (b'{"price": "1.5"}', "wrong_type"),
        (b'{"price": 1e400}', "wrong_type"),
        (b'{"price": ' + b"9" * 5_000 + b"}", "wrong_type"),
        (b'{"tags": "a"}', "wrong_type"),
        (b'{"tags": ["a", ["b"]]}', "wrong_type"),
        (b'{"tags": {}}', "wrong_type"),
        (b'{"ts": true}', "wrong_type"),
        (b'{"day": 20240229}', "wrong_type"),
        (b'{"code": 1.5}', "wrong_type"),
        (b'{"on": 1}', "wrong_type"),
        (b'{"on": "true"}', "wrong_type"),
        (b"{}", None),
        (b' \t\r\n{ } ', None),
        (b'{"user id": null, "price": null, "tags": null, "ts": null, "on": null}', None),
        (b'{"class": 2.5}', None),
        (b'{"class": "x"}', None),
        (b'{"class": true}', None),
        (b'{"price": true}', None),
        (b'{"tags": []}', None),
        (b'{"tags": ["a", 1, 2.5, true, null]}', None),
        (b'{"ts": 1.5}', None),
        (b'{"ts": "2024-02-29T12:00:00Z"}', None),
        (b'{"day": "no date, but a text"}', None),
        (b'{"code": 5}', None),
        (b'{"unused": {"whatever": [1]}}', None),
        (b'{"other": 1e400}', None),
        (b'{"user id": "\\ud83d\\ude00 \\u0000"}', None),
        ('{"user id": "Ünïcödé 🎲"}'.encode(), None),
    ],
)  # fmt: skip
def test_what_is_an_event(value: bytes | None, expected: str | None) -> None:
    assert reason(value) == expected
    assert reason(value, event_id="") == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"{}", "missing_event_id"),
        (b'{"id": null}', "missing_event_id"),
        (b'{"ID": 1}', "missing_event_id"),
        (b'{"id": 1.5}', "wrong_type"),
        (b'{"id": true}', "wrong_type"),
        (b'{"id": ["a"]}', "wrong_type"),
        (b'{"id": "a"}', None),
        (b'{"id": 0}', None),
        (b'{"id": 123456789012345678901234567890}', None),
        (b'{"\\u0069d": "escaped"}', None),
    ],
)
def test_what_names_an_event(value: bytes, expected: str | None) -> None:
    assert reason(value, event_id="id") == expected


def test_a_value_is_too_large_by_its_bytes() -> None:
    value = '{"user id": "é"}'.encode()
    assert reason(value, max_event_bytes=len(value)) is None
    decoded = decode(value, max_event_bytes=len(value) - 1)
    assert decoded.dead_letters[0].reason == "too_large"
    assert decoded.dead_letters[0].message == f"the value has {len(value)} bytes, expected at most {len(value) - 1}"


def test_a_wrong_type_names_the_field_and_what_was_found() -> None:
    (letter,) = decode(b'{"price": "1.5"}').dead_letters
    assert letter.error == "ValidationError"
    assert letter.message == "Expected `bool | int | float | null`, got `str` - at `$.price`"


def test_values_stand_by_input_in_the_order_of_the_records() -> None:
    decoded = decode(
        b'{"user id": "ann", "price": 1, "tags": ["a", null], "id": "x", "extra": 0}',
        b"?",
        b'{"ts": 5, "user id": 12345678901234567890123, "id": 2, "user id": 7}',
        None,
        b'{"id": 3, "class": 1.0, "on": false}',
        event_id="id",
    )
    assert [record.offset for record in decoded.records] == [0, 2, 4]
    assert sorted((letter.record.offset, letter.reason) for letter in decoded.dead_letters) == [
        (1, "not_json"),
        (3, "null_value"),
    ]
    assert {name: list(values) for name, values in decoded.values.items() if name not in ("day", "code")} == {
        "user id": ["ann", 7, None],
        "price": [1, None, None],
        "tags": [["a", None], None, None],
        "class": [None, None, 1.0],
        "ts": [None, 5, None],
        "on": [None, None, False],
    }
    assert list(decoded.kept["id"]) == ["x", 2, 3]
    # 1 and 1.0 are equal for Python.
    assert [type(decoded.values["price"][0]), type(decoded.values["class"][2])] == [int, float]
    assert "unused" not in decoded.values


def test_a_dead_letter_holds_the_record_untouched() -> None:
    record = Event("clicks", 1, 2, 3, b"k", b"\xff\n", (("trace", b"\x00"),))
    (letter,) = JsonDecoder(SPEC, StreamSettings()).decode([record]).dead_letters
    assert letter.record is record


def test_no_records_are_no_events() -> None:
    decoded = decode(event_id="id", keep=("page",))
    assert (list(decoded.records), list(decoded.dead_letters), list(decoded.kept["page"])) == ([], [], [])


def test_a_batch_of_poison_alone() -> None:
    decoded = decode(*[b"?"] * 3_000, event_id="id")
    assert (len(decoded.records), len(decoded.dead_letters)) == (0, 3_000)


def test_types_follow_what_features_accept() -> None:
    both = FeatureSpec.from_toml("""
        format = 1
        label = "y"
        [inputs]
        n = "INTEGER"
        [features.n]
        kind = "categorical"
        [features.m]
        kind = "numeric"
        input = "n"
    """)
    records = [Event("t", 0, n, 0, None, value) for n, value in enumerate((b'{"n": "5"}', b'{"n": true}'))]
    decoded = JsonDecoder(both, StreamSettings()).decode(records)
    assert [(letter.record.offset, letter.reason) for letter in decoded.dead_letters] == [(0, "wrong_type")]
    assert decoded.values["n"] == [True]


# Anything at all.

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["user id", "price", "tags", "class", "ts", "day", "code", "on", "id", "page"])
WRITTEN = st.dictionaries(NAMES, JSON, max_size=5).map(lambda event: json.dumps(event).encode())


@given(values=st.lists(st.none() | st.binary(max_size=30) | WRITTEN, max_size=8))
@example(values=[b'{"id": 1}', None, b'{"id": 2, "page": [1]}'])
def test_every_record_is_an_event_or_a_dead_letter_as_it_is_alone(values: Sequence[bytes | None]) -> None:
    settings: dict[str, Any] = {"event_id": "id", "keep": ("page",)}
    decoded = decode(*values, **settings)
    refused = {letter.record.offset: letter.reason for letter in decoded.dead_letters}
    assert sorted([record.offset for record in decoded.records] + list(refused)) == list(range(len(values)))
    for place, value in enumerate(values):
        assert refused.get(place) == reason(value, **settings)
    for place, record in enumerate(decoded.records):
        value = record.value
        assert value is not None
        event = json.loads(value)
        assert {name: column[place] for name, column in decoded.values.items()} == {
            name: event.get(name) for name in decoded.values
        }
        assert decoded.kept["id"][place] == event["id"]
        assert _same(json.loads(bytes(decoded.kept["page"][place])), event.get("page"))


def _same(left: Any, right: Any) -> bool:
    return json.dumps(left) == json.dumps(right)


def test_a_records_position_is_told_from_its_neighbours() -> None:
    """Events that would be one event, or three, if their bytes were joined."""
    halves: list[Record] = [Event("t", 0, 0, 0, None, b'{"tags": ["a"'), Event("t", 0, 1, 0, None, b'"b"]}')]
    decoded = JsonDecoder(SPEC, StreamSettings()).decode([*halves, Event("t", 0, 2, 0, None, b"{},{},{}")])
    assert len(decoded.dead_letters) == 3
