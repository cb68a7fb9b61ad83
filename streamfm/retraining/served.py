"""The version that serves: what it was trained on, how it answers, and itself as something that can learn on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from streamfm.bundle import Manifest
from streamfm.errors import BundleError, SpecError
from streamfm.finetuning import FineTuner, FineTuneSettings
from streamfm.gate import Evidence
from streamfm.labels import Position
from streamfm.registry import Registry
from streamfm.scoring import Scorer, load


@dataclass(kw_only=True, slots=True)
class Served:
    """A published version, open.

    Attributes:
        version: Its number.
        reference: ``ctr/3``, as manifests name parents.
        scorer: Answers as it serves.
        tuner: Learns on from it; changed by a round.
        position: What it has been trained on.
        evidence: What the rounds before have shown of its lineage.
    """

    version: int
    reference: str
    scorer: Scorer
    tuner: FineTuner
    position: Position
    evidence: Evidence

    @property
    def manifest(self) -> Manifest:
        """What its bundle says."""
        return self.scorer.bundle.manifest


def open_served(
    registry: Registry, name: str, version: int, settings: FineTuneSettings, *, since: datetime | None = None
) -> Served:
    """Open a version to learn on from.

    Args:
        registry: Where it is.
        name: The model.
        version: Its number.
        settings: How it is to learn.
        since: Take it as trained on everything before that time, whatever its manifest says.

    Raises:
        BundleError: The bundle is broken, or has not what learning on needs.
        RegistryError: There is no such version.
        SpecError: Its specification lacks what labels need.
    """
    scorer = load(registry.root / name / str(version))
    manifest = scorer.bundle.manifest
    _check_spec(scorer)
    return Served(
        version=version,
        reference=f"{name}/{version}",
        scorer=scorer,
        tuner=FineTuner.from_bundle(scorer.bundle, settings),
        position=position_of(manifest) if since is None else Position(closed_until=since),
        evidence=Evidence.from_json(_mapping(manifest.training, "gate")),
    )


def position_of(manifest: Manifest) -> Position:
    """What a version has been trained on.

    Of a first one, everything up to the last row that it trained on; what validated is learnt by the first round.

    Raises:
        BundleError: The manifest does not tell.
    """
    if written := _mapping(manifest.training, "position"):
        return Position.from_json(written)
    window = _mapping(manifest.training, "windows").get("train")
    last = window[1] if isinstance(window, list) and len(window) == 2 else None
    if not last:
        raise BundleError(
            f"{manifest.name}/{manifest.version}: its manifest does not tell up to when it was trained",
            hint="name event_time in features.toml and train anew, or say it: --since 2026-01-31T12:00:00+00:00",
        )
    return Position(closed_until=datetime.fromisoformat(str(last)) + timedelta(microseconds=1))


def _check_spec(scorer: Scorer) -> None:
    spec = scorer.spec
    if spec.task != "binary":
        raise SpecError(f"{scorer.bundle.path}: the task is {spec.task}, and clicks make a binary model only")
    for key in ("event_id", "event_time"):
        if not getattr(spec, key):
            raise SpecError(
                f"{scorer.bundle.path}: features.toml names no {key}, by which impressions and clicks are joined",
                hint=f"add {key} = 'COLUMN' to features.toml, and train anew",
            )


def _mapping(facts: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = facts.get(key)
    return found if isinstance(found, Mapping) else {}
