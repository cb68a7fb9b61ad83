"""What fine-tuning is told."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from streamfm.errors import SpecError
from streamfm.settings import TrainSettings

LEAST_BATCH_ROWS = 4
LEAST_STEP_ROWS = 8

_CHOICES = {"batch_statistics": ("update", "keep"), "table_update": ("auto", "dense", "lazy")}
_AT_LEAST = {
    "batch_size": LEAST_BATCH_ROWS,
    "passes": 1,
    "pending_limit": 0,
    "seed": 0,
    "new_rows_until": 0,
    "least_steps": 1,
}
_SHARES = ("dropout", "average_decay", "unknown_share", "null_share")
_POSITIVE = ("learning_rate", "replay_weight", "new_rows_rate", "replay_max_age_s", "evict_unseen_s")
_NOT_NEGATIVE = ("replay_ratio", "l2", "gradient_norm")


class FirstRate(NamedTuple):
    """How the first training of a model stepped.

    Attributes:
        learning_rate: At first.
        batch_size: Rows of a step.
    """

    learning_rate: float = 1e-3
    batch_size: float = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class FineTuneSettings:
    """How a published model goes on learning; saved in the bundle's manifest.

    Attributes:
        learning_rate: Adam's, of the dense part and of rows of the table that have been trained on before; None for
            the rate of the first training times the square root of this batch size over that one's, which keeps the
            steps' noise (Malladi et al. 2022, arXiv 2205.10287): a model of large batches is spoilt by its own rate.
        new_rows_rate: The learning rate of the table's young rows, in units of the others'.
        new_rows_until: Up to how many slots of the training rows a row of the table is young.
        batch_size: Rows of a step, at most; a chunk is cut into batches of nearly one size.
        least_steps: Steps of a pass over a chunk, at least, as long as each has `LEAST_STEP_ROWS`: small chunks get
            smaller batches.
        passes: Over each chunk.
        replay_ratio: How many rows of the trained past are mixed into a chunk for each new one; who calls `learn`
            draws them.
        replay_weight: How much a replayed row counts beside a new one.
        replay_max_age_s: How old they may be; None for any age.
        dropout: Share of the hidden units set to zero at each step, in steps of 1/256; None for the parent's.
        batch_statistics: Whether batch norm normalises by each batch and goes on averaging ("update"), or by the
            parent's averages, which stay ("keep").
        l2: λ of λ/2·‖E‖² over the rows of the table, added to the mean loss; with lazy updates, of the batch only.
        gradient_norm: The gradient is scaled down to this norm; 0 for no limit.
        average: Whether an average of the weights over the steps is served instead of the last weights.
        average_decay: Of that average.
        table_update: "lazy" (a step moves only the rows of its batch), "dense" (all rows), or "auto" as in training.
        unknown_share: Share of ids replaced by their field's row for unknown values, so that it goes on learning: new
            categories begin as its copies.
        null_share: The same for the row of NULL.
        admit_after: Sightings, over all rounds, after which a value gets a row of its own; None for its feature's
            `min_count`.
        pending_limit: Values of a table that may wait for theirs; beyond, those with the fewest sightings are
            forgotten, of these the ones not seen for the longest.
        evict_unseen_s: Values that no new row had for so long lose their row; None for never. Needs an event time.
        distillation: Share of the loss that asks for the probability that the model gave before the chunk, instead of
            for the label; 0 for none.
        threads: Of torch meanwhile; None leaves them as they are.
        seed: Of shuffling, drop-out and id replacement, together with the number of steps made.
    """

    learning_rate: float | None = None
    new_rows_rate: float = 1.0
    new_rows_until: int = 20
    batch_size: int = 64
    least_steps: int = 4
    passes: int = 1
    replay_ratio: float = 1.0
    replay_weight: float = 0.5
    replay_max_age_s: float | None = None
    dropout: float | None = None
    batch_statistics: Literal["update", "keep"] = "update"
    l2: float = 1e-6
    gradient_norm: float = 10.0
    average: bool = False
    average_decay: float = 0.99
    table_update: Literal["auto", "dense", "lazy"] = "lazy"
    unknown_share: float = 0.005
    null_share: float = 0.005
    admit_after: int | None = None
    pending_limit: int = 100_000
    evict_unseen_s: float | None = None
    distillation: float = 0.0
    threads: int | None = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        least = _AT_LEAST | {name: 1 for name in ("admit_after", "threads") if getattr(self, name) is not None}
        for name, number in least.items():
            self._require(name, getattr(self, name) >= number, f"at least {number}")
        for name in _POSITIVE:
            value = getattr(self, name)
            self._require(name, value is None or 0 < value < math.inf, "more than 0")
        for name in _NOT_NEGATIVE:
            self._require(name, 0 <= getattr(self, name) < math.inf, "0 or more")
        for name in _SHARES:
            self._require(name, getattr(self, name) is None or 0 <= getattr(self, name) < 1, f"0 <= {name} < 1")
        self._require("distillation", 0 <= self.distillation <= 1, "from 0 to 1")

    def following(self, first: FirstRate) -> FineTuneSettings:
        """These settings with a learning rate, the one given or the one that follows from the first training's."""
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=first.learning_rate * math.sqrt(self.batch_size / first.batch_size))

    @property
    def rate(self) -> float:
        """The learning rate; before it follows from the first training's, that one's usual rate."""
        return FirstRate().learning_rate if self.learning_rate is None else self.learning_rate

    def training(self, objective: Literal["binary", "regression"]) -> TrainSettings:
        """What a `Learner` has to know of them."""
        return TrainSettings(
            objective=objective,
            batch_size=self.batch_size,
            learning_rate=self.rate,
            l2_factors=self.l2,
            l2_first_order=self.l2,
            gradient_norm=self.gradient_norm,
            average=self.average,
            average_decay=self.average_decay,
            unknown_share=self.unknown_share,
            null_share=self.null_share,
            table_update=self.table_update,
            # Autocast costs more than bfloat16 saves with batches as small as these.
            precision="float32",
            threads=self.threads,
            seed=self.seed,
        )

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise SpecError(f"{name} is {getattr(self, name)}, expected {expected}")
