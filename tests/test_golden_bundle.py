"""Bundles on people's disks stay loadable, and go on giving the same scores. See tests/data/make_bundle.py."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from streamfm.bundle import FORMAT_VERSION, Bundle, open_bundle
from streamfm.scoring import Scorer, load

DATA = Path(__file__).resolve().parent / "data"
VERSIONS = range(1, FORMAT_VERSION + 1)
TOLERANCE = 1e-6


@pytest.fixture(scope="module", params=VERSIONS, ids=lambda version: f"format {version}")
def folder(request: pytest.FixtureRequest) -> Path:
    return DATA / f"bundle_v{request.param}"


@pytest.fixture(scope="module")
def bundle(folder: Path) -> Bundle:
    return open_bundle(folder)


@pytest.fixture(scope="module", params=["fp32", "int8"])
def scorer(folder: Path, request: pytest.FixtureRequest) -> Scorer:
    return load(folder, precision=request.param)


@pytest.fixture(scope="module")
def golden(folder: Path) -> dict:
    return json.loads(folder.with_suffix(".json").read_text(encoding="utf-8"))


def test_every_byte_is_the_one_that_was_written(bundle: Bundle, folder: Path) -> None:
    assert int(folder.name.removeprefix("bundle_v")) == bundle.manifest.format_version
    assert "golden" == bundle.manifest.name


def test_the_bundle_has_every_kind_of_feature(bundle: Bundle) -> None:
    features = bundle.spec.features
    assert {"categorical", "numeric", "multivalued"} == {f.kind for f in features}
    assert {"none", "standard", "log1p", "quantile"} == {f.transform for f in features if f.kind == "numeric"}
    assert {"mean", "sum"} == {f.pooling for f in features if f.kind == "multivalued"}
    assert {"categorical", "numeric"} == {f.kind for f in features if f.sql}
    assert any(f.hash_buckets for f in features)
    assert any(f.min_count > 1 for f in features)
    assert len({f.table for f in features}) < len(features)


def test_rows_have_the_ids_and_weights_that_were_written(bundle: Bundle, scorer: Scorer, golden: dict) -> None:
    encoded = scorer.encoder.encode(*scorer.columns(golden["rows"]))
    assert golden["ids"] == encoded.ids.tolist()
    np.testing.assert_allclose(encoded.weights, golden["weights"], rtol=1e-6)


def test_rows_have_the_scores_that_were_written(scorer: Scorer, golden: dict) -> None:
    expected = golden["scores"][scorer.precision]
    assert expected == pytest.approx(scorer.score(golden["rows"]).tolist(), rel=0, abs=TOLERANCE)


def test_rows_one_by_one_have_the_scores_that_were_written(scorer: Scorer, golden: dict) -> None:
    expected = golden["scores"][scorer.precision]
    assert expected == pytest.approx([scorer.score(row) for row in golden["rows"]], rel=0, abs=TOLERANCE)


def test_the_scores_that_were_written_tell_rows_and_networks_apart(golden: dict) -> None:
    scores = golden["scores"]
    assert len(golden["rows"]) == len({round(score, 4) for score in scores["fp32"]})
    assert scores["fp32"] != pytest.approx(scores["int8"], rel=0, abs=TOLERANCE)


def test_explanations_add_up_to_what_the_network_answers(scorer: Scorer, golden: dict) -> None:
    for row in golden["rows"]:
        explanation = scorer.explain(row)
        total = explanation.base + sum(contribution.total for contribution in explanation.contributions)
        assert scorer.logit(row) == pytest.approx(total, abs=1e-4)


def test_the_training_state_that_fine_tuning_needs_is_there(folder: Path, bundle: Bundle) -> None:
    from streamfm.export.weights import read_state

    state, layout = read_state(folder / "weights.safetensors"), bundle.manifest.layout
    shape = (layout.rows, layout.factors + 1)
    names = ("served.table", "raw.table", "moment1.table", "moment2.table")
    assert {name: shape for name in names} == {name: state[name].shape for name in names}
    assert (layout.rows,) == state["row_count"].shape == state["row_last_step"].shape
    assert 0 < state["step"][0]


def test_the_bundle_is_small(folder: Path) -> None:
    assert 200_000 >= sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_git_leaves_every_byte_alone(folder: Path) -> None:
    git = shutil.which("git")
    if git is None or not (DATA.parent.parent / ".git").exists():
        pytest.skip("not in a git checkout")
    names = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
    done = subprocess.run([git, "check-attr", "text", "--", *names], cwd=folder, capture_output=True, text=True)
    assert [f"{name}: text: unset" for name in names] == done.stdout.splitlines()
