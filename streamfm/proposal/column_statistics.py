"""What a table's columns hold, counted by DuckDB: the facts that a proposal is made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.data.sources import Source
from streamfm.errors import SpecError
from streamfm.expressions import quoted
from streamfm.features.inputs import Input

_COLUMNS_PER_QUERY = 20
_ARRAY = re.compile(r"\[\d+\]$")
_TIME = r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(:\d\d(\.\d+)?)?"
_WRITTEN = {
    "DATE": r"\d{4}-\d\d-\d\d",
    "TIMESTAMP": _TIME,
    "TIMESTAMPTZ": _TIME + r"(Z|[+-]\d\d(:?\d\d)?)",
    "VARCHAR[]": r"\[.*\]",
}
# HyperLogLog errs by some per cent: what comes near is counted exactly.
_NEARLY_UNIQUE = 0.8
_LABELLED_SAMPLE = 100_000


@dataclass(frozen=True, kw_only=True)
class ColumnStatistics:
    """One column.

    Attributes:
        item: The input that it would be, with its SQL type; None for a type that no input can have.
        type: Its SQL type as DuckDB names it.
        name: Its name.
        rows: Of the table or sample.
        present: Rows that are not NULL.
        distinct: About how many values; of a list, elements.
        is_unique: Whether every row has a value, and no two the same.
        shown: One of its values, as text.
        least: Of numbers, the smallest finite one (0 for others, as all that follow).
        low: Their 1 % quantile.
        median: Their median.
        high: Their 99 % quantile.
        zeros: Share of the values that are 0.
        infinite: How many are infinite.
        is_whole: Whether all are integers, whatever type holds them.
        length: Of lists, the 99 % quantile of the length.
    """

    item: Input | None
    type: str
    name: str
    rows: int
    present: int
    distinct: int = 0
    is_unique: bool = False
    shown: str = ""
    least: float = 0.0
    low: float = 0.0
    median: float = 0.0
    high: float = 0.0
    zeros: float = 0.0
    infinite: int = 0
    is_whole: bool = False
    length: int = 0

    @property
    def null_share(self) -> float:
        """Share of the rows that are NULL."""
        return 1 - self.present / self.rows

    @property
    def is_number(self) -> bool:
        """Whether it holds integers or reals."""
        return self.item is not None and not self.item.is_list and self.item.family in ("integer", "real")


def column_statistics(source: Source, names: Sequence[str]) -> list[ColumnStatistics]:
    """Statistics of the columns, in their order; hundreds of columns take a handful of passes."""
    found: list[ColumnStatistics] = []
    for start in range(0, len(names), _COLUMNS_PER_QUERY):
        found += _statistics_of(source, names[start : start + _COLUMNS_PER_QUERY])
    return found


def input_of(name: str, kind: str) -> Input | None:
    """The input that a column of this SQL type would be, or None."""
    try:
        return Input(name=name, type=_ARRAY.sub("[]", re.sub(r"^ENUM\(.*\)", "VARCHAR", kind)))
    except SpecError:
        return None


def inputs_in_texts(source: Source) -> tuple[Input, ...]:
    """Inputs to declare for the columns of a text file whose every value is a list, a date or an instant, as a text."""
    texts = [name for name, kind in source.columns.items() if kind == "VARCHAR"]
    return tuple(Input(name=name, type=kind) for name in texts if (kind := _written_type(source, quoted(name))))


def _written_type(source: Source, value: str) -> str:
    for kind, form in _WRITTEN.items():
        fits = f"regexp_full_match({value}, '{form}') AND TRY_CAST({value} AS {kind}) IS NOT NULL"
        if source.fetch(f"bool_and({fits})", f"WHERE {value} IS NOT NULL")[0]:
            return kind
    return ""


def explains_label(source: Source, column: ColumnStatistics, label: str) -> bool:
    """Whether the column alone tells the label 0 or 1, as only something does that happened after it.

    It does when guessing by its value (of many numbers: by comparing; of instants: by whether there is one) errs a
    hundred times less than not looking.
    """
    value = quoted(column.name)
    sample = f"LIMIT {_LABELLED_SAMPLE}"
    if column.is_number and column.distinct > 100:
        return _orders_label(source, value, label, sample)
    if column.item is None or column.item.is_list or column.item.is_temporal:
        value = f"{value} IS NULL"
    elif column.present / max(column.distinct, 1) < 20:
        return False
    grouped = (
        f"SELECT {value} AS v, count_if({label} = 1) AS p, count(*) AS n FROM ({source.select('*', sample)}) GROUP BY v"
    )
    wrong, positives, rows = source.execute(f"SELECT sum(least(p, n - p)), sum(p), sum(n) FROM ({grouped})")[0]
    return bool(wrong <= 0.01 * min(positives, rows - positives))


def _orders_label(source: Source, value: str, label: str, sample: str) -> bool:
    query = source.select(
        f"CAST({value} AS DOUBLE) AS x, CAST({label} AS DOUBLE) AS y", f"WHERE {value} IS NOT NULL {sample}"
    )
    batches = list(source.batches(query))
    x, y = (np.concatenate([batch.column(i).to_numpy() for batch in batches]) for i in (0, 1))
    positive = y == 1
    pairs = positive.sum() * (~positive).sum()
    if not pairs:
        return False
    below = _ranks(x)[positive].sum() - positive.sum() * (positive.sum() + 1) / 2
    return bool(abs(below / pairs - 0.5) >= 0.495)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from 1, the mean one for equal values."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _statistics_of(source: Source, names: Sequence[str]) -> Iterator[ColumnStatistics]:
    aggregates: list[str] = []
    items = [input_of(name, source.columns[name]) for name in names]
    for name, item in zip(names, items, strict=True):
        aggregates += _aggregates(quoted(name), item)
    values = iter(source.fetch("count(*), " + ", ".join(aggregates)))
    rows = next(values)
    for name, item in zip(names, items, strict=True):
        facts = dict(zip(_FACTS, (next(values) for _ in _FACTS), strict=True))
        yield _column(source, name, item, rows, facts)


_FACTS = ("present", "distinct", "shown", "least", "quantiles", "zeros", "infinite", "fractions", "length")


def _aggregates(value: str, item: Input | None) -> list[str]:
    """SQL of `_FACTS`, in their order."""
    nothing = ["NULL"] * 6
    if item is None:
        return [f"count({value})", "NULL", "NULL", *nothing]
    if item.is_list:
        counted = f"CAST(approx_quantile(len({value}), 0.99) AS INTEGER)"
        return [f"count({value})", "NULL", "NULL", *nothing[:5], counted]
    common = [f"count({value})", f"approx_count_distinct({value})", f"left(CAST(min({value}) AS VARCHAR), 60)"]
    if item.family not in ("integer", "real"):
        return common + nothing
    number = f"CAST({value} AS DOUBLE)"
    finite = f"CASE WHEN isfinite({number}) THEN {number} END"
    return [
        *common,
        f"min({finite})",
        f"approx_quantile({finite}, [0.01, 0.5, 0.99])",
        f"count_if({value} = 0)",
        f"count_if(isinf({number}))",
        f"count_if({finite} <> trunc({finite}))",
        "NULL",
    ]


def _column(source: Source, name: str, item: Input | None, rows: int, facts: dict[str, Any]) -> ColumnStatistics:
    present, distinct = facts["present"], facts["distinct"] or 0
    is_unique = False
    if item is not None and item.is_list:
        elements = source.select(f"unnest({quoted(name)}) AS e")
        distinct = source.execute(f"SELECT approx_count_distinct(e) FROM ({elements})")[0][0]
    elif item is not None and (distinct > _NEARLY_UNIQUE * present or distinct <= 2):
        distinct = source.fetch(f"count(DISTINCT {quoted(name)})")[0]
        is_unique = distinct == present == rows
    low, median, high = facts["quantiles"] or (0.0, 0.0, 0.0)
    return ColumnStatistics(
        item=item,
        type=source.columns[name],
        name=name,
        rows=rows,
        present=present,
        distinct=min(distinct, present) if not (item and item.is_list) else distinct,
        is_unique=is_unique,
        shown=facts["shown"] or "",
        least=facts["least"] or 0.0,
        low=low,
        median=median,
        high=high,
        zeros=(facts["zeros"] or 0) / max(present, 1),
        infinite=facts["infinite"] or 0,
        is_whole=facts["fractions"] == 0,
        length=facts["length"] or 0,
    )
