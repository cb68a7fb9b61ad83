"""`streamfm evaluate --progressive`: what it is told, and the tables that tell what it found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamfm.cli.commands import Decorator, option, settings, source_of
from streamfm.cli.console import print_json, print_table
from streamfm.cli.durations import DURATION, duration_text
from streamfm.cli.progress import TrainingProgress
from streamfm.errors import SpecError
from streamfm.settings import ModelSettings, TrainSettings

if TYPE_CHECKING:
    from streamfm.finetuning import FineTuneSettings
    from streamfm.progressive import ModeReport, ProgressiveReport

_Settings = TypeVar("_Settings")

MODES = ("frozen", "incremental", "full")
"""Those of `streamfm.progressive`, whose import takes long."""

PERIODS = 10
"""Lines of the table over time, at most."""

_HEADING = "Progressive validation"
_NETWORK = {
    "factors": "Length of every embedding.",
    "hidden": "Widths of the deep part's layers; 0 for none.",
    "dropout": "Share of hidden units left out at each step.",
}
_TRAINING = {
    "max_epochs": "Passes over the rows at most.",
    "batch_size": "Rows of a step at most.",
    "learning_rate": "Adam's, at first.",
    "l2_factors": "Penalty on the embeddings.",
    "l2_first_order": "Penalty on the first-order weights.",
    "seed": "Of everything random, replay and fine-tuning included.",
}


def _modes(text: str) -> tuple[str, ...]:
    """The modes in a text; click shows the function's name."""
    names = tuple(name.strip() for name in text.split(","))
    for name in names:
        if name not in MODES:
            raise click.BadParameter(f"{name!r}: expected some of {', '.join(MODES)}, with commas between")
    return names


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """What the options say of the shards."""

    warm_start: float
    shards: int | None
    interval: float | None
    delay: float
    delay_shards: int
    modes: tuple[str, ...]
    full_every: int
    order: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FineTuning:
    """Settings of fine-tuning that are offered; None for the default."""

    fine_tune_rate: float | None
    fine_tune_batch: int | None
    replay: float | None


_OPTIONS = (
    option("--progressive", is_flag=True, heading=_HEADING, help="Predict, then learn, shard by shard."),
    option("--features", heading=_HEADING, help="The specification of a model to begin with: all arguments are DATA."),
    option(
        "--modes",
        type=_modes,
        default="frozen,incremental",
        show_default=True,
        metavar="MODES",
        heading=_HEADING,
        help="What happens between two shards: frozen (nothing), incremental (fine-tuning), full (training from "
        "scratch on all that has come).",
    ),
    option(
        "--warm-start",
        type=click.FloatRange(0, 1, min_open=True, max_open=True),
        default=0.5,
        show_default=True,
        heading=_HEADING,
        help="Share of the rows, the earliest, for the first model; the others are predicted.",
    ),
    option("--shards", type=click.IntRange(1), heading=_HEADING, help="Shards of as many rows each.  [default: 100]"),
    option("--interval", type=DURATION, heading=_HEADING, help="Length of a shard in time instead, such as 10m or 1d."),
    option("--delay", type=DURATION, default=0.0, heading=_HEADING, help="How long after its event a label comes."),
    option(
        "--delay-shards",
        type=click.IntRange(0),
        default=0,
        heading=_HEADING,
        help="How many shards later a label comes, besides the one that always lies between.",
    ),
    option(
        "--full-every",
        type=click.IntRange(1),
        default=10,
        show_default=True,
        heading=_HEADING,
        help="Shards between two trainings from scratch.",
    ),
    option(
        "--order",
        multiple=True,
        metavar="COLUMN",
        heading=_HEADING,
        help="Orders rows of one event time, before the event id does; may be given again.",
    ),
    option("--fine-tune-rate", type=float, heading=_HEADING, help="Adam's learning rate between two shards."),
    option("--fine-tune-batch", type=int, heading=_HEADING, help="Rows of a step of it, at most."),
    option("--replay", type=float, heading=_HEADING, help="Older rows learnt again for each new one."),
)
_FIRST_MODEL = "Progressive validation: training from scratch"


