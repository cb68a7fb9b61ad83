"""Measures of predictions against labels, each with its confidence interval; numpy only.

Rows count as independent: where a user has many rows, intervals over rows are too narrow, and the one
over groups (`estimate_group_auc`) is the honest one. Legend: B rows, G groups, T ties.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamfm.evaluation.intervals import Estimate, mean_estimate, normal_estimate, standard_error
from streamfm.evaluation.samples import (
    Floats,
    Sample,
    UndefinedMeasureError,
    binary_sample,
    group_codes,
    number_sample,
    run_starts,
)

# Nearest to 0 and 1 that a probability may count: float32 scores cannot tell 1 - 1e-8 from 1,
# and one saturated score must not decide the mean of a million rows.
PROBABILITY_CLIP = 1e-7


def auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Chance that a random positive row scores above a random negative one, ties counting half.

    Exact in O(B log B), by midranks (Hanley & McNeil 1982).

    Args:
        labels: [B] of 0 and 1.
        scores: [B], any increasing function of the probability.
        weights: [B] non-negative, or None for 1 each; a pair counts the product of its two weights.

    Raises:
        DataError: Lengths differ, a label is not 0 or 1, a score is not finite, or only one label occurs.
    """
    return estimate_auc(labels, scores, weights).value


def log_loss(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Weighted mean of -ln p(label), in nats, with p clipped to [1e-7, 1 - 1e-7].

    Args:
        labels: [B] of 0 and 1.
        probabilities: [B] in [0, 1].
        weights: [B] non-negative, or None for 1 each.

    Raises:
        DataError: Lengths differ, a label is not 0 or 1, or a probability is not in [0, 1].
    """
    return estimate_log_loss(labels, probabilities, weights).value


def group_auc(labels: ArrayLike, scores: ArrayLike, groups: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Mean of the AUC inside each group (GAUC), weighted by the group's rows or their weights.

    Groups without both labels have no AUC and do not count (Zhu et al. 2017, "Optimized cost per click
    in Taobao display advertising").

    Args:
        labels: [B] of 0 and 1.
        scores: [B].
        groups: [B], usually the user; integers are fastest; None and NaN belong to no group.
        weights: [B] non-negative, or None for 1 each.

    Raises:
        DataError: As `auc`, or when no group has both labels.
    """
    return estimate_group_auc(labels, scores, groups, weights).estimate.value


def normalised_entropy(labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Log loss divided by that of always answering the base rate: less is better, 1 is useless.

    He et al. 2014, "Practical lessons from predicting clicks on ads at Facebook".

    Raises:
        DataError: As `log_loss`, or when only one label occurs.
    """
    return estimate_normalised_entropy(labels, probabilities, weights).value


def estimate_auc(
    labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """`auc` with DeLong's interval, clipped to [0, 1].

    The variance is that of DeLong et al. 1988, in O(B log B) by midranks (Sun & Xu 2014); with weights, that
    of the weighted means of the same placements. No interval where a label has fewer than two rows, nor where
    the scores separate the labels perfectly (the variance is then 0, which is no certainty).
    """
    sample = binary_sample(labels, scores, weights)
    _require_two_labels(sample, "AUC")
    order = np.argsort(sample.predictions)
    ties = _ties(sample, order, run_starts(sample.predictions[order]))
    positives, negatives = ties.positives.sum(), ties.negatives.sum()
    below = (np.cumsum(ties.negatives) - ties.negatives / 2) / negatives
    above = (positives - np.cumsum(ties.positives) + ties.positives / 2) / positives
    value = float(ties.positives @ below / positives)
    errors = (
        _placement_error(sample, order, ties, below, value, label=1),
        _placement_error(sample, order, ties, above, value, label=0),
    )
    return normal_estimate(value, math.hypot(*errors), confidence, lowest=0.0, highest=1.0)


def estimate_log_loss(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """`log_loss` with the normal interval of the mean of the rows' losses."""
    sample = binary_sample(labels, probabilities, weights, probabilities=True)
    return mean_estimate(_row_losses(sample), sample.weights, confidence, lowest=0.0)


def estimate_normalised_entropy(
    labels: ArrayLike, probabilities: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """`normalised_entropy` with its interval by the delta method: the base rate is an estimate, too."""
    sample = binary_sample(labels, probabilities, weights, probabilities=True)
    _require_two_labels(sample, "normalised entropy")
    losses = _row_losses(sample)
    rate = sample.mean(sample.labels)
    entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    value = sample.mean(losses) / entropy
    entropy_slope = math.log1p(-rate) - math.log(rate)
    influence = (losses - value * (entropy + entropy_slope * (sample.labels - rate))) / entropy
    return normal_estimate(value, standard_error(influence, sample.weights), confidence, lowest=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupEstimate:
    """Group AUC and the rows behind it.

    Attributes:
        estimate: The measure.
        groups: Groups seen; rows whose group is NULL are in none.
        groups_used: Those having both labels, hence an AUC.
        rows_used: Rows in them.
    """

    estimate: Estimate
    groups: int
    groups_used: int
    rows_used: int


def estimate_group_auc(
    labels: ArrayLike,
    scores: ArrayLike,
    groups: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    confidence: float = 0.95,
) -> GroupEstimate:
    """`group_auc` with the interval of a weighted mean over independent groups, clipped to [0, 1]; one sort."""
    sample = binary_sample(labels, scores, weights)
    codes, order = _grouped_order(groups, sample, rows=np.asarray(labels).shape[0])
    group_starts = run_starts(codes)
    ties = _ties(sample, order, run_starts(codes, sample.predictions[order]))
    first_ties = np.searchsorted(ties.starts, group_starts)
    positives = np.add.reduceat(ties.positives, first_ties)
    negatives = np.add.reduceat(ties.negatives, first_ties)
    ties_in_group = np.diff(np.append(first_ties, len(ties.starts)))
    below = np.cumsum(ties.negatives) - ties.negatives / 2 - np.repeat(np.cumsum(negatives) - negatives, ties_in_group)
    won = np.add.reduceat(ties.positives * below, first_ties)
    both = (positives > 0) & (negatives > 0)
    if not both.any():
        message = "group AUC is undefined: no group has rows of both labels"
        raise UndefinedMeasureError(message)
    inside = won[both] / (positives * negatives)[both]
    return GroupEstimate(
        estimate=mean_estimate(inside, (positives + negatives)[both], confidence, lowest=0.0, highest=1.0),
        groups=len(group_starts),
        groups_used=int(both.sum()),
        rows_used=int(np.diff(np.append(group_starts, len(order)))[both].sum()),
    )


def estimate_rmse(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """Root of the mean squared error; its interval is the root of the mean's."""
    sample = number_sample(labels, predictions, weights)
    squared = mean_estimate((sample.labels - sample.predictions) ** 2, sample.weights, confidence, lowest=0.0)
    low = None if squared.low is None else math.sqrt(squared.low)
    high = None if squared.high is None else math.sqrt(squared.high)
    return Estimate(value=math.sqrt(squared.value), low=low, high=high)


def estimate_mean_absolute_error(
    labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None, *, confidence: float = 0.95
) -> Estimate:
    """Mean of |label - prediction|, with the normal interval of a mean."""
    sample = number_sample(labels, predictions, weights)
    return mean_estimate(np.abs(sample.labels - sample.predictions), sample.weights, confidence, lowest=0.0)


def estimate_r_squared(labels: ArrayLike, predictions: ArrayLike, weights: ArrayLike | None = None) -> Estimate:
    """Share of the labels' variance that the predictions explain, without an interval; below 0, the mean does better.

    Raises:
        DataError: As `number_sample`, or when all labels are equal.
    """
    sample = number_sample(labels, predictions, weights)
    _require_two_labels(sample, "R²")
    variance = sample.mean((sample.labels - sample.mean(sample.labels)) ** 2)
    return Estimate(value=1 - sample.mean((sample.labels - sample.predictions) ** 2) / variance)


class _Ties(NamedTuple):
    """Rows sorted by score, and by group before it where there are groups, cut into runs of one score.

    Attributes:
        starts: [T] first place of each run in the order.
        positives: [T] weight of its rows with label 1.
        negatives: [T] weight of its rows with label 0.
    """

    starts: NDArray[np.intp]
    positives: Floats
    negatives: Floats


def _ties(sample: Sample, order: NDArray[np.intp], starts: NDArray[np.intp]) -> _Ties:
    labels = sample.labels[order]
    weights = np.ones(len(order)) if sample.weights is None else sample.weights[order]
    return _Ties(starts, np.add.reduceat(labels * weights, starts), np.add.reduceat((1 - labels) * weights, starts))


def _placement_error(
    sample: Sample, order: NDArray[np.intp], ties: _Ties, placements: Floats, value: float, *, label: int
) -> float:
    """Standard error of the mean placement of one label's rows: the root of DeLong's S10/m or S01/n."""
    rows = sample.labels[order] == label
    deviations = np.repeat(placements - value, np.diff(np.append(ties.starts, len(order))))[rows]
    return standard_error(deviations, None if sample.weights is None else sample.weights[order][rows])


def _grouped_order(groups: ArrayLike, sample: Sample, *, rows: int) -> tuple[NDArray[np.generic], NDArray[np.intp]]:
    """Sorted group codes, and the sample's rows in that order, by score inside a group; NULL groups left out."""
    codes, known = group_codes(groups, rows)
    if sample.kept is not None:
        codes, known = codes[sample.kept], known[sample.kept]
    members = np.flatnonzero(known)
    if len(members) == 0:
        message = "group AUC is undefined: the group of every row is NULL"
        raise UndefinedMeasureError(message)
    order = members[np.lexsort((sample.predictions[members], codes[members]))]
    return codes[order], order


def _row_losses(sample: Sample) -> Floats:
    """[B] -ln of the probability given to the label, float64."""
    clipped = np.clip(sample.predictions, PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    losses: Floats = -np.log(np.where(sample.labels == 1, clipped, 1 - clipped))
    return losses


def _require_two_labels(sample: Sample, measure: str) -> None:
    if sample.labels.min() == sample.labels.max():
        message = f"{measure} is undefined: all {len(sample.labels)} labels are {sample.labels[0]:g}"
        raise UndefinedMeasureError(message)
