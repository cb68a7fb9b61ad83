"""Confidence intervals, by the normal approximation; numpy only. Legend: B rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from streamfm.errors import DataError
from streamfm.evaluation.samples import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A measure and its confidence interval.

    Attributes:
        value: The measure on these rows.
        low: Lower end of the interval; None, as `high`, where these rows give none.
        high: Upper end of the interval.
    """

    value: float
    low: float | None = None
    high: float | None = None


def normal_estimate(
    value: float, error: float, confidence: float, *, lowest: float = -math.inf, highest: float = math.inf
) -> Estimate:
    """The value ± z standard errors, cut off at what is possible.

    A standard error of 0 or NaN gives no interval: rows that do not differ say nothing about those to come.
    """
    if not error > 0:
        return Estimate(value=value)
    margin = normal_quantile(confidence) * error
    return Estimate(value=value, low=max(lowest, value - margin), high=min(highest, value + margin))


def mean_estimate(
    values: Floats,
    weights: Floats | None,
    confidence: float,
    *,
    lowest: float = -math.inf,
    highest: float = math.inf,
) -> Estimate:
    """The weighted mean of [B] values, and its normal interval."""
    mean = float(np.average(values, weights=weights))
    return normal_estimate(mean, standard_error(values - mean, weights), confidence, lowest=lowest, highest=highest)


def standard_error(deviations: Floats, weights: Floats | None) -> float:
    """Standard error of a weighted mean, from [B] deviations from it; NaN with fewer than two rows.

    sqrt(Σ w² d² / (Σ w)² · B / (B - 1)): the usual s / sqrt(B) for equal weights, and for others the
    linearised error of a ratio of sums (Cochran 1977, Sampling Techniques, 6.4).
    """
    rows = len(deviations)
    if rows < 2:
        return math.nan
    if weights is None:
        return math.sqrt(float(deviations @ deviations) / rows / (rows - 1))
    weighted = deviations * weights
    return math.sqrt(float(weighted @ weighted) * rows / (rows - 1)) / float(weights.sum())


def normal_quantile(confidence: float) -> float:
    """How many standard errors a two-sided interval reaches: 1.96 for 0.95.

    Raises:
        DataError: Confidence not between 0 and 1.
    """
    if not 0 < confidence < 1:
        message = f"confidence is {confidence}, expected a number between 0 and 1"
        raise DataError(message, hint="0.95 is usual")
    return NormalDist().inv_cdf((1 + confidence) / 2)
