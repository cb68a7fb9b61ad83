"""A shift of the logit that sets Σp/Σy right: fitted on one half of a window's groups, judged on the other."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamfm.evaluation.samples import Floats
from streamfm.gate.paired import Difference, clipped, log_loss_difference, probabilities

_STEPS = 50
_ENOUGH = 1e-10


@dataclass(frozen=True, kw_only=True, slots=True)
class Recalibration:
    """A shift, and what it did to rows that it was not fitted on.

    Attributes:
        shift: Added to the logit.
        gain: Log loss with it minus without, on the half that judges.
        judged: [B] True for that half.
    """

    shift: float
    gain: Difference
    judged: NDArray[np.bool_]


def recalibrated(
    labels: Floats, logits: Floats, weights: Floats, clusters: NDArray[np.intp], largest: float
) -> Recalibration | None:
    """The shift that one half of the clusters asks for, tried on the other; None where a half lacks a positive."""
    judged = clusters % 2 == 1
    if not (labels[~judged] == 1).any() or not (labels[judged] == 1).any():
        return None
    shift = fitted_shift(labels[~judged], logits[~judged], weights[~judged], largest)
    before = clipped(logits[judged])
    gain = log_loss_difference(labels[judged], clipped(before + shift), before, weights[judged], clusters[judged])
    return Recalibration(shift=shift, gain=gain, judged=judged)


def fitted_shift(labels: Floats, logits: Floats, weights: Floats, largest: float) -> float:
    """The b in [-largest, largest] for which Σ w p(z + b) = Σ w y, or the nearer end.

    Newton's method; the sum rises with b, so that what is known to be too low or too high bounds the steps.
    """
    shift, low, high, goal = 0.0, -largest, largest, float(weights @ labels)
    for _ in range(_STEPS):
        p = probabilities(logits + shift)
        miss, slope = float(weights @ p) - goal, float(weights @ (p * (1 - p)))
        low, high = (low, shift) if miss > 0 else (shift, high)
        after = shift - miss / slope if slope > 0 else math.inf
        if not low < after < high:
            # Beyond the ends: half of the way there, which halves again until it is one of them.
            after = (low + high) / 2
        if abs(after - shift) < _ENOUGH:
            return after
        shift = after
    return shift
