import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from streamfm.encoder import Field, Layout
from streamfm.errors import DataError
from streamfm.evaluation import FeatureCoverage, Measure, calibration, evaluate, feature_coverage, metrics, report


def clicks(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    probabilities = random.beta(1, 4, rows).astype(np.float32)
    return (
        random.random(rows) < probabilities,
        probabilities,
        random.exponential(size=rows),
        random.integers(0, 50, rows),
    )


def test_an_evaluation_holds_what_the_measures_say() -> None:
    labels, scores, weights, users = clicks(2_000, seed=1)
    found = evaluate(labels, scores, weights=weights, groups=users, confidence=0.9)
    by_group = metrics.estimate_group_auc(labels, scores, users, weights, confidence=0.9)
    expected = {
        "auc": metrics.estimate_auc(labels, scores, weights, confidence=0.9),
        "group_auc": by_group.estimate,
        "log_loss": metrics.estimate_log_loss(labels, scores, weights, confidence=0.9),
        "normalised_entropy": metrics.estimate_normalised_entropy(labels, scores, weights, confidence=0.9),
        "calibration": calibration.estimate_calibration(labels, scores, weights, confidence=0.9),
    }
    assert [measure.name for measure in found.measures] == list(expected)
    for name, estimate in expected.items():
        measure = found.measure(name)
        assert (measure.value, measure.low, measure.high) == (estimate.value, estimate.low, estimate.high)
    assert found.bins == calibration.calibration_bins(labels, scores, weights, confidence=0.9)
    assert (found.rows, found.task, found.confidence) == (2_000, "binary", 0.9)
    assert found.mean_label == pytest.approx(np.average(labels, weights=weights))
    assert found.mean_prediction == pytest.approx(np.average(scores, weights=weights))
    note = f"{by_group.groups_used} of 50 groups have both labels ({by_group.rows_used:,} rows)"
    assert found.measure("group_auc").note == note


def test_an_evaluation_of_numbers_holds_their_measures() -> None:
    random = np.random.default_rng(2)
    labels = random.normal(3, 1, 500)
    predictions = labels + random.normal(0, 1, 500)
    found = evaluate(labels, predictions, task="regression")
    assert [measure.name for measure in found.measures] == ["rmse", "mae", "r_squared"]
    assert found.measure("rmse").value == metrics.estimate_rmse(labels, predictions).value
    assert found.measure("mae").high == metrics.estimate_mean_absolute_error(labels, predictions).high
    assert found.measure("r_squared") == Measure(
        name="r_squared", value=metrics.estimate_r_squared(labels, predictions).value
    )
    assert found.bins == ()


def test_what_one_label_does_not_determine_is_none_and_says_why() -> None:
    found = evaluate([0, 0], [0.1, 0.3], groups=["a", "b"])
    undefined = {measure.name: measure.note for measure in found.measures if measure.value is None}
    assert undefined == {
        "auc": "AUC is undefined: all 2 labels are 0",
        "group_auc": "group AUC is undefined: no group has rows of both labels",
        "normalised_entropy": "normalised entropy is undefined: all 2 labels are 0",
        "calibration": "calibration is undefined: none of 2 labels is 1",
    }
    assert found.measure("log_loss").value == pytest.approx(-(np.log(0.9) + np.log(0.7)) / 2)
    assert ("auc", "undefined", "", "AUC is undefined: all 2 labels are 0") in found.summary_rows()


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 0]])
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_an_evaluation_is_strict_json(labels: list[int], task: str) -> None:
    found = evaluate(labels, [0.1, 0.2, 0.2], groups=[1, 1, 2], task=task)
    text = json.dumps(found.to_dict(), allow_nan=False)
    again = json.loads(text)
    assert again["rows"] == 3
    assert again["measures"] == {
        m.name: {"value": m.value, "low": m.low, "high": m.high, "note": m.note} for m in found.measures
    }
    assert len(again["calibration_bins"]) == len(found.bins)


