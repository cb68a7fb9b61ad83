from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors import safe_open

from streamfm.bundle import open_bundle
from streamfm.encoder import Encoded, Encoder
from streamfm.encoder.vocabulary import VALUES_SCHEMA, NumericStatistics, VocabularyWriter
from streamfm.errors import BundleError, DataError, ParityError, SpecError
from streamfm.export import ExportSettings, Provenance, Sample, Trained, export_bundle
from streamfm.export.weights import read_state
from streamfm.features import FeatureSpec
from streamfm.model import DeepFM, ModelSettings
from streamfm.scoring import Scorer

SINGLE = """
format = 1
label = "clicked"

[inputs]
user = "VARCHAR"
app = "VARCHAR"

[features.user]
kind = "categorical"

[features.app]
kind = "categorical"
"""

WEIGHTED = (
    SINGLE.replace("[features.user]", 'price = "DOUBLE"\ngenres = "VARCHAR[]"\n\n[features.user]')
    + """
[features.price]
kind = "numeric"

[features.genres]
kind = "multivalued"
max_length = 3
"""
)

NAMES = [f"value {number}" for number in range(30)]
PROVENANCE = Provenance(
    name="ctr",
    created_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
    parent="ctr/3",
    metrics={"auc": 0.75},
    training={"seed": 7},
)


def events(count: int, *, seed: int) -> pa.Table:
    """Values seen in training and not, NULLs, lists of any length."""
    random = np.random.default_rng(seed)

    def names() -> list[str | None]:
        return [
            None if place == 31 else "unseen" if place == 30 else NAMES[place]
            for place in random.integers(0, 32, count)
        ]

    return pa.table(
        {
            "user": pa.array(names()),
            "app": pa.array(names()),
            "price": pa.array(random.normal(3, 2, count), mask=random.random(count) < 0.1),
            "genres": pa.array([list(random.choice(NAMES, random.integers(0, 5))) for _ in range(count)]),
        }
    )


class Case:
    """A model as training leaves it, on features of one kind or of all kinds."""

    def __init__(self, folder: Path, toml: str, *, hidden: tuple[int, ...] = (16, 8), task: str = "binary") -> None:
        self.spec = FeatureSpec.from_toml(toml.replace("format = 1", f'format = 1\ntask = "{task}"'))
        writer = VocabularyWriter(folder / "vocabulary")
        values = pa.record_batch([NAMES, [5] * len(NAMES)], schema=VALUES_SCHEMA)
        for feature in self.spec.features:
            if feature.kind == "numeric":
                writer.add_rows(feature.name, "number", 3)
            else:
                writer.add_values(feature.name, len(NAMES), [values])
        numeric = any(feature.kind == "numeric" for feature in self.spec.features)
        self.vocabularies = writer.finish({"price": NumericStatistics(mean=3.0, deviation=2.0)} if numeric else {})
        self.encoder = Encoder(self.spec, self.vocabularies)
        self.model = self._model(hidden)

    def _model(self, hidden: tuple[int, ...]) -> DeepFM:
        model = DeepFM(self.encoder.layout, ModelSettings(factors=4, hidden=hidden))
        random = torch.Generator().manual_seed(0)
        model.table.data.normal_(std=0.4, generator=random)
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2, generator=random)
        return model

    def encoded(self, count: int, *, seed: int) -> Encoded:
        table = events(count, seed=seed)
        return self.encoder.encode({name: table[name] for name in table.column_names}, count)

    def trained(self, **changes: Any) -> Trained:
        rows = self.encoded(500, seed=1)
        labels = (np.random.default_rng(2).random(500) < 0.4).astype(np.float32)
        trained = Trained(
            model=self.model,
            spec=self.spec,
            vocabularies=self.vocabularies,
            proof=Sample(rows=rows, labels=labels),
            calibration=self.encoded(800, seed=3),
        )
        return replace(trained, **changes)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path, SINGLE)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder for bundles, which must not be left with anything but bundles."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("toml", [SINGLE, WEIGHTED], ids=["single", "weighted"])
