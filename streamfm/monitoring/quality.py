"""Log loss, AUC and calibration of what was served, by version and by hour: sums that DuckDB makes in one pass.

Rows count as independent; where users have many rows, the intervals are too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from streamfm.data.sources import Source
from streamfm.evaluation.intervals import normal_estimate
from streamfm.evaluation.metrics import PROBABILITY_CLIP
from streamfm.labels.settings import moment
from streamfm.monitoring.served_rows import ServedRows

SERVED = "streamfm_served"
TABLE_NAMES = ("version", "from", "rows", "clicks", "log loss", "95% interval", "AUC", "Σp/Σy", "95% interval")
_CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How some served rows came out.

    Attributes:
        version: That served them; empty for all.
        since: Of the period, or the first row's time.
        rows: How many.
        positives: Of these with label 1.
        log_loss: Nats a row.
        log_loss_low: Lower end of its 95 % interval; None, as the upper, where there is none.
        log_loss_high: Upper end.
        auc: None where a label is missing.
        calibration: Σp/Σy; None without a positive.
        calibration_low: Lower end of its 95 % interval.
        calibration_high: Upper end.
        mean_prediction: Weighted.
        mean_label: Weighted; the click rate.
    """

    version: str
    since: datetime
    rows: int
    positives: int
    log_loss: float
    log_loss_low: float | None
    log_loss_high: float | None
    auc: float | None
    calibration: float | None
    calibration_low: float | None
    calibration_high: float | None
    mean_prediction: float
    mean_label: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self) | {"since": self.since.isoformat()}

    def cells(self) -> tuple[str, ...]:
        """A line of the table, under `TABLE_NAMES`."""
        return (
            self.version or "all",
            f"{self.since:%Y-%m-%d %H:%M}",
            f"{self.rows:,}",
            f"{self.positives:,}",
            f"{self.log_loss:.5f}",
            _interval(self.log_loss_low, self.log_loss_high, 5),
            "—" if self.auc is None else f"{self.auc:.4f}",
            "—" if self.calibration is None else f"{self.calibration:.3f}",
            _interval(self.calibration_low, self.calibration_high, 3),
        )


class _Sums(NamedTuple):
    """Over the rows of a group; w weight, y label, p probability, l log loss."""

    first_us: int
    rows: int
    positives: int
    w: float
    wy: float
    wp: float
    wl: float
    w2: float
    w2l: float
    w2ll: float
    w2y: float
    w2yp: float
    w2pp: float

    @classmethod
    def over(cls, parts: Iterable[_Sums]) -> _Sums:
        """Of several groups together."""
        columns = list(zip(*parts, strict=True))
        return cls(min(columns[0]), *(sum(column) for column in columns[1:]))


_SQL = (
    "min(us), count(*), count_if(y = 1), sum(w), sum(w * y), sum(w * p), sum(w * l), sum(w * w), sum(w * w * l), "
    "sum(w * w * l * l), sum(w * w * y), sum(w * w * y * p), sum(w * w * p * p)"
)


def store(rows: ServedRows) -> str:
    """SQL of the table that all measures are made from; of weights, those above 0."""
    p = f"greatest({PROBABILITY_CLIP}, least(1 - {PROBABILITY_CLIP}, {rows.score}))"
    inner = rows.source.select(
        f"{rows.version} AS version, {rows.us} AS us, {rows.label} AS y, {p} AS p, {rows.weight} AS w",
        f"WHERE {rows.weight} > 0 AND {rows.us} IS NOT NULL",
    )
    return f"SELECT *, -ln(CASE WHEN y = 1 THEN p ELSE 1 - p END) AS l FROM ({inner})"


def measured(source: Source, bucket_s: float) -> tuple[Quality | None, list[Quality], list[Quality]]:
    """How the stored rows came out: all of them (None without any), each version, and each version in each period."""
    period = round(bucket_s * 1_000_000)
    bucket = f"us - us % {period}"
    found = source.execute(
        f"SELECT version, {bucket} AS bucket, {_SQL} FROM {SERVED} GROUP BY ALL ORDER BY bucket, version"
    )
    if not found:
        return None, [], []
    sums = {(version, start): _Sums(*rest) for version, start, *rest in found}
    versions: dict[str, list[_Sums]] = {}
    for (version, _), part in sums.items():
        versions.setdefault(version, []).append(part)
    areas = {keys: _areas(source, keys, bucket) for keys in ((), ("version",), ("version", "bucket"))}
    everything = _quality("", None, _Sums.over(sums.values()), areas[()].get(()))
    by_version = [
        _quality(version, None, _Sums.over(parts), areas["version",].get((version,)))
        for version, parts in sorted(versions.items(), key=lambda item: min(part.first_us for part in item[1]))
    ]
    periods = [
        _quality(version, start, part, areas["version", "bucket"].get((version, start)))
        for (version, start), part in sums.items()
    ]
    return everything, by_version, periods


def _areas(source: Source, keys: Sequence[str], bucket: str) -> dict[tuple[Any, ...], float]:
    """AUC of each group that has both labels: Σ over scores of positives times negatives below, half of the ties."""
    listed = "".join(f"{key}, " for key in keys)
    partition = f"PARTITION BY {', '.join(keys)}" if keys else ""
    tied = (
        f"SELECT {listed}p, sum(w * y) AS positive, sum(w * (1 - y)) AS negative "
        f"FROM (SELECT *, {bucket} AS bucket FROM {SERVED}) GROUP BY {listed}p"
    )
    below = f"sum(negative) OVER ({partition} ORDER BY p ROWS UNBOUNDED PRECEDING) - negative / 2"
    pairs = "sum(positive) * sum(negative)"
    grouped = f"GROUP BY {', '.join(keys)}" if keys else ""
    query = (
        f"SELECT {listed}sum(positive * below) / ({pairs}) FROM (SELECT *, {below} AS below FROM ({tied})) "
        f"{grouped} HAVING {pairs} > 0"
    )
    return {tuple(row[:-1]): row[-1] for row in source.execute(query)}


def _quality(version: str, start_us: int | None, sums: _Sums, auc: float | None) -> Quality:
    s, spread = sums, sums.rows / (sums.rows - 1) if sums.rows > 1 else math.nan
    mean = s.wl / s.w
    loss = normal_estimate(
        mean, _root(s.w2ll - 2 * mean * s.w2l + mean**2 * s.w2, spread) / s.w, _CONFIDENCE, lowest=0.0
    )
    ratio = s.wp / s.wy if s.wy > 0 else None
    low = high = None
    if ratio is not None:
        error = _root(s.w2pp - 2 * ratio * s.w2yp + ratio**2 * s.w2y, spread) / s.wp
        logarithm = normal_estimate(math.log(ratio), error, _CONFIDENCE)
        low, high = (None if end is None else math.exp(end) for end in (logarithm.low, logarithm.high))
    return Quality(
        version=version,
        since=moment(s.first_us if start_us is None else start_us).astimezone(UTC),
        rows=s.rows,
        positives=s.positives,
        log_loss=mean,
        log_loss_low=loss.low,
        log_loss_high=loss.high,
        auc=auc,
        calibration=ratio,
        calibration_low=low,
        calibration_high=high,
        mean_prediction=s.wp / s.w,
        mean_label=s.wy / s.w,
    )


def _root(squares: float, spread: float) -> float:
    return math.sqrt(max(squares, 0.0) * spread)


def _interval(low: float | None, high: float | None, digits: int) -> str:
    return "" if low is None or high is None else f"{low:.{digits}f} .. {high:.{digits}f}"
