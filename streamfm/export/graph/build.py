"""The served graph, node by node.

    ids ─ Gather ─ (· weights, pooled to fields) ─ x [B, F·(K+1)] ─┬─ deep part ───────────────────────┐
                                                                   └─ sum over fields, squares ─ Gemm ─┴─ logit ─ score

Legend: B rows, S slots, F fields, K factors. A table row, K factors and the first-order weight, stays in one piece all
the way: one look-up a slot. Two tables and two look-ups take 372 us where this takes 331 (2,048 rows of 10 fields, K =
10, 64-32, one thread); one row takes 7 us.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import onnx
from onnx import TensorProto, helper

from streamfm.errors import BundleError
from streamfm.export.graph.nodes import Nodes
from streamfm.export.network import Dense, Network

LARGEST_TABLE_BYTES = 2_000_000_000
"""Protobuf, ONNX's form, ends at 2 GiB; external data, its way out, a bundle refuses."""

# The sum over fields costs F·(K+1)² as a product with a 0/1 matrix and F·(K+1), at a worse rate, as ReduceSum: for
# 2,048 rows of 10 fields 42 and 165 us at K = 10, 317 and 190 us at K = 32; they meet at 16.
_WIDEST_MATRIX_SUM = 16


class DeepPart(Protocol):
    """Appends the deep part to a graph."""

    def __call__(self, nodes: Nodes, layers: tuple[Dense, ...], fields: str, machine: str) -> str:
        """The logits' name, [B, 1].

        Args:
            nodes: The graph.
            layers: At least one; the first reads `fields`, the last one's bias is in `machine`.
            fields: Name of x, [B, F·(K+1)].
            machine: Name of the rest of the logit, [B, 1], to be added.
        """


def build_graph(network: Network, deep_part: DeepPart | None = None) -> onnx.ModelProto:
    """The model: ids int32 [B, S] and, if weighted, weights float32 [B, S] in; logit and score, float32 [B], out.

    Args:
        network: What it answers for.
        deep_part: How the deep part is computed; in float32 when None.

    Raises:
        BundleError: The table is larger than an ONNX file can be.
    """
    check_table(*network.table.shape)
    nodes = Nodes()
    fields = _fields(nodes, network)
    logits = _factorisation_machine(nodes, network, fields)
    if network.layers:
        layers = (_with_first_order_rows(network.layers[0], network.factors), *network.layers[1:])
        logits = (deep_part or _float_deep_part)(nodes, layers, fields, logits)
    nodes.add("Squeeze", [logits, nodes.integers(1)], "logit")
    nodes.add("Sigmoid" if network.task == "binary" else "Identity", ["logit"], "score")
    shape: list[str | int | None] = ["rows", network.layout.slots]
    inputs = [helper.make_tensor_value_info("ids", TensorProto.INT32, shape)]
    if network.layout.weighted:
        inputs.append(helper.make_tensor_value_info("weights", TensorProto.FLOAT, shape))
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows"]) for name in ("logit", "score")]
    return nodes.model(inputs, outputs)


def check_table(rows: int, columns: int) -> None:
    """Refuse a table that no served graph can hold.

    Args:
        rows: R of the table.
        columns: K + 1.

    Raises:
        BundleError: It is larger than an ONNX file can be.
    """
    size = rows * columns * np.dtype(np.float32).itemsize
    if size > LARGEST_TABLE_BYTES:
        raise BundleError(
            f"model.onnx: the table of {rows:,} rows takes {size / 1e9:.1f} GB, "
            f"an ONNX file holds {LARGEST_TABLE_BYTES / 1e9:.0f} GB",
            hint="raise min_count, hash the largest feature into fewer buckets, or use fewer factors",
        )


def _float_deep_part(nodes: Nodes, layers: tuple[Dense, ...], fields: str, machine: str) -> str:
    """The deep part in float32; a `DeepPart`."""
    units = fields
    for index, layer in enumerate(layers[:-1]):
        weight = nodes.constant(f"deep.{index}.weight", layer.weight)
        bias = nodes.constant(f"deep.{index}.bias", layer.bias)
        units = nodes.add("Gemm", [units, weight, bias], f"deep.{index}")
        units = nodes.add("Relu", [units], f"deep.{index}.relu")
    weight = nodes.constant(f"deep.{len(layers) - 1}.weight", layers[-1].weight)
    return nodes.add("Gemm", [units, weight, machine], "logits")


