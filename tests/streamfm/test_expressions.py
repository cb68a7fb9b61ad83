"""SQL features: what is refused, and that what is allowed has one value whatever the session, the route, the thread."""

from __future__ import annotations

import datetime as dt
import multiprocessing
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.errors import DataError, SpecError
from streamfm.expressions import Deriver, check, private_connection, typed
from streamfm.features import Feature, FeatureSpec, Input

INPUTS = (
    Input(name="ts", type="TIMESTAMP"),
    Input(name="seen", type="TIMESTAMPTZ"),
    Input(name="a", type="INTEGER"),
    Input(name="s", type="VARCHAR"),
    Input(name="d", type="DOUBLE"),
    Input(name="Day", type="DATE"),
    Input(name="l", type="VARCHAR[]"),
    Input(name="n", type="INTEGER[]"),
    Input(name="one", type="DOUBLE[]"),
)


@pytest.fixture(scope="module")
def private():
    with private_connection() as connection:
        yield connection


def checked(sql, private, kind="categorical"):
    return check(Feature(name="f", kind=kind, sql=sql), INPUTS, private)


ALLOWED = {
    "hour(ts)": '("system".main."hour"({ts}))',
    "extract(hour FROM ts)": "(\"system\".main.date_part('HOUR', {ts}))",
    "a / 2": '("system".main."/"({a}, 2))',
    "-A": '("system".main."-"({a}))',
    "s = 'x'": "(({s} COLLATE C = 'x' COLLATE C))",
    "a = '7'": "(({a} = '7'))",
    "day::VARCHAR": "(CAST({Day} AS VARCHAR))",
    "s LIKE 'a%' -- a comment": '("system".main."~~"({s}, \'a%\'))',
}


@pytest.mark.parametrize("sql", ALLOWED)
def test_an_expression_is_rewritten_so_that_nothing_shadows_it(sql, private):
    expression = checked(sql, private)
    values = {name: "{" + name + "}" for name in expression.columns}
    assert ALLOWED[sql] == expression.render(values)


@pytest.mark.parametrize(
    ("sql", "complaint"),
    [
        ("current_date", "reads the clock"),
        ("current_timestamp", "reads the clock"),
        ("localtime", "reads the clock"),
        ("now()", "reads the clock"),
        ("today()", "reads the clock"),
        ("age(ts)", "reads the clock"),
        ("current_localtimestamp()", "not allowed"),
        ("random()", "no function 'random'"),
        ("uuid()", "no function 'uuid'"),
        ("hash(s)", "not allowed"),
        ("getvariable('x')", "no function"),
        ("current_setting('TimeZone')", "no function"),
        ("current_user", "no input 'current_user'"),
        ("version()", "no function"),
        ("list_aggregate(n, 'sum')", "not allowed"),
        ("list_sort(n)", "depends on the session's settings"),
        ("list_reverse_sort(n)", "depends on the session's settings"),
        ("sum(a)", "no function"),
        ("count(*)", "no function"),
        ("row_number() OVER ()", "window"),
        ("(SELECT 1)", "subquery"),
        ("list_transform(n, x -> x + 1)", "lambda"),
        ("$1", "value parameter"),
        ("*", "star"),
        ("s COLLATE NOCASE", "collate"),
        ("a FROM t", "one scalar expression"),
        ("a, s", "one scalar expression"),
        ("a WHERE true", "one scalar expression"),
        ("a; SELECT 2", "one scalar expression"),
        ("DISTINCT a", "one scalar expression"),
        ("a AS b", "alias"),
        ("1)+(2", "syntax error"),
        ("", "one SQL expression"),
        (" ", "one SQL expression"),
        ("'" + "x" * 10_000 + "'", "at most 10,000"),
        ("streamfm_input_0_", "kept for streamfm"),
        ("e.ts", "no input 'e.ts'"),
        ("ts.hour()", "write hour(...)"),
        ("main.hour(ts)", "write hour(...)"),
        ("hour(s)", "No function matches"),
        ("hour(tss)", "did you mean 'ts'?"),
        ("houre(ts)", "did you mean 'hour'?"),
        ("nullif(a, 1)", "CASE WHEN a = b"),
        ("s::foo", "a cast to foo"),
        ("s::ENUM('x')", "a cast to ENUM"),
        ("s::TIMESTAMPTZ", "a cast to TIMESTAMPTZ"),
        ("l = ['x']", "collation"),
        ("read_text('/etc/passwd')", "no function"),
        # By hand these bring a database down.
        ('"="(a, 7.0)', "no function '='"),
        ("__cast(a)", "not allowed"),
    ],
)
def test_what_depends_on_more_than_the_event_is_refused(sql, complaint, private):
    with pytest.raises(SpecError, match="feature 'f'") as caught:
        checked(sql, private)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    "sql",
    [
        "ts AT TIME ZONE 'UTC'",
        "hour(ts AT TIME ZONE 'Asia/Tokyo')",
        "to_timestamp(a)",
        "strptime(s, '%Y-%m-%d %z')",
        "make_timestamptz(epoch_us(ts))",
        "hour(ts AT TIME ZONE 'UTC' + INTERVAL 1 DAY)",
    ],
)
def test_what_a_time_zone_bends_is_refused(sql, private):
    with pytest.raises(SpecError, match="time zone depends on the session"):
        checked(sql, private)


