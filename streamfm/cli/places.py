"""Where models are, as people write it: REGISTRY/NAME, such as models/ctr."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from streamfm.cli.commands import CHAMPION
from streamfm.errors import RegistryError

if TYPE_CHECKING:
    from streamfm.registry import Registry


def new_model(text: str) -> tuple[Registry, str]:
    """The registry and the name of a model that may be published to, whether it is there or not.

    Raises:
        RegistryError: It is no such name, or a folder of that name is something else.
    """
    from streamfm.registry.models import check_place

    registry, name = _parts(text)
    check_place(registry.root / name)
    if registry.root.exists() and not registry.root.is_dir():
        raise RegistryError(f"{text}: {registry.root} is no folder", hint="a registry is a folder, such as models")
    return registry, name


def model_in(text: str) -> tuple[Registry, str]:
    """The registry and the name of a model that is there.

    Raises:
        RegistryError: It is not; says what is.
    """
    registry, name = _parts(text)
    registry.model(name)
    return registry, name


def version_in(reference: str) -> tuple[Registry, str, int]:
    """The registry, the model and the version that a reference names.

    Raises:
        RegistryError: It names a bundle outside a registry, or nothing that is there.
    """
    from streamfm.registry import Registry, parse_reference, resolve

    parts, resolved = parse_reference(reference), resolve(reference)
    if parts.name is None or resolved.version is None:
        hint = f"streamfm models publish {reference} models/NAME makes it one"
        raise RegistryError(f"{reference}: a bundle, not a version in a registry", hint=hint)
    return Registry(parts.folder), parts.name, resolved.version


def has_champion(registry: Registry, name: str) -> bool:
    """Whether a model, which need not be there, has its first alias."""
    try:
        registry.current(name, CHAMPION)
    except RegistryError:
        return False
    return True


def _parts(text: str) -> tuple[Registry, str]:
    from streamfm.registry import Registry
    from streamfm.registry.references import check_name, is_model

    path = Path(text)
    if is_model(path.parent):
        raise RegistryError(f"{text}: expected a model, got one of its versions", hint=f"write {path.parent}")
    if not path.name or path.parent == path or str(path.parent) == ".":
        raise RegistryError(f"{text}: expected REGISTRY/NAME", hint="such as models/ctr")
    return Registry(path.parent), check_name(path.name, what="a model")
