"""Whatever people hand over becomes the same columns."""

from __future__ import annotations

import datetime as dt
import math
import types
import uuid
from collections import OrderedDict
from decimal import Decimal
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.encoder.category import as_double, category_texts
from streamfm.encoder.plain import PLAIN_TYPES, plain_array, plain_lists, plain_value
from streamfm.errors import DataError, MissingColumnsError
from streamfm.features import FeatureSpec
from streamfm.rows import to_columns

SPEC = FeatureSpec.from_toml("""
    format = 1
    label = "clicked"
    [inputs]
    user = "VARCHAR"
    item = "BIGINT"
    price = "DOUBLE"
    fresh = "BOOLEAN"
    day = "DATE"
    ts = { type = "TIMESTAMP", json = "epoch_ms" }
    seen = "TIMESTAMPTZ"
    genres = "VARCHAR[]"
    days = "DATE[]"
    [features.user]
    kind = "categorical"
""")
NOON = dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC)
NOON_MS = 1_709_208_000_000
EVENTS: list[dict[str, Any]] = [
    {
        "user": "ann",
        "item": 1,
        "price": 1.5,
        "fresh": True,
        "day": dt.date(2024, 2, 29),
        "ts": NOON,
        "genres": ["a", "b"],
    },
    {"user": "ü", "item": -7, "price": 0.0, "fresh": False, "day": dt.date(1969, 1, 1), "ts": NOON, "genres": []},
    dict.fromkeys(("user", "item", "price", "fresh", "day", "ts", "genres")),
]
EXPECTED = {
    "user": ["ann", "ü", None],
    "item": ["1", "-7", None],
    "price": ["1.5", "0", None],
    "fresh": ["true", "false", None],
    "day": ["2024-02-29", "1969-01-01", None],
    "ts": ["2024-02-29 12:00:00", "2024-02-29 12:00:00", None],
    "genres": [["a", "b"], [], None],
}


def texts(rows: Any, spec: FeatureSpec = SPEC) -> dict[str, list[Any]]:
    """Each column's categories: what the encoder sees of it, whatever Arrow type it has."""
    columns, count = to_columns(rows, spec)
    found = {}
    for name, column in columns.items():
        assert count == len(column)
        array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        found[name] = array.to_pylist() if pa.types.is_nested(array.type) else category_texts(array).to_pylist()
    return found


def one(name: str, value: Any) -> Any:
    """What becomes of a value, alone in one event and beside a NULL in two."""
    alone = texts({name: value}).get(name, [None])
    assert alone == texts([{name: value}])[name]
    assert [*alone, None] == texts([{name: value}, {name: None}])[name]
    return alone[0]


