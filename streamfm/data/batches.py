"""The order in which rows become batches: as they lie, or shuffled at a cost linear in the rows.

A shuffle of more rows than fit in a window of 32 MiB reads chunks of 256 KiB, the chunks in random order, and mixes the
rows of each window, so that reads from a file larger than memory stay long and memory stays small. Fewer rows than a
window are shuffled uniformly. A single row left over at the end joins the batch before it: batch norm cannot train on
one row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

# Large enough to mix a log that is sorted by time, small beside what training needs anyway.
WINDOW_BYTES = 32 << 20
# One read from the disk; a window is made of a few hundred of these.
CHUNK_BYTES = 256 << 10

RowSelection = slice | NDArray[np.intp]


class Batch(NamedTuple):
    """Rows for one step, copied out of the files (B rows, S slots).

    Attributes:
        ids: int32 [B, S].
        weights: float32 [B, S], or None when every slot has weight 1.
        labels: float32 [B].
        sample_weights: float32 [B], or None when every row counts the same.
    """

    ids: NDArray[np.int32]
    weights: NDArray[np.float32] | None
    labels: NDArray[np.float32]
    sample_weights: NDArray[np.float32] | None

    def take(self, rows: RowSelection) -> Batch:
        """A copy of these rows."""
        return Batch(
            _copy(self.ids, rows),
            None if self.weights is None else _copy(self.weights, rows),
            _copy(self.labels, rows),
            None if self.sample_weights is None else _copy(self.sample_weights, rows),
        )


Read = Callable[[RowSelection], Batch]


def batches_in_order(read: Read, rows: int, batch_size: int) -> Iterator[Batch]:
    """All rows once, as they lie."""
    start = 0
    for size in _batch_sizes(rows, batch_size):
        yield read(slice(start, start + size))
        start += size


def shuffled_batches(read: Read, rows: int, batch_size: int, *, row_bytes: int, seed: int) -> Iterator[Batch]:
    """All rows once, shuffled, repeatable by the seed.

    Args:
        read: Gives a copy of the rows asked for.
        rows: Rows there are.
        batch_size: Rows of a batch.
        row_bytes: Size of a row, from which windows and chunks follow.
        seed: Of this pass; another pass wants another.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    sizes = _batch_sizes(rows, batch_size)
    window_rows = max(WINDOW_BYTES // row_bytes, 8 * batch_size)
    if rows <= window_rows:
        order = random.permutation(rows)
        start = 0
        for size in sizes:
            yield read(order[start : start + size])
            start += size
        return
    chunk_rows = max(1, CHUNK_BYTES // row_bytes)
    yield from _cut(_windows(read, rows, chunk_rows, max(1, window_rows // chunk_rows), random), sizes, random)


def _cut(windows: Iterator[Batch], sizes: Iterator[int], random: np.random.Generator) -> Iterator[Batch]:
    """Batches out of shuffled windows; the rest of one window goes into the next."""
    size = next(sizes)
    rest: Batch | None = None
    for window in windows:
        rows = window if rest is None else _concatenate([rest, window])
        order = random.permutation(len(rows.labels))
        start = 0
        while size and start + size <= len(order):
            yield rows.take(order[start : start + size])
            start += size
            size = next(sizes, 0)
        rest = rows.take(order[start:])


def _windows(read: Read, rows: int, chunk_rows: int, chunks: int, random: np.random.Generator) -> Iterator[Batch]:
    starts = random.permutation(-(-rows // chunk_rows)) * chunk_rows
    for first in range(0, len(starts), chunks):
        yield _concatenate([read(slice(start, start + chunk_rows)) for start in starts[first : first + chunks]])


def _concatenate(parts: list[Batch]) -> Batch:
    weights = [part.weights for part in parts if part.weights is not None]
    sample_weights = [part.sample_weights for part in parts if part.sample_weights is not None]
    return Batch(
        np.concatenate([part.ids for part in parts]),
        np.concatenate(weights) if weights else None,
        np.concatenate([part.labels for part in parts]),
        np.concatenate(sample_weights) if sample_weights else None,
    )


def _copy(column: NDArray[Any], rows: RowSelection) -> NDArray[Any]:
    part = column[rows]
    return part.copy() if isinstance(rows, slice) else part


def _batch_sizes(rows: int, batch_size: int) -> Iterator[int]:
    full, rest = divmod(rows, batch_size)
    if rest == 1 and full:
        yield from [batch_size] * (full - 1)
        yield batch_size + 1
        return
    yield from [batch_size] * full
    if rest:
        yield rest