def test_a_very_deep_expression_is_refused_and_not_a_crash(private):
    with pytest.raises(SpecError, match="feature 'f'"):
        checked("(" * 3000 + "a" + ")" * 3000 + " + 1" * 900, private)


@pytest.mark.parametrize(
    ("sql", "kind", "complaint"),
    [
        ("ts - ts", "categorical", "gives INTERVAL"),
        ("l", "categorical", "gives VARCHAR[]"),
        ("{'x': a}", "categorical", "gives STRUCT"),
        ("NULL", "categorical", "NULL"),
        ("s", "numeric", "expected a number, but its sql gives VARCHAR"),
        ("s", "multivalued", "expected a list"),
    ],
)
def test_a_result_that_the_kind_cannot_use_is_refused(sql, kind, complaint, private):
    with pytest.raises(SpecError) as caught:
        checked(sql, private, kind)
    assert complaint in str(caught.value)


SETTINGS = (
    "SET TimeZone = 'Asia/Tokyo'",
    "SET Calendar = 'japanese'",
    "SET default_collation = 'NOCASE'",
    "SET integer_division = true",
    "SET default_null_order = 'nulls_first'",
    "SET default_order = 'desc'",
    "SET regex_match_operator_semantics = 'full'",
    "SET old_implicit_casting = true",
    "SET disabled_optimizers = 'expression_rewriter'",
    "CREATE MACRO hour(x) AS 42",
    'CREATE MACRO "+"(x, y) AS 42',
    "CREATE MACRO lower(x) AS 'shadow'",
    "CREATE MACRO date_part(x, y) AS 42",
    "CREATE MACRO list_contains(x, y) AS false",
)
STEADY = (
    "hour(ts)",
    "hour(seen)",
    "extract(dow FROM ts)",
    "seen::VARCHAR",
    "seen::DATE",
    "hour(ts AT TIME ZONE 'UTC' AT TIME ZONE 'America/New_York')",
    "strftime(ts, '%Y-%m-%d %H %A %Z')",
    "a / 2",
    "a // 2",
    "a + 1",
    "s = 'X'",
    "s IN ('X', 'y')",
    "s BETWEEN 'A' AND 'x'",
    "CASE s WHEN 'X' THEN 1 ELSE 2 END",
    "lower(s) || s",
    "lower(s) = 'X'",
    "s IS DISTINCT FROM 'X'",
    "s ~ 'x|q'",
    "s LIKE 'X'",
    "greatest(s, 'X')",
    "list_contains(l, 'X')",
    "l[1]",
    "list_sort(n, 'ASC', 'NULLS LAST')::VARCHAR",
    "d::VARCHAR",
    "coalesce(one[2], 7)",
    "day + 3",
    "week(day)",
    "a > '1'",
)


