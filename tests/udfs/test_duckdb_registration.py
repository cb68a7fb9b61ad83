"""Registering, moving on and going away: nothing that happens to a connection crashes, bricks or mixes versions."""

from __future__ import annotations

import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import duckdb
import numpy as np
import pytest

from streamfm.errors import BundleError, DataError, StreamFMError
from streamfm.registry import Registry
from streamfm.scoring import load
from udfs import duckdb_generations
from udfs.duckdb_udf import register

ALL = "SELECT list(deepfm_score(e) ORDER BY id) FROM events e"


def scores(con, query=ALL):
    return np.array(con.execute(query).fetchall()[0][0], np.float32)


@pytest.fixture(scope="session")
def other_scorer(other_path):
    return load(other_path)


@pytest.fixture(scope="session")
def other_expected(other_scorer, events):
    return other_scorer.score(events)


@pytest.fixture
def models(tmp_path, bundle_path, other_path):
    """A registry with both bundles as versions 1 and 2 of ctr; champion is the first."""
    registry = Registry(tmp_path / "models")
    registry.publish(bundle_path, "ctr", keep_source=True)
    registry.publish(other_path, "ctr", keep_source=True)
    registry.promote("ctr", 1)
    return registry


@pytest.fixture
def champion(models):
    return f"{models.root}/ctr@champion"


def test_refresh_follows_the_alias_and_back(con, models, champion, expected, other_expected):
    registration = register(con, champion)
    assert not registration.refresh()
    models.promote("ctr", 2)
    np.testing.assert_array_equal(expected, scores(con))
    assert registration.refresh()
    np.testing.assert_array_equal(other_expected, scores(con))
    assert 2 == registration.scorer.version
    models.promote("ctr", 1)
    assert registration.refresh()
    np.testing.assert_array_equal(expected, scores(con))


def test_a_refused_version_leaves_the_old_one_serving(con, models, champion, expected):
    registration = register(con, champion)
    models.promote("ctr", 2)
    model = models.root / "ctr" / "2" / "model.onnx"
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1] + b"?")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        registration.refresh()
    assert isinstance(registration.last_error, BundleError)
    np.testing.assert_array_equal(expected, scores(con))
    models.promote("ctr", 1)
    assert not registration.refresh()
    assert registration.last_error is None


def test_a_refused_bundle_is_not_registered_and_what_was_there_stays(con, scorer, expected, bundle_path, tmp_path):
    register(con, scorer)
    broken = shutil.copytree(bundle_path, tmp_path / "broken")
    (broken / "model.onnx").unlink()
    with pytest.raises(BundleError):
        register(con, broken)
    np.testing.assert_array_equal(expected, scores(con))


def test_watch_follows_the_alias_until_stopped(con, models, champion, other_expected, expected):
    registration = register(con, champion).watch(0.02)
    models.promote("ctr", 2)
    wait_for(lambda: registration.scorer.version == 2)
    np.testing.assert_array_equal(other_expected, scores(con))
    registration.stop()
    models.promote("ctr", 1)
    time.sleep(0.1)
    assert 2 == registration.scorer.version


def test_watch_tells_once_of_what_it_refuses_and_goes_on(con, models, champion, caplog):
    registration = register(con, champion).watch(0.01)
    shutil.move(models.root / "ctr", models.root / "away")
    wait_for(lambda: registration.last_error is not None)
    time.sleep(0.1)
    shutil.move(models.root / "away", models.root / "ctr")
    models.promote("ctr", 2)
    wait_for(lambda: registration.scorer.version == 2)
    registration.stop()
    assert 1 == len([record for record in caplog.records if "not moved on" in record.message])


def test_a_watcher_ends_with_its_connection(models, champion):
    con = duckdb.connect()
    registration = register(con, champion).watch(0.01)
    watcher = registration._watcher
    con.close()
    del con
    wait_for(lambda: not watcher.is_alive())


def test_a_scorer_is_not_followed(con, scorer):
    registration = register(con, scorer)
    assert registration.refresh() is False
    with pytest.raises(DataError, match="a Scorer never changes"):
        registration.watch()


def test_registering_again_replaces(con, scorer, other_scorer, other_expected, champion):
    first = register(con, champion)
    register(con, other_scorer)
    np.testing.assert_array_equal(other_expected, scores(con))
    with pytest.raises(StreamFMError, match="replaced or dropped"):
        first.refresh()
    first.close()
    np.testing.assert_array_equal(other_expected, scores(con))


