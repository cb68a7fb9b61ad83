"""Scores in SQL: the scorer's own, however a row is given and in whatever clause, chunk or thread."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import duckdb
import numpy as np
import pytest

from streamfm.errors import StreamFMError
from streamfm.scoring import load
from udfs.duckdb_udf import register

INPUTS = ("user", "item", "price", "stock", "amount", "day", "fresh", "ts", "seen", "genres")
POSITIONAL = ", ".join(INPUTS)
NAMED = ", ".join(f"{name} := {name}" for name in reversed(INPUTS))
CHUNK = duckdb.__standard_vector_size__


def column(con, query, parameters=()):
    return np.array([value for (value,) in con.execute(query, list(parameters)).fetchall()], np.float32)


def same(expected, actual, tolerance=1e-6):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("call", ["deepfm_score(e)", f"deepfm_score({POSITIONAL})", f"deepfm_score({NAMED})"])
def test_a_row_values_by_position_and_by_name_give_the_scorer_s_scores(db, expected, call):
    assert expected.std() > 0.05
    same(expected, column(db, f"SELECT {call} FROM events e ORDER BY id"))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_both_precisions_give_the_scorer_s_scores_and_logits(con, bundle_path, events, precision):
    scorer = load(bundle_path, precision=precision)
    register(con, bundle_path, precision=precision)
    same(scorer.score(events), column(con, "SELECT deepfm_score(e) FROM events e ORDER BY id"))
    same(scorer.logit(events), column(con, "SELECT deepfm_logit(e) FROM events e ORDER BY id"), 1e-5)


def test_scores_are_probabilities_of_type_float(db):
    assert [("FLOAT", "FLOAT", True)] == db.execute(
        "SELECT typeof(any_value(p)), typeof(any_value(l)), bool_and(p BETWEEN 0 AND 1)"
        " FROM (SELECT deepfm_score(e) p, deepfm_logit(e) l FROM events e)"
    ).fetchall()


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("rows", [0, 1, 2, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK, 2 * CHUNK + 1])
def test_chunk_sizes(db, expected, rows, threads):
    db.execute(f"SET threads = {threads}")
    found = column(db, f"SELECT deepfm_score(e) FROM (FROM events ORDER BY id LIMIT {rows}) e ORDER BY id")
    same(expected[:rows], found)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_filters_that_shrink_chunks(db, expected, threads):
    db.execute(f"SET threads = {threads}")
    same(expected[::7], column(db, "SELECT deepfm_score(e) FROM events e WHERE id % 7 = 0 ORDER BY id"))


def test_nulls_are_scored_and_rows_with_nulls_arrive(db, scorer):
    nothing = scorer.score({"user": None})
    same([nothing] * 3, column(db, "SELECT deepfm_score(user := u) FROM (VALUES (NULL::VARCHAR), (NULL), (NULL)) t(u)"))
    same([nothing, nothing], column(db, "SELECT unnest([deepfm_score(), deepfm_score(NULL)])"))
    same([nothing], column(db, "SELECT deepfm_score(NULL::STRUCT(user VARCHAR))"))


def test_missing_columns_of_a_row_are_null_and_extra_ones_are_ignored(db, scorer):
    found = column(db, "SELECT deepfm_score(e) FROM (SELECT 'x' AS other, 'ann' AS USER, 7 AS item) e")
    same([scorer.score({"user": "ann", "item": 7})], found)


def test_a_struct_is_a_row_and_its_fields_are_found_by_name(db, scorer):
    expected = scorer.score({"user": "ann", "item": 7})
    same([expected], column(db, "SELECT deepfm_score({'item': 7, 'USER': 'ann', 'other': 1})"))
    same([expected], column(db, "SELECT deepfm_score(struct_pack(item := 7, user := 'ann'))"))


@pytest.mark.parametrize(
    ("name", "value", "python"),
    [
        ("item", "7::TINYINT", 7),
        ("item", "7::UBIGINT", 7),
        ("item", "7::HUGEINT", 7),
        ("item", "'7'", "7"),
        ("item", "'7'::ENUM('7', '8')", "7"),
        ("item", "170141183460469231731687303715884105727::HUGEINT", 2**127 - 1),
        ("item", "7::DOUBLE", 7),
        ("item", "7::FLOAT", 7),
        ("item", "7.00", 7),
        ("item", "7.5::DOUBLE", 7.5),
        ("item", "1e15::DOUBLE", 10**15),
        ("item", "'nan'::DOUBLE", None),
        ("item", "'7'::JSON", "7"),
        ("user", "'7.0'", "7.0"),
        ("stock", "2::DOUBLE", 2),
        ("stock", "2.5::DOUBLE", 2.5),
        ("stock", "2::HUGEINT", 2),
        ("stock", "true", True),
        ("fresh", "1", 1),
        ("fresh", "0.0::DOUBLE", 0.0),
        ("genres", "[1.0::DOUBLE, NULL]", [1.0, None]),
        ("user", "'ann'::ENUM('ann', 'bob')", "ann"),
        ("user", "'9f5e2c1a-0000-4000-8000-000000000000'::UUID", "9f5e2c1a-0000-4000-8000-000000000000"),
        ("price", "2::INTEGER", 2),
        ("price", "2.5::DECIMAL(9,2)", 2.5),
        ("price", "2.5::FLOAT", 2.5),
        ("price", "true", 1),
        ("amount", "1.50::DECIMAL(4,2)", 1.5),
        ("amount", "1.5::DOUBLE", 1.5),
        ("amount", "2::INTEGER", 2),
        ("fresh", "true", True),
        ("fresh", "'true'", "true"),
        ("genres", "['puzzle', 'music']::VARCHAR[2]", ["puzzle", "music"]),
        ("genres", "['puzzle', 'music']::ENUM('puzzle', 'music')[]", ["puzzle", "music"]),
        ("genres", "[]::VARCHAR[]", []),
        ("genres", "[NULL, 'racing']", [None, "racing"]),
    ],
)
def test_types_of_sql_are_the_same_categories_by_value_in_a_row_and_in_a_column(db, scorer, name, value, python):
    expected = scorer.score({name: python})
    db.execute(f"CREATE OR REPLACE TEMP TABLE t AS SELECT {value} AS {name} FROM range(3)")
    same([expected] * 3, column(db, f"SELECT deepfm_score({name} := {name}) FROM t"))
    same([expected] * 3, column(db, "SELECT deepfm_score(t) FROM t"))
    same([expected], column(db, f"SELECT deepfm_score({name} := {value})"))


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        ("deepfm_score(price := 'x')", "input 'price' (feature 'price'): got VARCHAR, expected a number or BOOLEAN"),
        ("deepfm_score(item := 'x'::BLOB)", "input 'item' (feature 'item'): got BLOB, expected a number, VARCHAR"),
        ("deepfm_score(ts := now())", "AT TIME ZONE 'UTC'"),
        ("deepfm_score(seen := ts)", "input 'seen' (feature 'seen_hour'): got TIMESTAMP"),
        ("deepfm_score(genres := 'puzzle')", "put single values into a list"),
        ("deepfm_score(e, price := 1)", "a whole row and single values"),
        ("deepfm_score({'price': user})", "input 'price'"),
        ("deepfm_score(stock := e)", "only the first argument may be a whole row"),
        ("deepfm_score(MAP {'user': 'ann'})", "got MAP(VARCHAR, VARCHAR)"),
        ("deepfm_score(usr := 'ann')", "user := NULL"),
        ("deepfm_score({'none': 1})", 'at least one matching member, inputs are (STRUCT("none" INTEGER)) and (STRUCT('),
        ("deepfm_score(row(1, 2))", "Cannot cast STRUCTs of different size"),
        ("deepfm_score(row(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))", "may be a whole row, with named columns"),
        ("deepfm_embedding('nope', user)", "no feature 'nope'"),
    ],
)
@pytest.mark.parametrize("clause", ["EXPLAIN SELECT {} FROM events e", "SELECT {} FROM events e WHERE false"])
def test_a_wrong_type_or_name_fails_while_the_query_is_bound(db, call, complaint, clause):
    with pytest.raises(duckdb.Error) as caught:
        db.execute(clause.format(call)).fetchall()
    assert complaint in str(caught.value)


def test_every_clause(db, expected):
    order = np.argsort(-expected, kind="stable")[:5]
    assert (
        int((expected > 0.5).sum())
        == db.execute("SELECT count(*) FROM events e WHERE deepfm_score(e) > 0.5").fetchall()[0][0]
    )
    best = db.execute("SELECT id FROM events e ORDER BY deepfm_score(e) DESC, id LIMIT 5").fetchall()
    same(expected[order], expected[[i for (i,) in best]])
    same([expected.max()], column(db, "SELECT max(deepfm_score(e)) OVER () FROM events e LIMIT 1"))
    db.execute("CREATE TEMP TABLE scored AS SELECT id, deepfm_score(e) AS p FROM events e")
    db.execute("CREATE TEMP VIEW live AS SELECT id, deepfm_score(e) AS p FROM events e")
    same(expected, column(db, "SELECT p FROM scored ORDER BY id"))
    same(expected, column(db, "SELECT p FROM live ORDER BY id"))
    db.execute("UPDATE scored SET p = deepfm_score(user := 'ann') WHERE id < 10")
    same(column(db, "SELECT deepfm_score(user := 'ann')"), column(db, "SELECT any_value(p) FROM scored WHERE id < 10"))
    total = column(
        db, "SELECT sum(p) FROM (SELECT user, avg(deepfm_score(e)) p FROM events e GROUP BY user HAVING p > 0)"
    )
    assert total[0] > 0
    db.execute("CREATE TEMP TABLE ranked (id BIGINT, p FLOAT)")
    db.execute("INSERT INTO ranked SELECT id, deepfm_score(e) FROM events e")
    same(expected, column(db, "SELECT p FROM ranked ORDER BY id"))


def test_copy_to_a_file(db, expected, tmp_path):
    file = tmp_path / "scores.parquet"
    db.execute(f"COPY (SELECT id, deepfm_score(e) AS p FROM events e) TO '{file}' (FORMAT parquet)")
    same(expected, column(db, f"SELECT p FROM '{file}' ORDER BY id"))


def test_prepared_statements(db, scorer):
    db.execute("PREPARE one AS SELECT deepfm_score(user := $1, item := $2)")
    same([scorer.score({"user": "ann", "item": 3})], column(db, "EXECUTE one('ann', 3)"))
    same([scorer.score({"user": "bob", "item": 4})], column(db, "EXECUTE one('bob', '4')"))
    same([scorer.score({"user": "bob", "price": 2.0})], column(db, "SELECT deepfm_score(?, price := ?)", ["bob", 2.0]))


def test_sql_functions_of_a_name_that_is_a_keyword_and_of_odd_names(con, make_bundle, tmp_path):
    spec = """