TABLE = pa.Table.from_pylist(EVENTS)
RENAMED = TABLE.append_column("user_2", TABLE["user"])
FORMS: dict[str, Any] = {
    "table": TABLE,
    "table in chunks": pa.concat_tables([TABLE.slice(0, 1), TABLE.slice(1)]),
    "record batch": TABLE.combine_chunks().to_batches()[0],
    "record batch reader": RENAMED.to_reader(),
    "table with other columns": RENAMED,
    "table in another order": TABLE.select(list(reversed(TABLE.column_names))),
    "pandas": TABLE.to_pandas(),
    "pandas by Arrow": TABLE.to_pandas(types_mapper=pd.ArrowDtype),
    "pandas with an index": TABLE.to_pandas().set_index(pd.Index([5, 6, 7], name="id")),
    "polars": pl.from_arrow(TABLE),
    "list of dicts": EVENTS,
    "tuple of dicts": tuple(EVENTS),
    "dicts without their NULLs": [{key: value for key, value in row.items() if value is not None} for row in EVENTS],
    "dicts with other keys": [{**row, "other": object()} for row in EVENTS],
    "mappings": [types.MappingProxyType(EVENTS[0]), OrderedDict(EVENTS[1]), EVENTS[2]],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_rows_gives_the_same_columns(form: str) -> None:
    assert EXPECTED == texts(FORMS[form])


def test_a_duckdb_relation_is_rows() -> None:
    rows = TABLE  # noqa: F841
    assert EXPECTED == texts(duckdb.sql("SELECT * FROM rows"))


def test_one_dict_is_one_row() -> None:
    columns, count = to_columns(EVENTS[0], SPEC)
    assert 1 == count
    assert {name: values[:1] for name, values in EXPECTED.items()} == texts(EVENTS[0])
    assert list(columns) != []


@pytest.mark.parametrize("row", [types.MappingProxyType(EVENTS[0]), OrderedDict(EVENTS[0])])
def test_any_mapping_is_one_row(row: Any) -> None:
    assert texts(EVENTS[0]) == texts(row)


def test_an_input_that_is_not_there_is_left_out() -> None:
    assert ["item"] == list(to_columns({"item": 1, "other": 2}, SPEC)[0])
    assert ["item"] == list(to_columns([{"item": 1}, {"other": 2}], SPEC)[0])
    assert ["item"] == list(to_columns(pd.DataFrame({"item": [1], "other": [object()]}), SPEC)[0])
    assert ({}, 1) == to_columns({"item": None}, SPEC)


def test_no_rows_are_no_rows() -> None:
    assert ({}, 0) == to_columns([], SPEC)
    columns, count = to_columns(TABLE.slice(0, 0), SPEC)
    assert (0, 7) == (count, len(columns))
    assert 0 == to_columns(TABLE.to_pandas().head(0), SPEC)[1]


@pytest.mark.parametrize(
    "rows",
    [
        {"usr": 1, 3: 4},
        {},
        [{"usr": 1}],
        pa.table({"usr": [1]}),
        pd.DataFrame({"usr": [1], 3: [4]}),
        pl.DataFrame({"usr": [1]}),
        pa.table({"usr": [1]}).to_reader(),
    ],
    ids=["dict", "empty dict", "dicts", "table", "pandas", "polars", "reader"],
)
def test_rows_without_any_input_are_an_error_that_names_what_is_needed_and_there(rows: Any) -> None:
    with pytest.raises(MissingColumnsError, match="'user', 'item'") as caught:
        to_columns(rows, SPEC)
    assert SPEC.input_names == caught.value.missing
    hint = "it has no columns" if isinstance(rows, dict) and not rows else "did you mean 'usr'? it has usr"
    assert str(caught.value.hint).startswith(hint)


@pytest.mark.parametrize(
    ("rows", "message", "hint"),
    [
        ((row for row in EVENTS), "generator can be read only once", "list(rows)"),
        (iter(EVENTS), "list_iterator can be read only once", "list(rows)"),
        (pl.LazyFrame({"user": ["ann"]}), "LazyFrame holds no rows yet", "collect()"),
        (None, "NoneType holds no rows", "list of dicts"),
        ("user", "str holds no rows", "list of dicts"),
        (b"user", "bytes holds no rows", "list of dicts"),
        (3, "int holds no rows", "list of dicts"),
        (np.zeros((2, 2)), "ndarray holds no rows", "list of dicts"),
        ({1, 2}, "set holds no rows", "list of dicts"),
        (["user"], "row 0 is str, expected a dict", "list of dicts"),
        ([EVENTS[0], None], "row 1 is NoneType, expected a dict", "list of dicts"),
        ([[1, 2]], "row 0 is list, expected a dict", "list of dicts"),
        (pa.chunked_array([[1]]), "ChunkedArray holds no rows", "list of dicts"),
        (pd.Series([1], name="user"), "Series holds no rows", "list of dicts"),
        (pl.Series("user", [1]), "Series holds no rows", "list of dicts"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_what_holds_no_rows_is_an_error_with_a_hint(rows: Any, message: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        to_columns(rows, SPEC)
    assert message in caught.value.message
    assert hint in str(caught.value.hint)


@pytest.mark.parametrize(
    "rows",
    [
        pa.table([[1], [2]], names=["user", "user"]),
        pd.DataFrame([[1, 2]], columns=["user", "user"]),
    ],
    ids=["table", "pandas"],
)
def test_a_column_that_is_there_twice_is_an_error(rows: Any) -> None:
    with pytest.raises(DataError, match="column 'user' is there twice"):
        to_columns(rows, SPEC)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("1", "1"),
        (1, "1"),
        (1.0, "1"),
        (0.1, "0.1"),
        (True, "true"),
        (Decimal("1.50"), "1.5"),
        (2**63, "9223372036854775808"),
        (-(2**70), "-1180591620717411303424"),
        (10**60, "1" + "0" * 60),
        (10**80, "1" + "0" * 80),
        (np.int64(3), "3"),
        (np.float32(0.5), "0.5"),
        (np.str_("x"), "x"),
        (np.bool_(True), "true"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (math.nan, None),
        (pd.NA, None),
        (pd.NaT, None),
        (None, None),
    ],
)
@pytest.mark.parametrize("name", ["user", "item"])
def test_a_value_of_any_python_type_is_its_category(name: str, value: Any, text: str | None) -> None:
    assert text == one(name, value)


@given(st.lists(st.none() | st.text() | st.integers() | st.floats() | st.booleans(), min_size=1, max_size=6))
def test_mixed_values_are_what_each_is_alone(values: list[Any]) -> None:
    rows = [{"user": value} for value in values]
    alone = [texts(row).get("user", [None])[0] for row in rows]
    assert alone == texts(rows)["user"]
    frame = pd.DataFrame({"user": pd.Series(values, dtype=object)})
    assert alone == texts(frame)["user"]


ANY_VALUES = st.one_of(
    *(st.none(), st.text(), st.integers(), st.floats(), st.booleans(), st.decimals(allow_infinity=False), st.dates()),
    *(st.floats(width=32).map(np.float32), st.floats(width=16).map(np.float16), st.floats().map(np.float64)),
    *(st.booleans().map(np.bool_), st.integers(-128, 127).map(np.int8), st.integers(0, 2**64 - 1).map(np.uint64)),
    *(st.datetimes(), st.datetimes(timezones=st.just(dt.UTC)), st.uuids(), st.just(pd.NA), st.just(pd.NaT)),
)


@given(st.lists(ANY_VALUES, min_size=2, max_size=8))
def test_mixed_values_of_any_type_are_what_each_is_alone(values: list[Any]) -> None:
    several = ["text", 0.5, *values]
    alone = [texts({"user": value}).get("user", [None])[0] for value in several]
    assert alone == texts([{"user": value} for value in several])["user"]
    assert [alone, None, alone] == texts([{"genres": several}, {"genres": None}, {"genres": tuple(several)}])["genres"]


def test_arrow_is_asked_once_for_each_type_of_mixed_values(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []

    def counted(array: pa.Array) -> pa.Array:
        lengths.append(len(array))
        return category_texts(array)

    monkeypatch.setattr("streamfm.encoder.values.category_texts", counted)
    values = ["x", *(number + 0.5 for number in range(1000)), *[True, False] * 500]
    to_columns([{"user": value} for value in values], SPEC)
    to_columns({"genres": values}, SPEC)
    assert [1000] * 4 == lengths


def test_numbers_of_several_types_stay_numbers() -> None:
    columns, _ = to_columns([{"price": 2**70}, {"price": 1.5}, {"price": Decimal("2.5")}, {"price": None}], SPEC)
    assert [2.0**70, 1.5, 2.5, None] == columns["price"].to_pylist()
    columns, _ = to_columns([{"price": True}, {"price": 0.5}], SPEC)
    assert [1.0, 0.5] == columns["price"].to_pylist()
    columns, _ = to_columns([{"item": np.int64(1)}, {"item": 2}, {"item": np.float32(2.5)}], SPEC)
    assert [1.0, 2.0, 2.5] == columns["item"].to_pylist()
    columns, _ = to_columns([{"item": 2**70}, {"item": 1}, {"item": pd.NA}], SPEC)
    assert pa.types.is_decimal(columns["item"].type)


@pytest.mark.parametrize("other", [Decimal("2.5"), 0.3, np.float32(0.5), True, None])
def test_a_decimal_is_the_float_of_its_digits_alone_and_beside_others(other: Any) -> None:
    columns, _ = to_columns([{"price": Decimal("0.3")}, {"price": other}], SPEC)
    assert 0.3 == as_double(columns["price"])[0].as_py()
    assert 0.3 == as_double(to_columns({"price": Decimal("0.3")}, SPEC)[0]["price"])[0].as_py()


def test_a_number_is_never_cut_to_fit_its_declared_type() -> None:
    assert "3.5" == one("item", 3.5)
    assert "1" == one("fresh", 1)


@pytest.mark.parametrize("rows", [{"price": math.nan}, [{"price": math.nan}], pd.DataFrame({"price": [math.nan]})])
def test_nan_is_how_python_writes_null(rows: Any) -> None:
    # SQL features would see a number greater than all others.
    assert [None] == to_columns(rows, SPEC)[0]["price"].to_pylist()


def test_data_frames_with_missing_integers_and_categories() -> None:
    frame = pd.DataFrame(
        {
            "item": [1, None],
            "user": pd.Categorical(["ann", None]),
            "price": pd.array([1, None], "Int64"),
            "fresh": [True, None],
        }
    )
    expected = {"item": ["1", None], "user": ["ann", None], "price": ["1", None], "fresh": ["true", None]}
    assert expected == texts(frame)


def test_objects_of_polars_are_read_one_by_one() -> None:
    assert {"user": ["1", "ann"]} == texts(pl.DataFrame({"user": pl.Series([1, "ann"], dtype=pl.Object)}))


def test_columns_that_arrow_cannot_have_are_an_error_that_names_the_input() -> None:
    with pytest.raises(DataError, match=r"input 'user' \(VARCHAR\)"):
        to_columns(pd.DataFrame({"user": pd.Series([1j])}), SPEC)


def test_data_frames_of_polars_with_categories() -> None:
    frame = pl.DataFrame({"user": ["ann", None], "item": ["7", None]})
    frame = frame.with_columns(pl.col("user").cast(pl.Categorical), pl.col("item").cast(pl.Enum(["7"])))
    assert {"user": ["ann", None], "item": ["7", None]} == texts(frame)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (NOON_MS, "2024-02-29 12:00:00"),
        (NOON_MS + 0.5, "2024-02-29 12:00:00.0005"),
        (float(NOON_MS), "2024-02-29 12:00:00"),
        (np.int64(NOON_MS), "2024-02-29 12:00:00"),
        (0, "1970-01-01 00:00:00"),
        (-1, "1969-12-31 23:59:59.999"),
        ("2024-02-29T12:00:00Z", "2024-02-29 12:00:00"),
        ("2024-02-29T14:00:00+02:00", "2024-02-29 12:00:00"),
        ("2024-02-29T12:00:00", "2024-02-29 12:00:00"),
        ("2024-02-29 12:00:00.25", "2024-02-29 12:00:00.25"),
        ("2024-02-29", "2024-02-29 00:00:00"),
        (NOON, "2024-02-29 12:00:00"),
        (NOON.replace(tzinfo=None), "2024-02-29 12:00:00"),
        (NOON.astimezone(dt.timezone(dt.timedelta(hours=-5))), "2024-02-29 12:00:00"),
        (dt.date(2024, 2, 29), "2024-02-29 00:00:00"),
        (pd.Timestamp("2024-02-29 12:00:00"), "2024-02-29 12:00:00"),
        (np.datetime64("2024-02-29T12:00:00"), "2024-02-29 12:00:00"),
        (pd.NaT, None),
        (math.nan, None),
        (None, None),
    ],
)
def test_an_instant_is_read_in_every_form(value: Any, text: str | None) -> None:
    assert text == one("ts", value)


@pytest.mark.parametrize(("form", "unit"), [("epoch_s", 1), ("epoch_ms", 1000), ("epoch_us", 1_000_000)])
def test_numbers_count_in_the_unit_of_their_form(form: str, unit: int) -> None:
    spec = FeatureSpec.from_toml(f"""
        format = 1
        label = "y"
        [inputs]
        ts = {{ type = "TIMESTAMPTZ", json = "{form}" }}
        [features.ts]
        kind = "categorical"
    """)
    seconds = NOON_MS // 1000
    for rows in ({"ts": seconds * unit}, [{"ts": seconds * unit}], pa.table({"ts": [seconds * unit]})):
        assert {"ts": ["2024-02-29 12:00:00"]} == texts(rows, spec)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2024-02-29", "2024-02-29"),
        (dt.date(2024, 2, 29), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 23), "2024-02-29"),
        (np.datetime64("2024-02-29"), "2024-02-29"),
        (dt.datetime(2024, 2, 29, 23, tzinfo=dt.timezone(dt.timedelta(hours=-5))), "2024-03-01"),
        (None, None),
        (pd.NaT, None),
    ],
)
def test_a_date_is_read_in_every_form(value: Any, text: str | None) -> None:
    assert text == one("day", value)


