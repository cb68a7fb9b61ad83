"""`streamfm init`: a first features.toml out of data."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfm import files
from streamfm.cli.commands import DATA, Command, option, source_of
from streamfm.cli.console import console, say, shows_bars
from streamfm.errors import StreamFMError

if TYPE_CHECKING:
    from streamfm.proposal import Proposal


@click.command(cls=Command, short_help="Propose a specification of features from data.")
@DATA
@option("--label", required=True, help="The column to learn: 0 or 1 for clicks, a number for ratings.")
@option("-o", "--output", "target", default="features.toml", show_default=True, help="Where to; - prints it.")
@option("--force", is_flag=True, help="Write over the file.")
def init(data: tuple[str, ...], label: str, target: str, force: bool) -> None:
    """Look at DATA and propose a features.toml: what to make of each column, with the reasons as comments.

    It is meant to be read and changed: what a column means, the data does not say. Columns that look like an id, that
    never change, or that give the label away are left out, and named.

    \b
    Examples:
      streamfm init events.parquet --label clicked
      streamfm init log/*.csv --label clicked -o features.toml --force
      streamfm init "SELECT * FROM 'log/*.parquet' WHERE position <= 10" --label clicked -o - | less
    """
    path = Path(target)
    if target != "-":
        _check_place(path, force=force)
    proposal = _proposal(data, label)
    if target == "-":
        click.echo(proposal.to_toml(), nl=False)
        return
    files.replace_file(path, proposal.to_toml().encode())
    count = len(proposal.spec.features)
    say(f"{target}: {count} features of {len(proposal.spec.inputs)} columns. Read its comments, then")
    # Nothing is written to standard output: the file is the result.
    say(f"  streamfm train {shlex.join(data)} --features {shlex.quote(target)} --out models/NAME")


def _check_place(path: Path, *, force: bool) -> None:
    """Refuse a place that cannot be written to, before the data is looked at."""
    if path.is_dir():
        raise StreamFMError(f"{path}: is a folder", hint=f"-o {path / 'features.toml'}")
    if path.exists() and not force:
        raise StreamFMError(f"{path}: is there already", hint="--force writes over it, -o names another file")
    if not path.parent.is_dir():
        raise StreamFMError(f"{path}: there is no folder {path.parent}", hint="make it first")


def _proposal(data: tuple[str, ...], label: str) -> Proposal:
    from streamfm.proposal import propose

    if not shows_bars():
        return propose(source_of(data), label)
    with console.status("looking at every column"):
        return propose(source_of(data), label)
