"""Ids replaced while training, so that the rows of NULL and of unknown values learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamfm.data.batches import Batch
from streamfm.encoder import Layout


class IdReplacement:
    """Replaces a small random share of the ids by their field's rows for unknown values and for NULL."""

    def __init__(self, layout: Layout, unknown_share: float, null_share: float, random: np.random.Generator) -> None:
        """Draw from `random`."""
        self._unknown, self._null = unknown_share, null_share
        self._layout, self._random = layout, random
        self._starts = np.array([field.start for field in layout.fields])
        self._lengths = np.array([field.length for field in layout.fields])

    def apply(self, batch: Batch) -> None:
        """Change the batch in place.

        An unknown value takes one slot of a field; NULL takes the whole field, as the encoder writes it.
        """
        rows, fields = self._draw(len(batch.ids), self._unknown)
        slots = self._starts[fields] + self._random.integers(0, self._lengths[fields])
        batch.ids[rows, slots] = self._layout.unknown_rows[fields]
        if batch.weights is not None:
            single = self._lengths[fields] == 1
            batch.weights[rows[single], slots[single]] = 1
        rows, fields = self._draw(len(batch.ids), self._null)
        for index in range(int(self._lengths.max())):
            within = index < self._lengths[fields]
            slots = self._starts[fields[within]] + index
            batch.ids[rows[within], slots] = self._layout.null_rows[fields[within]]
            if batch.weights is not None:
                batch.weights[rows[within], slots] = index == 0

    def _draw(self, rows: int, share: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        cells = rows * len(self._starts)
        drawn = self._random.integers(0, cells, self._random.binomial(cells, share))
        return drawn // len(self._starts), drawn % len(self._starts)
