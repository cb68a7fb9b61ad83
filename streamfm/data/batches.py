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

    def room(self, rows: int) -> Batch:
        """Uninitialised columns like these, for so many rows."""
        return Batch(
            _room(self.ids, rows),
            None if self.weights is None else _room(self.weights, rows),
            _room(self.labels, rows),
            None if self.sample_weights is None else _room(self.sample_weights, rows),
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
        return _cut(random.permutation(rows), sizes, read)
    chunk_rows = max(1, CHUNK_BYTES // row_bytes)
    starts = random.permutation(-(-rows // chunk_rows)) * chunk_rows
    # What a window leaves is less than a batch, and groups differ by one chunk.
    window = _Window(window_rows + 2 * chunk_rows + batch_size + 1, read(slice(0, 0)))
    groups = np.array_split(starts, -(-rows // window_rows))
    return _through(window, groups, lambda start: read(slice(start, start + chunk_rows)), sizes, random)


class _Window:
    """Rows in one buffer that is filled again and again, so that memory holds them once."""

    def __init__(self, capacity: int, like: Batch) -> None:
        self.rows = 0
        self._buffer = like.room(capacity)
        self.take = self._buffer.take

    def add(self, rows: Batch) -> None:
        """Copy rows behind those that are there."""
        end = self.rows + len(rows.labels)
        for column, part in zip(self._buffer, rows, strict=True):
            if column is not None and part is not None:
                column[self.rows : end] = part
        self.rows = end

    def keep(self, rows: NDArray[np.intp]) -> None:
        """Forget all but these rows."""
        rest = self.take(rows)
        self.rows = 0
        self.add(rest)


def _through(
    window: _Window,
    groups: list[NDArray[np.intp]],
    read_chunk: Callable[[int], Batch],
    sizes: Iterator[int],
    random: np.random.Generator,
) -> Iterator[Batch]:
    """Batches out of one window of chunks after the other; what one leaves goes into the next."""
    size = next(sizes)
    for group in groups:
        for start in group:
            window.add(read_chunk(int(start)))
        order = random.permutation(window.rows)
        while size and size <= len(order):
            yield window.take(order[:size])
            order = order[size:]
            size = next(sizes, 0)
        window.keep(order)


def _cut(order: NDArray[np.intp], sizes: Iterator[int], read: Read) -> Iterator[Batch]:
    start = 0
    for size in sizes:
        yield read(order[start : start + size])
        start += size


def _copy(column: NDArray[Any], rows: RowSelection) -> NDArray[Any]:
    part = column[rows]
    return part.copy() if isinstance(rows, slice) else part


def _room(column: NDArray[Any], rows: int) -> NDArray[Any]:
    return np.empty((rows, *column.shape[1:]), column.dtype)


def _batch_sizes(rows: int, batch_size: int) -> Iterator[int]:
    full, rest = divmod(rows, batch_size)
    if rest == 1 and full:
        yield from [batch_size] * (full - 1)
        yield batch_size + 1
        return
    yield from [batch_size] * full
    if rest:
        yield rest
