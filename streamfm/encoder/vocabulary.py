"""Vocabularies: what training saw, as the encoder looks it up and as people read it.

Each table of the model (a feature's own, or one that features share) has rows: 0 for NULL, 1 for unknown, from 2 on its
values. A vocabulary lives in a folder: `tables.json`; for each table with values `N.slots.npy`, the open-addressing
array of (hash, row), memory-mapped; and `N.values.arrow`, the values with their counts, the first of which has row 2.
Beside them may lie `pending.arrow`, values that were not seen often enough to have a row: see `growth`.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm import files
from streamfm.encoder import kernels
from streamfm.encoder.kernels import FIRST_VALUE_ROW
from streamfm.errors import BundleError, DataError

VALUES_SCHEMA = pa.schema([("value", pa.string()), ("count", pa.int64())])
TABLES_FILE = "tables.json"
PENDING_FILE = "pending.arrow"
_MAX_ROWS = 2**31 - 1
_NO_SLOTS = np.zeros((1, 2), np.uint64)
_NO_SLOTS.flags.writeable = False

TableKind = Literal["values", "hashed", "number", "quantile"]
_LEAST_ROWS: Mapping[TableKind, int] = {
    "values": FIRST_VALUE_ROW,
    "hashed": FIRST_VALUE_ROW + 1,
    "number": FIRST_VALUE_ROW + 1,
    "quantile": FIRST_VALUE_ROW + 1,
}


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

    @cached_property
    def seed(self) -> np.uint64:
        """The seed of this table's hash: XXH64 of its name, seed 0."""
        return seed_of(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
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

    def __post_init__(self) -> None:
        """Refuse what would make weights that are no numbers.

        Raises:
            DataError: Something is not finite, the deviation is not positive, or the boundaries do not ascend.
        """
        if not (math.isfinite(self.mean) and math.isfinite(self.deviation) and self.deviation > 0):
            raise DataError(f"mean {self.mean} and deviation {self.deviation}: expected finite numbers, the latter > 0")
        ends = (-math.inf, *self.boundaries, math.inf)
        if not all(low < high for low, high in pairwise(ends)):
            raise DataError("boundaries of quantiles are not finite and ascending")


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
        path = Path(folder) / TABLES_FILE
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            tables = [_load_table(path.parent, index, entry) for index, entry in enumerate(document["tables"])]
            numerics = {str(name): _numeric_from(entry) for name, entry in document["numerics"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise BundleError(f"{path}: not a vocabulary: {error!r}") from error
        by_name = {table.name: table for table in tables}
        if len(by_name) < len(tables):
            raise BundleError(f"{path}: not a vocabulary: two tables have one name")
        return cls(folder=path.parent, tables=MappingProxyType(by_name), numerics=MappingProxyType(numerics))

    def save(self, folder: str | Path) -> None:
        """Copy the files to another folder, which is made."""
        target = Path(folder)
        target.mkdir(parents=True)
        shutil.copyfile(self.folder / TABLES_FILE, target / TABLES_FILE)
        if (self.folder / PENDING_FILE).exists():
            shutil.copyfile(self.folder / PENDING_FILE, target / PENDING_FILE)
        for index, table in enumerate(self.tables.values()):
            if table.kind == "values":
                for path in (slots_path(self.folder, index), values_path(self.folder, index)):
                    shutil.copyfile(path, target / path.name)

    def values(self, table: str) -> pa.Table:
        """The values of a table and their counts, memory-mapped; the value at index i has row i + 2.

        Raises:
            KeyError: No such table.
            BundleError: The file is missing or damaged.
        """
        vocabulary = self.tables[table]
        if vocabulary.kind != "values":
            return VALUES_SCHEMA.empty_table()
        path = values_path(self.folder, list(self.tables).index(table))
        try:
            with pa.memory_map(str(path)) as source:
                values = pa.ipc.open_file(source).read_all()
            values.validate(full=True)
        except (OSError, pa.ArrowException) as error:
            raise BundleError(f"{path}: not a list of values: {error}") from error
        if values.schema != VALUES_SCHEMA or len(values) != vocabulary.rows - FIRST_VALUE_ROW:
            expected = vocabulary.rows - FIRST_VALUE_ROW
            raise BundleError(f"{path}: holds {len(values)} rows of {values.schema.names}, expected {expected} values")
        return values


class VocabularyWriter:
    """Writes vocabularies table by table into a new folder, in memory that does not grow with the values."""

    def __init__(self, folder: str | Path) -> None:
        """Make the folder.

        Raises:
            FileExistsError: It is there already.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True)
        self._tables: list[dict[str, Any]] = []

    def add_values(self, name: str, count: int, batches: Iterable[pa.RecordBatch]) -> None:
        """Add a table of `count` distinct values, in the order of their rows.

        Args:
            name: The table.
            count: How many values the batches hold.
            batches: Of `VALUES_SCHEMA`, no value NULL.

        Raises:
            DataError: Two values have the same 64-bit hash, one of which it names; there are too many.
            ValueError: The batches do not hold `count` values, or NULL among them.
        """
        check_count(name, count)
        index, row, seed = len(self._tables), FIRST_VALUE_ROW, seed_of(name)
        slots = _new_slots(slots_path(self._folder, index), (slots_capacity(count), 2))
        path = str(values_path(self._folder, index))
        with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, VALUES_SCHEMA) as writer:
            for batch in batches:
                values = batch.column(0)
                if row + len(values) > FIRST_VALUE_ROW + count or values.null_count:
                    raise ValueError(f"table {name!r}: expected {count} values, none NULL, got others")
                clash = kernels.fill_slots(hash_texts(values, seed), row, slots)
                if clash >= 0:
                    what = f"value {values[clash].as_py()!r} is there twice, or has the 64-bit hash of another"
                    raise DataError(f"table {name!r}: {what}", hint="rename the table: its name seeds the hash")
                writer.write_batch(batch)
                row += len(values)
        if row != FIRST_VALUE_ROW + count:
            raise ValueError(f"table {name!r}: expected {count} values, got {row - FIRST_VALUE_ROW}")
        slots.flush()
        self._tables.append({"name": name, "kind": "values", "rows": row})

    def add_rows(self, name: str, kind: TableKind, rows: int) -> None:
        """Add a table without values: so many rows, those of NULL and unknown included."""
        self._tables.append({"name": name, "kind": kind, "rows": rows})

    def finish(self, numerics: Mapping[str, NumericStatistics]) -> Vocabularies:
        """Write `tables.json`, and give the folder's vocabularies back."""
        write_tables(self._folder, self._tables, numerics)
        return Vocabularies.load(self._folder)


def write_tables(folder: Path, tables: list[dict[str, Any]], numerics: Mapping[str, NumericStatistics]) -> None:
    """Write `tables.json`: name, kind and rows of each table, and the statistics."""
    document = {"tables": tables, "numerics": {name: asdict(n) for name, n in numerics.items()}}
    text = json.dumps(document, indent=1, ensure_ascii=False) + "\n"
    (folder / TABLES_FILE).write_text(text, encoding="utf-8")


def check_count(name: str, count: int) -> None:
    """Return if a table can have so many values.

    Raises:
        DataError: It cannot; names the table.
    """
    if count + FIRST_VALUE_ROW > _MAX_ROWS:
        hint = "raise min_count, or hash them: hash_buckets"
        raise DataError(f"table {name!r}: {count:,} values are more than int32 can number", hint=hint)


def slots_capacity(count: int) -> int:
    """Slots for so many values: at most half of them are taken, so that a search is short and always ends."""
    return 1 << max(4, (2 * count).bit_length())


def slots_path(folder: Path, index: int) -> Path:
    """Where the slots of the table with this number lie."""
    return folder / f"{index}.slots.npy"


def values_path(folder: Path, index: int) -> Path:
    """Where the values of the table with this number lie."""
    return folder / f"{index}.values.arrow"


def seed_of(table: str) -> np.uint64:
    """The seed of a table's hash: XXH64 of its name, seed 0."""
    # Not by pa.array, which imports pandas wherever it is installed: half of the time that loading a bundle takes.
    data = table.encode()
    offsets = pa.py_buffer(np.array([0, len(data)], np.int32))
    text = pa.StringArray.from_buffers(1, offsets, pa.py_buffer(data))
    return np.uint64(hash_texts(text, np.uint64(0))[0])


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


def _new_slots(path: Path, shape: tuple[int, int]) -> np.memmap[Any, np.dtype[np.uint64]]:
    """Free slots in a new file, mapped; its room on the disk is taken at once."""
    slots = np.lib.format.open_memmap(path, "w+", np.uint64, shape)
    with path.open("r+b") as file:
        files.reserve(file, path.stat().st_size)
    return slots


def _load_table(folder: Path, index: int, entry: Mapping[str, Any]) -> Vocabulary:
    name, kind, rows = entry["name"], entry["kind"], entry["rows"]
    if not (isinstance(name, str) and kind in get_args(TableKind) and type(rows) is int):
        raise ValueError(f"table {index} is {entry!r}"[:200])
    if not _LEAST_ROWS[kind] <= rows <= _MAX_ROWS:
        raise ValueError(f"table {name!r} has {rows} rows")
    slots = _load_slots(slots_path(folder, index), rows) if kind == "values" else _NO_SLOTS
    return Vocabulary(name=name, kind=kind, rows=rows, slots=slots)


def _load_slots(path: Path, rows: int) -> NDArray[np.uint64]:
    """The slots in a file, memory-mapped, if every search in them ends, and at a row of the table.

    Raises:
        BundleError: They are not, or the file cannot be read.
    """
    try:
        mapped = np.lib.format.open_memmap(path, "r")
    except (OSError, ValueError, EOFError) as error:
        raise BundleError(f"{path}: not an array of slots: {error}") from error
    capacity = len(mapped) if mapped.ndim else 0
    if mapped.dtype != np.uint64 or mapped.shape != (capacity, 2) or not mapped.flags.c_contiguous:
        raise BundleError(f"{path}: holds {mapped.dtype} {mapped.shape}, expected uint64 [capacity, 2]")
    # A plain view of the mapping: a memmap object costs 4 µs a call.
    slots = np.asarray(mapped)
    if capacity & (capacity - 1) or capacity < 1 or not kernels.slots_fit(slots, rows):
        raise BundleError(f"{path}: its {capacity} slots are not those of a table of {rows} rows")
    return slots


def _numeric_from(entry: Mapping[str, Any]) -> NumericStatistics:
    return NumericStatistics(
        mean=float(entry["mean"]),
        deviation=float(entry["deviation"]),
        boundaries=tuple(float(boundary) for boundary in entry["boundaries"]),
    )
