"""`streamfm retrain`: clicks become the next version, once or every minute."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from streamfm.cli.commands import CHAMPION, JSON, Command, argument, option
from streamfm.cli.complaints import complaint
from streamfm.cli.console import answer, print_json, print_table, say
from streamfm.cli.drain import Drain
from streamfm.cli.durations import DURATION, duration_text
from streamfm.cli.label_sources import LabelSource, label_options, label_source
from streamfm.cli.places import model_in
from streamfm.cli.progress import TrainingProgress
from streamfm.errors import SpecError, StreamFMError

if TYPE_CHECKING:
    from streamfm.labels import LabelSettings
    from streamfm.retraining import Retrainer, RetrainSettings, RoundReport

EXIT_REFUSED, EXIT_HELD = 3, 4
LEARNING, GATE = "Learning", "Gate"
DRAIN_S = 60.0


@click.command(cls=Command, short_help="Learn from new clicks, prove it is better, publish the next version.")
@argument("model", "REGISTRY/NAME, such as models/ctr.")
@label_source
@label_options
@option("--every", type=DURATION, help="Go on as a service, a round every so often: 1m, 1h.")
@option("--full", is_flag=True, help="Train anew on everything that is closed, instead of learning on.")
@option("--dry-run", is_flag=True, help="Everything up to the verdict; nothing is published, nothing moves.")
@option("--alias", default=CHAMPION, show_default=True, help="Names the version that serves, and moves.")
@option("--since", help="Learn from what is not older, whatever the version's manifest says: a time in ISO 8601.")
@option("--least-rows", type=click.IntRange(2), help="Fewer new rows wait for the next round. [default: 100]")
@option("--keep", type=click.IntRange(0), help="Versions that stay when old ones are pruned; 0: all. [default: 50]")
@option("--int8/--no-int8", default=None, help="Whether versions have a quantised network, too. [default: int8]")
@option("--memory-limit", help="Of DuckDB, while it joins. [default: 2GB]")
@JSON
@option(
    "--learning-rate",
    type=click.FloatRange(0, min_open=True),
    heading=LEARNING,
    help="Adam's. [default: after the first training's]",
)
@option("--batch-size", type=click.IntRange(4), heading=LEARNING, help="Rows of a step, at most. [default: 64]")
@option("--replay-ratio", type=click.FloatRange(0), heading=LEARNING, help="Old rows for each new one. [default: 1]")
@option(
    "--replay-weight",
    type=click.FloatRange(0, min_open=True),
    heading=LEARNING,
    help="What one of them counts. [default: 0.5]",
)
@option(
    "--replay-max-age",
    "replay_max_age_s",
    type=DURATION,
    heading=LEARNING,
    help="How old they may be. [default: any age]",
)
@option(
    "--admit-after",
    type=click.IntRange(1),
    heading=LEARNING,
    help="Sightings that give a new value its row. [default: min_count]",
)
@option(
    "--evict-unseen",
    "evict_unseen_s",
    type=DURATION,
    heading=LEARNING,
    help="Forget values not seen for so long. [default: never]",
)
@option(
    "--distillation",
    type=click.FloatRange(0, 1),
    heading=LEARNING,
    help="Share of the loss that asks the parent. [default: 0]",
)
@option("--seed", type=click.IntRange(0), heading=LEARNING, help="Of everything random. [default: 0]")
@option(
    "--hold-out",
    type=click.FloatRange(0, 1),
    heading=GATE,
    help="Share of the new rows, the newest, to judge on. [default: 0.2]",
)
@option("--slice", "slices", multiple=True, heading=GATE, help="A feature whose newcomers and values are guarded.")
@option(
    "--alpha",
    type=click.FloatRange(0, 1),
    heading=GATE,
    help="Chance that a round refuses an equal candidate. [default: 0.01]",
)
@option(
    "--margin", type=click.FloatRange(0), heading=GATE, help="Nats that all rounds together may lose. [default: 0.001]"
)
def retrain(model: str, source: LabelSource, labels: LabelSettings, **given: Any) -> int:
    """Turn the clicks that came back into the next version of MODEL, and publish it if it is no worse.

    1. Impressions whose click window has closed are joined with their clicks. 2. The version that serves learns on:
    from the new rows, mixed with as many old ones. 3. The newest rows, from which neither has learnt, judge: log loss,
    AUC, calibration, slices, and the lineage against a version some rounds back. 4. Passed: it is published, and the
    alias moves; SQL and streams follow by themselves. Refused: it is published without the alias, with the reasons.

    A version's manifest tells what it has learnt from, so that a crash at any moment leaves no row out and learns none
    twice. Two of these cannot both publish. Where clicks have stalled, nothing is learnt: no click is not a negative
    then.

    \b
    Exit codes:
      0  published, or nothing new to learn from
      3  refused by the gate; the reasons are printed, and in `streamfm models show`
      4  held: the labels look wrong (clicks stalled, a click rate out of bounds,
         many values that cannot be learnt from)

    \b
    Examples:
      streamfm retrain models/ctr --log log
      streamfm retrain models/ctr --log log --every 1m
      streamfm retrain models/ctr --impressions 'shown/*.parquet' --clicks clicks.parquet --window 1h --dry-run
      streamfm retrain models/ctr --log log --click-kind kind --positive click=1 --positive install=5
    """
    from streamfm.retraining import Retrainer

    every_s, as_json = given.pop("every"), given.pop("as_json")
    once = {name: given.pop(name) for name in ("full", "dry_run")}
    alias, since = given.pop("alias"), given.pop("since")
    if every_s is not None and (since or any(once.values())):
        raise click.UsageError("--every goes on learning; --full, --dry-run and --since are for one round")
    registry, name = model_in(model.removesuffix(f"@{alias}"))
    settings = _settings(labels, given)
    with TrainingProgress() as progress:
        retrainer = Retrainer(
            registry, name, source.feed(), settings, alias=alias, since=_time(since), progress=progress
        )
        with retrainer:
            if every_s is None:
                report = retrainer.round(**once)
            else:
                return _serve(retrainer, every_s, as_json=as_json)
    if as_json:
        print_json(report.to_dict())
    else:
        print_report(report)
    return {"refused": EXIT_REFUSED, "held": EXIT_HELD}.get(report.outcome, 0)


def print_report(report: RoundReport) -> None:
    """The verdict's table, and what came of it."""
    if report.verdict is not None:
        from streamfm.gate.verdict import TABLE_NAMES

        print_table(TABLE_NAMES, report.verdict.table_rows(), title="the gate")
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.counts.items() if count)
    if counts:
        answer(f"labels: {counts}")
    for left_out in report.left_out:
        say(str(left_out))
    answer(f"{report.outcome}: {report.message}")
    if report.hint:
        say(f"hint: {report.hint}")