format = 1
label = "clicked"
[inputs]
"group" = "VARCHAR"
"select" = "VARCHAR"
"odd \\" name" = "VARCHAR"
[features.user]
kind = "categorical"
input = "group"
[features.item]
kind = "categorical"
input = "select"
[features.weekday]
kind = "categorical"
sql = "lower(\\"odd \\"\\" name\\")"
"""
    scorer = load(make_bundle(tmp_path / "odd", spec=spec))
    register(con, scorer)
    expected = scorer.score({"group": "ann", "select": "7", 'odd " name': "WEEKEND"})
    named = """SELECT deepfm_score("group" := 'ann', "select" := '7', "odd "" name" := 'WEEKEND')"""
    row = """SELECT deepfm_score(r) FROM (SELECT 'ann' AS "group", '7' AS "select", 'WEEKEND' AS "odd "" name") r"""
    same([expected, expected], [*column(con, named), *column(con, row)])


@pytest.mark.parametrize(
    "setting",
    [
        "SET TimeZone = 'Asia/Tokyo'",
        "SET default_collation = 'NOCASE'",
        "SET integer_division = true",
        "SET arrow_output_version = '1.4'",
        "SET arrow_large_buffer_size = true",
        "SET arrow_output_list_view = true",
        "SET arrow_lossless_conversion = true",
        "PRAGMA disable_optimizer",
        "SET disabled_optimizers = 'expression_rewriter'",
        "CREATE MACRO hour(x) AS 42",
        "CREATE MACRO typeof(x) AS 'STRUCT('",
        "CREATE MACRO lower(x) AS 'shadow'",
    ],
)
def test_no_setting_and_no_macro_of_a_session_changes_a_score(con, scorer, expected, setting):
    register(con, scorer)
    con.execute(setting)
    same(expected, column(con, "SELECT deepfm_score(e) FROM events e ORDER BY id"))
    same(expected, column(con, f"SELECT deepfm_score({POSITIONAL}) FROM events e ORDER BY id"))


def test_several_cursors_and_threads(db, expected):
    def ask(_):
        with db.cursor() as cursor:
            return column(cursor, "SELECT deepfm_score(e) FROM events e ORDER BY id")

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(ask, range(12)):
            same(expected, found)


def test_a_query_cancelled_half_way_leaves_the_database_working(db, expected):
    query = "SELECT sum(deepfm_score(e)) FROM events e, range(2000)"
    timer = threading.Timer(0.3, db.interrupt)
    timer.start()
    with pytest.raises(duckdb.InterruptException):
        db.execute(query).fetchall()
    timer.join()
    same(expected, column(db, "SELECT deepfm_score(e) FROM events e ORDER BY id"))


def test_an_explanation_adds_up_to_the_logit(db, scorer, events):
    parts = db.execute("SELECT unnest(deepfm_explain(e), recursive := true) FROM events e WHERE id = 7").fetchall()
    logit = column(db, "SELECT deepfm_logit(e) FROM events e WHERE id = 7")
    own = scorer.explain(events.slice(7, 1).to_pylist()[0])
    assert ["(base)", *(c.feature for c in own.contributions)] == [feature for feature, *_ in parts]
    same(logit, [sum(total for *_, total in parts)], 1e-4)
    same([c.total for c in own.contributions], [total for *_, total in parts[1:]], 1e-5)


def test_embeddings_are_the_scorer_s_and_work_with_duckdb_s_distances(db, scorer):
    for feature, value, text in (
        ("user", "ann", "'ann'"),
        ("user", "never seen", "'never seen'"),
        ("user", None, "NULL"),
        ("item", 7, "7"),
        ("hour", 5, "5"),
        ("price", 3.0, "3.0"),
        ("genres", "puzzle", "'puzzle'"),
    ):
        (found,) = db.execute(f"SELECT deepfm_embedding('{feature}', {text})").fetchall()[0]
        same(scorer.embedding(feature, value), found)
    nearest = db.execute("""
        SELECT user FROM (SELECT DISTINCT user FROM events WHERE user IS NOT NULL)
        ORDER BY array_cosine_similarity(deepfm_embedding('user', user), deepfm_embedding('user', 'bob')) DESC
        LIMIT 1""").fetchall()
    assert [("bob",)] == nearest


def test_embeddings_of_a_column_of_features(db, scorer):
    rows = db.execute("""
        SELECT f, v, deepfm_embedding(f, v)
        FROM (VALUES ('user', 'ann'), ('item', '3'), (NULL, 'x'), ('user', NULL)) t(f, v)
        """).fetchall()
    for feature, value, found in rows:
        if feature is None:
            assert found is None
        else:
            same(scorer.embedding(feature, value), found)
    with pytest.raises(duckdb.Error, match="no feature 'nope'"):
        db.execute("SELECT deepfm_embedding(f, 'x') FROM (VALUES ('user'), ('nope')) t(f)").fetchall()


def test_an_error_inside_names_the_feature(db):
    with pytest.raises(duckdb.Error, match="DataError: feature 'user'"):
        db.execute("SELECT deepfm_embedding('user', x) FROM (VALUES (INTERVAL 1 DAY)) t(x)").fetchall()


def test_a_regression_model_answers_numbers(con, make_bundle, tmp_path, spec_text, events):
    regression = spec_text.replace('label = "clicked"', 'label = "stars"\ntask = "regression"')
    scorer = load(make_bundle(tmp_path / "ratings", spec=regression))
    register(con, scorer)
    found = column(con, "SELECT deepfm_score(e) FROM events e ORDER BY id")
    same(scorer.score(events), found, 1e-5)
    assert found.max() > 1


def test_a_name_that_cannot_begin_a_function_s_name_is_refused(con, bundle_path):
    with pytest.raises(StreamFMError, match="cannot begin a function's name"):
        register(con, bundle_path, "deep fm")
