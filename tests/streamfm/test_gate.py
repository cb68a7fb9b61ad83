import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfm.errors import DataError, SpecError
from streamfm.evaluation.metrics import auc, estimate_auc, log_loss
from streamfm.gate import NO_GROUP, Evidence, Figure, GateSettings, Verdict, Window, judge
from streamfm.gate.paired import probabilities

Numbers = NDArray[np.float64]


NO_SHIFT = GateSettings(calibration_low=1e-9, calibration_high=1e9)
"""Where only the candidate's logit would be shifted."""


def sigmoid(logits: NDArray[Any]) -> Numbers:
    return 1 / (1 + np.exp(-np.asarray(logits, np.float64)))


def window(rows: int = 600, *, seed: int = 0, noise: float = 0.1, worse: float = 0.0, **changes: Any) -> Window:
    """Two models that miss the truth by the same noise; the candidate's logits have `worse` more of it."""
    random = np.random.default_rng(seed)
    truth = random.normal(-1.5, 1, rows)
    columns = {
        "labels": (random.random(rows) < sigmoid(truth)).astype(np.float32),
        "candidate": (truth + random.normal(0, noise, rows) + random.normal(0, 1, rows) * worse).astype(np.float32),
        "parent": (truth + random.normal(0, noise, rows)).astype(np.float32),
        "groups": random.integers(0, rows // 3 + 1, rows),
        "parent_version": "ctr/7",
    }
    return Window(**(columns | changes))


def test_the_same_model_passes_with_a_difference_of_nought() -> None:
    same = window()
    verdict = judge(replace(same, candidate=same.parent))
    assert verdict.passed
    assert (verdict.reasons, verdict.logit_shift, verdict.roll_back_to) == ((), 0.0, None)
    for name in ("log_loss", "auc"):
        assert verdict.check(name).value == 0.0
        assert verdict.check(name).p == 1.0
    assert verdict.check("score_shift").value == 0.0


def test_figures_are_those_of_the_metrics() -> None:
    rows = window(worse=0.3, sample_weights=np.random.default_rng(1).exponential(size=600))
    found = judge(rows)
    for name, logits in (("first", rows.candidate), ("second", rows.parent)):
        scores = sigmoid(logits)
        expected = log_loss(rows.labels, scores, rows.sample_weights)
        assert getattr(found.check("log_loss"), name) == pytest.approx(expected, abs=1e-12)
        assert getattr(found.check("auc"), name) == pytest.approx(auc(rows.labels, scores, rows.sample_weights))


def test_a_model_that_is_much_worse_is_refused_with_number_and_limit() -> None:
    verdict = judge(window(worse=1.5))
    assert not verdict.passed
    assert any(reason.startswith("log loss is 0.") and "limit 0.0025" in reason for reason in verdict.reasons)
    assert not verdict.check("log_loss").passed
    assert not verdict.check("auc").passed
    assert verdict.check("finite").passed


rows_of_two = st.lists(
    st.tuples(st.integers(0, 1), st.floats(-30, 30), st.floats(-30, 30), st.integers(0, 5), st.integers(0, 3)),
    min_size=1,
    max_size=60,
)


@given(rows_of_two)
def test_swapping_the_models_turns_the_differences_round(rows: list[tuple[int, float, float, int, int]]) -> None:
    labels, one, other, groups, weights = (np.array(column) for column in zip(*rows, strict=True))
    common: dict[str, Any] = {"labels": labels, "groups": groups, "sample_weights": weights.astype(np.float64)}
    there = judge(Window(candidate=one, parent=other, **common), NO_SHIFT)
    back = judge(Window(candidate=other, parent=one, **common), NO_SHIFT)
    for name in ("log_loss", "auc"):
        first, second = there.check(name), back.check(name)
        if first.value is None or second.value is None:
            assert first.value is second.value is None
            continue
        assert first.value == pytest.approx(-second.value, abs=1e-12)
        assert (first.first, first.second) == pytest.approx((second.second, second.first))
        if first.low is not None and second.high is not None:
            assert first.low == pytest.approx(-second.high, abs=1e-9)
        if first.p is not None and second.p is not None and first.value != 0:
            assert first.p + second.p == pytest.approx(1.0, abs=1e-9)
            assert (first.p < 0.5) == ((first.value > 0) == (name == "log_loss"))


@given(rows_of_two, st.randoms(use_true_random=False))
def test_any_rows_get_a_verdict_that_json_holds_and_no_order_changes(
    rows: list[tuple[int, float, float, int, int]], random: Any
) -> None:
    def verdict(rows: list[tuple[int, float, float, int, int]]) -> Verdict:
        labels, one, other, groups, weights = (np.array(column) for column in zip(*rows, strict=True))
        return judge(
            Window(
                labels=labels,
                candidate=one,
                parent=other,
                anchor=other * 0.5,
                sample_weights=weights.astype(np.float64),
                groups=groups,
                slices={"some": groups > 2},
            ),
            GateSettings(slice_rows=3, least_rows=1, lineage_rows=2, least_positives=1),
        )

    found = verdict(rows)
    assert Verdict.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False))) == found
    shuffled = list(rows)
    random.shuffle(shuffled)
    other = verdict(shuffled)
    assert other.passed == found.passed
    assert other.evidence.excess == pytest.approx(found.evidence.excess, abs=1e-9)
    assert other.check("log_loss").p == pytest.approx(found.check("log_loss").p, abs=1e-6)