def _serve(retrainer: Retrainer, every_s: float, *, as_json: bool) -> int:
    from streamfm.retraining import Pace, serve

    def told(news: RoundReport | StreamFMError | OSError) -> None:
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        if isinstance(news, (StreamFMError, OSError)):
            say(f"{now} {complaint(news)}")
        elif as_json:
            answer(json.dumps(news.to_dict()))
        else:
            took = sum(news.seconds.values())
            answer(f"{now} {news.outcome}: {news.message} ({took:.1f} s)")
            for left_out in news.left_out:
                say(str(left_out))
            if news.hint:
                say(f"hint: {news.hint}")

    say(f"a round every {duration_text(every_s)}; Ctrl-C or SIGTERM ends after the one under way")
    with Drain(DRAIN_S) as drain:

        def wait(seconds: float) -> bool:
            drain.sleep(seconds)
            return drain.is_wanted()

        serve(retrainer, Pace(every_s=every_s), told=told, wait=wait)
    return 0


_OF_THE_GATE = ("alpha", "margin")
_OF_LEARNING = (
    *("learning_rate", "batch_size", "replay_ratio", "replay_weight", "replay_max_age_s", "admit_after"),
    "evict_unseen_s",
    *("distillation", "seed"),
)
_OF_THE_ROUND = {"hold_out": "window_share", "least_rows": "least_rows", "keep": "keep", "int8": "int8"}


def _settings(labels: LabelSettings, given: dict[str, Any]) -> RetrainSettings:
    """The settings that were given; all others are the defaults."""
    from streamfm.finetuning import FineTuneSettings
    from streamfm.gate import GateSettings
    from streamfm.retraining import RetrainSettings

    present = {name: value for name, value in given.items() if value is not None}
    of_round = {field: present[name] for name, field in _OF_THE_ROUND.items() if name in present}
    if "memory_limit" in present:
        of_round["memory_limit"] = present["memory_limit"]
    try:
        return RetrainSettings(
            labels=labels,
            tuning=FineTuneSettings(**{name: present[name] for name in _OF_LEARNING if name in present}),
            gate=GateSettings(**{name: present[name] for name in _OF_THE_GATE if name in present}),
            slices=given["slices"],
            **of_round,
        )
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _time(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise click.BadParameter(f"--since {text!r}: expected a time such as 2026-01-31T12:00:00+00:00") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