def test_tables_and_frames_with_instants_as_text_or_number_are_read_as_dicts_are() -> None:
    rows = [
        {"ts": NOON_MS, "seen": "2024-02-29T14:00:00+02:00", "day": "2024-02-29", "days": ["2024-02-29", None]},
        {"ts": None, "seen": None, "day": None, "days": None},
    ]
    expected = texts(rows)
    assert ["2024-02-29 12:00:00", None] == expected["ts"] == expected["seen"]
    assert [[dt.date(2024, 2, 29), None], None] == expected["days"]
    table = pa.Table.from_pylist(rows)
    for form in (table, table.to_pandas(), pl.from_arrow(table), table.to_reader()):
        assert expected == texts(form)


@pytest.mark.parametrize(
    ("row", "message", "hint"),
    [
        (
            {"ts": "yesterday"},
            "input 'ts' (TIMESTAMP, JSON form epoch_ms) is 'yesterday': Invalid isoformat string",
            "",
        ),
        ({"ts": True}, "input 'ts' (TIMESTAMP, JSON form epoch_ms) is True: expected a number", ""),
        ({"ts": math.inf}, "input 'ts' (TIMESTAMP, JSON form epoch_ms) is inf", ""),
        ({"ts": 10**30}, "input 'ts' (TIMESTAMP)", ""),
        ({"ts": [1]}, "input 'ts' (TIMESTAMP, JSON form epoch_ms) is [1]: expected a number", ""),
        ({"seen": NOON_MS}, "input 'seen' (TIMESTAMPTZ, JSON form iso8601) is 1709208000000", 'json = "epoch_ms"'),
        ({"seen": "2024-13-01"}, "input 'seen' (TIMESTAMPTZ, JSON form iso8601) is '2024-13-01'", ""),
        ({"day": "29.02.2024"}, "input 'day' (DATE, JSON form iso8601) is '29.02.2024'", ""),
        ({"day": 19_782}, "input 'day' (DATE, JSON form iso8601) is 19782: expected a date", ""),
        ({"days": "2024-02-29"}, "input 'days' (DATE[], JSON form iso8601) is '2024-02-29': expected a list", ""),
        ({"days": ["soon"]}, "input 'days' (DATE[], JSON form iso8601) is ['soon']", ""),
        ({"user": "\ud800"}, "input 'user' (VARCHAR): 'utf-8' codec can't encode", ""),
        ({"item": 10**5000}, "input 'item' (BIGINT) is ", ""),
        ({"user": object()}, "input 'user' (VARCHAR) is <object", ""),
        ({"genres": ["a", object()]}, "input 'genres' (VARCHAR[]) is ['a', <object", ""),
    ],
)
def test_a_value_that_is_none_of_its_type_is_an_error_that_names_the_input(
    row: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(DataError) as caught:
        to_columns(row, SPEC)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("bad", [{"ts": "yesterday"}, {"user": object()}, {"day": "soon"}])
def test_among_several_rows_the_row_is_named_too(bad: dict[str, Any]) -> None:
    good = {"user": "ann", "ts": 0, "day": "2024-02-29"}
    with pytest.raises(DataError, match=r"^row 2: input"):
        to_columns([good, good, bad], SPEC)


def test_huge_epochs_in_a_table_are_an_error_and_not_another_time() -> None:
    with pytest.raises(DataError, match=r"input 'ts' \(TIMESTAMP, JSON form epoch_ms\): overflow"):
        to_columns(pa.table({"ts": [2**60]}), SPEC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", "b"], ["a", "b"]),
        (("a", None), ["a", None]),
        ([], []),
        ([1, "a", 2.5], ["1", "a", "2.5"]),
        ([0.0, False], ["0", "false"]),
        ([2**70], ["1180591620717411303424"]),
        (np.array(["a", "b"]), ["a", "b"]),
    ],
)
def test_lists_of_any_values(value: Any, expected: list[str | None]) -> None:
    found = texts({"genres": value})["genres"][0]
    assert expected == [None if element is None else str(element) for element in found]


