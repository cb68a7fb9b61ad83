"""The int8 graph: the deep part in bytes, the rest in float32.

Activations are uint8 by a static scale, so a row's score is its own, whatever batch it is in: all that precedes a
rounding is exact, or the same sum in the same order for every row. Weights are int8 by a scale for each output.

Legend: B rows, F fields, K factors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from streamfm.encoder import Encoded
from streamfm.export.graph.build import build_graph
from streamfm.export.graph.nodes import Nodes
from streamfm.export.network import Dense, Floats, Network

LARGEST_WEIGHT = 64
"""x86 without VNNI adds two products of bytes in 16 bits: 2 · 255 · 64 fits, 2 · 255 · 127 saturates. With 64 every
processor gives the same score; on Frappe it costs no AUC (less than 1e-5, as 127 does)."""

LARGEST_BIAS = 1 << 30

# Activations beyond twice their 99.9 % quantile are cut off: one wild row of a heavy-tailed number must not set the
# step of all. Elsewhere hardly anything is cut: on Frappe as good as the largest value or any quantile.
_CALIBRATION_QUANTILE = 0.999
_CALIBRATION_MARGIN = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Scales:
    """The largest absolute value, in float32, that the input of each linear layer keeps; one a layer, all positive."""

    largest: tuple[float, ...]


def calibrate(network: Network, rows: Encoded) -> Scales:
    """The scales for a network, from what its layers read on training rows.

    Args:
        network: The network, in float32.
        rows: A sample of training rows; some thousands are enough.
    """
    maxima, quantiles = [], []
    for inputs in network.deep_inputs(rows):
        sizes = [np.abs(values) for values in inputs]
        maxima.append([values.max() for values in sizes])
        quantiles.append([_upper_quantile(values) for values in sizes])
    limits = _CALIBRATION_MARGIN * np.mean(quantiles, axis=0)
    # Where the quantile is 0 (units that almost never fire) only the largest value can tell.
    largest = np.max(maxima, axis=0)
    kept = np.where(limits > 0, np.minimum(largest, limits), largest)
    return Scales(largest=tuple(float(value) if value > 0 else 1.0 for value in kept))


def _upper_quantile(values: Floats) -> np.float32:
    place = int(_CALIBRATION_QUANTILE * (values.size - 1))
    quantile: np.float32 = np.partition(values, place, axis=None)[place]
    return quantile


def build_int8_graph(network: Network, scales: Scales) -> onnx.ModelProto:
    """The model with the interface of `build_graph`; the same graph where there is no deep part.

    Raises:
        BundleError: The table is larger than an ONNX file can be.
    """
    return build_graph(network, _Int8DeepPart(scales))


@dataclass(frozen=True)
class _Int8DeepPart:
    """The deep part in bytes; a `DeepPart`.

    QuantizeLinear and DequantizeLinear around each Gemm (QDQ): standard operators, so that any runtime can answer,
    which onnxruntime fuses to one QGemm. The last layer, too: in float32, with the conversion, it took 200 us of 3,000.
    """

    scales: Scales

    def __call__(self, nodes: Nodes, layers: tuple[Dense, ...], fields: str, machine: str) -> str:
        step = _step(self.scales.largest[0], 127)
        units = _Units(nodes, fields, "x", step, zero=128)
        for index, layer in enumerate(layers[:-1]):
            linear = units.linear(layer, f"deep.{index}")
            # Zero stands for 0, and below it there is nothing: the conversion to bytes is the ReLU.
            units = _Units(nodes, linear, f"deep.{index}", _step(self.scales.largest[index + 1], 255), zero=0)
        last = Dense(weight=layers[-1].weight, bias=np.zeros(1, np.float32))
        return nodes.add("Add", [units.linear(last, f"deep.{len(layers) - 1}"), machine], "logits")


class _Units:
    """Activations in bytes: value = step · (byte - zero)."""

    def __init__(self, nodes: Nodes, values: str, name: str, step: np.float32, *, zero: int) -> None:
        self._nodes = nodes
        self._step = step
        scale = [nodes.constant(f"{name}.step", step), nodes.constant(f"{name}.zero", np.uint8(zero))]
        stored = nodes.add("QuantizeLinear", [values, *scale], f"{name}.bytes")
        self._values = nodes.add("DequantizeLinear", [stored, *scale], f"{name}.values")

    def linear(self, layer: Dense, name: str) -> str:
        """These units · weight + bias: with weights of one byte and biases in the accumulator's own unit."""
        nodes = self._nodes
        weights, steps = _weight_bytes(layer, self._step)
        bias_steps = steps * self._step
        biases = np.rint(layer.bias / bias_steps.astype(np.float64)).astype(np.int32)
        weight = _stored(nodes, f"{name}.weight", weights, steps, axis=1)
        bias = _stored(nodes, f"{name}.bias", biases, bias_steps, axis=0)
        return nodes.add("Gemm", [self._values, weight, bias], name)


def _weight_bytes(layer: Dense, input_step: np.float32) -> tuple[NDArray[np.int8], Floats]:
    """Weights as bytes [in, out], and the step of each output; wide enough that its bias fits the accumulator."""
    largest = np.abs(layer.weight).max(axis=0) / LARGEST_WEIGHT
    for_bias = np.abs(layer.bias) / (float(input_step) * LARGEST_BIAS)
    steps = np.maximum(largest, for_bias).astype(np.float32)
    steps[steps == 0] = 1
    return np.rint(layer.weight / steps).clip(-LARGEST_WEIGHT, LARGEST_WEIGHT).astype(np.int8), steps


def _stored(nodes: Nodes, name: str, values: NDArray[np.integer], steps: Floats, *, axis: int) -> str:
    """Whole numbers and their steps as a constant of floats that the runtime never writes out."""
    inputs = [
        nodes.constant(f"{name}.bytes", values),
        nodes.constant(f"{name}.steps", steps),
        nodes.constant(f"{name}.zeros", np.zeros(len(steps), values.dtype)),
    ]
    return nodes.add("DequantizeLinear", inputs, name, axis=axis)


def _step(largest: float, count: int) -> np.float32:
    return np.float32(largest / count)
