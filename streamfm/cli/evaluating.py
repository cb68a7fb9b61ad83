"""`streamfm evaluate`: what a model is worth on labelled rows; and the tables that tell it."""

from __future__ import annotations

import shlex
from dataclasses import fields
from typing import TYPE_CHECKING, Any, TypeVar

import click

from streamfm.cli.commands import DATA_HELP, JSON, PRECISION, REFERENCE, Argument, Command, option, source_of
from streamfm.cli.console import print_json, print_table
from streamfm.cli.progress import TrainingProgress
from streamfm.cli.progressive_options import (
    FineTuning,
    Replay,
    names_of_options,
    progressive_options,
    validate_progressively,
)
from streamfm.cli.stream_options import refuse_idle

if TYPE_CHECKING:
    from streamfm.evaluation import Evaluation
    from streamfm.pipeline import BundleEvaluation
    from streamfm.scoring import Precision


_Kind = TypeVar("_Kind", Replay, FineTuning)


class _Data(Argument):
    """DATA, of which --features takes the first argument, too: whether there is any, the command decides."""

    @property
    def record(self) -> tuple[str, str]:
        """As of an argument that is required."""
        return f"{self.human_readable_name}...", self.explanation

    def make_metavar(self, ctx: click.Context) -> str:
        """The same."""
        return f"{self.human_readable_name}..."


@click.command(cls=Command, short_help="Measure a model, or continuous training, on labelled rows.")
@REFERENCE
@click.argument("data", cls=_Data, explanation=DATA_HELP, nargs=-1)
@PRECISION
@option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Processor cores for the network.")
@JSON
@progressive_options()
@click.pass_context
def evaluate(
    context: click.Context,
    /,
    reference: str,
    data: tuple[str, ...],
    precision: Precision,
    threads: int,
    as_json: bool,
    progressive: bool,
    **options: Any,
) -> None:
    """Measure a model on DATA, which needs the label: AUC, log loss, calibration, and what became of each feature.

    A feature's unknown rate is the share of its values that training did not see; where it rises, train anew.

    With --progressive, what continuous training would have been worth on DATA: its rows are put in the order of their
    event time and cut into shards; each is predicted by the model as of then, and learnt from when its labels have
    come. The first model is REFERENCE, and rows that it has seen are not predicted; or, with --features, it is trained
    on the first half. Run it with several intervals: the difference to the frozen model is what each is worth.

    \b
    Examples:
      streamfm evaluate models/ctr@champion tomorrow.parquet
      streamfm evaluate models/ctr/3 log/2026-06-*.parquet --precision int8
      streamfm evaluate models/ctr@champion tomorrow.parquet --json | jq .measures.auc
      streamfm evaluate --progressive log.parquet --features features.toml --interval 1h --delay 30m
      streamfm evaluate --progressive log.parquet --features features.toml --modes frozen,incremental,full --shards 100
      streamfm evaluate --progressive models/ctr@champion june.parquet --interval 10m
    """
    features = options["features"]
    if progressive:
        refuse_idle(context, {"precision", "threads"}, "with --progressive")
    else:
        refuse_idle(context, names_of_options(), "without --progressive")
    if progressive and features is not None:
        data, reference = (reference, *data), ""
    if not data:
        raise click.MissingParameter(ctx=context, param=next(p for p in context.command.params if p.name == "data"))
    if progressive and reference:
        refuse_idle(context, {"warm_start"}, "with a model to begin with")
    if not progressive:
        _evaluate(reference, data, precision, threads, as_json=as_json)
        return
    replay, finetuning = _chosen(Replay, options), _chosen(FineTuning, options)
    first = options["network"], options["training"]
    validate_progressively(reference or None, features, data, replay, first, finetuning, as_json=as_json)


def _chosen(kind: type[_Kind], options: dict[str, Any]) -> _Kind:
    """The dataclass whose fields bear the options' names."""
    return kind(**{field.name: options[field.name] for field in fields(kind)})


def _evaluate(reference: str, data: tuple[str, ...], precision: Precision, threads: int, *, as_json: bool) -> None:
    from streamfm.pipeline import evaluate as evaluate_bundle
    from streamfm.scoring import load

    scorer = load(reference, precision=precision, threads=threads)
    with TrainingProgress() as progress:
        found = evaluate_bundle(scorer, source_of(data), progress=progress)
    if as_json:
        print_json(found.to_dict())
        return
    print_evaluation(found.evaluation, title=f"{reference} on {shlex.join(data)}")
    print_features(found)


def print_evaluation(evaluation: Evaluation, *, title: str) -> None:
    """The measures, then calibration by decile."""
    interval = f"{evaluation.confidence:.0%} interval"
    print_table(["measure", "value", interval, "note"], evaluation.summary_rows(), title=title)
    if evaluation.bins:
        names = ["predicted", "rows", "mean", f"observed ({interval})"]
        print_table(names, evaluation.calibration_rows(), title="calibration by decile of the prediction")


def print_features(found: BundleEvaluation) -> None:
    """Coverage and unknown rate of each feature."""
    rows = [
        (f.name, f"{f.coverage:.2%}", "—" if f.unknown_rate is None else f"{f.unknown_rate:.2%}")
        for f in found.features
    ]
    print_table(["feature", "has a value", "of these unknown"], rows, title="features")