@pytest.mark.parametrize("one", [["a", "b"], np.array(["a", "b"]), np.array(["a", "b"], object)])
@pytest.mark.parametrize("missing", [None, math.nan, pd.NA])
def test_a_data_frame_has_lists_of_either_kind_and_writes_nan_where_one_is_missing(one: Any, missing: Any) -> None:
    frame = pd.DataFrame({"genres": pd.Series([one, missing, []], dtype=object)})
    assert [["a", "b"], None, []] == texts(frame)["genres"]


@pytest.mark.parametrize("kind", [np.int64, np.float32, np.float64])
def test_arrays_of_numbers_are_lists_of_their_type(kind: type) -> None:
    columns, _ = to_columns(pd.DataFrame({"genres": [np.array([1, 0.5], kind), np.array([], kind)]}), SPEC)
    assert pa.list_(pa.from_numpy_dtype(kind)) == columns["genres"].type


def test_a_text_where_a_list_is_expected_is_not_cut_into_letters() -> None:
    columns, _ = to_columns({"genres": "abc"}, SPEC)
    assert ["abc"] == columns["genres"].to_pylist()


def test_rows_are_left_as_they_were() -> None:
    row = {"user": "ann", "ts": NOON_MS, "genres": ["a"], "day": "2024-02-29"}
    before = {"user": "ann", "ts": NOON_MS, "genres": ["a"], "day": "2024-02-29"}
    to_columns(row, SPEC)
    to_columns([row], SPEC)
    assert before == row


