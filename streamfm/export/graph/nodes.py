"""An ONNX graph under construction."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

OPSET = 17
IR_VERSION = 8
"""What onnxruntime 1.20, the oldest one supported, reads, and every later one."""


class Nodes:
    """Nodes and constants, each under a name of its own that never changes from one export to the next."""

    def __init__(self) -> None:
        """Start empty."""
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, values: NDArray[np.generic] | np.generic) -> str:
        """Store a constant; its name. A name that is there already keeps its values."""
        if name not in self._constants:
            self._constants[name] = numpy_helper.from_array(np.asarray(values, order="C"), name)
        return name

    def integers(self, *values: int) -> str:
        """Store axes, positions or a shape; the name."""
        return self.constant("integers_" + "_".join(map(str, values)), np.array(values, np.int64))

    def add(
        self, operation: str, inputs: list[str], output: str, *, axis: int | None = None, keepdims: int | None = None
    ) -> str:
        """Append a node; the name of its one output, which is also its own. Attributes that are None are not set."""
        node = helper.make_node(operation, inputs, [output], name=output, axis=axis, keepdims=keepdims)
        self._nodes.append(node)
        return output

    def model(self, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """The model of all nodes so far."""
        graph = helper.make_graph(self._nodes, "deepfm", inputs, outputs, list(self._constants.values()))
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="streamfm"
        )