def test_a_value_that_is_not_finite_is_none_in_json() -> None:
    infinite = Measure(name="rmse", value=math.inf, low=math.nan)
    found = replace(evaluate([0.0, 1.0], [0.5, 0.5], task="regression"), measures=(infinite,), mean_prediction=math.nan)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["measures"] == {"rmse": {"value": None, "low": None, "high": None, "note": ""}}
    assert again["mean_prediction"] is None


def test_tables_are_text() -> None:
    labels, scores, _, users = clicks(1_500, seed=3)
    found = evaluate(labels, scores, groups=users)
    lines = found.summary_rows()
    value, interval = next((value, interval) for name, value, interval, _ in lines if name == "auc")
    auc = found.measure("auc")
    assert value == f"{auc.value:.5f}"
    assert interval == f"{auc.low:.5f} - {auc.high:.5f}"
    assert lines[0] == ("rows", "1,500", "", "")
    assert [line[1] for line in found.calibration_rows()] == ["150"] * 10
    assert {len(line) for line in lines} == {4}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": "clicks"}, "task is 'clicks', expected 'binary' or 'regression'"),
        ({"confidence": 95}, "confidence is 95, expected a number between 0 and 1"),
        ({"groups": ["a"]}, r"groups have shape \(1,\), expected \(2,\)"),
        ({"weights": [1]}, "numbers of rows differ: labels 2, weights 1"),
        ({"weights": [0, 0]}, "every weight is 0"),
    ],
)
def test_arguments_that_cannot_be_are_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        evaluate([0, 1], [0.1, 0.2], **arguments)  # type: ignore[arg-type]


def test_a_measure_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(DataError, match="no measure 'rmse' in this evaluation\nhint: it has auc, log_loss"):
        evaluate([0, 1], [0.1, 0.2]).measure("rmse")


LAYOUT = Layout(
    fields=(Field(name="app", start=0, length=1), Field(name="genres", start=1, length=3)),
    slots=4,
    rows=20,
    weighted=True,
    null_rows=np.array([0, 10], dtype=np.int32),
    unknown_rows=np.array([1, 11], dtype=np.int32),
)


def test_coverage_counts_rows_with_a_value_and_unknown_values_among_values() -> None:
    ids = np.array(
        [
            [2, 12, 13, 10],
            [0, 11, 12, 11],  # NULL app; two unknown genres
            [1, 10, 10, 10],  # unknown app; NULL or empty genres
            [3, 10, 12, 10],  # a NULL among the genres
        ],
        dtype=np.int32,
    )
    assert feature_coverage(ids, LAYOUT) == (
        FeatureCoverage(name="app", coverage=0.75, unknown_rate=1 / 3),
        FeatureCoverage(name="genres", coverage=0.75, unknown_rate=2 / 6),
    )


def test_a_feature_without_a_value_has_no_unknown_rate() -> None:
    ids = np.array([[0, 12, 10, 10]], dtype=np.int32)
    assert feature_coverage(ids, LAYOUT)[0] == FeatureCoverage(name="app", coverage=0.0, unknown_rate=None)


def test_coverage_of_a_mapped_file_is_the_same_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(4)
    ids = np.stack([random.integers(low, low + 4, 1_000) for low in (0, 10, 10, 10)], axis=1).astype(np.int32)
    expected = feature_coverage(ids, LAYOUT)
    np.save(tmp_path / "ids.npy", ids)
    monkeypatch.setattr(report, "_BLOCK_ROWS", 7)
    assert feature_coverage(np.load(tmp_path / "ids.npy", mmap_mode="r"), LAYOUT) == expected
    assert expected[0].coverage == np.mean(ids[:, 0] != 0)


@pytest.mark.parametrize("shape", [(0, 4), (3, 5), (4,)])
def test_coverage_of_nothing_or_of_another_layout_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"no rows to evaluate|expected \[rows, 4\]"):
        feature_coverage(np.zeros(shape, dtype=np.int32), LAYOUT)
