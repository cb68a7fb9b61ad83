"""The questions to a candidate that one window answers. Legend: B rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamfm.evaluation.samples import Floats
from streamfm.gate.paired import (
    Difference,
    auc_difference,
    calibration_logarithm,
    clipped,
    log_loss_difference,
    stability_index,
)
from streamfm.gate.settings import GateSettings
from streamfm.gate.verdict import Check
from streamfm.gate.window import Figure, Window


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedRows:
    """Rows on which candidate and parent can be compared.

    Attributes:
        labels: [B] of 0 and 1.
        candidate: [B] clipped logits.
        parent: [B] clipped logits.
        weights: [B].
        clusters: [B] codes of what is independent.
        slices: Guarded parts of the rows by name, bool [B] each.
    """

    labels: Floats
    candidate: Floats
    parent: Floats
    weights: Floats
    clusters: NDArray[np.intp]
    slices: Mapping[str, NDArray[np.bool_]]

    def part(self, rows: NDArray[np.bool_]) -> PairedRows:
        """Some of the rows."""
        return PairedRows(
            labels=self.labels[rows],
            candidate=self.candidate[rows],
            parent=self.parent[rows],
            weights=self.weights[rows],
            clusters=self.clusters[rows],
            slices={name: mask[rows] for name, mask in self.slices.items()},
        )

    def log_loss(self) -> Difference:
        """The candidate's minus the parent's."""
        return log_loss_difference(self.labels, self.candidate, self.parent, self.weights, self.clusters)


def comparable(window: Window) -> PairedRows:
    """The rows for which both models have a finite logit."""
    part = window.part(np.isfinite(window.candidate) & np.isfinite(window.parent))
    return PairedRows(
        labels=part.labels.astype(np.float64),
        candidate=clipped(part.candidate),
        parent=clipped(part.parent),
        weights=part.weights(),
        clusters=part.clusters(),
        slices=part.slices,
    )


def figure_check(figure: Figure) -> Check:
    """Whether a figure of the caller is within its limit."""
    passed = math.isfinite(figure.value) and figure.value <= figure.limit
    told = f"{figure.name} is {figure.value:.4g}, limit {figure.limit:.4g}" + (
        f": {figure.note}" if figure.note else ""
    )
    return Check(
        name=figure.name, passed=passed, text=figure.note if passed else told, value=figure.value, limit=figure.limit
    )


def finite_check(window: Window) -> Check:
    """Whether every logit of the candidate is a number; the others' rows that are none do not count."""
    broken = {
        name: int(np.count_nonzero(~np.isfinite(logits)))
        for name, logits in (("candidate", window.candidate), ("parent", window.parent), ("anchor", window.anchor))
        if logits is not None
    }
    told = [f"{number:,} of {window.rows:,} logits of the {name} are not finite" for name, number in broken.items()]
    count = broken["candidate"]
    noted = "; ".join(text for text, number in zip(told, broken.values(), strict=True) if number)
    return Check(name="finite", passed=count == 0, text=noted, value=float(count), limit=0.0, rows=window.rows)


def log_loss_check(rows: PairedRows, settings: GateSettings) -> Check:
    """Whether the candidate is significantly worse, by more than the tolerance."""
    found = rows.log_loss()
    p, limit = found.p_above(settings.tolerance), settings.test_alpha
    check = _difference_check("log_loss", found, p, limit, rows, settings)
    if p is not None and p < limit:
        more = f" by more than {settings.tolerance:g}" if settings.tolerance else ""
        return _refused(check, "log loss", f"above the parent's{more}", p, limit)
    if p is None:
        return replace(check, text="insufficient evidence: fewer than two independent rows")
    if found.detectable(limit, settings.power) and rows.labels.sum() < settings.least_positives:
        seen = f"only {found.detectable(limit, settings.power):.2g} nats worse would be refused"
        return replace(check, text=f"small evidence, {int(rows.labels.sum())} positives: {seen}")
    return check


def auc_check(rows: PairedRows, settings: GateSettings) -> Check:
    """Whether the candidate's AUC is significantly below the parent's."""
    found = auc_difference(rows.labels, rows.candidate, rows.parent, rows.weights, rows.clusters)
    p, limit = found.p_below(0.0), settings.test_alpha
    check = _difference_check("auc", found, p, limit, rows, settings)
    positives = int(rows.labels.sum())
    if min(positives, len(rows.labels) - positives) < settings.least_positives:
        return replace(check, text=f"insufficient evidence: {positives:,} positives of {len(rows.labels):,} rows")
    return _refused(check, "AUC", "below the parent's", p, limit) if p is not None and p < limit else check


