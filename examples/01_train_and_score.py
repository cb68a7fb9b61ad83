"""From a click log to a model that answers in Python: propose features, train, publish, score.

Run it: python examples/01_train_and_score.py
"""

import tempfile
from pathlib import Path

import pyarrow.parquet as pq

import streamfm
from streamfm.pipeline import PipelineSettings
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import simulate_events


def main(folder: Path) -> None:
    # Three weeks of an app store's impressions and clicks; a fourth to be predicted.
    events = simulate_events(24_000, seed=1, users=400, apps=60).drop_columns(["true_probability"])
    pq.write_table(events.slice(0, 18_000), folder / "events.parquet")
    pq.write_table(events.slice(18_000), folder / "tomorrow.parquet")

    # A first specification: a TOML file to be read and changed. Its comments give the reasons.
    proposal = streamfm.propose(folder / "events.parquet", label="clicked")
    (folder / "features.toml").write_text(proposal.to_toml())
    print("features:", ", ".join(feature.name for feature in proposal.spec.features))

    # The bundle is written only after its ONNX networks have answered as torch does, on real rows.
    settings = PipelineSettings(
        model=ModelSettings(factors=8, hidden=(32,)), training=TrainSettings(max_epochs=4, batch_size=256)
    )
    trained = streamfm.train(
        folder / "features.toml", folder / "events.parquet", folder / "new-bundle", settings=settings
    )
    print("AUC of the rows held back:", round(trained.evaluation.measure("auc").value, 3))

    # Published, it is models/ctr/1, and whoever asks for the champion gets it.
    registry = streamfm.Registry(folder / "models")
    registry.publish(trained.bundle.path, "ctr", alias="champion")

    # Serving needs neither torch nor onnx. Any table will do, or a list of dicts, or one dict.
    scorer = streamfm.load(folder / "models" / "ctr@champion")
    tomorrow = pq.read_table(folder / "tomorrow.parquet")
    print("first scores of tomorrow:", scorer.score(tomorrow)[:3].round(3))
    event = tomorrow.slice(0, 1).to_pylist()[0]
    print("the first event alone:", round(scorer.score(event), 3))
    print("in the last position:", round(scorer.score(event | {"position": 10}), 3))

    found = streamfm.evaluate(scorer, folder / "tomorrow.parquet")
    for name, value, interval, note in found.evaluation.summary_rows():
        print(f"{name:20} {value:>10}  {interval:20} {note}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
