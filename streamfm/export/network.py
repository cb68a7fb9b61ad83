"""A trained DeepFM as plain arrays, batch norm folded away: what the served graphs are built from.

Legend: B rows, S slots, F fields, K factors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamfm.encoder import Encoded, Layout

Task = Literal["binary", "regression"]
Floats = NDArray[np.float32]

PASS_ROWS = 8192
"""Rows that `Network.deep_inputs` computes at a time, so that its memory does not grow with the sample."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Dense:
    """A linear layer, y = x · weight + bias.

    Attributes:
        weight: float32 [in, out].
        bias: float32 [out].
    """

    weight: Floats
    bias: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class BatchNorm:
    """Batch norm that has finished learning: y = (x - mean) / √(variance + epsilon) · scale + shift, arrays [out]."""

    mean: Floats
    variance: Floats
    scale: Floats
    shift: Floats
    epsilon: float


def folded(layer: Dense, norm: BatchNorm) -> Dense:
    """The one linear layer that equals `layer` followed by `norm`: computed in float64, rounded once."""
    gain = norm.scale.astype(np.float64) / np.sqrt(norm.variance.astype(np.float64) + norm.epsilon)
    bias = (layer.bias.astype(np.float64) - norm.mean) * gain + norm.shift
    return Dense(weight=(layer.weight * gain).astype(np.float32), bias=bias.astype(np.float32))


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A DeepFM that only answers.

    Attributes:
        layout: How a row is laid out.
        task: ``binary``: the score is the logit's sigmoid; ``regression``: it is the logit itself.
        table: float32 [rows, K + 1], factors and first-order weight.
        bias: w0.
        layers: The deep part: each but the last is followed by a ReLU, the last has one output. Empty without one.
    """

    layout: Layout
    task: Task
    table: Floats
    bias: float
    layers: tuple[Dense, ...]

    @property
    def factors(self) -> int:
        """K."""
        width: int = self.table.shape[1]
        return width - 1

    def deep_inputs(self, rows: Encoded) -> Iterator[list[Floats]]:
        """What each linear layer reads, a part of the rows at a time: [B, F·K] first, then what the ReLUs leave."""
        for start in range(0, len(rows.ids), PASS_ROWS):
            part = slice(start, start + PASS_ROWS)
            weights = None if rows.weights is None else rows.weights[part]
            inputs = [self._field_factors(rows.ids[part], weights)]
            for layer in self.layers[:-1]:
                inputs.append(np.maximum(inputs[-1] @ layer.weight + layer.bias, 0))
            yield inputs

    def _field_factors(self, ids: NDArray[np.int32], weights: Floats | None) -> Floats:
        """The fields' pooled factors side by side, [B, F·K]."""
        slots = self.table[ids, :-1]
        if weights is not None:
            slots *= weights[:, :, None]
        fields: Floats = np.add.reduceat(slots, [field.start for field in self.layout.fields], axis=1)
        return fields.reshape(len(ids), -1)
