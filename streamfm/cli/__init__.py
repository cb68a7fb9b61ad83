"""The command line: the composition root, and the one place that reads the environment.

Heavy libraries are imported by the commands that need them, so that `streamfm --help` answers at once.
"""

from __future__ import annotations

import io
import itertools
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import click

from streamfm.cli.brokering import broker
from streamfm.cli.collecting import collect
from streamfm.cli.commands import WIDTH, debug_option
from streamfm.cli.complaints import complaint, is_interruption
from streamfm.cli.demonstration import demo
from streamfm.cli.evaluating import evaluate
from streamfm.cli.log_commands import log
from streamfm.cli.model_commands import models
from streamfm.cli.monitoring import monitor
from streamfm.cli.proposing import init
from streamfm.cli.query import sql
from streamfm.cli.retraining import retrain
from streamfm.cli.scoring import score
from streamfm.cli.streaming import stream
from streamfm.cli.training import train

EXIT_ERROR, EXIT_INTERRUPTED, EXIT_BROKEN_PIPE = 1, 130, 141

# Threads of OpenMP that wait spin 300,000 times by default, on a core that another process may want: training beside
# other work is then several times slower. `GOMP_SPINCOUNT=300000 streamfm demo` shows the rows/s of that.
SPINS = "1000"

_COMMANDS = (init, train, evaluate, score, sql, stream, retrain, broker, collect, log, models, monitor, demo)


class Commands(click.Group):
    """The group of all commands."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; a broken pipe and Ctrl-C, which click would answer by itself, are left to `main`."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ReaderGoneError from error
        except KeyboardInterrupt as error:
            raise click.Abort from error


class ReaderGoneError(Exception):
    """Whoever read the output has gone."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH})
@click.version_option(package_name="streamfm")
def cli() -> None:
    """Click probabilities where the data is: train a DeepFM once, score in SQL, in Python, on a stream.

    \b
    From a click log to an answer in SQL:
      streamfm init events.parquet --label clicked -o features.toml
      streamfm train events.parquet --features features.toml --out models/ctr
      streamfm sql models/ctr@champion "SELECT deepfm_score(e) FROM 'events.parquet' e LIMIT 5"

    DATA stands for Parquet, CSV or JSON lines (paths, globs, a folder of Parquet files), or for an SQL query. A model
    is referred to as models/ctr@champion (an alias), models/ctr/3 (a version), or a bundle's folder. Results go to
    standard output, everything else to standard error.

    \b
    Exit codes:
      0    done
      1    refused or failed: a line says why, and a hint what to do
      2    wrong usage
      130  interrupted
      141  whoever read the output has gone, as with `| head`
    """


for _command in _COMMANDS:
    cli.add_command(_command)
cli.params.append(debug_option())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; errors come out in a line or two, and as the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in itertools.takewhile(lambda argument: argument != "--", given)
    _prepare_output()
    _prepare_threads()
    with _terminated_like_interrupted():
        code = _run(given, debug=debug)
    sys.exit(code)


def _run(arguments: list[str], *, debug: bool) -> int:
    """Run a command; its exit code."""
    try:
        _check_text(arguments)
        result = cli.main(args=arguments, prog_name="streamfm", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            traceback.print_exception(error)
        code = _report(error)
        _abandon_output()
        return code


def _check_text(arguments: list[str]) -> None:
    """Refuse bytes that the locale makes no text of: no library would take them."""
    for argument in arguments:
        if any("\ud800" <= character <= "\udfff" for character in argument):
            raise click.UsageError(f"{argument!r}: no text in {sys.getfilesystemencoding()}, which the locale says")


def _report(error: BaseException) -> int:
    """Say what is wrong; the exit code."""
    if isinstance(error, (ReaderGoneError, BrokenPipeError)):
        return EXIT_BROKEN_PIPE
    if is_interruption(error) or isinstance(error, click.Abort):
        # A terminal has just shown ^C.
        click.echo("\ninterrupted" if sys.stderr.isatty() else "interrupted", err=True)
        return EXIT_INTERRUPTED
    click.echo(complaint(error), err=True)
    return EXIT_ERROR


def _prepare_output() -> None:
    """Let no character be one that standard output cannot take, and let there be one."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # open to the end
    elif isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _prepare_threads() -> None:
    """Let torch's threads sleep soon when they wait, unless the user has said how they shall; before torch loads."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def _abandon_output() -> None:
    """Drop what cannot be written, lest Python try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Makes SIGTERM, by which supervisors stop a process, do what Ctrl-C does: clean up, or keep the best so far."""
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        # A shell has what it starts in the background ignore Ctrl-C.
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
