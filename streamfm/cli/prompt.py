"""The prompt of `streamfm sql`: statements over several lines, a history, errors and Ctrl-C that do not leave."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from streamfm.cli.complaints import complaint, is_interruption
from streamfm.cli.console import answer, print_table, say

if TYPE_CHECKING:
    from udfs.duckdb_udf import Registration

HISTORY_LINES = 1000

_HELP = """\
  {name}_score({inputs})
      the probability; inputs by position, by name ({first} := ...), or a whole row: SELECT {name}_score(t) FROM t
  {name}_logit(...)     the score before the sigmoid
  {name}_explain(...)   what each feature adds to the logit: SELECT unnest({name}_explain(t)) FROM t LIMIT 1
  {name}_embedding('{feature}', value)   what the model has learnt of a value
  deepfm_models()       what is registered: FROM deepfm_models()
Files are read in place: FROM 'events.parquet', FROM 'log/*.csv'.
  .inputs   the model's inputs and their types
  .help     this
  .quit     leave; so does Ctrl-D. Ctrl-C ends a query, or clears what was typed."""


class Prompt:
    """Reads statements from a terminal."""

    def __init__(self, registration: Registration, run: Callable[[str], None]) -> None:
        """Ask the registered model; `run` runs what is typed."""
        self._registration, self._run_script = registration, run
        self._name, self._scorer = registration.name, registration.scorer

    def run(self) -> None:
        """Prompt until the end is typed."""
        version = "" if self._scorer.version is None else f" {self._scorer.version}"
        say(f"{self._scorer.name}{version} ({self._scorer.precision}) answers as {self._name}_score(...)")
        say("End a statement with ; and leave with Ctrl-D. More: .help")
        with _history():
            while (text := self._read()) is not None:
                try:
                    if text.startswith("."):
                        self._command(text)
                    else:
                        self._run_script(text)
                except BrokenPipeError:
                    raise
                except (Exception, KeyboardInterrupt) as error:
                    say("interrupted" if is_interruption(error) else complaint(error))

    def _read(self) -> str | None:
        """A statement or a command with a dot; None at the end."""
        lines: list[str] = []
        while True:
            try:
                lines.append(input("...> " if lines else "sql> "))
            except EOFError:
                answer("")
                return None
            except KeyboardInterrupt:
                answer("")
                lines.clear()
                continue
            text = "\n".join(lines).strip()
            if text in (".quit", ".exit"):
                return None
            if not text:
                lines.clear()
            elif text.startswith(".") or is_complete(text):
                return text

    def _command(self, text: str) -> None:
        spec = self._scorer.spec
        command = shlex.split(text)[0]
        if command == ".help":
            feature = next((f for f in spec.features if f.kind != "numeric" and not f.sql), spec.features[0])
            inputs = ", ".join(spec.input_names)
            answer(_HELP.format(name=self._name, inputs=inputs, first=spec.input_names[0], feature=feature.name))
        elif command == ".inputs":
            print_table(["input", "type"], [(item.name, item.type) for item in spec.inputs])
        else:
            say(f"error: no command {command}\nhint: .help, .inputs, .quit; everything else is SQL")


def is_complete(text: str) -> bool:
    """Whether a text ends with a semicolon that ends a statement, not one in a string or a comment."""
    import duckdb

    tokens = [(offset, kind) for offset, kind in duckdb.tokenize(text) if kind != duckdb.token_type.comment]
    if not tokens or tokens[-1][1] != duckdb.token_type.operator:
        return False
    # Offsets count bytes.
    return text.encode()[tokens[-1][0] :].startswith(b";")


@contextmanager
def _history() -> Iterator[None]:
    """Line editing, with the lines of earlier prompts; kept where the XDG rules say, if it can be written there."""
    try:
        import readline
    except ImportError:
        yield
        return
    folder = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "streamfm"
    file = folder / "sql_history"
    with suppress(OSError):
        readline.read_history_file(file)
    readline.set_history_length(HISTORY_LINES)
    try:
        yield
    finally:
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
