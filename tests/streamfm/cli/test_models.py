"""`streamfm models`: what there is, where it comes from, and moving aliases."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from streamfm.registry import Registry
from streamfm.scoring import load


def test_list_names_every_model_with_its_aliases(folder: Path, streamfm) -> None:
    done = streamfm("models", "list")
    assert (0, "") == (done.code, done.err)
    assert "champion → 1" in done.out
    expected = [{"name": "ctr", "versions": [1, 2], "aliases": {"champion": 1}}]
    assert expected == json.loads(streamfm("models", "list", "models", "--json").out)


def test_list_compares_the_versions_of_a_model(folder: Path, streamfm) -> None:
    out = streamfm("models", "list", "models/ctr").out
    assert all(word in out for word in ("champion", "auc", "log_loss", "test", "validation"))
    found = json.loads(streamfm("models", "list", "models/ctr", "--json").out)
    assert [(1, ["champion"]), (2, [])] == [(one["version"], one["aliases"]) for one in found]


def test_an_empty_registry_has_no_models_and_none_at_all_is_an_error(folder: Path, streamfm) -> None:
    (folder / "empty").mkdir()
    assert (0, "", "empty: no models yet\n") == streamfm("models", "list", "empty")
    assert (0, "[]\n", "") == streamfm("models", "list", "empty", "--json")
    done = streamfm("models", "list", "none")
    said = "error: none: no such folder\nhint: name a registry; streamfm train DATA --out none/NAME makes one\n"
    assert (1, "", said) == done


def test_show_tells_window_settings_measures_and_proof(folder: Path, streamfm) -> None:
    out = streamfm("models", "show", "models/ctr@champion").out
    manifest = Registry("models").show("ctr", 1).manifest
    auc = manifest.metrics["test"]["measures"]["auc"]["value"]  # type: ignore[index,call-overload]
    for word in (
        "ctr, version 1, @champion",
        "trained anew",
        "2 factors, hidden 4",
        "2026-01-05",
        "batch_size",
        "measured on the test rows",
        f"{auc:.5f}",
        "proven against the trained model on 250 rows",
        "max_abs_diff",
        "torch 2.",
    ):
        assert word in out


def test_show_as_json_is_the_manifest_with_its_place(folder: Path, streamfm) -> None:
    found = json.loads(streamfm("models", "show", "models/ctr/2", "--json").out)
    manifest = json.loads((folder / "models" / "ctr" / "2" / "manifest.json").read_text())
    assert {"path": "models/ctr/2", "aliases": [], **manifest} == found


def test_show_tells_a_bundle_that_says_little_of_itself(small_bundle: Path, streamfm) -> None:
    done = streamfm("models", "show", small_bundle)
    assert (0, "") == (done.code, done.err)
    assert "ctr, not published" in done.out
    assert "0.75" in done.out


def test_promoting_and_rolling_back_move_the_alias(folder: Path, streamfm) -> None:
    assert (0, "models/ctr@champion → 2\n", "") == streamfm("models", "promote", "models/ctr/2")
    assert 2 == load("models/ctr@champion").version
    assert (0, "models/ctr@best → 2\n", "") == streamfm("models", "promote", "models/ctr@champion", "--alias", "best")
    assert (0, "models/ctr@champion → 1\n", "") == streamfm("models", "rollback", "models/ctr")
    assert {"best": 2, "champion": 1} == dict(Registry("models").model("ctr").aliases)


def test_a_bundle_is_published_moved_or_copied(folder: Path, small_bundle: Path, streamfm) -> None:
    done = streamfm("models", "publish", small_bundle, "other/clicks", "--copy")
    assert (0, "published as other/clicks/1, @champion\n", "") == done
    done = streamfm("models", "publish", small_bundle, "other/clicks", "--alias", "challenger")
    assert (0, "published as other/clicks/2, @challenger\n", "") == done
    assert not small_bundle.exists()
    assert (0, "published as models/ctr/3\n", "") == streamfm("models", "publish", "other/clicks/2", "models/ctr")
    assert {"challenger": 2, "champion": 1} == dict(Registry("other").model("clicks").aliases)


def test_lineage_is_followed_as_far_as_it_is_there(folder: Path, small_bundle: Path, reseal, streamfm) -> None:
    reseal(small_bundle, parent="ctr/2")
    streamfm("models", "publish", small_bundle, "models/ctr")
    reseal(folder / "models" / "ctr" / "2", digest=False, parent="ctr/9")
    assert "│ ctr/2 ← ctr/9 " in streamfm("models", "show", "models/ctr/3").out


def test_pruning_tells_what_it_spared_and_why(folder: Path, small_bundle: Path, streamfm) -> None:
    streamfm("models", "publish", small_bundle, "models/ctr")
    done = streamfm("models", "prune", "models/ctr", "--keep", "1")
    assert (0, "models/ctr: removed 2\nmodels/ctr/1 stays: is champion\n", "") == done


def test_verify_reads_everything_and_fails_when_something_is_broken(folder: Path, streamfm) -> None:
    done = streamfm("models", "verify")
    assert (0, 3, "") == (done.code, done.out.count(" ok "), done.err)
    path = folder / "models" / "ctr" / "2" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    done = streamfm("models", "verify", "models/ctr")
    assert 1 == done.code
    assert "models/ctr/2: model.onnx: " in done.out
    assert "error: 1 of 3 broken\nhint: roll back from them, or train anew\n" == done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "models/ctr/9"], "error: models/ctr: version 9 was never published\nhint: it has versions 1, 2\n"),
        (["show", "models/ctr@best"], "error: models/ctr: there is no alias 'best'\n"),
        (
            ["show", "models/ctr"],
            "error: models/ctr is a model, not one of its versions\nhint: write models/ctr@champion",
        ),
        (["show", "nowhere"], "error: nowhere"),
        (["promote", "models/ctr/9"], "error: models/ctr: version 9 was never published\n"),
        (["promote", "models/ctr/2", "--alias", "3"], "error: alias '3' is a number\n"),
        (["promote", "bundle"], "error: bundle: a bundle, not a version in a registry\nhint: streamfm models publish"),
        (["rollback", "models/ctr"], "error: "),
        (["rollback", "models/ctr/2"], "error: models/ctr/2: expected a model, got one of its versions\n"),
        (["rollback", "models/ctt"], "error: models: there is no model 'ctt'\n"),
        (["prune", "models"], "error: models: expected REGISTRY/NAME\nhint: such as models/ctr\n"),
        (["publish", "nowhere", "models/ctr"], "error: nowhere: no such folder\n"),
        (["publish", "models", "models/ctr"], "error: models"),
        (["verify", "nowhere"], "error: nowhere: no models there\n"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_done_is_told_and_changes_nothing(
    arguments: list[str], said: str, folder: Path, small_bundle: Path, streamfm
) -> None:
    shutil.copytree(small_bundle, folder / "bundle")
    before = Registry("models").list()
    done = streamfm("models", *arguments)
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith(said)
    assert 2 >= done.err.count("\n")
    assert before == Registry("models").list()
