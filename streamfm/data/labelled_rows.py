"""Rows with labels, as a specification sees a source: checked, typed, SQL features derived."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.data.checks import check_rows, needed_columns
from streamfm.data.sources import Source, SourceLike, open_source
from streamfm.encoder.category import category_texts
from streamfm.encoder.vocabulary import hash_texts
from streamfm.errors import SpecError
from streamfm.expressions import Deriver, typed
from streamfm.features import Feature, FeatureSpec
from streamfm.rows import Columns

NO_GROUP = np.int64(np.iinfo(np.int64).min)
"""Stands for a NULL group, which is none."""


class LabelledBatch(NamedTuple):
    """Rows as they come out of a source (B rows).

    Attributes:
        columns: The inputs, by name, and the columns that SQL derives.
        rows: B.
        labels: float32 [B].
        sample_weights: float32 [B], or None.
        groups: int64 [B], a hash of the group, `NO_GROUP` for none; or None.
        times: int64 [B], microseconds since 1970 in UTC, 0 for NULL; or None.
    """

    columns: Columns
    rows: int
    labels: NDArray[np.float32]
    sample_weights: NDArray[np.float32] | None
    groups: NDArray[np.int64] | None
    times: NDArray[np.int64] | None

    def optional(self) -> dict[str, NDArray[Any] | None]:
        """The columns that not every specification has."""
        return {"sample_weights": self.sample_weights, "groups": self.groups, "times": self.times}


class LabelledRows:
    """A source as a specification sees it: checked, with the SQL of every feature's values."""

    def __init__(self, source: Source, spec: FeatureSpec) -> None:
        """Check all that can be checked without a vocabulary.

        Raises:
            SpecError: An SQL feature that is not allowed; names the file of the specification, if it has one.
            DataError: See `check_rows`.
        """
        self.source, self.spec = source, spec
        self.deriver = deriver_of(spec)
        self.inputs = needed_columns(spec, self.deriver)
        source.keep()
        optional = [name for name in (spec.weight, spec.group, spec.event_time) if name]
        source.require([*self.inputs, spec.label, *optional])
        self.values = values_of(source, self.deriver)
        check_rows(source, spec, self.deriver, self.values)

    def part(self, source: Source) -> LabelledRows:
        """Some of the rows: a part of the same source, which was checked with it."""
        part = copy.copy(self)
        part.source = source
        return part

    def window(self) -> tuple[str | None, str | None]:
        """First and last event time as ISO 8601, in UTC; None where there is none."""
        if not self.spec.event_time:
            return None, None
        time = instant(self.source.column(self.spec.event_time))
        first, last = (f"strftime({least}({time}), '%Y-%m-%dT%H:%M:%S.%fZ')" for least in ("min", "max"))
        found: tuple[str | None, str | None] = self.source.fetch(f"{first}, {last}")
        return found

    def batches(self) -> Iterator[LabelledBatch]:
        """All rows, SQL features derived."""
        spec, column = self.spec, self.source.column
        wanted = [column(name) for name in self.inputs]
        wanted += [f"CAST({column(name)} AS FLOAT)" for name in (spec.label, spec.weight) if name]
        wanted += [column(spec.group)] if spec.group else []
        wanted += [f"coalesce(epoch_us({instant(column(spec.event_time))}), 0)"] if spec.event_time else []
        query = self.source.select(", ".join(f"{sql} AS c{number}" for number, sql in enumerate(wanted)))
        for batch in self.source.batches(query):
            yield self._labelled(batch)

    def _labelled(self, batch: pa.RecordBatch) -> LabelledBatch:
        arrays = iter(batch.columns)
        columns: Columns = {name: next(arrays) for name in self.inputs}
        return LabelledBatch(
            columns=self.deriver.derive(columns, batch.num_rows),
            rows=batch.num_rows,
            labels=next(arrays).to_numpy(),
            sample_weights=next(arrays).to_numpy() if self.spec.weight else None,
            groups=_hashed_groups(next(arrays)) if self.spec.group else None,
            times=next(arrays).to_numpy() if self.spec.event_time else None,
        )


def deriver_of(spec: FeatureSpec) -> Deriver:
    """What computes a specification's SQL features.

    Raises:
        SpecError: One that is not allowed; names the file of the specification, if it has one.
    """
    try:
        return Deriver(spec)
    except SpecError as error:
        raise spec.blamed(error) from error.__cause__


def values_of(source: Source, deriver: Deriver) -> dict[str, str]:
    """SQL of the values of each feature that the encoder sees, over the source's columns."""
    return {feature.name: _value_of(feature, source, deriver) for feature in deriver.spec.features}


def _value_of(feature: Feature, source: Source, deriver: Deriver) -> str:
    if not feature.sql:
        return source.column(feature.input)
    expression = deriver.expressions[feature.name]
    columns = {name: typed(deriver.spec.input(name), source.column(name)) for name in expression.columns}
    return expression.render(columns)


@contextmanager
def open_labelled(rows: SourceLike | LabelledRows, spec: FeatureSpec) -> Iterator[LabelledRows]:
    """The rows of a source, checked; inside `with`.

    Raises:
        SpecError: An SQL feature that is not allowed.
        DataError: As `open_source` and `check_rows`.
    """
    if isinstance(rows, LabelledRows):
        yield rows
        return
    with open_source(rows, inputs=spec.inputs) as source:
        yield LabelledRows(source, spec)


def concatenated(parts: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """An optional column of several batches, one after the other; None where none has it."""
    present = [part for part in parts if part is not None]
    return np.concatenate(present) if present else None


def instant(column: str) -> str:
    """SQL of a date or timestamp, which is in UTC as the connection is, as an instant."""
    return f"CAST({column} AS TIMESTAMPTZ)"


def _hashed_groups(array: pa.Array) -> NDArray[np.int64]:
    texts = category_texts(array)
    hashes = hash_texts(texts, np.uint64(0)).view(np.int64)
    groups: NDArray[np.int64] = np.where(texts.is_valid().to_numpy(zero_copy_only=False), hashes, NO_GROUP)
    return groups
