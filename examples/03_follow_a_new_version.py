"""A new version takes over while SQL goes on: publish, promote, refresh or watch, roll back.

Run it: python examples/03_follow_a_new_version.py
"""

import tempfile
import time
from pathlib import Path

import duckdb

import streamfm
from streamfm.pipeline import PipelineSettings
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.testing import simulate_events
from udfs.duckdb_udf import register


def main(folder: Path) -> None:
    log = simulate_events(20_000, seed=3, users=400, apps=60).drop_columns(["true_probability"])
    spec = streamfm.propose(log, "clicked").spec
    registry = streamfm.Registry(folder / "models")

    def publish(seed: int, alias: str | None = None) -> int:
        training = TrainSettings(max_epochs=2, batch_size=256, seed=seed)
        settings = PipelineSettings(model=ModelSettings(factors=4, hidden=(16,)), training=training)
        trained = streamfm.train(spec, log, folder / f"bundle-{seed}", settings=settings)
        return registry.publish(trained.bundle.path, "ctr", alias=alias).version

    publish(seed=1, alias="champion")
    con = duckdb.connect()
    model = register(con, folder / "models" / "ctr@champion")

    def answer() -> tuple[int, float]:
        ((version,),) = con.sql("SELECT version FROM deepfm_models()").fetchall()
        ((score,),) = con.sql("SELECT deepfm_score(app_id := 'music-001')").fetchall()
        return version, round(score, 4)

    print("at first:          ", answer())
    publish(seed=2)
    print("2 is published:    ", answer())  # nobody has promoted it
    registry.promote("ctr", 2)
    print("and promoted:      ", answer())  # a registration stays where it is until it is told to move
    print("refreshed:         ", model.refresh(), answer())

    # A watcher follows the alias by itself; queries that run keep the version that they began with.
    model.watch(interval_s=0.1)
    registry.rollback("ctr")
    while answer()[0] != 1:
        time.sleep(0.1)
    print("rolled back to 1:  ", answer())
    model.stop()

    for move in registry.history("ctr"):
        print(f"{move.sequence}. {move.kind} to version {move.version}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
