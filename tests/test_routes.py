"""One model, one encoder, every route: whatever way an event takes, its score is the same within 1e-6.

benchmarks/routes.py measures the largest difference over the same routes.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from safetensors.numpy import load_file

from streamfm.cli import cli
from streamfm.encoder import Encoded
from streamfm.scoring import Precision, Scorer, load
from streamfm.stream.answering import Answering
from streamfm.stream.ports import Event
from streamfm.stream.settings import StreamSettings
from streamfm.testing import simulate_events
from udfs.duckdb_udf import register

TOLERANCE = 1e-6
ROWS = 5_120
DICTS = EXPLAINED = 100
COPIES = 30  # of all rows: two of DuckDB's row groups, so that two threads work

SPEC = """
format = 1
label = "clicked"

[inputs]
user_id = "VARCHAR"
app_id = "VARCHAR"
device = "VARCHAR"
country = "VARCHAR"
category = "VARCHAR"
installed_categories = "VARCHAR[]"
genres = "VARCHAR[]"
position = "INTEGER"
price = "DOUBLE"
rating = "DOUBLE"
session_seconds = "DOUBLE"
ts = { type = "TIMESTAMP", json = "epoch_ms" }

[features.user_id]
kind = "categorical"
min_count = 2
[features.app_id]
kind = "categorical"
[features.device]
kind = "categorical"
hash_buckets = 16
[features.country]
kind = "categorical"
[features.category]
kind = "categorical"
table = "categories"
[features.installed_categories]
kind = "multivalued"
table = "categories"
max_length = 4
[features.genres]
kind = "multivalued"
pooling = "sum"
max_length = 2
[features.position]
kind = "categorical"
[features.price]
kind = "numeric"
transform = "log1p"
[features.rating]
kind = "numeric"
[features.session_seconds]
kind = "numeric"
transform = "quantile"
buckets = 8
[features.hour]
kind = "categorical"
sql = "hour(ts)"
[features.price_by_place]
kind = "numeric"
sql = "coalesce(price, 0) / position"
"""
INPUTS = (
    *("user_id", "app_id", "device", "country", "category", "installed_categories", "genres", "position"),
    *("price", "rating", "session_seconds", "ts"),
)
TEXTS = ("user_id", "app_id", "device", "country", "category")

Scores = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class World:
    """A trained model and events that take every route to it.

    Attributes:
        scorer: Of one precision.
        events: The rows; column `n` numbers them.
        database: Has them as table `events`, and again as `enums` with ENUM columns; the model is registered.
        folder: For files; has `events.parquet`.
        dicts: How many rows are scored one by one: each costs a query of its own for the SQL features.
    """

    scorer: Scorer
    events: pa.Table
    database: duckdb.DuckDBPyConnection
    folder: Path
    dicts: int = DICTS

    def sql(self, query: str, parameters: list[Any] | None = None) -> Scores:
        """The scores that a query gives in the order of `n`."""
        rows = self.database.execute(query, parameters).fetchall()
        assert [row[0] for row in rows] == sorted(row[0] for row in rows)
        return np.array([row[1] for row in rows], np.float32)

    def rows(self, **changes: Callable[[Any], Any]) -> list[dict[str, Any]]:
        """The events as dicts, with some values changed."""
        return [
            {name: changes.get(name, _itself)(value) for name, value in row.items() if name in INPUTS}
            for row in self.events.to_pylist()
        ]


def train_model(folder: Path) -> Path:
    """A bundle, trained and exported as any other."""
    from streamfm.features import FeatureSpec
    from streamfm.model import ModelSettings
    from streamfm.pipeline import PipelineSettings, train
    from streamfm.settings import TrainSettings

    settings = PipelineSettings(
        model=ModelSettings(factors=8, hidden=(24, 12)),
        training=TrainSettings(learning_rate=0.01, max_epochs=2, l2_factors=1e-5, l2_first_order=1e-5, threads=1),
    )
    log = simulate_events(6_000, seed=4, users=400, apps=80)
    return train(FeatureSpec.from_toml(SPEC), log, folder / "bundle", settings=settings).bundle.path


def make_events(rows: int = ROWS) -> pa.Table:
    """Later events of a larger world: users and apps that training did not see, NULLs and odd values everywhere."""
    table = simulate_events(rows, seed=4, users=600, apps=110).select(INPUTS)
    odd: dict[str, list[Any]] = {
        "user_id": [None, "", " user-00001", "Ünïcödé 🎲", "x" * 300],
        "app_id": [None, "", "APP", "1.0"],
        "position": [None, 0, -3, 2**31 - 1],
        "price": [None, math.nan, math.inf, -1.0, 1e300, 0.0],
        "session_seconds": [None, math.nan, -math.inf, -1.0, 1e300],
        "genres": [None, [], [None], [None, "cards"], ["cards"] * 9],
        "ts": [None],
    }
    for step, (name, values) in enumerate(odd.items(), start=31):
        column = table[name].to_pylist()
        for place in range(step, rows, step):
            column[place] = values[place // step % len(values)]
        table = table.set_column(table.column_names.index(name), name, pa.array(column, table[name].type))
    return table.append_column("n", pa.array(range(rows), pa.int64()))


def make_world(bundle: Path, events: pa.Table, precision: Precision, folder: Path, *, dicts: int = DICTS) -> World:
    scorer = load(bundle, precision=precision)
    database = duckdb.connect(config={"threads": 2})
    database.register("arrow_events", events)
    database.execute("CREATE TABLE events AS FROM arrow_events ORDER BY n")
    for name in TEXTS:
        database.execute(f"CREATE TYPE {name}_enum AS ENUM (SELECT DISTINCT {name} FROM events WHERE {name} NOTNULL)")
    casts = ", ".join(f"{name}::{name}_enum AS {name}" for name in TEXTS)
    database.execute(f"CREATE TABLE enums AS SELECT * REPLACE ({casts}) FROM events ORDER BY n")
    pq.write_table(events, folder / "events.parquet", row_group_size=1_000)
    register(database, scorer)
    return World(scorer=scorer, events=events, database=database, folder=folder, dicts=dicts)


def _itself(value: Any) -> Any:
    return value


def _epoch_ms(value: dt.datetime | None) -> int | None:
    return None if value is None else round(value.replace(tzinfo=dt.UTC).timestamp() * 1000)


def _sigmoid(logits: NDArray[Any]) -> Scores:
    # In a form that no logit makes overflow.
    return (0.5 + 0.5 * np.tanh(0.5 * logits.astype(np.float64))).astype(np.float32)


# Python.


def batches(rows: int) -> Callable[[World], Scores]:
    return lambda world: np.concatenate([world.scorer.score(batch) for batch in world.events.to_batches(rows)])


def dictionaries(world: World) -> Scores:
    columns = {
        name: column.dictionary_encode() if name in TEXTS else column
        for name, column in zip(world.events.column_names, world.events.columns, strict=True)
    }
    return world.scorer.score(pa.table(columns))


def shuffled(world: World) -> Scores:
    order = np.random.default_rng(0).permutation(len(world.events))
    found = np.empty(len(order), np.float32)
    found[order] = world.scorer.score(world.events.take(pa.array(order)))
    return found


def dict_by_dict(world: World) -> Scores:
    return np.array([world.scorer.score(row) for row in world.rows()[: world.dicts]], np.float32)


def json_dicts(world: World) -> Scores:
    rows = [json.loads(json.dumps(row)) for row in world.rows(ts=_epoch_ms)]
    return world.scorer.score(rows)


def iso_dicts(world: World) -> Scores:
    return world.scorer.score(world.rows(ts=lambda value: value and value.isoformat()))


def threads_of_the_network(world: World) -> Scores:
    return load(world.scorer.bundle.path, precision=world.scorer.precision, threads=2).score(world.events)


def threads_of_python(world: World) -> Scores:
    with ThreadPoolExecutor(3) as pool:
        return np.concatenate(list(pool.map(world.scorer.score, world.events.to_batches(700))))


def by_logits(world: World) -> Scores:
    return _sigmoid(world.scorer.logit(world.events))


def by_explanations(world: World) -> Scores:
    explanations = world.scorer.explain(world.events[:EXPLAINED])
    logits = [e.base + sum(c.total for c in e.contributions) for e in explanations]
    return _sigmoid(np.array(logits))


def torch_model(world: World) -> Scores:
    """The trained model itself, as training left it."""
    import torch

    from streamfm.model import DeepFM, ModelSettings

    settings: Any = world.scorer.bundle.manifest.training["model"]
    model = DeepFM(world.scorer.encoder.layout, ModelSettings(**settings))
    weights = load_file(world.scorer.bundle.path / "weights.safetensors")
    model.load_state_dict({name: torch.tensor(w) for name, w in weights.items() if not name.startswith("training.")})
    encoded: Encoded = world.scorer.encoder.encode(*world.scorer.columns(world.events))
    return _sigmoid(model.predict_logits(encoded.ids, encoded.weights))


# SQL.

BY_POSITION = f"deepfm_score({', '.join(INPUTS)})"
BY_NAME = f"deepfm_score({', '.join(f'{name} := {name}' for name in reversed(INPUTS))})"
BY_ROW = "deepfm_score(e)"


def select(call: str, source: str = "events", *, threads: int = 2) -> Callable[[World], Scores]:
    def route(world: World) -> Scores:
        world.database.execute(f"SET threads = {threads}")
        return world.sql(f"SELECT n, {call} FROM {source} e ORDER BY n")

    return route


def data_frame(world: World) -> Scores:
    world.database.register("frame", world.events.to_pandas().convert_dtypes())
    return world.sql("SELECT n, deepfm_score(e) FROM frame e ORDER BY n")


def parquet(call: str) -> Callable[[World], Scores]:
    def route(world: World) -> Scores:
        return world.sql(f"SELECT n, {call} FROM '{world.folder}/events.parquet' e ORDER BY n")

    return route


def copies(call: str, extreme: str, *, threads: int) -> Callable[[World], Scores]:
    """The lowest or the highest of the scores that many copies of a row have."""

    def route(world: World) -> Scores:
        world.database.execute(f"SET threads = {threads}")
        world.database.execute(f"CREATE TABLE IF NOT EXISTS copies AS SELECT e.* FROM range({COPIES}), events e")
        return world.sql(f"SELECT n, {extreme}(p) FROM (SELECT n, {call} AS p FROM copies e) GROUP BY n ORDER BY n")

    return route


def row_by_row(world: World) -> Scores:
    world.database.execute("PREPARE one AS SELECT n, deepfm_score(e) FROM events e WHERE n = $1")
    return np.concatenate([world.sql(f"EXECUTE one({number})") for number in range(world.dicts)])


def constants(world: World) -> Scores:
    """Calls without a table, whose values DuckDB folds."""
    found = []
    for row in world.rows()[: world.dicts]:
        given = [name for name, value in row.items() if value is not None]
        arguments = ", ".join(f"{name} := ${name}" for name in given)
        query = f"SELECT deepfm_score({arguments})"
        found.append(world.database.execute(query, {name: row[name] for name in given}).fetchall()[0][0])
    return np.array(found, np.float32)


def some_at_a_time(world: World) -> Scores:
    """Filters that leave a few rows of each chunk."""
    found = np.empty(len(world.events), np.float32)
    for rest in range(3):
        found[rest::3] = world.sql(f"SELECT n, deepfm_score(e) FROM events e WHERE n % 3 = {rest} ORDER BY n")
    return found


def shuffled_in_sql(world: World) -> Scores:
    world.database.execute("CREATE OR REPLACE TABLE shuffled AS FROM events ORDER BY hash(n)")
    return world.sql("SELECT n, deepfm_score(e) FROM shuffled e ORDER BY n")


def after_ctas(world: World) -> Scores:
    world.database.execute("CREATE OR REPLACE TABLE scored AS SELECT n, deepfm_score(e) AS p FROM events e")
    return world.sql("SELECT n, p FROM scored ORDER BY n")


def after_update(world: World) -> Scores:
    world.database.execute("CREATE OR REPLACE TABLE updated AS SELECT *, NULL::FLOAT AS p FROM events")
    world.database.execute(f"UPDATE updated SET p = {BY_NAME}")
    return world.sql("SELECT n, p FROM updated ORDER BY n")


def through_a_view(world: World) -> Scores:
    world.database.execute("CREATE OR REPLACE VIEW seen AS SELECT n, deepfm_score(e) AS p FROM events e")
    return world.sql("SELECT n, p FROM seen ORDER BY n")


def by_copy(world: World) -> Scores:
    target = world.folder / "copied.parquet"
    world.database.execute(f"COPY (SELECT n, deepfm_score(e) AS p FROM events e) TO '{target}' (FORMAT parquet)")
    return world.sql(f"SELECT n, p FROM '{target}' ORDER BY n")


def far_away(world: World) -> Scores:
    """A session in another time zone."""
    world.database.execute("SET TimeZone = 'Pacific/Auckland'")
    try:
        return world.sql(f"SELECT n, {BY_NAME} FROM events ORDER BY n")
    finally:
        world.database.execute("RESET TimeZone")


def on_a_cursor(world: World) -> Scores:
    with ThreadPoolExecutor(1) as pool, world.database.cursor() as cursor:
        rows = pool.submit(
            lambda: cursor.execute("SELECT deepfm_score(e) FROM events e ORDER BY n").fetchall()
        ).result()
    return np.array([score for (score,) in rows], np.float32)


def command_line(world: World) -> Scores:
    target = world.folder / f"{world.scorer.precision}.parquet"
    arguments = ["score", str(world.scorer.bundle.path), str(world.folder / "events.parquet"), "-o", str(target)]
    cli.main([*arguments, "--keep", "n", "--precision", world.scorer.precision], standalone_mode=False)
    scored = pq.read_table(target).sort_by("n")
    return scored["score"].to_numpy()


# The stream.


def stream(batch: int, time_of: Callable[[Any], Any]) -> Callable[[World], Scores]:
    """Events as JSON, so many a batch."""

    def route(world: World) -> Scores:
        answering = Answering(world.scorer, StreamSettings(event_id="n"), clock=time.perf_counter)
        rows = [row | {"n": n} for n, row in enumerate(world.rows(ts=time_of, price=_finite, session_seconds=_finite))]
        records = [Event("events", 0, row["n"], 0, None, json.dumps(row).encode()) for row in rows]
        scores: dict[int, float] = {}
        for start in range(0, len(records), batch):
            answered = answering.answer(records[start : start + batch], 0)
            assert not answered.answers.dead_letters
            scores |= {line["n"]: line["score"] for line in map(json.loads, answered.answers.values)}
        found = world.scorer.score(world.events)
        are_json = np.array([not any(map(_is_infinite, row.values())) for row in world.rows()])
        assert are_json.mean() > 0.9
        found[are_json] = np.array([scores[n] for n in range(len(rows))], np.float32)[are_json]
        return found

    return route


def _finite(value: float | None) -> float | None:
    """What JSON can write: NaN is null; of an infinity there is none, and the event does not count."""
    return None if value is None or not math.isfinite(value) else value


def _is_infinite(value: Any) -> bool:
    return isinstance(value, float) and math.isinf(value)


ROUTES: dict[str, Callable[[World], Scores]] = {
    "batches of 1,000": batches(1_000),
    "batches of 61": batches(61),
    "dictionary columns": dictionaries,
    "shuffled": shuffled,
    "pandas": lambda world: world.scorer.score(world.events.to_pandas()),
    "polars": lambda world: world.scorer.score(pl.from_arrow(world.events)),
    "list of dicts": lambda world: world.scorer.score(world.rows()),
    "list of dicts from JSON": json_dicts,
    "list of dicts with ISO times": iso_dicts,
    "dict by dict": dict_by_dict,
    "two threads of the network": threads_of_the_network,
    "three threads of Python": threads_of_python,
    "logits": by_logits,
    "explanations": by_explanations,
    "torch": torch_model,
    "SQL by position, one thread": select(BY_POSITION, threads=1),
    "SQL by name, one thread": select(BY_NAME, threads=1),
    "SQL whole row, one thread": select(BY_ROW, threads=1),
    "SQL by position": select(BY_POSITION),
    "SQL by name": select(BY_NAME),
    "SQL whole row": select(BY_ROW),
    "SQL by name, ENUM": select(BY_NAME, "enums"),
    "SQL whole row, ENUM": select(BY_ROW, "enums"),
    "SQL by name, Arrow": select(BY_NAME, "arrow_events"),
    "SQL whole row, Arrow": select(BY_ROW, "arrow_events"),
    "SQL whole row, pandas": data_frame,
    "SQL by name, Parquet": parquet(BY_NAME),
    "SQL whole row, Parquet": parquet(BY_ROW),
    "SQL by name, lowest of many": copies(BY_NAME, "min", threads=2),
    "SQL whole row, highest of many": copies(BY_ROW, "max", threads=2),
    "SQL whole row, lowest of many, one thread": copies(BY_ROW, "min", threads=1),
    "SQL row by row": row_by_row,
    "SQL constants": constants,
    "SQL some at a time": some_at_a_time,
    "SQL shuffled": shuffled_in_sql,
    "SQL after CREATE TABLE AS": after_ctas,
    "SQL after UPDATE": after_update,
    "SQL through a view": through_a_view,
    "SQL by COPY": by_copy,
    "SQL in another time zone": far_away,
    "SQL on a cursor": on_a_cursor,
    "streamfm score": command_line,
    "stream": stream(2_048, _epoch_ms),
    "stream, batches of 61, ISO times": stream(61, lambda value: value and value.isoformat()),
}


def difference(world: World, route: str) -> float:
    """The largest difference of a route's scores from those of one table at once."""
    expected = world.scorer.score(world.events)
    found = ROUTES[route](world)
    assert len(found) in (len(expected), world.dicts, EXPLAINED)
    return float(np.abs(found - expected[: len(found)]).max())


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_model(tmp_path_factory.mktemp("routes"))


