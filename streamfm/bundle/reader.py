"""Opening a bundle: nothing in it is believed before it was checked."""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from streamfm import files
from streamfm.bundle.manifest import MANIFEST_LIMIT, MANIFEST_NAME, FileEntry, Manifest
from streamfm.bundle.onnx_check import OnnxFacts, check_onnx
from streamfm.bundle.tensor_check import check_npy, check_safetensors
from streamfm.encoder import Encoder
from streamfm.encoder.vocabulary import Vocabularies
from streamfm.errors import BundleError
from streamfm.features import FeatureSpec

REQUIRED_FILES: Final = ("features.toml", "model.onnx", "vocabulary/tables.json", "weights.safetensors")
_CHANGED = "the file is not the one that was written; copy the bundle again, or roll back to another version"


@dataclass(frozen=True, kw_only=True, eq=False)
class Bundle:
    """A model on the disk, checked. Immutable.

    Attributes:
        path: Its folder.
        manifest: What manifest.json says.
        spec: The features.
        vocabularies: What training saw, memory-mapped.
    """

    path: Path
    manifest: Manifest
    spec: FeatureSpec
    vocabularies: Vocabularies

    def read(self, name: str) -> bytes:
        """The bytes of a file, the very ones that were compared with the manifest.

        Raises:
            BundleError: The bundle has no such file, or the file was changed since.
        """
        with _naming(name, folder=self.path):
            if name not in self.manifest.files:
                have = ", ".join(self.manifest.files)
                raise BundleError(f"{name}: the bundle has no such file", hint=f"it has {have}")
            return _read_listed(self.path, name, self.manifest.files[name])


def open_bundle(path: str | Path, *, verify: bool = True) -> Bundle:
    """The bundle in a folder, refused unless every file is what its manifest says.

    Args:
        path: The folder; it may be reached through a link, but nothing in it may be one.
        verify: Whether to digest the large files. Names, sizes and what the files declare are checked in any case, and
            `Bundle.read` compares what it reads. Without, for a bundle that this process wrote or opened before.

    Raises:
        BundleError: No bundle, a newer format, a file that is missing, added, changed, cut off, a link or hostile;
            names the file.
    """
    folder = Path(path)
    manifest = check_files(folder, verify=verify)
    with _naming("features.toml", folder=folder):
        text = _read_listed(folder, "features.toml", manifest.files["features.toml"]).decode()
        spec = FeatureSpec.from_toml(text, source="features.toml")
        if spec.fingerprint != manifest.spec_fingerprint:
            raise BundleError(
                f"features.toml: its fingerprint is {spec.fingerprint}, the manifest says {manifest.spec_fingerprint}",
                hint="features.toml and manifest.json are of different models",
            )
    with _naming("vocabulary", folder=folder):
        vocabularies = Vocabularies.load(folder / "vocabulary")
        _check_layout(manifest, spec, vocabularies)
    return Bundle(path=folder, manifest=manifest, spec=spec, vocabularies=vocabularies)


