"""Which epoch's weights serve best when most users are new: that of the least validation loss, or of the highest AUC?

MovieLens 100K in the order of time: the first 45,000 ratings train, the next 5,000 validate, the second half tests:
most of its rows come from users that training never saw. The label is a rating of 4 or more. streamfm's defaults, three
seeds, with `keep_by` "loss" and "auc"; the test rows are scored by the bundle's Scorer.

Limit: "auc" in the same run. Goal: "loss", the default, has no higher log loss on the test rows.

Traps: rows must not be shuffled before they are split, or every user is known; a single seed says little; AUC and log
loss may disagree, so both are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import duckdb
import numpy as np
from _report import report

import streamfm
from streamfm.evaluation.metrics import auc, log_loss
from streamfm.features import FeatureSpec
from streamfm.pipeline import PipelineSettings
from streamfm.settings import TrainSettings

FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "movielens_100k" / "stream.parquet"
SPEC = """
format = 1
label = "label"
[inputs]
user_id = "BIGINT"
movie_id = "BIGINT"
age = "BIGINT"
gender = "VARCHAR"
occupation = "VARCHAR"
zip = "VARCHAR"
year = "BIGINT"
genres = "VARCHAR[]"
[features]
user_id.kind = "categorical"
movie_id.kind = "categorical"
age.kind = "categorical"
gender.kind = "categorical"
occupation.kind = "categorical"
zip.kind = "categorical"
year.kind = "categorical"
genres = { kind = "multivalued", max_length = 6 }
"""


def rows(file: Path, which: str) -> str:
    """A query over the ratings whose number in time fulfils a condition."""
    number = "row_number() OVER (ORDER BY event_time, event_id)"
    return f"SELECT * FROM '{file}' QUALIFY {number} {which} ORDER BY event_time, event_id"


def measure(file: Path, settings: TrainSettings) -> tuple[float, float]:
    """AUC and log loss of the second half's rows."""
    with tempfile.TemporaryDirectory() as folder:
        trained = streamfm.train(
            FeatureSpec.from_toml(SPEC),
            rows(file, "<= 45000"),
            Path(folder) / "movies",
            valid=rows(file, "BETWEEN 45001 AND 50000"),
            settings=PipelineSettings(training=settings),
        )
        test = duckdb.sql(rows(file, "> 50000")).to_arrow_table()
        scores = streamfm.load(Path(folder) / "movies").score(test)
    labels = test["label"].to_numpy()
    figures = auc(labels, scores), log_loss(labels, scores)
    epochs = f"epoch {trained.report.best_epoch} of {len(trained.report.epochs)}"
    kept = f"keep_by {settings.keep_by}, seed {settings.seed}"
    print(f"{kept}: AUC {figures[0]:.4f}, log loss {figures[1]:.4f}, {epochs}", flush=True)
    return figures


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=FILE, help="the file stream.parquet")
    arguments.add_argument("--threads", type=int, default=2)
    arguments.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    arguments.add_argument("--change", type=json.loads, default={}, help='of TrainSettings: {"unknown_share": 0.001}')
    options = arguments.parse_args()
    if not options.data.exists():
        print(f"{options.data}: no such file, nothing measured; --data names another", file=sys.stderr)
        return

    def mean(keep_by: str) -> np.ndarray:
        change = {"keep_by": keep_by, "threads": options.threads} | options.change
        told = [TrainSettings(**change, seed=seed) for seed in options.seeds]
        return np.mean([measure(options.data, settings) for settings in told], axis=0)

    by_loss, by_auc = mean("loss"), mean("auc")
    report("new_users_auc", by_loss[0], "AUC", limit=by_auc[0], higher_is_better=True)
    report("new_users_log_loss", by_loss[1], "nats", limit=by_auc[1], goal=">= 1x", higher_is_better=False)


if __name__ == "__main__":
    main()
