"""Does scoring raw strings inside a query cost more than the network alone, and less than leaving the database?

`SELECT sum(deepfm_score(..))` over ten VARCHAR columns, network 10 factors and 400-400-400, fp32 and int8, 1 and 2
threads; and, end to end, a table of scores made from a table of events by one statement, against what people do today:
fetch to pandas, encode by fitted scikit-learn encoders, predict with torch, write back.

Limit: onnxruntime alone, on ids encoded before, in chunks of 2,048 rows, on as many threads, each with a session's call
of its own. For int8 also the fp32 network, for the way by pandas the whole of that way.

Traps: DuckDB shares work out by row groups of 122,880 rows, so there are 16 full ones. The limit has the same chunks
in their better arrangement (a call a thread; one call on two threads is slower). The sides take turns, medians are
compared, and a first run of each is thrown away. A core's clock falls when the other is busy, so threads are compared
with as many. The answers of all sides are compared: a fast wrong one does not count.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import duckdb
import numpy as np
import onnxruntime
import pyarrow as pa
import torch
from _frappe import FEATURES, FOLDER, frappe_spec
from _report import report
from sklearn.preprocessing import OrdinalEncoder

from streamfm.data import fit_vocabularies
from streamfm.encoder import Encoded, Encoder
from streamfm.export import Provenance, Sample, Trained, export_bundle
from streamfm.model import DeepFM, ModelSettings
from streamfm.scoring import MODEL_FILES, Precision
from udfs.duckdb_udf import register

CARDINALITIES = {
    "user_id": 957, "app_id": 4082, "daytime": 7, "weekday": 7, "isweekend": 2, "homework": 3, "cost": 2,
    "weather": 9, "country": 80, "city": 233,
}  # fmt: skip
CHUNK_ROWS = 2048
ROW_GROUP_ROWS = 122_880
SETTINGS = ModelSettings(factors=10, hidden=(400, 400, 400))
ARGUMENTS = ", ".join(FEATURES)


def frappe_like(rows: int) -> pa.Table:
    """Ten string columns with Frappe's numbers of values, common ones first, and a label."""
    random = np.random.default_rng(0)
    columns = {"label": pa.array(random.integers(0, 2, rows, dtype=np.int8))}
    for name, count in CARDINALITIES.items():
        ranks = np.exp(random.random(rows) * np.log(count)).astype(int) % count
        values = pa.array([f"{name[:4]}{index}" for index in range(count)])
        columns[name] = values.take(pa.array(ranks))
    return pa.table(columns)


