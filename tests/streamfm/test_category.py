"""The written rule of `streamfm.encoder.category`, line by line: one value, one category, whatever type brought it."""

from __future__ import annotations

import datetime as dt
import math
import random
import re
import uuid
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.encoder import category
from streamfm.encoder.category import as_declared, as_double, canonical, category_texts
from streamfm.errors import DataError

SIGNED = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
UNSIGNED = [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal32(9, 2), pa.decimal64(18, 3), pa.decimal128(38, 10), pa.decimal256(76, 20), pa.decimal128(5, 0)]
TEXTS = [pa.string(), pa.large_string(), pa.string_view()]
INDICES = SIGNED + UNSIGNED
ID = uuid.UUID("6F9619FF-8B86-D011-B42D-00C04FC964FF")


def texts(values: list[Any], kind: pa.DataType | None = None) -> list[str | None]:
    return category_texts(pa.array(values, kind)).to_pylist()


@pytest.mark.parametrize("kind", SIGNED + UNSIGNED + FLOATS + DECIMALS)
def test_a_whole_number_is_its_digits_in_every_type_that_holds_it(kind: pa.DataType) -> None:
    numbers = [0, 1, 100, 120, None]
    values = [None if n is None else np.float16(n) for n in numbers] if kind == pa.float16() else numbers
    assert ["0", "1", "100", "120", None] == texts(values, kind)


@pytest.mark.parametrize("kind", SIGNED + FLOATS[1:] + DECIMALS)
def test_a_negative_whole_number_is_its_digits(kind: pa.DataType) -> None:
    assert ["-7", "-100"] == texts([-7, -100], kind)


def test_one_is_the_same_category_wherever_it_comes_from() -> None:
    arrays = {
        "Parquet integer": pa.array([1], pa.int32()),
        "JSON number": pa.array([1]),
        "pandas beside a missing value": pa.array(pd.Series([1, None]), from_pandas=True).slice(0, 1),
        "SQL string": pa.array(["1"]),
        "dictionary": pa.array(["1"]).dictionary_encode(),
        "dictionary of integers": pa.array([1]).dictionary_encode(),
        "decimal": pa.array([Decimal("1.00")]),
        "numpy": pa.array(np.array([1], np.uint8)),
        "huge integer of DuckDB": duckdb.sql("SELECT 1::HUGEINT AS x").to_arrow_table().column(0).combine_chunks(),
        "run-end encoded": pc.run_end_encode(pa.array(["1"])),
    }
    assert {name: ["1"] for name in arrays} == {
        name: category_texts(array).to_pylist() for name, array in arrays.items()
    }


@pytest.mark.parametrize(
    ("kind", "least", "most"),
    [
        (pa.int8(), "-128", "127"),
        (pa.int64(), "-9223372036854775808", "9223372036854775807"),
        (pa.uint8(), "0", "255"),
        (pa.uint64(), "0", "18446744073709551615"),
        (pa.decimal128(38, 0), "-" + "9" * 38, "9" * 38),
        (pa.decimal256(76, 0), "-" + "9" * 76, "9" * 76),
    ],
)
def test_the_extremes_of_a_type_keep_all_digits(kind: pa.DataType, least: str, most: str) -> None:
    assert [least, most] == texts(
        [Decimal(least), Decimal(most)] if pa.types.is_decimal(kind) else [int(least), int(most)], kind
    )


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.1, "0.1"),
        (-0.5, "-0.5"),
        (-0.0, "0"),
        (3.0, "3"),
        (1e-5, "0.00001"),
        (1e-7, "0.0000001"),
        (-1.5e-9, "-0.0000000015"),
        (5e-324, "0." + "0" * 323 + "5"),
        (1e15 + 0.5, "1000000000000000.5"),
        (123456789.125, "123456789.125"),
        (2.0**53, "9007199254740992"),
        (-(2.0**63), "-9223372036854775808"),
        (2.0**63, "9223372036854775808"),
        (1e21, "1000000000000000000000"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (math.nan, None),
    ],
)
def test_a_float_is_the_shortest_plain_digits(value: float, expected: str | None) -> None:
    assert [expected] == texts([value])
    # Other values of the array take other ways through the code.
    assert ["1", expected, None, "0.25"] == texts([1.0, value, None, 0.25])


@given(st.lists(st.floats() | st.none()))
def test_every_float_reads_back_from_its_text(values: list[float | None]) -> None:
    found = texts(values, pa.float64())
    missing = [value is None or math.isnan(value) for value in values]
    assert missing == [text is None for text in found]
    for value, text in zip(values, found, strict=True):
        if value is not None and text is not None:
            assert value == float(text)
            assert re.fullmatch(r"-?(0|[1-9]\d*)(\.\d*[1-9])?|-?inf", text)