@given(st.floats(0, 3), st.floats(0, 3))
def test_the_worse_a_candidate_the_larger_the_difference(one: float, other: float) -> None:
    rows = window(200)
    wrong = 1 - 2 * rows.labels
    values = [
        judge(replace(rows, candidate=rows.parent + step * wrong), NO_SHIFT).check("log_loss").value
        for step in sorted((one, other))
    ]
    assert values[0] is not None
    assert values[1] is not None
    assert 0.0 <= values[0] <= values[1]


def test_rows_of_one_user_count_as_one() -> None:
    rows = window(60, worse=0.5)
    repeated = Window(
        labels=np.repeat(rows.labels, 10),
        candidate=np.repeat(rows.candidate, 10),
        parent=np.repeat(rows.parent, 10),
        groups=np.repeat(np.arange(60), 10),
    )
    alone = replace(rows, groups=None)
    clustered, single = (judge(one, NO_SHIFT) for one in (repeated, alone))
    naive = judge(replace(repeated, groups=None), NO_SHIFT)
    for name in ("log_loss", "auc"):
        assert clustered.check(name).value == pytest.approx(single.check(name).value)
        assert clustered.check(name).detectable == pytest.approx(single.check(name).detectable, rel=0.15)
        assert naive.check(name).detectable == pytest.approx(single.check(name).detectable / 10**0.5, rel=0.3)


def test_rows_without_a_group_are_each_their_own() -> None:
    rows = window(300, worse=0.4, groups=np.full(300, NO_GROUP))
    assert judge(rows).checks == judge(replace(rows, groups=None)).checks
    assert judge(rows).groups == 300
    mixed = np.full(300, NO_GROUP)
    mixed[:30] = np.arange(30) % 3
    assert judge(replace(rows, groups=mixed)).groups == 273


def test_the_auc_of_rows_without_groups_has_delongs_error() -> None:
    rows = window(2_000, worse=0.5)
    constant = replace(rows, groups=None, parent=np.zeros(2_000))
    found = judge(constant, NO_SHIFT).check("auc")
    expected = estimate_auc(rows.labels, rows.candidate)
    assert found.value == pytest.approx(expected.value - 0.5)
    assert found.low is not None
    assert found.high is not None
    assert expected.low is not None
    assert expected.high is not None
    assert found.high - found.low == pytest.approx(expected.high - expected.low, rel=0.01)