@pytest.mark.parametrize("hidden", [(), (16, 8)])
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_bundle_scores_raw_events_as_the_trained_model(
    toml: str, hidden: tuple[int, ...], task: str, tmp_path: Path, models: Path
) -> None:
    case = Case(tmp_path, toml, hidden=hidden, task=task)
    bundle = export_bundle(models / "new", case.trained(), PROVENANCE)
    table = events(3000, seed=9)
    encoded = case.encoded(3000, seed=9)
    logits = case.model.predict_logits(encoded.ids, encoded.weights).astype(np.float64)
    expected = 1 / (1 + np.exp(-logits)) if task == "binary" else logits
    np.testing.assert_allclose(Scorer(bundle).score(table), expected, atol=1e-5)
    assert np.abs(Scorer(bundle, precision="int8").score(table) - expected).mean() < 0.02
    assert ["new"] == [path.name for path in models.iterdir()]


def test_manifest_tells_where_the_bundle_is_from_and_how_it_was_proven(case: Case, models: Path) -> None:
    manifest = export_bundle(models / "new", case.trained(), PROVENANCE).manifest
    assert ("ctr", None, "ctr/3") == (manifest.name, manifest.version, manifest.parent)
    assert manifest.created_at == "2026-01-31T12:00:00+00:00"
    assert ({"auc": 0.75}, {"seed": 7}) == (manifest.metrics, manifest.training)
    assert (2, 64, 4, (16, 8), False) == (
        manifest.layout.slots,
        manifest.layout.rows,
        manifest.layout.factors,
        manifest.layout.hidden,
        manifest.layout.weighted,
    )
    assert {"streamfm", "torch", "onnx", "onnxruntime", "numpy", "python"} <= manifest.libraries.keys()
    assert manifest.libraries["torch"] == torch.__version__
    parity: Any = manifest.parity
    assert ({"rows", "batch_sizes", "fp32", "int8"}, 500) == (parity.keys(), parity["rows"])
    assert parity["fp32"]["max_abs_diff"] <= parity["fp32"]["limit"] == 1e-5
    assert 0 < parity["int8"]["max_abs_diff"] < 0.05
    assert 800 == parity["int8"]["calibration_rows"]
    assert abs(parity["int8"]["auc_loss"]) < 0.02


def test_every_file_is_there_and_opens_again(case: Case, models: Path) -> None:
    export_bundle(models / "new", case.trained(), PROVENANCE)
    files = open_bundle(models / "new").manifest.files
    networks = {"features.toml", "model.onnx", "model.int8.onnx", "weights.safetensors", "vocabulary/tables.json"}
    assert networks <= files.keys()


def test_int8_is_left_out_on_demand(case: Case, models: Path) -> None:
    trained = case.trained(calibration=Encoded(np.zeros((0, 2), np.int32), None))
    manifest = export_bundle(models / "new", trained, PROVENANCE, ExportSettings(int8=False)).manifest
    assert "model.int8.onnx" not in manifest.files
    assert "int8" not in manifest.parity


def test_same_model_gives_the_same_bundle(case: Case, models: Path) -> None:
    first, second = (export_bundle(models / name, case.trained(), PROVENANCE).manifest for name in ("one", "two"))
    assert first == second


def test_export_leaves_the_model_as_it_was(case: Case, models: Path) -> None:
    case.model.train()
    before = {name: tensor.clone() for name, tensor in case.model.state_dict().items()}
    export_bundle(models / "new", case.trained(), PROVENANCE)
    assert case.model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in case.model.state_dict().items())


