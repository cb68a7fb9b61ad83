"""Whether the version that serves is worse than another, its parent mostly, on the rows that it has served since.

Neither has learnt from them. Both score them anew, so that a version is not blamed for another's inputs; how far the
recomputed scores are from those that were served is told, too. The decision is the gate's sequential test: of rows
that only grow it may be asked every minute, and errs once in 1 / `lineage_alpha` versions all the same. Where they
begin later at each look, or are a sample, that is the error of each look.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.data.labelled_rows import LabelledRows, concatenated
from streamfm.data.splitting import drawn
from streamfm.errors import RegistryError
from streamfm.evaluation.metrics import log_loss
from streamfm.gate import Evidence, GateSettings, Window, accumulated, lineage_bounds
from streamfm.gate.paired import probabilities
from streamfm.monitoring.served_rows import ServedRows
from streamfm.monitoring.settings import MonitorSettings
from streamfm.scoring import Scorer

_SKEW = 1e-3
"""Two processors answer nearer to each other than this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A version that serves against another.

    Attributes:
        served: Number of the version that serves.
        other: Number of the one that it is compared with.
        rows: Rows that it has served, and that are closed.
        log_loss: Its log loss; None, as all that follows, without rows.
        other_log_loss: The other's.
        difference: Nats a row by which it is worse.
        low: Below the truth however often one looks, with probability 1 - `lineage_alpha`.
        high: Above it, likewise.
        margin: What `low` must exceed for a roll-back.
        is_worse: Whether it does.
        skew: Largest distance of a served score from the recomputed one: far from 0, inputs at serving differ from the
            log's.
    """

    served: int
    other: int
    rows: int
    margin: float
    log_loss: float | None = None
    other_log_loss: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    is_worse: bool = False
    skew: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    def __str__(self) -> str:
        """For people."""
        against = f"version {self.served} against version {self.other}"
        if self.difference is None or self.low is None or self.high is None:
            return f"{against}: {self.rows:,} closed rows served, no evidence yet"
        where = f"{self.difference:+.5f} nats ({self.low:+.5f} .. {self.high:+.5f})"
        verdict = "worse" if self.is_worse else "not proven to be worse"
        told = f"{against}: {where} over {self.rows:,} rows it served, margin {self.margin:g}: {verdict}"
        if self.skew is not None and self.skew > _SKEW:
            told += f"; scores as served are up to {self.skew:.4f} from those computed anew"
        return told


def compare(
    rows: ServedRows, served: Scorer, other: Scorer, settings: MonitorSettings, gate: GateSettings
) -> Comparison:
    """Whether a version is worse than another on the rows that it served.

    Args:
        rows: What was served.
        served: The version that serves, published in a registry.
        other: Another version of the same inputs.
        settings: How many rows are scored again.
        gate: Margin and error of the test.

    Raises:
        DataError: The rows lack inputs.
        RegistryError: One of the two is no version.
    """
    number, against = _number(served), _number(other)
    mine = rows.part_of(number)
    if mine.rows == 0:
        return Comparison(served=number, other=against, rows=0, margin=gate.margin)
    mine = drawn(mine, settings.max_rows)
    window, others, skew = _scored(rows, LabelledRows(mine, served.spec), served, other)
    bounds = lineage_bounds(accumulated(Evidence(), window), gate)
    if bounds is None:
        return Comparison(served=number, other=against, rows=window.rows, margin=gate.margin, skew=skew)
    return Comparison(
        served=number,
        other=against,
        rows=window.rows,
        margin=gate.margin,
        log_loss=_log_loss(window, window.parent),
        other_log_loss=_log_loss(window, others),
        difference=bounds.mean,
        low=bounds.low,
        high=bounds.high,
        is_worse=bounds.state == "worse",
        skew=skew,
    )


def _scored(
    rows: ServedRows, labelled: LabelledRows, served: Scorer, other: Scorer
) -> tuple[Window, NDArray[np.float32], float]:
    """The rows as the gate takes them, the served version as parent and the other as anchor; its logits; the skew."""
    batches = list(labelled.batches())
    logits, others = (
        np.concatenate([scorer.logit_columns(batch.columns, batch.rows) for batch in batches])
        for scorer in (served, other)
    )
    told = [batch.column(0).to_numpy() for batch in labelled.source.batches(labelled.source.select(rows.score))]
    skew = float(np.abs(np.concatenate(told) - probabilities(logits.astype(np.float64))).max())
    window = Window(
        labels=np.concatenate([batch.labels for batch in batches]),
        candidate=logits,
        parent=logits,
        anchor=others,
        sample_weights=concatenated([batch.sample_weights for batch in batches]),
        groups=concatenated([batch.groups for batch in batches]),
    )
    return window, others, skew


def _log_loss(window: Window, logits: NDArray[Any]) -> float:
    return log_loss(window.labels, probabilities(logits.astype(np.float64)), window.sample_weights)


def _number(scorer: Scorer) -> int:
    if scorer.version is None:
        raise RegistryError(f"{scorer.bundle.path}: a bundle, not a version in a registry", hint="publish it")
    return scorer.version