def test_an_empty_window_passes_and_says_that_it_is_no_evidence() -> None:
    nothing: NDArray[np.float32] = np.zeros(0, np.float32)
    for empty in (
        Window(labels=nothing, candidate=nothing, parent=nothing, anchor=nothing, slices={"new": nothing > 0}),
        window(5, sample_weights=np.zeros(5)),
    ):
        verdict = judge(empty)
        assert verdict.passed
        assert verdict.rows == 0
        assert verdict.check("log_loss").text.startswith("insufficient evidence")
        assert verdict.check("auc").text == "insufficient evidence: 0 positives of 0 rows"


@pytest.mark.parametrize("rows", [1, 2, 20, 200])
def test_a_window_without_a_positive_refuses_no_usual_candidate(rows: int) -> None:
    random = np.random.default_rng(rows)
    parent = random.normal(-5, 1, rows)  # 200 rows have two positives mostly, none now and then
    candidate = parent + 0.1
    verdict = judge(Window(labels=np.zeros(rows), candidate=candidate, parent=parent))
    assert verdict.passed
    assert verdict.check("calibration").text == "insufficient evidence: no positive"
    assert verdict.check("auc").value is None


def test_a_candidate_that_expects_a_tenth_of_clicks_is_refused_by_a_thousand_rows_without_one() -> None:
    verdict = judge(Window(labels=np.zeros(1_000), candidate=np.full(1_000, -2.0), parent=np.full(1_000, -6.0)))
    assert not verdict.check("log_loss").passed


def test_models_that_say_the_same_of_every_row_are_judged() -> None:
    labels = np.arange(500) % 5 == 0
    verdict = judge(Window(labels=labels, candidate=np.full(500, -1.4), parent=np.full(500, -1.38)))
    assert verdict.passed
    assert verdict.check("auc").value == 0.0


def test_logits_of_the_candidate_that_are_no_numbers_refuse_it() -> None:
    broken = window()
    broken.candidate[[3, 5]] = np.nan, np.inf
    verdict = judge(broken)
    assert verdict.reasons == ("2 of 600 logits of the candidate are not finite",)
    everything = judge(replace(broken, candidate=np.full(600, np.nan)))
    assert everything.reasons == ("600 of 600 logits of the candidate are not finite",)


def test_logits_of_the_others_that_are_no_numbers_are_left_out() -> None:
    rows = window(anchor=np.zeros(600))
    rows.parent[7] = np.nan
    assert rows.anchor is not None
    rows.anchor[:100] = np.nan
    verdict = judge(rows, evidence=Evidence(anchor="ctr/3"))
    assert verdict.passed
    assert (verdict.check("log_loss").rows, verdict.evidence.rows) == (599, 500)
    assert "1 of 600 logits of the parent are not finite" in verdict.check("finite").text


@pytest.mark.parametrize(
    ("value", "passed"), [(0.5, True), (1.0, True), (1.01, False), (math.nan, False), (math.inf, False)]
)
def test_a_figure_of_the_caller_takes_part(value: float, passed: bool) -> None:
    figure = Figure(name="latency", value=value, limit=1.0, note="against the parent's")
    verdict = judge(window(), figures=[figure])
    assert verdict.passed == passed
    assert bool(verdict.reasons) != passed
    assert json.dumps(verdict.to_json(), allow_nan=False)


def test_a_slice_that_suffers_refuses_though_the_whole_does_not() -> None:
    rows = window(6_000, noise=0.05, slices={"new": np.arange(6_000) < 400, "old": np.arange(6_000) >= 400})
    candidate = rows.candidate.copy()
    candidate[:400] += np.where(np.arange(400) % 2, 1.3, -1.3)
    candidate[400:] = (candidate[400:] + rows.parent[400:]) / 2
    verdict = judge(replace(rows, candidate=candidate))
    assert not verdict.check("slice new").passed
    assert verdict.check("slice old").passed
    assert verdict.check("slice new").rows == 400


def test_a_small_slice_is_told_and_refuses_nothing() -> None:
    rows = window(slices={"few": np.arange(600) < 20})
    candidate = rows.candidate.copy()
    candidate[:20] += 4
    check = judge(replace(rows, candidate=candidate)).check("slice few")
    assert check.passed
    assert check.text == "insufficient evidence: 20 rows, 100 are needed"


