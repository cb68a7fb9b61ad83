"""`streamfm evaluate`: what a model is worth on labelled rows; and the tables that tell it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from streamfm.cli.commands import DATA, JSON, PRECISION, REFERENCE, Command, option, source_of
from streamfm.cli.console import print_json, print_table
from streamfm.cli.progress import TrainingProgress

if TYPE_CHECKING:
    from streamfm.evaluation import Evaluation
    from streamfm.pipeline import BundleEvaluation
    from streamfm.scoring import Precision


@click.command(cls=Command, short_help="Measure a model on labelled rows.")
@REFERENCE
@DATA
@PRECISION
@option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Processor cores for the network.")
@JSON
def evaluate(reference: str, data: tuple[str, ...], precision: Precision, threads: int, as_json: bool) -> None:
    """Measure a model on DATA, which needs the label: AUC, log loss, calibration, and what became of each feature.

    A feature's unknown rate is the share of its values that training did not see; where it rises, train anew.

    \b
    Examples:
      streamfm evaluate models/ctr@champion tomorrow.parquet
      streamfm evaluate models/ctr/3 log/2026-06-*.parquet --precision int8
      streamfm evaluate models/ctr@champion tomorrow.parquet --json | jq .measures.auc
    """
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
