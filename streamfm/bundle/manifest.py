"""manifest.json: what a bundle is, and the size and sha256 of every file in it."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from streamfm.bundle.json_keys import Json, Keys
from streamfm.errors import BundleError

FORMAT_VERSION = 1
MANIFEST_NAME = "manifest.json"
MANIFEST_LIMIT = 16 << 20

_UNSIGNED = "0" * 64
_CHECKSUM = re.compile(rb'^  "checksum": "([0-9a-f]{64})"', re.MULTILINE)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME_PART = re.compile(r"[^\x00-\x1f\x7f\\/:*?\"<>|\ud800-\udfff]+")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_SUFFIXES = (".toml", ".npy", ".arrow", ".onnx", ".safetensors", ".json")


@dataclass(frozen=True, kw_only=True, slots=True)
class FileEntry:
    """One file of a bundle.

    Attributes:
        sha256: Its digest, 64 hexadecimal digits.
        size: Its bytes.
    """

    sha256: str
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutFacts:
    """The numbers that encoder, network and ONNX model must agree on.

    Attributes:
        slots: S, the width of `ids`.
        rows: Rows of the fused embedding table.
        factors: K, the embedding's length.
        hidden: Width of each hidden layer.
        weighted: Whether the model has an input `weights`.
    """

    slots: int
    rows: int
    factors: int
    hidden: tuple[int, ...]
    weighted: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What manifest.json says.

    Attributes:
        format_version: Of the bundle's layout; a reader refuses a newer one.
        name: The model's name; the registry sets it when it publishes.
        version: The registry's number; None until published.
        parent: The version that this one was trained on from, `ctr/3`; None for a first one.
        created_at: ISO 8601 with an offset from UTC.
        spec_fingerprint: Of features.toml.
        task: `binary` or `regression`.
        layout: What encoder and network agree on.
        metrics: The evaluation, by name.
        parity: How far the ONNX models answered from the trained one.
        training: Settings, data window, log offsets.
        libraries: Version by library; `streamfm` is among them.
        files: Every other file, by its path with forward slashes.
    """

    format_version: int = FORMAT_VERSION
    name: str
    version: int | None = None
    parent: str | None = None
    created_at: str
    spec_fingerprint: str
    task: str
    layout: LayoutFacts
    metrics: Mapping[str, Json] = field(default_factory=dict)
    parity: Mapping[str, Json] = field(default_factory=dict)
    training: Mapping[str, Json] = field(default_factory=dict)
    libraries: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, FileEntry] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """The file: sorted, indented, always the same bytes, with a checksum over itself.

        Raises:
            BundleError: A value that JSON cannot hold, named by its key.
        """
        body = {entry.name: _plain(getattr(self, entry.name), entry.name) for entry in fields(self)}
        text = json.dumps({**body, "checksum": _UNSIGNED}, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        unsigned = text.encode()
        return _signed(unsigned, hashlib.sha256(unsigned).hexdigest())

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """The manifest in a file's bytes.

        Raises:
            BundleError: Not JSON, a newer format, a changed byte, a key that is missing, unknown or of a wrong type.
        """
        keys = Keys.parse(data, file=MANIFEST_NAME)
        _check_format(keys)
        _check_own_digest(data)
        keys.text("checksum")
        manifest = cls(
            format_version=keys.integer("format_version"),
            name=keys.text("name"),
            version=keys.optional_integer("version", minimum=1),
            parent=keys.optional_text("parent"),
            created_at=_moment(keys.text("created_at")),
            spec_fingerprint=keys.text("spec_fingerprint"),
            task=_task(keys.text("task")),
            layout=_layout(keys.inner("layout")),
            metrics=keys.mapping("metrics"),
            parity=keys.mapping("parity"),
            training=keys.mapping("training"),
            libraries=keys.inner("libraries").texts(),
            files=_files(keys.inner("files")),
        )
        keys.finish()
        return manifest


def check_path(name: str) -> str:
    """The name itself, when it is one that lies inside a bundle's folder on every file system.

    Raises:
        BundleError: It is absolute, leaves the folder, is hidden, or has characters that some file systems refuse.
    """
    parts = name.split("/")
    plain = all(_NAME_PART.fullmatch(part) and not part.startswith(".") and part.strip() == part for part in parts)
    if not plain or name == MANIFEST_NAME or len(name.encode()) > 512:
        raise BundleError(
            f"{MANIFEST_NAME}: files: {name!r} is no name for a file of a bundle",
            hint="names are relative, with forward slashes, and stay inside the bundle's folder",
        )
    return name


def check_file_name(name: str) -> str:
    """The name itself, when a bundle may hold a file of that name.

    Raises:
        BundleError: As `check_path`, or the file is of a kind that a bundle never holds (a pickle, a library).
    """
    if not check_path(name).endswith(_SUFFIXES):
        raise BundleError(
            f"{MANIFEST_NAME}: files: {name!r} is not of a kind that a bundle holds",
            hint=f"a bundle holds {', '.join(_SUFFIXES)} files, and never a pickle",
        )
    return name


def _plain(value: Any, key: str) -> Json:
    """The value as JSON's own types; dataclasses become objects, tuples lists."""
    match value:
        case None | bool() | int():
            return value
        case str() if not _SURROGATE.search(value):
            return value
        case float() if math.isfinite(value):
            return value
        case FileEntry() | LayoutFacts():
            return {entry.name: _plain(getattr(value, entry.name), f"{key}.{entry.name}") for entry in fields(value)}
        case Mapping():
            for name in value:
                if not isinstance(name, str) or _SURROGATE.search(name):
                    raise BundleError(f"{MANIFEST_NAME}: key {key}.{name!r}: expected a text for a key")
            return {name: _plain(entry, f"{key}.{name}") for name, entry in value.items()}
        case list() | tuple():
            return [_plain(entry, f"{key}[{index}]") for index, entry in enumerate(value)]
    raise BundleError(
        f"{MANIFEST_NAME}: key {key}: {value!r:.80} ({type(value).__name__}) cannot be written as JSON",
        hint="convert it to a finite number, a text, a list or an object of these; None for NaN",
    )


def _signed(unsigned: bytes, digest: str) -> bytes:
    return _CHECKSUM.sub(f'  "checksum": "{digest}"'.encode(), unsigned, count=1)


def _check_format(keys: Keys) -> None:
    found = keys.integer("format_version")
    if found > FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST_NAME}: the bundle has format {found}, this streamfm reads formats up to {FORMAT_VERSION}",
            hint=f"it was written by {_writer(keys)}; install that version or a newer one",
        )
    if found < 1:
        raise BundleError(f"{MANIFEST_NAME}: format {found} never existed")


