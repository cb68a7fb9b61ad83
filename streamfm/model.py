"""DeepFM over slots: the mathematics, with no files, optimiser or metric.

Shapes are written by this legend: B rows, S slots, F fields, K factors. A row is a list of S slots (id, weight); the
slots of one field are pooled to one vector before anything else sees them, so a field never interacts with itself.

    logit = w0 + Σ w_i x_i + ½ Σ_k [(Σ_f v_fk)² - Σ_f v_fk²] + MLP(concat v_f)

after Guo et al., "DeepFM: A Factorization-Machine based Neural Network for CTR Prediction" (IJCAI 2017).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from streamfm.dropout import RandomByteDropout
from streamfm.settings import ModelSettings

__all__ = ["DeepFM", "ModelSettings", "pairwise_interactions"]

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from streamfm.encoder import Field, Layout

TABLE_STANDARD_DEVIATION = 1e-4
PREDICTION_ROWS = 8192


def pairwise_interactions(vectors: Tensor) -> Tensor:
    """Sum of the dot products over all pairs of fields, one number a row.

    Args:
        vectors: `[B, F, K]`, one vector per field.

    Returns:
        `[B]`: equals `sum(v_i @ v_j for i < j)` at a cost of F·K instead of F²·K (Rendle 2010, lemma 3.1).
    """
    square_of_sum = vectors.sum(dim=1).square().sum(dim=1)
    sum_of_squares = vectors.square().sum(dim=(1, 2))
    return 0.5 * (square_of_sum - sum_of_squares)


class DeepFM(nn.Module):
    """A factorisation machine and a deep network over the same vectors.

    Attributes:
        table: `[rows, K + 1]`, one row per category of every field: its K factors, then its first-order weight.
        bias: `[1]`, w0.
        deep: Per hidden layer Linear, BatchNorm1d, ReLU and drop-out (the second and last only if set), then Linear to
            one number; None without hidden layers.
    """

    def __init__(self, layout: Layout, settings: ModelSettings, *, seed: int = 0) -> None:
        """Start from tables N(0, 1e-4), Xavier linear layers and zero biases, repeatable by `seed`."""
        super().__init__()
        self.layout = layout
        self.settings = settings
        self.dropout_generator = np.random.Generator(np.random.SFC64(seed))
        start = torch.Generator().manual_seed(seed)
        table = torch.empty(layout.rows, settings.factors + 1)
        self.table = nn.Parameter(table.normal_(std=TABLE_STANDARD_DEVIATION, generator=start))
        self.bias = nn.Parameter(torch.zeros(1))
        width = len(layout.fields) * settings.factors
        self.deep = _deep_part(width, settings, start, self.dropout_generator) if settings.hidden else None
        self._runs = _runs_of_fields(layout.fields)

    def forward(self, ids: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits `[B]` of encoded rows.

        Args:
            ids: `[B, S]`, int32 or int64, rows of the table.
            weights: `[B, S]`, or None when every slot has weight 1.
        """
        return self.logits_of(nn.functional.embedding(ids, self.table), weights)

    def predict_logits(self, ids: NDArray[np.int32], weights: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Logits float32 `[N]` of any number of encoded rows, as they are served: no drop-out, float32.

        Args:
            ids: `[N, S]`, may be mapped from a file.
            weights: `[N, S]`, or None when every slot has weight 1.
        """
        logits = np.empty(len(ids), np.float32)
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            for start in range(0, len(ids), PREDICTION_ROWS):
                part = slice(start, start + PREDICTION_ROWS)
                weights_part = None if weights is None else torch.tensor(weights[part])
                logits[part] = self(torch.tensor(ids[part]), weights_part).numpy()
        self.train(was_training)
        return logits

    def logits_of(self, slots: Tensor, weights: Tensor | None = None) -> Tensor:
        """Logits `[B]` from table rows already gathered: `slots` is `[B, S, K + 1]`.

        Training gathers by itself, so that the gradient of the table stays as small as the batch.
        """
        vectors = self.field_vectors(slots, weights)
        factors, first_order = torch.split(vectors, [self.settings.factors, 1], dim=2)
        logits = self.bias + first_order.sum(dim=(1, 2)) + pairwise_interactions(factors)
        if self.deep is None:
            return logits
        deep: Tensor = self.deep(factors.flatten(start_dim=1))
        return logits + deep.squeeze(1)

    def field_vectors(self, slots: Tensor, weights: Tensor | None = None) -> Tensor:
        """One vector a field, `[B, F, K + 1]`: Σ over the field's slots of weight · table row."""
        weighted = slots if weights is None else slots * weights.unsqueeze(2)
        if self._runs is None:
            return weighted
        parts = [
            weighted[:, start:end] if single else weighted[:, start:end].sum(dim=1, keepdim=True)
            for start, end, single in self._runs
        ]
        return torch.cat(parts, dim=1)

    def seed_dropout(self, seed: int) -> None:
        """Restart drop-out's randomness, so that a training run is repeatable from here."""
        self.dropout_generator.bit_generator.state = np.random.SFC64(seed).state


def _deep_part(
    width: int, settings: ModelSettings, start: torch.Generator, coins: np.random.Generator
) -> nn.Sequential:
    """The deep network over `width` inputs, with Xavier-normal weights and zero biases."""
    layers: list[nn.Module] = []
    for hidden in settings.hidden:
        layers.append(nn.Linear(width, hidden))
        if settings.batch_norm:
            layers.append(nn.BatchNorm1d(hidden))
        layers.append(nn.ReLU(inplace=True))
        if settings.dropout > 0:
            layers.append(RandomByteDropout(settings.dropout, coins))
        width = hidden
    layers.append(nn.Linear(width, 1))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight, generator=start)
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


def _runs_of_fields(fields: tuple[Field, ...]) -> list[tuple[int, int, bool]] | None:
    """Slot ranges (start, end, single) to pool: neighbouring single-slot fields share one range.

    None when no field has more than one slot.
    """
    if all(field.length == 1 for field in fields):
        return None
    runs: list[tuple[int, int, bool]] = []
    for field in fields:
        end = field.start + field.length
        single = field.length == 1
        if single and runs and runs[-1][2]:
            runs[-1] = (runs[-1][0], end, True)
        else:
            runs.append((field.start, end, single))
    return runs
