"""Vocabularies that grow and shrink in memory, as fine-tuning needs them; written into a folder when they are exported.

Everything is immutable: growing gives new vocabularies, and encoders that hold the old ones go on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamfm.encoder import kernels
from streamfm.encoder.kernels import FIRST_VALUE_ROW
from streamfm.encoder.vocabulary import (
    PENDING_FILE,
    VALUES_SCHEMA,
    Vocabularies,
    Vocabulary,
    check_count,
    hash_texts,
    slots_capacity,
    slots_path,
    values_path,
    write_tables,
)
from streamfm.errors import BundleError

PENDING_SCHEMA = pa.schema([("table", pa.string()), ("value", pa.string()), ("count", pa.int64())])

_PIECES = 64
"""Pieces of a list of values before they are joined."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GrownVocabularies(Vocabularies):
    """Vocabularies in memory.

    Attributes:
        folder: Of those that they began as; what was there then may be gone.
        listed: The values of every table that has some, in the order of their rows, with their counts: of a value that
            was admitted later, how often it had been seen by then.
        pending: Sightings of values that have no row yet, by table, the latest value last.
    """

    listed: Mapping[str, pa.Table]
    pending: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, vocabularies: Vocabularies) -> GrownVocabularies:
        """The same vocabularies, ready to grow; the pending values are read from their folder.

        Raises:
            BundleError: A file is missing or damaged; names it.
        """
        if isinstance(vocabularies, GrownVocabularies):
            return vocabularies
        names = [name for name, table in vocabularies.tables.items() if table.kind == "values"]
        return cls(
            folder=vocabularies.folder,
            tables=vocabularies.tables,
            numerics=vocabularies.numerics,
            listed={name: vocabularies.values(name) for name in names},
            pending=_read_pending(vocabularies.folder / PENDING_FILE, names),
        )

    def values(self, table: str) -> pa.Table:
        """As `Vocabularies.values`."""
        return self.listed[table] if table in self.listed else super().values(table)

    def save(self, folder: str | Path) -> None:
        """Write the files into another folder, which is made."""
        target = Path(folder)
        target.mkdir(parents=True)
        for index, table in enumerate(self.tables.values()):
            if table.kind == "values":
                _write_slots(slots_path(target, index), table.slots)
                _write(values_path(target, index), self.listed[table.name])
        tables = [{"name": table.name, "kind": table.kind, "rows": table.rows} for table in self.tables.values()]
        write_tables(target, tables, self.numerics)
        if any(self.pending.values()):
            _write(target / PENDING_FILE, _pending_table(self.pending))

    def with_pending(self, pending: Mapping[str, Mapping[str, int]]) -> GrownVocabularies:
        """The same with other pending values."""
        return replace(self, pending=pending)

    def changed(
        self, added: Mapping[str, Mapping[str, int]], kept: Mapping[str, NDArray[np.bool_]]
    ) -> GrownVocabularies:
        """The same with fewer and with more values.

        Args:
            added: By table, how often each value was seen, by its canonical text. They get the rows behind those that
                are there, in this order; of two values with one 64-bit hash, which nobody could tell apart, the first.
            kept: By table, bool [values]: which of the values that are there stay, in their order.

        Raises:
            DataError: More values than int32 can number; names the table.
        """
        tables, listed = dict(self.tables), dict(self.listed)
        for name, mask in kept.items():
            tables[name], listed[name] = shrunk(tables[name], mask), listed[name].filter(pa.array(mask))
        for name, counts in added.items():
            table = tables[name]
            texts = pa.array(counts, pa.string())
            hashes = hash_texts(texts, table.seed)
            first = np.sort(np.unique(hashes, return_index=True)[1])
            tables[name] = grown(table, hashes[first])
            numbers = pa.array(counts.values(), pa.int64())
            new = pa.table([texts.take(pa.array(first)), numbers.take(pa.array(first))], schema=VALUES_SCHEMA)
            listed[name] = _joined(listed[name], new)
        return replace(self, tables=MappingProxyType(tables), listed=listed)


