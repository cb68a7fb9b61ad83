"""Everything about what was served, from labelled rows that carry its score and version."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from streamfm.data.labelled_rows import LabelledRows
from streamfm.features import FeatureSpec
from streamfm.labels.settings import moment
from streamfm.monitoring.quality import SERVED, Quality, measured, store
from streamfm.monitoring.served_rows import ServedRows
from streamfm.monitoring.settings import MonitorSettings
from streamfm.monitoring.stability import Stability, stabilities


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorReport:
    """How what was served has come out.

    Attributes:
        overall: All rows; None where all have weight 0.
        versions: Each version, in the order of its first row.
        periods: Each version in each period, in the order of time.
        recent_from: From when on rows are compared with those before.
        stability: Of the score and of every feature.
        unscored: Rows of the model without a score.
        others: Rows of other models.
    """

    overall: Quality | None
    versions: tuple[Quality, ...]
    periods: tuple[Quality, ...]
    recent_from: datetime
    stability: tuple[Stability, ...]
    unscored: int
    others: int

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return {
            "overall": None if self.overall is None else self.overall.to_dict(),
            "versions": [one.to_dict() for one in self.versions],
            "periods": [one.to_dict() for one in self.periods],
            "recent_from": self.recent_from.isoformat(),
            "stability": [one.to_dict() for one in self.stability],
            "unscored": self.unscored,
            "others": self.others,
        }


def monitor(rows: ServedRows, spec: FeatureSpec, settings: MonitorSettings) -> MonitorReport:
    """How what was served has come out.

    Args:
        rows: Labelled rows that carry scores.
        spec: The model's.
        settings: How it is looked at.

    Raises:
        DataError: A row that cannot be measured: a label that is none, an input of a wrong type.
    """
    labelled = LabelledRows(rows.source, spec)
    source = labelled.source
    with source.table(SERVED, store(rows)):
        overall, versions, periods = measured(source, settings.bucket_s)
    from_us = _recent_from(rows, settings)
    return MonitorReport(
        overall=overall,
        versions=tuple(versions),
        periods=tuple(periods),
        recent_from=moment(from_us).astimezone(UTC),
        stability=tuple(stabilities(rows, labelled, settings, from_us)),
        unscored=rows.unscored,
        others=rows.others,
    )


def _recent_from(rows: ServedRows, settings: MonitorSettings) -> int:
    """The instant from which on rows are recent, in microseconds since 1970."""
    first, last = rows.source.fetch(f"coalesce(min({rows.us}), 0), coalesce(max({rows.us}), 0)")
    if settings.recent_s is None:
        return int(first + (last - first) // 2)
    return int(last - round(settings.recent_s * 1_000_000))
