"""From rows to a bundle in one call.

    trained = train("features.toml", "events.parquet", "models/new")
    trained.evaluation.measure("auc").value

Everything on the way, vocabularies and encoded rows, lies in a temporary folder that is gone at the end, however that
comes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from streamfm.bundle import Bundle, BundleWriter
from streamfm.data import encode_dataset, fit_vocabularies
from streamfm.data.checks import check_labels_differ
from streamfm.data.dataset import EncodedDataset
from streamfm.data.labelled_rows import LabelledRows
from streamfm.data.sources import SourceLike, open_source
from streamfm.data.splitting import split
from streamfm.encoder import Encoded, Encoder
from streamfm.encoder.vocabulary import Vocabularies
from streamfm.errors import SpecError, StreamFMError
from streamfm.evaluation import Evaluation
from streamfm.features import FeatureSpec
from streamfm.pipeline.evaluation import measured
from streamfm.pipeline.progress import NoProgress, PipelineProgress
from streamfm.pipeline.room import bundle_sizes, room_held
from streamfm.settings import TrainReport, TrainSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamfm.export import ExportSettings, Provenance, Sample
    from streamfm.model import DeepFM, ModelSettings

PROOF_ROWS = 8192
"""Rows, at most, that prove parity, and as many that set int8's scales."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineSettings:
    """How `train` does it; saved in the bundle's manifest.

    Attributes:
        model: The network's shape; None for the default one.
        training: The optimiser's settings and the seed; its objective follows the specification's task.
        export: What goes into the bundle; None for the default.
        valid_fraction: Share of the rows that validate when no others are given.
        on_interrupt: What Ctrl-C does while training: "best" exports the best weights so far, "discard" leaves nothing.
        name: The model's name; by default that of the bundle's folder.
        memory_limit: Of DuckDB, while it counts and encodes.
        folder: Where the temporary folder is made; the system's by default. It needs about 4 bytes a slot and row; the
            best weights of a large table, four times its size, lie there, too.
    """

    model: ModelSettings | None = None
    training: TrainSettings = field(default_factory=TrainSettings)
    export: ExportSettings | None = None
    valid_fraction: float = 0.1
    on_interrupt: Literal["best", "discard"] = "best"
    name: str = ""
    memory_limit: str = "2GB"
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        if not 0 < self.valid_fraction < 1:
            raise SpecError(f"valid_fraction is {self.valid_fraction}, expected more than 0 and less than 1")
        if self.on_interrupt not in ("best", "discard"):
            raise SpecError(f"on_interrupt is {self.on_interrupt!r}, expected 'best' or 'discard'")


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainedBundle:
    """What `train` made.

    Attributes:
        bundle: Verified, proven, on the disk.
        report: How training went.
        evaluation: Of the rows that validated.
        test: Of the rows that only tested, or None.
    """

    bundle: Bundle
    report: TrainReport
    evaluation: Evaluation
    test: Evaluation | None = None


def train(
    spec: FeatureSpec | str | Path,
    rows: SourceLike,
    out: str | Path,
    *,
    valid: SourceLike | None = None,
    test: SourceLike | None = None,
    settings: PipelineSettings | None = None,
    progress: PipelineProgress | None = None,
    now: datetime | None = None,
) -> TrainedBundle:
    """Train a model on rows and write its bundle: all of it, proven, or nothing.

    Args:
        spec: The specification, or its TOML file.
        rows: To learn from; see `SourceLike`.
        out: The bundle's folder, which must not be there yet.
        valid: Rows that decide when to stop; without them, a share of `rows` is held back: the latest where the
            specification has an event time, else drawn at random.
        test: Rows that decide nothing and are only measured.
        settings: How; None for the defaults.
        progress: Told how far it is.
        now: The time to write into the manifest.

    Raises:
        SpecError: The specification cannot be used.
        DataError: The rows cannot be used; names the file, column and row, or the feature.
        BundleError: The bundle cannot be written there, the disk has no room for it, or an ONNX file none for its
            table; told before training.
        ParityError: The exported network does not answer as the trained one.
        StreamFMError: torch is not installed.
        KeyboardInterrupt: Ctrl-C before there was a model, or with `on_interrupt` "discard".
    """
    _check_torch()
    spec = spec if isinstance(spec, FeatureSpec) else FeatureSpec.load(spec)
    settings = settings or PipelineSettings()
    # Whether the place is free is asked before the hours of training, not after.
    BundleWriter(out)
    with tempfile.TemporaryDirectory(prefix="streamfm-", dir=settings.folder) as folder:
        run = _Run(spec, Path(out), settings, progress or NoProgress(), Path(folder))
        with run.opened(rows, valid, test) as opened:
            return run.train(opened, now or datetime.now(UTC))


class _Rows(NamedTuple):
    """Rows, checked."""

    train: LabelledRows
    valid: LabelledRows
    test: LabelledRows | None