def grown(table: Vocabulary, hashes: NDArray[np.uint64]) -> Vocabulary:
    """A table with more values, which get the rows behind those that it has.

    Args:
        table: Of kind ``values``.
        hashes: Of the values; none that it has, none twice.

    Raises:
        DataError: More values than int32 can number; names the table.
    """
    rows = table.rows + len(hashes)
    check_count(table.name, rows - FIRST_VALUE_ROW)
    capacity = slots_capacity(rows - FIRST_VALUE_ROW)
    slots = table.slots.copy() if capacity <= len(table.slots) else _filled(_hashes(table), capacity)
    kernels.fill_slots(hashes, table.rows, slots)
    return _with_slots(table, rows, slots)


def shrunk(table: Vocabulary, kept: NDArray[np.bool_]) -> Vocabulary:
    """A table that has only some of its values, in their order."""
    hashes = _hashes(table)[kept]
    return _with_slots(table, FIRST_VALUE_ROW + len(hashes), _filled(hashes, slots_capacity(len(hashes))))


def _with_slots(table: Vocabulary, rows: int, slots: NDArray[np.uint64]) -> Vocabulary:
    slots.flags.writeable = False
    return Vocabulary(name=table.name, kind=table.kind, rows=rows, slots=slots)


def _hashes(table: Vocabulary) -> NDArray[np.uint64]:
    """Those of the values, in the order of their rows."""
    taken = table.slots[table.slots[:, 1] > 0]
    hashes: NDArray[np.uint64] = taken[np.argsort(taken[:, 1]), 0]
    return hashes


def _filled(hashes: NDArray[np.uint64], capacity: int) -> NDArray[np.uint64]:
    slots = np.zeros((capacity, 2), np.uint64)
    kernels.fill_slots(hashes, FIRST_VALUE_ROW, slots)
    return slots


def _joined(values: pa.Table, new: pa.Table) -> pa.Table:
    """Both, in few pieces: the first one is memory-mapped as a rule, and stays as it is."""
    joined = pa.concat_tables([values, new])
    pieces = joined.column(0).num_chunks
    if pieces <= _PIECES:
        return joined
    first = joined.column(0).chunk(0)
    return pa.concat_tables([joined.slice(0, len(first)), joined.slice(len(first)).combine_chunks()])


def _write_slots(path: Path, slots: NDArray[np.uint64]) -> None:
    # Not by np.save, whose error on a full disk does not say so.
    header = np.lib.format.header_data_from_array_1_0(slots)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(slots.data)


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _pending_table(pending: Mapping[str, Mapping[str, int]]) -> pa.Table:
    parts = [
        pa.table([[name] * len(counts), list(counts), list(counts.values())], schema=PENDING_SCHEMA)
        for name, counts in pending.items()
    ]
    return pa.concat_tables(parts)


def _read_pending(path: Path, names: Sequence[str]) -> dict[str, dict[str, int]]:
    """What a file of pending values holds of these tables; none where there is no such file."""
    pending: dict[str, dict[str, int]] = {name: {} for name in names}
    if not path.exists():
        return pending
    try:
        with pa.memory_map(str(path)) as source:
            found = pa.ipc.open_file(source).read_all()
        found.validate(full=True)
        if found.schema != PENDING_SCHEMA or any(column.null_count for column in found.columns):
            raise ValueError(f"it holds {found.schema.names}, of other types or with NULL")
        if not pc.all(pc.greater(found["count"], 0)).as_py() and len(found):
            raise ValueError("a count is less than 1")
        for name, value, count in zip(*(column.to_pylist() for column in found.columns), strict=True):
            pending[name][value] = count
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        raise BundleError(f"{path}: not a list of pending values: {error!r}") from error
    return pending
