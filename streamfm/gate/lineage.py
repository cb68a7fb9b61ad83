"""Whether what was served since an anchor version is worse than the anchor: a test that may be looked at every round.

A parent that is "not significantly worse" a hundred times in a row may be much worse than it was. So the parent is
compared with an anchor, a version some rounds back, on every window, and the differences add up. Their confidence
sequence is Robbins' normal mixture, one-sided (Howard et al. 2021, "Time-uniform, nonparametric, nonasymptotic
confidence sequences"), on the estimated variance (Waudby-Smith et al. 2021, "Time-uniform central limit
theory"): it holds at all rounds together with probability 1 - alpha, so that looking often costs nothing.

The rows that count are those that a round learns. Most of them came after the parent was chosen, so that its
differences are fair there. The first of them, a quarter where rounds are alike, are the window on which it passed the
gate, and to which its logit shift was fitted, if any: a small bias in its favour. A candidate's own window is all bias.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple

import numpy as np

from streamfm.errors import DataError
from streamfm.gate.paired import clipped, cluster_squares, model_variance, row_losses
from streamfm.gate.settings import GateSettings
from streamfm.gate.window import Window


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """What the rounds since the anchor have shown; stands in the manifest of every published version.

    Attributes:
        anchor: The version that the lineage is compared with; empty before the first round.
        debt: Nats by which earlier anchors, as estimated, were better than this one; taken from the margin, so that
            many small steps down do not add up unseen.
        rounds: Windows counted.
        rows: Rows in them.
        weight: Sum of their weights.
        excess: Sum of weight times (loss of the parent - loss of the anchor), in nats.
        variance: Of that sum, as estimated.
    """

    anchor: str = ""
    debt: float = 0.0
    rounds: int = 0
    rows: int = 0
    weight: float = 0.0
    excess: float = 0.0
    variance: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Evidence:
        """What `to_json` gave; of an empty mapping, no evidence.

        Raises:
            DataError: A key that is unknown, or a value of another type.
        """
        kinds = {field.name: field.type for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in body.items():
            kind = {"str": (str,), "int": (int,), "float": (int, float)}.get(str(kinds.get(name)))
            if kind is None or not isinstance(value, kind) or isinstance(value, bool):
                known = ", ".join(f"{key} ({expected})" for key, expected in kinds.items())
                raise DataError(f"evidence of the gate: {name} is {value!r:.80}", hint=f"expected {known}")
            values[name] = value
        evidence = cls(**values)
        numbers = [value for value in asdict(evidence).values() if not isinstance(value, str)]
        if not all(math.isfinite(value) for value in numbers) or min(evidence.weight, evidence.variance) < 0:
            raise DataError(f"evidence of the gate: {body!r:.200}", hint="expected finite numbers, none negative")
        return evidence


class LineageBounds(NamedTuple):
    """Where the lineage stands against its anchor.

    Attributes:
        mean: Estimated excess of the lineage's log loss, nats a row.
        low: Below the truth at every round, with probability 1 - lineage_alpha.
        high: Above the truth at every round, likewise.
        state: "worse": by more than the margin left; "proven": by less than that; else "open".
        allowed: The margin that earlier anchors have left.
    """

    mean: float
    low: float
    high: float
    state: Literal["open", "worse", "proven"]
    allowed: float


def accumulated(evidence: Evidence, window: Window) -> Evidence:
    """The evidence with one more window, which has the anchor's logits; a window of fewer than two groups is none."""
    if window.anchor is None:
        return evidence
    known = np.isfinite(window.parent) & np.isfinite(window.anchor) & (window.weights() > 0)
    part, anchor = window.part(known), clipped(window.anchor[known])
    labels, parent, weights, clusters = (
        part.labels.astype(np.float64),
        clipped(part.parent),
        part.weights(),
        part.clusters(),
    )
    excesses = weights * (row_losses(labels, parent) - row_losses(labels, anchor))
    excess, weight = float(excesses.sum()), float(weights.sum())
    if weight <= 0 or clusters.max() < 1:
        return evidence
    _, squares = cluster_squares(excesses - weights * (excess / weight), clusters)
    return replace(
        evidence,
        rounds=evidence.rounds + 1,
        rows=evidence.rows + part.rows,
        weight=evidence.weight + weight,
        excess=evidence.excess + excess,
        variance=evidence.variance + max(squares, model_variance(parent, anchor, weights)),
    )


def lineage_bounds(evidence: Evidence, settings: GateSettings) -> LineageBounds | None:
    """The confidence sequence after the rounds so far, and what it decides; None without rows."""
    if evidence.weight <= 0 or evidence.rows == 0:
        return None
    mean = evidence.excess / evidence.weight
    reach = _boundary(evidence, settings) / evidence.weight
    low, high, allowed = mean - reach, mean + reach, settings.margin - evidence.debt
    state: Literal["open", "worse", "proven"] = "open"
    if evidence.rows >= settings.least_rows and low > allowed:
        state = "worse"
    elif evidence.rows >= max(settings.least_rows, settings.lineage_rows) and high <= allowed:
        state = "proven"
    return LineageBounds(mean, low, high, state, allowed)


def moved(evidence: Evidence, version: str) -> Evidence:
    """The evidence of a new anchor: nothing yet but what the lineage has lost since the best anchor."""
    lost = evidence.excess / evidence.weight if evidence.weight > 0 else 0.0
    return Evidence(anchor=version, debt=max(0.0, evidence.debt + lost))


def _boundary(evidence: Evidence, settings: GateSettings) -> float:
    """How far the sum of excesses may stray: sqrt(2 (V + r) ln(1 + sqrt(1 + V/r) / (2 alpha))).

    V is the variance of the sum. The bound is sharpest at `lineage_rows` rows like those so far where r is their
    variance divided by 2 ln(1 / (2 alpha)) + ln(1 + 2 ln(1 / (2 alpha))), as Howard et al. advise.
    """
    alpha = settings.lineage_alpha
    twice = 2 * max(0.0, -math.log(2 * alpha))
    share = evidence.rows / settings.lineage_rows * max(1.0, twice + math.log1p(twice))
    return math.sqrt(2 * evidence.variance * (1 + 1 / share) * math.log1p(math.sqrt(1 + share) / (2 * alpha)))
