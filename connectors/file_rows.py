"""The rows of Parquet files by their numbers, and what tells the rows of one file from those of another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_NULL = "-"
_BETWEEN = pa.scalar(b"\n", pa.large_binary())


class RowsDigest:
    """The sha256 of some columns of the rows that were added, however they were divided, and the file encodes them.

    Attributes:
        names: The columns'.
    """

    def __init__(self, columns: pa.Schema) -> None:
        """Of no rows yet.

        Args:
            columns: Names, and the types in which values are compared.
        """
        self.names: list[str] = columns.names
        self._columns = columns
        self._hash = hashlib.sha256()

    def add(self, table: pa.Table) -> None:
        """Go on with a table's rows; it may have more columns."""
        if not table.num_rows:
            return
        texts = [text for field in self._columns for text in _texts(cast_column(table[field.name], field.type))]
        rows = pc.binary_join_element_wise(*texts, _BETWEEN, null_handling="replace", null_replacement=_NULL)
        together = pc.binary_join(pa.LargeListArray.from_arrays([0, len(rows)], rows.combine_chunks()), _BETWEEN)
        self._hash.update(together[0].as_buffer())
        self._hash.update(_BETWEEN.as_buffer())

    def copy(self) -> RowsDigest:
        """One of the same rows, which goes on by itself."""
        copied = RowsDigest(self._columns)
        copied._hash = self._hash.copy()
        return copied

    def is_comparable(self, text: str) -> bool:
        """Whether a digest is of these columns."""
        return text.startswith(self._prefix)

    @property
    def text(self) -> str:
        """The digest, with the columns' names."""
        return self._prefix + self._hash.hexdigest()

    @property
    def _prefix(self) -> str:
        return f"{','.join(self.names)}:"


def rows_between(
    file: pq.ParquetFile, columns: Sequence[str], first: int, last: int, *, count: int
) -> Iterator[tuple[int, pa.Table]]:
    """Columns of a file's rows from one number up to another one, with the number of each table's first row.

    Args:
        file: The file; row groups outside of the range are not read.
        columns: Their names.
        first: The first row's number.
        last: The one after the last row's.
        count: The most rows of a table.
    """
    sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
    ends = list(accumulate(sizes))
    groups = [group for group, end in enumerate(ends) if end > first and end - sizes[group] < last]
    if not groups:
        return
    offset = ends[groups[0]] - sizes[groups[0]]
    for batch in file.iter_batches(count, row_groups=groups, columns=list(columns)):
        begin, end = max(first - offset, 0), min(last - offset, batch.num_rows)
        if begin < end:
            yield offset + begin, pa.Table.from_batches([batch.slice(begin, end - begin)])
        offset += batch.num_rows


def cast_column(column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """A column in another type."""
    # Of instants finer than a microsecond the rest is cut, as everywhere.
    return column if column.type == kind else column.cast(kind, safe=not pa.types.is_timestamp(column.type))


def _texts(column: pa.ChunkedArray) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
    """The lengths of a column's values as texts, and these: with them, no two columns are written the same."""
    if pa.types.is_timestamp(column.type):
        # Its text would take longer, and need a zone.
        column = column.cast(pa.int64())
    kind = pa.large_binary()
    values = column.cast(kind) if pa.types.is_binary(column.type) else column.cast(pa.large_string()).cast(kind)
    return pc.binary_length(values).cast(pa.large_string()).cast(kind), values
