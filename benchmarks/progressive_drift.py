"""How much of what a frozen model loses in a drifting world does fine-tuning win back, and how much full retraining?

A simulated app store whose true click probabilities are known: 300 users and 40 apps, a click rate of .3, over 28 days
in which every app turns by .08 radians (4.6 degrees) a day towards the appeal and quality of another one, 64 degrees in
each half, and a third of the users and of the apps arrive on the way. Of 120,000 impressions the first half trains the
first model; the second half is predicted in 100 shards, of 600 rows or about three hours each, and each is learnt from
before the next. Frozen, incremental (the defaults of `FineTuneSettings`) and full retraining on everything every 10
shards begin with the same model; three seeds, of the world as of training.

Limit: log loss of the true probabilities, which nobody beats. The gap is what the frozen model loses to them. Goals:
incremental closes at least .6 of it, and more than full retraining does.

Traps: the gap holds what no model of so few rows could know, too, so worlds of many rarely seen users and apps (try
--users, --apps) leave less to win by freshness; `--drift 0` shows that part. Full retraining validates on its latest
rows, as `streamfm train` does. The true probability is no feature.
"""

from __future__ import annotations

import argparse
import sys

import numpy as np
import pyarrow as pa
from _report import report

from streamfm.evaluation.metrics import log_loss
from streamfm.features import FeatureSpec
from streamfm.pipeline import PipelineSettings
from streamfm.progressive import ModeName, ProgressiveReport, ProgressiveSettings, progressive
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import AppStore

ROWS, DAYS = 120_000, 28.0
MODES: tuple[ModeName, ...] = ("frozen", "incremental", "full")
SPEC = """
format = 1
label = "clicked"
event_time = "ts"
event_id = "event_id"
[inputs]
ts = "TIMESTAMP"
user_id = "VARCHAR"
device = "VARCHAR"
country = "VARCHAR"
installed_categories = "VARCHAR[]"
app_id = "VARCHAR"
category = "VARCHAR"
developer = "VARCHAR"
genres = "VARCHAR[]"
price = "DOUBLE"
position = "INTEGER"
session_seconds = "DOUBLE"
[features]
user_id.kind = "categorical"
device.kind = "categorical"
country.kind = "categorical"
installed_categories = { kind = "multivalued", max_length = 4 }
app_id.kind = "categorical"
category.kind = "categorical"
developer.kind = "categorical"
genres = { kind = "multivalued", max_length = 3 }
price = { kind = "numeric", transform = "log1p" }
position.kind = "categorical"
session_seconds = { kind = "numeric", transform = "log1p" }
hour = { kind = "categorical", sql = "hour(ts)" }
"""


def world(seed: int, options: argparse.Namespace) -> pa.Table:
    """The impressions of one world, with the probabilities by which they were clicked."""
    store = AppStore(
        seed=seed,
        users=options.users,
        apps=options.apps,
        click_rate=0.3,
        drift_per_day=options.drift,
        newcomer_share=1 / 3,
        growth_days=DAYS,
    )
    return store.events(ROWS, random=np.random.default_rng([seed, 2]), days=DAYS)


def measure(seed: int, options: argparse.Namespace) -> tuple[float, float]:
    """Which share of the gap incremental and full close."""
    events = world(seed, options)
    training = TrainSettings(
        max_epochs=4, batch_size=256, least_steps=0, l2_factors=1e-3, l2_first_order=1e-3, seed=seed, threads=1
    )
    model = ModelSettings(factors=8, hidden=(64, 32), dropout=0.1)
    settings = ProgressiveSettings(
        modes=MODES,
        shards=options.shards,
        full_every=options.full_every,
        replay_seed=seed,
        training=PipelineSettings(model=model, training=training, valid_fraction=0.05),
    )
    found = progressive(FeatureSpec.from_toml(SPEC), events, settings=settings)
    later = events.slice(found.warm_start_rows)
    truth = log_loss(later["clicked"].to_numpy(), later["true_probability"].to_numpy())
    return shares(found, truth, seed)


def shares(found: ProgressiveReport, truth: float, seed: int) -> tuple[float, float]:
    """The same, of what was found."""
    losses = {mode.mode: mode.evaluation.measure("log_loss").value or 0.0 for mode in found.modes}
    gap = losses["frozen"] - truth
    incremental, full = ((losses["frozen"] - losses[name]) / gap for name in MODES[1:])
    told = ", ".join(f"{name} {loss:.4f}" for name, loss in losses.items())
    seconds = ", ".join(f"{mode.mode} {sum(mode.learning_s):.1f}" for mode in found.modes[1:])
    print(f"seed {seed}: log loss {told}, truth {truth:.4f};", end=" ")
    print(f"closed {incremental:.3f}, full {full:.3f}; s {seconds}")
    sys.stdout.flush()
    return incremental, full


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    arguments.add_argument("--drift", type=float, default=0.08, help="radians a day")
    arguments.add_argument("--users", type=int, default=300)
    arguments.add_argument("--apps", type=int, default=40)
    arguments.add_argument("--shards", type=int, default=100)
    arguments.add_argument("--full-every", type=int, default=10)
    options = arguments.parse_args()
    closed = np.mean([measure(seed, options) for seed in options.seeds], axis=0)
    unit = "share of the gap"
    report("drift_gap_closed", closed[0], unit, goal=">= 0.6", higher_is_better=True)
    report("drift_gap_closed_beside_full", closed[0], unit, limit=closed[1], goal=">= 1x", higher_is_better=True)


if __name__ == "__main__":
    main()
