"""A version of a model, told from its manifest; what a manifest of another streamfm lacks is left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from streamfm.bundle import read_manifest
from streamfm.cli.console import print_table
from streamfm.errors import StreamFMError

if TYPE_CHECKING:
    from streamfm.bundle import Manifest

_MAX_ANCESTORS = 20
_MEASURES = {"binary": ("auc", "log_loss", "calibration"), "regression": ("rmse", "mae")}


def version_facts(path: Path, manifest: Manifest, aliases: Sequence[str]) -> dict[str, Any]:
    """The manifest as JSON, with where it is and what points at it."""
    return {"path": str(path), "aliases": list(aliases), **json.loads(manifest.to_bytes())}


def measured(manifest: Manifest) -> dict[str, str]:
    """What versions are compared by: the rows that they were measured on, and the measures."""
    for rows in ("test", "window", "validation"):
        measures = _mapping(manifest.metrics, rows, "measures")
        names = [name for name in _MEASURES[manifest.task] if name in measures]
        if names:
            return {"rows": rows} | {name: _measure(_mapping(measures, name).get("value")) for name in names}
    return {}


def print_version(path: Path, manifest: Manifest, aliases: Sequence[str]) -> None:
    """Everything, in a few tables."""
    print_table(["", ""], list(_identity(path, manifest, aliases)), title=str(path))
    if rows := list(_rows(manifest.training)):
        print_table(["rows", "number", "from", "to", "source"], rows, title="trained on")
    if rounds := list(_round(manifest.training)):
        print_table(["", ""], rounds, title="the round that made it")
    if verdict := _mapping(manifest.training, "verdict"):
        from streamfm.gate.verdict import TABLE_NAMES, Verdict

        print_table(TABLE_NAMES, Verdict.from_json(verdict).table_rows(), title="the gate's verdict")
    settings = {
        **_mapping(manifest.training, "model"),
        **_mapping(manifest.training, "report", "settings"),
    }
    if settings:
        print_table(["setting", "value"], [(name, _plain(value)) for name, value in settings.items()], title="settings")
    for name in manifest.metrics:
        if measures := list(_measures(_mapping(manifest.metrics, name, "measures"))):
            print_table(["measure", "value", "interval", "note"], measures, title=f"measured on the {name} rows")
    proofs = {name: _mapping(manifest.parity, name) for name in manifest.parity}
    facts = {name: None for proof in proofs.values() for name in proof}
    if facts:
        names = [name for name, proof in proofs.items() if proof]
        lines = [(fact, *(_number(proofs[name].get(fact)) for name in names)) for fact in facts]
        rows_proven = manifest.parity.get("rows", "?")
        print_table(["proof", *names], lines, title=f"proven against the trained model on {rows_proven} rows")


def _identity(path: Path, manifest: Manifest, aliases: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What and whence."""
    layout, report = manifest.layout, _mapping(manifest.training, "report")
    version = "not published" if manifest.version is None else f"version {manifest.version}"
    yield "model", ", ".join([manifest.name, version, *(f"@{alias}" for alias in aliases)])
    yield "created", _moment(manifest.created_at)
    yield "lineage", " ← ".join(_ancestors(path, manifest)) or "trained anew"
    yield "task", manifest.task
    yield "features", f"{layout.slots} slots, {layout.rows:,} table rows, fingerprint {manifest.spec_fingerprint[:12]}"
    yield "network", f"{layout.factors} factors, hidden {', '.join(map(str, layout.hidden)) or 'none'}"
    if report:
        epochs = len(report.get("epochs", ()))
        yield "training", f"{epochs} epochs, the best {report.get('best_epoch')}, ended by {report.get('stopped')}"
    for name, value in manifest.metrics.items():
        if not isinstance(value, Mapping):
            yield name, _number(value)
    size = sum(entry.size for entry in manifest.files.values())
    yield "bundle", f"{len(manifest.files)} files, {size / 1e6:,.1f} MB, format {manifest.format_version}"
    yield "libraries", ", ".join(f"{name} {number}" for name, number in manifest.libraries.items())


def _ancestors(path: Path, manifest: Manifest) -> Iterator[str]:
    """The versions that this one was trained on from, the nearest first, as far as they are still there."""
    parent = manifest.parent
    for _ in range(_MAX_ANCESTORS):
        if parent is None:
            return
        yield parent
        try:
            parent = read_manifest(path.parent.parent / parent).parent
        except StreamFMError:
            return


def _rows(training: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str]]:
    """Rows of each kind, with the window of their event times."""
    for name, number in _mapping(training, "rows").items():
        window = _mapping(training, "windows").get(name) or (None, None)
        first, last = (_moment(moment) for moment in window)
        yield name, f"{number:,}", first, last, str(_mapping(training, "sources").get(name, "—"))


def _round(training: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of a version that was retrained: what it learnt, and from where to where."""
    facts, position = _mapping(training, "round"), _mapping(training, "position")
    if not facts:
        return
    since, rows, labels = (_mapping(facts, key) for key in ("since", "rows", "labels"))
    yield "kind", str(facts.get("kind"))
    yield "event time", f"{_moment(since.get('closed_until'))} to {_moment(position.get('closed_until'))}"
    before = _mapping(since, "offsets")
    for partition, end in _mapping(position, "offsets").items():
        yield f"offsets of {partition}", f"{before.get(partition, 0)} to {end}"
    yield "rows", ", ".join(f"{count:,} {name}" for name, count in rows.items())
    yield "labels", ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in labels.items() if count)
    if shift := training.get("logit_shift"):
        yield "logit shift", _number(shift)


def _measures(measures: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for name in measures:
        one = _mapping(measures, name)
        low, high = one.get("low"), one.get("high")
        interval = "" if low is None or high is None else f"{low:.5f} - {high:.5f}"
        yield name, _measure(one.get("value")), interval, one.get("note", "")


def _mapping(value: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """What lies at the end of the keys; empty when it is not there, or no mapping."""
    found: Any = value
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _moment(text: str | None) -> str:
    """An instant as people write it."""
    return "—" if text is None else f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S %Z}".strip()


def _number(value: object) -> str:
    return f"{value:.5g}" if isinstance(value, float) else "—" if value is None else str(value)


def _measure(value: object) -> str:
    return f"{value:.5f}" if isinstance(value, float) else _number(value)


def _plain(value: object) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
