"""`streamfm models`: the registry's versions and aliases."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from streamfm.bundle import Manifest, read_manifest
from streamfm.cli.console import console, output, print_table
from streamfm.errors import RegistryError
from streamfm.registry import CHAMPION, Registry, parse_reference, resolve
from streamfm.registry.references import is_model

JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
ALIAS = click.option("--alias", default=CHAMPION, show_default=True, help="The alias to move.")


@click.group()
def models() -> None:
    """List, compare, promote, roll back, prune and verify the versions in a registry (a folder such as models/).

    \b
    Examples:
      streamfm models list
      streamfm models promote models/ctr/3
      streamfm models rollback models/ctr
    """


@models.command("list")
@click.argument("root", default="models")
@JSON
def list_models(root: str, as_json: bool) -> None:
    """List the models in ROOT (models by default), with their versions and aliases."""
    found = Registry(root).list()
    if as_json:
        output.print_json(
            json.dumps([{"name": m.name, "versions": m.versions, "aliases": dict(m.aliases)} for m in found])
        )
        return
    if not found:
        raise RegistryError(f"{root}: no models there", hint=f"streamfm train DATA --out {root}/NAME makes one")
    rows = [
        (model.name, ", ".join(map(str, model.versions)), ", ".join(f"{a} → {v}" for a, v in model.aliases.items()))
        for model in found
    ]
    print_table(["model", "versions", "aliases"], rows)


@models.command()
@click.argument("reference")
@JSON
def show(reference: str, as_json: bool) -> None:
    """Show what a version says of itself: where it comes from, what was measured, how it was proven.

    \b
    Examples:
      streamfm models show models/ctr@champion
      streamfm models show models/ctr/3 --json
    """
    found = resolve(reference)
    manifest = read_manifest(found.path)
    if as_json:
        output.print_json(manifest.to_bytes().decode())
        return
    print_table(["", ""], _facts(manifest, found.path), title=reference)


def _facts(manifest: Manifest, path: Path) -> list[tuple[str, object]]:
    layout = manifest.layout
    metrics: Mapping[str, Any] = manifest.metrics
    network = f"{layout.factors} factors, hidden {'-'.join(map(str, layout.hidden)) or 'none'}, {layout.rows:,} rows"
    facts: list[tuple[str, object]] = [
        ("name", manifest.name),
        ("version", manifest.version if manifest.version is not None else "—"),
        ("parent", manifest.parent or "—"),
        ("created", manifest.created_at),
        ("bundle", str(path)),
        ("task", manifest.task),
        ("network", network),
        ("features", manifest.spec_fingerprint[:12]),
    ]
    facts += [
        (f"{rows} {name}", _interval(m)) for rows, found in metrics.items() for name, m in found["measures"].items()
    ]
    facts += [(f"{precision} {name}", value) for precision, proof in _proofs(manifest) for name, value in proof.items()]
    return facts + [(f"library {name}", version) for name, version in manifest.libraries.items()]


def _interval(measure: Mapping[str, Any]) -> str:
    if measure["value"] is None:
        return f"undefined: {measure['note']}"
    if measure["low"] is None:
        return f"{measure['value']:.5f}"
    return f"{measure['value']:.5f}  ({measure['low']:.5f} - {measure['high']:.5f})"


def _proofs(manifest: Manifest) -> list[tuple[str, Mapping[str, Any]]]:
    return [(key, proof) for key, proof in manifest.parity.items() if isinstance(proof, Mapping)]


@models.command()
@click.argument("reference")
@ALIAS
def promote(reference: str, alias: str) -> None:
    """Point an alias at a version; it is verified first, and every reader of the alias follows.

    \b
    Example:
      streamfm models promote models/ctr/3
    """
    registry, name, version = _version_of(reference)
    move = registry.promote(name, version, alias)
    console.print(f"{registry.root / name}@{alias} → {move.version}")


def _version_of(reference: str) -> tuple[Registry, str, int]:
    """The registry, the model and the version that a reference names.

    Raises:
        RegistryError: It names a bundle's folder, or nothing that is there.
    """
    parts = parse_reference(reference)
    if parts.name is None:
        raise RegistryError(f"{reference}: not a version in a registry", hint="name one such as models/ctr/3")
    registry = Registry(parts.folder)
    version = registry.current(parts.name, parts.alias) if parts.alias else parts.version
    assert version is not None  # a name comes with a version or an alias
    return registry, parts.name, version


@models.command()
@click.argument("model")
@ALIAS
def rollback(model: str, alias: str) -> None:
    """Point an alias back at the version before the last promotion; once more, at the one before that.

    \b
    Example:
      streamfm models rollback models/ctr
    """
    path = Path(model.partition("@")[0])
    alias = model.partition("@")[2] or alias
    move = Registry(path.parent).rollback(path.name, alias)
    console.print(f"{path}@{alias} → {move.version}")


@models.command()
@click.argument("model")
@click.option("--keep", default=5, show_default=True, type=click.IntRange(1), help="How many of the newest to keep.")
def prune(model: str, keep: int) -> None:
    """Delete old versions, never one that an alias points or could roll back to, or that a running reader holds.

    \b
    Example:
      streamfm models prune models/ctr --keep 3
    """
    path = Path(model)
    pruned = Registry(path.parent).prune(path.name, keep=keep)
    console.print(f"{path}: removed {', '.join(map(str, pruned.removed)) or 'nothing'}")
    for version, reason in pruned.kept.items():
        console.print(f"{path}/{version} stays: {reason}")


@models.command()
@click.argument("model", default="models")
def verify(model: str) -> None:
    """Read every byte of a registry's (or one model's) versions and compare them with their manifests.

    \b
    Examples:
      streamfm models verify
      streamfm models verify models/ctr
    """
    path = Path(model)
    registry, name = (Registry(path.parent), path.name) if is_model(path) else (Registry(path), None)
    found = registry.verify(name)
    if not found:
        raise RegistryError(f"{model}: no models there", hint="name a registry's folder, or a model's in it")
    rows = [(check.reference, "ok" if check.error is None else str(check.error)) for check in found]
    print_table(["", "verified"], rows)
    if broken := [check for check in found if check.error is not None]:
        raise RegistryError(f"{len(broken)} of {len(found)} broken", hint="roll back from them, or train anew")
