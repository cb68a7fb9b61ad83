"""Vocabularies: what training saw, as the encoder looks it up and as people read it.

Each table of the model (a feature's own, or one that features share) has rows: 0 for NULL, 1 for unknown, from 2 on its
values. A vocabulary lives in a folder: `tables.json`; for each table with values `N.slots.npy`, the open-addressing
array of (hash, row), memory-mapped; and `N.values.arrow`, the values with their counts, the first of which has row 2.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm import kernels
from streamfm.errors import BundleError, DataError
from streamfm.kernels import FIRST_VALUE_ROW

VALUES_SCHEMA = pa.schema([("value", pa.string()), ("count", pa.int64())])
_TABLES_FILE = "tables.json"
_NO_SLOTS = np.zeros((1, 2), np.uint64)
_NO_SLOTS.flags.writeable = False

TableKind = Literal["values", "hashed", "number", "quantile"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabulary:
    """The rows of one table.

    Attributes:
        name: The table's name; it seeds the hash.
        kind: ``values`` (looked up), ``hashed`` (row from the hash), ``number`` (one row that a weight multiplies),
            ``quantile`` (one row a bucket).
        rows: How many rows it has, those of NULL and unknown included.
        slots: uint64 [capacity, 2] of (hash, row); one free slot when `kind` is not ``values``.
    """

    name: str
    kind: TableKind
    rows: int
    slots: NDArray[np.uint64] = field(default_factory=lambda: _NO_SLOTS, repr=False)

    @property
    def hash_buckets(self) -> int:
        """Into how many rows values are hashed; 0 when they are looked up."""
        return self.rows - FIRST_VALUE_ROW if self.kind == "hashed" else 0

    @property
    def seed(self) -> np.uint64:
        """The seed of this table's hash: XXH64 of its name, seed 0."""
        return np.uint64(hash_texts(pa.array([self.name]), np.uint64(0))[0])


