"""Writing a bundle: all of it or nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamfm import files
from streamfm.bundle.json_keys import Json
from streamfm.bundle.manifest import MANIFEST_LIMIT, MANIFEST_NAME, FileEntry, Manifest, check_file_name, check_path
from streamfm.bundle.reader import listed_files, open_bundle
from streamfm.errors import BundleError


class BundleWriter:
    """Collects a bundle's files in a hidden folder beside its place, and puts the folder there when it is whole.

        with BundleWriter("models/new") as writer:
            spec_path = writer.path("features.toml")
            ...
            writer.commit(manifest)

    A block that ends without `commit`, by an exception, Ctrl-C or by itself, leaves nothing behind; a process that is
    killed leaves the hidden folder `.NAME.*.partial` at most.
    """

    def __init__(self, target: str | Path) -> None:
        """Write to `target`, which must not be there yet.

        Raises:
            BundleError: It is there, or its parent is not a folder.
        """
        self.target = Path(target)
        self._check_free()
        self._folder = self.target.with_name(f".{self.target.name}.{files.token()}.partial")
        self._latest = MANIFEST_NAME

    def __enter__(self) -> Self:
        """Begin; the folder is made by the first `path`, so that Ctrl-C always finds the block that removes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove what was not committed.

        Raises:
            BundleError: The disk is full, or the folder cannot be written; names the file.
        """
        files.remove_tree(self._folder)
        if isinstance(error, Exception) and files.is_disk_full(error):
            raise BundleError(
                f"{self.target}: {self._file_of(error)}: the disk is full ({error}); nothing was written",
                hint="make room, or write the bundle to another disk",
            ) from error

    def path(self, relative: str) -> Path:
        """Where to write the file or folder with this name; the folder that it lies in is made.

        Raises:
            BundleError: A name that leads out of the bundle.
        """
        self._latest = check_path(relative)
        place = self._folder / relative
        self._folder.mkdir(exist_ok=True)
        place.parent.mkdir(parents=True, exist_ok=True)
        return place

    def commit(self, manifest: Manifest) -> Manifest:
        """The manifest with the size and digest of every file; the bundle is in its place, on the disk.

        1. Digest every file, and flush it to the disk. 2. Write the manifest, the last file. 3. Open the bundle as any
        reader would. 4. Flush the folders. 5. Rename the folder to the target. 6. Flush the target's parent. A crash
        before 5 leaves the hidden folder, one after it a whole bundle.

        Raises:
            BundleError: Files that do not make a bundle, or the target has come to be there.
        """
        self._folder.mkdir(exist_ok=True)
        entries = {name: self._entry(name) for name in sorted(listed_files(self._folder))}
        complete = replace(manifest, files=entries)
        self._latest = MANIFEST_NAME
        files.write_new(self._folder / MANIFEST_NAME, complete.to_bytes())
        try:
            open_bundle(self._folder, verify=False)
        except BundleError as error:
            message = error.message.replace(str(self._folder), str(self.target))
            raise BundleError(message, hint=error.hint) from error
        for folder, _, _ in os.walk(self._folder):
            files.fsync_folder(Path(folder))
        if not files.move_new(self._folder, self.target):
            raise self._taken()
        return complete

    def _entry(self, name: str) -> FileEntry:
        self._latest = check_file_name(name)
        path = self._folder / name
        files.fsync_file(path)
        sha256, size = files.digest_plain(path)
        return FileEntry(sha256=sha256, size=size)

    def _check_free(self) -> None:
        if os.path.lexists(self.target):
            raise self._taken()
        if not self.target.parent.is_dir():
            raise BundleError(f"{self.target}: there is no folder {self.target.parent}", hint="make the folder first")

    def _taken(self) -> BundleError:
        return BundleError(
            f"{self.target}: is there already; a bundle is never written over",
            hint="choose another name, or remove it first",
        )

    def _file_of(self, error: Exception) -> str:
        """The file that an exception names, or the one that was asked for last."""
        name = getattr(error, "filename", None)
        if isinstance(name, str) and Path(name).is_relative_to(self._folder):
            return Path(name).relative_to(self._folder).as_posix()
        return self._latest


def stamp(folder: Path, *, name: str, version: int) -> Manifest:
    """The manifest of the bundle in `folder`, rewritten to bear a registry's name and number for it.

    Raises:
        BundleError: The manifest cannot be read.
    """
    return _rewritten(folder, name=name, version=version)


def annotate(folder: Path, *, metrics: Mapping[str, Json], training: Mapping[str, Json]) -> Manifest:
    """The manifest of the bundle in `folder`, which is not published yet, rewritten to tell what was found out later.

    Raises:
        BundleError: The manifest cannot be read, or cannot hold this.
    """
    return _rewritten(folder, metrics=metrics, training=training)


def _rewritten(folder: Path, **changes: Any) -> Manifest:
    path = folder / MANIFEST_NAME
    manifest = replace(Manifest.from_bytes(files.read_plain(path, limit=MANIFEST_LIMIT)), **changes)
    files.replace_file(path, manifest.to_bytes())
    return manifest
