"""Bundles: what is written is what is read, all of it or nothing."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.bundle import (
    FORMAT_VERSION,
    BundleWriter,
    FileEntry,
    LayoutFacts,
    Manifest,
    open_bundle,
    read_manifest,
    stamp,
)
from streamfm.errors import BundleError

MANIFEST = Manifest(
    name="ctr",
    created_at="2026-01-31T12:00:00+00:00",
    spec_fingerprint="f9c2",
    task="binary",
    layout=LayoutFacts(slots=2, rows=7, factors=4, hidden=(8, 3), weighted=True),
    metrics={"auc": 0.75, "by_hour": [None, 1, "é"]},
    libraries={"streamfm": "0.1.0"},
    files={"model.onnx": FileEntry(sha256="ab" * 32, size=17)},
)

GOLDEN = """\
{
  "checksum": "b3142b74d4b53b2700ca7be9a6ac9fbf2ba239c89cfa2bd7f3aba868560aabe2",
  "created_at": "2026-01-31T12:00:00+00:00",
  "files": {
    "model.onnx": {
      "sha256": "abababababababababababababababababababababababababababababababab",
      "size": 17
    }
  },
  "format_version": 1,
  "layout": {
    "factors": 4,
    "hidden": [
      8,
      3
    ],
    "rows": 7,
    "slots": 2,
    "weighted": true
  },
  "libraries": {
    "streamfm": "0.1.0"
  },
  "metrics": {
    "auc": 0.75,
    "by_hour": [
      null,
      1,
      "é"
    ]
  },
  "name": "ctr",
  "parent": null,
  "parity": {},
  "spec_fingerprint": "f9c2",
  "task": "binary",
  "training": {},
  "version": null
}
"""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

Reseal = Callable[..., None]


def copy_files(source: Path, writer: BundleWriter) -> None:
    for path in source.rglob("*"):
        if path.is_file() and path.name != "manifest.json":
            shutil.copyfile(path, writer.path(path.relative_to(source).as_posix()))


def write_copy(source: Path, target: Path, change: Callable[[BundleWriter], object] = bool) -> Manifest:
    """Write the bundle again, changed before it is committed."""
    with BundleWriter(target) as writer:
        copy_files(source, writer)
        change(writer)
        return writer.commit(read_manifest(source))


def run_until(line: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    """A child process that has printed this line."""
    command = [sys.executable, "-c", textwrap.dedent(code), *arguments]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert f"{line}\n" == child.stdout.readline()
    return child


# The manifest


def test_the_manifest_has_always_the_same_bytes() -> None:
    assert GOLDEN.encode() == MANIFEST.to_bytes()


def test_the_manifest_says_what_was_put_into_it() -> None:
    read = Manifest.from_bytes(MANIFEST.to_bytes())
    assert replace(MANIFEST, metrics={}) == replace(read, metrics={})
    assert {"auc": 0.75, "by_hour": [None, 1, "é"]} == read.metrics


@given(st.dictionaries(st.text(), JSON, max_size=4), st.none() | st.text(), st.none() | st.integers(1, 2**63 - 1))
def test_any_json_survives_the_manifest(metrics: dict[str, Any], parent: str | None, version: int | None) -> None:
    manifest = replace(MANIFEST, metrics=metrics, parent=parent, version=version)
    assert manifest == replace(Manifest.from_bytes(manifest.to_bytes()), metrics=metrics)
    assert manifest.to_bytes() == Manifest.from_bytes(manifest.to_bytes()).to_bytes()


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"auc": float("nan")}, "metrics.auc"),
        ({"windows": [{"loss": float("inf")}]}, r"metrics.windows\[0\].loss"),
        ({"auc": np.float32(0.5)}, r"metrics.auc.*float32"),
        ({"when": b"bytes"}, "metrics.when"),
        ({3: 0.5}, "metrics.3"),
        ({"text": "\ud800"}, "metrics.text"),
    ],
)
def test_what_json_cannot_hold_is_named(metrics: dict[str, Any], named: str) -> None:
    with pytest.raises(BundleError, match=f"manifest.json: key {named}"):
        replace(MANIFEST, metrics=metrics).to_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": ...}, "key task is missing"),
        ({"layout": {"slots": 2}}, "key layout.rows is missing"),
        ({"author": "me"}, "unknown key author"),
        ({"metrcis": {}}, "unknown key metrcis"),
        ({"name": 3}, "key name: expected a text, got 3"),
        ({"version": "3"}, "key version: expected a whole number, got '3'"),
        ({"version": 0}, "key version: expected a whole number from 1, got 0"),
        ({"version": True}, "key version: expected a whole number, got True"),
        ({"metrics": []}, "key metrics: expected an object"),
        ({"libraries": {"numpy": 2}}, "key libraries.numpy: expected a text"),
        ({"created_at": "yesterday"}, "key created_at: expected a time"),
        ({"created_at": "2026-01-31T12:00:00"}, "key created_at: expected a time with an offset"),
        ({"task": "ranking"}, "key task: expected binary or regression"),
        ({"format_version": "1"}, "key format_version: expected a whole number"),
        ({"format_version": 0}, "format 0 never existed"),
        ({"layout": {"slots": 0, "rows": 1, "factors": 1, "hidden": [], "weighted": False}}, "key layout.slots"),
        ({"layout": {"slots": 1, "rows": 1, "factors": 1, "hidden": [0], "weighted": False}}, "key layout.hidden"),
        ({"layout": {"slots": 1, "rows": 1, "factors": 1, "hidden": [], "weighted": 1}}, "key layout.weighted"),
        ({"layout": {"slots": 1 << 63, "rows": 1, "factors": 1, "hidden": [], "weighted": True}}, "key layout.slots"),
        ({"files": {"model.onnx": {"sha256": "AB" * 32, "size": 1}}}, "key files.model.onnx.sha256"),
        ({"files": {"model.onnx": {"sha256": "ab" * 32, "size": -1}}}, "key files.model.onnx.size"),
    ],
)
def test_a_wrong_key_is_named(small_bundle: Path, reseal: Reseal, change: dict[str, Any], message: str) -> None:
    reseal(small_bundle, digest=False, **change)
    with pytest.raises(BundleError) as caught:
        open_bundle(small_bundle)
    assert f"{small_bundle}: manifest.json: {message}" in str(caught.value)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b"\xff\xfe", b"nul", b"[" * 100_000, b'{"a": 1, "a": 2}', b'{"a": NaN}', b"1" * 5000]
)
def test_a_manifest_that_is_no_json_object_is_refused(small_bundle: Path, data: bytes) -> None:
    (small_bundle / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(small_bundle)


def test_an_unknown_key_is_answered_with_the_one_that_was_meant(small_bundle: Path, reseal: Reseal) -> None:
    reseal(small_bundle, metrcis={})
    with pytest.raises(BundleError, match="did you mean metrics"):
        open_bundle(small_bundle)


def test_a_newer_format_says_which_streamfm_it_needs(small_bundle: Path, reseal: Reseal) -> None:
    reseal(small_bundle, format_version=FORMAT_VERSION + 1, libraries={"streamfm": "7.1.0"}, layout=..., wings=2)
    with pytest.raises(BundleError, match=r"manifest.json: the bundle has format 2.*\n.*streamfm 7\.1\.0"):
        open_bundle(small_bundle)
    reseal(small_bundle, libraries=...)
    with pytest.raises(BundleError, match="a newer streamfm"):
        open_bundle(small_bundle)


# Reading


def test_a_bundle_opens_with_what_was_written(pristine_bundle: Path) -> None:
    bundle = open_bundle(pristine_bundle)
    files = {path.relative_to(pristine_bundle).as_posix() for path in pristine_bundle.rglob("*") if path.is_file()}
    assert files - {"manifest.json"} == set(bundle.manifest.files)
    assert ["user", "price"] == [feature.name for feature in bundle.spec.features]
    assert ["user", "price"] == list(bundle.vocabularies.tables)
    assert ("ctr", None, 7) == (bundle.manifest.name, bundle.manifest.version, bundle.manifest.layout.rows)


def test_the_bytes_handed_out_are_those_that_were_verified(small_bundle: Path) -> None:
    for verify in (True, False):
        bundle = open_bundle(small_bundle, verify=verify)
        data = (small_bundle / "model.onnx").read_bytes()
        assert data == bundle.read("model.onnx")
        (small_bundle / "model.onnx").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        with pytest.raises(BundleError, match=r"model\.onnx: sha256"):
            bundle.read("model.onnx")
        (small_bundle / "model.onnx").write_bytes(data)


def test_a_file_that_the_bundle_does_not_have_is_answered_with_those_it_has(pristine_bundle: Path) -> None:
    with pytest.raises(
        BundleError, match=r"model\.int4\.onnx: the bundle has no such file\nhint: it has features\.toml"
    ):
        open_bundle(pristine_bundle).read("model.int4.onnx")


def test_a_bundle_may_be_reached_through_a_link(pristine_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(pristine_bundle)
    assert "ctr" == open_bundle(tmp_path / "link").manifest.name


@pytest.mark.parametrize(("name", "message"), [("nowhere", "no such folder"), (".", r"there is no manifest\.json")])
def test_what_is_no_bundle_is_called_so(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(BundleError, match=message):
        open_bundle(tmp_path / name)


def test_all_missing_files_are_named_at_once(small_bundle: Path) -> None:
    (small_bundle / "model.onnx").unlink()
    (small_bundle / "features.toml").unlink()
    with pytest.raises(BundleError, match=r"features\.toml, model\.onnx: missing"):
        open_bundle(small_bundle)


def test_a_file_that_is_listed_nowhere_is_refused(small_bundle: Path) -> None:
    (small_bundle / "vocabulary" / "notes.txt").write_text("")
    with pytest.raises(BundleError, match=r"vocabulary/notes\.txt: not a file of this bundle"):
        open_bundle(small_bundle)


def test_a_bundle_needs_its_files_even_when_the_manifest_does_not_say_so(small_bundle: Path, reseal: Reseal) -> None:
    (small_bundle / "weights.safetensors").unlink()
    reseal(small_bundle)
    with pytest.raises(BundleError, match=r"weights\.safetensors: missing"):
        open_bundle(small_bundle)


def test_a_spec_of_another_model_is_refused(small_bundle: Path, reseal: Reseal) -> None:
    reseal(small_bundle, spec_fingerprint="0" * 64)
    with pytest.raises(BundleError, match=r"features\.toml: its fingerprint is"):
        open_bundle(small_bundle)


def test_a_vocabulary_of_another_model_is_refused(small_bundle: Path, reseal: Reseal) -> None:
    layout = json.loads((small_bundle / "manifest.json").read_text())["layout"]
    reseal(small_bundle, layout=layout | {"rows": 8})
    with pytest.raises(BundleError, match="vocabulary: gives 2 slots, 7 rows"):
        open_bundle(small_bundle)


def test_a_network_with_other_inputs_is_refused(small_bundle: Path, reseal: Reseal) -> None:
    layout = json.loads((small_bundle / "manifest.json").read_text())["layout"]
    reseal(small_bundle, layout=layout | {"weighted": False})
    with pytest.raises(
        BundleError, match=r"model\.int8\.onnx: takes ids, weights and gives logit, score, expected ids"
    ):
        open_bundle(small_bundle)


def test_opening_imports_no_trainer_and_no_database(pristine_bundle: Path) -> None:
    code = "import sys; from streamfm.bundle import open_bundle; open_bundle(sys.argv[1])"
    check = "; print(*sorted({'torch', 'onnx', 'duckdb', 'pickle5'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code + check, str(pristine_bundle)], capture_output=True, text=True)
    assert (0, "\n", "") == (done.returncode, done.stdout, done.stderr)


# Writing


def test_a_committed_bundle_is_there_and_nothing_else(pristine_bundle: Path, tmp_path: Path) -> None:
    def look(writer: BundleWriter) -> None:
        assert [] == [path.name for path in tmp_path.iterdir() if not path.name.startswith(".")]

    manifest = write_copy(pristine_bundle, tmp_path / "new", look)
    assert ["new"] == [path.name for path in tmp_path.iterdir()]
    assert manifest == open_bundle(tmp_path / "new").manifest == read_manifest(pristine_bundle)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), None])
def test_a_block_that_does_not_commit_leaves_nothing(tmp_path: Path, error: BaseException | None) -> None:
    def write() -> None:
        with BundleWriter(tmp_path / "new") as writer:
            writer.path("vocabulary/0.slots.npy").write_bytes(b"half")
            if error is not None:
                raise error

    if error is None:
        write()
    else:
        with pytest.raises(type(error)):
            write()
    assert [] == list(tmp_path.iterdir())


def test_a_bundle_is_never_written_over(small_bundle: Path, pristine_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is there already"):
        BundleWriter(small_bundle)
    with pytest.raises(BundleError, match="is there already"):
        write_copy(pristine_bundle, tmp_path / "new", lambda _: write_copy(pristine_bundle, tmp_path / "new"))
    assert "ctr" == open_bundle(tmp_path / "new").manifest.name
    assert ["bundle", "new"] == sorted(path.name for path in tmp_path.iterdir())


def test_a_bundle_needs_a_folder_to_be_in(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no folder"):
        BundleWriter(tmp_path / "absent" / "new")


@pytest.mark.parametrize(
    "name", ["../evil.onnx", "/evil.onnx", "a\\b.onnx", "a//b.onnx", "", ".hidden", "manifest.json"]
)
def test_a_name_that_leaves_the_bundle_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match="is no name for a file"), BundleWriter(tmp_path / "new") as writer:
        writer.path(name)


@pytest.mark.parametrize("name", ["model.pkl", "weights.pt", "lib.so", "run.py"])
def test_a_kind_of_file_that_a_bundle_never_holds_is_refused(pristine_bundle: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(BundleError, match=f"{name}.*not of a kind"):
        write_copy(pristine_bundle, tmp_path / "new", lambda writer: writer.path(name).write_bytes(b""))
    assert [] == list(tmp_path.iterdir())


def test_what_could_not_be_opened_is_not_committed(pristine_bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"new: model\.onnx: not an ONNX model"):
        write_copy(pristine_bundle, tmp_path / "new", lambda writer: writer.path("model.onnx").write_bytes(b"\0\1"))
    assert [] == list(tmp_path.iterdir())


def test_stamping_changes_the_manifest_only(small_bundle: Path, pristine_bundle: Path) -> None:
    stamp(small_bundle, name="app", version=12)
    assert replace(read_manifest(pristine_bundle), name="app", version=12) == open_bundle(small_bundle).manifest


WRITE_FOREVER = """
    import sys
    from streamfm.bundle import BundleWriter
    with BundleWriter(sys.argv[1]) as writer:
        writer.path("features.toml").write_text("half")
        print("writing", flush=True)
        while True:
            writer.path("model.onnx").write_bytes(b"half")
