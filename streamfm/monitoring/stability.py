"""Whether scores and features are distributed as they were: population stability index, recent rows against earlier."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from streamfm.data.labelled_rows import LabelledRows
from streamfm.data.sources import Source
from streamfm.features import Feature
from streamfm.monitoring.served_rows import ServedRows
from streamfm.monitoring.settings import MonitorSettings

TABLE_NAMES = ("what", "stability index", "by chance", "missing", "missing before", "new values", "verdict")
_QUANTILES = [tenth / 10 for tenth in range(1, 10)]
_CHANCES = 3.0
"""An index up to so many times what chance alone gives is none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stability:
    """How far a distribution has moved.

    Attributes:
        name: "score", or the feature.
        index: Population stability index of the recent values against those before; None where one side has no rows.
        by_chance: What it would be on average had nothing moved: (bins - 1)(1/n + 1/m).
        missing: Share of the recent rows without a value.
        missing_before: The same of those before.
        new_values: Share of the recent values of a category that were not there before; None for numbers.
        verdict: "stable", "moved" or "shifted".
    """

    name: str
    index: float | None
    by_chance: float | None
    missing: float | None
    missing_before: float | None
    new_values: float | None
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """A line of the table, under `TABLE_NAMES`."""
        return (
            self.name,
            *("—" if value is None else f"{value:.4f}" for value in (self.index, self.by_chance)),
            *("—" if v is None else f"{v:.2%}" for v in (self.missing, self.missing_before, self.new_values)),
            self.verdict,
        )


def stabilities(
    rows: ServedRows, labelled: LabelledRows, settings: MonitorSettings, from_us: int
) -> Iterator[Stability]:
    """Of the score and of every feature, rows from an instant on against those before.

    Args:
        rows: What was served.
        labelled: The same rows, as the specification sees them.
        settings: How.
        from_us: The instant, in microseconds since 1970.
    """
    recent = f"{rows.us} >= {from_us}"
    yield _of_numbers("score", rows.source, rows.score, recent, settings)
    for feature in labelled.spec.features:
        value = labelled.values[feature.name]
        if feature.kind == "numeric":
            yield _of_numbers(feature.name, rows.source, f"CAST({value} AS DOUBLE)", recent, settings)
        else:
            yield _of_categories(feature, rows.source, value, recent, settings)


def _of_numbers(name: str, source: Source, value: str, recent: str, settings: MonitorSettings) -> Stability:
    known = f"CASE WHEN isfinite({value}) THEN {value} END"
    values = source.select(f"{known} AS value, {recent} AS recent")
    quantiles = f"approx_quantile(value, {_QUANTILES}) FILTER (NOT recent)"
    edges = sorted(set(source.execute(f"SELECT {quantiles} FROM ({values})")[0][0] or []))
    bins = " + ".join(f"CAST(value > {edge!r} AS INTEGER)" for edge in edges) or "0"
    found = source.execute(
        f"SELECT {bins} AS bin, count_if(recent), count_if(NOT recent) FROM ({values}) GROUP BY bin ORDER BY bin"
    )
    return _stability(name, {bin: (now, before) for bin, now, before in found}, None, settings)


def _of_categories(feature: Feature, source: Source, value: str, recent: str, settings: MonitorSettings) -> Stability:
    values = source.select(f"CAST({value} AS VARCHAR) AS value, {recent} AS recent")
    if feature.kind == "multivalued":
        # An empty list, too, is one row without a value.
        items = f"CASE WHEN len({value}) > 0 THEN {value} ELSE [NULL] END"
        unnested = source.select(f"unnest({items}) AS item, {recent} AS recent")
        values = f"SELECT CAST(item AS VARCHAR) AS value, recent FROM ({unnested})"
    counted = f"SELECT value, count_if(recent) AS now, count_if(NOT recent) AS before FROM ({values}) GROUP BY value"
    ranked = f"SELECT *, row_number() OVER (ORDER BY value IS NULL, before DESC, value) AS rank FROM ({counted})"
    bins = f"CASE WHEN value IS NULL THEN NULL WHEN rank <= {settings.categories} THEN rank ELSE 0 END"
    new = "coalesce(sum(now) FILTER (before = 0), 0)"
    found = source.execute(
        f"SELECT {bins} AS bin, sum(now), sum(before), {new} FROM ({ranked}) GROUP BY bin ORDER BY bin"
    )
    counts = {bin: (int(now), int(before)) for bin, now, before, _ in found}
    unseen = sum(int(new) for bin, _, _, new in found if bin is not None)
    return _stability(feature.name, counts, unseen, settings)


def _stability(
    name: str, counts: Mapping[int | None, tuple[int, int]], unseen: int | None, settings: MonitorSettings
) -> Stability:
    """From the rows of each bin, recent and before; those without a value are in bin None."""
    now, before = (sum(column) for column in zip(*counts.values(), strict=True)) if counts else (0, 0)
    missing = counts.get(None, (0, 0))
    index = by_chance = None
    verdict = "no rows to compare"
    if now and before:
        index = stability_index(counts.values())
        by_chance = (len(counts) - 1) * (1 / now + 1 / before)
        verdict = "stable"
        if index > _CHANCES * by_chance:
            verdict = "shifted" if index > settings.shifted else "moved" if index > settings.moved else "stable"
    values = now - missing[0]
    return Stability(
        name=name,
        index=index,
        by_chance=by_chance,
        missing=missing[0] / now if now else None,
        missing_before=missing[1] / before if before else None,
        new_values=unseen / values if unseen is not None and values else None,
        verdict=verdict,
    )


def stability_index(counts: Iterable[tuple[int, int]]) -> float:
    """Σ (a - e) ln(a / e) over bins of (recent, before) rows.

    Half a row is added to each, lest an empty one be infinite.
    """
    pairs = [(now + 0.5, before + 0.5) for now, before in counts]
    all_now, all_before = sum(now for now, _ in pairs), sum(before for _, before in pairs)
    return sum((n / all_now - b / all_before) * math.log((n / all_now) / (b / all_before)) for n, b in pairs)