def progressive_options() -> Decorator:
    """The options of --progressive; the command gets them by their names, and `network` and `training`."""

    def decorate(function: Any) -> Any:
        function = settings("training", TrainSettings, {_FIRST_MODEL: _TRAINING}, spellings={"max_epochs": "--epochs"})(
            function
        )
        function = settings("network", ModelSettings, {_FIRST_MODEL: _NETWORK})(function)
        for one in reversed(_OPTIONS):
            function = one(function)
        return function

    return decorate


def names_of_options() -> set[str]:
    """The parameters that do nothing without --progressive."""
    ours = {name for kind in (Replay, FineTuning) for name in kind.__dataclass_fields__}
    return ours | {"features"} | set(_NETWORK) | set(_TRAINING)


def validate_progressively(
    reference: str | None,
    features: str | None,
    data: tuple[str, ...],
    replay: Replay,
    first: tuple[ModelSettings, TrainSettings],
    finetuning: FineTuning,
    *,
    as_json: bool,
) -> None:
    """Run it, and print what it found."""
    from streamfm.pipeline import PipelineSettings
    from streamfm.progressive import ProgressiveSettings, progressive

    network, training = first
    shards = replay.shards or (None if replay.interval else 100)
    how = _made(
        ProgressiveSettings,
        modes=replay.modes,
        warm_start=replay.warm_start,
        shards=shards,
        interval_s=replay.interval,
        delay_s=replay.delay,
        delay_shards=replay.delay_shards,
        full_every=replay.full_every,
        order=replay.order,
        replay_seed=training.seed,
        training=PipelineSettings(model=network, training=training),
        finetuning=_finetuning(finetuning, training.seed) if "incremental" in replay.modes else None,
    )
    with TrainingProgress() as progress:
        found = progressive(features, source_of(data), model=reference, settings=how, progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    _print(found, replay)


def _made(kind: Callable[..., _Settings], **values: Any) -> _Settings:
    try:
        return kind(**values)
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _finetuning(asked: FineTuning, seed: int) -> FineTuneSettings:
    from streamfm.finetuning import FineTuneSettings

    given = {
        "learning_rate": asked.fine_tune_rate,
        "batch_size": asked.fine_tune_batch,
        "replay_ratio": asked.replay,
    }
    present: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return _made(FineTuneSettings, seed=seed, **present)


def _print(found: ProgressiveReport, replay: Replay) -> None:
    length = "as many rows each" if replay.interval is None else f"{duration_text(replay.interval)} each"
    title = (
        f"{found.source}: {found.rows:,} rows, {found.shards[0].begins} to {found.shards[-1].ends}, predicted in "
        f"{len(found.shards):,} shards of {length}, after {found.warm_start_rows:,} rows of warm start"
    )
    names = [measure.name for measure in found.modes[0].evaluation.measures]
    loss = "log loss" if "log_loss" in names else "squared error"
    heads = ["mode", *names, f"{loss} against {found.modes[0].mode}", "rounds", "s a round"]
    print_table(heads, [_line(mode, names) for mode in found.modes], title=title)
    measure = "log_loss" if "log_loss" in names else "rmse"
    periods = found.periods(measure, PERIODS)
    title = f"{measure} over time"
    print_table(["from", "rows", *(mode.mode for mode in found.modes)], periods, title=title)


def _line(mode: ModeReport, names: list[str]) -> list[str]:
    values = [mode.value(name) for name in names]
    texts = ["undefined" if value is None else f"{value:.5f}" for value in values]
    seconds = mode.seconds_per_round
    return [mode.mode, *texts, _difference(mode), f"{mode.rounds:,}", "—" if seconds is None else f"{seconds:.3g}"]


def _difference(mode: ModeReport) -> str:
    found = mode.difference
    if found is None:
        return "—"
    if found.low is None or found.high is None:
        return f"{found.value:+.5f}"
    return f"{found.value:+.5f} ({found.low:+.5f} to {found.high:+.5f})"
