"""What `make wheel` lets a fresh environment do, outside the checkout: train a small model, and serve it.

python wheel_trial.py train FOLDER    needs the extra `train`; writes FOLDER/bundle, events and the scores it gave
python wheel_trial.py serve FOLDER    serves that bundle by Scorer and SQL; refuses to run where torch is installed
python wheel_trial.py streamed FOLDER compares FOLDER/scored.jsonl, which `streamfm stream` has made of events.jsonl
"""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq

from streamfm.scoring import load
from udfs.duckdb_udf import register

SPEC = """
format = 1
label = "clicked"

[inputs]
user_id = "VARCHAR"
app_id = "VARCHAR"
price = "DOUBLE"
ts = "TIMESTAMP"
genres = "VARCHAR[]"

[features.user_id]
kind = "categorical"
min_count = 2

[features.app_id]
kind = "categorical"

[features.price]
kind = "numeric"

[features.hour]
kind = "categorical"
sql = "hour(ts)"

[features.genres]
kind = "multivalued"
"""
TOLERANCE = 1e-6


def train(folder: Path) -> None:
    """Leave a bundle in the folder, with events and the scores that this environment gives them."""
    from streamfm.features import FeatureSpec
    from streamfm.model import ModelSettings
    from streamfm.pipeline import PipelineSettings, train
    from streamfm.settings import TrainSettings
    from streamfm.testing import simulate_events

    events = simulate_events(4_000, seed=1, users=100, apps=40)
    settings = PipelineSettings(
        model=ModelSettings(factors=4, hidden=(16,)), training=TrainSettings(batch_size=256, max_epochs=1), name="trial"
    )
    train(FeatureSpec.from_toml(SPEC), events, folder / "bundle", settings=settings)
    pq.write_table(events, folder / "events.parquet")
    lines = [json.dumps(row, default=str) + "\n" for row in events.to_pylist()]
    (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    np.save(folder / "scores.npy", load(folder / "bundle").score(events))


def serve(folder: Path) -> None:
    """Score the events by SQL and by Scorer; both must give what the environment that trained gave."""
    installed = [name for name in ("torch", "onnx") if importlib.util.find_spec(name)]
    if installed:
        sys.exit(f"error: serving is to be tried without {', '.join(installed)}, which is installed here")
    expected = np.load(folder / "scores.npy")
    compare("Scorer", expected, load(folder / "bundle").score(pq.read_table(folder / "events.parquet")))
    con = duckdb.connect()
    register(con, folder / "bundle")
    query = f"SELECT deepfm_score(e) AS score FROM '{folder / 'events.parquet'}' e"
    compare("SQL", expected, con.execute(query).fetchnumpy()["score"])


def streamed(folder: Path) -> None:
    """Compare what the stream wrote with what the environment that trained gave."""
    lines = (folder / "scored.jsonl").read_text(encoding="utf-8").splitlines()
    scores = np.array([json.loads(line)["score"] for line in lines], np.float32)
    compare("stream", np.load(folder / "scores.npy"), scores)


def compare(route: str, expected: np.ndarray, actual: np.ndarray) -> None:
    """Leave with an error unless the route gave the expected scores."""
    difference = float(np.max(np.abs(expected - actual))) if expected.shape == actual.shape else np.inf
    print(f"{route}: {len(actual)} scores, largest difference {difference:.1e}")
    if not difference <= TOLERANCE:
        sys.exit(f"error: {route} differs from the environment that trained by {difference}, expected {TOLERANCE}")


if __name__ == "__main__":
    {"train": train, "serve": serve, "streamed": streamed}[sys.argv[1]](Path(sys.argv[2]))
