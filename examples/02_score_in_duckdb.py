"""A model as SQL functions: whole rows, named and positional inputs, explanations, neighbours by embedding.

Run it: python examples/02_score_in_duckdb.py
"""

import tempfile
from pathlib import Path

import duckdb

import streamfm
from streamfm.pipeline import PipelineSettings
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import simulate_events
from udfs.duckdb_udf import register

SETTINGS = PipelineSettings(
    model=ModelSettings(factors=8, hidden=(32,)), training=TrainSettings(max_epochs=4, batch_size=256)
)


def main(folder: Path) -> None:
    log = simulate_events(20_000, seed=2, users=400, apps=60).drop_columns(["true_probability"])
    streamfm.train(streamfm.propose(log, "clicked").spec, log, folder / "ctr", settings=SETTINGS)

    con = duckdb.connect()
    con.register("events", log)
    register(con, folder / "ctr")  # or a reference such as models/ctr@champion

    # A whole row: its columns are taken by name, others are ignored, SQL features are derived inside.
    con.sql("""
        SELECT event_id, app_id, deepfm_score(e) AS p FROM events e
        WHERE user_id = (SELECT mode(user_id) FROM events) ORDER BY p DESC LIMIT 3""").show()

    # Inputs by name: what is not given is NULL, which the model has learnt, too.
    con.sql("SELECT deepfm_score(app_id := 'music-001', position := 1, ts := TIMESTAMP '2026-02-01 20:00') AS p").show()

    # Or by position, in the order of the specification; deepfm_logit() takes the same.
    con.sql("SELECT deepfm_score(ts, user_id, device) AS p, deepfm_logit(ts, user_id) FROM events LIMIT 2").show()

    # In any statement: a table of scores, and whether they are right on the whole.
    con.execute("CREATE TABLE scored AS SELECT hour(ts) AS hour, clicked, deepfm_score(e) AS p FROM events e")
    con.sql("FROM scored SELECT hour // 6 AS quarter, avg(p), avg(clicked) GROUP BY ALL ORDER BY ALL").show()

    # What each feature adds to the logit of one event.
    con.sql("""
        SELECT x.feature, round(x.total, 3) AS adds
        FROM (SELECT unnest(deepfm_explain(e)) AS x FROM (FROM events LIMIT 1) e)
        ORDER BY abs(x.total) DESC LIMIT 4""").show()

    # Apps near one another, by what the model has learnt of them.
    con.sql("""
        WITH apps AS (SELECT DISTINCT app_id, deepfm_embedding('app_id', app_id) AS v FROM events)
        SELECT a.app_id, b.app_id AS near, array_cosine_similarity(a.v, b.v) AS similarity
        FROM apps a, apps b WHERE a.app_id < b.app_id ORDER BY similarity DESC LIMIT 3""").show()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
