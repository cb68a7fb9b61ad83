"""`streamfm init`, `train` and `evaluate`: from a click log to a proven model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.progress import Progress as Bar
from rich.progress import TaskID

from streamfm.cli.console import PRECISION, console, output, print_table, progress_bar
from streamfm.errors import DataError, RegistryError, StreamFMError
from streamfm.files import token
from streamfm.registry import CHAMPION, Registry, parse_reference
from streamfm.train_settings import EpochReport, TrainSettings

if TYPE_CHECKING:
    from streamfm.evaluation import Evaluation
    from streamfm.pipeline import BundleEvaluation, TrainedBundle
    from streamfm.scoring import Precision

DEFAULTS = TrainSettings()


@click.command(short_help="Propose a specification of features from data.")
@click.argument("data")
@click.option("--label", required=True, help="The column to learn: 0 or 1 for clicks, a number for ratings.")
@click.option("-o", "--output", "target", default="features.toml", show_default=True, help="Where to; - prints it.")
@click.option("--force", is_flag=True, help="Write over the file.")
def init(data: str, label: str, target: str, force: bool) -> None:
    """Look at DATA and propose a features.toml: what to make of each column, with the reasons as comments.

    \b
    Examples:
      streamfm init events.parquet --label clicked
      streamfm init 'log/*.csv' --label clicked -o - | less
    """
    from streamfm.proposal import propose

    path = Path(target)
    if target != "-" and path.exists() and not force:
        raise StreamFMError(f"{target}: is there already", hint="--force writes over it, -o names another file")
    text = propose(data, label).to_toml()
    if target == "-":
        click.echo(text, nl=False)
        return
    path.write_text(text, encoding="utf-8")
    console.print(
        f"{target} written: read its comments, then\n  streamfm train {data} --features {target} --out models/NAME"
    )


@click.command(short_help="Train a model, prove its export, publish it.")
@click.argument("data")
@click.option("--features", "spec", default="features.toml", show_default=True, help="The specification.")
@click.option("--out", required=True, help="REGISTRY/NAME, such as models/ctr: published there as the next version.")
@click.option("--promote", is_flag=True, help=f"Move @{CHAMPION} to it; the first version gets it anyway.")
@click.option(
    "--valid", help="Rows that decide when to stop; without, a share of DATA is held back, the latest by time."
)
@click.option("--test", help="Rows that decide nothing and are only measured.")
@click.option("--valid-fraction", default=0.1, show_default=True, type=click.FloatRange(0, 1, True, True))
@click.option("--factors", type=click.IntRange(1), help="Length of every embedding.  [default: 32]")
@click.option("--hidden", help="Widths of the deep part, as 400,400,400; 0 for none.  [default: 400,400,400]")
@click.option("--dropout", type=click.FloatRange(0, 1, max_open=True), help="[default: 0.2]")
@click.option("--epochs", default=DEFAULTS.max_epochs, show_default=True, help="Passes over the rows at most.")
@click.option("--batch-size", default=DEFAULTS.batch_size, show_default=True)
@click.option("--learning-rate", default=DEFAULTS.learning_rate, show_default=True)
@click.option("--l2", default=DEFAULTS.l2_factors, show_default=True, help="Penalty on the embeddings.")
@click.option("--average/--no-average", default=DEFAULTS.average, show_default=True, help="Serve the steps' average.")
@click.option("--seed", default=DEFAULTS.seed, show_default=True)
@click.option("--threads", type=click.IntRange(1), help="Processor cores to use; all by default.")
@click.option(
    "--on-interrupt",
    type=click.Choice(["best", "discard"]),
    default="best",
    show_default=True,
    help="What Ctrl-C does: publish the best model so far, or leave nothing.",
)
@click.option("--no-int8", is_flag=True, help="Leave the quantised network out of the bundle.")
@click.option("--json", "as_json", is_flag=True, help="Print what was measured as JSON.")
def train(
    data: str,
    spec: str,
    out: str,
    promote: bool,
    valid: str | None,
    test: str | None,
    valid_fraction: float,
    factors: int | None,
    hidden: str | None,
    dropout: float | None,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    l2: float,
    average: bool,
    seed: int,
    threads: int | None,
    on_interrupt: Literal["best", "discard"],
    no_int8: bool,
    as_json: bool,
) -> None:
    """Train on DATA (Parquet, CSV, JSON lines; a path, a glob or a SQL query) and publish the bundle.

    A bundle is published only after its ONNX networks have answered as torch does on real rows. Ctrl-C stops.

    \b
    Examples:
      streamfm train events.parquet --out models/ctr
      streamfm train train.parquet --valid valid.parquet --test test.parquet --out models/ctr --promote
      streamfm train "SELECT * FROM 'log/*.parquet' WHERE ts < '2026-06-01'" --out models/ctr --hidden 64,32
    """
    registry, name = _registry_of(out)
    training = replace(
        DEFAULTS,
        max_epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        l2_factors=l2,
        l2_first_order=l2,
        average=average,
        seed=seed,
        threads=threads,
    )
    registry.root.mkdir(parents=True, exist_ok=True)
    bundle = registry.root / f".new-{name}-{token()}"
    with TrainingProgress() as progress:
        trained = _train(
            spec, data, bundle, valid, test, progress,
            name=name, training=training, shape=(factors, hidden, dropout), int8=not no_int8,
            valid_fraction=valid_fraction, on_interrupt=on_interrupt,
        )  # fmt: skip
    first = CHAMPION not in _aliases(registry, name)
    published = registry.publish(bundle, name, alias=CHAMPION if promote or first else None)
    reference = f"{registry.root / name}/{published.version}"
    if as_json:
        output.print_json(json.dumps({"reference": reference, "metrics": published.manifest.metrics}))
        return
    _print_trained(trained)
    console.print(f"published as {reference}" + (f", @{CHAMPION}" if CHAMPION in published.aliases else ""))
    if CHAMPION not in published.aliases:
        console.print(f"  streamfm models promote {reference}   # makes it the champion")


def _train(
    spec: str,
    data: str,
    bundle: Path,
    valid: str | None,
    test: str | None,
    progress: TrainingProgress,
    *,
    name: str,
    training: TrainSettings,
    shape: tuple[int | None, str | None, float | None],
    int8: bool,
    valid_fraction: float,
    on_interrupt: Literal["best", "discard"],
) -> TrainedBundle:
    from streamfm.pipeline import PipelineSettings
    from streamfm.pipeline import train as train_bundle

    try:
        from streamfm.export import ExportSettings
        from streamfm.model import ModelSettings
    except ModuleNotFoundError as error:
        hint = "pip install 'streamfm[train]'"
        raise StreamFMError(f"training needs {error.name}, which is not installed", hint=hint) from error
    factors, hidden, dropout = shape
    given: dict[str, Any] = {"factors": factors, "hidden": _widths(hidden), "dropout": dropout}
    settings = PipelineSettings(
        model=ModelSettings(**{key: value for key, value in given.items() if value is not None}),
        training=training,
        export=ExportSettings(int8=int8),
        valid_fraction=valid_fraction,
        on_interrupt=on_interrupt,
        name=name,
    )
    return train_bundle(spec, data, bundle, valid=valid, test=test, settings=settings, progress=progress)


def _registry_of(out: str) -> tuple[Registry, str]:
    parts = parse_reference(f"{out}@{CHAMPION}")
    if parts.name is None or not parts.folder.name:
        raise RegistryError(f"--out {out}: expected REGISTRY/NAME", hint="such as models/ctr")
    return Registry(parts.folder), parts.name


def _aliases(registry: Registry, name: str) -> frozenset[str]:
    return frozenset(alias for model in registry.list() if model.name == name for alias in model.aliases)


def _widths(hidden: str | None) -> tuple[int, ...] | None:
    if hidden is None:
        return None
    try:
        widths = tuple(int(width) for width in hidden.replace("-", ",").split(","))
    except ValueError:
        raise click.UsageError(f"--hidden {hidden}: expected widths with commas between, such as 64,32") from None
    return () if widths == (0,) else widths


@click.command(short_help="Measure a model on labelled rows.")
@click.argument("reference")
@click.argument("data")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@PRECISION
def evaluate(reference: str, data: str, as_json: bool, precision: Precision) -> None:
    """Measure a model on DATA, which needs the label: AUC, log loss, calibration, and what became of each feature.

    \b
    Examples:
      streamfm evaluate models/ctr@champion tomorrow.parquet
      streamfm evaluate models/ctr/3 tomorrow.parquet --json | jq .measures.auc
    """
    from streamfm.pipeline import evaluate as evaluate_bundle
    from streamfm.scoring import load

    with TrainingProgress() as progress:
        found = evaluate_bundle(load(reference, precision=precision), data, progress=progress)
    if as_json:
        output.print_json(json.dumps(found.to_dict()))
        return
    print_evaluation(found.evaluation, title=f"{reference} on {data}")
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
    print_table(["feature", "has a value", "of these unknown"], rows)


def _print_trained(trained: TrainedBundle) -> None:
    print_evaluation(trained.evaluation, title="validation rows")
    if trained.test is not None:
        print_evaluation(trained.test, title="test rows")
    parity: Any = trained.bundle.manifest.parity
    console.print(f"fp32 network within {parity['fp32']['max_abs_diff']:.1e} of torch on {parity['rows']:,} rows")
    if "int8" in parity and parity["int8"].get("auc_loss") is not None:
        console.print(f"int8 network: AUC loss {parity['int8']['auc_loss']:.5f}")


class TrainingProgress:
    """Draws how far a pipeline is: a bar for each stage and epoch, a line for each epoch that is done."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._bar: Bar = progress_bar()
        self._task: TaskID | None = None
        self._stage = ""
        self._max_epochs = self._rows = 0

    def __enter__(self) -> TrainingProgress:
        """Begin to draw."""
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the bar."""
        self._bar.stop()

    def stage(self, what: str, done: int, rows: int) -> None:
        """So many rows of a stage are done."""
        if what != self._stage:
            self._begin(what, rows)
        self._bar.update(self._current, completed=done)

    def start(self, rows_per_epoch: int, max_epochs: int) -> None:
        """Training begins."""
        self._rows, self._max_epochs = rows_per_epoch, max_epochs
        self._begin("epoch 1", rows_per_epoch)

    def advance(self, rows: int, loss: float) -> None:
        """A step is done."""
        task = self._bar.tasks[self._bar.task_ids.index(self._current)]
        speed = f", {task.speed:,.0f} rows/s" if task.speed else ""
        self._bar.update(self._current, advance=rows, note=f"loss {loss:.4f}{speed}")

    def end_epoch(self, epoch: EpochReport) -> None:
        """An epoch was validated."""
        auc = "" if epoch.valid_auc is None else f", AUC {epoch.valid_auc:.5f}"
        mark = "  best" if epoch.improved else ""
        self._bar.console.print(
            f"epoch {epoch.epoch:3}  loss {epoch.train_loss:.5f}, validation {epoch.valid_loss:.5f}{auc}"
            f"  {epoch.rows_per_s:,.0f} rows/s{mark}"
        )
        if epoch.epoch < self._max_epochs:
            self._begin(f"epoch {epoch.epoch + 1}", self._rows)

    def _begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._stage = what
        self._task = self._bar.add_task(what, total=total, note="")

    @property
    def _current(self) -> TaskID:
        if self._task is None:
            raise DataError("progress before any stage")
        return self._task
