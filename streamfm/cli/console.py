"""How commands speak: results go to standard output, all else to standard error.

Text is written as it is: paths hold brackets that rich takes for mark-up, and a line to be copied must not be wrapped.
Rich draws tables and bars, and heeds NO_COLOR.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import NoReturn

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160


class Output(Console):
    """Standard output; a reader that has gone, such as `head`, is the caller's business."""

    def on_broken_pipe(self) -> NoReturn:
        """Let it be known."""
        raise BrokenPipeError


console = Console(stderr=True, highlight=False)
output = Output(highlight=False)
if not output.is_terminal:
    output.width = PIPE_WIDTH
_unfolded = Output(highlight=False, width=1_000_000)


def say(text: str) -> None:
    """A line of news, on standard error."""
    click.echo(text, err=True)


def answer(text: str) -> None:
    """A line of a result, on standard output."""
    click.echo(text)


def print_json(value: object) -> None:
    """A result for programs: JSON in ASCII, so that no locale can spoil it."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def shows_bars() -> bool:
    """Whether someone watches standard error; FORCE_COLOR, which rich heeds, does not make a log a terminal."""
    return sys.stderr.isatty() and not console.is_dumb_terminal


def progress_bar() -> Progress:
    """A bar on standard error, gone when it is done; not to be started unless someone watches."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True)


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on standard output, numbers to the right; folded where a terminal is too narrow, and only there."""
    cells = [[_text(value) for value in row] for row in rows]
    table = Table(show_header=any(names))
    for index, name in enumerate(names):
        values = [row[index] for row in cells]
        table.add_column(Text(name), justify="right" if _are_numbers(values) else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console = output if output.is_terminal else _unfolded
    if title is not None:
        console.print(Text(title, style="bold"))
    console.print(table)


def _text(value: object) -> str:
    if value is None:
        return "NULL"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _are_numbers(texts: Sequence[str]) -> bool:
    """Whether there are numbers, and nothing but numbers where there is something."""
    present = [text for text in texts if text not in ("NULL", "—", "")]
    return bool(present) and all(_is_number(text) for text in present)


def _is_number(text: str) -> bool:
    try:
        float(text.replace(",", "").removesuffix("%"))
    except ValueError:
        return False
    return True
