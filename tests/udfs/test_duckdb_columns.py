"""Columns of every type: SQL takes what the rule of types says, and makes the Scorer's categories of them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal

import duckdb
import pyarrow as pa
import pytest

from streamfm.scoring import load
from udfs.duckdb_udf import register

COLUMNS_OF_ONE = ("text", "whole", "twice", "real", "single", "exact", "cents", "flag", "day", "time")
SPEC = (
    """
format = 1
label = "clicked"
[inputs]
text = "VARCHAR"
whole = "BIGINT"
twice = "INTEGER"
real = "DOUBLE"
single = "FLOAT"
exact = "DECIMAL(38,0)"
cents = "DECIMAL(9,2)"
flag = "BOOLEAN"
day = "DATE"
time = "TIMESTAMP"
texts = "VARCHAR[]"
wholes = "BIGINT[]"
reals = "DOUBLE[]"
[features]
"""
    + "\n".join(
        f"{name} = {{ kind = '{kind}', table = 'anything' }}"
        for name, kind in [
            *((name, "categorical") for name in COLUMNS_OF_ONE),
            *((name, "multivalued") for name in ("texts", "wholes", "reals")),
        ]
    )
    + """
number = { kind = "numeric", input = "twice" }
"""
)
NAN = float("nan")
FLOATS = [1.0, 2.5, None, NAN, 1e20, -7.0, 2.0**60, 0.1, 1e-7, float("inf"), 0.0]
DECIMALS = [Decimal("1.00"), Decimal("-0.05"), Decimal("2.50"), None]
COLUMNS = {
    "double": pa.array(FLOATS, pa.float64()),
    "float": pa.array(FLOATS, pa.float32()),
    "decimal": pa.array(DECIMALS, pa.decimal128(9, 2)),
    "whole decimal": pa.array([Decimal(1), None, Decimal(10) ** 37], pa.decimal128(38, 0)),
    "bigint": pa.array([1, 0, None, 2**53 + 1], pa.int64()),
    "ubigint": pa.array([1, 0, None, 2**64 - 1], pa.uint64()),
    "tinyint": pa.array([1, 0, None, -7], pa.int8()),
    "boolean": pa.array([True, False, None]),
    "text": pa.array(["1", "1.0", "true", "2026-01-02", "2026-01-02 00:00:00", None, "", "nan"]),
    "dictionary": pa.array(["1", "1.0", None]).dictionary_encode(),
    "date": pa.array([dt.date(2026, 1, 2), None], pa.date32()),
    "timestamp": pa.array([1_767_312_000_000_000, 1_767_312_000_500_000, None], pa.timestamp("us")),
    "timestamp in s": pa.array([1_767_312_000, None], pa.timestamp("s")),
    "timestamp in ns": pa.array([1_767_312_000_000_000_001, 1_767_312_000_500_000_000, None], pa.timestamp("ns")),
}
NUMBERS = ("double", "float", "decimal", "whole decimal", "bigint", "ubigint", "tinyint", "boolean")
TAKEN = {
    **dict.fromkeys(("text", "whole", "flag"), tuple(COLUMNS)),
    **dict.fromkeys(("day", "time"), ("date", "timestamp", "timestamp in s", "timestamp in ns")),
    **dict.fromkeys(("twice", "real", "single", "exact", "cents"), NUMBERS),
    **dict.fromkeys(("texts", "wholes"), tuple(name for name in COLUMNS if name != "dictionary")),
    "reals": NUMBERS,
}
CASES = [(name, kind) for name, kinds in TAKEN.items() for kind in kinds]


def answers(con, query):
    return [score for (score,) in con.execute(query).fetchall()]


@pytest.fixture(scope="module")
def plain(make_bundle, tmp_path_factory):
    return load(make_bundle(tmp_path_factory.mktemp("plain") / "bundle", spec=SPEC))


@pytest.fixture(scope="module")
def database(plain):
    with duckdb.connect() as con:
        register(con, plain)
        yield con


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_columns_are_the_same_in_arrow_and_in_sql(database, plain, name, kind):
    values = COLUMNS[kind]
    if name in ("texts", "wholes", "reals"):
        values = pa.ListArray.from_arrays(pa.array([0, 2, 2, len(values)], pa.int32()), values)
    database.register("columns", pa.table({name: values}))
    expected = pytest.approx(plain.score(pa.table({name: values})), abs=1e-6)
    assert expected == answers(database, f"SELECT deepfm_score({name} := {name}) FROM columns")
    assert expected == answers(database, "SELECT deepfm_score(columns) FROM columns")
    assert expected == answers(database, f"SELECT deepfm_score(t) FROM (SELECT 'x' AS other, {name} FROM columns) t")


@pytest.mark.parametrize(
    "setting", ["arrow_output_list_view", "produce_arrow_string_view", "arrow_lossless_conversion"]
)
def test_the_forms_in_which_duckdb_exports_arrow_change_nothing(plain, setting):
    with duckdb.connect() as con:
        register(con, plain)
        con.execute("""
            CREATE TABLE t AS SELECT i * 0.5::DOUBLE AS text, [i * 1.5, i, NULL] AS wholes, [i % 2 = 0] AS texts,
                DATE '2026-01-01' + i::INTEGER AS flag FROM range(3000) r(i)""")
        expected = pytest.approx(plain.score(con.sql("FROM t").to_arrow_table()), abs=1e-6)
        con.execute(f"SET {setting} = true")
        assert expected == answers(con, "SELECT deepfm_score(t) FROM t")
        by_name = "deepfm_score(text := text, wholes := wholes, texts := texts, flag := flag)"
        assert expected == answers(con, f"SELECT {by_name} FROM t")


@pytest.mark.parametrize(
    "value", ["'infinity'::DATE", "'infinity'::TIMESTAMP", "DATE '20000-01-01'", "DATE '0044-03-15 (BC)'"]
)
@pytest.mark.parametrize("name", ["day", "time"])
def test_dates_beyond_all_calendars_are_the_same_by_name_and_by_row(database, name, value):
    (by_name,) = answers(database, f"SELECT deepfm_score({name} := {value})")
    assert [by_name] == answers(database, f"SELECT deepfm_score(t) FROM (SELECT {value} AS {name}, 1 AS other) t")


def test_a_list_of_rows_is_refused_by_its_type(database):
    with pytest.raises(duckdb.Error, match=r'got STRUCT\("text" VARCHAR\)\[\], expected single'):
        database.execute("SELECT deepfm_score([{'text': 'x'}])")


def test_the_columns_tell_a_category_from_another(plain):
    scores = plain.score(pa.table({"text": COLUMNS["double"]}))
    assert len(set(scores)) == len(FLOATS) - 1  # NaN is NULL


@pytest.mark.parametrize(
    "value",
    ["2.5::DOUBLE", "1.5::DOUBLE", "0.5::DOUBLE", "'nan'::DOUBLE", "2.5", "'2.5'", "'2.5'::ENUM('2.5')", "true", "7"],
)
def test_an_integer_that_is_a_category_and_in_sql_sees_what_the_column_holds(con, make_bundle, tmp_path, value):
    spec = """
