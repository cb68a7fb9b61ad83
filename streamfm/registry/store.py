"""Registry: models, their numbered versions, and the aliases that move between them."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from streamfm import files
from streamfm.bundle import Manifest, read_manifest
from streamfm.errors import RegistryError, StreamFMError
from streamfm.registry import moves, pruning, publishing
from streamfm.registry.aliases import Move
from streamfm.registry.leases import Lease
from streamfm.registry.models import CHAMPION, Model, Surroundings, model_names
from streamfm.registry.pruning import Pruned
from streamfm.registry.references import check_alias, is_model


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionInfo:
    """A version that is there.

    Attributes:
        name: The model.
        version: Its number.
        path: Its bundle.
        manifest: What the bundle says of itself.
        aliases: Those that refer to it now, sorted.
    """

    name: str
    version: int
    path: Path
    manifest: Manifest
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelInfo:
    """A model of the registry.

    Attributes:
        name: The model.
        versions: Those that are there, ascending.
        aliases: The version that each refers to.
    """

    name: str
    versions: tuple[int, ...]
    aliases: Mapping[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What `verify` found of one version or alias.

    Attributes:
        reference: Which.
        error: What is wrong with it; None when all is well.
    """

    reference: str
    error: StreamFMError | None


class Registry:
    """The models in one folder. It keeps no state: any number of processes and machines may work on a folder at once.

    Everything rests on two operations that are atomic on local and network file systems: the exclusive creation of a
    file, and the renaming of a folder to a name that is free. A model of another machine may be seen as late as its
    network file system's cache allows, but always whole.
    """

    def __init__(self, root: str | Path, *, surroundings: Surroundings | None = None) -> None:
        """Work in the folder `root`, which the first publication makes; `surroundings` are this process' if None."""
        self.root = Path(root)
        self._surroundings = surroundings or Surroundings()

    def publish(
        self, bundle: str | Path, name: str, *, alias: str | None = None, keep_source: bool = False
    ) -> VersionInfo:
        """The version that a bundle has become: the model's next number, which is written into its manifest.

        Args:
            bundle: The folder of a bundle, as `BundleWriter` left it. It is moved: removed when all else is done.
            name: The model, which need not exist yet.
            alias: To be moved to the new version.
            keep_source: Copy instead; a version of a registry is always copied.

        Raises:
            BundleError: The bundle cannot be opened, or the disk is full; nothing was published.
            RegistryError: A name that cannot be one.
        """
        if alias is not None:
            check_alias(alias)
        source = Path(bundle)
        read_manifest(source)
        keep_source = keep_source or source.is_symlink() or is_model(source.resolve().parent)
        with _writing(self.root):
            model = Model.make(self.root, name, self._surroundings)
            with publishing.published(model, source, link=not keep_source) as version:
                if alias is not None:
                    moves.promote(model, version, alias, expected=None)
                info = self.show(name, version)
            if not keep_source:
                files.remove_tree(source)
        return info

    def promote(self, name: str, version: int, alias: str = CHAMPION, *, expected: int | None = None) -> Move:
        """The move of an alias to a version, which is verified first; the last move when it is there already.

        Args:
            name: The model.
            version: Where the alias is to point.
            alias: Which alias; a new one is made.
            expected: Move only from this version; 0 for an alias that must not be there yet, None for any.

        Raises:
            RegistryError: No such model or version, or the alias is not at `expected`; it stays where it is.
            BundleError: The version's bundle is broken; the alias stays where it is.
        """
        with _writing(self.root):
            return moves.promote(self._model(name), version, alias, expected=expected)

    def rollback(self, name: str, alias: str = CHAMPION, *, expected: Move | None = None) -> Move:
        """The move of an alias to where it was before the last promotion; a second one goes one promotion further back.

        Args:
            name: The model.
            alias: Which alias.
            expected: Only if this is still its last move; None for any.

        Raises:
            RegistryError: No such alias, no earlier version, one that is not there any more, or the alias moved
                meanwhile; it stays where it is.
            BundleError: The earlier version's bundle is broken; the alias stays where it is.
        """
        with _writing(self.root):
            return moves.rollback(self._model(name), alias, expected=expected)

    def prune(self, name: str, *, keep: int) -> Pruned:
        """What was removed, and what was spared.

        Spared are the newest `keep` versions, those that an alias refers to or would roll back to next, and those that
        a running process holds.

        Raises:
            RegistryError: No such model, or `keep` is less than 1.
        """
        with _writing(self.root):
            return pruning.prune(self._model(name), keep=keep)

    def hold(self, name: str, version: int) -> Lease:
        """A lease, to be used as a context manager, that keeps a version from being pruned.

        Raises:
            RegistryError: No such version, or it is just being pruned.
        """
        return self._model(name).hold(version)

    def current(self, name: str, alias: str = CHAMPION) -> int:
        """The version that an alias refers to; cheap enough to ask every second.

        Raises:
            RegistryError: No such model or alias.
        """
        return self.last_move(name, alias).version

    def last_move(self, name: str, alias: str = CHAMPION) -> Move:
        """The move by which an alias has come to where it is.

        Raises:
            RegistryError: No such model or alias.
        """
        return self._model(name).head(alias)

    def history(self, name: str, alias: str = CHAMPION) -> builtins.list[Move]:
        """The moves of an alias, oldest first, as far as they are kept.

        Raises:
            RegistryError: No such model or alias.
        """
        model = self._model(name)
        model.head(alias)
        return model.log(alias).moves()

    def list(self) -> builtins.list[ModelInfo]:
        """Every model, by name; none when there is no such folder."""
        return [self.model(name) for name in model_names(self.root)]

    def model(self, name: str) -> ModelInfo:
        """One model.

        Raises:
            RegistryError: No such model.
        """
        model = self._model(name)
        aliases = {alias: model.head(alias).version for alias in model.aliases()}
        return ModelInfo(name=name, versions=model.versions(), aliases=aliases)

    def show(self, name: str, version: int) -> VersionInfo:
        """What a version says of itself.

        Raises:
            RegistryError: No such model or version.
            BundleError: Its manifest cannot be read.
        """
        model = self._model(name)
        path = model.version_path(version)
        if not path.is_dir():
            raise model.absent(version)
        aliases = tuple(alias for alias in model.aliases() if model.head(alias).version == version)
        return VersionInfo(name=name, version=version, path=path, manifest=read_manifest(path), aliases=aliases)

    def verify(self, name: str | None = None) -> builtins.list[Verification]:
        """What is wrong with each version and alias of a model, or of all models; every byte is read.

        Raises:
            RegistryError: No such model.
        """
        found = []
        for model in map(self._model, model_names(self.root) if name is None else [name]):
            found += [
                _verified(f"{model.folder}/{version}", partial(model.open, version)) for version in model.versions()
            ]
            found += [_verified(f"{model.folder}@{alias}", partial(_follow, model, alias)) for alias in model.aliases()]
        return found

    def _model(self, name: str) -> Model:
        return Model(self.root, name, self._surroundings)


@contextmanager
def _writing(root: Path) -> Iterator[None]:
    """Make an error that names the registry of what the file system says against a change."""
    try:
        yield
    except OSError as error:
        raise RegistryError(
            f"{root}: cannot be changed: {error}", hint="see who may write there, and its room"
        ) from error


def _follow(model: Model, alias: str) -> None:
    """Check that an alias leads to a version that is there."""
    version = model.head(alias).version
    if not model.version_path(version).is_dir():
        raise model.absent(version)


def _verified(reference: str, check: Callable[[], object]) -> Verification:
    """The outcome of a check."""
    try:
        check()
    except StreamFMError as error:
        return Verification(reference=reference, error=error)
    return Verification(reference=reference, error=None)