@pytest.mark.parametrize("setting", SETTINGS)
def test_no_session_setting_and_no_macro_changes_a_value(setting, private):
    events = """SELECT TIMESTAMP '2026-03-01 23:30:00' ts, TIMESTAMPTZ '2026-03-01 23:30:00+00' seen, 3::INTEGER a,
        'x' s, 0.1::DOUBLE d, DATE '2026-03-01' "Day", ['x', 'z'] l, [3, NULL, 1]::INTEGER[] n,
        [0.5, 'nan'::DOUBLE] one"""
    values = {item.name: typed(item, f'"{item.name}"') for item in INPUTS}
    wanted = ", ".join(checked(sql, private).render(values) for sql in STEADY)
    expected = private.sql(f"SELECT {wanted} FROM ({events})").fetchall()
    with duckdb.connect() as session:
        session.execute(setting)
        assert expected == session.sql(f"SELECT {wanted} FROM ({events})").fetchall()


SPEC = """
format = 1
label = "clicked"
[inputs]
user = "VARCHAR"
price = "DOUBLE"
count = "INTEGER"
ts = { type = "TIMESTAMP", json = "epoch_ms" }
seen = "TIMESTAMPTZ"
genres = "VARCHAR[]"
[features.user]
kind = "categorical"
[features.hour]
kind = "categorical"
sql = "hour(ts)"
[features."local hour"]
kind = "categorical"
sql = "hour(seen AT TIME ZONE 'UTC' AT TIME ZONE 'Asia/Tokyo')"
[features.each]
kind = "numeric"
sql = "price // count"
[features.first_genres]
kind = "multivalued"
sql = "genres[1:2]"
"""


@pytest.fixture(scope="module")
def deriver():
    return Deriver(FeatureSpec.from_toml(SPEC))


def instants(*hours, zone=None):
    return pa.array([None if h is None else h * 3_600_000_000 for h in hours], pa.timestamp("us", zone))


def test_columns_are_derived_in_utc_and_in_order_with_nulls_kept(deriver):
    columns = {
        "user": pa.array(["u", "v", "w"]),
        "ts": instants(5, None, 30),
        "seen": instants(0, None, 20, zone="America/New_York"),
        "genres": pa.array([["a", "b", "c"], None, []]),
        "price": pa.array([7.0, 2.0, None]),
        "count": pa.array([2, 1, 3], pa.int64()),
    }
    derived = deriver.derive(columns, 3)
    assert [*columns, "hour", "local hour", "each", "first_genres"] == list(derived)
    assert [5, None, 6] == derived["hour"].to_pylist()
    assert [9, None, 5] == derived["local hour"].to_pylist()
    assert [3.5, 2.0, None] == derived["each"].to_pylist()
    assert [["a", "b"], None, []] == derived["first_genres"].to_pylist()


def test_absent_and_untyped_columns_are_null(deriver):
    derived = deriver.derive({"ts": pa.nulls(2)}, 2)
    assert [None, None] == derived["hour"].to_pylist() == derived["each"].to_pylist()


@pytest.mark.parametrize("kind", ["FLOAT", "DOUBLE"])
def test_nan_in_a_list_is_null_and_a_null_list_is_null(kind, private):
    item = Input(name="one", type=f"{kind}[]")
    values = f"(VALUES ([0.5::{kind}, 'nan'::{kind}, NULL]), ([]), (NULL)) AS rows(one)"
    assert [([0.5, None, None],), ([],), (None,)] == private.sql(
        f"SELECT {typed(item, 'one')} FROM {values}"
    ).fetchall()
    with duckdb.connect() as session:
        session.execute(f"CREATE MACRO second(one) AS coalesce(({typed(item, 'one')})[2], 7)")
        assert [(7.0,), (7.0,), (7.0,)] == session.sql(f"SELECT second(one := one) FROM {values}").fetchall()
        assert [(2.0,)] == session.sql("SELECT second([1, 2])").fetchall()


USES = {"price": "price * 2", "count": "count + 1", "big": "big + 1", "user": "user || '!'", "sizes": "sizes[1]"}


