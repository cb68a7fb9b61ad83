import math
from collections.abc import Callable
from random import Random
from statistics import NormalDist

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfm.errors import DataError
from streamfm.evaluation.calibration import estimate_calibration
from streamfm.evaluation.intervals import Estimate
from streamfm.evaluation.metrics import (
    PROBABILITY_CLIP,
    auc,
    estimate_auc,
    estimate_group_auc,
    estimate_log_loss,
    estimate_mean_absolute_error,
    estimate_normalised_entropy,
    estimate_r_squared,
    estimate_rmse,
    group_auc,
    log_loss,
    normalised_entropy,
)
from streamfm.evaluation.samples import UndefinedMeasureError

Rows = tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float64]]


def rows_with_ties(rows: int, seed: int) -> Rows:
    """Labels, float32 probabilities of a hundred values, weights; a few of them zero."""
    random = np.random.default_rng(seed)
    probabilities = np.round(random.beta(1, 4, rows), 2).astype(np.float32)
    labels = (random.random(rows) < probabilities).astype(np.int64)
    return labels, probabilities, random.integers(0, 10, rows) / 4


def auc_over_pairs(labels: list[int], scores: list[int], weights: list[float]) -> float:
    """The definition: every positive against every negative."""
    won = total = 0.0
    for label, score, weight in zip(labels, scores, weights, strict=True):
        for other, rival, against in zip(labels, scores, weights, strict=True):
            if label == 1 and other == 0:
                total += weight * against
                won += weight * against * ((score > rival) + (score == rival) / 2)
    return won / total


tied_rows = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3), st.integers(1, 4)), min_size=2, max_size=30
).filter(lambda rows: len({label for label, _, _ in rows}) == 2)


