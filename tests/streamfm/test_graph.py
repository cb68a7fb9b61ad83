from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfm.encoder import Encoded, Field, Layout
from streamfm.errors import BundleError
from streamfm.export.freezing import freeze
from streamfm.export.graph import Scales, build_graph, build_int8_graph, calibrate
from streamfm.export.network import PASS_ROWS, BatchNorm, Dense, Network, folded
from streamfm.model import DeepFM, ModelSettings

TABLE_ROWS = 50


def layout_of(lengths: list[int], *, weighted: bool) -> Layout:
    """Fields of so many slots each."""
    starts = np.cumsum([0, *lengths])
    fields = tuple(Field(name=f"f{i}", start=int(starts[i]), length=length) for i, length in enumerate(lengths))
    rows = np.zeros(len(fields), np.int32)
    return Layout(
        fields=fields, slots=int(starts[-1]), rows=TABLE_ROWS, weighted=weighted, null_rows=rows, unknown_rows=rows + 1
    )


def trained_model(layout: Layout, model_settings: ModelSettings, *, seed: int = 0) -> DeepFM:
    """A model whose every number is away from its start, batch norm's statistics too."""
    model = DeepFM(layout, model_settings, seed=seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
                tensor.uniform_(0.5, 2, generator=random)
            elif tensor.is_floating_point():
                tensor.normal_(std=0.3, generator=random)
    return model


def encoded_rows(layout: Layout, count: int, *, seed: int = 0) -> Encoded:
    random = np.random.default_rng(seed)
    shape = (count, layout.slots)
    ids = random.integers(0, TABLE_ROWS, shape, dtype=np.int32)
    weights = random.normal(size=shape).astype(np.float32) if layout.weighted else None
    return Encoded(ids, weights)


def open_session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(session: onnxruntime.InferenceSession, rows: Encoded, output: str = "logit") -> NDArray[np.float32]:
    feed = {"ids": rows.ids} | ({} if rows.weights is None else {"weights": rows.weights})
    answers: NDArray[np.float32] = session.run([output], feed)[0]
    return answers


def take(rows: Encoded, places: NDArray[np.intp]) -> Encoded:
    return Encoded(rows.ids[places], None if rows.weights is None else rows.weights[places])


def brute_force_logits(network: Network, rows: Encoded) -> NDArray[np.float64]:
    """The definition, pair by pair, in float64."""
    logits = []
    for index, ids in enumerate(rows.ids):
        weights = np.ones(len(ids)) if rows.weights is None else rows.weights[index].astype(np.float64)
        slots = network.table[ids].astype(np.float64) * weights[:, None]
        fields = [slots[f.start : f.start + f.length].sum(axis=0) for f in network.layout.fields]
        vectors = [field[:-1] for field in fields]
        logit = network.bias + sum(field[-1] for field in fields)
        logit += sum(v @ w for i, v in enumerate(vectors) for w in vectors[:i])
        units = np.concatenate(vectors)
        for number, layer in enumerate(network.layers, start=1):
            units = units @ layer.weight.astype(np.float64) + layer.bias
            units = np.maximum(units, 0) if number < len(network.layers) else units
        logits.append(logit + (units[0] if network.layers else 0))
    return np.array(logits)


@st.composite
def models(draw: st.DrawFn) -> DeepFM:
    lengths = draw(st.lists(st.integers(1, 4), min_size=1, max_size=6))
    layout = layout_of(lengths, weighted=draw(st.booleans()))
    model_settings = ModelSettings(
        factors=draw(st.sampled_from([1, 2, 5, 16, 20])),
        hidden=tuple(draw(st.lists(st.integers(1, 9), max_size=3))),
        batch_norm=draw(st.booleans()),
    )
    return trained_model(layout, model_settings, seed=draw(st.integers(0, 2**31)))


@settings(deadline=None, max_examples=60)
@given(model=models(), count=st.integers(1, 5))
def test_graph_answers_as_the_definition_and_as_torch(model: DeepFM, count: int) -> None:
    rows = encoded_rows(model.layout, count)
    network = freeze(model, "binary")
    logits = run(open_session(build_graph(network)), rows)
    expected = brute_force_logits(network, rows)
    size = np.maximum(1, np.abs(expected))
    assert np.abs((logits - expected) / size).max() < 1e-4
    assert np.abs((model.predict_logits(rows.ids, rows.weights) - expected) / size).max() < 1e-4


@pytest.mark.parametrize("lengths", [[1, 1, 1], [1, 3, 1], [2, 2], [4]])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("hidden", [(), (8,), (8, 4)])
@pytest.mark.parametrize("int8", [False, True])
def test_both_graphs_are_valid_onnx_without_external_data(
    lengths: list[int], weighted: bool, hidden: tuple[int, ...], int8: bool
) -> None:
    layout = layout_of(lengths, weighted=weighted)
    network = freeze(trained_model(layout, ModelSettings(factors=3, hidden=hidden)), "binary")
    scales = calibrate(network, encoded_rows(layout, 100))
    model = build_int8_graph(network, scales) if int8 else build_graph(network)
    onnx.checker.check_model(model, full_check=True)
    assert {onnx.TensorProto.DEFAULT} == {tensor.data_location for tensor in model.graph.initializer}
    assert [("", 17)] == [(entry.domain, entry.version) for entry in model.opset_import]
    session = open_session(model)
    inputs = [("ids", "tensor(int32)", ["rows", layout.slots])]
    inputs += [("weights", "tensor(float)", ["rows", layout.slots])] if weighted else []
    assert inputs == [(node.name, node.type, node.shape) for node in session.get_inputs()]
    outputs = [(name, "tensor(float)", ["rows"]) for name in ("logit", "score")]
    assert outputs == [(node.name, node.type, node.shape) for node in session.get_outputs()]


def test_score_is_the_sigmoid_of_a_click_and_the_number_itself_of_a_regression() -> None:
    layout = layout_of([1, 1], weighted=False)
    model, rows = trained_model(layout, ModelSettings(factors=2, hidden=(3,))), encoded_rows(layout, 20)
    clicks, numbers = (open_session(build_graph(freeze(model, task))) for task in ("binary", "regression"))
    logits = run(clicks, rows)
    np.testing.assert_allclose(1 / (1 + np.exp(-logits.astype(np.float64))), run(clicks, rows, "score"), atol=1e-6)
    np.testing.assert_array_equal(logits, run(numbers, rows, "score"))


def test_same_weights_give_the_same_bytes() -> None:
    layout = layout_of([1, 3], weighted=True)
    network = freeze(trained_model(layout, ModelSettings(factors=2, hidden=(3,))), "binary")
    scales = calibrate(network, encoded_rows(layout, 10))
    for build in (lambda: build_graph(network), lambda: build_int8_graph(network, scales)):
        assert build().SerializeToString(deterministic=True) == build().SerializeToString(deterministic=True)


def test_building_changes_no_weight() -> None:
    layout = layout_of([1, 1], weighted=False)
    network = freeze(trained_model(layout, ModelSettings(factors=2, hidden=(3,))), "binary")
    before = network.table.copy()
    build_graph(network)
    np.testing.assert_array_equal(before, network.table)


def test_table_beyond_onnx_is_refused_before_any_work() -> None:
    layout = layout_of([1], weighted=False)
    # Twenty million rows that take no memory.
    table = np.broadcast_to(np.zeros((1, 33), np.float32), (20_000_000, 33))
    network = Network(layout=layout, task="binary", table=table, bias=0.0, layers=())
    with pytest.raises(BundleError, match=r"20,000,000 rows takes 2\.6 GB.*\n.*min_count"):
        build_graph(network)


def test_batch_norm_folds_into_its_layer_exactly() -> None:
    random = np.random.default_rng(0)
    layer = Dense(weight=random.normal(size=(7, 5)).astype(np.float32), bias=random.normal(size=5).astype(np.float32))
    mean, scale, shift = random.normal(size=(3, 5)).astype(np.float32)
    variance = random.uniform(1e-4, 3, 5).astype(np.float32)
    one = folded(layer, BatchNorm(mean=mean, variance=variance, scale=scale, shift=shift, epsilon=1e-5))
    inputs = random.normal(size=(50, 7))
    linear = inputs @ layer.weight.astype(np.float64) + layer.bias
    expected = (linear - mean) / np.sqrt(variance.astype(np.float64) + 1e-5) * scale + shift
    # The rounding of the folded weights to float32 is all that may remain.
    terms = np.abs(inputs) @ np.abs(one.weight) + np.abs(one.bias)
    assert (np.abs(inputs @ one.weight.astype(np.float64) + one.bias - expected) / terms).max() < 2**-23


LARGE = layout_of([1] * 10, weighted=False)
POOLED = layout_of([1, 5, 1, 1], weighted=True)


@pytest.fixture(scope="module", params=["single slots", "pooled and weighted"])
def int8_case(request: pytest.FixtureRequest) -> tuple[onnxruntime.InferenceSession, Encoded, NDArray[np.float32]]:
    """A quantised network, 4,097 rows, and their scores in one batch."""
    layout = LARGE if request.param == "single slots" else POOLED
    network = freeze(trained_model(layout, ModelSettings(factors=10, hidden=(40, 24, 17))), "binary")
    rows = encoded_rows(layout, 4097, seed=1)
    session = open_session(build_int8_graph(network, calibrate(network, rows)))
    return session, rows, run(session, rows, "score")


@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 4097), seed=st.integers(0, 2**31))
def test_int8_score_of_a_row_is_its_own_in_any_batch_and_order(
    int8_case: tuple[onnxruntime.InferenceSession, Encoded, NDArray[np.float32]], size: int, seed: int
) -> None:
    session, rows, scores = int8_case
    places = np.random.default_rng(seed).permutation(4097)[:size]
    assert np.abs(run(session, take(rows, places), "score") - scores[places]).max() <= 1e-6