def of_use(name, column):
    """What one SQL feature makes of a column of one row."""
    spec = f"""
        format = 1
        label = "clicked"
        [inputs]
        price = "DOUBLE"
        count = "INTEGER"
        big = "HUGEINT"
        user = "VARCHAR"
        sizes = "DOUBLE[]"
        [features.f]
        kind = "categorical"
        sql = "{USES[name]}"
    """
    return Deriver(FeatureSpec.from_toml(spec)).derive({name: column}, 1)["f"][0].as_py()


HALF, WIDE, ROUND = (
    *(pa.array(np.array([1.5], np.float16)), pa.array([Decimal("1.5")], pa.decimal256(50, 1))),
    pa.array([Decimal(1000)], pa.decimal128(5, -3)),
)


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("price", HALF, 3.0),
        ("price", pa.chunked_array([HALF]), 3.0),
        ("price", HALF.dictionary_encode(), 3.0),
        ("price", pa.RunEndEncodedArray.from_arrays([1], HALF), 3.0),
        ("price", WIDE, 3.0),
        ("price", pa.array([Decimal(10**50)]), 2e50),
        ("price", pa.array([Decimal("0.3")], pa.decimal256(50, 40)), 0.6),
        ("price", pa.array([None], pa.decimal256(50, 40)), None),
        ("price", ROUND, 2000.0),
        ("count", HALF, 3),
        ("count", WIDE, 3),
        ("count", ROUND, 1001),
        ("count", pa.array([Decimal(10**50)]), None),
        ("big", pa.array([Decimal(10**38)]), 10**38 + 1),
        ("user", pa.array([Decimal(10**38)]), "1" + "0" * 38 + "!"),
        ("user", pa.array([Decimal(10**20)], pa.decimal128(38, 0)), "1" + "0" * 20 + "!"),
        ("sizes", pa.ListArray.from_arrays([0, 1], HALF), 1.5),
        ("sizes", pa.FixedSizeListArray.from_arrays(WIDE, 1), 1.5),
    ],
)
def test_numbers_of_types_that_duckdb_cannot_read_are_what_sql_makes_of_their_values(name, column, expected):
    assert expected == of_use(name, column)


def test_no_rows_give_no_values(deriver):
    assert [] == deriver.derive({}, 0)["hour"].to_pylist()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("ts", pa.array(["2026-01-01"])),
        ("ts", pa.array([5])),
        ("count", pa.array([dt.date(2026, 1, 1)])),
        ("genres", pa.array(["a"])),
        ("price", pa.array(["1.5"])),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(deriver, name, column):
    with pytest.raises(DataError, match=f"input '{name}'"):
        deriver.derive({name: column}, 1)


def test_a_value_that_an_expression_fails_on_is_an_error_that_names_the_feature(deriver):
    with pytest.raises(DataError, match=r"feature 'each': sql = 'price // count': .*Division by zero") as caught:
        deriver.derive({"price": pa.array([1.0]), "count": pa.array([0]), "ts": instants(1)}, 1)
    assert "TRY" in caught.value.hint
    assert [1] == deriver.derive({"ts": instants(1)}, 1)["hour"].to_pylist()


def broken_text():
    offsets = np.array([0, 2, 3], np.int32)
    return pa.Array.from_buffers(pa.string(), 2, [None, pa.py_buffer(offsets), pa.py_buffer(b"\xff\xfea")])


def test_text_that_is_not_utf_8_is_refused_and_the_next_call_works():
    deriver = Deriver(FeatureSpec.from_toml(SPEC.replace("genres[1:2]", "[lower(user)]")))
    for column in (broken_text(), pa.chunked_array([broken_text()]), broken_text().dictionary_encode()):
        with pytest.raises(DataError, match=r"input 'user': .*UTF8"):
            deriver.derive({"user": column}, 2)
    assert [["ann"]] == deriver.derive({"user": pa.array(["Ann"])}, 1)["first_genres"].to_pylist()


