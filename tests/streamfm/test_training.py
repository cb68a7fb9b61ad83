import json
import os
import resource
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from streamfm.data.dataset import DatasetWriter, EncodedDataset
from streamfm.encoder import Encoded, Field, Layout
from streamfm.errors import DataError, SpecError
from streamfm.evaluation.metrics import auc
from streamfm.model import DeepFM, ModelSettings
from streamfm.training import EpochReport, Plateau, Silence, TrainReport, TrainSettings, fit
from streamfm.training.replacement import IdReplacement
from streamfm.training.snapshot import Snapshot

VALUES = 30
SETTINGS = TrainSettings(
    batch_size=100, max_epochs=4, learning_rate=1e-2, l2_factors=1e-4, l2_first_order=1e-4, threads=1
)
SHAPE = ModelSettings(factors=4, hidden=(16,))


def layout(*lengths: int, weighted: bool = False) -> Layout:
    starts = np.cumsum([0, *lengths])
    fields = tuple(Field(name=f"f{i}", start=int(starts[i]), length=n) for i, n in enumerate(lengths))
    nulls = np.arange(len(lengths), dtype=np.int32) * VALUES
    rows = len(lengths) * VALUES
    return Layout(
        fields=fields, slots=sum(lengths), rows=rows, weighted=weighted, null_rows=nulls, unknown_rows=nulls + 1
    )


LAYOUT = layout(1, 1, 1)


def write(folder: Path, rows: int, seed: int, *, made: Layout = LAYOUT, regression: bool = False) -> EncodedDataset:
    """Rows whose label follows from the values and from the pair of the first two."""
    random = np.random.default_rng(seed)
    tables = np.random.default_rng(77)
    effect, vectors = tables.normal(size=made.rows), tables.normal(size=(made.rows, 2))
    fields = np.repeat(np.arange(len(made.fields)), [field.length for field in made.fields])
    ids = (random.integers(2, VALUES, (rows, made.slots)) + fields * VALUES).astype(np.int32)
    logits = effect[ids].mean(axis=1) * 1.5 + (vectors[ids[:, 0]] * vectors[ids[:, 1]]).sum(axis=1)
    labels = logits + 3 if regression else random.random(rows) < 1 / (1 + np.exp(-logits))
    weights = np.ones(ids.shape, np.float32) if made.weighted else None
    with DatasetWriter(folder, made) as writer:
        writer.append(Encoded(ids, weights), labels)
        return writer.finish()


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> tuple[EncodedDataset, EncodedDataset]:
    folder = tmp_path_factory.mktemp("rows")
    return write(folder / "train", 4000, 1), write(folder / "valid", 1500, 2)


Rows = tuple[EncodedDataset, EncodedDataset]


class Recorder:
    """What a `Progress` is told."""

    def __init__(self) -> None:
        self.started: list[tuple[int, int]] = []
        self.rows: list[int] = []
        self.losses: list[float] = []
        self.epochs: list[EpochReport] = []

    def start(self, rows_per_epoch: int, max_epochs: int) -> None:
        self.started.append((rows_per_epoch, max_epochs))

    def advance(self, rows: int, loss: float) -> None:
        self.rows.append(rows)
        self.losses.append(loss)

    def end_epoch(self, epoch: EpochReport) -> None:
        self.epochs.append(epoch)


def train(rows: Rows, settings: TrainSettings = SETTINGS, **others: object) -> tuple[DeepFM, TrainReport]:
    model = DeepFM(LAYOUT, SHAPE, seed=3)
    return model, fit(model, *rows, settings, **others)


def served(model: DeepFM) -> dict[str, np.ndarray]:
    return {f"served.{name}": value.numpy() for name, value in model.state_dict().items()}


def test_it_learns(rows: Rows) -> None:
    model, report = train(rows, replace(SETTINGS, max_epochs=6))
    _, valid = rows
    logits = model.predict_logits(valid.ids, valid.weights)
    assert report.best.valid_auc == auc(valid.labels, logits)
    assert report.best.valid_auc > 0.75
    assert report.best.valid_loss == min(epoch.valid_loss for epoch in report.epochs)
    assert report.epochs[-1].train_loss < report.epochs[0].train_loss


