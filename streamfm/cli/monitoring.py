"""`streamfm monitor`: how what was served has come out, and the way back from a version that is worse."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from streamfm.cli.commands import CHAMPION, JSON, Command, argument, option
from streamfm.cli.console import answer, print_json, print_table, say
from streamfm.cli.durations import DURATION
from streamfm.cli.label_sources import LabelSource, label_options, label_source
from streamfm.cli.places import model_in
from streamfm.errors import SpecError

if TYPE_CHECKING:
    from streamfm.gate import GateSettings
    from streamfm.labels import LabelCounts, Labels, LabelSettings, Refusal
    from streamfm.monitoring import Comparison, MonitorReport, MonitorSettings, ServedRows
    from streamfm.registry import Registry
    from streamfm.scoring import Scorer

EXIT_WORSE, EXIT_HELD = 3, 4
SERVED, COMPARED = "What was served", "Comparison"
_SHOWN_PERIODS = 48


@click.command(cls=Command, short_help="Measure what was served, by version and hour; roll back on request.")
@argument("model", "REGISTRY/NAME, such as models/ctr.")
@label_source
@label_options
@option("--since", help="Impressions from then on: a time in ISO 8601, or so long ago, as 24h. [default: all]")
@option("--alias", default=CHAMPION, show_default=True, help="Names the version that serves.")
@option("--memory-limit", default="2GB", show_default=True, help="Of DuckDB, while it joins.")
@JSON
@option("--score", default="score", show_default=True, heading=SERVED, help="The column of the served probability.")
@option(
    "--model-version",
    "version",
    default="model_version",
    show_default=True,
    heading=SERVED,
    help="The column of the version that served; where it is absent, `version`.",
)
@option("--bucket", "bucket_s", type=DURATION, default="1h", show_default=True, heading=SERVED, help="A period told.")
@option(
    "--recent",
    "recent_s",
    type=DURATION,
    heading=SERVED,
    help="Compare the newest rows' features and scores with those before. [default: the newer half of the time]",
)
@option("--against", type=click.IntRange(1), heading=COMPARED, help="Another version. [default: the parent]")
@option("--margin", type=click.FloatRange(0), heading=COMPARED, help="Nats by which it may be worse. [default: 0.001]")
@option("--error", "lineage_alpha", type=click.FloatRange(0, 1), heading=COMPARED, help="Of the test. [default: 0.001]")
@option(
    "--rollback", is_flag=True, heading=COMPARED, help="Point the alias at the other version, if this one is worse."
)
def monitor(model: str, source: LabelSource, labels: LabelSettings, **given: Any) -> int:
    """Measure what was served under the name of MODEL, from the scores that impressions carry and the clicks that came.

    Log loss, AUC and calibration by version and by hour; how far the score and every feature are from how they were
    distributed before; and whether the version that serves is worse than its parent on the rows that it has served.
    That test may be asked as often as you like, without --since or from a fixed time: it errs for one version in a
    thousand all the same. With a --since that slides, as 24h, it errs one time in a thousand at each look.

    \b
    Exit codes:
      0  measured
      3  the version that serves is worse than the other; with --rollback the alias has moved
      4  held: clicks have stalled, or many values cannot be read, so that nothing can be said

    \b
    Examples:
      streamfm monitor models/ctr --log log
      streamfm monitor models/ctr --log log --rollback
      streamfm monitor models/ctr --impressions 'shown/*.parquet' --clicks clicks.parquet --json | jq .versions
    """
    from streamfm.monitoring import ServedRows, refuse_strangers
    from streamfm.monitoring import monitor as measure
    from streamfm.scoring import load

    registry, name = model_in(model.removesuffix(f"@{given['alias']}"))
    version = registry.current(name, given["alias"])
    if given["rollback"] and given["against"] is not None:
        refuse_strangers(registry, name, version, given["against"])
    served = load(registry.root / name / str(version))
    settings, gate = _settings(given), _gate(given)
    with _labelled(source, labels, served, given) as closed:
        if closed.refusal is not None:
            return _held(closed.refusal, closed.counts, as_json=given["as_json"])
        rows = ServedRows(closed.source, served.spec, settings, name)
        report = measure(rows, served.spec, settings)
        compared = _compared(registry, name, rows, served, settings, gate, given["against"])
    if given["as_json"]:
        told: dict[str, Any] = {"outcome": "measured", "refusal": None, "labels": closed.counts.to_json()}
        told["left_out"] = [one.to_json() for one in closed.left_out]
        print_json(told | report.to_dict() | {"comparison": None if compared is None else compared.to_dict()})
    else:
        _print(report, compared)
        for left_out in closed.left_out:
            say(str(left_out))
    return _act(registry, name, compared, given)


@contextmanager
def _labelled(source: LabelSource, labels: LabelSettings, served: Scorer, given: dict[str, Any]) -> Iterator[Labels]:
    """What is closed; any click rate is believed, and no row is sampled out."""
    from streamfm.labels import Position, closed_labels, fitted

    spec, now = served.spec, datetime.now(UTC)
    if not (spec.event_id and spec.event_time):
        raise SpecError(
            f"{served.bundle.path}: features.toml names no event_id or no event_time, by which clicks are joined",
            hint="add them to features.toml, and train anew",
        )
    joined = replace(fitted(labels, spec), ctr_bounds=(0.0, math.inf), negative_share=1.0)
    since = _time(given["since"], now)
    with (
        source.feed().relations() as relations,
        closed_labels(
            relations.impressions,
            relations.clicks,
            joined,
            finished=relations.finished,
            since=None if since is None else Position(closed_until=since),
            now=now,
            inputs=spec.inputs,
            memory_limit=given["memory_limit"],
        ) as closed,
    ):
        yield closed.sound(spec)


def _held(refusal: Refusal, counts: LabelCounts, *, as_json: bool) -> int:
    """Tell why there is nothing to measure; the exit code."""
    is_nothing = refusal.reason == "nothing_new"
    if as_json:
        outcome = "nothing" if is_nothing else "held"
        print_json({"outcome": outcome, "refusal": refusal._asdict(), "labels": counts.to_json()})
    else:
        answer(f"held: {refusal.message}")
        say(f"hint: {refusal.hint}")
    return 0 if is_nothing else EXIT_HELD


def _settings(given: dict[str, Any]) -> MonitorSettings:
    from streamfm.monitoring import MonitorSettings

    try:
        return MonitorSettings(**{key: given[key] for key in ("score", "version", "bucket_s", "recent_s")})
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _gate(given: dict[str, Any]) -> GateSettings:
    from streamfm.gate import GateSettings

    try:
        return GateSettings(**{key: given[key] for key in ("margin", "lineage_alpha") if given[key] is not None})
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _compared(
    registry: Registry,
    name: str,
    rows: ServedRows,
    served: Scorer,
    settings: MonitorSettings,
    gate: GateSettings,
    against: int | None,
) -> Comparison | None:
    """The version that serves against the other; None where there is none."""
    from streamfm.monitoring import compare, parent_of
    from streamfm.scoring import load

    if against is None:
        against = parent_of(served.bundle.manifest)
        if against is None:
            return None
        if against not in registry.model(name).versions:
            say(f"{name}/{against}, the parent, is not there any more; --against names another to compare with")
            return None
    return compare(rows, served, load(registry.root / name / str(against)), settings, gate)


def _print(report: MonitorReport, compared: Comparison | None) -> None:
    from streamfm.monitoring.quality import TABLE_NAMES as QUALITY
    from streamfm.monitoring.stability import TABLE_NAMES as STABILITY

    overall = [] if report.overall is None else [report.overall]
    print_table(QUALITY, [one.cells() for one in [*report.versions, *overall]], title="by version")
    shown = report.periods[-_SHOWN_PERIODS:]
    more = f", the last {len(shown)} of {len(report.periods)}" if len(shown) < len(report.periods) else ""
    print_table(QUALITY, [one.cells() for one in shown], title=f"by period{more}")
    since = f"since {report.recent_from:%Y-%m-%d %H:%M:%S} against before"
    print_table(STABILITY, [one.cells() for one in report.stability], title=f"stability, {since}")
    for count, what in ((report.unscored, "carry no score"), (report.others, "were served by other models")):
        if count:
            answer(f"{count:,} rows {what}")
    if compared is not None:
        answer(str(compared))


def _act(registry: Registry, name: str, compared: Comparison | None, given: dict[str, Any]) -> int:
    """Roll back, if it is needed and wanted; the exit code."""
    from streamfm.monitoring import roll_back

    alias = given["alias"]
    if compared is None:
        if given["rollback"]:
            say(f"{registry.root / name}@{alias} has no parent to roll back to; streamfm models promote moves it")
        return 0
    if not compared.is_worse:
        return 0
    if given["rollback"]:
        roll_back(registry, name, compared, alias=alias)
        say(f"{registry.root / name}@{alias} → {compared.other}")
    else:
        say(f"hint: streamfm models promote {registry.root / name}/{compared.other} rolls back; so does --rollback")
    return EXIT_WORSE


def _time(text: str | None, now: datetime) -> datetime | None:
    """An instant: written, or so long before now."""
    if text is None:
        return None
    if re.fullmatch(r"[\d.]+\s*[a-z]+", text.strip()):
        return now - timedelta(seconds=DURATION.convert(text, None, None))
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"--since {text!r}: expected 24h, or a time as 2026-01-31T12:00:00+00:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
