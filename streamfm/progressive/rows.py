"""A log in the order of its time, read once: every column lies in memory, as Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.data.labelled_rows import LabelledBatch, LabelledRows, concatenated, instant
from streamfm.data.sources import ROW_NUMBER, Source, SourceLike, open_source
from streamfm.errors import DataError, SpecError
from streamfm.features import FeatureSpec

_NOT_ORDERED = "the specification names no event_time: which rows came first?"


@dataclass(frozen=True, kw_only=True, eq=False)
class OrderedRows:
    """Rows from the earliest to the latest (N rows).

    Attributes:
        table: The columns as they were read, for training from scratch.
        batch: The same rows, labelled, columns derived by SQL included.
        times: int64 [N], microseconds since 1970 in UTC, ascending.
    """

    table: pa.Table
    batch: LabelledBatch
    times: NDArray[np.int64]

    def __len__(self) -> int:
        """N."""
        return self.batch.rows

    def part(self, start: int, end: int) -> LabelledBatch:
        """The rows from `start` up to `end`."""
        return self._chosen(slice(start, end), end - start)

    def take(self, rows: NDArray[np.intp]) -> LabelledBatch:
        """These rows."""
        return self._chosen(rows, len(rows))

    def _chosen(self, rows: slice | NDArray[np.intp], count: int) -> LabelledBatch:
        batch = self.batch
        return LabelledBatch(
            columns={name: _of_array(column, rows) for name, column in batch.columns.items()},
            rows=count,
            labels=batch.labels[rows],
            sample_weights=_of(batch.sample_weights, rows),
            groups=_of(batch.groups, rows),
            times=_of(batch.times, rows),
        )


def read_rows(rows: SourceLike, spec: FeatureSpec, order: Sequence[str] = ()) -> OrderedRows:
    """All rows, checked, in the order of event time, `order`, event id, and their place in the source.

    Raises:
        SpecError: The specification names no event time.
        DataError: The rows cannot be used, or one has no event time; names the column and the row.
    """
    if not spec.event_time:
        error = SpecError(_NOT_ORDERED, hint='add event_time = "COLUMN" to the specification')
        raise spec.blamed(error)
    with open_source(rows, inputs=spec.inputs) as source:
        labelled = LabelledRows(source, spec)
        source.require(order)
        time = instant(source.column(spec.event_time))
        if missing := source.fetch(f"count_if({time} IS NULL)")[0]:
            place = source.first_row(f"{time} IS NULL", "NULL")[0]
            raise DataError(f"{place}: event time {spec.event_time!r} is NULL ({missing:,} such rows)")
        with source.table("ordered", _ordered(source, labelled, [time, *_further(source, spec, order)])):
            part = Source(source.name, source.connection, "SELECT * FROM ordered")
            table = pa.Table.from_batches(part.batches(part.sql), part.schema(part.sql))
            batch = _joined(labelled.part(part).batches())
    return OrderedRows(table=table, batch=batch, times=cast("NDArray[np.int64]", batch.times))


def _further(source: Source, spec: FeatureSpec, order: Sequence[str]) -> list[str]:
    return [source.column(name) for name in (*order, spec.event_id) if name]


def _ordered(source: Source, labelled: LabelledRows, order: Sequence[str]) -> str:
    """The columns that training reads, ordered; rows that `order` does not tell apart, as they lie."""
    spec = labelled.spec
    optional = [name for name in (spec.label, spec.weight, spec.group, spec.event_time, spec.event_id) if name]
    wanted = dict.fromkeys(source.column(name) for name in (*labelled.inputs, *optional))
    numbered = source.select(f"*, row_number() OVER () AS {ROW_NUMBER}")
    return f"SELECT {', '.join(wanted)} FROM ({numbered}) ORDER BY {', '.join([*order, ROW_NUMBER])}"


def _joined(batches: Iterator[LabelledBatch]) -> LabelledBatch:
    parts = list(batches)
    return LabelledBatch(
        columns={name: _chunked([part.columns[name] for part in parts]) for name in parts[0].columns},
        rows=sum(part.rows for part in parts),
        labels=np.concatenate([part.labels for part in parts]),
        sample_weights=concatenated([part.sample_weights for part in parts]),
        groups=concatenated([part.groups for part in parts]),
        times=concatenated([part.times for part in parts]),
    )


def _chunked(columns: list[pa.Array | pa.ChunkedArray]) -> pa.ChunkedArray:
    chunks = [chunk for column in columns for chunk in (column.chunks if hasattr(column, "chunks") else [column])]
    return pa.chunked_array(chunks)


def _of(column: NDArray[Any] | None, rows: slice | NDArray[np.intp]) -> NDArray[Any] | None:
    return None if column is None else column[rows]


def _of_array(column: pa.Array | pa.ChunkedArray, rows: slice | NDArray[np.intp]) -> pa.Array:
    chosen = column.slice(rows.start, rows.stop - rows.start) if isinstance(rows, slice) else column.take(rows)
    return chosen.combine_chunks() if isinstance(chosen, pa.ChunkedArray) else chosen
