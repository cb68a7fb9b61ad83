"""Encoded rows on disk: plain .npy files in a folder, memory-mapped for training.

A dataset is a folder with `dataset.json` and one file a column (N rows, S slots): `ids.npy` int32 [N, S],
`weights.npy` float32 [N, S] (only where a weight can differ from 1), `labels.npy` float32 [N], and where wanted
`sample_weights.npy` float32 [N], `groups.npy` int64 [N] (a hash of the group), `times.npy` int64 [N].
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from streamfm.data.batches import Batch, RowSelection, batches_in_order, shuffled_batches
from streamfm.data.full_disk import full_disk_told
from streamfm.encoder import Encoded, Layout
from streamfm.errors import DataError
from streamfm.files import token

FORMAT_VERSION = 1
DESCRIPTION = "dataset.json"
_TYPES: dict[str, np.dtype[Any]] = {
    "ids": np.dtype("<i4"),
    "weights": np.dtype("<f4"),
    "labels": np.dtype("<f4"),
    "sample_weights": np.dtype("<f4"),
    "groups": np.dtype("<i8"),
    "times": np.dtype("<i8"),
}
_HEADER_BYTES = 128
_ENCODE_AGAIN = "encode the rows again"


class EncodedDataset:
    """A folder of encoded rows, memory-mapped: opening it reads nothing.

    Attributes:
        folder: Where it lies.
        slots: S, the slots of a row.
        table_rows: Rows of the fused table that the ids point into.
    """

    def __init__(self, folder: Path, description: dict[str, Any], columns: dict[str, NDArray[Any]]) -> None:
        """Use `open`."""
        self.folder = folder
        self.slots = int(description["slots"])
        self.table_rows = int(description["table_rows"])
        self._rows = int(description["rows"])
        self._columns = columns

    @classmethod
    def open(cls, folder: str | Path) -> EncodedDataset:
        """The dataset that a `DatasetWriter` finished in this folder.

        Raises:
            DataError: Not a dataset, of another format, or a file of another size than it should have.
        """
        folder = Path(folder)
        description = _read_description(folder)
        shapes = _shapes(description["columns"], description["rows"], description["slots"])
        columns = {name: _map_column(folder / f"{name}.npy", _TYPES[name], shape) for name, shape in shapes.items()}
        return cls(folder, description, columns)

    def __len__(self) -> int:
        """N, the number of rows."""
        return self._rows

    def __enter__(self) -> Self:
        """Itself; the maps are let go at the end."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the maps go."""
        self.close()

    def close(self) -> None:
        """Let the maps go; each file is unmapped when the last array taken from it is gone."""
        self._columns = {}

    @property
    def ids(self) -> NDArray[np.int32]:
        """int32 [N, S], mapped."""
        return self._column("ids")

    @property
    def weights(self) -> NDArray[np.float32] | None:
        """float32 [N, S], mapped; None when every slot has weight 1."""
        return self._optional("weights")

    @property
    def labels(self) -> NDArray[np.float32]:
        """float32 [N], mapped."""
        return self._column("labels")

    @property
    def sample_weights(self) -> NDArray[np.float32] | None:
        """float32 [N], mapped, or None."""
        return self._optional("sample_weights")

    @property
    def groups(self) -> NDArray[np.int64] | None:
        """int64 [N], mapped, or None: equal for rows of one group."""
        return self._optional("groups")

    @property
    def times(self) -> NDArray[np.int64] | None:
        """int64 [N], mapped, or None."""
        return self._optional("times")

    def batches(self, batch_size: int, *, seed: int | None = None) -> Iterator[Batch]:
        """All rows once, in copies of `batch_size` rows.

        Args:
            batch_size: Rows of a batch; the last one has what is left.
            seed: None for the order of the file; else a shuffle, repeatable by it, whose reads stay long and whose
                memory stays small for files of any size: see `streamfm.data.batches`.
        """
        if seed is None:
            return batches_in_order(self._rows_at, len(self), batch_size)
        return shuffled_batches(self._rows_at, len(self), batch_size, row_bytes=self._row_bytes(), seed=seed)

    def _rows_at(self, rows: RowSelection) -> Batch:
        return Batch(self.ids, self.weights, self.labels, self.sample_weights).take(rows)

    def _row_bytes(self) -> int:
        names = self._columns.keys() & set(Batch._fields)
        return sum(int(np.prod(self._columns[name].shape[1:])) * _TYPES[name].itemsize for name in names)

    def _column(self, name: str) -> NDArray[Any]:
        if not self._columns:
            raise ValueError(f"{self.folder}: the dataset is closed")
        return self._columns[name]

    def _optional(self, name: str) -> NDArray[Any] | None:
        return self._column(name) if name in self._columns or not self._columns else None


