from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.parquet_log_matching import holds, names_in, spelling, words

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def held(raw: bytes | None, *patterns: str) -> bool:
    return bool(holds(pa.table({"_raw": pa.array([raw], pa.binary())}), patterns)[0].as_py())


@given(TEXTS, TEXTS, st.booleans())
def test_a_text_is_found_however_json_writes_it(text: str, before: str, is_ascii: bool) -> None:
    raw = json.dumps({before: text, "broken": before}, ensure_ascii=is_ascii).encode()[:-1]
    assert held(raw, spelling(text))
    assert held(raw, *words([text]))


@pytest.mark.parametrize(
    "raw", [rb'"J\u00f6rg"', rb'"J\u00F6rg"', '"Jörg"'.encode(), b"id=J\xc3\xb6rg,", rb'{"\ud83d\ude00": "J\u00f6rg']
)
def test_each_spelling_is_one(raw: bytes) -> None:
    assert held(raw, spelling("Jörg"))


def test_slashes_and_signs_may_be_escaped() -> None:
    assert held(rb'"a\/b\u003Cc"', spelling("a/b<c"))
    assert held(rb'"\uD83D\uDE00"', spelling("\U0001f600"))


def test_other_texts_and_nothing_are_not_found() -> None:
    assert not held(rb'"J\u00f7rg"', spelling("Jörg"))
    assert not held(b'"axb"', spelling("a.b"))
    assert not held(None, spelling("a"))
    assert not held(b"anything", *words([]))


def test_a_name_is_found_as_a_whole_and_among_many() -> None:
    many = words(f"00000000-0000-4000-8000-{number:012d}" for number in range(5_000))
    assert len(many) > 1
    assert held(b'{"event_id": "00000000-0000-4000-8000-000000004999"}', *many)
    assert held(b"e1", *words(["e1"]))
    assert held(b'{"event_id":17}', *words(["17"]))
    assert not held(b'{"event_id":"e17","other":"ae1"}', *words(["e1"]))


def test_names_are_read_from_records_that_are_json() -> None:
    some = [b'{"event_id": "e1"}', b'{"event_id": 17}', b'{"event_id": true}', b'["event_id"]', b"{broken", b"\xff"]
    assert {"e1", "17"} == names_in(some, "event_id")
