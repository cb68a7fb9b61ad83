"""Events scored as they happen, from Python: a Kafka broker in this process, the loop, a version that takes over.

Run it: python examples/05_score_a_stream.py
"""

import json
import tempfile
from pathlib import Path

import streamfm
from connectors.confluent_events import open_kafka
from connectors.dev_broker import DevBroker
from connectors.dev_topics import append, records
from connectors.kafka_settings import KafkaSettings
from streamfm.pipeline import PipelineSettings
from streamfm.settings import ModelSettings, TrainSettings
from streamfm.stream.loop import Stream
from streamfm.stream.serving import ServedModels
from streamfm.stream.settings import StreamSettings
from streamfm.testing import simulate_events


def main(folder: Path) -> None:
    log = simulate_events(20_000, seed=3, users=400, apps=60).drop_columns(["true_probability"])
    spec = streamfm.propose(log, "clicked").spec
    registry = streamfm.Registry(folder / "models")
    for seed in (1, 2):
        training = TrainSettings(max_epochs=1, batch_size=256, seed=seed)
        settings = PipelineSettings(model=ModelSettings(factors=4, hidden=(16,)), training=training)
        trained = streamfm.train(spec, log, folder / f"bundle-{seed}", settings=settings)
        registry.publish(trained.bundle.path, "ctr", alias="champion" if seed == 1 else None)

    events = [(None, json.dumps(row, default=str).encode()) for row in log.slice(0, 1_000).to_pylist()]
    models = ServedModels(folder / "models" / "ctr@champion", StreamSettings(keep=("app_id",)))
    with DevBroker({"events": 2, "scores": 2, "dead": 1}) as broker:
        where = broker.bootstrap_servers
        topics = {"input_topics": ("events",), "output_topic": "scores", "dead_letter_topic": "dead"}
        source, sink = open_kafka(KafkaSettings(bootstrap_servers=where, group_id="example", **topics))
        stream = Stream(source, sink, models, models.settings)

        append(where, "events", [*events, (None, b"not JSON")])
        stream.run(lambda: stream.measures.events >= 1_001)
        registry.promote("ctr", 2)
        models.refresh()  # `streamfm stream` looks every second, in a thread of its own
        append(where, "events", events)
        stream.run(lambda: stream.measures.events >= 2_001)
        sink.close(timeout_s=5)
        source.close(timeout_s=5)

        scores = [json.loads(record.value) for record in records(where, "scores", count=2_000, timeout_s=20)]
        (letter,) = records(where, "dead", count=1, timeout_s=20)
    print("one score:      ", {name: scores[0][name] for name in ("event_id", "app_id", "model", "version")})
    print("by version:     ", {version: sum(s["version"] == version for s in scores) for version in (1, 2)})
    print("a dead letter:  ", letter.value, dict(letter.headers)["__connect.errors.exception.message"].decode())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        main(Path(name))