@given(
    st.dictionaries(
        st.sampled_from(SPEC.input_names),
        st.none() | st.text() | st.integers() | st.floats() | st.binary() | st.lists(st.text() | st.integers()),
        min_size=1,
    )
)
def test_no_json_breaks_anything_but_by_a_data_error(row: dict[str, Any]) -> None:
    try:
        columns, count = to_columns(row, SPEC)
    except DataError:
        return
    assert 1 == count
    assert all(len(column) == 1 for column in columns.values())


VALUES: dict[type, st.SearchStrategy[Any]] = {
    str: st.text(max_size=5),
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(),
    bool: st.booleans(),
}


@pytest.mark.parametrize("kind", VALUES)
@given(data=st.data())
def test_plain_values_are_the_arrays_that_arrow_makes_of_them(kind: type, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | VALUES[kind], max_size=20))
    expected = pa.array(values, PLAIN_TYPES[kind], from_pandas=True)
    found = plain_array(values, kind)
    found.validate(full=True)
    assert expected.equals(found)
    for value in values:
        if value is not None and value == value:
            assert pa.array([value], PLAIN_TYPES[kind]).equals(plain_value(value))
    lists = [None if n % 5 == 4 else values[:n] for n in range(len(values))]
    found = plain_lists(lists, kind)
    found.validate(full=True)
    assert pa.array(lists, pa.list_(PLAIN_TYPES[kind]), from_pandas=True).equals(found)