class DatasetWriter:
    """Appends encoded rows to a new dataset; the number of rows need not be known, and memory stays small.

    Everything is written to a folder beside the target, which gets its name only at `finish`: what is there under the
    target's name is complete. Leaving the `with` block without `finish` removes what was written.
    """

    def __init__(
        self,
        folder: str | Path,
        layout: Layout,
        *,
        sample_weights: bool = False,
        groups: bool = False,
        times: bool = False,
    ) -> None:
        """Say which optional columns every `append` will bring.

        Raises:
            DataError: The folder exists and is not empty.
        """
        self.folder = Path(folder)
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise DataError(
                f"{self.folder}: exists already, expected a new or empty folder for encoded rows",
                hint="remove it or choose another",
            )
        wanted = {"weights": layout.weighted, "sample_weights": sample_weights, "groups": groups, "times": times}
        self._names = [name for name in _TYPES if wanted.get(name, True)]
        self._layout = layout
        self._rows = 0
        self._temporary = self.folder.with_name(f".{self.folder.name}.{token()}")
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Self:
        """Create the files.

        Raises:
            DataError: The disk is full.
        """
        try:
            with full_disk_told(self.folder):
                self._temporary.mkdir(parents=True)
                for name in self._names:
                    self._files[name] = (self._temporary / f"{name}.npy").open("wb")
                    self._files[name].write(b"\0" * _HEADER_BYTES)
        except BaseException:
            # Nobody calls __exit__ for a block that was not entered.
            self._abandon()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove what was not finished."""
        self._abandon()

    def append(
        self,
        encoded: Encoded,
        labels: NDArray[Any],
        *,
        sample_weights: NDArray[Any] | None = None,
        groups: NDArray[Any] | None = None,
        times: NDArray[Any] | None = None,
    ) -> None:
        """Add rows.

        Raises:
            DataError: A column that was not announced, is missing, or has another length than the ids; or the disk is
                full.
        """
        given = {
            "ids": encoded.ids,
            "weights": encoded.weights,
            "labels": labels,
            "sample_weights": sample_weights,
            "groups": groups,
            "times": times,
        }
        columns = {name: column for name, column in given.items() if column is not None}
        if list(columns) != self._names:
            raise DataError(f"{self.folder}: rows with {', '.join(columns)}, expected {', '.join(self._names)}")
        count = len(encoded.ids)
        shapes = _shapes(self._names, count, self._layout.slots)
        for name, column in columns.items():
            if column.shape != shapes[name]:
                raise DataError(f"{self.folder}: {name} of shape {column.shape}, expected {shapes[name]}")
        with full_disk_told(self.folder):
            for name, column in columns.items():
                self._files[name].write(np.ascontiguousarray(column, _TYPES[name]).data)
        self._rows += count

    def finish(self) -> EncodedDataset:
        """Give the dataset its name, and open it.

        Raises:
            DataError: No row was appended, or the disk is full.
        """
        if not self._rows:
            raise DataError(f"{self.folder}: no rows to train on or to evaluate")
        with full_disk_told(self.folder):
            self._complete()
        self._temporary.rename(self.folder)
        return EncodedDataset.open(self.folder)

    def _complete(self) -> None:
        """Write what is known only now: the files' headers and the description."""
        shapes = _shapes(self._names, self._rows, self._layout.slots)
        for name, file in self._files.items():
            file.seek(0)
            file.write(_header(_TYPES[name], shapes[name]))
            file.close()
        description = {
            "format": FORMAT_VERSION,
            "rows": self._rows,
            "slots": self._layout.slots,
            "table_rows": self._layout.rows,
            "columns": self._names,
        }
        (self._temporary / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n")

    def _abandon(self) -> None:
        for file in self._files.values():
            # Closing writes what is still in memory, which a full disk refuses once more.
            with suppress(OSError):
                file.close()
        shutil.rmtree(self._temporary, ignore_errors=True)


def _read_description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION
    try:
        description = json.loads(path.read_bytes())
        known = description["format"] == FORMAT_VERSION and set(description["columns"]) <= set(_TYPES)
        numbers = all(type(description[key]) is int for key in ("rows", "slots", "table_rows"))
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}, expected a folder of encoded rows") from error
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not the description of encoded rows ({error!r})", hint=_ENCODE_AGAIN) from error
    if not (known and numbers):
        raise DataError(f"{path}: format {description['format']!r}, expected {FORMAT_VERSION}", hint=_ENCODE_AGAIN)
    return dict(description)


def _shapes(names: list[str], rows: int, slots: int) -> dict[str, tuple[int, ...]]:
    return {name: (rows, slots) if name in ("ids", "weights") else (rows,) for name in names}


def _map_column(path: Path, kind: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """The file's values, mapped; checked against its description before anything is read."""
    expected = _HEADER_BYTES + int(np.prod(shape)) * kind.itemsize
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", hint=_ENCODE_AGAIN) from error
    if size != expected:
        raise DataError(f"{path}: {size} bytes, expected {expected}", hint=_ENCODE_AGAIN)
    # A plain view: indexing np.memmap itself costs a subclass's Python calls at every batch.
    return np.memmap(path, kind, "r", offset=_HEADER_BYTES, shape=shape).view(np.ndarray)


def _header(kind: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """A version 1.0 .npy header of exactly 128 bytes, so that it can be written last."""
    fields = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, fields)
    plain = buffer.getvalue()[10:].rstrip()
    body = _HEADER_BYTES - 10
    return buffer.getvalue()[:8] + body.to_bytes(2, "little") + plain.ljust(body - 1) + b"\n"
