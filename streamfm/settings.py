"""What training is told, and what it tells: the shape of the network, settings, progress, the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol

from streamfm.errors import SpecError

if TYPE_CHECKING:
    from numpy.typing import NDArray

DENSE_TABLE_NUMBERS = 4_000_000
"""Tables of up to so many numbers (rows times K + 1) are updated densely by `table_update = "auto"`."""

LEAST_BATCH_ROWS = 32

_CHOICES = {
    "objective": ("binary", "regression"),
    "keep_by": ("loss", "auc"),
    "precision": ("auto", "float32", "bfloat16"),
    "table_update": ("auto", "dense", "lazy"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """The shape of a DeepFM; saved in the bundle's manifest.

    Attributes:
        factors: K, the length of the vector of every category.
        hidden: Widths of the hidden layers of the deep part; empty for a plain factorisation machine.
        dropout: Share of the hidden units set to zero at each training step, in steps of 1/256.
        batch_norm: Whether each hidden layer is normalised over the batch.
    """

    factors: int = 32
    hidden: tuple[int, ...] = (400, 400, 400)
    dropout: float = 0.2
    batch_norm: bool = True

    def __post_init__(self) -> None:
        """Refuse impossible shapes.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.factors < 1:
            raise SpecError(f"factors is {self.factors}, expected at least 1")
        if any(width < 1 for width in self.hidden):
            hint = "use hidden = () for a model without a deep part"
            raise SpecError(f"hidden is {self.hidden}, expected widths of at least 1", hint=hint)
        if not 0 <= self.dropout < 1:
            raise SpecError(f"dropout is {self.dropout}, expected 0 <= dropout < 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSettings:
    """How to train; saved in the bundle's manifest. The defaults are for logs of rare ids, such as Frappe_x1.

    Attributes:
        objective: "binary" (log loss) or "regression" (squared error).
        batch_size: Rows of a step, at most.
        least_steps: Steps of an epoch, at least: few rows get smaller batches, down to `LEAST_BATCH_ROWS`, since a
            handful of steps an epoch neither learns nor shows when it stops.
        learning_rate: Adam's, at first.
        max_epochs: Passes over the training rows at most.
        keep_by: What tells the best epoch, whose weights are kept: the validation rows' "loss" (log loss, or squared
            error), or their "auc", which does not see when probabilities become too sure.
        plateau_factor: The learning rate is multiplied by this when validation (AUC; of a regression, the loss) stops
            improving.
        plateau_patience: Epochs without improvement until then.
        plateaus: Training stops at this many plateaus.
        l2_factors: λ of λ/2·‖E‖², added to the mean loss for the factors.
        l2_first_order: The same for the first-order weights.
        l2_deep: The same for the weights of the deep part's linear layers.
        gradient_norm: The gradient is scaled down to this norm; 0 for no limit.
        average: Whether an average of the weights over the steps is validated and kept instead of the last weights.
        average_decay: Of that average, after a ramp: see `table_optimiser.AverageDecay`.
        unknown_share: Share of ids replaced by their field's row for unknown values while training, so that it learns.
        null_share: The same for the row of NULL.
        table_update: "dense" (the penalty and Adam move the whole table at every step), "lazy" (only the rows of the
            batch), or "auto": dense for tables of up to `DENSE_TABLE_NUMBERS`.
        precision: "float32", "bfloat16" (matrix products of the training steps only), or "auto": bfloat16 where the
            processor multiplies it natively.
        threads: Of torch while training; None leaves them as they are.
        seed: Of shuffling, drop-out and id replacement.
    """

    objective: Literal["binary", "regression"] = "binary"
    batch_size: int = 4096
    least_steps: int = 40
    learning_rate: float = 1e-3
    max_epochs: int = 100
    keep_by: Literal["loss", "auc"] = "loss"
    plateau_factor: float = 0.1
    plateau_patience: int = 2
    plateaus: int = 2
    l2_factors: float = 0.05
    l2_first_order: float = 0.05
    l2_deep: float = 0.0
    gradient_norm: float = 10.0
    average: bool = True
    average_decay: float = 0.99
    unknown_share: float = 0.005
    null_share: float = 0.005
    table_update: Literal["auto", "dense", "lazy"] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise SpecError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(choices)}")
        if self.objective == "regression" and self.keep_by == "auc":
            raise SpecError("keep_by is 'auc', but a regression has no AUC", hint="keep by 'loss'")
        for name in ("batch_size", "max_epochs", "plateau_patience", "plateaus"):
            self._require(name, 2 if name == "batch_size" else 1)
        for name in ("l2_factors", "l2_first_order", "l2_deep", "gradient_norm", "seed", "least_steps"):
            self._require(name, 0)
        if self.threads is not None:
            self._require("threads", 1)
        if not self.learning_rate > 0:
            raise SpecError(f"learning_rate is {self.learning_rate}, expected more than 0")
        for name in ("average_decay", "plateau_factor", "unknown_share", "null_share"):
            if not 0 <= getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, expected 0 <= {name} < 1")

    def batch_rows(self, rows: int) -> int:
        """Rows of a step when there are so many in all."""
        if not self.least_steps:
            return self.batch_size
        return min(self.batch_size, max(LEAST_BATCH_ROWS, rows // self.least_steps))

    def _require(self, name: str, least: int) -> None:
        if not getattr(self, name) >= least:
            raise SpecError(f"{name} is {getattr(self, name)}, expected at least {least}")


@dataclass(frozen=True, slots=True, kw_only=True)
class EpochReport:
    """One pass over the training rows.

    Attributes:
        epoch: 1, 2, ...
        train_loss: Mean of the steps' losses, without the penalty, in nats (or squared units).
        valid_loss: The same on the validation rows, by the weights that would be kept.
        valid_auc: Their AUC; None for a regression.
        learning_rate: Of its steps.
        rows_per_s: Training rows a second, validation not counted.
        seconds: All of it.
        improved: Whether it was the best so far.
    """

    epoch: int
    train_loss: float
    valid_loss: float
    valid_auc: float | None
    learning_rate: float
    rows_per_s: float
    seconds: float
    improved: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainReport:
    """A finished run; the model trained has its best weights.

    Attributes:
        epochs: One report an epoch.
        best_epoch: The epoch whose weights were kept.
        stopped: Why it ended.
        settings: What it was told.
        rows: Training rows.
        batch_size: Rows of a step.
        seconds: All of it.
        table_update: What "auto" came to.
        precision: What "auto" came to.
        state: What fine-tuning needs, by name: `served.*` the weights kept, `raw.*` those that the optimiser moves
            (absent without averaging, when they are the same), `moment1.*`, `moment2.*`, `step` int64 [1],
            `row_count` int64 [R] and `row_last_step` int32 [R]. The names after the dot are those of
            `DeepFM.state_dict()`.
    """

    epochs: tuple[EpochReport, ...]
    best_epoch: int
    stopped: Literal["plateau", "epochs", "interrupted"]
    settings: TrainSettings
    rows: int
    batch_size: int
    seconds: float
    table_update: Literal["dense", "lazy"]
    precision: Literal["float32", "bfloat16"]
    state: Mapping[str, NDArray[Any]] = field(repr=False, compare=False)

    @property
    def best(self) -> EpochReport:
        """The epoch whose weights were kept."""
        return self.epochs[self.best_epoch - 1]

    @property
    def interrupted(self) -> bool:
        """Whether someone stopped it."""
        return self.stopped == "interrupted"

    def to_dict(self) -> dict[str, Any]:
        """All but the state, as JSON can hold it."""
        plain = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "state"}
        return plain | {"epochs": [asdict(epoch) for epoch in self.epochs], "settings": asdict(self.settings)}


class Progress(Protocol):
    """Told how training goes, by its thread, between two steps; an exception raised here ends the training."""

    def start(self, rows_per_epoch: int, max_epochs: int) -> None:
        """Training begins."""

    def advance(self, rows: int, loss: float) -> None:
        """A step over so many rows, with this mean loss."""

    def end_epoch(self, epoch: EpochReport) -> None:
        """An epoch was validated."""


class Silence:
    """A `Progress` that shows nothing."""

    def start(self, rows_per_epoch: int, max_epochs: int) -> None:
        """Show nothing."""

    def advance(self, rows: int, loss: float) -> None:
        """Show nothing."""

    def end_epoch(self, epoch: EpochReport) -> None:
        """Show nothing."""
