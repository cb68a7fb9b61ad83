"""Spans of time on the command line: 90s, 30m, 1h, 7d."""

from __future__ import annotations

import re
from typing import Any

import click

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhdw])")


class Duration(click.ParamType[float]):
    """A span of time with its unit, such as 90s or 1.5h; the command gets seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds of a text; of a number, itself."""
        if isinstance(value, int | float):
            return float(value)
        if not (match := _SPAN.fullmatch(value.strip())):
            self.fail(f"{value!r}: expected a number and its unit, such as 90s, 30m, 1h, 7d or 2w", param, ctx)
        return float(match[1]) * _UNITS_S[match[2]]


DURATION = Duration()


def duration_text(seconds: float) -> str:
    """As people write it, in the largest unit that leaves a whole number."""
    for unit in ("w", "d", "h", "m", "s"):
        count = seconds / _UNITS_S[unit]
        if count >= 1 and count == int(count):
            return f"{int(count)}{unit}"
    return f"{seconds:g}s"