format = 1
label = "clicked"
[inputs]
item = "BIGINT"
[features.item]
kind = "categorical"
[features.hour]
kind = "categorical"
sql = "item + 1"
"""
    scorer = load(make_bundle(tmp_path / "twice", spec=spec))
    register(con, scorer)
    con.execute(f"CREATE TABLE t AS SELECT {value} AS item, 'x' AS other")
    expected = scorer.score(con.sql("SELECT * FROM t").to_arrow_table())
    assert expected == pytest.approx(answers(con, "SELECT deepfm_score(item := item) FROM t"), abs=1e-6)
    assert expected == pytest.approx(answers(con, "SELECT deepfm_score(t) FROM t"), abs=1e-6)


@pytest.mark.parametrize("value", ["1::DECIMAL(18,0)", "1::HUGEINT", "1::BIGINT", "'1'"])
def test_a_text_of_an_sql_feature_takes_whole_numbers_of_every_type_on_every_route(con, make_bundle, tmp_path, value):
    spec = """
format = 1
label = "clicked"
[inputs]
code = "VARCHAR"
[features.hour]
kind = "categorical"
sql = "code || '0'"
"""
    scorer = load(make_bundle(tmp_path / "codes", spec=spec))
    register(con, scorer)
    con.execute(f"CREATE TABLE t AS SELECT {value} AS code")
    expected = pytest.approx(scorer.score(con.sql("FROM t").to_arrow_table()), abs=1e-6)
    assert expected == answers(con, "SELECT deepfm_score(code := code) FROM t")
    assert expected == answers(con, "SELECT deepfm_score(t) FROM t")
    assert expected == [scorer.score({"code": 1})]
    assert expected != [scorer.score({"code": 99})]  # which makes an hour that nobody knows
