"""Real bundles with random weights: what they answer does not matter, that every route answers the same does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import numpy as np
import onnx
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from streamfm.bundle import BundleWriter, LayoutFacts, Manifest
from streamfm.encoder import Encoded, Encoder, Layout
from streamfm.encoder.vocabulary import VALUES_SCHEMA, NumericStatistics, VocabularyWriter
from streamfm.export.graph import Dense, Network, build_graph, build_int8_graph, calibrate
from streamfm.features import FeatureSpec
from streamfm.scoring import Scorer, load
from udfs.duckdb_udf import register

SPEC = """
format = 1
label = "clicked"

[inputs]
user = "VARCHAR"
item = "BIGINT"
price = "DOUBLE"
stock = "INTEGER"
amount = "DECIMAL(9,2)"
day = "DATE"
fresh = "BOOLEAN"
ts = { type = "TIMESTAMP", json = "epoch_ms" }
seen = "TIMESTAMPTZ"
genres = "VARCHAR[]"

[features.user]
kind = "categorical"
[features.item]
kind = "categorical"
[features.price]
kind = "numeric"
[features.stock]
kind = "numeric"
transform = "none"
[features.stock_as_category]
kind = "categorical"
input = "stock"
[features.amount]
kind = "categorical"
[features.day]
kind = "categorical"
[features.fresh]
kind = "categorical"
[features.hour]
kind = "categorical"
sql = "hour(ts)"
[features.seen_hour]
kind = "categorical"
sql = "hour(seen)"
[features.weekday]
kind = "categorical"
sql = "CASE WHEN dayofweek(day) IN (0, 6) THEN 'weekend' ELSE lower(user) || '_' || dayname(day) END"
[features.genres]
kind = "multivalued"
max_length = 3
"""
VALUES = {
    "user": ["ann", "bob", "Cem", "dörte", ""],
    "item": [str(number) for number in range(50)],
    "stock_as_category": ["1", "2", "3", "4"],
    "amount": ["1.5", "2", "0.25"],
    "day": ["2026-01-02", "2026-01-03"],
    "fresh": ["true", "false"],
    "hour": [str(number) for number in range(24)],
    "seen_hour": [str(number) for number in range(24)],
    "weekday": ["weekend", "ann_Friday", "bob_Monday"],
    "genres": ["puzzle", "racing", "music"],
    "anything": [
        *("0", "1", "1.0", "2.5", "-7", "0.1", "0.0000001", "-0.05", "inf", "true", "false", "", "nan"),
        *("100000000000000000000", "1152921504606846976", "9007199254740993", "9007199254740992"),
        *("2026-01-02", "2026-01-02 00:00:00", "2026-01-02 00:00:00.5"),
    ],
}
ROWS = """
    SELECT i AS id, ['ann', 'bob', 'Cem', 'dörte', 'new', NULL][i % 6 + 1] AS user, (i * 7 % 60)::BIGINT AS item,
           CASE WHEN i % 5 > 0 THEN i % 17 / 3 END AS price, (i % 6)::INTEGER AS stock,
           (i % 9 * 0.25)::DECIMAL(9,2) AS amount, DATE '2026-01-01' + (i % 9)::INTEGER AS day,
           CASE i % 3 WHEN 0 THEN true WHEN 1 THEN false END AS fresh,
           TIMESTAMP '2026-01-01 00:30:00' + INTERVAL (i) HOUR AS ts,
           '2026-01-01 05:30:00+00'::TIMESTAMPTZ + INTERVAL (i * 5) HOUR AS seen,
           CASE WHEN i % 4 > 0 THEN ['puzzle', 'racing', NULL, 'new'][i % 3 + 1:i % 5 + 1] END AS genres, 'x' AS other
    FROM range({}) r(i)"""
FACTORS, HIDDEN = 4, (8, 5)


def write_bundle(target: Path, *, seed: int = 0, spec: str = SPEC, name: str = "ctr") -> Path:
    """A bundle whose every layer has random weights, large enough for scores to differ; fp32 and int8."""
    random = np.random.default_rng(seed)
    parsed = FeatureSpec.from_toml(spec)
    with BundleWriter(target) as writer:
        writer.path("features.toml").write_text(spec, encoding="utf-8")
        vocabularies = _write_vocabularies(VocabularyWriter(writer.path("vocabulary")), parsed)
        layout = Encoder(parsed, vocabularies).layout
        table = random.normal(0, 0.7, (layout.rows, FACTORS + 1)).astype(np.float32)
        widths = (len(layout.fields) * FACTORS, *HIDDEN, 1)
        layers = tuple(
            Dense(
                weight=random.normal(0, 0.7, shape).astype(np.float32),
                bias=random.normal(size=shape[1]).astype(np.float32),
            )
            for shape in itertools.pairwise(widths)
        )
        network = Network(layout=layout, task=parsed.task, table=table, bias=0.1, layers=layers)
        scales = calibrate(network, _random_rows(layout, random))
        onnx.save(build_graph(network), writer.path("model.onnx"))
        onnx.save(build_int8_graph(network, scales), writer.path("model.int8.onnx"))
        save_file({"table": table, "bias": np.array([0.1], np.float32)}, writer.path("weights.safetensors"))
        writer.commit(
            Manifest(
                name=name,
                created_at="2026-01-31T12:00:00+00:00",
                spec_fingerprint=parsed.fingerprint,
                task=parsed.task,
                layout=LayoutFacts(
                    slots=layout.slots, rows=layout.rows, factors=FACTORS, hidden=HIDDEN, weighted=layout.weighted
                ),
                metrics={"auc": 0.75},
                libraries={"streamfm": "0.1.0"},
            )
        )
    return target


def _write_vocabularies(writer: VocabularyWriter, spec: FeatureSpec):
    statistics = {}
    # Features may share a table: their values are added once.
    for feature in {feature.table: feature for feature in spec.features}.values():
        if feature.kind == "numeric":
            writer.add_rows(feature.table, "number", 3)
            statistics[feature.name] = NumericStatistics(mean=1.0, deviation=2.0)
        else:
            values = VALUES[feature.table]
            batch = pa.record_batch([pa.array(values), pa.array([1] * len(values))], schema=VALUES_SCHEMA)
            writer.add_values(feature.table, len(values), [batch])
    return writer.finish(statistics)


def _random_rows(layout: Layout, random: np.random.Generator) -> Encoded:
    ids = random.integers(0, layout.rows, (500, layout.slots), dtype=np.int32)
    return Encoded(ids, random.random((500, layout.slots), np.float32) if layout.weighted else None)


@pytest.fixture(scope="session")
def make_bundle() -> Callable[..., Path]:
    """The function that writes a bundle."""
    return write_bundle


@pytest.fixture(scope="session")
def bundle_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with inputs of every family."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "first")


@pytest.fixture(scope="session")
def other_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of the same specification that answers otherwise."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "other", seed=1)


@pytest.fixture(scope="session")
def scorer(bundle_path: Path) -> Scorer:
    """The first bundle's scorer."""
    return load(bundle_path)


@pytest.fixture(scope="session")
def spec_text() -> str:
    """The specification of those bundles."""
    return SPEC


def open_database(path: str = ":memory:") -> duckdb.DuckDBPyConnection:
    """A database with 5,000 events, more than two chunks."""
    connection = duckdb.connect(path, config={"threads": 2})
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"CREATE TABLE events AS {ROWS.format(5000)}")
    return connection


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database of the test's own."""
    with open_database() as connection:
        yield connection


@pytest.fixture(scope="session")
def shared_database(scorer: Scorer) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with the first bundle registered."""
    with open_database() as connection:
        register(connection, scorer)
        yield connection


@pytest.fixture
def db(shared_database: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor of that database; what a test creates there must not disturb the others."""
    with shared_database.cursor() as cursor:
        yield cursor


@pytest.fixture(scope="session")
def events(shared_database: duckdb.DuckDBPyConnection) -> pa.Table:
    """The events as a table, in the order of their ids."""
    return shared_database.sql("SELECT * FROM events ORDER BY id").to_arrow_table()


@pytest.fixture(scope="session")
def expected(scorer: Scorer, events: pa.Table) -> NDArray[np.float32]:
    """What the scorer answers for them."""
    return scorer.score(events)