def test_weights_keep_served_ones_by_name_and_the_training_state(case: Case, models: Path) -> None:
    served = {f"served.{name}": tensor.numpy() for name, tensor in case.model.state_dict().items()}
    rest = {"raw.table": case.model.table.detach().numpy() * 2, "step": np.array([12], np.int64)}
    bundle = export_bundle(models / "new", case.trained(state=served | rest), PROVENANCE)
    with safe_open(bundle.path / "weights.safetensors", framework="numpy") as tensors:
        expected = {*case.model.state_dict(), "training.raw.table", "training.step"}
        assert expected == set(tensors.keys())
    state = read_state(bundle.path / "weights.safetensors")
    assert (served | rest).keys() == state.keys()
    for name, array in (served | rest).items():
        np.testing.assert_array_equal(array, state[name])
        assert array.shape == state[name].shape


def nan_in_the_table(case: Case) -> Trained:
    case.model.table.data[5, 1] = torch.nan
    return case.trained()


def huge_weights(case: Case) -> Trained:
    case.model.table.data[:] = 1e30
    return case.trained()


def no_proof(case: Case) -> Trained:
    return case.trained(proof=Sample(rows=Encoded(np.zeros((0, 2), np.int32), None), labels=np.zeros(0, np.float32)))


def no_calibration(case: Case) -> Trained:
    return case.trained(calibration=Encoded(np.zeros((0, 2), np.int32), None))


@pytest.mark.parametrize(
    ("spoiled", "error", "message"),
    [
        (nan_in_the_table, ParityError, "not finite in its table\nhint: training diverged"),
        (huge_weights, ParityError, "the trained model's logit for row 0 is"),
        (no_proof, DataError, "no rows to prove parity on"),
        (no_calibration, DataError, "no rows to set int8's scales by"),
    ],
)
def test_model_that_cannot_be_proven_leaves_nothing(
    spoiled: Callable[[Case], Trained], error: type[Exception], message: str, case: Case, models: Path
) -> None:
    with pytest.raises(error, match=message):
        export_bundle(models / "new", spoiled(case), PROVENANCE)
    assert [] == list(models.iterdir())


def test_difference_beyond_the_limit_leaves_nothing(case: Case, models: Path) -> None:
    """No honest network is within 1e-12 of torch, so the limit does what a wrong network would."""
    with pytest.raises(ParityError, match=r"model\.onnx: the score of row \d+ differs .* expected at most 1e-12"):
        export_bundle(models / "new", case.trained(), PROVENANCE, ExportSettings(parity_limit=1e-12))
    assert [] == list(models.iterdir())


def test_bundle_whose_parts_do_not_fit_leaves_nothing(case: Case, models: Path) -> None:
    """A network of another layout than the vocabulary's passes its own proof, but no raw event could reach it."""
    other = Case(models.parent / "wider", WEIGHTED)
    with pytest.raises(BundleError, match="vocabulary"):
        export_bundle(models / "new", case.trained(vocabularies=other.vocabularies), PROVENANCE)
    assert [] == list(models.iterdir())


def test_bundle_is_never_written_over(case: Case, models: Path) -> None:
    before = export_bundle(models / "new", case.trained(), PROVENANCE).manifest
    with pytest.raises(BundleError, match="is there already"):
        export_bundle(models / "new", case.trained(), replace(PROVENANCE, name="other"))
    assert before == open_bundle(models / "new").manifest


@pytest.mark.parametrize("limit", [0, -1, 0.5, float("nan")])
def test_limit_that_proves_nothing_is_refused(limit: float) -> None:
    with pytest.raises(SpecError, match="parity_limit"):
        ExportSettings(parity_limit=limit)


def test_one_line_is_logged(case: Case, models: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "streamfm.export"):
        export_bundle(models / "new", case.trained(), PROVENANCE)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert 1 == len(lines)
    assert "exported; float32 within" in lines[0]


def test_every_file_may_be_read_by_whom_the_umask_lets(pristine_bundle: Path) -> None:
    modes = {path.name: path.stat().st_mode & 0o777 for path in pristine_bundle.rglob("*") if path.is_file()}
    assert dict.fromkeys(modes, modes["manifest.json"]) == modes
