"""Drop-out at the price of one random byte a unit."""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import numpy as np
import torch
from numba import njit
from torch import Tensor, nn

# Masks are made as bit patterns, since neither NumPy nor numba knows bfloat16.
_PATTERNS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}


class RandomByteDropout(nn.Module):
    """Drop-out whose coin is one random byte a unit: the law of `nn.Dropout` at a small part of its cost.

    The share is rounded to 1/256, and the survivors are scaled by the rounded share, so the expectation is exact.
    """

    def __init__(self, share: float, generator: np.random.Generator) -> None:
        """Draw from `generator`, which the layers of one model have in common."""
        super().__init__()
        self.threshold = min(round(256 * share), 255)
        self.scale = 256 / (256 - self.threshold)
        self.generator = generator

    def forward(self, units: Tensor) -> Tensor:
        """The units, some of them zero while training; unchanged otherwise."""
        if not self.training or self.threshold == 0:
            return units
        return units * self._factors(units)

    def extra_repr(self) -> str:
        """The share, as torch prints a module."""
        return f"share={self.threshold / 256:.4f}"

    def _factors(self, units: Tensor) -> Tensor:
        """Zero or the scale for each unit, of its type."""
        words = self.generator.integers(0, 2**64, size=-(-units.numel() // 8), dtype=np.uint64)
        kind = units.dtype if units.dtype in _PATTERNS else torch.float32
        scale = torch.tensor([self.scale], dtype=kind).view(_PATTERNS[kind])
        factors = torch.empty(units.shape, dtype=_PATTERNS[kind])
        _choose(words.view(np.uint8), self.threshold, scale.numpy(), factors.view(-1).numpy())
        return factors.view(kind)


@njit(cache=True, nogil=True)
def _choose(coins, threshold, pattern, factors):
    """The pattern where the coin is at least the threshold, else 0."""
    zero = pattern[0] & 0
    for index in range(len(factors)):
        factors[index] = pattern[0] if coins[index] >= threshold else zero
