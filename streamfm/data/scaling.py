"""Statistics of numeric features by DuckDB: what the encoder scales and buckets numbers with.

NULL, NaN and infinity do not count. The same rows give the same statistics, whatever the number of threads: sums are
compensated (favg), and what is left of the order of addition is rounded away.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamfm.data.sources import Source
from streamfm.encoder.vocabulary import NumericStatistics
from streamfm.features import Feature

_DIGITS = 9


def numeric_statistics(
    source: Source, columns: Mapping[str, str], features: Sequence[Feature]
) -> dict[str, NumericStatistics]:
    """The statistics of every numeric feature, by name.

    Args:
        source: The rows of training.
        columns: SQL of each feature's values over the source's columns.
        features: Of which the numeric ones count.

    Returns:
        For ``standard``, mean and population deviation; for ``log1p``, those of sign(x)·ln(1 + |x|); for ``quantile``,
        the distinct boundaries; for ``none``, mean 0 and deviation 1. A column without two values has deviation 1.
    """
    numeric = [feature for feature in features if feature.kind == "numeric"]
    scaled = {f.name: _transformed(columns[f.name], f) for f in numeric if f.transform in ("standard", "log1p")}
    statistics = dict.fromkeys((feature.name for feature in numeric), NumericStatistics())
    statistics |= _moments(source, scaled)
    for feature in numeric:
        if feature.transform == "quantile":
            boundaries = _boundaries(source, _finite(columns[feature.name]), feature.buckets)
            statistics[feature.name] = NumericStatistics(boundaries=boundaries)
    return statistics


def _finite(column: str) -> str:
    number = f"CAST({column} AS DOUBLE)"
    return f"CASE WHEN isfinite({number}) THEN {number} END"


def _transformed(column: str, feature: Feature) -> str:
    number = _finite(column)
    return f"sign({number}) * ln(1 + abs({number}))" if feature.transform == "log1p" else number


def _moments(source: Source, numbers: Mapping[str, str]) -> dict[str, NumericStatistics]:
    """Mean and deviation, in three passes over all columns at once.

    Taken of y = (x/2 - min/2) / (max/2 - min/2), from 0 to 1: no square overflows, and no difference cancels.
    """
    least = _of_each(source, {name: f"min({number})" for name, number in numbers.items()})
    most = _of_each(source, {name: f"max({number})" for name, number in numbers.items()})
    lows = {name: low for name, low in least.items() if low is not None}
    halves = {name: half for name, low in lows.items() if (half := most[name] / 2 - low / 2) > 0}
    placed = {name: f"(({numbers[name]}) / 2 - {lows[name] / 2!r}) / {half!r}" for name, half in halves.items()}
    means = _of_each(source, {name: f"favg({y})" for name, y in placed.items()})
    variances = _of_each(source, {name: f"favg(pow({y} - {means[name]!r}, 2))" for name, y in placed.items()})
    varied = {name: _moments_of(lows[name], halves[name], means[name], variances[name]) for name in halves}
    return {name: NumericStatistics(mean=low) for name, low in lows.items()} | varied


def _of_each(source: Source, aggregates: Mapping[str, str]) -> dict[str, Any]:
    if not aggregates:
        return {}
    return dict(zip(aggregates, source.fetch(", ".join(aggregates.values())), strict=True))


def _moments_of(low: float, half: float, mean: float, variance: float) -> NumericStatistics:
    """Statistics of x, from those of y."""
    deviation = half * (2 * math.sqrt(variance))
    places = _DIGITS - math.floor(math.log10(deviation))
    return NumericStatistics(mean=round(low + half * mean + half * mean, places), deviation=round(deviation, places))


def _boundaries(source: Source, number: str, buckets: int) -> tuple[float, ...]:
    """The distinct values at which a share of 1/buckets, 2/buckets, ... of all values is reached, but for the least.

    Counted over the sorted distinct values, which DuckDB spills: exact for any number of rows.
    """
    values = (
        f"SELECT x, count(*) AS n FROM ({source.select(f'{number} AS x')}) WHERE x IS NOT NULL GROUP BY x ORDER BY x"
    )
    with source.table("numbers", values):
        total = source.execute("SELECT coalesce(sum(n), 0)::BIGINT FROM numbers")[0][0]
        wanted = np.arange(1, buckets) * (total / buckets)
        found: list[float] = []
        lowest, seen = None, 0
        for batch in source.batches("SELECT x, n FROM numbers"):
            numbers, counts = batch.column(0).to_numpy(), batch.column(1).to_numpy()
            reached = seen + np.cumsum(counts)
            inside = wanted[(wanted > seen) & (wanted <= reached[-1])]
            found += numbers[np.searchsorted(reached, inside)].tolist()
            lowest = numbers[0] if lowest is None else lowest
            seen = int(reached[-1])
    # Below the lowest value there is nothing: a boundary there would leave a bucket that no row trains.
    return tuple(value for value in dict.fromkeys(found) if value != lowest)
