"""The way back from a version that is worse, to one that it descends from."""

from __future__ import annotations

from streamfm.bundle import Manifest
from streamfm.errors import RegistryError
from streamfm.monitoring.comparing import Comparison
from streamfm.registry import Registry


def roll_back(registry: Registry, name: str, comparison: Comparison, *, alias: str) -> None:
    """Point the alias at the other version, if it still names the one that was found to be worse.

    Where the alias came from that version, its last promotion is undone, so that rolling back once more leads further
    back, not to what was worse.

    Raises:
        RegistryError: The alias has moved meanwhile; it stays where it is.
        BundleError: The other version's bundle is broken; the alias stays where it is.
    """
    move = registry.last_move(name, alias)
    if move.version == comparison.served and move.earlier[-1:] == (comparison.other,):
        registry.rollback(name, alias, expected=move)
    else:
        registry.promote(name, comparison.other, alias, expected=comparison.served)


def parent_of(manifest: Manifest) -> int | None:
    """The version of the same model that a version was trained on from; None where it names none."""
    name, _, number = (manifest.parent or "").rpartition("/")
    if name != manifest.name or not number.isdecimal():
        return None
    # One that was copied from another registry names a version of that one.
    return int(number) if int(number) < (manifest.version or 0) else None


def refuse_strangers(registry: Registry, name: str, served: int, other: int) -> None:
    """Refuse to go back from a version to one that it does not descend from.

    Raises:
        RegistryError: The other is no ancestor, or those between are not there any more to tell.
    """
    versions = registry.model(name).versions
    ancestor: int | None = served
    while ancestor is not None and ancestor > other:
        ancestor = parent_of(registry.show(name, ancestor).manifest) if ancestor in versions else None
    if ancestor != other or other == served:
        raise RegistryError(
            f"{name}/{other} is not known to be an ancestor of {name}/{served}, which serves: it may have learnt from "
            "the rows on which both are compared",
            hint=f"without --rollback they are compared; streamfm models promote {registry.root / name}/{other} moves "
            "the alias",
        )
