"""The steps over one chunk: shuffled, cut into batches, ids replaced, one step each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from streamfm.data.batches import Batch
from streamfm.finetuning.settings import LEAST_STEP_ROWS, FineTuneSettings
from streamfm.training.learner import Learner, torch_threads
from streamfm.training.replacement import IdReplacement


class Learnt(NamedTuple):
    """What came of the steps.

    Attributes:
        loss: Mean of the steps' losses, weighted by their rows; None without a step.
        steps: How many.
        interrupted: Whether they ended early.
    """

    loss: float | None
    steps: int
    interrupted: bool


def joined(new: Batch, replay: Batch | None, replay_weight: float = 1.0) -> Batch:
    """Both, one behind the other; rows without sample weights have a weight of 1, replayed ones times theirs."""
    if replay is None:
        return new
    sample_weights = None
    if new.sample_weights is not None or replay.sample_weights is not None or replay_weight != 1:
        replayed = _sample_weights(replay) * np.float32(replay_weight)
        sample_weights = np.concatenate([_sample_weights(new), replayed])
    weights = None
    if new.weights is not None and replay.weights is not None:
        weights = np.concatenate([new.weights, replay.weights])
    ids, labels = np.concatenate([new.ids, replay.ids]), np.concatenate([new.labels, replay.labels])
    return Batch(ids, weights, labels, sample_weights)


def learn_rows(
    learner: Learner, rows: Batch, settings: FineTuneSettings, stop: Callable[[], bool] | None = None
) -> Learnt:
    """Pass over the rows, and settle what is served.

    Args:
        learner: Its steps made so far, with the settings' seed, decide on everything random.
        rows: A chunk; rows of no weight at all are left alone.
        settings: How.
        stop: Asked before each step; True ends it.

    Raises:
        DataError: Training diverged.
    """
    scale = _weight_scale(rows)
    if not scale:
        return Learnt(None, 0, False)
    first = learner.steps
    seeds = np.random.SeedSequence((settings.seed, first)).generate_state(3, np.uint64)
    order, replaced = np.random.Generator(np.random.PCG64(seeds[0])), np.random.Generator(np.random.SFC64(seeds[1]))
    learner.model.seed_dropout(int(seeds[2]))
    replacement = IdReplacement(learner.model.layout, settings.unknown_share, settings.null_share, replaced)
    total, done, interrupted = 0.0, 0, False
    with torch_threads(settings.threads):
        _set_mode(learner.model, batch_statistics=settings.batch_statistics == "update" and len(rows.labels) > 1)
        try:
            for part in _parts(len(rows.labels), settings, order):
                interrupted = stop is not None and stop()
                if interrupted:
                    break
                batch = rows.take(part)
                replacement.apply(batch)
                total += len(part) * learner.step(batch, settings.rate, weight_scale=scale)
                done += len(part)
        finally:
            learner.model.eval()
        learner.settle()
    return Learnt(total / done if done else None, learner.steps - first, interrupted)


def _parts(rows: int, settings: FineTuneSettings, random: np.random.Generator) -> list[NDArray[np.intp]]:
    """Places of each batch's rows; of nearly one size, since a last batch of few rows would move as much as any."""
    batches = max(-(-rows // settings.batch_size), min(settings.least_steps, rows // LEAST_STEP_ROWS), 1)
    return [part for _ in range(settings.passes) for part in np.array_split(random.permutation(rows), batches)]


def _weight_scale(rows: Batch) -> float:
    """What makes the mean of the sample weights 1; 0 where nothing weighs anything."""
    if rows.sample_weights is None:
        return float(len(rows.labels) > 0)
    total = float(rows.sample_weights.sum(dtype=np.float64))
    return len(rows.labels) / total if total else 0.0


def _sample_weights(rows: Batch) -> NDArray[Any]:
    return np.ones(len(rows.labels), np.float32) if rows.sample_weights is None else rows.sample_weights


def _set_mode(model: nn.Module, *, batch_statistics: bool) -> None:
    """Train; batch norm by its averages unless it may use the batch's statistics, which one row does not have."""
    model.train()
    if not batch_statistics:
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d):
                module.eval()