@given(st.lists(st.floats(width=32, allow_nan=False)))
def test_every_single_float_reads_back_from_its_text(values: list[float]) -> None:
    found = texts(values, pa.float32())
    assert values == [float(np.float32(text)) for text in found]


def test_a_half_float_is_the_double_of_the_same_value() -> None:
    assert ["0.0999755859375", None, "2"] == texts([np.float16(0.1), np.float16("nan"), np.float16(2)], pa.float16())


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_floats_and_decimals_of_one_value_are_one_category(number: int) -> None:
    assert [str(number)] == texts([number]) == texts([Decimal(number)], pa.decimal128(38, 3))
    assert texts([int(float(number))] if abs(number) < 2**62 else [Decimal(int(float(number)))]) == texts(
        [float(number)]
    )


@pytest.mark.parametrize("kind", [pa.decimal128(38, 20), pa.decimal256(76, 40)])
@given(number=st.decimals(-(10**15), 10**15, places=12))
def test_a_decimal_is_its_digits_without_trailing_zeros(kind: pa.DataType, number: Decimal) -> None:
    plain = f"{number:f}".rstrip("0").removesuffix(".")
    assert ["0" if plain == "-0" else plain] == texts([number], kind)


def test_decimals_that_arrow_writes_with_exponents_are_plain() -> None:
    tiny = [Decimal("0"), Decimal("0.0000001"), Decimal("-0.0000000010"), None]
    assert ["0", "0.0000001", "-0.000000001", None] == texts(tiny, pa.decimal128(38, 20))
    assert ["12300", "0", "-100", None] == texts(
        [Decimal(12300), Decimal(0), Decimal(-100), None], pa.decimal128(5, -2)
    )


def test_a_fraction_is_the_same_category_as_float_decimal_and_text() -> None:
    for digits in ("0.1", "1.5", "-0.0000025", "123456789.000001", "1000000000000000.5"):
        assert [digits] == texts([float(digits)]) == texts([Decimal(digits)], pa.decimal128(38, 10)) == texts([digits])


@pytest.mark.parametrize("kind", TEXTS)
def test_text_is_itself_byte_by_byte(kind: pa.DataType) -> None:
    values = [" Ab", "", "é", "e\u0301", "1.0", "01", "NULL", "nan", "a\x00b", "🐟", None]
    assert values == texts(values, kind)


def test_booleans_are_words() -> None:
    assert ["true", "false", None] == texts([True, False, None])


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates_are_iso_8601(kind: pa.DataType) -> None:
    days = [dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(2024, 2, 29), dt.date(9999, 12, 31), None]
    assert ["0001-01-01", "1969-12-31", "2024-02-29", "9999-12-31", None] == texts(days, kind)


@pytest.mark.parametrize("zone", [None, "UTC", "+02:00", "America/New_York"])
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_are_in_utc_to_the_second_in_every_unit(unit: str, zone: str | None) -> None:
    per_second = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    values = [0, 1_709_208_000, -1, None]
    instants = pa.array([None if value is None else value * per_second for value in values], pa.timestamp(unit, zone))
    expected = ["1970-01-01 00:00:00", "2024-02-29 12:00:00", "1969-12-31 23:59:59", None]
    assert expected == category_texts(instants).to_pylist()


@pytest.mark.parametrize(
    ("unit", "value", "fraction"),
    [
        ("ms", 500, ".5"),
        ("ms", 1, ".001"),
        ("us", 500_000, ".5"),
        ("us", 10, ".00001"),
        ("us", 123_456, ".123456"),
        ("ns", 500_000_000, ".5"),
        ("ns", 123_456_789, ".123456"),
        ("ns", 999, ""),
    ],
)
def test_fractions_of_a_second_end_with_their_last_digit(unit: str, value: int, fraction: str) -> None:
    assert [f"1970-01-01 00:00:00{fraction}"] == texts([value], pa.timestamp(unit))


def test_seconds_that_no_clock_reaches_are_an_error_and_not_another_time() -> None:
    with pytest.raises(pa.ArrowInvalid, match="out of bounds"):
        canonical(pa.array([2**60], pa.timestamp("s")))


@pytest.mark.parametrize("index", INDICES)
@pytest.mark.parametrize("kind", [*TEXTS, pa.int32(), pa.float64(), pa.date32()])
def test_a_dictionary_is_its_entries(index: pa.DataType, kind: pa.DataType) -> None:
    entries = pa.array(["2020-01-01", "2020-01-02", None]).cast(kind) if kind == pa.date32() else None
    if entries is None:
        entries = pa.array(["b", "a", None] if kind in TEXTS else [3, 1, None], kind)
    array = pa.DictionaryArray.from_arrays(pa.array([1, None, 0, 2, 1], index), entries)
    first, second = category_texts(entries).to_pylist()[:2]
    assert [second, None, first, None, second] == category_texts(array).to_pylist()
    assert [first, None] == category_texts(array.slice(2, 2)).to_pylist()


