"""Publishing: a bundle becomes the next version of a model."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from streamfm import files
from streamfm.bundle import open_bundle, read_manifest, stamp
from streamfm.errors import BundleError, RegistryError
from streamfm.registry.models import RETRIES, Model
from streamfm.registry.references import NUMBERS_FOLDER, is_version

STAGING_PREFIX = ".staging-"
KEPT_NUMBERS = 1000

_NO_LINKS = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES)


@contextmanager
def published(model: Model, source: Path, *, link: bool) -> Iterator[int]:
    """The number that a copy of the bundle at `source` has got; it is held during the block, so nobody prunes it.

    1. Copy (`link`: as hard links, where possible) the bundle beside its place, and verify the copy. 2. Claim a number.
    3. Write model and number into its manifest. 4. Rename it to its number. A crash before 4 publishes nothing.

    Raises:
        BundleError: The bundle cannot be opened, or the disk is full.
    """
    staging = model.folder / f"{STAGING_PREFIX}{files.token()}"
    try:
        read_manifest(source)
        _copy(source, staging, link=link)
        _verify(staging, shown_as=source)
        for _ in range(RETRIES):
            version = _claim_number(model)
            with model.leases.take(version):
                stamp(staging, name=model.name, version=version)
                if files.move_new(staging, model.version_path(version)):
                    yield version
                    return
        raise RegistryError(f"{model.folder}: no free number among {RETRIES}; the last was {version}")
    except OSError as error:
        if files.is_disk_full(error):
            raise BundleError(f"{staging}: the disk is full ({error}); nothing was published") from error
        raise
    finally:
        files.remove_tree(staging)


def clear_numbers(model: Model) -> None:
    """Remove the marks of all but the newest numbers; the next number only needs the newest."""
    for number in sorted(_numbers(model))[:-KEPT_NUMBERS]:
        (model.folder / NUMBERS_FOLDER / str(number)).unlink(missing_ok=True)


def _claim_number(model: Model) -> int:
    """The next number, which no other process has been given or will be."""
    number = max([0, *_numbers(model), *model.versions()]) + 1
    note = f"{model.surroundings.who} {model.surroundings.moment}\n".encode()
    while True:
        try:
            files.write_new(model.folder / NUMBERS_FOLDER / str(number), note)
        except FileExistsError:
            number += 1
        else:
            return number


def _numbers(model: Model) -> list[int]:
    names = (path.name for path in (model.folder / NUMBERS_FOLDER).iterdir())
    return [int(name) for name in names if is_version(name)]


def _copy(source: Path, target: Path, *, link: bool) -> None:
    """Copy a folder, flushed to the disk; symbolic links stay what they are, for the verification to refuse."""
    target.mkdir()
    for place, folders, names in os.walk(source):
        here = target / Path(place).relative_to(source)
        for name in folders:
            (here / name).mkdir()
        for name in names:
            _copy_file(Path(place) / name, here / name, link=link)
        files.fsync_folder(here)


def _copy_file(source: Path, target: Path, *, link: bool) -> None:
    if source.is_symlink() or not source.is_file():
        raise BundleError(f"{source}: is not a plain file", hint="a bundle holds plain files only; do not use it")
    if link:
        try:
            target.hardlink_to(source)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
        else:
            return
    shutil.copyfile(source, target)
    files.fsync_file(target)


def _verify(staging: Path, *, shown_as: Path) -> None:
    """Open the copy; messages name the bundle that the user knows."""
    try:
        open_bundle(staging)
    except BundleError as error:
        raise BundleError(error.message.replace(str(staging), str(shown_as)), hint=error.hint) from error
