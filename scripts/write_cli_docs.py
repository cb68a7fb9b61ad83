"""Write docs/cli.md out of the command line's own help; a test fails when the page and the help differ.

python scripts/write_cli_docs.py
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import click

from streamfm.cli import cli
from streamfm.cli.commands import Command

PAGE = Path(__file__).resolve().parent.parent / "docs" / "cli.md"
WIDTH = 120
MADE = "this page is what `--help` says, written by `python scripts/write_cli_docs.py`."
# click keeps a command's own help option as it was first asked for, with -h or without.
EVERYWHERE = ("--debug", "-h, --help", "--help")


def page() -> str:
    """The whole page."""
    text = "\n".join(_lines(cli, click.Context(cli, info_name="streamfm", **cli.context_settings)))
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _lines(command: click.Command, context: click.Context) -> Iterator[str]:
    """A command, and those under it."""
    depth = context.command_path.count(" ")
    yield from (f"{'#' * (depth + 1)} {context.command_path if depth else 'The command line'}", "")
    yield from _description(command.help or "")
    if not isinstance(command, click.Group):
        yield from ("```text", " ".join([context.command_path, *command.collect_usage_pieces(context)]), "```", "")
        yield from _parameters(command, context)
        return
    if not depth:
        yield from (f"Every command takes `--debug` and `-h`; {MADE}", "")
    for name, inner in command.commands.items():
        yield from _lines(inner, click.Context(inner, info_name=name, parent=context))


def _description(text: str) -> Iterator[str]:
    """Paragraphs filled anew; those that click is told not to touch, such as examples, as code."""
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        if not paragraph.startswith("\b"):
            yield from (textwrap.fill(" ".join(paragraph.split()), WIDTH), "")
            continue
        heading, _, body = paragraph.lstrip("\b\n").partition("\n")
        language = "sh" if "streamfm " in body else "text"
        yield from (heading, "", f"```{language}", textwrap.dedent(body), "```", "")


def _parameters(command: click.Command, context: click.Context) -> Iterator[str]:
    """A table for each heading of the help."""
    if isinstance(command, Command):
        sections = command.sections(context)
    else:
        records = (parameter.get_help_record(context) for parameter in command.get_params(context))
        sections = {"Options": [record for record in records if record is not None]}
    for heading, records in sections.items():
        rows = [f"| `{_cell(name)}` | {_cell(text)} |" for name, text in records if name not in EVERYWHERE]
        if rows:
            yield from (f"| {heading.lower()} | |", "|---|---|", *rows, "")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
