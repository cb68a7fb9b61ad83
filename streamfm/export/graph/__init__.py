"""The served graphs: a trained DeepFM as plain arrays, and the ONNX models that answer for it, float32 and int8.

Built by hand from few nodes with `onnx.helper`: the same weights give the same bytes, whatever exporter torch ships.
"""

from streamfm.export.graph.build import build_graph, check_table
from streamfm.export.graph.int8 import Scales, build_int8_graph, calibrate
from streamfm.export.network import BatchNorm, Dense, Network, Task, folded

__all__ = [
    "BatchNorm",
    "Dense",
    "Network",
    "Scales",
    "Task",
    "build_graph",
    "build_int8_graph",
    "calibrate",
    "check_table",
    "folded",
]