def test_lazy_updates_and_float32_learn_too(rows: Rows) -> None:
    for change in ({"table_update": "lazy"}, {"precision": "float32"}, {"average": False}):
        _, report = train(rows, replace(SETTINGS, max_epochs=6, **change))
        assert report.best.valid_auc > 0.75


@pytest.mark.parametrize("lazy", [False, True])
def test_the_same_seed_gives_the_same_weights_bit_by_bit(rows: Rows, lazy: bool) -> None:
    settings = replace(SETTINGS, max_epochs=2, table_update="lazy" if lazy else "dense", unknown_share=0.1)
    states = [train(rows, replace(settings, seed=seed))[1].state for seed in (5, 5, 6)]
    for name, array in states[0].items():
        assert array.tobytes() == states[1][name].tobytes(), name
    assert not np.array_equal(states[0]["served.table"], states[2]["served.table"])


def test_the_model_has_the_best_served_weights_not_the_last(rows: Rows) -> None:
    settings = replace(SETTINGS, max_epochs=12, learning_rate=0.08, plateaus=12)
    model, report = train(rows, settings)
    assert report.best_epoch < len(report.epochs)
    assert report.best.valid_auc == auc(rows[1].labels, model.predict_logits(rows[1].ids, rows[1].weights))
    assert not model.training
    for name, array in served(model).items():
        assert np.array_equal(array, report.state[name]), name


def test_the_rate_falls_at_a_plateau_and_the_second_ends_the_training(rows: Rows) -> None:
    settings = replace(SETTINGS, max_epochs=60, learning_rate=0.03, plateau_factor=0.2, plateau_patience=1)
    _, report = train(rows, replace(settings, keep_by="auc"))
    assert "plateau" == report.stopped
    improved = [epoch.improved for epoch in report.epochs]
    assert 2 == improved.count(False)
    assert not improved[-1]
    first = improved.index(False)
    rates = [epoch.learning_rate for epoch in report.epochs]
    assert [0.03] * (first + 1) == rates[: first + 1]
    assert [0.03 * 0.2] * (len(rates) - first - 1) == rates[first + 1 :]


def test_the_best_epoch_has_the_least_loss_or_the_highest_auc(rows: Rows, tmp_path: Path) -> None:
    few = write(tmp_path / "few", 1_000, 1)
    settings = replace(SETTINGS, max_epochs=25, plateau_patience=25, learning_rate=0.05, average=False, l2_factors=0)
    by_loss, by_auc = (train((few, rows[1]), replace(settings, keep_by=figure))[1] for figure in ("loss", "auc"))
    assert [epoch.valid_auc for epoch in by_loss.epochs] == [epoch.valid_auc for epoch in by_auc.epochs]
    assert by_loss.best.valid_loss == min(epoch.valid_loss for epoch in by_loss.epochs)
    assert by_auc.best.valid_auc == max(epoch.valid_auc for epoch in by_auc.epochs)
    # Too few rows: the probabilities become far too sure while their order still improves.
    assert by_loss.best.valid_loss < by_auc.best.valid_loss - 0.05


def test_a_plateau_takes_patience() -> None:
    plateau = Plateau(2)
    seen = [plateau.observe(value) for value in (0.5, 0.4, 0.6, 0.6, 0.6, 0.7, 0.1, 0.1)]
    improved, waiting = "improved", "waiting"
    assert [improved, waiting, improved, waiting, "plateau", improved, waiting, "plateau"] == seen
    assert (2, 0.7) == (plateau.plateaus, plateau.best)


def test_few_rows_get_smaller_batches(rows: Rows) -> None:
    assert [32, 32, 125, 4096] == [TrainSettings().batch_rows(count) for count in (2, 1300, 5000, 202_027)]
    assert 4096 == TrainSettings(least_steps=0).batch_rows(5000)
    recorder = Recorder()
    _, report = train(rows, replace(SETTINGS, max_epochs=1, batch_size=4096), progress=recorder)
    assert (100, [100] * 40) == (report.batch_size, recorder.rows)