@dataclass(frozen=True, kw_only=True)
class NumericStatistics:
    """What scaling a number needs.

    Attributes:
        mean: Subtracted first (0 for transform ``none``).
        deviation: Divided by then (1 for transform ``none``, and for a constant column).
        boundaries: Of a quantile feature, ascending; a value's bucket is the number of boundaries at or below it.
    """

    mean: float = 0.0
    deviation: float = 1.0
    boundaries: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Vocabularies:
    """All tables, in the order of the fused table, and the statistics of the numeric features by feature name."""

    folder: Path
    tables: Mapping[str, Vocabulary]
    numerics: Mapping[str, NumericStatistics]

    @classmethod
    def load(cls, folder: str | Path) -> Vocabularies:
        """The vocabularies in a folder, slots memory-mapped.

        Raises:
            BundleError: A file is missing or not what its table says; names the file.
        """
        path = Path(folder) / _TABLES_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            tables = {entry["name"]: _load_table(path.parent, i, entry) for i, entry in enumerate(document["tables"])}
            numerics = {name: _numeric_from(entry) for name, entry in document["numerics"].items()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{path}: not a vocabulary: {error}") from error
        return cls(folder=path.parent, tables=MappingProxyType(tables), numerics=MappingProxyType(numerics))

    def save(self, folder: str | Path) -> None:
        """Copy the files to another folder, which is made."""
        shutil.copytree(self.folder, folder)

    def values(self, table: str) -> pa.Table:
        """The values of a table and their counts, memory-mapped; the value at index i has row i + 2."""
        path = self.folder / f"{list(self.tables).index(table)}.values.arrow"
        if not path.exists():
            return VALUES_SCHEMA.empty_table()
        with pa.memory_map(str(path)) as source:
            return pa.ipc.open_file(source).read_all()


class VocabularyWriter:
    """Writes vocabularies table by table into a new folder, in memory that does not grow with the values."""

    def __init__(self, folder: str | Path) -> None:
        """Make the folder."""
        self._folder = Path(folder)
        self._folder.mkdir(parents=True)
        self._tables: list[dict[str, Any]] = []

    def add_values(self, name: str, count: int, batches: Iterable[pa.RecordBatch]) -> None:
        """Add a table of `count` distinct values, in the order of their rows.

        Args:
            name: The table.
            count: How many values the batches hold.
            batches: Of `VALUES_SCHEMA`.

        Raises:
            DataError: Two values have the same 64-bit hash; names them.
        """
        index = len(self._tables)
        capacity = 1 << max(4, (2 * count).bit_length())
        slots = np.lib.format.open_memmap(self._folder / f"{index}.slots.npy", "w+", np.uint64, (capacity, 2))
        seed = Vocabulary(name=name, kind="values", rows=0).seed
        row = FIRST_VALUE_ROW
        with pa.OSFile(str(self._values_path(index)), "wb") as sink, pa.ipc.new_file(sink, VALUES_SCHEMA) as writer:
            for batch in batches:
                values = batch.column(0)
                clash = kernels.fill_slots(hash_texts(values, seed), row, slots)
                writer.write_batch(batch)
                row += len(values)
                if clash >= 0:
                    raise DataError(
                        f"table {name!r}: value {values[clash].as_py()!r} is there twice, or has another's 64-bit hash",
                        hint="give the table another name: its hash is seeded by it",
                    )
        slots.flush()
        self._tables.append({"name": name, "kind": "values", "rows": row})

    def add_rows(self, name: str, kind: TableKind, rows: int) -> None:
        """Add a table without values: so many rows, those of NULL and unknown included."""
        self._tables.append({"name": name, "kind": kind, "rows": rows})

    def finish(self, numerics: Mapping[str, NumericStatistics]) -> Vocabularies:
        """Write `tables.json`, and give the folder's vocabularies back."""
        document = {"tables": self._tables, "numerics": {name: asdict(n) for name, n in numerics.items()}}
        text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
        (self._folder / _TABLES_FILE).write_text(text, encoding="utf-8")
        return Vocabularies.load(self._folder)

    def _values_path(self, index: int) -> Path:
        return self._folder / f"{index}.values.arrow"


def hash_texts(texts: pa.Array, seed: np.uint64) -> NDArray[np.uint64]:
    """XXH64 of every text of a string or int64 array (its digits), uint64 [B]; NULL's is arbitrary."""
    hashes = np.empty(len(texts), np.uint64)
    if not len(texts):
        return hashes
    buffers = texts.buffers()
    if texts.type == pa.int64():
        kernels.hash_integers(buffers[1].address, texts.offset, seed, hashes)
    else:
        data = buffers[2].address if buffers[2] is not None else 0
        kernels.hash_strings(buffers[1].address, offset_width(texts), data, texts.offset, seed, hashes)
    return hashes


def offset_width(array: pa.Array) -> int:
    """Bytes of one offset of a string or list array: 8 of their large forms."""
    return 8 if pa.types.is_large_string(array.type) or pa.types.is_large_list(array.type) else 4


def _load_table(folder: Path, index: int, entry: Mapping[str, Any]) -> Vocabulary:
    slots = _NO_SLOTS
    if entry["kind"] == "values":
        slots = np.load(folder / f"{index}.slots.npy", mmap_mode="r", allow_pickle=False)
        capacity = len(slots)
        if slots.dtype != np.uint64 or slots.shape != (capacity, 2) or capacity & (capacity - 1) or capacity == 0:
            raise ValueError(f"{index}.slots.npy holds {slots.dtype} {slots.shape}, expected uint64 [2**n, 2]")
        # A plain view of the mapping: a memmap object costs 4 µs a call.
        slots = np.asarray(slots)
    return Vocabulary(name=entry["name"], kind=entry["kind"], rows=int(entry["rows"]), slots=slots)


def _numeric_from(entry: Mapping[str, Any]) -> NumericStatistics:
    return NumericStatistics(
        mean=float(entry["mean"]),
        deviation=float(entry["deviation"]),
        boundaries=tuple(float(b) for b in entry["boundaries"]),
    )
