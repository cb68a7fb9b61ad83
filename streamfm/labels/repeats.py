"""Which ids are there more than once, exactly, at a fraction of the cost of grouping by them.

DuckDB streams a 64-bit hash of each id; a table of the hashes seen so far (open addressing) tells which come again.
The lower bits say where a hash lies, the upper 32 stand for it: one may be held for another, once in 200 million rows
or so, but none is overlooked. Only rows with such a hash are then looked at by the id itself. DuckDB's hash changes
between versions, which does no harm: nothing of it outlives the query.
"""

# mypy: disable-error-code="untyped-decorator"
from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from streamfm.encoder.intrinsics import prefetch

MOST_HASHES = 1 << 27
"""Hashes that are held at once, in 1 GiB; of more, a part at a time."""

_BLOCK = 128
"""Hashes whose slots are fetched ahead: their cache misses overlap."""

Hashes = NDArray[np.uint64]


def _kernel(function):  # type: ignore[no-untyped-def]
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError:
        # No folder to keep machine code in: compiled in every process instead.
        return njit(nogil=True)(function)


class HashSet:
    """Hashes seen so far."""

    def __init__(self, most: int) -> None:
        """Room for `most` hashes."""
        self._slots: NDArray[np.uint32] = np.zeros(1 << max(10, (most + most // 2).bit_length()), np.uint32)

    def add(self, hashes: Hashes) -> Hashes:
        """Add them; those that were there already come back, and once in a while one that was not."""
        again = np.empty(len(hashes), np.uint64)
        return again[: _add(self._slots, hashes, again)]


def repeated(batches: Iterable[pa.RecordBatch], most: int) -> tuple[Hashes, int]:
    """The hashes that may come more than once in the first columns of batches, each once, and the number of rows.

    Args:
        batches: With a column of uint64, without NULL.
        most: Rows at most.
    """
    seen, rows = HashSet(min(most, MOST_HASHES + MOST_HASHES // 16)), 0
    again: list[Hashes] = [np.empty(0, np.uint64)]
    # One batch is looked up while the next one is made.
    with ThreadPoolExecutor(1) as worker:
        pending: list[Future[Hashes]] = []
        for batch in batches:
            again += [future.result() for future in pending]
            pending = [worker.submit(seen.add, batch.column(0).to_numpy())]
            rows += batch.num_rows
        again += [future.result() for future in pending]
    return np.unique(np.concatenate(again)), rows


def hash_parts(hashed: str, most: int) -> list[str]:
    """SQL conditions that split rows by their hash, such that no part has many more hashes than `MOST_HASHES`."""
    parts = -(-most // MOST_HASHES) or 1
    # By the upper half: the lower bits say where in its table a hash lies.
    return [f"({hashed} >> 32) % {parts} = {part}" for part in range(parts)] if parts > 1 else ["true"]


@_kernel
def _add(slots: NDArray[np.uint32], hashes: Hashes, again: Hashes) -> int:
    mask = np.uint64(len(slots) - 1)
    address = np.uint64(slots.ctypes.data)
    found = 0
    for start in range(0, len(hashes), _BLOCK):
        end = min(start + _BLOCK, len(hashes))
        for index in range(start, end):
            prefetch(address + ((hashes[index] & mask) << np.uint64(2)))
        for index in range(start, end):
            slot = hashes[index] & mask
            # 0 marks a free slot.
            value = np.uint32(max(hashes[index] >> np.uint64(32), np.uint64(1)))
            while slots[slot] != 0 and slots[slot] != value:
                slot = (slot + np.uint64(1)) & mask
            if slots[slot] == value:
                again[found] = hashes[index]
                found += 1
            slots[slot] = value
    return found
