"""Fine-tuning: a published model goes on learning, in memory and through bundles."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from fine_tuned import NOW, SETTINGS, SPEC, assert_same_state, chunk, exported, no_proof, part, trained_bundle

from streamfm.bundle import Bundle, open_bundle
from streamfm.data.labelled_rows import LabelledBatch
from streamfm.errors import BundleError, DataError, SpecError
from streamfm.export import ExportSettings, Provenance, export_bundle
from streamfm.finetuning import FineTuner, FineTuneSettings
from streamfm.registry import CHAMPION, Registry
from streamfm.scoring import Scorer, load


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained_bundle(tmp_path_factory.mktemp("parent") / "ctr")


def test_another_shift_changes_no_answer_and_is_kept_apart_from_what_is_trained(parent: Bundle) -> None:
    tuner, rows = FineTuner.from_bundle(parent), chunk(1)
    before = tuner.predict_logits(rows.columns, rows.rows)

    tuner.rebase(-1.5)

    np.testing.assert_allclose(tuner.predict_logits(rows.columns, rows.rows), before, atol=1e-6)
    assert tuner.logit_shift == -1.5
    tuner.logit_shift = 0.0
    np.testing.assert_allclose(tuner.predict_logits(rows.columns, rows.rows), before + 1.5, atol=1e-6)


@pytest.mark.parametrize("average", [False, True])
def test_it_begins_with_the_answers_of_its_parent(parent: Bundle, average: bool) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, average=average))
    rows = chunk(0)
    expected = Scorer(parent).logit_columns(rows.columns, rows.rows)
    np.testing.assert_allclose(expected, tuner.predict_logits(rows.columns, rows.rows), atol=2e-6)


@pytest.mark.parametrize("average", [False, True])
@pytest.mark.parametrize("shift", [0.0, -1.7])
def test_it_goes_on_from_a_bundle_as_in_memory_bit_by_bit(
    parent: Bundle, tmp_path: Path, average: bool, shift: float
) -> None:
    settings = replace(SETTINGS, average=average, admit_after=2)
    one, other = (FineTuner.from_bundle(parent, settings) for _ in range(2))
    one.logit_shift = other.logit_shift = shift
    for number in range(4):
        for tuner in (one, other):
            tuner.learn(chunk(number), chunk(number - 1) if number else None)
        other = FineTuner.from_bundle(exported(other, tmp_path / str(number)), settings)
        assert_same_state(one, other)
    rows = chunk(5)
    assert np.array_equal(one.predict_logits(rows.columns, rows.rows), other.predict_logits(rows.columns, rows.rows))
    assert one.encoder.layout.rows > FineTuner.from_bundle(parent, settings).encoder.layout.rows + 30


def test_it_learns(parent: Bundle) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, learning_rate=0.01))
    losses = [tuner.learn(chunk(number, 400), chunk(number - 1, 400) if number else None) for number in range(6)]
    assert all(report.loss_after < report.loss_before for report in losses)
    again = chunk(4, 400)
    scores = 1 / (1 + np.exp(-tuner.predict_logits(again.columns, again.rows)))
    assert scores[again.labels == 1].mean() > scores[again.labels == 0].mean() + 0.15


def test_the_same_chunks_and_seed_give_the_same_weights_bit_by_bit(parent: Bundle) -> None:
    def tuned(**changes: Any) -> FineTuner:
        tuner = FineTuner.from_bundle(parent, replace(SETTINGS, **changes))
        for number in range(2):
            tuner.learn(chunk(number), chunk(number + 20))
        return tuner

    first = tuned(seed=5)
    assert_same_state(first, tuned(seed=5))
    rows = chunk(0)
    answers = [tuner.predict_logits(rows.columns, rows.rows) for tuner in (first, tuned(seed=6))]
    assert not np.array_equal(*answers)


def test_a_copy_goes_on_alone(parent: Bundle) -> None:
    tuner, alone = FineTuner.from_bundle(parent, SETTINGS), FineTuner.from_bundle(parent, SETTINGS)
    for number in range(3):
        refused = tuner.copy()
        refused.learn(chunk(number + 30))
        refused.logit_shift = 3.0
        for one in (tuner, alone):
            one.learn(chunk(number))
        assert_same_state(tuner, alone)
        copy = tuner.copy()
        assert_same_state(tuner, copy)
        tuner = copy


@pytest.mark.parametrize("generations", [30, pytest.param(100, marks=pytest.mark.faults)])
def test_generations_score_finitely_at_the_size_that_their_vocabulary_explains(
    parent: Bundle, tmp_path: Path, generations: int
) -> None:
    """Each is published, and read from the registry by the next one."""
    registry, champion = Registry(tmp_path / "models"), f"{tmp_path}/models/ctr@champion"
    registry.publish(parent.path, "ctr", alias=CHAMPION, keep_source=True)
    settings = replace(SETTINGS, learning_rate=0.005)
    everything: list[LabelledBatch] = []
    for number in range(generations):
        tuner = FineTuner.from_bundle(load(champion).bundle, settings)
        tuner.learn(chunk(number, 40), everything[number * 7 % len(everything)] if everything else None)
        everything.append(chunk(number, 40))
        tuner.logit_shift = 0.01 * number
        registry.publish(exported(tuner, tmp_path / str(number)).path, "ctr", alias=CHAMPION)
    scorer = load(champion)
    bundle = scorer.bundle
    assert (bundle.manifest.version, bundle.path.name) == (generations + 1, f"{generations + 1}")
    users = {user for rows in everything for user in rows.columns["user"].to_pylist()}
    assert len(users | {f"u{user}" for user in range(40)}) == len(bundle.vocabularies.values("user"))
    for rows in everything:
        logits = scorer.logit_columns(rows.columns, rows.rows)
        assert np.isfinite(logits).all()
        np.testing.assert_allclose(logits, tuner.predict_logits(rows.columns, rows.rows), atol=1e-4)
    rows_of_table = sum(
        2 + (len(bundle.vocabularies.values(name)) if table.kind == "values" else table.rows - 2)
        for name, table in bundle.vocabularies.tables.items()
    )
    assert rows_of_table == bundle.manifest.layout.rows == tuner.encoder.layout.rows
    assert rows_of_table - parent.manifest.layout.rows > 9 * generations
    # Served weights and two moments of five numbers, three counts; the network's other weights are as many as before.
    first = open_bundle(tmp_path / "models" / "ctr" / "6")
    sizes = [(one.path / "weights.safetensors").stat().st_size for one in (first, bundle)]
    later = rows_of_table - first.manifest.layout.rows
    assert (3 * 5 * 4 + 8 + 4 + 8) * later == pytest.approx(sizes[1] - sizes[0], abs=200)
    capacity = len(bundle.vocabularies.tables["user"].slots)
    assert capacity <= 4 * len(bundle.vocabularies.values("user"))


@pytest.mark.parametrize("average", [False, True])
def test_the_shift_is_served_but_not_trained(parent: Bundle, tmp_path: Path, average: bool) -> None:
    settings = replace(SETTINGS, average=average)
    rows = chunk(3)
    tuners = []
    for shift in (0.0, -2.3025850929940455):
        tuner = FineTuner.from_bundle(parent, settings)
        for number in range(6):
            tuner.logit_shift = shift
            tuner.learn(chunk(number))
            bundle = exported(tuner, tmp_path / f"{shift} {number}")
            tuner = FineTuner.from_bundle(bundle, settings)
            assert shift == tuner.logit_shift
        np.testing.assert_allclose(
            Scorer(bundle).logit_columns(rows.columns, rows.rows),
            tuner.predict_logits(rows.columns, rows.rows),
            atol=1e-5,
        )
        tuners.append(tuner)
    plain, shifted = (tuner.predict_logits(rows.columns, rows.rows) for tuner in tuners)
    assert np.array_equal(plain + np.float32(-2.3025850929940455), shifted)


def test_a_shift_without_the_bias_that_was_trained_is_taken_off(parent: Bundle, tmp_path: Path) -> None:
    """As of a bundle that something else wrote."""
    tuner = FineTuner.from_bundle(parent, SETTINGS)
    tuner.learn(chunk(0))
    tuner.logit_shift = 1.5
    sample = no_proof(tuner)
    trained = tuner.trained(sample, sample.rows)
    state = {name: array for name, array in (trained.state or {}).items() if name != "trained_bias"}
    provenance = Provenance(name="ctr", created_at=NOW, training={"logit_shift": 1.5})
    bundle = export_bundle(tmp_path / "b", replace(trained, state=state), provenance, ExportSettings(int8=False))
    rows = chunk(1)
    other = FineTuner.from_bundle(bundle, SETTINGS)
    expected = tuner.predict_logits(rows.columns, rows.rows)
    np.testing.assert_allclose(expected, other.predict_logits(rows.columns, rows.rows), atol=1e-6)
    other.logit_shift = tuner.logit_shift = 0.0
    expected = tuner.predict_logits(rows.columns, rows.rows)
    np.testing.assert_allclose(expected, other.predict_logits(rows.columns, rows.rows), atol=1e-6)


def test_a_chunk_is_reported(parent: Bundle) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, batch_size=50))
    rows = chunk(2, 120, price=5.0)
    report = tuner.learn(rows, chunk(0, 60))
    before = set(parent.vocabularies.values("user")["value"].to_pylist())
    unknown = [user not in before for user in rows.columns["user"].to_pylist()]
    assert (120, 60, 4, 4) == (report.rows, report.replayed, report.steps, tuner.steps - _steps(parent))
    assert np.mean(unknown) == pytest.approx(report.unknown_before["user"])
    assert 0.0 == report.unknown_after["user"] == report.unknown_before["place"]
    assert {"user": len(set(rows.columns["user"].to_pylist()) - before), "topics": 1} == report.admitted
    assert {} == report.evicted
    statistics = parent.vocabularies.numerics["price"]
    prices = rows.columns["price"].to_numpy()
    price, age = report.drift["price"], report.drift["age"]
    assert (prices.mean() - statistics.mean) / statistics.deviation == pytest.approx(price.mean, rel=1e-5)
    assert prices.std() / statistics.deviation == pytest.approx(price.deviation, rel=1e-5)
    assert (1.0, 4, pytest.approx(1.0)) == (price.present, len(age.buckets), sum(age.buckets))
    assert {"price", "age"} == set(report.drift)
    assert report.loss_before is not None
    assert report.train_loss is not None
    assert 120 == report.to_json()["rows"]


def _steps(bundle: Bundle) -> int:
    return FineTuner.from_bundle(bundle).steps


def test_a_column_without_a_number_drifts_nowhere(parent: Bundle) -> None:
    rows = chunk(0, 10)
    empty = {"price": pa.nulls(10, pa.float64()), "age": pa.nulls(10, pa.float64())}
    report = FineTuner.from_bundle(parent, SETTINGS).learn(rows._replace(columns=dict(rows.columns) | empty))
    assert (0.0, None, None) == (
        report.drift["price"].present,
        report.drift["price"].mean,
        report.drift["price"].deviation,
    )
    assert (0.0, 0.0) == (report.drift["age"].present, sum(report.drift["age"].buckets))


@pytest.mark.parametrize("batch_statistics", ["update", "keep"])
@pytest.mark.parametrize("rows", [1, 2, 33])
def test_a_chunk_may_be_small(parent: Bundle, rows: int, batch_statistics: str) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, batch_statistics=batch_statistics))
    before = tuner.predict_logits(chunk(0).columns, 100)
    report = tuner.learn(chunk(0, rows))
    assert (1 if rows < 33 else 2) == report.steps
    after = tuner.predict_logits(chunk(0).columns, 100)
    assert np.isfinite(after).all()
    assert not np.array_equal(before, after)


def test_a_chunk_without_rows_changes_nothing(parent: Bundle) -> None:
    tuner, other = (FineTuner.from_bundle(parent, SETTINGS) for _ in range(2))
    report = tuner.learn(part(chunk(0), 0, 0))
    assert (0, 0, None, None) == (report.rows, report.steps, report.loss_before, report.train_loss)
    assert_same_state(tuner, other)


def test_kept_batch_statistics_are_those_of_the_parent(parent: Bundle) -> None:
    tuners = {how: FineTuner.from_bundle(parent, replace(SETTINGS, batch_statistics=how)) for how in ("update", "keep")}
    names = ("served.deep.1.running_mean", "served.deep.1.running_var")
    first = tuners["keep"].trained(no_proof(tuners["keep"]), no_proof(tuners["keep"]).rows).state or {}
    before = {name: first[name].copy() for name in names}
    for how, tuner in tuners.items():
        tuner.learn(chunk(0))
        state = tuner.trained(no_proof(tuner), no_proof(tuner).rows).state or {}
        assert all(np.array_equal(before[name], state[name]) == (how == "keep") for name in names)


def test_it_can_be_stopped(parent: Bundle) -> None:
    asked = iter([False, False, True])
    tuner = FineTuner.from_bundle(parent, SETTINGS)
    report = tuner.learn(chunk(0), stop=lambda: next(asked))
    assert (True, 2) == (report.interrupted, report.steps)
    assert not tuner.learn(chunk(0), stop=lambda: False).interrupted


def test_the_drop_out_may_differ_from_the_parents(tmp_path: Path) -> None:
    rows = chunk(0)
    for share, batch_norm in ((0.0, True), (0.3, False)):
        bundle = trained_bundle(tmp_path / f"{share}", dropout=share, batch_norm=batch_norm, average=False)
        expected = Scorer(bundle).logit_columns(rows.columns, rows.rows)
        for wanted, found in ((0.0, 0.0), (0.5, 0.5), (None, share)):
            tuner = FineTuner.from_bundle(bundle, replace(SETTINGS, dropout=wanted))
            assert found == tuner.model_settings.dropout
            np.testing.assert_allclose(expected, tuner.predict_logits(rows.columns, rows.rows), atol=2e-6)
            tuner.learn(rows)
            other = FineTuner.from_bundle(exported(tuner, tmp_path / f"{share} {wanted}"), tuner.settings)
            assert_same_state(tuner, other)


def test_the_learning_rate_follows_from_the_first_training(
    parent: Bundle, pristine_bundle: Path, tmp_path: Path
) -> None:
    """Of a bundle that does not tell, from the usual one."""
    settings = replace(SETTINGS, batch_size=16)
    tuner = FineTuner.from_bundle(parent, settings)
    # 540 rows in 40 steps would be batches of 13, which are 32 at least.
    assert 0.01 * (16 / 32) ** 0.5 == pytest.approx(tuner.settings.learning_rate)
    bundle = exported(tuner, tmp_path / "next")
    assert "report" not in bundle.manifest.training
    assert tuner.settings == FineTuner.from_bundle(bundle, settings).settings
    assert 1e-3 / 16 == FineTuner.from_bundle(open_bundle(pristine_bundle), settings).settings.learning_rate
    assert 0.5 == FineTuner.from_bundle(parent, replace(settings, learning_rate=0.5)).settings.learning_rate


def test_distillation_holds_on_to_what_the_parent_said(parent: Bundle) -> None:
    rows = chunk(5, 300)
    wrong = rows._replace(labels=1 - rows.labels)
    moved = []
    for share in (0.0, 0.5, 1.0):
        tuner = FineTuner.from_bundle(parent, replace(SETTINGS, distillation=share, learning_rate=0.01))
        before = tuner.predict_logits(rows.columns, rows.rows)
        for _ in range(3):
            tuner.learn(wrong)
        moved.append(float(np.abs(tuner.predict_logits(rows.columns, rows.rows) - before).mean()))
    assert moved[0] > moved[1] > moved[2]


def test_sample_weights_are_heeded(parent: Bundle) -> None:
    """Rows that contradict teach nothing with a weight of 0, and a common factor changes nothing."""
    rows = chunk(5, 200)
    wrong = rows._replace(labels=1 - rows.labels)
    settings = replace(SETTINGS, learning_rate=0.01, passes=10, dropout=0.0)
    answers = []
    for factor in (1.0, 4.0):
        ones, zeros = np.full(200, factor, np.float32), np.zeros(200, np.float32)
        tuner = FineTuner.from_bundle(parent, settings)
        report = tuner.learn(rows._replace(sample_weights=ones), wrong._replace(sample_weights=zeros))
        assert report.loss_after < report.loss_before
        answers.append(tuner.predict_logits(rows.columns, rows.rows))
    assert np.array_equal(*answers)
    nothing = FineTuner.from_bundle(parent, settings).learn(rows._replace(sample_weights=np.zeros(200, np.float32)))
    assert (0, None, None) == (nothing.steps, nothing.loss_before, nothing.train_loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.array([0, 1, 2], np.float32)}, r"the label of row 2 is 2\.0, expected 0 or 1"),
        ({"labels": np.array([0, 1], np.float32)}, r"labels of shape \(2,\), expected one for each of 3 rows"),
        ({"sample_weights": np.array([1, -1, 1], np.float32)}, r"the sample weight of row 1 is -1\.0"),
        ({"columns": {"user": pa.array([b"a", b"b", b"c"])}}, "feature 'user': values of type binary"),
    ],
)
@pytest.mark.parametrize("as_replay", [False, True])
def test_rows_that_cannot_be_learnt_are_named(
    parent: Bundle, change: dict[str, Any], message: str, as_replay: bool
) -> None:
    rows = part(chunk(0), 0, 3)
    wrong = rows._replace(**change)
    with pytest.raises(DataError, match=message):
        FineTuner.from_bundle(parent, SETTINGS).learn(*((rows, wrong) if as_replay else (wrong, rows)))


def test_a_bundle_without_a_training_state_begins_with_moments_of_zero(
    pristine_bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tuner = FineTuner.from_bundle(open_bundle(pristine_bundle), SETTINGS)
    assert "no training state in it: the optimiser's moments begin at zero" in caplog.text
    columns = {"user": pa.array(["ann", "new", "eve"] * 4), "price": pa.array([1.0, 2.0, 3.0] * 4)}
    labels = np.array([1, 0, 1] * 4, np.float32)
    report = tuner.learn(LabelledBatch(columns, 12, labels, None, None, None))
    assert (1, {"user": 2}) == (report.steps, report.admitted)
    assert 1 == tuner.steps


def test_a_bundle_of_an_older_format_learns() -> None:
    bundle = open_bundle(Path(__file__).parent.parent / "data" / "bundle_v1")
    tuner = FineTuner.from_bundle(bundle, SETTINGS)
    assert {} == {name: counts for name, counts in tuner.vocabularies.pending.items() if counts}
    columns = {"app_id": pa.array(["new app"] * 25), "country": pa.array(["XX"] * 25)}
    report = tuner.learn(LabelledBatch(columns, 25, np.arange(25, dtype=np.float32) % 2, None, None, None))
    assert {"app_id": 1, "country": 1} == report.admitted


def test_weights_of_another_network_are_refused_by_name(parent: Bundle, tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    path = parent.path / "weights.safetensors"
    arrays = load_file(path)
    for drop, wrong in (
        ("training.moment1.table", None),
        ("training.row_count", np.zeros(3, np.int64)),
        ("bias", None),
    ):
        changed = {name: array for name, array in arrays.items() if name != drop}
        save_file(changed if wrong is None else changed | {drop: wrong}, tmp_path / "weights.safetensors")
        with pytest.raises(BundleError, match=r"weights\.safetensors"):
            FineTuner.from_bundle(replace(parent, path=tmp_path), SETTINGS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch_size": 3}, "batch_size is 3, expected at least 4"),
        ({"learning_rate": 0.0}, r"learning_rate is 0\.0, expected more than 0"),
        ({"dropout": 1.0}, r"dropout is 1\.0, expected 0 <= dropout < 1"),
        ({"admit_after": 0}, "admit_after is 0, expected at least 1"),
        ({"evict_unseen_s": 0.0}, r"evict_unseen_s is 0\.0, expected more than 0"),
        ({"distillation": 1.5}, r"distillation is 1\.5, expected from 0 to 1"),
        ({"replay_ratio": -1.0}, r"replay_ratio is -1\.0, expected 0 or more"),
        ({"table_update": "eager"}, "table_update is 'eager', expected one of auto, dense, lazy"),
        ({"l2": float("nan")}, "l2 is nan"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        FineTuneSettings(**wrong)


def test_eviction_by_time_needs_an_event_time(pristine_bundle: Path) -> None:
    with pytest.raises(SpecError, match="evict_unseen_s is 60, but the specification names no event_time"):
        FineTuner.from_bundle(open_bundle(pristine_bundle), replace(SETTINGS, evict_unseen_s=60))


@pytest.mark.parametrize("average", [False, True])
def test_a_parent_without_an_average_gets_one_on_request(tmp_path: Path, average: bool) -> None:
    bundle = trained_bundle(tmp_path / "ctr", average=False)
    tuner, rows = FineTuner.from_bundle(bundle, replace(SETTINGS, average=average)), chunk(0)
    expected = Scorer(bundle).logit_columns(rows.columns, rows.rows)
    np.testing.assert_allclose(expected, tuner.predict_logits(rows.columns, rows.rows), atol=2e-6)
    tuner.learn(rows)
    assert_same_state(tuner, FineTuner.from_bundle(exported(tuner, tmp_path / "next"), tuner.settings))
    state = tuner.trained(no_proof(tuner), no_proof(tuner).rows).state or {}
    assert average == ("raw.table" in state)


def test_a_regression_goes_on_learning(tmp_path: Path) -> None:
    spec = replace(SPEC, task="regression", label="spent")
    bundle = trained_bundle(tmp_path / "ctr", spec=spec)
    tuner = FineTuner.from_bundle(bundle, replace(SETTINGS, learning_rate=0.01, distillation=0.1))
    for number in range(4):
        report = tuner.learn(chunk(number, 200, spec=spec))
        assert report.loss_after < report.loss_before
    with pytest.raises(DataError, match="the label of row 0 is nan, expected a finite number"):
        tuner.learn(chunk(0, spec=spec)._replace(labels=np.full(100, np.nan, np.float32)))


def test_the_number_of_threads_is_put_back(parent: Bundle) -> None:
    before = torch.get_num_threads()
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, threads=before + 1))
    tuner.learn(chunk(0))
    assert before == torch.get_num_threads()


def test_a_divergence_is_told(parent: Bundle) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, learning_rate=1e30, passes=3))
    with pytest.raises(DataError, match="training diverged"):
        tuner.learn(chunk(0))


def test_a_full_disk_is_told_when_grown_vocabularies_are_written(
    parent: Bundle, tmp_path: Path, file_size_limit: Callable[[int], AbstractContextManager[None]]
) -> None:
    tuner = FineTuner.from_bundle(parent, SETTINGS)
    tuner.learn(chunk(0))
    with file_size_limit(1000), pytest.raises(BundleError, match=r"the disk is full .*; nothing was written"):
        exported(tuner, tmp_path / "next")
    assert [] == list(tmp_path.iterdir())
