"""What every benchmark ends with: one JSON line a figure."""

from __future__ import annotations

import json
import operator

_COMPARISONS = {">=": operator.ge, "<=": operator.le}


def report(
    name: str, value: float, unit: str, *, limit: float | None = None, goal: str | None = None, higher_is_better: bool
) -> bool | None:
    """Print a figure as JSON: name, value, unit, limit, ratio, goal, and whether it is reached, which comes back.

    Args:
        name: What was measured.
        value: The figure.
        unit: Of the value and the limit.
        limit: What was measured beside it in the same run: a rival, or the most that could be had.
        goal: What must be reached, as ">= 60000" or "<= 1.2"; with "x" at the end it is about the ratio.
        higher_is_better: Whether ratio is value / limit, or limit / value: above 1 is always good.
    """
    ratio = None
    if limit is not None:
        ratio = value / limit if higher_is_better else limit / value
    line = {"name": name, "value": _short(value), "unit": unit, "limit": _short(limit), "ratio": _short(ratio)}
    reached = None if goal is None else _reached(goal, value, ratio)
    print(json.dumps(line | {"goal": goal, "reached": reached}), flush=True)
    return reached


def _reached(goal: str, value: float, ratio: float | None) -> bool:
    comparison, number = goal.split()
    measured = ratio if number.endswith("x") else value
    if measured is None:
        raise ValueError(f"the goal {goal!r} is about a ratio, but there is no limit")
    return bool(_COMPARISONS[comparison](measured, float(number.rstrip("x"))))


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")