@pytest.fixture(scope="module", params=["fp32", "int8"])
def world(bundle: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = make_world(bundle, make_events(), request.param, tmp_path_factory.mktemp("world"))
    yield world
    world.database.close()


def test_the_events_leave_no_excuse(world: World) -> None:
    scores = world.scorer.score(world.events)
    assert len(scores) >= 5_000
    assert np.isfinite(scores).all()
    assert scores.std() > 0.05
    assert len(np.unique(scores)) > 0.9 * len(scores)
    encoded, layout = world.scorer.encoder.encode(*world.scorer.columns(world.events)), world.scorer.encoder.layout
    first_slots = encoded.ids[:, [field.start for field in layout.fields]]
    counts = {
        "NULL": (first_slots == layout.null_rows).sum(axis=0),
        "unknown": (first_slots == layout.unknown_rows).sum(axis=0),
    }
    found = {what: {f.name for f, n in zip(layout.fields, count, strict=True) if n} for what, count in counts.items()}
    assert {field.name for field in layout.fields} - {"category"} == found["NULL"]
    assert {"user_id", "app_id", "position"} <= found["unknown"]


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_gives_the_same_score(world: World, route: str) -> None:
    if route == "torch" and world.scorer.precision == "int8":
        pytest.skip("torch has no int8 model to compare with; what int8 costs is measured at export")
    assert difference(world, route) <= TOLERANCE


@pytest.fixture(scope="module")
def floats(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The same events as pandas has them: integers beside NULL are floats, and NULL is NaN."""
    events = make_events()
    position = pa.array(events["position"].to_pandas())
    assert position.type == pa.float64()
    events = events.set_column(events.column_names.index("position"), "position", pc.fill_null(position, math.nan))
    world = make_world(bundle, events, "fp32", tmp_path_factory.mktemp("floats"))
    yield world
    world.database.close()


@pytest.mark.parametrize(
    "route",
    [
        *("pandas", "polars", "list of dicts", "list of dicts from JSON", "dict by dict", "dictionary columns"),
        *("SQL by position", "SQL by name", "SQL whole row", "SQL by name, Arrow", "SQL whole row, pandas"),
        *("SQL whole row, Parquet", "SQL row by row", "SQL constants", "SQL after UPDATE", "streamfm score"),
    ],
)
def test_integers_that_came_as_floats_score_as_integers(floats: World, route: str) -> None:
    integers = floats.scorer.score(make_events())
    found = ROUTES[route](floats)
    assert float(np.abs(found - integers[: len(found)]).max()) <= TOLERANCE


def test_nan_is_null_to_sql_features_on_every_route(world: World) -> None:
    # price_by_place has a coalesce(price, 0): NULL becomes 0, NaN stays what it is.
    row = {"position": 2, "price": math.nan}
    table = pa.table({"position": [2], "price": [math.nan]})
    by_name = world.database.execute("SELECT deepfm_score(position := 2, price := 'nan'::DOUBLE)").fetchall()[0][0]
    expected = world.scorer.score(row)
    assert [expected] * 3 == pytest.approx(
        [world.scorer.score(table)[0], world.scorer.score([row])[0], by_name], abs=TOLERANCE
    )