def test_two_names_live_side_by_side(con, scorer, other_scorer, expected, other_expected):
    register(con, scorer)
    register(con, other_scorer, "challenger")
    np.testing.assert_array_equal(expected, scores(con))
    np.testing.assert_array_equal(other_expected, scores(con, ALL.replace("deepfm", "challenger")))


def test_another_specification_brings_other_parameters(con, scorer, make_bundle, tmp_path):
    register(con, scorer)
    spec = 'format = 1\nlabel = "clicked"\n[inputs]\nuser = "VARCHAR"\n[features.user]\nkind = "categorical"'
    small = load(make_bundle(tmp_path / "small", spec=spec))
    register(con, small)
    assert pytest.approx(small.score({"user": "ann"})) == con.execute("SELECT deepfm_score('ann')").fetchall()[0][0]
    with pytest.raises(duckdb.BinderException, match="does not support the supplied arguments"):
        con.execute("SELECT deepfm_score(item := 3)")


def test_close_takes_the_macros_away_and_spares_running_results(con, scorer):
    registration = register(con, scorer)
    result = con.execute("SELECT deepfm_score(e) FROM events e")
    result.fetchone()
    registration.close()
    assert 4999 == len(result.fetchall())
    with pytest.raises(duckdb.CatalogException, match="deepfm_score"):
        con.execute("SELECT deepfm_score('ann')")


def test_close_after_the_connection_s_own_is_quiet(scorer):
    con = duckdb.connect()
    registration = register(con, scorer)
    con.close()
    registration.close()


def test_a_half_read_result_keeps_its_version(con, models, champion, expected):
    registration = register(con, champion)
    con.execute("SET threads = 1")
    result = con.execute("SELECT deepfm_score(e) FROM events e ORDER BY id")
    found = [result.fetchone()[0]]
    models.promote("ctr", 2)
    assert registration.refresh()
    found += [score for (score,) in result.fetchall()]
    np.testing.assert_array_equal(expected, np.array(found, np.float32))


def test_registering_beside_a_half_read_result_is_refused_and_spares_it(con, scorer):
    result = con.execute("SELECT * FROM range(5000)")
    result.fetchone()
    with pytest.raises(StreamFMError, match="not free"):
        register(con, scorer)
    assert 4999 == len(result.fetchall())
    register(con, scorer)


def test_registering_in_a_transaction_is_refused_and_spares_it(con, scorer):
    con.execute("BEGIN")
    con.execute("CREATE TABLE mine AS SELECT 1 AS one")
    with pytest.raises(StreamFMError, match="in a transaction"):
        register(con, scorer)
    con.execute("COMMIT")
    assert [(1,)] == con.execute("FROM mine").fetchall()
    register(con, scorer)
    con.execute("SELECT deepfm_score('ann')").fetchall()


def test_an_aborted_transaction_is_refused_in_words(con, scorer):
    con.execute("BEGIN")
    with pytest.raises(duckdb.Error):
        con.execute("SELECT nothing")
    with pytest.raises(StreamFMError, match="not free"):
        register(con, scorer)
    con.execute("ROLLBACK")
    register(con, scorer)


def test_a_transaction_keeps_its_version_and_a_rollback_harms_nothing(con, models, champion, expected, other_expected):
    registration = register(con, champion)
    con.execute("BEGIN")
    np.testing.assert_array_equal(expected, scores(con))
    models.promote("ctr", 2)
    assert registration.refresh()
    np.testing.assert_array_equal(expected, scores(con))
    con.execute("ROLLBACK")
    np.testing.assert_array_equal(other_expected, scores(con))


def test_closing_the_connection_that_registered_spares_the_others(scorer, expected, tmp_path):
    path = str(tmp_path / "events.db")
    from_elsewhere = duckdb.connect(path)
    from_elsewhere.execute("CREATE TABLE users AS SELECT ['ann', 'bob'][i % 2 + 1] AS user FROM range(5000) r(i)")
    con = duckdb.connect(path)
    register(con, scorer)
    con.close()
    del con
    gc.collect()
    query = "SELECT count(DISTINCT deepfm_score(u)) FROM users u"
    assert [(2,)] == from_elsewhere.execute(query).fetchall()
    from_elsewhere.close()


def test_refresh_on_a_closed_connection_says_so(champion):
    con = duckdb.connect()
    registration = register(con, champion)
    con.close()
    with pytest.raises(StreamFMError, match="is closed"):
        registration.refresh()
    del con
    gc.collect()
    with pytest.raises(StreamFMError, match="is gone"):
        registration.refresh()


