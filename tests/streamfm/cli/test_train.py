"""`streamfm init`, `train` and `evaluate`, up to a published version."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from streamfm.cli.places import new_model
from streamfm.features import FeatureSpec
from streamfm.registry import Registry

SMALL = ("--factors", "2", "--hidden", "4", "--max-epochs", "1", "--batch-size", "256", "--threads", "1")


def left(folder: Path) -> set[str]:
    """What lies in a folder and the folders in it, hidden things too."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def test_init_writes_a_specification_and_says_how_to_go_on(folder: Path, streamfm) -> None:
    done = streamfm("init", "events.parquet", "--label", "clicked", "-o", "new spec.toml")
    assert (0, "") == (done.code, done.out)
    assert "clicked" == FeatureSpec.load("new spec.toml").label
    assert "streamfm train events.parquet --features 'new spec.toml' --out models/NAME" in done.err


def test_init_prints_what_it_would_write(folder: Path, streamfm) -> None:
    before = left(folder)
    done = streamfm("init", "events.parquet", "tomorrow.parquet", "--label", "clicked", "-o", "-")
    assert (0, "") == (done.code, done.err)
    assert "clicked" == FeatureSpec.from_toml(done.out).label
    assert "events.parquet and 1 more, 3,000 rows" in done.out
    assert before == left(folder)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (
            "features.toml",
            "error: features.toml: is there already\nhint: --force writes over it, -o names another file\n",
        ),
        ("nowhere/x.toml", "error: nowhere/x.toml: there is no folder nowhere\nhint: make it first\n"),
        ("models", "error: models: is a folder\nhint: -o models/features.toml\n"),
    ],
)
def test_init_refuses_a_place_before_it_looks_at_the_data(target: str, said: str, folder: Path, streamfm) -> None:
    before = (folder / "features.toml").read_bytes()
    assert (1, "", said) == streamfm("init", "no such file.parquet", "--label", "clicked", "-o", target)
    assert before == (folder / "features.toml").read_bytes()


def test_init_writes_over_a_file_when_told_to(folder: Path, streamfm) -> None:
    (folder / "features.toml").write_text("not TOML")
    assert 0 == streamfm("init", "events.parquet", "--label", "clicked", "--force").code
    assert "clicked" == FeatureSpec.load("features.toml").label


def test_the_first_version_becomes_the_champion_and_no_later_one_by_itself(finished: Path) -> None:
    model = Registry(finished / "models").model("ctr")
    assert ((1, 2), {"champion": 1}) == (model.versions, dict(model.aliases))


def test_training_leaves_nothing_but_the_version(finished: Path) -> None:
    assert {"events.parquet", "features.toml", "models", "tomorrow.parquet"} == {
        path.name for path in finished.iterdir()
    }
    assert ["ctr"] == [path.name for path in (finished / "models").iterdir()]


def test_train_prints_json_alone_and_plain_lines_beside_it(folder: Path, streamfm) -> None:
    done = streamfm(
        "train", "events.parquet", "--out", "models/ctr/", "--valid", "tomorrow.parquet", "--promote", "--json",
        "--l2", "0.5", "--l2-deep", "0.25", *SMALL, "--epochs", "2", "--no-int8",
    )  # fmt: skip
    assert 0 == done.code
    made = json.loads(done.out)
    assert ("models/ctr/3", 3, ["champion"]) == (made["reference"], made["version"], made["aliases"])
    assert 500 == made["metrics"]["validation"]["rows"]
    assert "int8" not in made["parity"]
    lines = done.err.splitlines()
    assert ["epoch   1", "epoch   2"] == [line[:9] for line in lines if line.startswith("epoch")]
    assert "counting, 2,500 rows" == lines[0]
    manifest = Registry("models").show("ctr", 3).manifest
    settings = manifest.training["report"]["settings"]  # type: ignore[index,call-overload]
    assert (0.5, 0.5, 0.25, 2) == tuple(settings[n] for n in ("l2_factors", "l2_first_order", "l2_deep", "max_epochs"))


def test_train_prints_tables_and_what_to_do_next(folder: Path, streamfm) -> None:
    done = streamfm("train", "events.parquet", "--out", "models/ctr", "--test", "tomorrow.parquet", *SMALL)
    assert 0 == done.code
    assert "validation rows\n" in done.out
    assert "test rows\n" in done.out
    assert "published as models/ctr/3\n" in done.out
    assert done.err.endswith("streamfm models promote models/ctr/3   # makes it the champion\n")


