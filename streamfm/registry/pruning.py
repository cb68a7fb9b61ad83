"""Pruning: old versions are removed, but never one that anybody has, or may want back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from streamfm import files
from streamfm.bundle import check_files
from streamfm.errors import BundleError, RegistryError
from streamfm.registry.models import Model
from streamfm.registry.publishing import STAGING_PREFIX, clear_numbers

ABANDONED_AFTER_S = 24 * 3600.0
"""After so long, what a killed publication left behind is removed."""

_TOMB_PREFIX = ".pruned-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pruned:
    """What `prune` did.

    Attributes:
        removed: The versions that are gone, ascending.
        kept: The older versions that were spared, with the reason.
    """

    removed: tuple[int, ...]
    kept: Mapping[int, str]


def prune(model: Model, *, keep: int) -> Pruned:
    """See `Registry.prune`.

    For each version: 1. Claim the intent to remove it, so that new readers stay away. 2. Look for readers and aliases.
    3. Rename it away. 4. Look again, and rename it back if there is one: a process that slept between 2 and 3 may have
    lost its claim. 5. Remove it. A crash leaves a hidden folder, which the next run puts back or removes.
    """
    if keep < 1:
        raise RegistryError(f"keep is {keep}, expected at least 1", hint="the newest version always stays")
    removed, kept = [], {}
    _sweep(model)
    for version in model.versions()[:-keep]:
        reason = _remove(model, version, model.version_path(version))
        if reason is None:
            removed.append(version)
        else:
            kept[version] = reason
    return Pruned(removed=tuple(removed), kept=kept)


def _remove(model: Model, version: int, place: Path) -> str | None:
    """Remove what lies at `place`, which is `version` or what is left of it; the reason when it was spared."""
    with _claimed(model, version) as claimed:
        if not claimed:
            return "another process prunes it"
        reason = _reason_to_keep(model, version)
        if reason is not None and place == model.version_path(version):
            return reason
        tomb = model.folder / f"{_TOMB_PREFIX}{version}-{files.token()}"
        try:
            place.rename(tomb)
        except FileNotFoundError:
            return "another process pruned it"
        reason = _reason_to_keep(model, version)
        if reason is not None and _is_whole(tomb) and files.move_new(tomb, model.version_path(version)):
            return reason
        files.remove_tree(tomb)
        return None


@contextmanager
def _claimed(model: Model, version: int) -> Iterator[bool]:
    intent = model.leases.claim(version)
    try:
        yield intent is not None
    finally:
        if intent is not None:
            intent.unlink(missing_ok=True)


def _reason_to_keep(model: Model, version: int) -> str | None:
    """Who needs the version; None when nobody does. Readers first: one that promotes keeps its lease until it has."""
    readers = model.leases.readers(version)
    if readers:
        return "held by " + ", ".join(sorted({f"{held.holder.host}:{held.holder.pid}" for held in readers}))
    files.refresh_listing(model.folder / "aliases")
    for alias in model.aliases():
        log = model.log(alias)
        files.refresh_listing(log.folder)
        head = log.head()
        if head is not None and version == head.version:
            return f"is {alias}"
        if head is not None and version in head.earlier[-1:]:
            return f"{alias} would roll back to it"
    return None


def _is_whole(folder: Path) -> bool:
    try:
        check_files(folder, verify=False)
    except BundleError:
        return False
    return True


def _sweep(model: Model) -> None:
    """Clear away what ended or killed processes have left, and moves and numbers too old to matter."""
    model.leases.sweep()
    for tomb in model.folder.glob(f"{_TOMB_PREFIX}*-*"):
        _remove(model, int(tomb.name.removeprefix(_TOMB_PREFIX).partition("-")[0]), tomb)
    for staging in model.folder.glob(f"{STAGING_PREFIX}*"):
        with suppress(FileNotFoundError):
            if model.surroundings.clock() - staging.stat().st_mtime > ABANDONED_AFTER_S:
                files.remove_tree(staging)
    for alias in model.aliases():
        model.log(alias).compact()
    clear_numbers(model)