"""


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    child = run_until("writing", WRITE_FOREVER, str(tmp_path / "new"))
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert [] == list(tmp_path.iterdir())


def test_a_killed_writer_leaves_no_bundle(tmp_path: Path) -> None:
    child = run_until("writing", WRITE_FOREVER, str(tmp_path / "new"))
    child.kill()
    child.communicate(timeout=60)
    left = [path.name for path in tmp_path.iterdir()]
    assert [True] == [name.startswith(".new.") and name.endswith(".partial") for name in left]
    with pytest.raises(BundleError, match=r"there is no manifest\.json"):
        open_bundle(tmp_path / left[0])


# A full disk


def test_a_file_over_the_limit_names_itself(pristine_bundle: Path, tmp_path: Path) -> None:
    # The limit holds for a whole process, so one of its own meets it.
    code = f"""
        import resource, shutil, signal, sys
        from pathlib import Path
        from streamfm.bundle import BundleWriter
        from streamfm.errors import BundleError
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            with BundleWriter(sys.argv[1]) as writer:
                writer.path("features.toml").write_text("fits")
                writer.path("model.onnx").write_bytes(bytes(20_000))
        except BundleError as error:
            print(error.__cause__.errno == {errno.EFBIG}, error)
    """
    assert resource.RLIM_INFINITY == resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "new")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"True {tmp_path / 'new'}: model.onnx: the disk is full" in done.stdout
    assert [] == list(tmp_path.iterdir())


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes; the test is skipped where none can be mounted."""
    mount = shutil.which("mount")
    if os.name != "posix" or mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    folder.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.decode()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def fill(writer: BundleWriter) -> None:
    for index in range(64):
        writer.path(f"vocabulary/{index}.slots.npy").write_bytes(bytes(4096))


