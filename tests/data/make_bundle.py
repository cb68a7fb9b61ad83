"""How the golden bundle of format 1 was made; kept to be read, and for the bundle of a format to come.

    python tests/data/make_bundle.py bundle_v2

writes beside this file a folder with the bundle, and a JSON file with rows, what the encoder makes of them, and what
both networks answer. A bundle that is there is never made anew: it stands for those that people have on their disks.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from streamfm.features import FeatureSpec
from streamfm.model import ModelSettings
from streamfm.pipeline import PipelineSettings, train
from streamfm.scoring import MODEL_FILES, Scorer, load
from streamfm.settings import TrainSettings
from streamfm.testing import simulate_events

SPEC = """
format = 1
label = "clicked"
group = "user_id"
event_time = "ts"
event_id = "event_id"

[inputs]
user_id = "VARCHAR"
app_id = "VARCHAR"
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
hash_buckets = 32

[features.app_id]
kind = "categorical"
min_count = 20

[features.country]
kind = "categorical"

[features.category]
kind = "categorical"
table = "categories"

[features.installed_categories]
kind = "multivalued"
table = "categories"
max_length = 3

[features.genres]
kind = "multivalued"
pooling = "sum"
max_length = 2

[features.position]
kind = "numeric"
transform = "none"

[features.position_as_category]
kind = "categorical"
input = "position"

[features.price]
kind = "numeric"
transform = "log1p"

[features.rating]
kind = "numeric"

[features.session_seconds]
kind = "numeric"
transform = "quantile"
buckets = 4

[features.hour]
kind = "categorical"
sql = "hour(ts)"

[features.is_weekend]
kind = "categorical"
sql = "dayofweek(ts) IN (0, 6)"

[features.price_per_star]
kind = "numeric"
sql = "price / rating"
"""

SETTINGS = PipelineSettings(
    name="golden",
    model=ModelSettings(factors=3, hidden=(6, 4)),
    training=TrainSettings(learning_rate=0.02, max_epochs=4, l2_factors=1e-5, l2_first_order=1e-5, threads=1),
)


def rows() -> list[dict[str, object]]:
    """Eight events: four as they come, one of unseen values, one of other types, two with hardly anything."""
    events = simulate_events(4, seed=3, users=60, apps=25).select(FeatureSpec.from_toml(SPEC).input_names)
    usual = [{**event, "ts": int(event["ts"].replace(tzinfo=UTC).timestamp() * 1000)} for event in events.to_pylist()]
    strange = {
        "user_id": "nobody we know",
        "app_id": "Überapp",
        "country": "",
        "category": "Käse",
        "installed_categories": ["Käse", None, "games", "games", "tools"],
        "genres": [],
        "position": 12,
        "price": -3.5,
        "rating": 0.0,
        "session_seconds": 1e12,
        "ts": -1,
    }
    partial = {**usual[0], "user_id": 7, "position": 3.0, "price": None, "ts": None}
    return [*usual, strange, partial, {"app_id": None}, {"genres": None, "ts": 0}]


def golden(bundle: Path) -> dict[str, object]:
    """What must stay true of a bundle."""
    scorers: dict[str, Scorer] = {precision: load(bundle, precision=precision) for precision in MODEL_FILES}
    events = rows()
    ids, weights = scorers["fp32"].encoder.encode(*scorers["fp32"].columns(events))
    scores = {precision: scorer.score(events).tolist() for precision, scorer in scorers.items()}
    return {"rows": events, "ids": ids.tolist(), "weights": weights.tolist(), "scores": scores}


def main(name: str) -> None:
    target = Path(__file__).with_name(name)
    events = simulate_events(4_000, seed=3, users=60, apps=25)
    train(FeatureSpec.from_toml(SPEC), events, target, settings=SETTINGS, now=datetime(2026, 2, 1, tzinfo=UTC))
    text = json.dumps(golden(target), ensure_ascii=False, indent=1)
    target.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