def test_a_bundle_that_cannot_be_published_is_kept_and_can_be_published_later(folder: Path, streamfm) -> None:
    leases = folder / "models" / "ctr" / "leases"
    shutil.rmtree(leases)
    leases.touch()
    done = streamfm("train", "events.parquet", "--out", "models/ctr", *SMALL)
    assert 1 == done.code
    (bundle,) = (folder / "models").glob("ctr-unpublished-*")
    kept = bundle.relative_to(folder)
    assert f"the trained bundle is kept as {kept}." in done.err
    assert f"  streamfm models publish {kept} models/ctr\n" in done.err
    assert "error: models: cannot be changed: " in done.err
    assert "Traceback" not in done.err

    leases.unlink()
    done = streamfm("models", "publish", kept, "models/ctr")
    assert (0, "published as models/ctr/3\n", "") == done
    assert not bundle.exists()
    assert 0 == streamfm("models", "verify").code


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("ctr", "error: ctr: expected REGISTRY/NAME\nhint: such as models/ctr\n"),
        ("models/ctr/1", "error: models/ctr/1: expected a model, got one of its versions\nhint: write models/ctr\n"),
        ("models/c t", "error: 'c t' cannot be the name of a model\nhint: names have letters"),
        ("models/ctr@best", "error: 'ctr@best' cannot be the name of a model\nhint: names have letters"),
        ("features.toml/ctr", "error: features.toml/ctr: features.toml is no folder\nhint: a registry is a folder"),
        ("models/other", "error: models/other: is there, and is no model\nhint: choose another name or registry\n"),
    ],
)
def test_a_place_that_cannot_be_published_to_is_refused_before_training(
    out: str, said: str, folder: Path, streamfm
) -> None:
    (folder / "models" / "other").mkdir()
    (folder / "models" / "other" / "file").touch()
    before = left(folder)
    done = streamfm("train", "events.parquet", "--out", out, *SMALL)
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith(said)
    assert before == left(folder)


def test_rows_to_test_on_are_refused_before_training(folder: Path, streamfm) -> None:
    done = streamfm("train", "events.parquet", "--out", "new/ctr", "--test", "tomorow.parquet", *SMALL)
    assert (1, "", "error: tomorow.parquet: no such file\nhint: did you mean 'tomorrow.parquet'?\n") == done
    assert not (folder / "new").exists()


def test_rows_to_test_on_that_lack_a_column_are_refused_before_the_first_epoch(folder: Path, streamfm) -> None:
    Path("test.csv").write_text("user_id,clicked\nu1,1\n")
    done = streamfm("train", "events.parquet", "--out", "new/ctr", "--test", "test.csv", *SMALL)
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("error: test.csv: column ")
    assert "epoch" not in done.err
    assert not (folder / "new").exists()


def test_evaluate_prints_tables(folder: Path, streamfm) -> None:
    done = streamfm("evaluate", "models/ctr@champion", "tomorrow.parquet")
    assert 0 == done.code
    assert done.out.startswith("models/ctr@champion on tomorrow.parquet\n")
    for word in (
        "auc",
        "log_loss",
        "calibration by decile of the prediction",
        "of these unknown",
        "installed_categories",
    ):
        assert word in done.out


def test_evaluate_prints_json_that_agrees_with_the_manifest(folder: Path, streamfm) -> None:
    done = streamfm("evaluate", "models/ctr/1", "tomorrow.parquet", "--json", "--threads", "2")
    found = json.loads(done.out)
    manifest = Registry("models").show("ctr", 1).manifest
    expected = manifest.metrics["test"]["measures"]["auc"]["value"]  # type: ignore[index,call-overload]
    assert expected == pytest.approx(found["measures"]["auc"]["value"], abs=1e-3)
    assert {"name", "coverage", "unknown_rate"} == set(found["features"][0])


def test_evaluate_asks_the_quantised_network_when_told_to(folder: Path, streamfm) -> None:
    values = [
        json.loads(streamfm("evaluate", "models/ctr/1", "tomorrow.parquet", "--json", *extra).out)["mean_prediction"]
        for extra in ([], ["--precision", "int8"])
    ]
    assert values[0] != values[1]
    assert values[0] == pytest.approx(values[1], abs=0.02)


def test_a_model_that_another_command_is_making_just_now_may_be_published_to(tmp_path: Path) -> None:
    (tmp_path / "models" / "ctr" / "leases").mkdir(parents=True)
    assert "ctr" == new_model(f"{tmp_path}/models/ctr")[1]
