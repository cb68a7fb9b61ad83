"""The part of a round in which a model learns: new rows with replayed ones, or everything anew."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from streamfm.data.labelled_rows import LabelledBatch, LabelledRows, instant
from streamfm.data.sources import Source
from streamfm.data.splitting import cut_us
from streamfm.encoder import Encoded
from streamfm.errors import DataError
from streamfm.features import FeatureSpec
from streamfm.finetuning import FineTuner
from streamfm.labels import Labels, Position, logit_correction
from streamfm.labels.settings import microseconds, moment
from streamfm.model import ModelSettings
from streamfm.pipeline.progress import PipelineProgress
from streamfm.pipeline.running import PROOF_ROWS, PipelineSettings, train
from streamfm.retraining.candidates import WindowRows
from streamfm.retraining.served import Served, position_of
from streamfm.retraining.settings import RetrainSettings
from streamfm.settings import TrainSettings

_NEWEST_BATCHES = 3
"""Batches of learnt rows that are kept for the test of the lineage: some 100,000 rows."""

LEAST_FRESH_ROWS = 10
"""New rows later than what the parent has learnt, without which there is no window."""


@dataclass(frozen=True, kw_only=True)
class Learnt:
    """A model that has learnt, and what it is to be judged on.

    Attributes:
        tuner: The model.
        window: The newest rows, of which it knows nothing.
        newest: The newest of the new rows that it has learnt from.
        calibration: Of these, encoded.
        position: What it has been trained on now.
        rows: How many were learnt, replayed, and are in the window.
        reports: What learning told, a report for each chunk, as JSON.
    """

    tuner: FineTuner
    window: WindowRows
    newest: WindowRows
    calibration: Encoded
    position: Position
    rows: Mapping[str, int]
    reports: list[dict[str, Any]]


def learn_on(labels: Labels, parent: Served, settings: RetrainSettings, progress: PipelineProgress) -> Learnt:
    """A copy of the parent after one pass over the new rows but the newest, mixed with replayed ones.

    Raises:
        DataError: The rows cannot be used, or are all of one instant.
    """
    spec, tuner = parent.scorer.spec, parent.tuner.copy()
    tuner.rebase(logit_correction(settings.labels.negative_share))
    earlier, window, until = _cut(labels, parent, settings)
    total, done, replayed, reports = earlier.source.rows, 0, 0, []
    newest: deque[LabelledBatch] = deque(maxlen=_NEWEST_BATCHES)
    progress.stage("learning", 0, total)
    again = _replay(labels, spec, total, settings)
    for batch in earlier.batches():
        old = next(again, None)
        reports.append(tuner.learn(batch, old).to_json())
        replayed += 0 if old is None else old.rows
        done += batch.rows
        newest.append(batch)
        progress.stage("learning", done, total)
    learnt = WindowRows(newest, negative_share=settings.labels.negative_share)
    return Learnt(
        tuner=tuner,
        window=window,
        newest=learnt,
        calibration=learnt.encoded(tuner.encoder).part(0, PROOF_ROWS),
        position=replace(labels.position, closed_until=moment(until)),
        rows={"learnt": total, "replayed": replayed, "window": window.rows},
        reports=reports,
    )


def learn_anew(
    labels: Labels,
    everything: Callable[[datetime], AbstractContextManager[Labels]],
    parent: Served,
    settings: RetrainSettings,
    progress: PipelineProgress,
) -> Learnt:
    """A model trained from scratch on everything labelled but the newest of the new rows.

    Args:
        labels: The new rows.
        everything: Gives all rows before an instant.
        parent: Says what network, and how it was trained.
        settings: How to go on from it.
        progress: Told how far it is.

    Raises:
        DataError: As `learn_on`, and as `streamfm.pipeline.train`.
    """
    spec = parent.scorer.spec
    earlier, window, until = _cut(labels, parent, settings)
    newest = WindowRows(deque(earlier.batches(), _NEWEST_BATCHES), negative_share=settings.labels.negative_share)
    with everything(moment(until)) as all_labels, tempfile.TemporaryDirectory(dir=settings.folder) as folder:
        rows = all_labels.source
        trained = train(spec, rows, Path(folder) / "anew", settings=_as_before(parent, settings), progress=progress)
        tuner = FineTuner.from_bundle(trained.bundle, settings.tuning)
        tuner.logit_shift = logit_correction(settings.labels.negative_share)
        # What chose the weights has not been learnt.
        seen = microseconds(position_of(trained.bundle.manifest).closed_until)
        held = rows.part("held back", f"{_time(rows, spec)} >= {seen}")
        reports = [trained.report.to_dict()]
        if held.rows:
            reports += [tuner.learn(batch).to_json() for batch in LabelledRows(held, spec).batches()]
        total = rows.rows
    return Learnt(
        tuner=tuner,
        window=window,
        newest=newest,
        calibration=newest.encoded(tuner.encoder).part(0, PROOF_ROWS),
        position=replace(labels.position, closed_until=moment(until), clicks_until=None),
        rows={"learnt": total, "replayed": 0, "window": window.rows},
        reports=reports,
    )


def fresh_rows(labels: Labels, parent: Served) -> Source:
    """The new rows that are later than what the parent has learnt: all but those that came late."""
    source, since = labels.source, microseconds(parent.position.closed_until)
    return source.part("fresh", f"{_time(source, parent.scorer.spec)} >= {since}")


def _cut(labels: Labels, parent: Served, settings: RetrainSettings) -> tuple[LabelledRows, WindowRows, int]:
    """The new rows without the newest, those, and when they begin, in microseconds since 1970.

    The window is cut from the fresh rows, so that it begins no earlier than where the parent ends: else rows that the
    parent has learnt would be before its end, and behind the candidate's.
    """
    source, spec, fresh = labels.source, parent.scorer.spec, fresh_rows(labels, parent)
    until = cut_us(fresh, spec, min(settings.window_share, settings.max_window_rows / fresh.rows))
    earlier = source.part("to learn", f"{_time(source, spec)} < {until}")
    newest = source.part("window", f"{_time(source, spec)} >= {until}")
    if not earlier.rows:
        raise DataError(f"{source.name}: all {newest.rows:,} are of one instant", hint="wait for later ones")
    rows = LabelledRows(source, spec)
    window = WindowRows(list(rows.part(newest).batches()), negative_share=settings.labels.negative_share)
    return rows.part(earlier), window, until


def _time(source: Source, spec: FeatureSpec) -> str:
    """SQL of the event time, in microseconds since 1970."""
    return f"epoch_us({instant(source.column(spec.event_time))})"


def _replay(labels: Labels, spec: FeatureSpec, rows: int, settings: RetrainSettings) -> Iterator[LabelledBatch]:
    """Rows of the trained past, as many for each chunk of new ones as are to be mixed in."""
    tuning = settings.tuning
    wanted = round(rows * tuning.replay_ratio)
    if not wanted:
        return iter(())
    source = labels.history(wanted, seed=tuning.seed, age_s=tuning.replay_max_age_s)
    if not source.rows:
        return iter(())
    # A cursor of its own: a connection ends one result when it is asked for another.
    apart = Source(source.name, source.connection.cursor(), source.sql)
    return LabelledRows(apart, spec).batches()


def _as_before(parent: Served, settings: RetrainSettings) -> PipelineSettings:
    """Network and training as in the first training, as far as the manifest tells."""
    facts: Any = parent.manifest.training
    model, training = facts.get("model"), (facts.get("report") or {}).get("settings")
    return PipelineSettings(
        model=None if model is None else ModelSettings(**model),
        training=TrainSettings() if training is None else TrainSettings(**training),
        name=parent.manifest.name,
        memory_limit=settings.memory_limit,
        folder=settings.folder,
    )