def save_tensors(writer: BundleWriter) -> None:
    from safetensors.numpy import save_file

    save_file({"table": np.zeros(1 << 20, np.float32)}, writer.path("weights.safetensors"))


def save_array(writer: BundleWriter) -> None:
    np.save(writer.path("vocabulary/0.slots.npy"), np.zeros(1 << 17))


def copy_folder(writer: BundleWriter) -> None:
    source = writer.target.parent.parent / "large"
    source.mkdir()
    (source / "values.arrow").write_bytes(bytes(1 << 20))
    shutil.copytree(source, writer.path("vocabulary"))


@pytest.mark.parametrize(
    ("write", "named"),
    [
        (fill, r"vocabulary/\d+\.slots\.npy"),
        (save_tensors, r"weights\.safetensors"),
        (save_array, r"vocabulary/0\.slots\.npy"),
        (copy_folder, "vocabulary"),
    ],
)
def test_a_full_disk_leaves_nothing_and_names_the_file(
    tmp_path: Path, write: Callable[[BundleWriter], None], named: str
) -> None:
    with small_disk(tmp_path / "disk", 128 << 10) as disk:
        with (
            pytest.raises(BundleError, match=f"new: {named}: the disk is full") as caught,
            BundleWriter(disk / "new") as w,
        ):
            write(w)
        assert caught.value.__cause__ is not None
        assert [] == list(disk.iterdir())


def test_a_disk_that_is_full_for_the_manifest_leaves_nothing(pristine_bundle: Path, tmp_path: Path) -> None:
    def fill_up(writer: BundleWriter) -> None:
        with suppress(OSError), (writer.target.parent / "ballast").open("wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))

    with small_disk(tmp_path / "disk", 128 << 10) as disk:
        with pytest.raises(BundleError, match=r"manifest\.json: the disk is full"):
            write_copy(pristine_bundle, disk / "new", fill_up)
        assert ["ballast"] == [path.name for path in disk.iterdir()]
