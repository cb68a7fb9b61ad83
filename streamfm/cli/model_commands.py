"""`streamfm models`: the registry's versions and aliases."""

from __future__ import annotations

from pathlib import Path

import click

from streamfm.cli.commands import CHAMPION, JSON, REFERENCE, Command, argument, option
from streamfm.cli.console import answer, print_json, print_table, say
from streamfm.cli.places import has_champion, model_in, new_model, version_in
from streamfm.errors import RegistryError, StreamFMError

ALIAS = option("--alias", default=CHAMPION, show_default=True, help="The alias to move.")
MODEL = argument("model", "REGISTRY/NAME, such as models/ctr.")


@click.group(short_help="List, show, publish, promote, roll back, prune and verify versions.")
def models() -> None:
    """See and move the versions in a registry: a folder such as models/, with a folder for each model.

    A version never changes; an alias, such as champion, moves from one to another, and whoever serves it follows.

    \b
    Examples:
      streamfm models list
      streamfm models show models/ctr@champion
      streamfm models promote models/ctr/3
      streamfm models rollback models/ctr
    """


@models.command("list", cls=Command, short_help="List models, or the versions of one.")
@argument("place", "A registry, or a model in it, such as models/ctr.", default="models")
@JSON
def list_models(place: str, as_json: bool) -> None:
    """List the models of a registry (models by default), or the versions of a model, newest last.

    \b
    Examples:
      streamfm models list
      streamfm models list models/ctr
      streamfm models list --json | jq '.[].aliases'
    """
    from streamfm.registry.references import is_model

    if is_model(Path(place)):
        _list_versions(place, as_json=as_json)
    else:
        _list_models(place, as_json=as_json)


def _list_models(root: str, *, as_json: bool) -> None:
    from streamfm.registry import Registry

    if not Path(root).is_dir():
        hint = f"name a registry; streamfm train DATA --out {root}/NAME makes one"
        raise RegistryError(f"{root}: no such folder", hint=hint)
    found = Registry(root).list()
    if as_json:
        print_json([{"name": m.name, "versions": m.versions, "aliases": dict(m.aliases)} for m in found])
    elif found:
        rows = [
            (
                model.name,
                len(model.versions),
                model.versions[-1] if model.versions else "—",
                ", ".join(f"{alias} → {version}" for alias, version in model.aliases.items()),
            )
            for model in found
        ]
        print_table(["model", "versions", "newest", "aliases"], rows)
    else:
        say(f"{root}: no models yet")


def _list_versions(place: str, *, as_json: bool) -> None:
    from streamfm.cli.version_table import measured, version_facts

    registry, name = model_in(place)
    found = [registry.show(name, version) for version in registry.model(name).versions]
    if as_json:
        print_json([version_facts(one.path, one.manifest, one.aliases) for one in found])
        return
    names = list(dict.fromkeys(measure for one in found for measure in measured(one.manifest)))
    rows = [
        (
            one.version,
            ", ".join(one.aliases),
            one.manifest.created_at[:16].replace("T", " "),
            one.manifest.parent or "—",
            *(measured(one.manifest).get(measure, "—") for measure in names),
        )
        for one in found
    ]
    print_table(["version", "aliases", "created", "parent", *names], rows, title=place)


@models.command(cls=Command, short_help="Show what a version says of itself.")
@REFERENCE
@JSON
def show(reference: str, as_json: bool) -> None:
    """Show what a version says of itself: where it comes from, what was measured, how it was proven.

    \b
    Examples:
      streamfm models show models/ctr@champion
      streamfm models show models/ctr/3 --json | jq .training.report.settings
    """
    from streamfm.bundle import read_manifest
    from streamfm.cli.version_table import print_version, version_facts
    from streamfm.registry import Registry, parse_reference, resolve

    found, parts = resolve(reference), parse_reference(reference)
    manifest = read_manifest(found.path)
    aliases: tuple[str, ...] = ()
    if parts.name is not None and found.version is not None:
        aliases = Registry(parts.folder).show(found.name, found.version).aliases
    if as_json:
        print_json(version_facts(found.path, manifest, aliases))
    else:
        print_version(found.path, manifest, aliases)


