"""Two models on the same rows: differences of log loss and of AUC with errors that know groups; numpy only.

Legend: B rows, G clusters (groups, or single rows). All errors are linearised: the influence of each row on the figure
is summed inside its cluster, and the sums are what varies (Obuchowski 1997 for AUC; Liang & Zeger 1986 in general).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from streamfm.evaluation.metrics import PROBABILITY_CLIP
from streamfm.evaluation.samples import Floats

LOGIT_CLIP = math.log(1 / PROBABILITY_CLIP - 1)
"""As log loss clips probabilities: one saturated score must not decide a window."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """First model minus second, on the same rows.

    Attributes:
        value: The difference; None where the rows do not determine it.
        error: Its standard error; None where they do not determine that.
        degrees: Of freedom of the error.
        first: The figure of the first model.
        second: The figure of the second.
    """

    value: float | None = None
    error: float | None = None
    degrees: int = 0
    first: float | None = None
    second: float | None = None

    def p_above(self, limit: float) -> float | None:
        """Probability of a value so far above the limit where the truth is at the limit; None where undefined."""
        if self.value is None or self.error is None or self.degrees < 1:
            return None
        if self.error == 0:
            return 1.0 if self.value <= limit else 0.0
        return upper_tail((self.value - limit) / self.error, self.degrees)

    def p_below(self, limit: float) -> float | None:
        """The same, below."""
        if self.value is None:
            return None
        return Difference(value=-self.value, error=self.error, degrees=self.degrees).p_above(-limit)

    def interval(self, confidence: float = 0.95) -> tuple[float | None, float | None]:
        """Its ends; None where undefined."""
        if self.value is None or self.error is None or self.degrees < 1:
            return None, None
        margin = self.error * student_quantile((1 + confidence) / 2, self.degrees)
        return self.value - margin, self.value + margin

    def detectable(self, alpha: float, power: float) -> float | None:
        """The least truth that a one-sided test at `alpha` finds with probability `power`; None where undefined."""
        if self.error is None or self.degrees < 1:
            return None
        return self.error * (student_quantile(1 - alpha, self.degrees) + NormalDist().inv_cdf(power))


def probabilities(logits: Floats) -> Floats:
    """[B] probabilities of [B] logits."""
    return 0.5 * (1 + np.tanh(0.5 * logits))


def clipped(logits: NDArray[np.floating]) -> Floats:
    """[B] logits, float64, as far as log loss looks."""
    return np.clip(logits.astype(np.float64), -LOGIT_CLIP, LOGIT_CLIP)


def row_losses(labels: Floats, logits: Floats) -> Floats:
    """[B] log losses in nats."""
    return np.logaddexp(0.0, logits) - labels * logits


def log_loss_difference(
    labels: Floats, first: Floats, second: Floats, weights: Floats, clusters: NDArray[np.intp]
) -> Difference:
    """Mean log loss of the first model's clipped logits minus the second's, nats a row.

    The error is the larger of two: that between clusters, and that of labels which come as the models, on average, say:
    Σ w² p (1 - p) (z₁ - z₂)². A window whose few positives happen to be missing varies too little for the first.
    """
    if len(labels) == 0:
        return Difference()
    losses = row_losses(labels, first), row_losses(labels, second)
    total = float(weights.sum())
    means = [float(weights @ loss) / total for loss in losses]
    value = float(weights @ (losses[0] - losses[1])) / total
    number, squares = cluster_squares(weights * (losses[0] - losses[1] - value), clusters)
    error = None
    if number >= 2:
        error = math.sqrt(max(squares, model_variance(first, second, weights))) / total
    return Difference(value=value, error=error, degrees=number - 1, first=means[0], second=means[1])


def cluster_squares(influences: Floats, clusters: NDArray[np.intp]) -> tuple[int, float]:
    """How many clusters there are, and the variance of the sum over all rows: Σ_g (Σ_rows influence)² · G / (G - 1)."""
    sums = np.bincount(clusters, weights=influences)
    number = int(np.count_nonzero(np.bincount(clusters)))
    return number, float(sums @ sums) * number / (number - 1) if number > 1 else 0.0


def model_variance(first: Floats, second: Floats, weights: Floats) -> float:
    """Variance of the summed difference of losses, were labels drawn from the mean of both models."""
    p = (probabilities(first) + probabilities(second)) / 2
    return float((weights * (first - second)) ** 2 @ (p * (1 - p)))


def auc_difference(
    labels: Floats, first: Floats, second: Floats, weights: Floats, clusters: NDArray[np.intp]
) -> Difference:
    """AUC of the first model minus that of the second, after DeLong et al. 1988, with clusters as Obuchowski 1997.

    Undefined where a label is missing; without error where fewer than two clusters have it.
    """
    positive = labels == 1
    if not positive.any() or positive.all():
        return Difference()
    values, influences = zip(*(_auc_influence(positive, scores, weights) for scores in (first, second)), strict=True)
    number, squares = cluster_squares(influences[0] - influences[1], clusters)
    least = min(len(np.unique(clusters[positive])), len(np.unique(clusters[~positive])))
    error = None
    if least >= 2:
        # G / (G - 1) is for the clusters of the rarer label.
        error = math.sqrt(squares * (number - 1) / number * least / (least - 1))
    return Difference(value=values[0] - values[1], error=error, degrees=least - 1, first=values[0], second=values[1])


def _auc_influence(positive: NDArray[np.bool_], scores: Floats, weights: Floats) -> tuple[float, Floats]:
    """AUC, and [B] by how much each row moves it."""
    below = _share_below(scores[positive], scores[~positive], weights[~positive])
    above = 1 - _share_below(scores[~positive], scores[positive], weights[positive])
    value = float(np.average(below, weights=weights[positive]))
    influence = np.empty(len(scores))
    influence[positive] = weights[positive] * (below - value) / weights[positive].sum()
    influence[~positive] = weights[~positive] * (above - value) / weights[~positive].sum()
    return value, influence


def _share_below(scores: Floats, rivals: Floats, weights: Floats) -> Floats:
    """For each score, the weighted share of rivals below it, ties counting half."""
    order = np.argsort(rivals)
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    left, right = (np.searchsorted(rivals[order], scores, side=side) for side in ("left", "right"))
    shares: Floats = (sums[left] + sums[right]) / (2 * sums[-1])
    return shares


def calibration_logarithm(labels: Floats, logits: Floats, weights: Floats, clusters: NDArray[np.intp]) -> Difference:
    """ln(Σp/Σy) of clipped logits, `first` being Σp/Σy; undefined without a positive."""
    p = probabilities(logits)
    expected, observed = float(weights @ p), float(weights @ labels)
    if observed == 0:
        return Difference()
    ratio = expected / observed
    number, squares = cluster_squares(weights * (p - ratio * labels) / expected, clusters)
    positives = len(np.unique(clusters[labels == 1]))
    return Difference(
        value=math.log(ratio),
        error=math.sqrt(squares) if number >= 2 and positives >= 2 else None,
        degrees=positives - 1,
        first=ratio,
    )


def stability_index(scores: Floats, reference: Floats, weights: Floats, bins: int = 10) -> float:
    """Population stability index Σ (a - e) ln(a / e) over quantiles of the reference; 0 where nothing moved.

    Edges lie half-way between values of the reference, lest a hair's breadth carry a value that many rows have over
    one; half a row is added to every bin, so that an empty one is no infinity.
    """
    values = np.unique(reference)
    quantiles = np.quantile(reference, np.linspace(0, 1, bins + 1)[1:-1])
    above = np.unique(np.searchsorted(values, quantiles, side="right"))
    above = above[above < len(values)]
    edges = (values[above - 1] + values[above]) / 2
    counts = [
        np.bincount(np.searchsorted(edges, column), weights=weights, minlength=len(edges) + 1)
        for column in (scores, reference)
    ]
    actual, expected = ((count + 0.5) / (count + 0.5).sum() for count in counts)
    return float((actual - expected) @ np.log(actual / expected))


def upper_tail(statistic: float, degrees: int) -> float:
    """Probability that Student's t exceeds a statistic, through the normal tail.

    z = ± (8 n + 1) / (8 n + 3) · sqrt(n ln(1 + t²/n)) for n degrees (Wallace 1959).
    """
    shrunk = (8 * degrees + 1) / (8 * degrees + 3) * math.sqrt(degrees * math.log1p(statistic**2 / degrees))
    return 0.5 * math.erfc(math.copysign(shrunk, statistic) / math.sqrt(2))


def student_quantile(share: float, degrees: int) -> float:
    """Where Student's t has that share below: the inverse of `upper_tail`."""
    normal = NormalDist().inv_cdf(share)
    scaled = normal * (8 * degrees + 3) / (8 * degrees + 1)
    return math.copysign(math.sqrt(degrees * math.expm1(min(scaled**2 / degrees, 700.0))), normal)