def test_int8_score_of_a_row_alone_is_that_among_many(
    int8_case: tuple[onnxruntime.InferenceSession, Encoded, NDArray[np.float32]],
) -> None:
    session, rows, scores = int8_case
    alone = [run(session, take(rows, np.array([place])), "score")[0] for place in range(300)]
    assert np.abs(np.array(alone) - scores[:300]).max() <= 1e-6
    assert np.ptp(scores[:300]) > 0.1


@pytest.mark.parametrize("layout", [LARGE, POOLED], ids=["single slots", "pooled and weighted"])
def test_int8_is_near_float32(layout: Layout) -> None:
    network = freeze(trained_model(layout, ModelSettings(factors=10, hidden=(64, 32))), "binary")
    rows = encoded_rows(layout, 2000)
    quantised = run(open_session(build_int8_graph(network, calibrate(network, rows))), rows, "score")
    exact = run(open_session(build_graph(network)), rows, "score")
    assert 0 < np.abs(quantised - exact).mean() < 0.01


def test_onnxruntime_fuses_every_linear_layer_to_one_of_bytes(tmp_path_factory: pytest.TempPathFactory) -> None:
    network = freeze(trained_model(LARGE, ModelSettings(factors=10, hidden=(16, 16, 16))), "binary")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path_factory.mktemp("optimised") / "model.onnx")
    model = build_int8_graph(network, calibrate(network, encoded_rows(LARGE, 100)))
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]
    assert (4, 1, 0) == tuple(operators.count(name) for name in ("QGemm", "QuantizeLinear", "DequantizeLinear"))


