"""What monitoring is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamfm.errors import SpecError
from streamfm.features.checks import check_name


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorSettings:
    """How what was served is looked at.

    Attributes:
        score: Column of the probability that was served.
        version: Column of the version that served it; where it is absent `version` stands for it, as streams write it,
            and where that is, too, all rows are taken for one version.
        model: Column of the model's name; rows of other models do not count. Where it is absent all rows do.
        bucket_s: Length of the periods that are told one by one, from the hour.
        recent_s: The newest rows, whose features and scores are compared with those before; None for the newer half of
            the time.
        categories: The most frequent values of a category that are told apart; all others are one.
        moved: Stability index from which a feature counts as moved.
        shifted: From which it counts as another.
        max_rows: Served rows that are scored again for a comparison with another version, at most.
    """

    score: str = "score"
    version: str = "model_version"
    model: str = "model"
    bucket_s: float = 3600.0
    recent_s: float | None = None
    categories: int = 20
    moved: float = 0.1
    shifted: float = 0.25
    max_rows: int = 500_000

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        for name in ("score", "version", "model"):
            check_name(getattr(self, name), name)
        for name in ("bucket_s", "recent_s"):
            value = getattr(self, name)
            if value is not None and not 1 <= value < math.inf:
                raise SpecError(f"{name} is {value}, expected at least a second")
        for name in ("categories", "max_rows"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, expected at least 1")
        if not 0 < self.moved < self.shifted < math.inf:
            raise SpecError(f"moved and shifted are {self.moved} and {self.shifted}, expected 0 < moved < shifted")
