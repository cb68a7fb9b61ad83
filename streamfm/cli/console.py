"""What commands share: tables, progress bars, common options. Results go to standard output, all else to the other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

console = Console(stderr=True, highlight=False)
output = Console(highlight=False)
if not output.is_terminal:
    # A file or a pipe has no width; a table must not be folded into it.
    output.width = 160

PRECISION = click.option(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="Which network answers; int8 is several times as fast, and what it costs in AUC stands in the bundle.",
)


def progress_bar(*, counts: bool = False) -> Progress:
    """A bar on standard error, gone when it is done; with counts of rows instead of a percentage if wished."""
    amount = MofNCompleteColumn() if counts else TaskProgressColumn()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        amount,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    return Progress(*columns, console=console, transient=True)


def print_table(names: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
    """A table on standard output; numbers to the right."""
    cells = [[_text(value) for value in row] for row in rows]
    table = Table(title=title, title_justify="left", title_style="bold")
    for index, name in enumerate(names):
        numeric = all(_is_numeric(row[index]) for row in cells) and bool(cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    output.print(table)


def _text(value: object) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, float):
        return f"{value:.6g}"
    # Square brackets are mark-up to rich.
    return str(value).replace("[", r"\[")


def _is_numeric(text: str) -> bool:
    return text in ("NULL", "—") or text.lstrip("-").replace(".", "", 1).replace("e-", "", 1).isdigit()