def test_int8_weights_leave_room_for_processors_that_add_in_16_bits() -> None:
    network = freeze(trained_model(LARGE, ModelSettings(factors=10, hidden=(16, 16))), "binary")
    model = build_int8_graph(network, calibrate(network, encoded_rows(LARGE, 100)))
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    largest = [int(np.abs(values).max()) for name, values in tensors.items() if name.endswith("weight.bytes")]
    assert len(largest) == 3
    assert 2 * 255 * max(largest) <= 2**15 - 1 < 2 * 255 * (max(largest) + 1)


def test_int8_bias_that_dwarfs_its_weights_is_kept() -> None:
    layers = (
        Dense(weight=np.full((2, 3), 1e-12, np.float32), bias=np.array([0, 5, 7], np.float32)),
        Dense(weight=np.ones((3, 1), np.float32), bias=np.array([0.25], np.float32)),
    )
    network = Network(
        layout=layout_of([1, 1], weighted=False),
        task="binary",
        table=np.zeros((TABLE_ROWS, 2), np.float32),
        bias=0.0,
        layers=layers,
    )
    model = build_int8_graph(network, Scales(largest=(1.0, 7.0)))
    logits = run(open_session(model), encoded_rows(network.layout, 3))
    np.testing.assert_allclose(logits, 12.25, atol=0.05)


def test_calibration_reads_every_row() -> None:
    layers = tuple(Dense(weight=np.eye(2, dtype=np.float32), bias=np.zeros(2, np.float32)) for _ in range(2))
    table = np.ones((TABLE_ROWS, 3), np.float32)
    table[7] = 1.5
    layout = layout_of([1], weighted=False)
    network = Network(layout=layout, task="binary", table=table, bias=0.0, layers=layers)
    ids = np.zeros((2 * PASS_ROWS + 1, 1), np.int32)
    ids[-1] = 7
    assert (1.5, 1.5) == calibrate(network, Encoded(ids, None)).largest


def test_calibration_cuts_a_wild_row_off() -> None:
    layout = layout_of([1], weighted=True)
    layers = (Dense(weight=np.ones((1, 1), np.float32), bias=np.zeros(1, np.float32)),)
    table = np.ones((TABLE_ROWS, 2), np.float32)
    network = Network(layout=layout, task="binary", table=table, bias=0.0, layers=layers)
    weights = np.ones((5000, 1), np.float32)
    weights[3] = 1e6
    assert (2.0,) == calibrate(network, Encoded(np.zeros((5000, 1), np.int32), weights)).largest


def test_calibration_of_units_that_never_fire_gives_a_positive_scale() -> None:
    layers = (
        Dense(weight=np.zeros((2, 3), np.float32), bias=np.array([-1, -1, 0], np.float32)),
        Dense(weight=np.ones((3, 1), np.float32), bias=np.zeros(1, np.float32)),
    )
    network = Network(
        layout=layout_of([1, 1], weighted=False),
        task="binary",
        table=np.zeros((TABLE_ROWS, 2), np.float32),
        bias=0.5,
        layers=layers,
    )
    rows = encoded_rows(network.layout, 10)
    scales = calibrate(network, rows)
    assert (1.0, 1.0) == scales.largest
    np.testing.assert_allclose(run(open_session(build_int8_graph(network, scales)), rows), 0.5)
