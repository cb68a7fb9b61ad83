"""Python's values as Arrow arrays of our own making: those that pyarrow makes of them."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from streamfm.encoder.plain import PLAIN_TYPES, plain_array, plain_lists, plain_value
from streamfm.encoder.values import to_array
from streamfm.features import Input

OF_TYPE: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5) | st.sampled_from(["", "\0", "a\0b", "é", "🎲" * 3]),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    bool: st.booleans(),
}
COLUMNS = st.sampled_from(list(OF_TYPE)).flatmap(
    lambda kind: st.tuples(st.just(kind), st.lists(st.none() | OF_TYPE[kind], max_size=20))
)


@given(column=COLUMNS)
@example(column=(str, []))
@example(column=(str, ["a", "\0", "b"]))
@example(column=(str, ["a\0b"]))
@example(column=(str, [None, "", None]))
@example(column=(float, [None, 1.0, math.nan]))
def test_a_column_is_what_pyarrow_makes_of_it(column: tuple[type, list[Any]]) -> None:
    kind, values = column
    found = plain_array(values, kind)
    found.validate(full=True)
    assert found.equals(pa.array(values, PLAIN_TYPES[kind], from_pandas=True))


@given(column=COLUMNS, cuts=st.lists(st.integers(0, 20), max_size=4))
def test_lists_are_what_pyarrow_makes_of_them(column: tuple[type, list[Any]], cuts: list[int]) -> None:
    kind, values = column
    places = sorted(min(cut, len(values)) for cut in cuts)
    lists = [values[start:stop] for start, stop in zip([0, *places], [*places, len(values)], strict=True)] + [None]
    found = plain_lists(lists, kind)
    found.validate(full=True)
    assert found.equals(pa.array(lists, pa.list_(PLAIN_TYPES[kind]), from_pandas=True))


@given(value=st.one_of(*OF_TYPE.values()).filter(lambda value: value == value))
def test_one_value_is_what_a_column_of_it_is(value: Any) -> None:
    assert plain_value(value).equals(plain_array([value], type(value)))


@pytest.mark.parametrize("values", [["a", "\ud800"], ["\ud800", None]])
def test_a_text_without_utf8_is_refused(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="surrogates"):
        plain_array(values, str)


@pytest.mark.parametrize(
    "values", [[1, 2.5, None], [2**53, 0.5], [-(2**53), 0.5, math.nan], [2**53 + 1, 2.0], [2**70, 0.5], [1.5, None, 3]]
)
def test_integers_beside_floats_are_floats_where_nothing_is_lost(values: list[Any]) -> None:
    array = to_array(values, Input(name="n", type="BIGINT"))
    try:
        expected = pa.array(values, from_pandas=True)
    except (pa.ArrowException, OverflowError):
        # Texts, so that no digit is lost.
        assert array.type == pa.string()
        assert array[0].as_py() == str(values[0])
    else:
        assert array.equals(expected)
