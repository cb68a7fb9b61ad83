"""One model's folder: its versions, aliases and leases, and messages that say what is there.

ROOT/ctr/3/            a version: a bundle, never changed
ROOT/ctr/numbers/3     the number 3 was given out; a number is never given twice
ROOT/ctr/aliases/      see `streamfm.registry.aliases`
ROOT/ctr/leases/       see `streamfm.registry.leases`
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from streamfm.bundle import Bundle, open_bundle
from streamfm.errors import BundleError, RegistryError
from streamfm.features import hint_at
from streamfm.registry.aliases import AliasLog, Move
from streamfm.registry.leases import Clock, Holder, Lease, LeaseBook
from streamfm.registry.references import NUMBERS_FOLDER, check_alias, check_name, is_model, is_version

CHAMPION = "champion"
RETRIES = 200
PAUSE_S = 0.02


_PARTS = ("leases", "aliases", NUMBERS_FOLDER)


def check_place(folder: Path) -> None:
    """Refuse a folder that can become no model's, since it is something else.

    Raises:
        RegistryError: It is.
    """
    # Another publication may be making it just now: some of its parts are no sign of something else.
    if folder.is_dir():
        is_free = is_model(folder) or {path.name for path in folder.iterdir()} <= {*_PARTS}
    else:
        is_free = not folder.exists()
    # It may have been finished between two looks.
    if not is_free and not is_model(folder):
        raise RegistryError(f"{folder}: is there, and is no model", hint="choose another name or registry")


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a registry is given from outside.

    Attributes:
        clock: Seconds since 1970.
        sleep: Waits for so many seconds.
        holder: In whose name leases are taken, asked each time: a process may fork after it made its registry.
    """

    clock: Clock = time.time
    sleep: Callable[[float], None] = time.sleep
    holder: Callable[[], Holder] = Holder.here

    @property
    def moment(self) -> str:
        """Now, in ISO 8601, UTC."""
        return datetime.fromtimestamp(self.clock(), UTC).isoformat()

    @property
    def who(self) -> str:
        """This process, for people."""
        holder = self.holder()
        return f"{holder.host}:{holder.pid}"


class Model:
    """The folder of one model that exists."""

    def __init__(self, root: Path, name: str, surroundings: Surroundings) -> None:
        """Look into the folder.

        Raises:
            RegistryError: There is no such model; says which there are.
        """
        self.root = root
        self.name = check_name(name, what="a model")
        self.folder = root / name
        self.surroundings = surroundings
        if not is_model(self.folder):
            what = "models" if root.is_dir() else "the folder does not exist; models"
            raise RegistryError(f"{root}: there is no model {name!r}", hint=hint_at(name, model_names(root), what=what))
        self.leases = LeaseBook(self.folder / "leases", clock=surroundings.clock, holder=surroundings.holder)

    @classmethod
    def make(cls, root: Path, name: str, surroundings: Surroundings) -> Model:
        """The model, made if it is not there.

        Raises:
            RegistryError: A name that cannot be one, or a folder of that name that is something else.
        """
        folder = root / check_name(name, what="a model")
        check_place(folder)
        for part in _PARTS:
            (folder / part).mkdir(parents=True, exist_ok=True)
        return cls(root, name, surroundings)

    def version_path(self, version: int) -> Path:
        """Where a version's bundle is, if it is there."""
        return self.folder / str(version)

    def versions(self) -> tuple[int, ...]:
        """The versions that are there, ascending."""
        return tuple(sorted(int(path.name) for path in self.folder.iterdir() if is_version(path.name)))

    def aliases(self) -> tuple[str, ...]:
        """The aliases that were ever set, sorted."""
        folder = self.folder / "aliases"
        names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        return tuple(name for name in names if not name.startswith(".") and self.log(name).head() is not None)

    def log(self, alias: str) -> AliasLog:
        """The moves of an alias, which need not have been set.

        Raises:
            RegistryError: A name that no alias has.
        """
        return AliasLog(self.folder / "aliases" / check_alias(alias))

    def head(self, alias: str) -> Move:
        """Where an alias is.

        Raises:
            RegistryError: It was never set; says which were.
        """
        head = self.log(alias).head()
        if head is None:
            have = f"versions {_listed(self.versions())}; aliases"
            raise RegistryError(
                f"{self.folder}: there is no alias {alias!r}", hint=hint_at(alias, self.aliases(), what=have)
            )
        return head

    def open(self, version: int) -> Bundle:
        """A version's bundle, every byte verified.

        Raises:
            RegistryError: No such version.
            BundleError: The bundle is broken, or it is another version's.
        """
        path = self.version_path(version)
        if not path.is_dir():
            raise self.absent(version)
        bundle = open_bundle(path)
        says = (bundle.manifest.name, bundle.manifest.version)
        if says != (self.name, version):
            raise BundleError(
                f"{path}: manifest.json: the bundle is {says[0]}/{says[1]}, expected {self.name}/{version}",
                hint="a version was copied or renamed by hand; publish it instead",
            )
        return bundle

    def hold(self, version: int) -> Lease:
        """A lease that keeps a version from being pruned.

        Raises:
            RegistryError: No such version, or it is just being pruned.
        """
        for _ in range(RETRIES):
            lease = self.leases.take(version)
            claimed = self.leases.is_claimed(version)
            if not claimed and self.version_path(version).is_dir():
                return lease
            lease.release()
            if not claimed:
                raise self.absent(version)
            self.surroundings.sleep(PAUSE_S)
        raise RegistryError(f"{self.name}/{version} is being pruned", hint=self.have())

    def absent(self, version: int) -> RegistryError:
        """The error for a version that is not there."""
        given = (self.folder / NUMBERS_FOLDER / str(version)).exists()
        what = "was pruned, or its publication did not end" if given else "was never published"
        return RegistryError(f"{self.folder}: version {version} {what}", hint=self.have())

    def have(self) -> str:
        """A hint that says which versions there are."""
        return f"it has versions {_listed(self.versions())}"


def model_names(root: Path) -> list[str]:
    """The models in a registry, sorted; none when there is no such folder."""
    return sorted(path.name for path in root.iterdir() if is_model(path)) if root.is_dir() else []


def _listed(versions: tuple[int, ...]) -> str:
    """The newest twenty."""
    texts = [str(version) for version in versions[-20:]]
    return ", ".join(["…", *texts] if len(versions) > 20 else texts) or "none"