def _with_first_order_rows(layer: Dense, factors: int) -> Dense:
    """The first layer for x, where a first-order weight follows each field's factors: its row of the layer is zero."""
    outputs = layer.weight.shape[1]
    weight = np.zeros((layer.weight.shape[0] // factors, factors + 1, outputs), np.float32)
    weight[:, :-1] = layer.weight.reshape(-1, factors, outputs)
    return Dense(weight=weight.reshape(-1, outputs), bias=layer.bias)


def _has_constant_squares(network: Network) -> bool:
    """Whether every field is one slot of weight 1, so that its Σ_k v_fk² belongs to the table row."""
    return not network.layout.weighted and all(field.length == 1 for field in network.layout.fields)


def _fields(nodes: Nodes, network: Network) -> str:
    """The fields' pooled table rows side by side: x, [B, F·(K+1)]."""
    table = network.table
    if _has_constant_squares(network):
        factors = table[:, :-1]
        squares = np.einsum("rk,rk->r", factors, factors, dtype=np.float64)
        table = table.copy()
        table[:, -1] -= 0.5 * squares
    nodes.constant("table", table)
    runs = _runs(network)
    parts = [_run(nodes, network, *run, whole=len(runs) == 1) for run in runs]
    fields = nodes.add("Concat", parts, "fields", axis=1) if len(parts) > 1 else parts[0]
    return nodes.add("Reshape", [fields, nodes.integers(-1, len(network.layout.fields) * table.shape[1])], "x")


def _runs(network: Network) -> list[tuple[int, int, bool]]:
    """Slot ranges (start, end, pooled): neighbouring fields of one slot share a range, a longer field has its own."""
    runs: list[tuple[int, int, bool]] = []
    for field in network.layout.fields:
        end, pooled = field.start + field.length, field.length > 1
        if runs and not pooled and not runs[-1][2]:
            runs[-1] = (runs[-1][0], end, False)
        else:
            runs.append((field.start, end, pooled))
    return runs


def _run(nodes: Nodes, network: Network, start: int, end: int, pooled: bool, *, whole: bool) -> str:
    """The fields of one range of slots, [B, end - start, K + 1]; [B, 1, K + 1] when pooled.

    Each range has its own look-up, so that ids are sliced and vectors never are (at 26 single and 50 pooled slots half
    the time of one look-up and a pooling matrix), and [B, 1, n] · [B, n, K+1] weights and sums in one pass.
    """

    def own(name: str) -> str:
        ends = [nodes.integers(start), nodes.integers(end), nodes.integers(1)]
        return name if whole else nodes.add("Slice", [name, *ends], f"{name}.{start}")

    vectors = nodes.add("Gather", ["table", own("ids")], f"vectors.{start}")
    if not network.layout.weighted:
        return nodes.add("ReduceSum", [vectors, nodes.integers(1)], f"pooled.{start}") if pooled else vectors
    axis = nodes.integers(1 if pooled else 2)
    weights = nodes.add("Unsqueeze", [own("weights"), axis], f"slot_weights.{start}")
    return nodes.add("MatMul" if pooled else "Mul", [weights, vectors], f"weighted.{start}")


def _factorisation_machine(nodes: Nodes, network: Network, fields: str) -> str:
    """w0 + Σ w_i x_i + ½ Σ_k [(Σ_f v_fk)² - Σ_f v_fk²], and the deep part's last bias: [B, 1].

    Each Gemm adds its share to the one before: one node instead of ReduceSum, Mul and Add.
    """
    bias = network.bias + (float(network.layers[-1].bias[0]) if network.layers else 0.0)
    count, width = len(network.layout.fields), network.factors + 1
    sums = _sum_over_fields(nodes, fields, count, width)
    first_order = np.zeros((width, 1), np.float32)
    first_order[-1] = 1
    half = (1 - first_order) / 2
    weights = nodes.constant("first_order.weight", first_order)
    machine = nodes.add("Gemm", [sums, weights, nodes.constant("bias", np.array([bias], np.float32))], "first_order")
    squares = nodes.add("Mul", [sums, sums], "sums.squared")
    machine = nodes.add("Gemm", [squares, nodes.constant("pairs.half", half), machine], "square_of_sum")
    if _has_constant_squares(network):
        return machine
    squares = nodes.add("Mul", [fields, fields], "x.squared")
    minus_half = nodes.constant("pairs.minus_half", np.tile(-half, (count, 1)))
    return nodes.add("Gemm", [squares, minus_half, machine], "sum_of_squares")


def _sum_over_fields(nodes: Nodes, fields: str, count: int, width: int) -> str:
    """Σ_f of x: [B, K + 1]."""
    if width <= _WIDEST_MATRIX_SUM:
        matrix = np.tile(np.eye(width, dtype=np.float32), (count, 1))
        return nodes.add("MatMul", [fields, nodes.constant("sums.matrix", matrix)], "sums")
    blocks = nodes.add("Reshape", [fields, nodes.integers(-1, count, width)], "x.blocks")
    return nodes.add("ReduceSum", [blocks, nodes.integers(1)], "sums", keepdims=0)
