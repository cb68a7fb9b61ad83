"""What fine-tuning tells of a chunk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NumericDrift:
    """How the numbers of new rows lie beside those that the first training saw.

    Attributes:
        present: Share of the rows that have a number.
        mean: Of the numbers as the encoder scales them: 0 where nothing drifted ("none" scales nothing).
        deviation: The same; 1 where nothing drifted. NaN is never there: without numbers both are None.
        buckets: Of a quantile feature instead, the share of the rows with a number in each of its buckets.
    """

    present: float
    mean: float | None = None
    deviation: float | None = None
    buckets: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnReport:
    """A chunk that was learnt.

    Losses are of the newest `streamfm.finetuning.tuner.MEASURED_ROWS` of the new rows, by the weights that would be
    served, without the logit shift: log loss in nats, or squared error.

    Attributes:
        rows: New ones.
        replayed: Old ones, mixed in.
        steps: Made.
        seconds: All of it.
        loss_before: Before the first step; None without rows.
        loss_after: After the last.
        train_loss: Mean of the steps' losses, of new and replayed rows together.
        unknown_before: By feature, the share of the new rows with a value that the model did not know.
        unknown_after: The same once values were admitted.
        admitted: By table, how many values got a row; tables without are left out.
        evicted: By table, how many lost theirs.
        pending: By table, how many wait for theirs.
        drift: By numeric feature.
        interrupted: Whether `stop` ended it before the last step: the tuner is half-way then, and is to be dropped.
    """

    rows: int
    replayed: int
    steps: int
    seconds: float
    loss_before: float | None = None
    loss_after: float | None = None
    train_loss: float | None = None
    unknown_before: Mapping[str, float] = field(default_factory=dict)
    unknown_after: Mapping[str, float] = field(default_factory=dict)
    admitted: Mapping[str, int] = field(default_factory=dict)
    evicted: Mapping[str, int] = field(default_factory=dict)
    pending: Mapping[str, int] = field(default_factory=dict)
    drift: Mapping[str, NumericDrift] = field(default_factory=dict)
    interrupted: bool = False

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return asdict(self)