def calibration_check(rows: PairedRows, settings: GateSettings) -> Check:
    """Refused where the ratio is beyond the limit with evidence, and the parent's is nearer to 1."""
    found, parents = (
        calibration_logarithm(rows.labels, logits, rows.weights, rows.clusters)
        for logits in (rows.candidate, rows.parent)
    )
    low, high = found.interval()
    sure_low, sure_high = found.interval(1 - settings.test_alpha)
    reach, passed, text = math.log(settings.calibration_limit), True, ""
    if found.value is None or parents.value is None:
        text = "insufficient evidence: no positive"
    elif sure_low is not None and sure_high is not None and (sure_low > reach or sure_high < -reach):
        passed = abs(found.value) <= abs(parents.value)
        limits = f"limits {1 / settings.calibration_limit:.3g} and {settings.calibration_limit:.3g}"
        told = f"Σp/Σy is {found.first:.3f} ({math.exp(sure_low):.3f} .. {math.exp(sure_high):.3f}), {limits}"
        text = told + f", the parent's is {parents.first:.3f}"
    return Check(
        name="calibration",
        passed=passed,
        text=text,
        value=found.first,
        low=None if low is None else math.exp(low),
        high=None if high is None else math.exp(high),
        limit=settings.calibration_limit,
        first=found.first,
        second=parents.first,
        rows=len(rows.labels),
    )


def slice_checks(rows: PairedRows, settings: GateSettings) -> Iterator[Check]:
    """Log loss on each slice; Holm's rule over those with rows enough."""
    checks = [_slice_check(name, rows.part(mask), settings) for name, mask in rows.slices.items()]
    tests = sorted(check.p for check in checks if check.p is not None)
    limits = [settings.test_alpha / (len(tests) - rank) for rank in range(len(tests))]
    first_kept = next((rank for rank, p in enumerate(tests) if p >= limits[rank]), len(tests))
    for check in checks:
        if check.p is None:
            yield check
        elif tests.index(check.p) < first_kept:
            limit = limits[tests.index(check.p)]
            yield _refused(replace(check, limit=limit), f"{check.name}: log loss", "above the parent's", check.p, limit)
        else:
            yield replace(check, limit=limits[min(first_kept, len(tests) - 1)])


def _slice_check(name: str, rows: PairedRows, settings: GateSettings) -> Check:
    found = rows.log_loss()
    enough = len(rows.labels) >= settings.slice_rows
    p = found.p_above(settings.tolerance) if enough else None
    text = "" if enough else f"insufficient evidence: {len(rows.labels):,} rows, {settings.slice_rows:,} are needed"
    check = _difference_check(f"slice {name}", found, p, settings.test_alpha, rows, settings)
    return replace(check, text=text)


def score_shift_check(rows: PairedRows, settings: GateSettings) -> Check:
    """Refused where scores moved far, and the log loss has not fallen.

    Proof that it has is not asked for: a parent that has learnt little is left far behind by its first small rounds.
    """
    name, limit = "score_shift", settings.score_shift_limit
    if len(rows.labels) < settings.slice_rows:
        text = f"insufficient evidence: {len(rows.labels):,} rows, {settings.slice_rows:,} are needed"
        return Check(name=name, passed=True, text=text, limit=limit, rows=len(rows.labels))
    value = stability_index(rows.candidate, rows.parent, rows.weights)
    passed, text = value <= limit, ""
    if value > limit:
        passed = (rows.log_loss().value or 0.0) < 0
        gain = "and the log loss fell" if passed else "and the log loss did not fall"
        text = f"scores moved by a stability index of {value:.3f}, limit {limit:g}, {gain}"
    return Check(name=name, passed=passed, text=text, value=value, limit=limit, rows=len(rows.labels))


def _difference_check(
    name: str, found: Difference, p: float | None, limit: float, rows: PairedRows, settings: GateSettings
) -> Check:
    low, high = found.interval()
    return Check(
        name=name,
        passed=True,
        value=found.value,
        low=low,
        high=high,
        limit=limit,
        p=p,
        first=found.first,
        second=found.second,
        detectable=found.detectable(limit, settings.power),
        rows=len(rows.labels),
    )


def _refused(check: Check, what: str, how: str, p: float, limit: float) -> Check:
    figures = f"{abs(check.value or 0.0):.5f} {how} ({check.first:.5f} against {check.second:.5f})"
    return replace(check, passed=False, text=f"{what} is {figures}, p = {p:.2g}, limit {limit:.2g}")