def test_slices_share_their_error() -> None:
    rows = window(4_000, slices={f"part {part}": np.arange(4_000) % 8 == part for part in range(8)})
    limits = [check.limit for check in judge(rows).checks if check.name.startswith("slice")]
    assert limits == [pytest.approx(0.0025 / 8)] * 8


def test_scores_that_move_far_for_nothing_are_refused() -> None:
    rows = window(400, noise=0.0)
    flat = np.full(400, float(np.mean(rows.parent)))
    check = judge(replace(rows, candidate=flat), GateSettings(alpha=1e-9)).check("score_shift")
    assert not check.passed
    assert "limit 0.25, and the log loss did not fall" in check.text


def test_scores_may_move_far_to_the_better() -> None:
    rows = window(4_000, noise=0.0)
    verdict = judge(replace(rows, parent=rows.parent + 2.5))
    assert verdict.passed
    assert "and the log loss fell" in verdict.check("score_shift").text


def test_calibration_is_corrected_where_that_helps() -> None:
    rows = window(8_000, noise=0.0)
    verdict = judge(replace(rows, candidate=rows.candidate + 0.5, parent=rows.parent))
    assert verdict.passed
    assert verdict.logit_shift == pytest.approx(-0.5, abs=0.1)
    ratio = verdict.check("calibration").value
    assert ratio == pytest.approx(1.0, abs=0.1)
    assert verdict.check("log_loss").rows == pytest.approx(4_000, abs=300)  # those that it was not fitted on


def test_calibration_is_left_alone_where_nothing_is_proven() -> None:
    rows = window(150, noise=0.0)
    assert judge(replace(rows, candidate=rows.candidate + 0.1)).logit_shift == 0.0
    assert judge(window(50_000, noise=0.0)).logit_shift == 0.0


def test_a_shift_has_an_end() -> None:
    rows = window(3_000, noise=0.0)
    found = judge(replace(rows, candidate=rows.candidate + 9), GateSettings(largest_shift=0.75)).logit_shift
    assert found == pytest.approx(-0.75)


def test_bad_calibration_refuses_only_where_the_parents_is_better() -> None:
    rows = window(3_000, noise=0.0)
    settings = GateSettings(largest_shift=0.0, alpha=0.01)
    worse = judge(replace(rows, candidate=rows.candidate + 1.5), settings)
    assert not worse.check("calibration").passed
    better = judge(replace(rows, candidate=rows.candidate + 1.5, parent=rows.parent + 2), settings)
    assert better.passed


def run(rounds: int, step: float, *, seed: int, rows: int = 1_000) -> tuple[int | None, list[Verdict]]:
    """Rounds whose lineage's logits go astray by a little more each time; the round that told to roll back."""
    random = np.random.default_rng(seed)
    evidence, verdicts, versions = Evidence(), [], {0: 0.0}
    for number in range(rounds):
        truth = random.normal(-1.5, 1, rows)
        direction = random.normal(0, 1, rows)

        def logits(version: int, truth: Numbers = truth, direction: Numbers = direction) -> Numbers:
            own = np.random.default_rng(version + 1_000 * seed).normal(0, 0.1, rows)
            return truth + own + math.sqrt(versions[version]) * direction

        versions[number + 1] = step * (number + 1)
        anchor = int(evidence.anchor or number)
        verdict = judge(
            Window(
                labels=(random.random(rows) < probabilities(truth)).astype(np.float32),
                candidate=logits(number + 1),
                parent=logits(number),
                anchor=None if anchor == number else logits(anchor),
                parent_version=str(number),
            ),
            evidence=evidence,
        )
        verdicts.append(verdict)
        evidence = Evidence.from_json(json.loads(json.dumps(verdict.evidence.to_json())))
        if verdict.roll_back_to is not None:
            return number, verdicts
    return None, verdicts


