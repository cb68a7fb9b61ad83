"""The gate: whether a candidate may take its parent's place. Pure: what comes out follows from what goes in.

Small windows are asked whether the candidate is significantly worse, no more: a minute's rows cannot prove that it is
better. What they say of the lineage adds up in `Evidence`, until it suffices. A window without rows refuses nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from streamfm.gate.checks import (
    PairedRows,
    auc_check,
    calibration_check,
    comparable,
    figure_check,
    finite_check,
    log_loss_check,
    score_shift_check,
    slice_checks,
)
from streamfm.gate.lineage import Evidence, accumulated, lineage_bounds, moved
from streamfm.gate.paired import calibration_logarithm, clipped
from streamfm.gate.recalibration import recalibrated
from streamfm.gate.settings import GateSettings
from streamfm.gate.verdict import Check, Verdict
from streamfm.gate.window import Figure, Window


def judge(
    window: Window,
    settings: GateSettings | None = None,
    evidence: Evidence | None = None,
    figures: Iterable[Figure] = (),
    *,
    lineage: Window | None = None,
) -> Verdict:
    """Whether a candidate may take its parent's place.

    Args:
        window: Rows that neither trained on, and that no earlier window held.
        settings: The defaults where None.
        evidence: Of the parent's manifest; None for a first round.
        figures: What the caller measured: parity of torch and ONNX, latency, files.
        lineage: Other rows for the test of the lineage: those that the candidate has learnt from and its parent not,
            say. Of a lineage each row may be counted once.
    """
    settings = settings or GateSettings()
    window = window.counted()
    checks = [figure_check(figure) for figure in figures]
    checks.append(finite_check(window))
    rows = comparable(window)
    rows, shift = _shifted(rows, settings)
    checks += [
        log_loss_check(rows, settings),
        auc_check(rows, settings),
        calibration_check(rows, settings),
        *slice_checks(rows, settings),
    ]
    checks.append(score_shift_check(rows, settings))
    check, evidence, roll_back_to = _lineage_check(lineage or window, settings, evidence or Evidence())
    checks.append(check)
    return Verdict(
        passed=all(check.passed for check in checks),
        checks=tuple(checks),
        logit_shift=shift,
        roll_back_to=roll_back_to,
        evidence=evidence,
        rows=window.rows,
        positives=window.positives,
        groups=len(np.unique(window.clusters())),
    )


def _shifted(rows: PairedRows, settings: GateSettings) -> tuple[PairedRows, float]:
    """The rows, and no shift; or, where a logit shift is needed and helps, the rows that judged it, and the shift."""
    found = calibration_logarithm(rows.labels, rows.candidate, rows.weights, rows.clusters)
    low, high = found.interval(1 - settings.test_alpha)
    if low is None or high is None:
        return rows, 0.0
    if not (low > math.log(settings.calibration_high) or high < math.log(settings.calibration_low)):
        return rows, 0.0
    tried = recalibrated(rows.labels, rows.candidate, rows.weights, rows.clusters, settings.largest_shift)
    if tried is None:
        return rows, 0.0
    p = tried.gain.p_below(0.0)
    if p is None or p >= settings.shift_alpha:
        return rows, 0.0
    judged = rows.part(tried.judged)
    return replace(judged, candidate=clipped(judged.candidate + tried.shift)), tried.shift


def _lineage_check(window: Window, settings: GateSettings, evidence: Evidence) -> tuple[Check, Evidence, str | None]:
    """The check, the evidence for the next round, and the version to roll back to."""
    if window.anchor is None:
        if evidence.anchor != window.parent_version:
            evidence = moved(evidence, window.parent_version)
        text = f"the parent, {window.parent_version or 'a first one'}, is its own anchor"
        return Check(name="lineage", passed=True, text=text, limit=settings.margin), evidence, None
    evidence = accumulated(evidence, window)
    bounds = lineage_bounds(evidence, settings)
    if bounds is None:
        return Check(name="lineage", passed=True, text="insufficient evidence", limit=settings.margin), evidence, None
    over = f"{evidence.rows:,} rows of {evidence.rounds:,} rounds"
    where = f"{bounds.mean:+.5f} nats ({bounds.low:+.5f} .. {bounds.high:+.5f}) against {evidence.anchor} over {over}"
    text = f"{where}, margin {bounds.allowed:.5f}"
    if bounds.state == "worse":
        text = f"what was served is worse than its anchor: {text}; roll back to {evidence.anchor}"
    elif bounds.state == "proven":
        text = f"{text}: proven, {window.parent_version} is the next anchor"
    check = Check(
        name="lineage",
        passed=bounds.state != "worse",
        text=text,
        value=bounds.mean,
        low=bounds.low,
        high=bounds.high,
        limit=bounds.allowed,
        rows=evidence.rows,
    )
    if bounds.state == "proven":
        return check, moved(evidence, window.parent_version), None
    return check, evidence, evidence.anchor if bounds.state == "worse" else None
