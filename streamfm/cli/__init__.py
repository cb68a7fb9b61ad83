"""The command line: the composition root, and the one place that reads the environment.

Heavy libraries are imported by the commands that need them, so that `streamfm --help` answers at once.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from streamfm.cli.demonstration import demo
from streamfm.cli.model_commands import models
from streamfm.cli.query import score, sql
from streamfm.cli.training import evaluate, init, train
from streamfm.errors import StreamFMError

EXIT_ERROR = 1
EXIT_INTERRUPTED = 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="streamfm")
@click.option("--debug", is_flag=True, help="Print the whole traceback of an error.")
def cli(debug: bool) -> None:
    """Click probabilities where the data is: train a DeepFM once, score in SQL, in Python, on a stream.

    \b
    From a click log to an answer in SQL:
      streamfm init events.parquet --label clicked -o features.toml
      streamfm train events.parquet --features features.toml --out models/ctr
      streamfm sql models/ctr@champion "SELECT deepfm_score(e) FROM 'events.parquet' e LIMIT 5"

    A model is referred to as models/ctr@champion (an alias), models/ctr/3 (a version), or a bundle's folder.
    Exit codes: 0 done, 1 refused with a reason, 2 wrong usage, 130 interrupted.
    """


cli.add_command(init)
cli.add_command(train)
cli.add_command(evaluate)
cli.add_command(score)
cli.add_command(sql)
cli.add_command(models)
cli.add_command(demo)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; errors come out in a line or two, and as the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given[: _first_command(given)]
    try:
        cli.main(args=given, prog_name="streamfm", standalone_mode=False)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted; nothing half-written was left", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        sys.stderr.close()
        sys.exit(EXIT_ERROR)
    except Exception as error:
        sys.exit(_report(error, debug=debug))


def _first_command(arguments: list[str]) -> int:
    return next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))


def _report(error: Exception, *, debug: bool) -> int:
    """Say what is wrong; an error that nobody foresaw is told as one."""
    if debug:
        traceback.print_exception(error)
        return EXIT_ERROR
    known = isinstance(error, (StreamFMError, OSError)) or type(error).__module__.split(".")[0] in ("duckdb", "_duckdb")
    if known:
        click.echo(f"error: {error}", err=True)
    else:
        click.echo(f"error: {type(error).__name__}: {error}", err=True)
        click.echo(
            "hint: this is a defect of streamfm; `streamfm --debug ...` prints the traceback to report", err=True
        )
    return EXIT_ERROR
