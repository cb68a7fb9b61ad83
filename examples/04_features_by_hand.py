"""A specification of every kind of feature, written by hand, and what became of each after training.

Run it: python examples/04_features_by_hand.py
"""

import tempfile
from pathlib import Path

import streamfm
from streamfm.pipeline import PipelineSettings
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import simulate_events

FEATURES = """
format = 1
label = "clicked"
group = "user_id"                        # AUC is also taken inside each user
event_time = "ts"                        # the latest rows validate

[inputs]                                 # what an event has, in the order of positional SQL calls
user_id = "VARCHAR"
app_id = "VARCHAR"
category = "VARCHAR"
installed_categories = "VARCHAR[]"
price = "DOUBLE"
session_seconds = "DOUBLE"
rating = "DOUBLE"
ts = { type = "TIMESTAMP", json = "epoch_ms" }

[features]
app_id = { kind = "categorical" }
user_id = { kind = "categorical", hash_buckets = 1024 }  # too many to keep a list of them
category = { kind = "categorical", min_count = 5 }       # rarer ones teach what an unknown one is worth
# Shares the embeddings of category: what a user has is compared with what is shown.
installed_categories = { kind = "multivalued", max_length = 5, pooling = "mean", table = "category", min_count = 5 }
price = { kind = "numeric", transform = "log1p" }
rating = { kind = "numeric", transform = "standard" }    # also the default
session = { kind = "numeric", input = "session_seconds", transform = "quantile", buckets = 8 }
hour = { kind = "categorical", sql = "hour(ts)" }        # in UTC, in training, SQL and streams alike
is_free_game = { kind = "categorical", sql = "price = 0 AND category IN ('puzzle', 'racing', 'strategy')" }
"""


def main(folder: Path) -> None:
    (folder / "features.toml").write_text(FEATURES)
    log = simulate_events(20_000, seed=4, users=400, apps=60).drop_columns(["true_probability"])
    settings = PipelineSettings(
        model=ModelSettings(factors=8, hidden=(32,)), training=TrainSettings(max_epochs=4, batch_size=256)
    )
    streamfm.train(folder / "features.toml", log.slice(0, 17_000), folder / "ctr", settings=settings)
    found = streamfm.evaluate(folder / "ctr", log.slice(17_000))
    print("AUC:", round(found.evaluation.measure("auc").value, 3))
    for feature in found.features:
        print(f"{feature.name:20} has a value in {feature.coverage:6.1%}, of these unknown: {feature.unknown_rate:.1%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
