"""What is a short interval worth when most users are new? Progressive validation of MovieLens 100K.

100,000 ratings in the order (ts, user_id, movie_id), a label of 1 for a rating of 4 or more, no label delay. The first
half trains the first model; the second half, most of whose rows come from users never seen before, is predicted in 10,
50, 100, 500 and 2,000 shards, each learnt from, by the defaults of `FineTuneSettings`, before the next is predicted.
A small network (factors 16, 64-32, drop-out .4), three passes in batches of 128 rows, the last 2 % of the first half to
choose among them; three seeds.

Limit: the frozen model, of the same seed and run. Goals: 100 shards AUC .718, log loss .614; 2,000 shards .733, .602;
at each step to shorter intervals the mean AUC rises, or falls by less than the seeds' standard deviation; calibration
Σp/Σy of these two within [.98, 1.02].

Traps: rows must not be shuffled; the ts has ties, so the order is told in full; the second half decides nothing, but
the defaults were chosen on it (and on no other log), so that a figure here is what fine-tuning can give.
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
from _report import report

from streamfm.features import FeatureSpec
from streamfm.finetuning import FineTuneSettings
from streamfm.pipeline import PipelineSettings
from streamfm.progressive import ProgressiveSettings, progressive
from streamfm.settings import ModelSettings, TrainSettings

FILE = Path(__file__).resolve().parents[2] / "shared" / "data" / "movielens_100k" / "stream.parquet"
SPEC = """
format = 1
label = "label"
event_time = "event_time"
event_id = "event_id"
[inputs]
user_id = "BIGINT"
movie_id = "BIGINT"
age = "BIGINT"
gender = "VARCHAR"
occupation = "VARCHAR"
zip = "VARCHAR"
year = "VARCHAR"
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
MEASURES = ("auc", "log_loss", "calibration")
GOALS = {100: (">= 0.718", "<= 0.614"), 2000: (">= 0.733", "<= 0.602")}


def measure(shards: int, seed: int, options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """AUC, log loss and calibration of frozen and incremental."""
    training = TrainSettings(
        max_epochs=3, batch_size=128, least_steps=0, l2_factors=1e-3, l2_first_order=1e-3, seed=seed, threads=1
    )
    model = ModelSettings(factors=16, hidden=(64, 32), dropout=0.4)
    settings = ProgressiveSettings(
        shards=shards,
        order=("ts", "user_id", "movie_id"),
        replay_seed=seed,
        training=PipelineSettings(model=model, training=training, valid_fraction=0.02),
        finetuning=FineTuneSettings(seed=seed, **options.change),
    )
    found = progressive(FeatureSpec.from_toml(SPEC), options.data, settings=settings)
    frozen, incremental = ([mode.value(name) or 0.0 for name in MEASURES] for mode in found.modes)
    told = ", ".join(f"{name} {value:.4f}" for name, value in zip(MEASURES, incremental, strict=True))
    round_ms = 1e3 * (found.mode("incremental").seconds_per_round or 0.0)
    print(f"{shards} shards, seed {seed}: {told} (frozen {frozen[0]:.4f}, {frozen[1]:.4f}), {round_ms:.0f} ms a round")
    sys.stdout.flush()
    return frozen, incremental


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=FILE, help="the file stream.parquet")
    arguments.add_argument("--shards", type=int, nargs="+", default=(10, 50, 100, 500, 2000))
    arguments.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    arguments.add_argument("--change", type=json.loads, default={}, help='of FineTuneSettings: {"batch_size": 32}')
    options = arguments.parse_args()
    if not options.data.exists():
        print(f"{options.data}: no such file, nothing measured; --data names another", file=sys.stderr)
        return
    aucs = {}
    for shards in options.shards:
        both = np.array([measure(shards, seed, options) for seed in options.seeds])
        frozen, found = both[:, 0].mean(axis=0), both[:, 1].mean(axis=0)
        aucs[shards] = both[:, 1, 0]
        goals = GOALS.get(shards, (None, None))
        name = f"movielens_{shards}_shards"
        report(f"{name}_auc", found[0], "AUC", limit=frozen[0], goal=goals[0], higher_is_better=True)
        report(f"{name}_log_loss", found[1], "nats", limit=frozen[1], goal=goals[1], higher_is_better=False)
        off = abs(found[2] - 1)
        goal = "<= 0.02" if shards in GOALS else None
        report(f"{name}_calibration_off", off, "of Σp/Σy = 1", goal=goal, higher_is_better=False)
    for longer, shorter in pairwise(sorted(aucs)):
        fall = aucs[longer].mean() - aucs[shorter].mean()
        deviation = (
            float(np.std([aucs[longer], aucs[shorter]], axis=1, ddof=1).max()) if len(options.seeds) > 1 else 0.0
        )
        name = f"movielens_{longer}_to_{shorter}_shards_auc_fall"
        report(name, fall, "AUC", goal=f"<= {max(deviation, 0.0):.6f}", higher_is_better=False)


if __name__ == "__main__":
    main()