@models.command(cls=Command, short_help="Make a bundle the next version of a model.")
@argument("bundle", "The folder of a bundle.")
@MODEL
@option("--alias", help=f"Move this alias to it, too; the first version becomes the {CHAMPION} anyway.")
@option("--copy", is_flag=True, help="Leave the bundle where it is; without, it is moved.")
def publish(bundle: str, model: str, alias: str | None, copy: bool) -> None:
    """Publish a bundle as the next version of a model: one from elsewhere, or one that `train` could not publish.

    \b
    Examples:
      streamfm models publish models/ctr-unpublished-1f2e3d models/ctr
      streamfm models publish staging/ctr/7 production/ctr --alias challenger
    """
    registry, name = new_model(model)
    if not Path(bundle).is_dir():
        raise StreamFMError(f"{bundle}: no such folder", hint="name a bundle's folder")
    if alias is None and not has_champion(registry, name):
        alias = CHAMPION
    found = registry.publish(bundle, name, alias=alias, keep_source=copy)
    answer(f"published as {model}/{found.version}" + "".join(f", @{alias}" for alias in found.aliases))


@models.command(cls=Command, short_help="Point an alias at a version.")
@REFERENCE
@ALIAS
def promote(reference: str, alias: str) -> None:
    """Point an alias at a version; it is verified first, and every reader of the alias follows.

    \b
    Examples:
      streamfm models promote models/ctr/3
      streamfm models promote models/ctr@challenger
      streamfm models promote models/ctr/4 --alias challenger
    """
    registry, name, version = version_in(reference)
    move = registry.promote(name, version, alias)
    answer(f"{registry.root / name}@{alias} → {move.version}")


@models.command(cls=Command, short_help="Point an alias back at the version before.")
@MODEL
@ALIAS
def rollback(model: str, alias: str) -> None:
    """Point an alias back at the version before the last promotion; once more, at the one before that.

    \b
    Examples:
      streamfm models rollback models/ctr
      streamfm models rollback models/ctr --alias challenger
    """
    registry, name = model_in(model.removesuffix(f"@{alias}"))
    move = registry.rollback(name, alias)
    answer(f"{registry.root / name}@{alias} → {move.version}")


@models.command(cls=Command, short_help="Delete old versions that nobody needs.")
@MODEL
@option("--keep", default=5, show_default=True, type=click.IntRange(1), help="How many of the newest to keep.")
def prune(model: str, keep: int) -> None:
    """Delete old versions, never one that an alias points at or could roll back to, or that a running reader holds.

    \b
    Examples:
      streamfm models prune models/ctr
      streamfm models prune models/ctr --keep 3
    """
    registry, name = model_in(model)
    pruned = registry.prune(name, keep=keep)
    answer(f"{model}: removed {', '.join(map(str, pruned.removed)) or 'nothing'}")
    for version, reason in pruned.kept.items():
        answer(f"{model}/{version} stays: {reason}")


@models.command(cls=Command, short_help="Check every byte of every version.")
@argument("place", "A registry, or a model in it, such as models/ctr.", default="models")
def verify(place: str) -> None:
    """Read every byte of a registry's (or one model's) versions and compare them with their manifests.

    \b
    Examples:
      streamfm models verify
      streamfm models verify models/ctr
    """
    from streamfm.registry import Registry
    from streamfm.registry.references import is_model

    registry, name = model_in(place) if is_model(Path(place)) else (Registry(place), None)
    found = registry.verify(name)
    if not found:
        raise RegistryError(f"{place}: no models there", hint="name a registry's folder, or a model's in it")
    print_table(["", ""], [(one.reference, "ok" if one.error is None else one.error.message) for one in found])
    if broken := [one for one in found if one.error is not None]:
        raise RegistryError(f"{len(broken)} of {len(found)} broken", hint="roll back from them, or train anew")
