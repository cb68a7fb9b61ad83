import math
from itertools import pairwise
from random import Random

import numpy as np
import pytest
import sklearn.calibration
from hypothesis import given
from hypothesis import strategies as st

from streamfm.errors import DataError
from streamfm.evaluation.calibration import calibration, calibration_bins, estimate_calibration, wilson_interval
from streamfm.evaluation.intervals import Estimate
from streamfm.evaluation.samples import UndefinedMeasureError


def test_calibration_is_expected_over_observed_positives() -> None:
    assert calibration([1, 0, 0, 1], [0.5, 0.5, 0.25, 0.25]) == 0.75
    assert calibration([1, 0, 0, 1], [0.5, 0.5, 0.25, 0.25], [3, 1, 1, 1]) == pytest.approx(2.5 / 4)


def test_calibration_without_a_positive_is_undefined() -> None:
    with pytest.raises(UndefinedMeasureError, match="calibration is undefined: none of 2 labels is 1"):
        calibration([0, 0], [0.5, 0.5])


def test_predictions_of_nought_have_a_ratio_without_an_interval() -> None:
    assert estimate_calibration([0, 1], [0.0, 0.0]) == Estimate(value=0.0)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_interval_of_calibration_holds_the_truth_as_often_as_it_says(weighted: bool) -> None:
    random = np.random.default_rng(1)
    held = 0
    for _ in range(600):
        predictions = random.beta(1, 4, 400)
        labels = random.random(400) < predictions * 0.8  # the model promises 1.25 times too much
        weights = random.exponential(size=400) if weighted else None
        found = estimate_calibration(labels, predictions, weights, confidence=0.9)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1.25 <= found.high
    assert held / 600 == pytest.approx(0.9, abs=0.04)


def test_bins_equal_sklearn_where_nothing_is_tied() -> None:
    random = np.random.default_rng(2)
    predictions = random.random(5_000)
    labels = random.random(5_000) < predictions
    rates, means = sklearn.calibration.calibration_curve(labels, predictions, n_bins=10, strategy="quantile")
    found = calibration_bins(labels, predictions)
    assert [one.rows for one in found] == [500] * 10
    assert [one.observed_rate for one in found] == pytest.approx(list(rates))
    assert [one.mean_prediction for one in found] == pytest.approx(list(means))
    assert all(one.lowest <= one.mean_prediction <= one.highest for one in found)
    assert all(one.low <= one.observed_rate <= one.high for one in found)


@given(
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8), st.integers(1, 3)), min_size=1, max_size=60),
    st.integers(1, 12),
    st.randoms(use_true_random=False),
)
def test_bins_hold_every_row_once_keep_ties_together_and_do_not_see_the_order(
    rows: list[tuple[int, int, int]], bins: int, random: Random
) -> None:
    labels, eighths, weights = (np.array(column) for column in zip(*rows, strict=True))
    found = calibration_bins(labels, eighths / 8, weights, bins=bins)
    assert sum(one.rows for one in found) == len(rows)
    assert len(found) <= bins
    edges = [edge for one in found for edge in (one.lowest, one.highest)]
    assert edges == sorted(edges)
    assert all(left.highest < right.lowest for left, right in pairwise(found))
    order = list(range(len(rows)))
    random.shuffle(order)
    again = calibration_bins(labels[order], eighths[order] / 8, weights[order], bins=bins)
    assert [one.rows for one in again] == [one.rows for one in found]
    assert [one.observed_rate for one in again] == pytest.approx([one.observed_rate for one in found])
    assert [one.low for one in again] == pytest.approx([one.low for one in found])


def test_a_number_of_bins_below_one_is_refused() -> None:
    with pytest.raises(DataError, match="bins is 0, expected 1 or more"):
        calibration_bins([0, 1], [0.1, 0.2], bins=0)


def test_wilson_interval_equals_published_examples() -> None:
    # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3.
    quantile = 1.959964
    assert wilson_interval(81 / 263, 263, quantile) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15 / 148, 148, quantile) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(0.0, 20, quantile) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(1 / 29, 29, quantile) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_weights_widen_the_interval_of_a_bin() -> None:
    labels, predictions = np.arange(100) % 2, np.full(100, 0.5)
    (equal,) = calibration_bins(labels, predictions, np.full(100, 7.0))
    (unequal,) = calibration_bins(labels, predictions, np.where(np.arange(100) < 50, 9.0, 1.0))
    assert (equal.low, equal.high) == pytest.approx(wilson_interval(0.5, 100, 1.959964), abs=1e-6)
    effective_rows = 500**2 / (50 * 81 + 50)
    assert (unequal.low, unequal.high) == pytest.approx(wilson_interval(0.5, effective_rows, 1.959964), abs=1e-6)
    assert math.isclose(equal.mean_prediction, 0.5)