def test_uuids_are_lower_case_with_hyphens() -> None:
    assert [str(ID), None] == texts([ID, None])
    assert str(ID) == str(ID).lower()


def test_nothing_is_missing() -> None:
    assert [None, None] == texts([None, None], pa.null())


def test_data_frames_bring_the_same_categories() -> None:
    frame = pd.DataFrame({"id": [3, None], "name": pd.Categorical(["x", None]), "flag": [True, None]})
    assert {"id": ["3", None], "name": ["x", None], "flag": ["true", None]} == {
        name: category_texts(pa.array(frame[name], from_pandas=True)).to_pylist() for name in frame
    }
    columns = pa.table(
        pl.DataFrame({"t": ["x", None]}).with_columns(
            c=pl.col("t").cast(pl.Categorical), e=pl.col("t").cast(pl.Enum(["w", "x"]))
        )
    )
    assert [["x", None]] * 3 == [category_texts(column.chunk(0)).to_pylist() for column in columns.columns]


@pytest.mark.parametrize(
    ("array", "hint"),
    [
        (pa.array([b"x"]), "cast them to VARCHAR"),
        (pa.array([b"x"], pa.large_binary()), "cast them to VARCHAR"),
        (pa.array([b"x"], pa.binary(1)), "cast them to VARCHAR"),
        (pa.array([b"x"], pa.binary_view()), "cast them to VARCHAR"),
        (pa.array([1], pa.duration("s")), "cast them to VARCHAR"),
        (pa.array([1], pa.time32("s")), "cast them to VARCHAR"),
        (pa.array([1], pa.time64("us")), "cast them to VARCHAR"),
        (pa.array([(1, 2, 3)], pa.month_day_nano_interval()), "cast them to VARCHAR"),
        (pa.array([{"a": 1}]), "cast them to VARCHAR"),
        (pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64())), "cast them to VARCHAR"),
        (pa.array([["a"]]), "multivalued"),
        (pa.array([["a"]], pa.large_list(pa.string())), "multivalued"),
        (pa.array([["a"]], pa.list_(pa.string(), 1)), "multivalued"),
        (pa.array([["a"]], pa.list_view(pa.string())), "multivalued"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_what_is_no_category_is_refused_with_its_type(array: pa.Array, hint: str) -> None:
    with pytest.raises(DataError, match=re.escape(str(array.type))) as caught:
        canonical(array)
    assert hint in str(caught.value.hint)


SQL_VALUES = [
    *("1::TINYINT", "(-128)::TINYINT", "32767::SMALLINT", "-5::INTEGER", "9223372036854775807::BIGINT"),
    *("(-9223372036854775808)::BIGINT", "170141183460469231731687303715884105::HUGEINT", "255::UTINYINT"),
    *("18446744073709551615::UBIGINT", "0::UINTEGER", "7::USMALLINT", "12::UHUGEINT"),
    *("true", "false", "NULL::BOOLEAN", "'a b'", "''"),
    *("DATE '2024-02-29'", "DATE '0001-01-01'", "DATE '9999-12-31'", "DATE '1969-12-31'"),
    *("TIMESTAMP '2024-02-29 00:00:00'", "TIMESTAMP '2024-02-29 12:34:56.5'", "TIMESTAMP '1969-12-31 23:59:59.999999'"),
    *(
        "TIMESTAMP '0001-01-01 00:00:00.000001'",
        "TIMESTAMP '9999-12-31 23:59:59'",
        "TIMESTAMP '2024-01-01 10:00:00.120'",
    ),
    *("'2024-02-29 12:34:56'::TIMESTAMP_S", "'2024-02-29 12:34:56.789'::TIMESTAMP_MS"),
    *("'b'::ENUM('a', 'b')", "'6f9619ff-8b86-d011-b42d-00c04fc964ff'::UUID"),
]


@pytest.mark.parametrize("value", SQL_VALUES)
def test_where_sql_casts_to_text_it_gives_the_same_text(value: str) -> None:
    ours, sqls = duckdb.sql(f"SELECT {value} AS ours, CAST({value} AS VARCHAR) AS sqls").to_arrow_table().columns
    assert sqls.to_pylist() == category_texts(ours.combine_chunks()).to_pylist()


@pytest.mark.parametrize(
    ("values", "declared", "expected"),
    [
        (pa.array([0.1, None], pa.float32()), "DOUBLE", ["0.10000000149011612", None]),
        (pa.array([0.1], pa.float64()), "FLOAT", ["0.1"]),
        (pa.array([16_777_217]), "FLOAT", ["16777216"]),
        (pa.array([Decimal("1.50")]), "DOUBLE", ["1.5"]),
        (pa.array([Decimal("0.3"), Decimal("0.7")]), "DOUBLE", ["0.3", "0.7"]),
        (pa.array([1, 0, -2, None]), "BOOLEAN", ["true", "false", "true", None]),
        (pa.array([0.5, 0.0, math.nan]), "BOOLEAN", ["true", "false", None]),
        (pa.array([True]), "BOOLEAN", ["true"]),
        (pa.array([True, None]), "DOUBLE", ["1", None]),
        (pa.array([-1, 86_400_000_000, None], pa.timestamp("us")), "DATE", ["1969-12-31", "1970-01-02", None]),
        (pa.array([0], pa.timestamp("s", "America/New_York")), "DATE", ["1970-01-01"]),
        (pa.array([1], pa.date32()), "TIMESTAMP", ["1970-01-02 00:00:00"]),
        (pa.array([1], pa.date32()), "TIMESTAMPTZ", ["1970-01-02 00:00:00"]),
        (pa.array([3.5]), "BIGINT", ["3.5"]),
        (pa.array(["x"]), "DOUBLE", ["x"]),
        (pa.array([1]), "VARCHAR", ["1"]),
        (pa.array([Decimal("1.50")]), "DECIMAL(9,2)", ["1.5"]),
    ],
)
def test_values_become_those_of_the_declared_type(values: pa.Array, declared: str, expected: list[str | None]) -> None:
    assert expected == category_texts(as_declared(values, declared)).to_pylist()


@pytest.mark.parametrize(
    ("value", "declared"),
    [
        ("0.1::FLOAT", "DOUBLE"),
        ("0.1::DOUBLE", "FLOAT"),
        ("16777217::BIGINT", "FLOAT"),
        ("3::BIGINT", "BOOLEAN"),
        ("true", "DOUBLE"),
        ("0::INTEGER", "BOOLEAN"),
        ("0.4::DOUBLE", "BOOLEAN"),
        ("TIMESTAMP '1969-12-31 23:59:59'", "DATE"),
        ("DATE '2024-02-29'", "TIMESTAMP"),
    ],
)
def test_sql_casts_to_the_declared_type_alike(value: str, declared: str) -> None:
    plain, cast = duckdb.sql(f"SELECT {value} AS plain, CAST({value} AS {declared}) AS done").to_arrow_table().columns
    ours = category_texts(as_declared(plain.combine_chunks(), declared))
    assert category_texts(cast.combine_chunks()).to_pylist() == ours.to_pylist()


DECIMAL_TYPES = [
    *(pa.decimal128(9, 2), pa.decimal128(18, 4), pa.decimal128(18, 0), pa.decimal128(38, 10), pa.decimal128(38, 30)),
    *(pa.decimal32(9, 2), pa.decimal64(18, 4)),
]


@pytest.mark.parametrize("kind", DECIMAL_TYPES, ids=str)
def test_a_decimal_is_the_nearest_double_as_in_sql(kind: pa.DataType) -> None:
    generator = random.Random(1)
    values = [Decimal(generator.randrange(10**kind.precision)).scaleb(-kind.scale) for _ in range(2000)]
    column = pa.array([*values, None], kind)
    doubles = as_double(column).to_pylist()
    assert [float(value) for value in column.to_pylist()[:-1]] == doubles[:-1]
    decimals = duckdb.from_arrow(pa.table({"decimal": column}))
    assert doubles == [double for (double,) in decimals.select("decimal::DOUBLE").fetchall()]


def test_a_decimal_wider_or_smaller_than_sql_has_is_the_nearest_double() -> None:
    assert [1e50, 0.3] == as_double(pa.array([Decimal(10**50), Decimal("0.3")], pa.decimal256(76, 20))).to_pylist()
    assert [1e-30] == as_double(pa.array([Decimal("1e-30")])).to_pylist()


EXAMPLES = {
    "' Ab' -> ' Ab'": [pa.array([" Ab"])],
    "-7, -7.0, -7.00 -> '-7'": [pa.array([-7]), pa.array([-7.0]), pa.array([Decimal("-7.00")])],
    "0.1 -> '0.1'": [pa.array([0.1]), pa.array([0.1], pa.float32())],
    "1e-7 -> '0.0000001'": [pa.array([1e-7])],
    "1.50 -> '1.5'": [pa.array([Decimal("1.50")])],
    "'2024-02-29'": [pa.array([dt.date(2024, 2, 29)])],
    "'2024-02-29 12:00:00.5'": [pa.array([dt.datetime(2024, 2, 29, 12, 0, 0, 500_000)])],
}


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_written_rule_hold(example: str) -> None:
    assert example in str(category.__doc__)
    expected = [example.split("-> ")[-1].strip("'")]
    assert [expected] * len(EXAMPLES[example]) == [category_texts(array).to_pylist() for array in EXAMPLES[example]]