class _Run:
    """One call of `train`."""

    def __init__(
        self, spec: FeatureSpec, out: Path, settings: PipelineSettings, progress: PipelineProgress, folder: Path
    ) -> None:
        self._spec, self._out, self._progress, self._folder = spec, out, progress, folder
        self._settings = replace(settings, training=replace(settings.training, objective=spec.task))

    @contextmanager
    def opened(self, rows: SourceLike, valid: SourceLike | None, test: SourceLike | None) -> Iterator[_Rows]:
        """All rows, checked: what cannot be used is told before training."""
        with ExitStack() as stack:
            labelled = self._open(rows, stack)
            check_labels_differ(labelled.source, self._spec)
            tested = None if test is None else self._open(test, stack)
            if valid is None:
                fraction, seed = self._settings.valid_fraction, self._settings.training.seed
                held = split(labelled.source, self._spec, valid_fraction=fraction, seed=seed)
                labelled, validated = labelled.part(held[0]), labelled.part(held[1])
            else:
                validated = self._open(valid, stack)
            if self._spec.task == "binary":
                check_labels_differ(validated.source, self._spec)
            yield _Rows(labelled, validated, tested)

    def _open(self, rows: SourceLike, stack: ExitStack) -> LabelledRows:
        limit = self._settings.memory_limit
        source = open_source(rows, inputs=self._spec.inputs, memory_limit=limit, folder=self._folder)
        return LabelledRows(stack.enter_context(source), self._spec)

    def train(self, rows: _Rows, now: datetime) -> TrainedBundle:
        self._progress.stage("counting", 0, rows.train.source.rows)
        vocabularies = fit_vocabularies(rows.train, self._spec, self._folder / "vocabulary")
        encoder = Encoder(self._spec, vocabularies)
        model = self._model(encoder)
        with ExitStack() as stack:
            train_set = stack.enter_context(self._encoded(rows.train, encoder, "training rows"))
            valid_set = stack.enter_context(self._encoded(rows.valid, encoder, "validation rows"))
            test_set = None
            if rows.test is not None:
                test_set = stack.enter_context(self._encoded(rows.test, encoder, "test rows"))
            with room_held(self._out, self._sizes(model, vocabularies)):
                report = self._fit(model, train_set, valid_set)
                evaluation = self._evaluated(model, valid_set)
                tested = None if test_set is None else self._evaluated(model, test_set)
            facts = self._facts(report, rows) | {"model": asdict(model.settings)}
            metrics = {"validation": evaluation.to_dict()} | ({"test": tested.to_dict()} if tested else {})
            provenance = self._provenance(now, metrics, facts)
            bundle = self._export(model, encoder, (train_set, valid_set), report, provenance)
        return TrainedBundle(bundle=bundle, report=report, evaluation=evaluation, test=tested)

    def _encoded(self, rows: LabelledRows, encoder: Encoder, what: str) -> EncodedDataset:
        folder = self._folder / what.replace(" ", "-")
        report = self._progress.stage
        return encode_dataset(
            rows, encoder, folder, progress=lambda done, total: report(f"encoding {what}", done, total)
        )

    def _model(self, encoder: Encoder) -> DeepFM:
        from streamfm.export.graph import check_table
        from streamfm.model import DeepFM, ModelSettings

        settings = self._settings.model or ModelSettings()
        check_table(encoder.layout.rows, settings.factors + 1)
        return DeepFM(encoder.layout, settings, seed=self._settings.training.seed)

    def _sizes(self, model: DeepFM, vocabularies: Vocabularies) -> list[int]:
        from streamfm.export import ExportSettings

        int8 = (self._settings.export or ExportSettings()).int8
        return bundle_sizes(model, vocabularies, int8=int8, average=self._settings.training.average)

    def _fit(self, model: DeepFM, train_set: EncodedDataset, valid_set: EncodedDataset) -> TrainReport:
        from streamfm.training import fit

        settings = self._settings
        return fit(
            model,
            train_set,
            valid_set,
            settings.training,
            progress=self._progress,
            on_interrupt=settings.on_interrupt,
            folder=self._folder,
        )

    def _evaluated(self, model: DeepFM, rows: EncodedDataset) -> Evaluation:
        logits = model.predict_logits(rows.ids, rows.weights)
        return measured(self._spec, rows, _sigmoid(logits) if self._spec.task == "binary" else logits)

    def _facts(self, report: TrainReport, rows: _Rows) -> dict[str, Any]:
        parts = {"train": rows.train, "validation": rows.valid}
        return {
            "sources": {name: part.source.name for name, part in parts.items()},
            "rows": {name: part.source.rows for name, part in parts.items()},
            "windows": {name: list(part.window()) for name, part in parts.items()},
            "valid_fraction": self._settings.valid_fraction,
            "report": report.to_dict(),
        }

    def _provenance(self, now: datetime, metrics: Mapping[str, Any], facts: Mapping[str, Any]) -> Provenance:
        from streamfm.export import Provenance

        name = self._settings.name or self._out.resolve().name
        return Provenance(name=name, created_at=now, metrics=metrics, training=facts)

    def _export(
        self,
        model: DeepFM,
        encoder: Encoder,
        datasets: tuple[EncodedDataset, EncodedDataset],
        report: TrainReport,
        provenance: Provenance,
    ) -> Bundle:
        from streamfm.export import Trained, export_bundle

        random = np.random.default_rng(self._settings.training.seed)
        calibration, proof = (_sample(rows, random) for rows in datasets)
        self._progress.stage("exporting", 0, len(proof.labels))
        trained = Trained(
            model=model,
            spec=self._spec,
            vocabularies=encoder.vocabularies,
            proof=proof,
            calibration=calibration.rows,
            state=report.state,
        )
        bundle = export_bundle(self._out, trained, provenance, self._settings.export)
        self._progress.stage("exporting", len(proof.labels), len(proof.labels))
        return bundle


def _check_torch() -> None:
    try:
        import onnx  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        hint = "pip install 'streamfm[train]'"
        raise StreamFMError(f"training needs {error.name}, which is not installed", hint=hint) from error


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)


def _sample(rows: EncodedDataset, random: np.random.Generator) -> Sample:
    """Some rows, drawn without replacement, in their order."""
    from streamfm.export import Sample

    drawn = np.sort(random.choice(len(rows), min(PROOF_ROWS, len(rows)), replace=False))
    weights = None if rows.weights is None else rows.weights[drawn]
    sample_weights = None if rows.sample_weights is None else rows.sample_weights[drawn]
    return Sample(rows=Encoded(rows.ids[drawn], weights), labels=rows.labels[drawn], sample_weights=sample_weights)