def check_files(folder: Path, *, verify: bool = True) -> Manifest:
    """The manifest of a folder whose files are all there, no others, each what the manifest and its kind demand.

    Raises:
        BundleError: As `open_bundle`; the specification and the vocabularies are not read.
    """
    with _naming(MANIFEST_NAME, folder=folder):
        manifest = read_manifest(folder)
        _check_names(folder, manifest.files)
    for name, entry in manifest.files.items():
        with _naming(name, folder=folder):
            if verify:
                _compare(name, entry, *files.digest_plain(folder / name))
            facts = _check_content(folder, name)
            if facts is not None:
                _check_interface(name, facts, weighted=manifest.layout.weighted)
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle, without a look at its other files.

    Raises:
        BundleError: There is none, or it cannot be read.
    """
    path = folder / MANIFEST_NAME
    if not folder.is_dir():
        raise BundleError(f"{folder}: there is no such folder", hint="a bundle is a folder with a manifest.json in it")
    if not os.path.lexists(path):
        raise BundleError(f"{folder}: no bundle: there is no {MANIFEST_NAME} in it", hint="name the bundle's folder")
    with _naming(MANIFEST_NAME, folder=folder):
        return Manifest.from_bytes(files.read_plain(path, limit=MANIFEST_LIMIT))


def listed_files(folder: Path) -> dict[str, int]:
    """Size in bytes of every file below a folder but the manifest, by path with forward slashes.

    Raises:
        BundleError: Something in it is neither a file nor a folder, or a folder is empty; names it.
    """
    sizes: dict[str, int] = {}
    for place, folders, names in os.walk(folder, onerror=_fail):
        here = Path(place)
        for name in [*folders, *names]:
            _check_kind(here / name, folder)
        if not folders and not names and here != folder:
            raise BundleError(f"{_relative(here, folder)}: an empty folder", hint="remove it")
        for name in names:
            sizes[_relative(here / name, folder)] = (here / name).lstat().st_size
    sizes.pop(MANIFEST_NAME, None)
    return sizes


def _check_content(folder: Path, name: str) -> OnnxFacts | None:
    """Refuse a file that what reads files of its kind should not be given; facts of an ONNX file."""
    path = folder / name
    if name.endswith(".npy"):
        check_npy(path, file=name)
    elif name.endswith(".safetensors"):
        check_safetensors(path, file=name)
    elif name.endswith(".onnx"):
        return check_onnx(_mapped(path), file=name)
    return None


def _check_kind(path: Path, folder: Path) -> None:
    kind = "a symbolic link" if path.is_symlink() else "" if path.is_file() or path.is_dir() else "not a plain file"
    if kind:
        raise BundleError(
            f"{_relative(path, folder)}: is {kind}", hint="a bundle holds plain files only; do not use it"
        )


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _check_names(folder: Path, entries: Mapping[str, FileEntry]) -> None:
    """Compare the files that are there with those that should be: all differences in one message."""
    sizes = listed_files(folder)
    missing = sorted({*entries, *REQUIRED_FILES} - sizes.keys())
    if missing:
        raise BundleError(f"{', '.join(missing)}: missing", hint="the bundle is incomplete; copy it again")
    unlisted = sorted(sizes.keys() - entries.keys())
    if unlisted:
        names = ", ".join(ascii(name)[1:-1] for name in unlisted)
        raise BundleError(f"{names}: not a file of this bundle: {MANIFEST_NAME} does not list it", hint="move it away")
    for name, entry in entries.items():
        if sizes[name] != entry.size:
            raise BundleError(f"{name}: {sizes[name]:,} bytes, {MANIFEST_NAME} says {entry.size:,}", hint=_CHANGED)


def _compare(name: str, entry: FileEntry, sha256: str, size: int) -> None:
    if (sha256, size) != (entry.sha256, entry.size):
        raise BundleError(
            f"{name}: sha256 {sha256[:12]}… of {size:,} bytes, "
            f"{MANIFEST_NAME} says {entry.sha256[:12]}… of {entry.size:,}",
            hint=_CHANGED,
        )


def _read_listed(folder: Path, name: str, entry: FileEntry) -> bytes:
    data = files.read_plain(folder / name, limit=entry.size)
    _compare(name, entry, hashlib.sha256(data).hexdigest(), len(data))
    return data


def _check_interface(name: str, facts: OnnxFacts, *, weighted: bool) -> None:
    """Check that the network asks for what the encoder gives, and answers what the scorer hands out."""
    expected = ("ids", "weights") if weighted else ("ids",)
    if sorted(facts.inputs) != sorted(expected) or sorted(facts.outputs) != ["logit", "score"]:
        raise BundleError(
            f"{name}: takes {', '.join(facts.inputs)} and gives {', '.join(facts.outputs)}, "
            f"expected {', '.join(expected)} and logit, score"
        )


def _check_layout(manifest: Manifest, spec: FeatureSpec, vocabularies: Vocabularies) -> None:
    layout, facts = Encoder(spec, vocabularies).layout, manifest.layout
    found = (layout.slots, layout.rows, layout.weighted)
    if found != (facts.slots, facts.rows, facts.weighted):
        raise BundleError(
            f"vocabulary: gives {layout.slots} slots, {layout.rows:,} rows, weighted {layout.weighted}; "
            f"{MANIFEST_NAME} says {facts.slots} slots, {facts.rows:,} rows, weighted {facts.weighted}",
            hint="vocabulary and manifest are of different models",
        )


def _mapped(path: Path) -> bytes | memoryview:
    """A file's bytes without reading them all; the mapping ends with the last view of it."""
    with os.fdopen(files.open_plain(path), "rb") as opened:
        if os.fstat(opened.fileno()).st_size == 0:
            return b""
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _fail(error: OSError) -> None:
    raise error


@contextmanager
def _naming(name: str, *, folder: Path) -> Iterator[None]:
    """Make a BundleError that names folder and file of whatever goes wrong in the block."""
    try:
        yield
    except BundleError as error:
        message = error.message.removeprefix(f"{folder}/").removeprefix(f"{folder}: ")
        raise BundleError(f"{folder}: {message}", hint=error.hint) from error
    except OSError as error:
        raise BundleError(f"{folder}: {name}: cannot be read: {error}") from error
    # A hostile file can make its reader raise anything; whatever it is, the bundle is refused by the file's name.
    except Exception as error:
        raise BundleError(f"{folder}: {name}: {type(error).__name__}: {error}", hint=_CHANGED) from error
