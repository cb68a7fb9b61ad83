"""Training: passes over encoded rows until validation stops improving; the best weights are kept.

After each pass the weights that would be served (an average over the steps) are validated. When that stops improving,
the learning rate falls; at the second such time training ends. It prints nothing: a `Progress` is told.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from streamfm.data.dataset import EncodedDataset
from streamfm.errors import DataError
from streamfm.evaluation.metrics import auc
from streamfm.model import DeepFM
from streamfm.settings import EpochReport, Progress, Silence, TrainReport, TrainSettings
from streamfm.training.checks import check_rows, mean_label, total_weight
from streamfm.training.interruption import held_interrupts
from streamfm.training.learner import Learner, torch_threads
from streamfm.training.replacement import IdReplacement
from streamfm.training.snapshot import Snapshot

__all__ = ["EpochReport", "Progress", "Silence", "TrainReport", "TrainSettings", "fit"]

log = logging.getLogger(__name__)

_LEAST_IMPROVEMENT = 1e-6

Outcome = Literal["improved", "waiting", "plateau", "interrupted"]


def fit(
    model: DeepFM,
    train: EncodedDataset,
    valid: EncodedDataset,
    settings: TrainSettings,
    *,
    progress: Progress | None = None,
    on_interrupt: Literal["best", "discard"] = "best",
    stop: Callable[[], bool] | None = None,
    state: Mapping[str, NDArray[Any]] | None = None,
    folder: Path | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> TrainReport:
    """Train the model in place, give it the best weights, and report.

    Args:
        model: A new one, or with `state` one to go on with.
        train: Rows to learn from.
        valid: Rows that decide on the learning rate, the end, and the weights to keep.
        settings: How; the same settings, seed, rows and number of threads give the same weights, bit by bit.
        progress: Told of every step and epoch.
        on_interrupt: What Ctrl-C does: end with the best weights so far, or raise and keep nothing. A second Ctrl-C
            always raises.
        stop: Asked between two steps; True ends the training as Ctrl-C does.
        state: `TrainReport.state` of an earlier run of the same model, to go on from: for fine-tuning, as is `stop`.
        folder: Where the best weights of a large table lie meanwhile; the system's temporary folder by default.
        clock: Seconds, for the report.

    Raises:
        DataError: The rows cannot be trained on (labels, sample weights, another layout), training diverged, or the
            disk is full.
        KeyboardInterrupt: Interrupted, and nothing is to be kept; the model is then half trained.
    """
    check_rows("training", train, model.layout, settings)
    check_rows("validation", valid, model.layout, settings)
    if state is None:
        _start_at_base_rate(model, train, settings)
    with torch_threads(settings.threads), held_interrupts() as interruption:
        learner = Learner(model, settings, state=state)
        snapshot = Snapshot(on_disk=learner.table_update == "lazy", folder=folder)
        run = _Run(learner, train, valid, snapshot=snapshot, progress=progress or Silence(), clock=clock)

        def stopping() -> bool:
            asked = interruption.requested or (stop is not None and stop())
            if asked and on_interrupt == "discard":
                raise KeyboardInterrupt
            return asked

        return run.all_epochs(stopping)


@dataclass(slots=True)
class Plateau:
    """Watches a figure that should rise.

    Attributes:
        patience: Observations without improvement that make a plateau.
        best: The highest so far.
        plateaus: How often it stopped rising.
    """

    patience: int
    best: float = -math.inf
    plateaus: int = 0
    _waited: int = 0

    def observe(self, value: float) -> Outcome:
        """Take up a value."""
        if _is_better(value, self.best):
            self.best, self._waited = value, 0
            return "improved"
        self._waited += 1
        if self._waited < self.patience:
            return "waiting"
        self._waited = 0
        self.plateaus += 1
        return "plateau"


def _is_better(value: float, best: float) -> bool:
    return value > best + _LEAST_IMPROVEMENT or best == -math.inf


class _Run:
    """The epochs of one `fit`."""

    def __init__(
        self,
        learner: Learner,
        train: EncodedDataset,
        valid: EncodedDataset,
        *,
        snapshot: Snapshot,
        progress: Progress,
        clock: Callable[[], float],
    ) -> None:
        self._learner, self._train, self._valid = learner, train, valid
        self._snapshot, self._progress, self._clock = snapshot, progress, clock
        settings = self._settings = learner.settings
        self._batch_rows = settings.batch_rows(len(train))
        self._weight_scale = len(train) / total_weight(train)
        self._random = np.random.Generator(np.random.PCG64(settings.seed))
        learner.model.seed_dropout(self._seed())
        replaced = np.random.Generator(np.random.SFC64(self._seed()))
        layout = learner.model.layout
        self._replacement = IdReplacement(layout, settings.unknown_share, settings.null_share, replaced)
        self._plateau = Plateau(settings.plateau_patience)
        self._epochs: list[EpochReport] = []
        self._best_epoch, self._best_figure = 0, -math.inf

    def all_epochs(self, stopping: Callable[[], bool]) -> TrainReport:
        began = self._clock()
        self._progress.start(len(self._train), self._settings.max_epochs)
        learning_rate = self._settings.learning_rate
        stopped: Literal["plateau", "epochs", "interrupted"] = "epochs"
        while len(self._epochs) < self._settings.max_epochs:
            outcome = self._one_epoch(learning_rate, stopping)
            if outcome == "interrupted":
                stopped = outcome
                break
            if outcome == "plateau":
                learning_rate *= self._settings.plateau_factor
                if self._plateau.plateaus >= self._settings.plateaus:
                    stopped = "plateau"
                    break
        self._restore_best()
        return TrainReport(
            epochs=tuple(self._epochs),
            best_epoch=self._best_epoch,
            stopped=stopped,
            settings=self._settings,
            rows=len(self._train),
            batch_size=self._batch_rows,
            seconds=self._clock() - began,
            table_update=self._learner.table_update,
            precision=self._learner.precision,
            state=self._snapshot.arrays,
        )

    def _one_epoch(self, learning_rate: float, stopping: Callable[[], bool]) -> Outcome:
        """What validation said of the epoch; "interrupted" if it was not finished."""
        began = self._clock()
        loss, rows, finished = self._train_rows(learning_rate, stopping)
        trained = self._clock()
        # Whoever stops before the first validation wants what has been learnt so far.
        if not finished and (self._epochs or not rows):
            return "interrupted"
        self._learner.settle()
        valid_loss, valid_auc = validate(self._learner.served, self._valid, self._settings)
        # The AUC goes on rising while the loss rests, so it tells when the rate should fall; what is served are
        # probabilities, so the loss tells, unless asked otherwise, which weights are the best.
        outcome = self._plateau.observe(-valid_loss if valid_auc is None else valid_auc)
        figure = valid_auc if self._settings.keep_by == "auc" else -valid_loss
        improved = figure is not None and _is_better(figure, self._best_figure)
        epoch = EpochReport(
            epoch=len(self._epochs) + 1,
            train_loss=loss,
            valid_loss=valid_loss,
            valid_auc=valid_auc,
            learning_rate=learning_rate,
            rows_per_s=rows / max(trained - began, 1e-9),
            seconds=self._clock() - began,
            improved=improved,
        )
        self._epochs.append(epoch)
        if figure is not None and improved:
            self._snapshot.take(self._learner.arrays())
            self._best_epoch, self._best_figure = epoch.epoch, figure
        log.info("epoch %d: loss %.5f, valid loss %.5f, valid AUC %s", epoch.epoch, loss, valid_loss, valid_auc)
        self._progress.end_epoch(epoch)
        return outcome if finished else "interrupted"

    def _train_rows(self, learning_rate: float, stopping: Callable[[], bool]) -> tuple[float, int, bool]:
        """Mean loss, rows trained on, and whether it got to the end of them."""
        total, rows = 0.0, 0
        self._learner.model.train()
        for batch in self._train.batches(self._batch_rows, seed=self._seed()):
            if stopping():
                return total / max(rows, 1), rows, False
            self._replacement.apply(batch)
            loss = self._learner.step(batch, learning_rate, weight_scale=self._weight_scale)
            total += loss * len(batch.labels)
            rows += len(batch.labels)
            self._progress.advance(len(batch.labels), loss)
        return total / rows, rows, not stopping()

    def _restore_best(self) -> None:
        if not self._best_epoch:
            raise KeyboardInterrupt
        prefix = "served."
        weights = {
            name.removeprefix(prefix): torch.from_numpy(array)
            for name, array in self._snapshot.arrays.items()
            if name.startswith(prefix)
        }
        self._learner.model.load_state_dict(weights)
        self._learner.model.eval()

    def _seed(self) -> int:
        return int(self._random.integers(2**63))


def validate(model: DeepFM, rows: EncodedDataset, settings: TrainSettings) -> tuple[float, float | None]:
    """Mean loss, and AUC (None for a regression), each weighted by the sample weights."""
    logits = model.predict_logits(rows.ids, rows.weights).astype(np.float64)
    labels = np.asarray(rows.labels, np.float64)
    weights = rows.sample_weights
    binary = settings.objective == "binary"
    losses = np.logaddexp(0, logits) - labels * logits if binary else (logits - labels) ** 2
    if not np.isfinite(losses).all():
        raise DataError("training diverged: the validation loss is not finite", hint="lower learning_rate")
    loss = float(np.average(losses, weights=weights))
    return loss, auc(labels, logits, weights) if binary else None


def _start_at_base_rate(model: DeepFM, train: EncodedDataset, settings: TrainSettings) -> None:
    """w0 such that a new model predicts the mean label: the first steps need not learn it."""
    mean = mean_label(train)
    with torch.no_grad():
        model.bias.fill_(_logit(mean) if settings.objective == "binary" else mean)


def _logit(rate: float) -> float:
    rate = min(max(rate, 1e-6), 1 - 1e-6)
    return math.log(rate / (1 - rate))
