"""The parent's bundle as fine-tuning takes it up: its network, weights, moments, counts and shift."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamfm.bundle import Bundle
from streamfm.encoder import Layout
from streamfm.errors import BundleError
from streamfm.export.weights import read_state
from streamfm.finetuning.settings import FineTuneSettings, FirstRate
from streamfm.model import ModelSettings

WEIGHTS_FILE = "weights.safetensors"
BIAS, LAST_TIMES, FIRST_RATE, SHIFT = "trained_bias", "row_last_time", "first_rate", "logit_shift"
"""In the training state: w0 as it was trained, when each row of the table was last named, learning rate and batch size
of the first training. In the manifest: what was added to w0 when it was exported."""

Arrays = dict[str, NDArray[Any]]

log = logging.getLogger(__name__)

_DEEP = re.compile(r"(.*\.deep\.)(\d+)(\..*)")


class Parent(NamedTuple):
    """What a bundle brings.

    Attributes:
        model: The network's shape.
        state: As `streamfm.training.learner.Learner` takes it, w0 without the shift.
        last_times: int64 [R], the event time (microseconds since 1970) at which a new row last named each row of the
            table; 0 for not since fine-tuning began.
        logit_shift: What is added to the logit when it is served.
        first: How the first training of this lineage stepped.
    """

    model: ModelSettings
    state: Arrays
    last_times: NDArray[np.int64]
    logit_shift: float
    first: FirstRate


def shifted_bias(bias: NDArray[np.float32], shift: float) -> NDArray[np.float32]:
    """w0 as it is served."""
    return (bias.astype(np.float64) + shift).astype(np.float32)


def read_parent(bundle: Bundle, layout: Layout, settings: FineTuneSettings) -> Parent:
    """What the bundle brings; a bundle without a training state has moments of zero, which is logged.

    Raises:
        BundleError: The weights are not those of the network that the manifest describes; names the file.
    """
    place = f"{bundle.path}: {WEIGHTS_FILE}"
    try:
        state = read_state(bundle.path / WEIGHTS_FILE)
        model, norm, dropout = _shape(bundle, state, settings)
        state = _renumbered(state, 2 + norm + dropout, 2 + norm + (model.dropout > 0))
        shift = _logit_shift(bundle)
        trained = state.pop(BIAS, None)
        served = state["served.bias"]
        if trained is None or not np.array_equal(shifted_bias(trained, shift), served):
            trained = shifted_bias(served, -shift)
        state["served.bias"] = trained
        first = _first_rate(bundle, state.pop(FIRST_RATE, None))
        last_times = state.pop(LAST_TIMES, np.zeros(layout.rows, np.int64))
        if last_times.shape != (layout.rows,):
            raise ValueError(f"{LAST_TIMES} of {last_times.shape}, expected {(layout.rows,)}")
        if "step" not in state:
            log.warning("%s: no training state in it: the optimiser's moments begin at zero", place)
            state |= _begun(state, layout)
    except (OSError, KeyError, ValueError) as error:
        raise BundleError(f"{place}: not what fine-tuning goes on from: {error!r}") from error
    if not settings.average:
        # What is served goes on learning, so that the first answers are the parent's own.
        state = {name: array for name, array in state.items() if not name.startswith("raw.")}
    return Parent(model, state, last_times.astype(np.int64), shift, first)


def _shape(
    bundle: Bundle, state: Mapping[str, NDArray[Any]], settings: FineTuneSettings
) -> tuple[ModelSettings, bool, bool]:
    """The network, and whether the parent's has layers of batch norm and of drop-out."""
    facts = bundle.manifest.layout
    layers = sorted(
        int(name.split(".")[2]) for name, array in state.items() if name.startswith("served.deep.") and array.ndim == 2
    )
    if len(layers) != (len(facts.hidden) + 1 if facts.hidden else 0):
        raise ValueError(f"{len(layers)} linear layers for hidden widths {facts.hidden}")
    norm = any(name.endswith(".running_mean") for name in state)
    dropout = len(layers) > 1 and layers[1] == 3 + norm
    share = settings.dropout if settings.dropout is not None else dropout * _dropout(bundle)
    model = ModelSettings(factors=facts.factors, hidden=facts.hidden, dropout=share, batch_norm=norm)
    return model, norm, dropout


def _dropout(bundle: Bundle) -> float:
    """The parent's, where its manifest tells it."""
    model = bundle.manifest.training.get("model")
    share = model.get("dropout", 0.0) if isinstance(model, Mapping) else 0.0
    return float(share) if isinstance(share, (int, float)) else 0.0


def _renumbered(state: Mapping[str, NDArray[Any]], stride: int, wanted: int) -> Arrays:
    """The state with the deep part's layers numbered as with `wanted` of them to a hidden one, instead of `stride`."""

    def renamed(name: str) -> str:
        parts = _DEEP.fullmatch(name)
        if not parts:
            return name
        block, place = divmod(int(parts[2]), stride)
        return f"{parts[1]}{block * wanted + place}{parts[3]}"

    return {renamed(name): array for name, array in state.items()}


def _logit_shift(bundle: Bundle) -> float:
    shift = bundle.manifest.training.get(SHIFT, 0.0)
    if isinstance(shift, bool) or not isinstance(shift, (int, float)) or not math.isfinite(shift):
        raise ValueError(f"the manifest's training.{SHIFT} is {shift!r}")
    return float(shift)


def _first_rate(bundle: Bundle, kept: NDArray[Any] | None) -> FirstRate:
    """What the parent keeps of it, or its manifest tells; the usual where neither does."""
    report = bundle.manifest.training.get("report")
    settings = report.get("settings") if isinstance(report, Mapping) else None
    if kept is not None:
        found = FirstRate(*kept.tolist())
    elif isinstance(report, Mapping) and isinstance(settings, Mapping):
        told = settings.get("learning_rate"), report.get("batch_size")
        numbers = [float(number) for number in told if isinstance(number, (int, float))]
        found = FirstRate(*numbers) if len(numbers) == 2 else FirstRate()
    else:
        found = FirstRate()
    if not all(0 < number < math.inf for number in found):
        raise ValueError(f"a first learning rate of {found.learning_rate} with batches of {found.batch_size}")
    return found


def _begun(state: Mapping[str, NDArray[Any]], layout: Layout) -> Arrays:
    """The training state of weights that no step has moved."""
    begun: Arrays = {
        "step": np.zeros(1, np.int64),
        "row_count": np.zeros(layout.rows, np.int64),
        "row_last_step": np.zeros(layout.rows, np.int32),
    }
    for name, array in state.items():
        kind, _, weight = name.partition(".")
        if kind == "served":
            begun |= {f"{moment}.{weight}": np.zeros_like(array) for moment in ("moment1", "moment2")}
    return begun