@given(tied_rows)
def test_auc_counts_pairs_and_half_of_the_ties(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = (list(column) for column in zip(*rows, strict=True))
    assert auc(labels, scores) == pytest.approx(auc_over_pairs(labels, scores, [1.0] * len(rows)), abs=1e-14)
    assert auc(labels, scores, weights) == pytest.approx(auc_over_pairs(labels, scores, weights), abs=1e-14)


@given(tied_rows, st.randoms(use_true_random=False))
def test_auc_sees_neither_order_nor_scale(rows: list[tuple[int, int, int]], random: Random) -> None:
    shuffled = list(rows)
    random.shuffle(shuffled)
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    other_labels, other_scores, other_weights = (np.array(column) for column in zip(*shuffled, strict=True))
    expected = estimate_auc(labels, scores, weights)
    found = estimate_auc(other_labels, other_scores**3 + 7, other_weights)
    assert (found.value, found.low) == pytest.approx((expected.value, expected.low), abs=1e-12)
    assert auc(labels, -scores, weights) == pytest.approx(1 - expected.value, abs=1e-12)


@given(tied_rows)
def test_a_weight_counts_as_that_many_equal_rows(rows: list[tuple[int, int, int]]) -> None:
    labels, scores, weights = (np.array(column) for column in zip(*rows, strict=True))
    probabilities = (scores + 4) / 8
    repeated = np.repeat(labels, weights), np.repeat(probabilities, weights)
    for measure in (auc, log_loss, normalised_entropy):
        assert measure(labels, probabilities, weights) == pytest.approx(measure(*repeated), abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_auc_equals_sklearn(seed: int) -> None:
    labels, scores, weights = rows_with_ties(20_000, seed)
    assert auc(labels, scores) == pytest.approx(sklearn.metrics.roc_auc_score(labels, scores), abs=1e-12)
    expected = sklearn.metrics.roc_auc_score(labels, scores, sample_weight=weights)
    assert auc(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_log_loss_equals_sklearn_within_the_clip(seed: int) -> None:
    labels, scores, weights = rows_with_ties(20_000, seed)
    assert scores.min() == 0.0  # so that clipping matters
    clipped = np.clip(scores.astype(np.float64), PROBABILITY_CLIP, 1 - PROBABILITY_CLIP)
    assert log_loss(labels, scores) == pytest.approx(sklearn.metrics.log_loss(labels, clipped), abs=1e-12)
    expected = sklearn.metrics.log_loss(labels, clipped, sample_weight=weights)
    assert log_loss(labels, scores, weights) == pytest.approx(expected, abs=1e-12)


def test_log_loss_of_a_wrong_certainty_is_bounded() -> None:
    assert log_loss([1, 0], [0.0, 1.0]) == pytest.approx(-math.log(1e-7), abs=1e-6)
    assert log_loss([1, 0], np.array([0.0, 1.0], dtype=np.float32)) == pytest.approx(-math.log(1e-7), abs=1e-6)
    assert log_loss([0, 0], [0.5, 0.5]) == pytest.approx(math.log(2))


def test_group_auc_is_the_mean_of_the_groups_weighted_by_rows() -> None:
    labels, scores, weights = rows_with_ties(3_000, seed=5)
    groups = np.random.default_rng(6).zipf(1.3, 3_000) % 200
    for row_weights in (np.ones(3_000), weights):
        won = total = 0.0
        for group in np.unique(groups):
            inside = (groups == group) & (row_weights > 0)
            if len(np.unique(labels[inside])) == 2:
                size = row_weights[inside].sum()
                total += size
                won += size * sklearn.metrics.roc_auc_score(
                    labels[inside], scores[inside], sample_weight=row_weights[inside]
                )
        assert group_auc(labels, scores, groups, row_weights) == pytest.approx(won / total, abs=1e-12)


def test_group_auc_of_one_group_is_the_auc() -> None:
    labels, scores, weights = rows_with_ties(500, seed=1)
    assert group_auc(labels, scores, np.zeros(500, dtype=int), weights) == pytest.approx(auc(labels, scores, weights))


def test_groups_may_be_numbers_or_text_and_null_is_no_group() -> None:
    labels = [1, 0, 1, 0, 1, 0, 1]
    scores = [0.9, 0.1, 0.2, 0.8, 0.5, 0.4, 0.0]
    numbers = estimate_group_auc(labels, scores, [1.0, 1.0, 2.0, 2.0, math.nan, math.nan, 3.0])
    text = estimate_group_auc(labels, scores, np.array(["a", "a", "b", "b", None, None, "c"], dtype=object))
    assert numbers == text
    assert (numbers.estimate.value, numbers.groups, numbers.groups_used, numbers.rows_used) == (0.5, 3, 2, 4)


def test_normalised_entropy_of_the_base_rate_is_one() -> None:
    labels, scores, _ = rows_with_ties(1_000, seed=2)
    assert normalised_entropy(labels, np.full(1_000, labels.mean())) == pytest.approx(1.0, abs=1e-12)
    rate = labels.mean()
    entropy = -rate * math.log(rate) - (1 - rate) * math.log(1 - rate)
    assert normalised_entropy(labels, scores) == pytest.approx(log_loss(labels, scores) / entropy, abs=1e-12)


def test_regression_measures_equal_sklearn() -> None:
    random = np.random.default_rng(3)
    labels = random.normal(3, 1, 1_000)
    predictions = labels + random.normal(0, 0.5, 1_000)
    for weights in (None, random.random(1_000)):
        squared = sklearn.metrics.mean_squared_error(labels, predictions, sample_weight=weights)
        absolute = sklearn.metrics.mean_absolute_error(labels, predictions, sample_weight=weights)
        explained = sklearn.metrics.r2_score(labels, predictions, sample_weight=weights)
        assert estimate_rmse(labels, predictions, weights).value == pytest.approx(math.sqrt(squared))
        assert estimate_mean_absolute_error(labels, predictions, weights).value == pytest.approx(absolute)
        assert estimate_r_squared(labels, predictions, weights).value == pytest.approx(explained)


def test_delong_variance_equals_its_definition() -> None:
    labels, scores, _ = rows_with_ties(300, seed=4)
    positives, negatives = scores[labels == 1], scores[labels == 0]
    wins = (positives[:, None] > negatives) + (positives[:, None] == negatives) / 2
    variance = wins.mean(axis=1).var(ddof=1) / len(positives) + wins.mean(axis=0).var(ddof=1) / len(negatives)
    found = estimate_auc(labels, scores, confidence=0.9)
    margin = 1.6448536269514722 * math.sqrt(variance)
    assert (found.low, found.high) == pytest.approx((wins.mean() - margin, wins.mean() + margin), abs=1e-12)


def test_delong_variance_agrees_with_the_bootstrap() -> None:
    labels, scores, weights = rows_with_ties(600, seed=7)
    random = np.random.default_rng(8)
    for row_weights in (np.ones(600), weights):
        samples = [random.integers(0, 600, 600) for _ in range(600)]
        deviation = np.std([auc(labels[rows], scores[rows], row_weights[rows]) for rows in samples])
        found = estimate_auc(labels, scores, row_weights)
        assert found.low is not None
        assert (found.value - found.low) / 1.96 == pytest.approx(deviation, rel=0.12)


# A population of five kinds of row, equally frequent: its measures are known exactly, as those of ten weighted rows.
TRUE_RATES = np.array([0.05, 0.2, 0.3, 0.5, 0.8])
PREDICTIONS = np.array([0.1, 0.15, 0.3, 0.45, 0.9])
POPULATION = (
    np.repeat([0, 1], 5),
    np.tile(PREDICTIONS, 2),
    np.concatenate([1 - TRUE_RATES, TRUE_RATES]),
)


def draw(random: np.random.Generator, rows: int) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    kinds = random.integers(0, 5, rows)
    return random.random(rows) < TRUE_RATES[kinds], PREDICTIONS[kinds]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "estimate",
    [estimate_auc, estimate_log_loss, estimate_normalised_entropy, estimate_rmse, estimate_mean_absolute_error],
)
def test_intervals_hold_the_truth_as_often_as_they_say(estimate: Callable[..., Estimate], weighted: bool) -> None:
    random = np.random.default_rng(9)
    truth = estimate(*POPULATION).value
    held = 0
    for _ in range(600):
        labels, predictions = draw(random, 400)
        found = estimate(labels, predictions, random.exponential(size=400) if weighted else None, confidence=0.9)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert held / 600 == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "estimate",
    [estimate_auc, estimate_log_loss, estimate_normalised_entropy, estimate_calibration, estimate_mean_absolute_error],
)
def test_standard_errors_agree_with_the_jackknife(estimate: Callable[..., Estimate], weighted: bool) -> None:
    random = np.random.default_rng(11)
    labels, predictions = draw(random, 500)
    weights = random.exponential(size=500) if weighted else np.ones(500)
    without = [
        estimate(*(np.delete(column, row) for column in (labels, predictions, weights))).value for row in range(500)
    ]
    found = estimate(labels, predictions, weights)
    assert found.low is not None
    assert found.high is not None
    scale = found.value if estimate is estimate_calibration else 1  # whose interval is one of logarithms
    error = (math.log(found.high / found.low) if scale != 1 else found.high - found.low) / (2 * 1.959964)
    assert scale * error == pytest.approx(math.sqrt(499 * np.var(without)), rel=0.02)


def test_the_interval_of_group_auc_holds_the_truth_where_rows_of_a_group_go_together() -> None:
    random = np.random.default_rng(10)
    truth = NormalDist().cdf(1 / math.sqrt(2 + 0.5**2))  # mean of Φ(strength / √2) over the groups
    groups = np.repeat(np.arange(60), 20)
    labels = np.tile(np.arange(20) % 2, 60)
    held = 0
    for _ in range(400):
        strength = np.repeat(random.normal(1, 0.5, 60), 20)
        found = estimate_group_auc(
            labels, labels * strength + random.normal(size=1_200), groups, confidence=0.9
        ).estimate
        assert found.low is not None
        assert found.high is not None
        held += found.low <= truth <= found.high
    assert held / 400 == pytest.approx(0.9, abs=0.05)


def test_no_interval_where_rows_give_none() -> None:
    assert estimate_auc([0, 1], [0.1, 0.9]) == Estimate(value=1.0)
    assert estimate_auc([0, 0, 0, 1], [0.1, 0.5, 0.9, 0.6]).low is None
    assert estimate_auc([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9]) == Estimate(value=1.0)
    assert estimate_log_loss([1], [0.5]) == Estimate(value=pytest.approx(math.log(2)))


@pytest.mark.parametrize(
    ("measure", "message"),
    [
        (lambda: auc([1, 1, 1], [0.1, 0.2, 0.3]), "AUC is undefined: all 3 labels are 1"),
        (lambda: auc([0, 1], [0.1, 0.2], [1, 0]), "AUC is undefined: all 1 labels are 0"),
        (lambda: normalised_entropy([0, 0], [0.1, 0.2]), "normalised entropy is undefined: all 2 labels are 0"),
        (lambda: group_auc([0, 1], [0.1, 0.2], [7, 8]), "no group has rows of both labels"),
        (lambda: group_auc([0, 1], [0.1, 0.2], [None, None]), "the group of every row is NULL"),
        (lambda: estimate_r_squared([2.5, 2.5], [1.0, 2.0]), "R² is undefined: all 2 labels are 2.5"),
    ],
)
def test_what_rows_do_not_determine_is_undefined(measure: Callable[[], object], message: str) -> None:
    with pytest.raises(UndefinedMeasureError, match=message):
        measure()


def test_a_confidence_that_is_none_is_refused() -> None:
    with pytest.raises(DataError, match="confidence is 95, expected a number between 0 and 1"):
        estimate_auc([0, 1, 1, 0], [0.1, 0.2, 0.3, 0.4], confidence=95)
