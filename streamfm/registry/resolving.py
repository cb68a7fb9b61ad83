"""From a reference to the bundle's folder: for one look, for a poll, or held against pruning."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from streamfm.bundle import read_manifest
from streamfm.errors import RegistryError
from streamfm.registry.leases import Lease
from streamfm.registry.models import CHAMPION, RETRIES, Model, Surroundings, model_names
from streamfm.registry.references import Reference, is_model, parse_reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Resolved:
    """What a reference refers to now.

    Attributes:
        path: The bundle's folder.
        name: The model; of a bundle outside a registry, what its manifest says.
        version: Its number; of a bundle outside a registry, what its manifest says.
        alias: The alias by which it was found, or None.
    """

    path: Path
    name: str
    version: int | None
    alias: str | None = None


class Hold:
    """A resolved reference that nobody prunes until it is released. A context manager.

    Attributes:
        resolved: What is held.
    """

    def __init__(self, resolved: Resolved, lease: Lease | None) -> None:
        """Hold by a lease; a bundle outside a registry needs none."""
        self.resolved = resolved
        self._lease = lease

    def __enter__(self) -> Self:
        """The hold itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Release it."""
        self.release()

    def release(self) -> None:
        """Let the version go; a second time does nothing."""
        if self._lease is not None:
            self._lease.release()


def resolve(reference: str | os.PathLike[str], *, surroundings: Surroundings | None = None) -> Resolved:
    """What a reference refers to now.

    Raises:
        RegistryError: No such model, version or alias; says what is there.
        BundleError: The reference is a folder, and no bundle.
    """
    return _resolve(parse_reference(reference), surroundings or Surroundings())


def hold(reference: str | os.PathLike[str], *, surroundings: Surroundings | None = None) -> Hold:
    """The same, kept from being pruned until it is released, collected, or this process ends.

    Raises:
        RegistryError: As `resolve`.
        BundleError: As `resolve`.
    """
    around = surroundings or Surroundings()
    parsed = parse_reference(reference)
    for _ in range(RETRIES):
        resolved = _resolve(parsed, around)
        if parsed.name is None or resolved.version is None:
            return Hold(resolved, None)
        model = Model(parsed.folder, parsed.name, around)
        try:
            return Hold(resolved, model.hold(resolved.version))
        except RegistryError:
            # The alias may have moved on, and what it left have been pruned, since it was read.
            if parsed.alias is None or model.head(parsed.alias).version == resolved.version:
                raise
    raise RegistryError(f"{parsed.text} moved {RETRIES} times meanwhile", hint="try again")


def current(reference: str | os.PathLike[str]) -> int | None:
    """The version that a reference refers to now; None for a bundle that was never published.

    Costs one listing and one small file, so that a watcher may ask every second.

    Raises:
        RegistryError: As `resolve`.
        BundleError: As `resolve`.
    """
    parsed = parse_reference(reference)
    if parsed.name is not None and parsed.alias is not None:
        return Model(parsed.folder, parsed.name, Surroundings()).head(parsed.alias).version
    return resolve(reference).version


def _resolve(reference: Reference, surroundings: Surroundings) -> Resolved:
    if reference.name is None:
        _check_bundle(reference)
        manifest = read_manifest(reference.folder)
        return Resolved(path=reference.folder, name=manifest.name, version=manifest.version)
    model = Model(reference.folder, reference.name, surroundings)
    version = reference.version or model.head(reference.alias or CHAMPION).version
    if not model.version_path(version).is_dir():
        raise model.absent(version)
    return Resolved(path=model.version_path(version), name=model.name, version=version, alias=reference.alias)


def _check_bundle(reference: Reference) -> None:
    """Refuse a model or registry that was meant to be a bundle, with what to write instead."""
    folder = reference.folder
    if is_model(folder):
        model = Model(folder.parent, folder.name, Surroundings())
        choices = [f"{folder}@{alias}" for alias in model.aliases()] + [f"{folder}/{v}" for v in model.versions()[-3:]]
        raise RegistryError(
            f"{reference.text} is a model, not one of its versions",
            hint=f"write {' or '.join(choices)}" if choices else "it has no versions yet",
        )
    names = model_names(folder)
    if names:
        raise RegistryError(
            f"{reference.text} is a registry, not a model's version", hint=f"write {folder / names[0]}@champion"
        )
