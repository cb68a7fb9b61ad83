from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamfm.encoder import Encoded, Field, Layout
from streamfm.errors import DataError, ParityError
from streamfm.export.freezing import freeze
from streamfm.export.graph import build_graph, build_int8_graph, calibrate
from streamfm.export.network import Task
from streamfm.export.parity import Proof, measure_int8, prove_fp32
from streamfm.model import DeepFM, ModelSettings

LIMIT = 1e-5
ROWS = 300


def small_model(*, weighted: bool = False, seed: int = 0) -> DeepFM:
    fields = tuple(Field(name=f"f{i}", start=i, length=1) for i in range(3))
    nulls = np.zeros(3, np.int32)
    layout = Layout(fields=fields, slots=3, rows=20, weighted=weighted, null_rows=nulls, unknown_rows=nulls)
    model = DeepFM(layout, ModelSettings(factors=4, hidden=(8, 6)), seed=seed)
    model.table.data.normal_(std=0.5)
    return model


def proof_of(model: DeepFM, task: Task = "binary", *, rows: int = ROWS) -> Proof:
    random = np.random.default_rng(1)
    ids = random.integers(0, 20, (rows, 3), dtype=np.int32)
    weights = random.normal(size=(rows, 3)).astype(np.float32) if model.layout.weighted else None
    encoded = Encoded(ids, weights)
    logits = model.predict_logits(encoded.ids, encoded.weights)
    labels = (random.random(rows) < 0.5 + 0.5 * np.tanh(logits)).astype(np.float32)
    return Proof(task=task, layout=model.layout, rows=encoded, logits=logits, labels=labels)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return path


def constant(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["binary", "regression"])
@pytest.mark.parametrize("rows", [1, 2, ROWS, 5000])
def test_exported_model_is_proven_with_any_number_of_rows(
    weighted: bool, task: Task, rows: int, tmp_path: Path
) -> None:
    model = small_model(weighted=weighted)
    proof = proof_of(model, task, rows=rows)
    facts = prove_fp32(saved(build_graph(freeze(model, task)), tmp_path), proof, limit=LIMIT)
    assert {"max_abs_diff", "max_abs_diff_logit", "max_abs_diff_batches", "limit"} == facts.keys()
    assert facts["limit"] == LIMIT
    assert 0 <= facts["max_abs_diff"] <= LIMIT
    assert 0 <= facts["max_abs_diff_batches"] <= 1e-6


@pytest.mark.parametrize("name", ["table", "bias", "deep.0.weight", "deep.1.bias", "deep.2.weight", "pairs.half"])
def test_one_number_changed_after_the_build_is_found(name: str, tmp_path: Path) -> None:
    model = small_model()
    graph = build_graph(freeze(model, "binary"))
    tensor = constant(graph, name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 0.01
    tensor.CopyFrom(numpy_helper.from_array(values, name))
    with pytest.raises(ParityError, match=r"model\.onnx: the score of row \d+ differs .* expected at most 1e-05"):
        prove_fp32(saved(graph, tmp_path), proof_of(model), limit=LIMIT)


def test_error_names_the_worst_row(tmp_path: Path) -> None:
    model = small_model()
    proof = proof_of(model)
    logits = proof.logits.copy()
    logits[[7, 41]] = [logits[7] + 0.1, logits[41] + 3]
    path = saved(build_graph(freeze(model, "binary")), tmp_path)
    with pytest.raises(ParityError, match=r"row 41 .* \(2 such rows of 300\)"):
        prove_fp32(path, replace(proof, logits=logits), limit=LIMIT)


def test_answer_that_is_no_number_is_found(tmp_path: Path) -> None:
    model = small_model()
    graph = build_graph(freeze(model, "binary"))
    constant(graph, "bias").CopyFrom(numpy_helper.from_array(np.array([np.nan], np.float32), "bias"))
    path = saved(graph, tmp_path)
    for prove in (lambda: prove_fp32(path, proof_of(model), limit=LIMIT), lambda: measure_int8(path, proof_of(model))):
        with pytest.raises(ParityError, match=r"by nan"):
            prove()


def test_score_that_depends_on_its_batch_is_found(tmp_path: Path) -> None:
    model = small_model()
    graph = build_graph(freeze(model, "binary"))
    # What dynamic quantisation does, in short: something of the whole batch reaches every row.
    score = graph.graph.node.pop()
    nodes = [
        helper.make_node("ReduceMax", ["logit"], ["largest"]),
        helper.make_node("Mul", ["largest", "tiny"], ["trace"]),
        helper.make_node("Add", ["logit", "trace"], ["shifted"]),
        helper.make_node(score.op_type, ["shifted"], ["score"]),
    ]
    graph.graph.node.extend(nodes)
    graph.graph.initializer.append(numpy_helper.from_array(np.float32(1e-4), "tiny"))
    path = saved(graph, tmp_path)
    for prove in (lambda: prove_fp32(path, proof_of(model), limit=0.01), lambda: measure_int8(path, proof_of(model))):
        with pytest.raises(ParityError, match="differs between batches"):
            prove()


def test_fixed_batch_is_refused(tmp_path: Path) -> None:
    model = small_model()
    graph = build_graph(freeze(model, "binary"))
    graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = ROWS
    with pytest.raises(ParityError, match=r"its inputs and outputs are .*300.*, expected"):
        prove_fp32(saved(graph, tmp_path), proof_of(model), limit=LIMIT)


@pytest.mark.parametrize(
    ("name", "kind", "shape"),
    [("id", TensorProto.INT32, ["B", 3]), ("ids", TensorProto.INT64, ["B", 3]), ("ids", TensorProto.INT32, ["B", 4])],
)
def test_other_input_is_refused(name: str, kind: int, shape: list[str | int], tmp_path: Path) -> None:
    model = small_model()
    graph = build_graph(freeze(model, "binary"))
    graph.graph.input[0].CopyFrom(helper.make_tensor_value_info(name, kind, shape))
    for node in graph.graph.node:
        node.input[:] = [name if source == "ids" else source for source in node.input]
    with pytest.raises(ParityError, match=r"model\.onnx: "):
        prove_fp32(saved(graph, tmp_path), proof_of(model), limit=LIMIT)


def test_file_that_is_no_network_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ParityError, match=r"model\.onnx: onnxruntime refuses it"):
        prove_fp32(path, proof_of(small_model()), limit=LIMIT)


