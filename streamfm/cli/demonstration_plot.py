"""Curves over the hours: as a PNG where matplotlib is installed, and as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rich.text import Text

WIDTH, HEIGHT = 72, 12
PLAIN_MARKS = "*o."
"""For terminals that know ASCII only."""


class Line(NamedTuple):
    """A curve.

    Attributes:
        name: In the legend.
        values: [H] one an hour.
        mark: A character of its own, so that it is told apart without colours.
        colour: As rich and matplotlib both name it.
    """

    name: str
    values: ArrayLike
    mark: str
    colour: str


def text_plot(title: str, lines: Sequence[Line], *, plain: bool = False) -> Text:
    """Lines over the hours as text; of marks in one place the first line's is seen.

    Args:
        title: Above it.
        lines: Of one length.
        plain: Whether to do with ASCII.
    """
    marks = {line.name: PLAIN_MARKS[place] if plain else line.mark for place, line in enumerate(lines)}
    values = np.array([np.asarray(line.values, np.float64) for line in lines])
    low, high = _limits(values)
    hours = values.shape[1]
    # Between the hours, lines are drawn straight.
    at = np.linspace(0, hours - 1, WIDTH) if hours > 1 else np.zeros(1)
    grid: list[list[tuple[str, str]]] = [[(" ", "")] * len(at) for _ in range(HEIGHT)]
    for line, curve in reversed(list(zip(lines, values, strict=True))):
        heights = np.interp(at, np.arange(hours), curve)
        rows = np.rint((high - heights) / (high - low) * (HEIGHT - 1)).astype(int)
        for column, row in enumerate(rows.tolist()):
            grid[row][column] = (marks[line.name], line.colour)
    upright, corner, flat = ("|", "+", "-") if plain else ("│", "└", "─")
    text = Text(f"{title}\n", style="bold")
    for number, row in enumerate(grid):
        labelled = number in (0, HEIGHT // 2, HEIGHT - 1)
        text.append(f"{high - (high - low) * number / (HEIGHT - 1):8.3f} " if labelled else " " * 9, style="not bold")
        text.append(upright, style="not bold")
        for mark, colour in row:
            text.append(mark, style=f"not bold {colour}".strip())
        text.append("\n")
    text.append(" " * 9 + corner + flat * len(at) + "\n" + " " * 10, style="not bold")
    text.append(f"hour 1{str(hours).rjust(len(at) - 6)}\n" + " " * 10, style="not bold")
    for line in lines:
        text.append(f"{marks[line.name]} {line.name}   ", style=f"not bold {line.colour}")
    return text


def save_png(path: Path, panels: Mapping[str, Sequence[Line]]) -> bool:
    """Panels of lines beside each other as a PNG; False where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(6 * len(panels), 4), layout="constrained")
    for number, (title, lines) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(1, len(panels), number)
        for line in lines:
            values = np.asarray(line.values)
            axes.plot(
                np.arange(1, len(values) + 1), values, marker="o", markersize=3, label=line.name, color=line.colour
            )
        axes.set_title(title)
        axes.set_xlabel("hour")
        axes.grid(visible=True, alpha=0.3)
        axes.legend()
    figure.savefig(path, format="png", dpi=120)
    return True


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)
