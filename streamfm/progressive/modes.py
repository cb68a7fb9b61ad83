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
from streamfm.scoring import Scorer

if TYPE_CHECKING:
    from streamfm.finetuning import FineTuner

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
    """Fine-tuned on what has come since the last time, and on as many rows, or so, out of all that came before."""

    def __init__(self, rows: OrderedRows, start: Start, tuner: FineTuner, *, replay_share: float, seed: int) -> None:
        """Begin with the first model; rows are replayed, drawn by the seed, `replay_share` for each new one."""
        self._rows, self._tuner, self._learnt = rows, tuner, start.trained
        self._share, self._random = replay_share, np.random.default_rng(seed)
        self._is_binary = tuner.spec.task == "binary"

    def learn(self, known: int) -> bool:
        """One round of fine-tuning."""
        new = known - self._learnt
        if new <= 0:
            return False
        replayed = round(new * self._share) if self._learnt else 0
        drawn = np.sort(self._random.integers(0, max(self._learnt, 1), replayed))
        replay = self._rows.take(drawn) if replayed else None
        self._tuner.learn(self._rows.part(self._learnt, known), replay)
        self._learnt = known
        return True

    def predict(self, start: int, end: int) -> Predictions:
        """As it would be served."""
        batch = self._rows.part(start, end)
        logits = self._tuner.predict_logits(batch.columns, batch.rows).astype(np.float64)
        predictions: Predictions = 1 / (1 + np.exp(-logits)) if self._is_binary else logits
        return predictions