def test_a_registration_does_not_keep_a_database_open(scorer, tmp_path):
    con = duckdb.connect(str(tmp_path / "events.db"))
    registration = register(con, scorer)
    held = weakref.ref(con)
    con.execute("SELECT deepfm_score('ann')").fetchall()
    con.close()
    open_elsewhere(tmp_path / "events.db")
    del con
    gc.collect()
    assert held() is None
    assert registration.scorer is scorer


def open_elsewhere(path):
    """Open a database file in another process, which a lock of this one would forbid."""
    subprocess.run([sys.executable, "-c", f"import duckdb; duckdb.connect({str(path)!r})"], check=True)


def test_macros_in_a_file_fail_by_name_until_registered_again(scorer, tmp_path):
    path = str(tmp_path / "events.db")
    with duckdb.connect(path) as con:
        register(con, scorer)
        con.execute("CREATE VIEW ann AS SELECT deepfm_score('ann') AS p")
    with duckdb.connect(path) as con:
        assert [("deepfm", False)] == con.execute("SELECT name, is_loaded FROM deepfm_models()").fetchall()
        with pytest.raises(duckdb.CatalogException, match="__deepfm_is_row"):
            con.execute("SELECT deepfm_score('ann')")
        register(con, scorer)
        assert [("deepfm", True)] == con.execute("SELECT name, is_loaded FROM deepfm_models()").fetchall()
        assert pytest.approx(scorer.score({"user": "ann"})) == con.execute("FROM ann").fetchall()[0][0]


def test_a_read_only_database_gets_functions_of_the_connection_s_own(models, champion, tmp_path):
    path = str(tmp_path / "events.db")
    duckdb.connect(path).close()
    with duckdb.connect(path, read_only=True) as con:
        with pytest.raises(StreamFMError, match="read-only"):
            register(con, champion, temporary=False)
        registration = register(con, champion)
        before = con.execute("SELECT deepfm_score('ann')").fetchall()
        assert [("ctr", 1, True)] == con.execute("SELECT model, version, is_loaded FROM deepfm_models()").fetchall()
        models.promote("ctr", 2)
        assert registration.refresh()
        assert before != con.execute("SELECT deepfm_score('ann')").fetchall()
        registration.close()
        with pytest.raises(duckdb.CatalogException):
            con.execute("SELECT deepfm_score('ann')")


def test_temporary_functions_are_not_seen_by_cursors(con, scorer):
    register(con, scorer, temporary=True)
    con.execute("SELECT deepfm_score('ann')").fetchall()
    with con.cursor() as cursor, pytest.raises(duckdb.CatalogException):
        cursor.execute("SELECT deepfm_score('ann')")


def test_functions_go_where_the_connection_is(con, scorer, tmp_path):
    con.execute(f"ATTACH '{tmp_path / 'other.db'}' AS other; CREATE SCHEMA other.work; USE other.work")
    registration = register(con, scorer)
    con.execute("SELECT deepfm_score('ann')").fetchall()
    assert [("other", "work")] == con.execute("SELECT database, schema FROM deepfm_models()").fetchall()
    registration.close()
    assert [] == con.execute("SELECT * FROM deepfm_models()").fetchall()


def test_one_query_is_answered_by_one_version_while_the_alias_moves(con, models, champion, expected, other_expected):
    registration = register(con, champion)
    sums = {round(float(answers[:3000].sum(dtype=np.float64)), 3) for answers in (expected, other_expected)}
    query = """
        SELECT sum(deepfm_score(e)), sum(deepfm_score(e)) - sum(1 / (1 + exp(-deepfm_logit(e))))
        FROM events e WHERE id < 3000"""
    found, stop = [], threading.Event()

    def ask():
        with con.cursor() as cursor:
            while not stop.is_set():
                found.extend(cursor.execute(query).fetchall())

    askers = [threading.Thread(target=ask) for _ in range(2)]
    for asker in askers:
        asker.start()
    for move in range(8):
        models.promote("ctr", 2 - move % 2)
        assert registration.refresh()
    stop.set()
    for asker in askers:
        asker.join()
    assert {round(total, 3) for total, _ in found} <= sums
    assert max(abs(difference) for _, difference in found) < 0.01
    assert len(found) > 3


