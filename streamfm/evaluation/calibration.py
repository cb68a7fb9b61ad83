"""Whether probabilities mean what they say: Σp/Σy, and predicted against observed in bins. Legend: B rows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamfm.errors import DataError
from streamfm.evaluation.intervals import Estimate, normal_estimate, normal_quantile, standard_error
from streamfm.evaluation.samples import Floats, Sample, UndefinedMeasureError, binary_sample, run_starts


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationBin:
    """Rows of similar prediction, and what came of them.

    Attributes:
        rows: How many.
        lowest: Smallest prediction.
        highest: Largest prediction.
        mean_prediction: Weighted mean of the predictions.
        observed_rate: Weighted share of label 1.
        low: Lower end of the observed rate's Wilson interval.
        high: Upper end.
    """

    rows: int
    lowest: float
    highest: float
    mean_prediction: float
    observed_rate: float
    low: float
    high: float


def calibration(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Expected positives over observed ones, Σp/Σy: above 1, the model promises too much.

    Raises:
        DataError: Lengths differ, a label is not 0 or 1, a probability is not in [0, 1], or no label is 1.
    """
    return estimate_calibration(labels, probabilities, weights).value


def estimate_calibration(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """`calibration` with the interval of a ratio of sums, normal in its logarithm (delta method)."""
    sample = binary_sample(labels, probabilities, weights, probabilities=True)
    observed, expected = sample.mean(sample.labels), sample.mean(sample.predictions)
    if observed == 0:
        message = f"calibration is undefined: none of {len(sample.labels)} labels is 1"
        raise UndefinedMeasureError(message)
    ratio = expected / observed
    if ratio == 0:
        return Estimate(value=0.0)
    influence = (sample.predictions - ratio * sample.labels) / expected
    logarithm = normal_estimate(math.log(ratio), standard_error(influence, sample.weights), confidence)
    if logarithm.low is None or logarithm.high is None:
        return Estimate(value=ratio)
    return Estimate(value=ratio, low=math.exp(logarithm.low), high=math.exp(logarithm.high))


def calibration_bins(
    labels: ArrayLike,
    probabilities: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 10,
    confidence: float = 0.95,
) -> tuple[CalibrationBin, ...]:
    """Predicted and observed rates in bins of equally many rows, lowest predictions first.

    Equal predictions stay together, in the bin of their middle rank, so the order of rows changes nothing; many
    ties make bins uneven, and leave out those that would be empty.

    Raises:
        DataError: Lengths differ, a label is not 0 or 1, a probability is not in [0, 1], or `bins` is below 1.
    """
    if bins < 1:
        message = f"bins is {bins}, expected 1 or more"
        raise DataError(message)
    sample = binary_sample(labels, probabilities, weights, probabilities=True)
    order = np.argsort(sample.predictions)
    starts = run_starts(sample.predictions[order])
    ends = np.append(starts[1:], len(order))
    bin_of_run = ((starts + ends) * bins) // (2 * len(order))
    bounds = np.append(starts[run_starts(bin_of_run)], len(order))
    quantile = normal_quantile(confidence)
    return tuple(_bin(sample, order[start:end], quantile) for start, end in pairwise(bounds))


def wilson_interval(rate: float, rows: float, quantile: float) -> tuple[float, float]:
    """Ends of the score interval of a binomial rate (Wilson 1927): inside [0, 1], and sound at 0 and 1.

    Args:
        rate: Observed share.
        rows: How many rows it is the share of; for weights, the effective number (Σw)²/Σw².
        quantile: Of the normal distribution: 1.96 for 95 %.
    """
    shrink = 1 + quantile**2 / rows
    centre = (rate + quantile**2 / (2 * rows)) / shrink
    margin = quantile / shrink * math.sqrt(rate * (1 - rate) / rows + quantile**2 / (4 * rows**2))
    return max(0.0, centre - margin), min(1.0, centre + margin)


def _bin(sample: Sample, rows: NDArray[np.intp], quantile: float) -> CalibrationBin:
    """The bin of these rows, sorted by prediction."""
    predictions = sample.predictions[rows]
    weights = None if sample.weights is None else sample.weights[rows]
    rate = float(np.average(sample.labels[rows], weights=weights))
    low, high = wilson_interval(rate, _effective_rows(len(rows), weights), quantile)
    return CalibrationBin(
        rows=len(rows),
        lowest=float(predictions[0]),
        highest=float(predictions[-1]),
        mean_prediction=float(np.average(predictions, weights=weights)),
        observed_rate=rate,
        low=low,
        high=high,
    )


def _effective_rows(rows: int, weights: Floats | None) -> float:
    """Kish's effective number of rows."""
    return float(rows) if weights is None else float(weights.sum() ** 2 / (weights @ weights))
