"""A copy of the training state, in memory or in nameless files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamfm import files
from streamfm.errors import DataError

Arrays = dict[str, NDArray[Any]]


class Snapshot:
    """The best state so far: a copy that the next steps do not touch."""

    def __init__(self, *, on_disk: bool, folder: Path | None = None) -> None:
        """Hold large arrays in nameless files in `folder` if `on_disk`, so that they cost no anonymous memory."""
        self._on_disk, self._folder = on_disk, folder
        self.arrays: Arrays = {}

    def take(self, arrays: Arrays) -> None:
        """Copy the arrays; the last copy is overwritten.

        Raises:
            DataError: The disk is full.
        """
        for name, array in arrays.items():
            if name not in self.arrays:
                self.arrays[name] = self._empty_like(array)
            self.arrays[name][...] = array

    def _empty_like(self, array: NDArray[Any]) -> NDArray[Any]:
        if not self._on_disk or array.nbytes < 1 << 20:
            return np.empty_like(array)
        with tempfile.TemporaryFile(prefix="streamfm-", dir=self._folder) as file:
            _reserve(file, array.nbytes)
            return np.memmap(file, array.dtype, "r+", shape=array.shape).view(np.ndarray)


def _reserve(file: IO[bytes], size: int) -> None:
    try:
        files.reserve(file, size)
    except OSError as error:
        hint = "free some space, or train with a temporary folder on another disk"
        raise DataError(f"no room to keep the best weights, {size} bytes: {error.strerror}", hint=hint) from error
