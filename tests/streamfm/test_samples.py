import math

import numpy as np
import pytest

from streamfm.errors import DataError
from streamfm.evaluation.metrics import auc, group_auc, log_loss


@pytest.mark.parametrize(
    ("labels", "predictions", "weights", "message"),
    [
        ([], [], None, "no rows to evaluate"),
        ([0, 1], [0.5], None, "numbers of rows differ: labels 2, predictions 1"),
        ([0, 1], [0.5, 0.5], [1], "numbers of rows differ: labels 2, weights 1"),
        ([0, 2, 3], [0.5] * 3, None, r"label of row 1 is 2, expected 0 or 1 \(2 such rows\)"),
        ([0, 1, 0.5], [0.5] * 3, None, "label of row 2 is 0.5, expected 0 or 1"),
        ([0, None, 1], [0.5] * 3, None, "label of row 1 is nan, expected a finite number"),
        (["no", "yes"], [0.5] * 2, None, "labels of type <U3 are not numbers"),
        ([[0, 1]], [0.5, 0.5], None, r"labels have shape \(1, 2\), expected one dimension"),
        ([0, 1, 1], [0.5, math.nan, math.nan], None, r"prediction of row 1 is nan, .* \(2 such rows\)"),
        ([0, 1], [0.5, math.inf], None, "prediction of row 1 is inf, expected a finite number"),
        ([0, 1], [0.5, 1.5], None, "prediction of row 1 is 1.5, expected a probability from 0 to 1"),
        ([1, 0, 1], [0.5, 0.5, -1], [0, 1, 1], "prediction of row 2 is -1, expected a probability"),
        ([0, 1], [0.5, 0.5], [1, -2], "weight of row 1 is -2, expected 0 or more"),
        ([0, 1], [0.5, 0.5], [1, math.nan], "weight of row 1 is nan, expected a finite number"),
        ([0, 1], [0.5, 0.5], [0, 0], "every weight is 0"),
    ],
)
def test_rows_that_cannot_be_measured_are_named(
    labels: list[object], predictions: list[float], weights: list[float] | None, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        log_loss(labels, predictions, weights)


def test_scores_outside_the_unit_interval_can_be_ranked() -> None:
    assert auc([0, 1], [-3.0, 7.0]) == 1.0


def test_one_group_is_needed_for_each_row() -> None:
    with pytest.raises(DataError, match=r"groups have shape \(1,\), expected \(2,\)"):
        group_auc([0, 1], [0.1, 0.2], ["a"])


def test_labels_may_be_booleans_and_arrays_of_any_width() -> None:
    expected = log_loss([0, 1], [0.25, 0.75])
    assert expected == log_loss(np.array([False, True]), np.array([0.25, 0.75], dtype=np.float32))
    assert expected == log_loss(np.array([0, 1], dtype=np.uint8), np.array([0.25, 0.75], dtype=np.float16))


def test_rows_of_weight_zero_do_not_count() -> None:
    assert auc([0, 1, 1], [0.2, 0.1, 0.9], [1, 0, 1]) == 1.0


def test_inputs_are_not_changed() -> None:
    labels, scores, weights = np.array([0.0, 1.0, 1.0]), np.array([0.0, 0.7, 1.0]), np.array([1.0, 0.0, 2.0])
    copies = labels.copy(), scores.copy(), weights.copy()
    log_loss(labels, scores, weights)
    group_auc(labels, scores, np.zeros(3), weights)
    for before, after in zip(copies, (labels, scores, weights), strict=True):
        np.testing.assert_array_equal(before, after)