def test_a_database_that_duckdb_gave_up_is_replaced(deriver, monkeypatch):
    broken = Deriver(FeatureSpec.from_toml(SPEC.replace("genres[1:2]", "[lower(user)]")))
    monkeypatch.setattr("streamfm.expressions.derive._check_utf8", lambda item, array: None)
    with pytest.raises(DataError, match="feature "):
        broken.derive({"user": broken_text()}, 2)
    assert [7] == deriver.derive({"ts": instants(7)}, 1)["hour"].to_pylist()


@given(st.lists(st.none() | st.integers(-(10**14), 10**14), max_size=40))
def test_hours_are_those_of_python(deriver, micros):
    derived = deriver.derive({"ts": pa.array(micros, pa.timestamp("us"))}, len(micros))["hour"].to_pylist()
    epoch = dt.datetime(1970, 1, 1)
    assert [m if m is None else (epoch + dt.timedelta(microseconds=m)).hour for m in micros] == derived


@given(st.lists(st.tuples(st.none() | st.text(max_size=5), st.none() | st.floats(), st.none() | st.integers(-9, 9))))
def test_a_row_alone_has_the_values_that_it_has_among_others(rows):
    alike = Deriver(FeatureSpec.from_toml(SPEC.replace("genres[1:2]", "[user, price::VARCHAR]")))
    users, prices, counts = zip(*rows, strict=True) if rows else ((), (), ())
    columns = {
        "user": pa.array(users, pa.string()).dictionary_encode(),
        "price": pa.array(prices, pa.float64()),
        "count": pa.array([count or None for count in counts], pa.int64()),
    }
    together = alike.derive(columns, len(rows))
    for row in range(len(rows)):
        alone = alike.derive({name: column.slice(row, 1) for name, column in columns.items()}, 1)
        for name in alike.expressions:
            assert alone[name].equals(together[name].slice(row, 1))


def test_rows_of_one_type_after_another_are_derived_by_their_own(deriver):
    for _ in range(2):
        for column in (pa.array([5]), pa.array([5.0]), pa.array(["5"]), pa.array([5], pa.int8()), pa.nulls(1)):
            expected = [None] if column.null_count else [2.0]
            assert expected == deriver.derive({"price": pa.array([10.0]), "count": column}, 1)["each"].to_pylist()


def test_more_queries_than_a_connection_keeps(monkeypatch):
    monkeypatch.setattr("streamfm.expressions.prepared._MAX_QUERIES", 2)
    for hours in range(5):
        deriver = Deriver(FeatureSpec.from_toml(SPEC.replace("hour(ts)", f"hour(ts) + {hours}")))
        assert [7 + hours] == deriver.derive({"ts": instants(7)}, 1)["hour"].to_pylist()


def test_threads_share_a_deriver(deriver):
    columns = {"ts": pa.array(np.arange(3000) * 3_600_000_000, pa.timestamp("us"))}
    expected = [hour % 24 for hour in range(3000)]
    with ThreadPoolExecutor(4) as pool:
        found = [done.result() for done in [pool.submit(deriver.derive, columns, 3000) for _ in range(8)]]
    assert [expected] * 8 == [derived["hour"].to_pylist() for derived in found]


def test_a_deriver_can_be_pickled(deriver):
    again = pickle.loads(pickle.dumps(deriver))
    assert [7] == again.derive({"ts": instants(7)}, 1)["hour"].to_pylist()


def hour_in_child(deriver, queue):
    queue.put(deriver.derive({"ts": instants(7)}, 1)["hour"].to_pylist())


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_deriver_survives_a_fork(deriver):
    deriver.derive({"ts": instants(1)}, 1)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=hour_in_child, args=(deriver, queue))
    child.start()
    assert [7] == queue.get()
    child.join(30)
    assert 0 == child.exitcode


def test_without_sql_features_duckdb_is_not_even_imported():
    code = """
import sys
from streamfm.expressions import Deriver
from streamfm.features import FeatureSpec
text = 'format = 1\\nlabel = "y"\\n[inputs]\\na = "VARCHAR"\\n[features.a]\\nkind = "categorical"'
assert Deriver(FeatureSpec.from_toml(text)).derive({"a": [1]}, 1) == {"a": [1]}
assert "duckdb" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
