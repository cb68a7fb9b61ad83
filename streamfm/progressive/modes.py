"""What happens to a model between two shards: nothing, fine-tuning, or another one is trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from streamfm.bundle import Bundle
from streamfm.progressive.rows import OrderedRows
from streamfm.progressive.shards import MICROSECONDS
from streamfm.scoring import Scorer

if TYPE_CHECKING:
    from streamfm.data.labelled_rows import LabelledBatch
    from streamfm.finetuning import FineTuner, FineTuneSettings

Predictions = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """The model that all modes begin with.

    Attributes:
        bundle: As training from scratch made it, or one that was there before.
        trained: So many rows, the earliest, it was trained on.
    """

    bundle: Bundle
    trained: int


class Mode(Protocol):
    """A model that goes through time."""

    def learn(self, known: int) -> bool:
        """Learn from what is new among the first `known` rows, whose labels have come; tells whether it changed."""

    def predict(self, start: int, end: int) -> Predictions:
        """Probabilities (of a regression, numbers) of these rows."""


class Frozen:
    """The first model, for ever."""

    def __init__(self, rows: OrderedRows, start: Start) -> None:
        """Begin with the first model."""
        self._rows, self._scorer = rows, Scorer(start.bundle)

    def learn(self, known: int) -> bool:
        """Nothing."""
        return False

    def predict(self, start: int, end: int) -> Predictions:
        """As it is served."""
        batch = self._rows.part(start, end)
        return self._scorer.score_columns(batch.columns, batch.rows).astype(np.float64)


class Full(Frozen):
    """Trained from scratch on everything, every so many shards."""

    def __init__(self, rows: OrderedRows, start: Start, train: Callable[[int, Path], Bundle], every: int, folder: Path):
        """Begin with the first model; `train` makes another out of so many rows, in a folder that is not there yet."""
        super().__init__(rows, start)
        self._train, self._every, self._folder = train, every, folder
        self._shards, self._known = 0, start.trained

    def learn(self, known: int) -> bool:
        """Train again if it is time to, and there are rows that the last training did not have."""
        due = self._shards > 0 and self._shards % self._every == 0 and known > self._known
        self._shards += 1
        if due:
            self._scorer = Scorer(self._train(known, self._folder / f"full-{known}"))
            self._known = known
        return due


class Incremental:
    """Fine-tuned on what has come since the last time, and on rows of before, drawn anew for each round."""

    def __init__(self, rows: OrderedRows, start: Start, tuner: FineTuner, settings: FineTuneSettings, seed: int):
        """Begin with the first model; which rows are replayed is decided by `seed`."""
        self._rows, self._tuner, self._learnt = rows, tuner, start.trained
        self._settings, self._random = settings, np.random.default_rng(seed)
        self._is_binary = tuner.spec.task == "binary"

    def learn(self, known: int) -> bool:
        """One round of fine-tuning."""
        if known <= self._learnt:
            return False
        self._tuner.learn(self._rows.part(self._learnt, known), self._replayed(known))
        self._learnt = known
        return True

    def _replayed(self, known: int) -> LabelledBatch | None:
        """Rows learnt before, drawn uniformly, each as often as chance has it; None for none."""
        oldest, age = 0, self._settings.replay_max_age_s
        if age is not None:
            newest = self._rows.times[known - 1]
            oldest = int(np.searchsorted(self._rows.times, newest - round(age * MICROSECONDS)))
        count = round((known - self._learnt) * self._settings.replay_ratio)
        if not count or oldest >= self._learnt:
            return None
        return self._rows.take(np.sort(self._random.integers(oldest, self._learnt, count)))

    def predict(self, start: int, end: int) -> Predictions:
        """As it would be served."""
        batch = self._rows.part(start, end)
        logits = self._tuner.predict_logits(batch.columns, batch.rows).astype(np.float64)
        predictions: Predictions = 1 / (1 + np.exp(-logits)) if self._is_binary else logits
        return predictions
