"""`streamfm train`: rows to a proven bundle, and the bundle to a version of the registry."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from streamfm import files
from streamfm.cli.commands import CHAMPION, DATA, JSON, Command, option, settings, source_of
from streamfm.cli.console import answer, print_json, say
from streamfm.cli.evaluating import print_evaluation
from streamfm.cli.places import has_champion, new_model
from streamfm.cli.progress import TrainingProgress
from streamfm.settings import ModelSettings, TrainSettings

if TYPE_CHECKING:
    from streamfm.export import ExportSettings
    from streamfm.pipeline import TrainedBundle
    from streamfm.registry import Registry, VersionInfo


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherRows:
    """Rows besides those to learn from."""

    valid: str | None = None
    test: str | None = None
    valid_fraction: float = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """What becomes of the trained model."""

    promote: bool = False
    on_interrupt: Literal["best", "discard"] = "best"
    int8: bool = True


_ROWS = {
    "valid": "Rows that decide when to stop; without, a share of DATA is held back: the latest by event time, if the "
    "specification names one, else drawn at random.",
    "valid_fraction": "That share.",
    "test": "Rows that decide nothing and are only measured.",
}
_OUTCOME = {
    "promote": f"Move @{CHAMPION} to the new version; the first one gets it anyway.",
    "on_interrupt": "What Ctrl-C does: publish the best model so far, or leave nothing.",
    "int8": "Whether the bundle has a quantised network, too.",
}
_NETWORK = {
    "factors": "Length of every embedding.",
    "hidden": "Widths of the deep part's layers; 0 for none.",
    "dropout": "Share of hidden units left out at each step.",
    "batch_norm": "Normalise each hidden layer over the batch.",
}
_TRAINING = {
    "max_epochs": "Passes over the rows at most.",
    "batch_size": "Rows of a step at most.",
    "learning_rate": "Adam's, at first.",
    "l2_factors": "Penalty on the embeddings.",
    "l2_first_order": "Penalty on the first-order weights.",
    "l2_deep": "Penalty on the deep part's weights.",
    "average": "Serve an average of the weights over the steps: worth more than any architecture.",
    "seed": "Of everything random; the same seed, rows and threads give the same model.",
    "threads": "Processor cores to use; all by default.",
}
_FINE_POINTS = {
    "least_steps": "Steps of an epoch at least: few rows get smaller batches.",
    "keep_by": "What tells the best epoch, whose weights are kept: the validation rows' log loss, or their AUC.",
    "plateau_patience": "Epochs without improvement that make a plateau, which lowers the learning rate.",
    "plateau_factor": "By this.",
    "plateaus": "Stop at this many.",
    "average_decay": "Of the average of the weights.",
    "gradient_norm": "Scale larger gradients down to this; 0 for no limit.",
    "unknown_share": "Share of values that train their feature's row for unknown ones.",
    "null_share": "Share of values that train their feature's row for NULL.",
    "table_update": "Move the whole embedding table at every step, or only the rows of the batch.",
    "precision": "Of the matrix products while training.",
}


@click.command(cls=Command, short_help="Train a model, prove its export, publish it.")
@DATA
@option("--features", default="features.toml", show_default=True, help="The specification; `streamfm init` writes one.")
@option("--out", required=True, help="REGISTRY/NAME, such as models/ctr: published there as the next version.")
@settings("outcome", Outcome, {"Options": _OUTCOME})
@option("--memory-limit", default="2GB", show_default=True, help="Of DuckDB, while it counts and encodes.")
@JSON
@settings("rows", OtherRows, {"Rows": _ROWS})
@settings("network", ModelSettings, {"Network": _NETWORK})
@option("--l2", type=click.FloatRange(0), heading="Training", help="Sets both --l2-factors and --l2-first-order.")
@settings(
    "training",
    TrainSettings,
    {"Training": _TRAINING, "Fine points": _FINE_POINTS},
    spellings={"max_epochs": "--epochs"},
)
def train(
    data: tuple[str, ...],
    features: str,
    out: str,
    outcome: Outcome,
    rows: OtherRows,
    network: ModelSettings,
    training: TrainSettings,
    l2: float | None,
    memory_limit: str,
    as_json: bool,
) -> None:
    """Train on DATA and publish the bundle as the next version of a model.

    A bundle is published only after its ONNX networks have answered as torch does on real rows. Encoded rows lie in
    the temporary folder meanwhile (TMPDIR says which), about 4 bytes a feature and row; room for the bundle is taken
    before the first epoch.

    Ctrl-C ends training with the best model so far; a second one leaves nothing.

    \b
    Examples:
      streamfm train events.parquet --out models/ctr
      streamfm train train.parquet --valid valid.parquet --test test.parquet --out models/ctr --promote
      streamfm train "SELECT * FROM 'log/*.parquet' WHERE ts < '2026-06-01'" --out models/ctr --hidden 64,32
    """
    registry, name = new_model(out)
    if l2 is not None:
        training = replace(training, l2_factors=l2, l2_first_order=l2)
    with _made(registry.root):
        bundle = registry.root / f"{name}-unpublished-{files.token()}"
        request = _Request(features, source_of(data), rows, network, training, outcome, memory_limit)
        trained = _train(request, bundle, name)
        version = _publish(bundle, registry, name, promote=outcome.promote)
    if as_json:
        print_json(_facts(trained, version))
    else:
        _print(trained, version)


@dataclass(frozen=True)
class _Request:
    """What the command line asks for."""

    features: str
    data: str | list[str]
    rows: OtherRows
    network: ModelSettings
    training: TrainSettings
    outcome: Outcome
    memory_limit: str


def _train(request: _Request, bundle: Path, name: str) -> TrainedBundle:
    from streamfm.features import FeatureSpec
    from streamfm.pipeline import PipelineSettings
    from streamfm.pipeline import train as train_bundle

    spec = FeatureSpec.load(request.features)
    how = PipelineSettings(
        model=request.network,
        training=request.training,
        export=None if request.outcome.int8 else _without_int8(),
        valid_fraction=request.rows.valid_fraction,
        on_interrupt=request.outcome.on_interrupt,
        name=name,
        memory_limit=request.memory_limit,
    )
    valid, test = request.rows.valid, request.rows.test
    with TrainingProgress() as progress:
        return train_bundle(spec, request.data, bundle, valid=valid, test=test, settings=how, progress=progress)


def _without_int8() -> ExportSettings:
    from streamfm.export import ExportSettings

    return ExportSettings(int8=False)


@contextmanager
def _made(root: Path) -> Iterator[None]:
    """The folder of a registry; if nothing comes of it, it is not left behind."""
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    root.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):
                folder.rmdir()
        raise


def _publish(bundle: Path, registry: Registry, name: str, *, promote: bool) -> VersionInfo:
    """The version that the bundle has become; when it cannot become one, the bundle stays, and is named."""
    try:
        alias = CHAMPION if promote or not has_champion(registry, name) else None
        return registry.publish(bundle, name, alias=alias)
    except BaseException:
        if bundle.is_dir():
            say(f"nothing is lost: the trained bundle is kept as {bundle}. When the cause of what follows is mended:")
            say(f"  {shlex.join(['streamfm', 'models', 'publish', str(bundle), str(registry.root / name)])}")
        raise


def _facts(trained: TrainedBundle, version: VersionInfo) -> dict[str, Any]:
    """What was made, as JSON."""
    manifest = version.manifest
    return {
        "reference": _reference(version),
        "name": version.name,
        "version": version.version,
        "aliases": version.aliases,
        "metrics": manifest.metrics,
        "parity": manifest.parity,
        "stopped": trained.report.stopped,
        "best_epoch": trained.report.best_epoch,
        "seconds": trained.report.seconds,
    }


def _print(trained: TrainedBundle, version: VersionInfo) -> None:
    report, reference = trained.report, _reference(version)
    if report.interrupted:
        say(f"interrupted: the best model so far is kept, that of epoch {report.best_epoch}")
    print_evaluation(trained.evaluation, title="validation rows")
    if trained.test is not None:
        print_evaluation(trained.test, title="test rows")
    parity: Any = trained.bundle.manifest.parity
    answer(f"fp32 network: within {parity['fp32']['max_abs_diff']:.1e} of torch on {parity['rows']:,} rows")
    if (loss := parity.get("int8", {}).get("auc_loss")) is not None:
        answer(f"int8 network: AUC loss {loss:.5f}")
    answer(f"published as {reference}" + "".join(f", @{alias}" for alias in version.aliases))
    if CHAMPION in version.aliases:
        reference = f"{version.path.parent}@{CHAMPION}"
        say(f"  streamfm sql {shlex.quote(reference)}   # to ask it in SQL")
    else:
        say(f"  streamfm models promote {shlex.quote(reference)}   # makes it the champion")


def _reference(version: VersionInfo) -> str:
    return f"{version.path.parent}/{version.version}"