def test_rows_that_prove_nothing_are_refused() -> None:
    proof = proof_of(small_model())
    with pytest.raises(DataError, match="no rows to prove parity on"):
        replace(proof, rows=Encoded(proof.rows.ids[:0], None), logits=proof.logits[:0], labels=proof.labels[:0])
    with pytest.raises(DataError, match="299 labels for 300 rows"):
        replace(proof, labels=proof.labels[1:])


def test_trained_model_that_answers_no_number_is_refused() -> None:
    proof = proof_of(small_model())
    logits = proof.logits.copy()
    logits[[3, 9]] = [np.inf, np.nan]
    with pytest.raises(ParityError, match=r"row 3 is inf \(2 such rows\)"):
        replace(proof, logits=logits)


def test_int8_is_measured_against_the_labels(tmp_path: Path) -> None:
    model = small_model()
    proof, network = proof_of(model), freeze(model, "binary")
    facts = measure_int8(saved(build_int8_graph(network, calibrate(network, proof.rows)), tmp_path), proof)
    assert 0 < facts["mean_abs_diff"] <= facts["max_abs_diff"] < 0.05
    assert facts["max_abs_diff_batches"] <= 1e-6
    assert abs(facts["auc_loss"]) < 0.01
    assert abs(facts["log_loss_increase"]) < 0.01
    assert 0.6 < facts["auc"] < 1


def test_loss_of_quality_has_the_sign_of_a_loss(tmp_path: Path) -> None:
    model = small_model()
    proof = proof_of(model)
    # Labels that the trained model predicts perfectly, and a network that knows nothing of them.
    proof = replace(proof, labels=(proof.logits > np.median(proof.logits)).astype(np.float32))
    facts = measure_int8(saved(build_graph(freeze(small_model(seed=5), "binary")), tmp_path), proof)
    assert facts["auc_loss"] == 1 - facts["auc"] > 0.1
    assert facts["log_loss_increase"] > 0


def test_auc_of_one_label_is_unknown(tmp_path: Path) -> None:
    model = small_model()
    proof = replace(proof_of(model), labels=np.zeros(ROWS, np.float32))
    facts = measure_int8(saved(build_graph(freeze(model, "binary")), tmp_path), proof)
    assert (None, None) == (facts["auc"], facts["auc_loss"])
    assert facts["log_loss"] > 0


def test_regression_is_measured_by_its_error(tmp_path: Path) -> None:
    model = small_model()
    proof = proof_of(model, "regression")
    proof = replace(proof, labels=proof.logits + 2)
    facts = measure_int8(saved(build_graph(freeze(model, "regression")), tmp_path), proof)
    assert pytest.approx(2, abs=1e-4) == facts["rmse"]
    assert pytest.approx(0, abs=1e-4) == facts["rmse_increase"]