def test_many_threads_may_register_and_refresh(con, models, champion, scorer):
    errors = []

    def work(name):
        try:
            with con.cursor() as cursor:
                registration = register(cursor, champion, name)
                for version in (2, 1):
                    models.promote("ctr", version)
                    registration.refresh()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(f"model{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == errors
    assert 3 == len(con.execute("FROM deepfm_models()").fetchall())


def test_a_watcher_is_not_met_by_who_closes_the_connection(models, champion, caplog):
    for _ in range(30):
        with duckdb.connect() as con:
            registration = register(con, champion).watch(0.0001)
            time.sleep(0.003)
        registration.stop()
    assert "busy" not in caplog.text


def test_what_is_followed_stays_where_it_was(con, models, champion, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    registration = register(con, "models/ctr@champion")
    before = con.execute("SELECT deepfm_score('ann')").fetchall()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    models.promote("ctr", 2)
    assert registration.refresh()
    assert before != con.execute("SELECT deepfm_score('ann')").fetchall()
    registration.close()


def test_a_version_that_was_replaced_lets_its_network_go_and_answers_late_calls(con, models, champion, monkeypatch):
    registration = register(con, champion)
    con.execute("PREPARE late AS SELECT deepfm_score($1)")
    old = weakref.ref(registration.scorer)
    functions = registration._functions
    before = con.execute("SELECT deepfm_score('ann')").fetchall()
    models.promote("ctr", 2)
    registration.refresh()
    assert old() is not None
    monkeypatch.setattr(duckdb_generations, "GRACE_S", -1.0)
    registration.refresh()
    gc.collect()
    assert old() is None
    assert pytest.approx(before[0][0]) == functions.serving.scorer().score({"user": "ann"})
    assert before != con.execute("EXECUTE late('ann')").fetchall()


def test_models_tells_what_is_registered(con, models, champion, scorer):
    register(con, champion)
    register(con, scorer, "own", temporary=True)
    rows = con.sql("SELECT * FROM deepfm_models()").to_arrow_table().to_pylist()
    assert [("deepfm", "ctr", 1), ("own", "ctr", None)] == [(r["name"], r["model"], r["version"]) for r in rows]
    first = rows[0]
    assert champion == first["reference"]
    assert str(models.root / "ctr" / "1") == first["bundle"]
    assert "fp32" == first["precision"]
    assert '{"auc":0.75}' == first["metrics"]
    assert ["deepfm_score", "deepfm_logit", "deepfm_explain", "deepfm_embedding", "deepfm_models"] == first["functions"]
    assert scorer.spec.fingerprint == first["fingerprint"]


def test_names_and_comments_are_in_duckdb_functions(con, scorer):
    register(con, scorer)
    rows = con.execute("""
        SELECT function_name, parameters, comment FROM duckdb_functions()
        WHERE starts_with(function_name, 'deepfm_') ORDER BY function_name""").fetchall()
    functions = {name: (parameters, comment) for name, parameters, comment in rows}
    assert list(scorer.spec.input_names) == functions["deepfm_score"][0] == functions["deepfm_explain"][0]
    assert ["feature", "value"] == functions["deepfm_embedding"][0]
    assert functions["deepfm_score"][1].startswith("Probability in [0, 1] by DeepFM 'ctr' (fp32).")
    assert all(comment for _, comment in functions.values())


def test_nothing_is_said_when_the_interpreter_ends(bundle_path):
    code = f"""
import duckdb
from udfs.duckdb_udf import register
con = duckdb.connect()
cursor = con.cursor()
registration = register(con, {str(bundle_path)!r}).watch(0.01)
con.execute("SELECT deepfm_score('ann')").fetchall()
half = cursor.execute("SELECT deepfm_score(user := 'ann') FROM range(10000)")
half.fetchone()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)


def wait_for(condition, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def test_registering_again_and_again_holds_one_version_only(models, champion, monkeypatch):
    monkeypatch.setattr(duckdb_generations, "GRACE_S", -1.0)

    def leases() -> int:
        gc.collect()
        return len(list((models.root / "ctr" / "leases").iterdir()))

    with duckdb.connect() as con:
        for _ in range(4):
            register(con, champion)
        register(con, champion, "other").close()
        assert 1 == leases()
    del con
    with duckdb.connect() as another:
        register(another, champion)
        assert 1 == leases()


def test_models_tells_the_figures_of_each_evaluation_and_no_more(con):
    golden = Path(__file__).parents[1] / "data" / "bundle_v1"
    register(con, golden)
    metrics = json.loads(con.execute("SELECT metrics FROM deepfm_models()").fetchall()[0][0])
    assert {"validation"} == set(metrics)
    assert {"auc", "calibration", "group_auc", "log_loss", "normalised_entropy"} == set(metrics["validation"])
    assert 0.69 < metrics["validation"]["auc"] < 0.7
