"""How a network is opened: the proof at export and every scorer ask it under the same settings."""

from __future__ import annotations

import onnxruntime

from streamfm.errors import BundleError


def open_session(model: bytes, *, name: str, threads: int) -> onnxruntime.InferenceSession:
    """The network, ready to be asked from any number of threads.

    Args:
        model: The ONNX file's bytes.
        name: For messages.
        threads: Of one call.

    Raises:
        BundleError: onnxruntime refuses it.
    """
    # The wheels report to their maker, those for Linux too.
    onnxruntime.disable_telemetry_events()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from DuckDB's.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    # onnxruntime's exceptions have no base in common.
    except Exception as error:
        raise BundleError(f"{name}: onnxruntime refuses it: {error}") from error
