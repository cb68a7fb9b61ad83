"""Progressive validation: each shard of a log is predicted first, and learnt from when its labels have come.

    report = progressive("features.toml", "log.parquet", settings=ProgressiveSettings(interval_s=3600, delay_s=1800))
    report.mode("incremental").value("log_loss")

After Blum, Kalai and Langford, "Beating the hold-out" (COLT 1999); every prediction is of a row that the model had not
seen, by a model as old as it would have been. Nothing but `streamfm.progressive.shards` decides on what was known when.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.bundle import Bundle, open_bundle
from streamfm.data.labelled_rows import NO_GROUP
from streamfm.data.sources import SourceLike
from streamfm.errors import DataError, SpecError
from streamfm.features import FeatureSpec
from streamfm.pipeline import train
from streamfm.pipeline.progress import NoProgress, PipelineProgress
from streamfm.progressive.modes import Frozen, Full, Incremental, Mode, Start
from streamfm.progressive.past import Past, seen
from streamfm.progressive.report import Course, ProgressiveReport, mode_report, shard_reports
from streamfm.progressive.rows import OrderedRows, read_rows
from streamfm.progressive.settings import ModeName, ProgressiveSettings
from streamfm.progressive.shards import Shard, cut
from streamfm.scoring import Scorer, load


def progressive(
    spec: FeatureSpec | str | Path | None,
    rows: SourceLike,
    *,
    model: str | Path | None = None,
    settings: ProgressiveSettings | None = None,
    progress: PipelineProgress | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> ProgressiveReport:
    """Predict a log shard by shard, learning as its labels come.

    Args:
        spec: The specification, or its TOML file; it names an event time. None with a model, which has one.
        rows: See `SourceLike`; they are read once, into memory.
        model: A model to begin with, by its reference or folder, instead of training one; rows that it or its choice
            has seen are the past, and the later ones are predicted.
        settings: How; the same settings, seeds, rows and threads give the same predictions, bit by bit.
        progress: Told how far it is.
        clock: Seconds, for the report.

    Raises:
        SpecError: The specification cannot be used, or names no event time.
        DataError: The rows cannot be used; names the file, column and row, or the feature; or there are too few.
        BundleError: The model cannot be opened.
        RegistryError: There is no such model.
        StreamFMError: torch is not installed.
    """
    scorer = None if model is None else load(model)
    spec = _spec(spec, scorer)
    settings = settings or ProgressiveSettings()
    ordered = read_rows(rows, spec, settings.order)
    with tempfile.TemporaryDirectory(prefix="streamfm-", dir=settings.training.folder) as folder:
        run = _Run(spec, ordered, settings, progress or NoProgress(), clock, Path(folder))
        return run.report(_named(rows), scorer)


def _spec(spec: FeatureSpec | str | Path | None, scorer: Scorer | None) -> FeatureSpec:
    if spec is not None and scorer is None:
        return spec if isinstance(spec, FeatureSpec) else FeatureSpec.load(spec)
    if spec is None and scorer is not None:
        return scorer.spec
    raise SpecError("expected a specification to train by, or a model, which has its own", hint="give one of the two")


class _Run:
    """One call of `progressive`."""

    def __init__(
        self,
        spec: FeatureSpec,
        rows: OrderedRows,
        settings: ProgressiveSettings,
        progress: PipelineProgress,
        clock: Callable[[], float],
        folder: Path,
    ) -> None:
        self._spec, self._rows, self._settings = spec, rows, settings
        self._progress, self._clock, self._folder = progress, clock, folder

    def report(self, source: str, scorer: Scorer | None) -> ProgressiveReport:
        past = self._past(source) if scorer is None else seen(scorer.bundle, self._rows.times, source)
        shards = cut(self._rows.times, past.seen, self._settings)
        began = self._clock()
        start = self._start(shards, source) if scorer is None else Start(bundle=scorer.bundle, trained=past.trained)
        taken = self._clock() - began
        courses = [self._course(name, start, shards) for name in self._settings.modes]
        groups = _groups(self._rows.batch.groups)
        return ProgressiveReport(
            source=source,
            warm_start_rows=past.seen,
            warm_start_s=taken,
            shards=shard_reports(self._rows, shards),
            modes=tuple(mode_report(course, courses[0], self._rows.batch, groups, shards) for course in courses),
            settings=_plain(self._settings),
        )

    def _past(self, source: str) -> Past:
        """The rows for the warm start."""
        first = round(len(self._rows) * self._settings.warm_start)
        if not 0 < first < len(self._rows):
            raise DataError(f"{source}: {len(self._rows):,} rows are too few to be split")
        return Past(trained=0, seen=first)

    def _start(self, shards: list[Shard], source: str) -> Start:
        known = shards[0].known
        if known < 2:
            message = f"{source}: no label had come when the first of {len(shards)} shards began"
            raise DataError(message, hint="raise warm_start, or lower the delay")
        bundle = self._trained(known, self._folder / "first", self._progress)
        # The latest rows validated: what trained is a beginning of all rows.
        facts: Any = bundle.manifest.training
        return Start(bundle=bundle, trained=int(facts["rows"]["train"]))

    def _trained(self, known: int, folder: Path, progress: PipelineProgress | None = None) -> Bundle:
        """A model of the first `known` rows; of those that come later, shards alone tell how far it is."""
        how = self._settings.training
        how = replace(how, export=how.export or _without_int8(), on_interrupt="discard", name="progressive")
        return train(self._spec, self._rows.table.slice(0, known), folder, settings=how, progress=progress).bundle

    def _course(self, name: ModeName, start: Start, shards: list[Shard]) -> Course:
        mode = self._mode(name, start)
        begin, total = shards[0].start, len(self._rows) - shards[0].start
        predictions = np.empty(total, np.float64)
        learning_s, predicting_s, rounds = [], 0.0, 0
        for shard in shards:
            self._progress.stage(name, shard.start - begin, total)
            began = self._clock()
            learnt = mode.learn(shard.known)
            ready = self._clock()
            predictions[shard.start - begin : shard.end - begin] = mode.predict(shard.start, shard.end)
            predicting_s += self._clock() - ready
            learning_s.append(ready - began if learnt else 0.0)
            rounds += learnt
        self._progress.stage(name, total, total)
        return Course(
            mode=name,
            task=self._spec.task,
            predictions=predictions,
            rounds=rounds,
            learning_s=tuple(learning_s),
            predicting_s=predicting_s,
        )

    def _mode(self, name: ModeName, start: Start) -> Mode:
        settings = self._settings
        if name == "frozen":
            return Frozen(self._rows, start)
        if name == "full":
            return Full(self._rows, start, self._trained, settings.full_every, self._folder)
        from streamfm.finetuning import FineTuner, FineTuneSettings

        how = settings.finetuning or FineTuneSettings()
        # The bundle is opened anew: what is learnt here must not be seen by the other modes.
        tuner = FineTuner.from_bundle(open_bundle(start.bundle.path, verify=False), how)
        return Incremental(self._rows, start, tuner, how, settings.replay_seed)


def _without_int8() -> Any:
    from streamfm.export import ExportSettings

    return ExportSettings(int8=False)


def _groups(groups: NDArray[np.int64] | None) -> NDArray[Any] | None:
    """Groups as `evaluate` takes them: NaN for none."""
    if groups is None:
        return None
    codes = np.unique(groups, return_inverse=True)[1].astype(np.float64)
    return np.where(groups == NO_GROUP, np.nan, codes)


def _plain(settings: ProgressiveSettings) -> dict[str, Any]:
    """As JSON can hold it."""
    plain = asdict(settings)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def _named(rows: SourceLike) -> str:
    """What the rows are called in messages."""
    if isinstance(rows, str):
        return rows
    return str(rows) if isinstance(rows, Path) else f"the {type(rows).__name__}"
