"""Small models that go on learning, and rows for them: what the tests of fine-tuning share."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from streamfm.bundle import Bundle, open_bundle
from streamfm.data.labelled_rows import LabelledBatch, open_labelled
from streamfm.export import ExportSettings, Provenance, Sample, export_bundle
from streamfm.features import FeatureSpec
from streamfm.finetuning import FineTuner, FineTuneSettings
from streamfm.model import ModelSettings
from streamfm.pipeline import PipelineSettings, train
from streamfm.settings import TrainSettings

SPEC = FeatureSpec.from_toml("""
    format = 1
    label = "clicked"
    event_time = "ts"

    [inputs]
    user = "VARCHAR"
    likes = "VARCHAR[]"
    topic = "VARCHAR"
    price = "DOUBLE"
    age = "DOUBLE"
    place = "VARCHAR"
    ts = "TIMESTAMP"

    [features.user]
    kind = "categorical"

    [features.likes]
    kind = "multivalued"
    table = "topics"
    max_length = 3

    [features.topic]
    kind = "categorical"
    table = "topics"

    [features.price]
    kind = "numeric"

    [features.age]
    kind = "numeric"
    transform = "quantile"
    buckets = 4

    [features.place]
    kind = "categorical"
    hash_buckets = 8
""")
NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
DAY_US = 86_400_000_000
SETTINGS = FineTuneSettings(batch_size=32, least_steps=1, admit_after=1)


def events(rows: int, *, first_user: int, seed: int, day: int = 0, price: float = 1.0) -> pa.Table:
    """Rows of forty users from `first_user` on, whose clicks depend on the user."""
    random = np.random.default_rng(seed)
    users = first_user + random.integers(0, 40, rows)
    topics = np.array([f"topic {users[i] % 7}" for i in range(rows)])
    clicked = random.random(rows) < np.where(users % 3 == 0, 0.8, 0.2)
    start = (NOW.timestamp() + 86_400 * day) * 1_000_000
    times = np.sort(random.integers(0, DAY_US // 2, rows)) + int(start)
    return pa.table(
        {
            "user": [f"u{user}" for user in users],
            "likes": [[f"topic {user % 5}", None, f"topic {user % 11}", "beyond"][: user % 5] for user in users],
            "topic": topics,
            "price": random.normal(price, 2.0, rows),
            "age": random.uniform(18, 80, rows),
            "place": [f"place {user % 20}" for user in users],
            "ts": pa.array(times, pa.timestamp("us")),
            "clicked": clicked.astype(np.int64),
            "spent": clicked * 2.5 + random.normal(0, 0.1, rows),
        }
    )


def labelled(table: pa.Table, spec: FeatureSpec = SPEC) -> LabelledBatch:
    with open_labelled(table, spec) as rows:
        (batch,) = rows.batches()
    return batch


@lru_cache
def chunk(number: int, rows: int = 100, *, spec: FeatureSpec = SPEC, price: float = 1.0) -> LabelledBatch:
    """Chunk 0, 1, ...: each brings ten new users."""
    return labelled(events(rows, first_user=10 * number + 10, seed=100 + number, day=number + 1, price=price), spec)


def part(rows: LabelledBatch, start: int, count: int) -> LabelledBatch:
    columns = {name: column.slice(start, count) for name, column in rows.columns.items()}
    arrays = {
        name: None if array is None else array[start : start + count]
        for name, array in rows._asdict().items()
        if name not in ("columns", "rows")
    }
    return LabelledBatch(columns=columns, rows=count, **arrays)


def trained_bundle(
    folder: Path, *, spec: FeatureSpec = SPEC, average: bool = True, dropout: float = 0.2, batch_norm: bool = True
) -> Bundle:
    training = TrainSettings(batch_size=64, max_epochs=3, learning_rate=0.01, l2_factors=1e-4, threads=1)
    settings = PipelineSettings(
        model=ModelSettings(factors=4, hidden=(8, 6), dropout=dropout, batch_norm=batch_norm),
        training=replace(training, average=average),
        export=ExportSettings(int8=False),
    )
    rows = events(600, first_user=0, seed=1)
    return train(spec, rows, folder, settings=settings, now=NOW).bundle


def exported(tuner: FineTuner, folder: Path, **training: Any) -> Bundle:
    """The tuner's model through a real bundle, opened as a stranger would."""
    rows = chunk(50, 64)
    encoded = tuner.encoder.encode(rows.columns, rows.rows)
    trained = tuner.trained(Sample(rows=encoded, labels=rows.labels), encoded)
    facts = {"logit_shift": tuner.logit_shift, "model": asdict(tuner.model_settings)} | training
    provenance = Provenance(name="ctr", created_at=NOW, training=facts)
    return open_bundle(export_bundle(folder, trained, provenance, ExportSettings(int8=False)).path)


def assert_same_state(one: FineTuner, other: FineTuner) -> None:
    """Bit by bit, everything that decides on what comes next."""
    states = [tuner.trained(no_proof(tuner), no_proof(tuner).rows) for tuner in (one, other)]
    first, second = (state.state for state in states)
    assert first is not None
    assert second is not None
    assert list(first) == list(second)
    for name, array in first.items():
        assert array.tobytes() == second[name].tobytes(), name
    assert one.vocabularies.pending == other.vocabularies.pending
    for name in one.vocabularies.tables:
        assert one.vocabularies.values(name).equals(other.vocabularies.values(name))
    assert one.logit_shift == other.logit_shift


def no_proof(tuner: FineTuner) -> Sample:
    rows = chunk(50, 2)
    return Sample(rows=tuner.encoder.encode(rows.columns, rows.rows), labels=rows.labels)
