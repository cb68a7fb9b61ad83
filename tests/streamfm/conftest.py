"""A real bundle, small enough to be written for every test that wants to break one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest
from safetensors.numpy import save_file

from streamfm.bundle import FORMAT_VERSION, BundleWriter, LayoutFacts, Manifest
from streamfm.encoder import Encoder
from streamfm.features import FeatureSpec
from streamfm.graph import build_graph
from streamfm.network import Dense, Network
from streamfm.vocabulary import VALUES_SCHEMA, NumericStatistics, VocabularyWriter

FACTORS, HIDDEN = 2, 3
SPEC = """
format = 1
label = "clicked"

[inputs]
user = "VARCHAR"
price = "DOUBLE"

[features.user]
kind = "categorical"

[features.price]
kind = "numeric"
"""


def write_small_bundle(target: Path, *, seed: int = 0, name: str = "ctr") -> Manifest:
    """A bundle of a network with random weights, complete in every file."""
    spec = FeatureSpec.from_toml(SPEC)
    random = np.random.default_rng(seed)
    with BundleWriter(target) as writer:
        writer.path("features.toml").write_text(SPEC, encoding="utf-8")
        vocabulary = VocabularyWriter(writer.path("vocabulary"))
        users = pa.record_batch([["ann", "bob"], [3, 2]], schema=VALUES_SCHEMA)
        vocabulary.add_values("user", 2, [users])
        vocabulary.add_rows("price", "number", 3)
        vocabularies = vocabulary.finish({"price": NumericStatistics(mean=1.5, deviation=2.0)})
        layout = Encoder(spec, vocabularies).layout
        widths = [(len(layout.fields) * FACTORS, HIDDEN), (HIDDEN, 1)]
        layers = tuple(
            Dense(weight=random.normal(size=width).astype(np.float32), bias=np.zeros(width[1], np.float32))
            for width in widths
        )
        table = random.normal(size=(layout.rows, FACTORS + 1)).astype(np.float32)
        network = Network(layout=layout, task="binary", table=table, bias=0.5, layers=layers)
        onnx.save(build_graph(network), writer.path("model.onnx"))
        save_file({"table": table, "bias": np.array([0.5], np.float32)}, writer.path("weights.safetensors"))
        return writer.commit(
            Manifest(
                format_version=FORMAT_VERSION,
                name=name,
                created_at="2026-01-31T12:00:00+00:00",
                spec_fingerprint=spec.fingerprint,
                task="binary",
                layout=LayoutFacts(
                    slots=layout.slots,
                    rows=layout.rows,
                    factors=FACTORS,
                    hidden=(HIDDEN,),
                    weighted=layout.weighted,
                ),
                metrics={"auc": 0.75, "seed": seed},
                training={"seed": seed, "window": {"first": None, "last": None}},
                libraries={"streamfm": "0.1.0"},
            )
        )


@pytest.fixture(scope="session")
def pristine_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that no test may change."""
    folder = tmp_path_factory.mktemp("pristine") / "bundle"
    write_small_bundle(folder)
    return folder


@pytest.fixture
def small_bundle(pristine_bundle: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return Path(shutil.copytree(pristine_bundle, tmp_path / "bundle"))


@pytest.fixture
def write_bundle() -> Callable[..., Manifest]:
    """The function that writes one."""
    return write_small_bundle