def read_events(rows: int) -> tuple[pa.Table, str]:
    """Frappe, repeated to so many rows, or what looks like it; and which of them."""
    file = FOLDER / "train.parquet"
    if not file.exists():
        return frappe_like(rows), "synthetic"
    columns = ", ".join(f"{name}::VARCHAR AS {name}" for name in FEATURES)
    once = duckdb.sql(f"SELECT label, {columns} FROM '{file}'").to_arrow_table()
    tiled = pa.concat_tables([once] * -(-rows // len(once)))
    return tiled.slice(0, rows), "frappe"


def trained_model(encoder: Encoder) -> DeepFM:
    """A model in the state that training leaves one: every weight and every batch norm away from its start."""
    model = DeepFM(encoder.layout, SETTINGS, seed=1)
    start = torch.Generator().manual_seed(2)
    with torch.no_grad():
        model.table.normal_(std=0.3, generator=start)
        for layer in model.deep or ():
            if isinstance(layer, torch.nn.BatchNorm1d):
                layer.running_mean.uniform_(-0.2, 0.2, generator=start)
                layer.running_var.uniform_(0.5, 1.5, generator=start)
    return model.eval()


def write_bundle(target: Path, events: pa.Table) -> tuple[Path, DeepFM]:
    """A bundle and the torch model that it holds."""
    spec = frappe_spec(city="VARCHAR")
    vocabularies = fit_vocabularies(events, spec, target.with_name("vocabulary"))
    encoder = Encoder(spec, vocabularies)
    model = trained_model(encoder)
    sample = events.slice(0, 20_000).combine_chunks()
    rows = encoder.encode({name: sample[name] for name in FEATURES}, len(sample))
    proof = Sample(rows=rows, labels=sample["label"].to_numpy())
    trained = Trained(model=model, spec=spec, vocabularies=vocabularies, proof=proof, calibration=rows)
    export_bundle(target, trained, Provenance(name="frappe", created_at=datetime(2026, 1, 31, tzinfo=UTC)))
    return target, model


class Bare:
    """onnxruntime on encoded ids and nothing else."""

    def __init__(self, bundle: Path, precision: Precision, encoded: Encoded) -> None:
        """Open the bundle's network and cut the ids into chunks."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(bundle / MODEL_FILES[precision], options)
        starts = range(0, len(encoded.ids), CHUNK_ROWS)
        self.chunks = [np.ascontiguousarray(encoded.ids[start : start + CHUNK_ROWS]) for start in starts]

    def run(self, threads: int) -> float:
        """The sum of the scores."""
        if threads == 1:
            return float(sum(map(self.score, self.chunks)))
        with ThreadPoolExecutor(threads) as pool:
            return float(sum(pool.map(self.score, self.chunks, chunksize=ROW_GROUP_ROWS // CHUNK_ROWS)))

    def score(self, ids: np.ndarray) -> float:
        """The sum of a chunk's scores."""
        return float(self.session.run(["score"], {"ids": ids})[0].sum(dtype=np.float64))


def by_turns(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds and answer of each side."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    answers: dict[str, float] = {}
    for turn in range(repeats + 1):
        for name, run in sides.items():
            start = time.perf_counter()
            answers[name] = run()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(times[name]), answers[name]) for name in sides}


def by_pandas(con: duckdb.DuckDBPyConnection, encoder: OrdinalEncoder, bases: np.ndarray, model: DeepFM) -> float:
    """What people do today; the sum of the scores."""
    frame = con.sql("SELECT * FROM events").df()
    # Unknown becomes -1, the row before the first value's.
    ids = encoder.transform(frame[list(FEATURES)]).astype(np.int32) + bases
    with torch.inference_mode():
        parts = [torch.sigmoid(model(part)) for part in torch.from_numpy(ids).split(8192)]
    frame["score"] = torch.cat(parts).numpy()
    con.execute("CREATE OR REPLACE TABLE by_pandas AS SELECT * FROM frame")
    return float(con.execute("SELECT sum(score) FROM by_pandas").fetchall()[0][0])


def by_sql(con: duckdb.DuckDBPyConnection, name: str) -> float:
    """The same by one statement; the sum of the scores."""
    con.execute(f"CREATE OR REPLACE TABLE by_sql AS SELECT *, {name}_score(e) AS score FROM events e")
    return float(con.execute("SELECT sum(score) FROM by_sql").fetchall()[0][0])


def fitted_encoder(events: pa.Table, model: DeepFM, ours: Encoder) -> tuple[OrdinalEncoder, np.ndarray]:
    """scikit-learn's encoder with the vocabulary's order, so that the same torch model reads its codes; and bases."""
    categories = [ours.vocabularies.values(name)["value"].to_numpy() for name in FEATURES]
    encoder = OrdinalEncoder(
        categories=[np.asarray(values, dtype=object) for values in categories],
        handle_unknown="use_encoded_value",
        unknown_value=-1,
    )
    encoder.fit(events.slice(0, 100).select(list(FEATURES)).to_pandas().astype(object))
    return encoder, model.layout.null_rows.astype(np.int32) + 2


def check(expected: float, actual: float, rows: int, tolerance: float) -> None:
    """Stop when two sides answer differently."""
    if abs(expected - actual) > tolerance * rows:
        raise SystemExit(f"answers differ: {expected} and {actual} over {rows} rows")


def sums(rows: int, repeats: int, threads: int, bare: dict[str, Bare], con: duckdb.DuckDBPyConnection) -> None:
    """The sum of scores by SQL against the network alone."""

    def ask(precision: str) -> float:
        query = f"SELECT sum({precision}_score({ARGUMENTS})) FROM events"
        return float(con.execute(query).fetchall()[0][0])

    con.execute(f"SET threads = {threads}")
    sides: dict[str, Callable[[], float]] = {}
    for precision in ("fp32", "int8"):
        sides[f"bare_{precision}"] = partial(bare[precision].run, threads)
        sides[f"sql_{precision}"] = partial(ask, precision)
    found = by_turns(sides, repeats)
    for precision in ("fp32", "int8"):
        check(found[f"bare_{precision}"][1], found[f"sql_{precision}"][1], rows, 1e-6)
    for precision, against, goal in (
        ("fp32", "bare_fp32", ">= 0.9x"),
        ("int8", "bare_int8", ">= 0.75x"),
        ("int8", "bare_fp32", ">= 1.8x"),
    ):
        report(
            f"sql_sum_{precision}_against_{against}_{threads}_threads",
            rows / found[f"sql_{precision}"][0],
            "rows/s",
            limit=rows / found[against][0],
            goal=goal,
            higher_is_better=True,
        )


def tables(
    rows: int, repeats: int, events: pa.Table, model: DeepFM, ours: Encoder, con: duckdb.DuckDBPyConnection
) -> None:
    """A table of scores by SQL against pandas, scikit-learn and torch."""
    encoder, bases = fitted_encoder(events, model, ours)
    con.execute("SET threads = 2")
    torch.set_num_threads(2)
    sides: dict[str, Callable[[], float]] = {
        "pandas": lambda: by_pandas(con, encoder, bases, model),
        "fp32": lambda: by_sql(con, "fp32"),
        "int8": lambda: by_sql(con, "int8"),
    }
    found = by_turns(sides, repeats)
    check(found["pandas"][1], found["fp32"][1], rows, 1e-5)
    for precision, goal in (("fp32", ">= 2x"), ("int8", ">= 4x")):
        report(
            f"sql_table_{precision}_against_pandas_sklearn_torch",
            rows / found[precision][0],
            "rows/s",
            limit=rows / found["pandas"][0],
            goal=goal,
            higher_is_better=True,
        )


def main() -> None:
    """Measure, and print one JSON line a figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row-groups", type=int, default=16, help="how many full row groups of 122,880 rows")
    parser.add_argument("--repeats", type=int, default=3, help="how often each side is timed")
    arguments = parser.parse_args()
    rows = arguments.row_groups * ROW_GROUP_ROWS
    events, source = read_events(rows)
    print(f"{rows:,} {source} rows, {arguments.repeats} turns a side", flush=True)
    with tempfile.TemporaryDirectory() as folder, duckdb.connect() as con:
        bundle, model = write_bundle(Path(folder) / "bundle", events.slice(0, 300_000))
        con.execute("CREATE TABLE events AS SELECT * FROM events")
        registration = register(con, bundle)
        ours = registration.scorer.encoder
        encoded = ours.encode({name: events[name].combine_chunks() for name in FEATURES}, rows)
        bare = {precision: Bare(bundle, precision, encoded) for precision in ("fp32", "int8")}
        for precision in bare:
            register(con, bundle, precision, precision=precision)
        for threads in (1, 2):
            sums(rows, arguments.repeats, threads, bare, con)
        tables(rows, arguments.repeats, events, model, ours, con)


if __name__ == "__main__":
    main()