def test_it_ends_after_the_last_epoch(rows: Rows) -> None:
    _, report = train(rows, replace(SETTINGS, max_epochs=2))
    assert ("epochs", 2) == (report.stopped, len(report.epochs))


def test_progress_is_told_everything(rows: Rows) -> None:
    recorder = Recorder()
    _, report = train(rows, replace(SETTINGS, max_epochs=2), progress=recorder)
    assert [(4000, 2)] == recorder.started
    assert 8000 == sum(recorder.rows)
    assert list(report.epochs) == recorder.epochs
    first = slice(0, len(recorder.rows) // 2)
    expected = np.average(recorder.losses[first], weights=recorder.rows[first])
    assert expected == pytest.approx(report.epochs[0].train_loss)


def test_the_report_speaks_json_and_reads_the_clock(rows: Rows) -> None:
    ticks = iter(range(100))
    _, report = train(rows, replace(SETTINGS, max_epochs=1), clock=lambda: float(next(ticks)))
    plain = json.loads(json.dumps(report.to_dict()))
    assert (100, 4000.0, 2.0) == (
        plain["settings"]["batch_size"],
        plain["epochs"][0]["rows_per_s"],
        plain["epochs"][0]["seconds"],
    )
    assert "state" not in plain


def test_nothing_is_printed(rows: Rows, capfd: pytest.CaptureFixture[str]) -> None:
    train(rows, replace(SETTINGS, max_epochs=1))
    assert ("", "") == tuple(capfd.readouterr())


class PressControlC(Silence):
    """Presses Ctrl-C during a step."""

    def __init__(self, at_step: int, times: int = 1) -> None:
        self.at_step, self.times, self.steps = at_step, times, 0

    def advance(self, rows: int, loss: float) -> None:
        self.steps += 1
        if self.steps == self.at_step:
            for _ in range(self.times):
                os.kill(os.getpid(), signal.SIGINT)


STEPS_PER_EPOCH = 40


def test_control_c_keeps_the_best_so_far(rows: Rows) -> None:
    _, whole = train(rows, replace(SETTINGS, max_epochs=1))
    progress = PressControlC(STEPS_PER_EPOCH + 3)
    model, report = train(rows, progress=progress)
    assert ("interrupted", True, 1) == (report.stopped, report.interrupted, len(report.epochs))
    assert STEPS_PER_EPOCH + 3 == progress.steps
    for name, array in served(model).items():
        assert np.array_equal(whole.state[name], array), name
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_control_c_before_the_first_validation_keeps_what_was_learnt(rows: Rows) -> None:
    model, report = train(rows, progress=PressControlC(3))
    assert ("interrupted", 1, 3) == (report.stopped, len(report.epochs), int(report.state["step"][0]))
    assert report.best.valid_auc == auc(rows[1].labels, model.predict_logits(rows[1].ids, rows[1].weights))


def test_control_c_in_the_last_step_of_an_epoch_is_heard(rows: Rows) -> None:
    _, report = train(rows, progress=PressControlC(STEPS_PER_EPOCH))
    assert ("interrupted", 1) == (report.stopped, len(report.epochs))


def test_control_c_discards_everything_where_that_is_wished(rows: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(rows, progress=PressControlC(50), on_interrupt="discard")
    assert signal.default_int_handler is signal.getsignal(signal.SIGINT)


def test_a_second_control_c_interrupts_at_once(rows: Rows) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(rows, progress=PressControlC(50, times=2))


def test_a_stop_is_as_control_c(rows: Rows) -> None:
    answers = iter([False] * 50)
    _, report = train(rows, stop=lambda: next(answers, True))
    assert ("interrupted", 1) == (report.stopped, len(report.epochs))
    with pytest.raises(KeyboardInterrupt):
        train(rows, stop=lambda: True, on_interrupt="discard")
    with pytest.raises(KeyboardInterrupt):
        train(rows, stop=lambda: True)


def test_a_host_keeps_its_own_way_with_interrupts(rows: Rows) -> None:
    heard = []
    previous = signal.signal(signal.SIGINT, lambda *_: heard.append(1))
    try:
        _, report = train(rows, replace(SETTINGS, max_epochs=1), progress=PressControlC(2))
    finally:
        signal.signal(signal.SIGINT, previous)
    assert ([1], "epochs") == (heard, report.stopped)


def test_it_trains_in_another_thread(rows: Rows) -> None:
    reports = []
    thread = threading.Thread(target=lambda: reports.append(train(rows, replace(SETTINGS, max_epochs=1))[1]))
    thread.start()
    thread.join()
    assert ["epochs"] == [report.stopped for report in reports]


def test_the_number_of_threads_is_put_back(rows: Rows) -> None:
    before = torch.get_num_threads()
    train(rows, replace(SETTINGS, max_epochs=1, threads=before + 1))
    assert before == torch.get_num_threads()


def test_training_goes_on_from_a_state_alone(rows: Rows) -> None:
    settings = replace(SETTINGS, max_epochs=1, table_update="lazy")
    model, first = train(rows, settings)
    other = DeepFM(LAYOUT, SHAPE, seed=99)
    reports = [fit(m, *rows, replace(settings, seed=8), state=first.state) for m in (model, other)]
    for name, array in reports[0].state.items():
        assert np.array_equal(array, reports[1].state[name]), name
    assert 2 * STEPS_PER_EPOCH == reports[0].state["step"][0]
    assert reports[0].best.train_loss < first.best.train_loss
    assert 2 * first.state["row_count"].sum() == reports[0].state["row_count"].sum()


def test_a_state_of_another_model_is_refused(rows: Rows) -> None:
    _, report = train(rows, replace(SETTINGS, max_epochs=1))
    for shape in (ModelSettings(factors=5, hidden=(16,)), ModelSettings(factors=4, hidden=(16, 16))):
        with pytest.raises(DataError, match="state does not fit the model"):
            fit(DeepFM(LAYOUT, shape), *rows, SETTINGS, state=report.state)
    without = {name: array for name, array in report.state.items() if name != "moment1.bias"}
    with pytest.raises(DataError, match=r"moment1\.bias"):
        fit(DeepFM(LAYOUT, SHAPE), *rows, SETTINGS, state=without)


def test_the_state_names_all_that_fine_tuning_needs(rows: Rows) -> None:
    _, report = train(rows, replace(SETTINGS, max_epochs=1))
    weights = {"table", "bias", *(f"deep.{layer}.{part}" for layer in (0, 1, 4) for part in ("weight", "bias"))}
    statistics = {f"deep.1.{name}" for name in ("running_mean", "running_var", "num_batches_tracked")}
    expected = {f"{kind}.{name}" for kind in ("served", "raw") for name in weights | statistics}
    expected |= {f"{kind}.{name}" for kind in ("moment1", "moment2") for name in weights}
    assert expected | {"step", "row_count", "row_last_step"} == set(report.state)
    assert not np.array_equal(report.state["served.table"], report.state["raw.table"])
    assert not np.array_equal(report.state["served.deep.1.running_mean"], report.state["raw.deep.1.running_mean"])
    _, plain = train(rows, replace(SETTINGS, max_epochs=1, average=False))
    assert not [name for name in plain.state if name.startswith("raw.")]


def test_a_snapshot_on_disk_is_a_copy() -> None:
    array = np.arange(1 << 19, dtype=np.float32)
    snapshot = Snapshot(on_disk=True)
    for added in (1, 2):
        snapshot.take({"large": array + added, "small": array[:3] + added})
        np.testing.assert_array_equal(array + added, snapshot.arrays["large"])
        np.testing.assert_array_equal(array[:3] + added, snapshot.arrays["small"])


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        with pytest.raises(DataError, match="no room to keep the best weights, 2097152 bytes"):
            Snapshot(on_disk=True, folder=tmp_path).take({"large": np.zeros(1 << 19, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [] == list(tmp_path.iterdir())


def test_sample_weights_are_heeded(tmp_path: Path) -> None:
    """Rows that contradict, with a weight of 0, neither teach nor validate."""
    source = write(tmp_path / "source", 3000, 4)
    ids, labels = np.array(source.ids), np.array(source.labels)
    with DatasetWriter(tmp_path / "both", LAYOUT, sample_weights=True) as writer:
        writer.append(Encoded(ids, None), labels, sample_weights=np.full(3000, 2.0))
        writer.append(Encoded(ids, None), 1 - labels, sample_weights=np.zeros(3000))
        both = writer.finish()
    model, report = train((both, both), replace(SETTINGS, max_epochs=8))
    assert auc(labels, model.predict_logits(source.ids, source.weights)) > 0.75
    assert report.best.valid_auc == pytest.approx(auc(labels, model.predict_logits(source.ids, source.weights)))


def test_a_regression_is_trained_on_squared_error(tmp_path: Path) -> None:
    parts = [
        write(tmp_path / name, size, seed, regression=True) for name, size, seed in (("a", 6000, 1), ("b", 999, 2))
    ]
    model, report = train(tuple(parts), replace(SETTINGS, objective="regression", max_epochs=6))
    predictions = model.predict_logits(parts[1].ids, parts[1].weights)
    errors = np.mean((predictions - parts[1].labels) ** 2)
    assert report.best.valid_auc is None
    assert errors == pytest.approx(report.best.valid_loss, rel=1e-5)
    assert errors < 0.6 * parts[1].labels.var()
    assert report.best.valid_loss == min(epoch.valid_loss for epoch in report.epochs)


def test_a_new_model_starts_at_the_base_rate(rows: Rows) -> None:
    settings = replace(SETTINGS, max_epochs=1, learning_rate=1e-12, l2_factors=0, l2_first_order=0, average=False)
    _, report = train(rows, settings)
    mean = np.mean(rows[0].labels)
    assert np.log(mean / (1 - mean)) == pytest.approx(report.state["served.bias"][0], abs=1e-5)


def test_multivalued_and_weighted_fields_train(tmp_path: Path) -> None:
    made = layout(1, 3, weighted=True)
    parts = [write(tmp_path / name, size, seed, made=made) for name, size, seed in (("a", 3000, 1), ("b", 999, 2))]
    model = DeepFM(made, SHAPE)
    report = fit(model, *parts, replace(SETTINGS, unknown_share=0.05, null_share=0.05))
    assert report.best.valid_auc > 0.6


def test_the_rows_of_null_and_unknown_learn(rows: Rows) -> None:
    settings = replace(SETTINGS, max_epochs=1, unknown_share=0.02, null_share=0.02)
    _, report = train(rows, settings)
    for special in (LAYOUT.null_rows, LAYOUT.unknown_rows):
        assert (report.state["row_count"][special] > 40).all()
        assert (report.state["moment2.table"][special] > 0).all()
    _, report = train(rows, replace(settings, unknown_share=0, null_share=0))
    assert not report.state["row_count"][np.concatenate([LAYOUT.null_rows, LAYOUT.unknown_rows])].any()


def test_replaced_fields_look_as_the_encoder_writes_them(tmp_path: Path) -> None:
    made = layout(1, 3, weighted=True)
    batch = next(write(tmp_path / "d", 4000, 1, made=made).batches(4000))
    batch.weights[:] = 0.25
    before = batch.ids.copy()
    IdReplacement(made, 0.0, 0.1, np.random.default_rng(1)).apply(batch)
    null = batch.ids[:, 1] == made.null_rows[1]
    assert null.mean() == pytest.approx(0.095, abs=0.02)
    assert (batch.ids[null, 1:] == made.null_rows[1]).all()
    assert [[1, 0, 0]] == np.unique(batch.weights[null, 1:], axis=0).tolist()
    assert (batch.ids[~null, 1:] == before[~null, 1:]).all()
    assert (batch.weights[~null, 1:] == 0.25).all()
    batch.ids[:], batch.weights[:] = before, 0.25
    IdReplacement(made, 0.1, 0.0, np.random.default_rng(1)).apply(batch)
    unknown = batch.ids != before
    assert unknown[:, 0].mean() == pytest.approx(0.095, abs=0.02)
    assert unknown[:, 1:].mean() == pytest.approx(0.033, abs=0.01)
    fields = np.array([0, 1, 1, 1])
    assert (batch.ids == np.where(unknown, made.unknown_rows[fields], before)).all()
    assert (batch.weights[unknown[:, 0], 0] == 1).all()
    assert (batch.weights[:, 1:] == 0.25).all()


def labelled(folder: Path, labels: list[float], weights: list[float] | None = None) -> EncodedDataset:
    ids = np.full((len(labels), 3), 5, np.int32)
    with DatasetWriter(folder, LAYOUT, sample_weights=weights is not None) as writer:
        given = None if weights is None else np.array(weights)
        writer.append(Encoded(ids, None), np.array(labels), sample_weights=given)
        return writer.finish()


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        ([1.0, 1.0, 1.0], None, "rows: all 3 labels are 1, expected both 0 and 1"),
        ([0.0, 0.0, 0.0], None, "rows: all 3 labels are 0"),
        ([0.0, 1.0, 2.0], None, r"rows: the label of row 2 is 2\.0, expected 0 or 1"),
        ([0.0, np.nan, 1.0], None, "rows: the label of row 1 is nan"),
        ([1.0], None, "rows: 1 in .*, expected at least 2"),
        ([0.0, 1.0, 1.0], [1, -1, 1], r"weight of row 1 is -1\.0, expected a number of 0 or more"),
        ([0.0, 1.0, 1.0], [1, 1, np.inf], "weight of row 2 is inf"),
        ([0.0, 1.0, 1.0], [0, 0, 0], "rows: the sample weights add up to 0"),
    ],
)
@pytest.mark.parametrize("place", [0, 1])
def test_rows_that_cannot_be_trained_on_are_named(
    rows: Rows, tmp_path: Path, labels: list[float], weights: list[float] | None, message: str, place: int
) -> None:
    parts = list(rows)
    parts[place] = labelled(tmp_path / "d", labels, weights)
    with pytest.raises(DataError, match=message):
        train(tuple(parts))


def test_an_infinite_label_of_a_regression_is_named(rows: Rows, tmp_path: Path) -> None:
    parts = (labelled(tmp_path / "d", [1.5, np.inf]), rows[1])
    with pytest.raises(DataError, match="training rows: the label of row 1 is inf, expected a finite number"):
        train(parts, replace(SETTINGS, objective="regression"))


def test_rows_of_another_layout_are_refused(rows: Rows, tmp_path: Path) -> None:
    other = write(tmp_path / "d", 100, 1, made=layout(1, 1))
    message = (
        r"validation rows: \(slots, table rows, weighted\) are \(2, 60, False\), the model expects \(3, 90, False\)"
    )
    with pytest.raises(DataError, match=message):
        train((rows[0], other))


def test_a_divergence_ends_the_training(tmp_path: Path) -> None:
    made = layout(1, 1, weighted=True)
    parts = []
    for name, size in (("a", 300), ("b", 100)):
        labels = np.arange(size) % 2
        weights = np.full((size, 2), 1e30, np.float32)
        with DatasetWriter(tmp_path / name, made) as writer:
            writer.append(Encoded(np.full((size, 2), 5, np.int32), weights), labels)
            parts.append(writer.finish())
    with pytest.raises(DataError, match=r"training diverged: the (loss|gradient) of step 1 is") as raised:
        fit(DeepFM(made, ModelSettings(factors=2, hidden=())), *parts, SETTINGS)
    assert "learning_rate" in raised.value.hint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"objective": "ranking"}, "objective is 'ranking', expected one of binary, regression"),
        ({"objective": "regression", "keep_by": "auc"}, "a regression has no AUC"),
        ({"batch_size": 1}, "batch_size is 1, expected at least 2"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0, expected more than 0"),
        ({"average_decay": 1.0}, "average_decay is 1.0, expected 0 <= average_decay < 1"),
        ({"null_share": -0.1}, "null_share is -0.1"),
        ({"l2_factors": float("nan")}, "l2_factors is nan"),
        ({"threads": 0}, "threads is 0"),
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        TrainSettings(**wrong)
