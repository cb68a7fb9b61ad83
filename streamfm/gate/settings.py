"""What the gate is told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from streamfm.errors import SpecError

_SHARES = ("alpha", "lineage_alpha", "shift_alpha", "power")
_AT_LEAST_ONE = ("lineage_rows", "least_rows", "least_positives", "slice_rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class GateSettings:
    """How much evidence refuses a candidate; saved with each verdict.

    Attributes:
        alpha: Probability at most that a round refuses a candidate that is as good as its parent, all tests together
            (log loss, AUC, calibration, slices: a quarter each, the slices' quarter by Holm's rule).
        power: Of what `detectable` in a verdict states: a candidate so much worse is refused with this probability.
        tolerance: Nats by which a candidate's log loss may be above its parent's; the test asks whether it is more.
        margin: Nats by which the lineage may be worse than its anchor. The anchor moves on when it is proven to be
            less, and the candidate is refused when it is proven to be more.
        lineage_alpha: Probability at most, over all rounds since the anchor moved, that either is proven wrongly.
        lineage_rows: Rows at which the sequential test is sharpest, and before which the anchor does not move.
        least_rows: Rows before which the sequential test decides nothing: it is valid asymptotically.
        least_positives: Rows of each label below which AUC is told, but refuses nothing.
        slice_rows: Rows below which a slice is told, but refuses nothing; nor does the shift of the scores.
        calibration_low: Σp/Σy below which a logit shift is tried; only where the interval is outside, too.
        calibration_high: The same from above.
        calibration_limit: Factor, up or down, by which Σp/Σy may miss; more is refused unless the parent misses more.
        shift_alpha: A logit shift is used where it helps on rows that it was not fitted on, at this level.
        largest_shift: A logit shift is cut off here.
        score_shift_limit: Population stability index of the candidate's scores against the parent's; more is refused
            unless its log loss is lower.
    """

    alpha: float = 0.01
    power: float = 0.8
    tolerance: float = 0.0
    margin: float = 0.001
    lineage_alpha: float = 0.001
    lineage_rows: int = 20_000
    least_rows: int = 500
    least_positives: int = 10
    slice_rows: int = 100
    calibration_low: float = 0.98
    calibration_high: float = 1.02
    calibration_limit: float = 1.25
    shift_alpha: float = 0.05
    largest_shift: float = 1.0
    score_shift_limit: float = 0.25

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        for name in _SHARES:
            if not 0 < getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, expected a number between 0 and 1")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise SpecError(f"{name} is {getattr(self, name)}, expected at least 1")
        for name in ("tolerance", "margin", "largest_shift", "score_shift_limit"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise SpecError(f"{name} is {getattr(self, name)}, expected 0 or more")
        if not 0 < self.calibration_low < 1 < self.calibration_high < math.inf:
            bounds = f"{self.calibration_low} and {self.calibration_high}"
            raise SpecError(f"calibration_low and calibration_high are {bounds}, expected 0 < low < 1 < high")
        if not 1 < self.calibration_limit < math.inf:
            raise SpecError(f"calibration_limit is {self.calibration_limit}, expected a factor above 1")

    @property
    def test_alpha(self) -> float:
        """What each of the four tests of a round may err by."""
        return self.alpha / 4
