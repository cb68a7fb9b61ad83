"""How often the gate errs; benchmarks/gate_errors.py has the figures of whole days."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from streamfm.gate import Evidence, GateSettings, Window, judge, lineage_bounds
from streamfm.gate.lineage import accumulated
from streamfm.gate.paired import probabilities, student_quantile, upper_tail

Numbers = NDArray[np.float64]
USERS = 200


def rounds_of(rows: int, *, base: float, worse: float, rounds: int, seed: int) -> list[Window]:
    """Windows of users with many rows each; both models miss each user by as much, the candidate by `worse` more."""
    random = np.random.default_rng(seed)
    windows = []
    for _ in range(rounds):
        users = random.integers(0, USERS, rows)
        truth = base + random.normal(0, 1, USERS)[users] + random.normal(0, 0.5, rows)
        one, other, more = (random.normal(0, 1, USERS)[users] for _ in range(3))
        windows.append(
            Window(
                labels=random.random(rows) < probabilities(truth),
                candidate=truth + 0.15 * one + worse * more,
                parent=truth + 0.15 * other,
                groups=users,
            )
        )
    return windows


@pytest.mark.parametrize("base", [-1.0, -4.5])
@pytest.mark.parametrize("name", ["log_loss", "auc"])
def test_p_is_as_small_of_equal_models_as_it_says_or_less_often(name: str, base: float) -> None:
    found = [judge(window).check(name).p for window in rounds_of(400, base=base, worse=0.0, rounds=400, seed=1)]
    values = np.array([p for p in found if p is not None])
    assert len(values) >= 350
    assert 0.01 <= np.mean(values < 0.1) <= 0.13
    assert np.mean(values < 0.01) <= 0.025
    assert 0.4 <= np.mean(values < 0.5) <= 0.6


def test_equal_models_are_seldom_refused() -> None:
    verdicts = [judge(window) for window in rounds_of(300, base=-2.5, worse=0.0, rounds=500, seed=2)]
    refused = sum(not verdict.passed for verdict in verdicts)
    assert refused <= 500 * GateSettings().alpha + 6


def test_what_is_called_detectable_is_mostly_detected() -> None:
    windows = rounds_of(2_000, base=-1.0, worse=0.6, rounds=100, seed=3)
    settings = GateSettings(calibration_low=1e-9, calibration_high=1e9)
    checks = [judge(window, settings).check("log_loss") for window in windows]
    truth = float(np.mean([check.value for check in checks if check.value is not None]))
    detectable = float(np.mean([check.detectable for check in checks if check.detectable is not None]))
    refused = np.mean([not check.passed for check in checks])
    assert truth == pytest.approx(detectable, rel=0.25)
    assert refused == pytest.approx(settings.power, abs=0.2)


def lineage(mean: float, *, rounds: int, seed: int, settings: GateSettings) -> str:
    """What the evidence says first, of a parent that is worse than its anchor by so many nats a row on average."""
    random, evidence = np.random.default_rng(seed), Evidence(anchor="ctr/1")
    for _ in range(rounds):
        truth = random.normal(-1, 1, 500)
        p = probabilities(truth)
        shift = np.sqrt(2 * mean / float(np.mean(p * (1 - p))))
        noise, more = random.normal(0, 0.2, 500), random.normal(0, 1, 500)
        window = Window(
            labels=random.random(500) < p,
            candidate=truth,
            parent=truth + noise + shift * more,
            anchor=truth - noise,
            groups=random.integers(0, 150, 500),
        )
        evidence = accumulated(evidence, window)
        bounds = lineage_bounds(evidence, settings)
        if bounds is not None and bounds.state != "open":
            return bounds.state
    return "open"


def test_the_sequential_test_errs_as_seldom_as_it_says_though_every_round_is_looked_at() -> None:
    """At a truth of exactly the margin, either answer is an error."""
    settings = GateSettings(margin=0.004, lineage_alpha=0.05, lineage_rows=2_000)
    found = [lineage(0.004, rounds=60, seed=seed, settings=settings) for seed in range(150)]
    assert found.count("worse") <= 150 * 0.05 + 5
    assert found.count("proven") <= 150 * 0.05 + 5


def test_the_sequential_test_finds_the_truth_in_the_end() -> None:
    settings = GateSettings(margin=0.004, lineage_rows=5_000)
    assert {lineage(0.03, rounds=150, seed=seed, settings=settings) for seed in range(10)} == {"worse"}
    assert {lineage(0.0, rounds=150, seed=seed, settings=settings) for seed in range(10)} == {"proven"}


# Of tables of Student's distribution.
@pytest.mark.parametrize(
    ("share", "degrees", "expected"),
    [
        (0.975, 5, 2.571),
        (0.975, 10, 2.228),
        (0.995, 20, 2.845),
        (0.9995, 30, 3.646),
        (0.95, 3, 2.353),
    ],
)
def test_students_distribution_is_near_enough(share: float, degrees: int, expected: float) -> None:
    assert student_quantile(share, degrees) == pytest.approx(expected, rel=0.005)
    assert student_quantile(1 - share, degrees) == pytest.approx(-student_quantile(share, degrees))
    assert upper_tail(student_quantile(share, degrees), degrees) == pytest.approx(1 - share, rel=1e-6)