def test_a_slow_decline_is_stopped_though_hardly_a_round_is_significant() -> None:
    refused, verdicts = run(120, 0.005, seed=3)
    assert refused is not None
    last = verdicts[-1]
    assert not last.passed
    assert last.reasons[-1].startswith("what was served is worse than its anchor: +0.")
    assert last.reasons[-1].endswith(f"roll back to {last.roll_back_to}")
    assert sum(verdict.passed for verdict in verdicts) >= 0.9 * len(verdicts)


def test_the_anchor_moves_on_once_the_lineage_is_proven() -> None:
    refused, verdicts = run(60, 0.0, seed=2)
    assert refused is None
    anchors = [verdict.evidence.anchor for verdict in verdicts]
    assert anchors[0] == "0"
    assert int(anchors[-1]) >= 19  # 20,000 rows
    assert sorted(anchors, key=int) == anchors


def test_an_anchor_that_is_gone_is_replaced_by_the_parent() -> None:
    evidence = Evidence(anchor="ctr/3", rounds=5, rows=5_000, weight=5_000.0, excess=2.0, variance=1.0)
    verdict = judge(window(), evidence=evidence)
    assert verdict.evidence == Evidence(anchor="ctr/7", debt=pytest.approx(0.0004))


def test_what_earlier_anchors_lost_is_not_forgotten() -> None:
    evidence = Evidence(anchor="ctr/3", debt=0.0009, rounds=9, rows=10**6, weight=1e6, excess=700.0, variance=900.0)
    verdict = judge(window(anchor=window().parent), evidence=evidence)
    assert verdict.roll_back_to == "ctr/3"  # 0.0007 alone is less than the margin, 0.001
    alone = judge(window(anchor=window().parent), evidence=replace(evidence, debt=0.0))
    assert alone.passed
    assert alone.evidence.debt == pytest.approx(0.0007, rel=1e-3)


def test_the_lineage_may_be_tested_on_other_rows() -> None:
    judged, learnt = window(100), window(900, seed=1, anchor=window(900, seed=1).candidate)
    verdict = judge(judged, evidence=Evidence(anchor="ctr/3"), lineage=learnt)
    assert (verdict.rows, verdict.evidence.rows) == (100, 900)
    assert verdict.evidence == judge(learnt, evidence=Evidence(anchor="ctr/3")).evidence


@pytest.mark.parametrize(
    "body",
    [
        {"anchor": 3},
        {"rows": 1.5},
        {"weight": "1"},
        {"rows": True},
        {"unknown": 1},
        {"variance": -1.0},
        {"excess": math.nan},
    ],
)
def test_evidence_that_is_none_is_refused(body: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="evidence of the gate"):
        Evidence.from_json(body)


def test_evidence_of_nothing_is_none_yet() -> None:
    assert Evidence.from_json({}) == Evidence()


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": np.array([0.0, 0.5])},
        {"candidate": np.zeros(3)},
        {"sample_weights": np.array([1.0, -1.0])},
        {"groups": np.zeros(1, np.int64)},
        {"slices": {"new": np.ones(5, np.bool_)}},
    ],
)
def test_a_window_whose_columns_do_not_fit_is_refused(changes: dict[str, Any]) -> None:
    columns: dict[str, Any] = {"labels": np.array([0.0, 1.0]), "candidate": np.zeros(2), "parent": np.zeros(2)}
    with pytest.raises(DataError, match="window"):
        Window(**(columns | changes))


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.0},
        {"power": 1.0},
        {"margin": -1.0},
        {"lineage_rows": 0},
        {"calibration_low": 1.1},
        {"calibration_limit": 1.0},
    ],
)
def test_settings_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=next(iter(changes))):
        GateSettings(**changes)


def test_the_verdict_is_a_table_for_people() -> None:
    rows = judge(window(worse=1.5, slices={"new": np.arange(600) < 300})).table_rows()
    assert [row[0] for row in rows][:4] == ["finite", "log_loss", "auc", "calibration"]
    assert {len(row) for row in rows} == {7}
    assert rows[1][-1].startswith("REFUSED: log loss is ")