def _writer(keys: Keys) -> str:
    """Which streamfm wrote a manifest of a format that is not known here."""
    try:
        return f"streamfm {keys.inner('libraries').text('streamfm')}"
    except BundleError:
        return "a newer streamfm"


def _check_own_digest(data: bytes) -> None:
    """Compare the manifest with the checksum inside it, which stands for 64 zeros while it is computed."""
    written = _CHECKSUM.search(data)
    if written is None:
        raise BundleError(f"{MANIFEST_NAME}: key checksum is missing")
    digest = hashlib.sha256(_signed(data, _UNSIGNED)).hexdigest()
    if digest.encode() != written[1]:
        raise BundleError(
            f"{MANIFEST_NAME}: its bytes have sha256 {digest[:12]}…, its checksum says {written[1][:12].decode()}…",
            hint="it was changed after it was written; copy the bundle again",
        )


def _moment(text: str) -> str:
    try:
        aware = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        aware = False
    if not aware:
        raise BundleError(
            f"{MANIFEST_NAME}: key created_at: expected a time with an offset, 2026-01-31T12:00:00+00:00, got {text!r}"
        )
    return text


def _task(text: str) -> str:
    if text not in ("binary", "regression"):
        raise BundleError(f"{MANIFEST_NAME}: key task: expected binary or regression, got {text!r}")
    return text


def _layout(keys: Keys) -> LayoutFacts:
    layout = LayoutFacts(
        slots=keys.integer("slots", minimum=1),
        rows=keys.integer("rows", minimum=1),
        factors=keys.integer("factors", minimum=1),
        hidden=keys.integers("hidden"),
        weighted=keys.boolean("weighted"),
    )
    keys.finish()
    return layout


def _files(keys: Keys) -> dict[str, FileEntry]:
    files: dict[str, FileEntry] = {}
    folded: set[str] = set()
    for name in keys.names():
        entry = keys.inner(check_file_name(name))
        sha256 = entry.text("sha256")
        if not _SHA256.fullmatch(sha256):
            raise entry.wrong("sha256", f"expected 64 hexadecimal digits, got {sha256!r:.80}")
        files[name] = FileEntry(sha256=sha256, size=entry.integer("size"))
        entry.finish()
        if name.casefold() in folded:
            raise BundleError(f"{MANIFEST_NAME}: files: {name!r} is there twice, in capitals and small letters")
        folded.add(name.casefold())
    return files
