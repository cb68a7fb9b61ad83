"""`streamfm score`: files of events in, a file with their scores out."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfm import files
from streamfm.cli.commands import DATA, PRECISION, REFERENCE, Command, option, settings, source_of
from streamfm.cli.complaints import from_model
from streamfm.cli.console import progress_bar, say, shows_bars
from streamfm.cli.csv_output import print_csv
from streamfm.errors import DataError, MissingColumnsError, StreamFMError

if TYPE_CHECKING:
    import duckdb

    from streamfm.data.sources import Source
    from streamfm.features import FeatureSpec
    from streamfm.scoring import Precision

_FORMATS = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
    ".csv": "FORMAT csv, HEADER",
    ".tsv": r"FORMAT csv, HEADER, DELIMITER '\t'",
    ".json": "FORMAT json",
    ".jsonl": "FORMAT json",
    ".ndjson": "FORMAT json",
}
_COMPRESSIONS = {".gz": ", COMPRESSION gzip", ".zst": ", COMPRESSION zstd"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """What the output has."""

    keep: str | None = None
    column: str = "score"
    logit: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What DuckDB may use."""

    threads: int | None = None
    memory_limit: str = "2GB"


_COLUMNS = {
    "keep": "Columns to carry over, with commas between; all of them by default.",
    "column": "Name of the column with the scores.",
    "logit": "Add the column logit, too: the score before the sigmoid.",
}
_MACHINE = {
    "threads": "Processor cores to use; all by default.",
    "memory_limit": "Of DuckDB.",
}


@click.command(cls=Command, short_help="Score files of events into another file.")
@REFERENCE
@DATA
@option("-o", "--output", "target", default="-", show_default=True, help=f"A file ({', '.join(_FORMATS)}; text with "
        f"{' or '.join(_COMPRESSIONS)} is compressed), which is replaced; - prints CSV.")  # fmt: skip
@settings("columns", Columns, {"Output": _COLUMNS})
@settings("machine", Machine, {"Machine": _MACHINE})
@PRECISION
def score(
    reference: str, data: tuple[str, ...], target: str, columns: Columns, machine: Machine, precision: Precision
) -> None:
    """Score every event in DATA, in order.

    Rows stream through, so that DATA may be larger than memory; the output file appears only when it is whole. Columns
    of text files are read as the model's specification declares them. Inputs that DATA lacks are named once, and count
    as NULL.

    \b
    Examples:
      streamfm score models/ctr@champion events.parquet -o scored.parquet
      streamfm score models/ctr/3 log/*.csv --keep event_id -o scores.csv.gz
      streamfm score models/ctr@champion "SELECT * FROM 'e.parquet' WHERE country = 'CH'" | head
    """
    from streamfm.data.sources import open_source
    from streamfm.scoring import load
    from udfs.duckdb_udf import register

    file = None if target == "-" else OutputFile.at(target, data)
    scorer = load(reference, precision=precision)
    inputs, threads, limit = scorer.spec.inputs, machine.threads, machine.memory_limit
    with open_source(source_of(data), inputs=inputs, threads=threads, memory_limit=limit) as source:
        _check_inputs(source, scorer.spec)
        query = _query(source, columns)
        register(source.connection, scorer)
        if file is None:
            print_csv(source.connection, lambda path: _copy(source, query, path, _FORMATS[".csv"]))
            return
        began = time.monotonic()
        with file.writing() as path, query_progress(source.connection, "scoring"):
            rows = _copy(source, query, path, file.options)
    say(f"{rows:,} events scored into {target} in {time.monotonic() - began:.1f} s")


@dataclass(frozen=True, slots=True)
class OutputFile:
    """A file that appears when it is whole.

    Attributes:
        path: Its place.
        options: Of DuckDB's COPY.
    """

    path: Path
    options: str

    @classmethod
    def at(cls, target: str, data: Sequence[str]) -> OutputFile:
        """The file of that name.

        Raises:
            StreamFMError: It cannot be written there, or would take the place of the data.
        """
        path = Path(target)
        suffixes = [suffix.lower() for suffix in path.suffixes]
        compression = _COMPRESSIONS[suffixes.pop()] if suffixes and suffixes[-1] in _COMPRESSIONS else ""
        ending = suffixes[-1] if suffixes else ""
        if ending not in _FORMATS or (compression and ending == ".parquet"):
            raise click.UsageError(f"{target}: the ending tells no format; expected {', '.join(_FORMATS)}")
        if path.is_dir():
            raise StreamFMError(f"{target}: is a folder", hint=f"-o {path / 'scored.parquet'}")
        if not path.parent.is_dir():
            raise StreamFMError(f"{target}: there is no folder {path.parent}", hint="make it first")
        if path.exists() and any(path.samefile(file) for file in _files_of(data)):
            raise StreamFMError(f"{target}: is the data itself", hint="-o names another file")
        return cls(path, _FORMATS[ending] + compression)

    @contextmanager
    def writing(self) -> Iterator[str]:
        """A file to write to; at the end it takes the place, and if that does not come, it goes."""
        part = self.path.with_name(f".{self.path.name}.{files.token()}.partial")
        try:
            yield str(part)
            files.fsync_file(part)
            part.replace(self.path)
            files.fsync_folder(self.path.parent)
        finally:
            part.unlink(missing_ok=True)


def _files_of(data: Sequence[str]) -> list[str]:
    """The files that DATA names; none for an SQL query, whose rows are read before anything is written."""
    from streamfm.data.readers import find_files

    try:
        return find_files(data)
    except (DataError, OSError, ValueError):
        # Whoever opens them will say what is wrong.
        return []


def _check_inputs(source: Source, spec: FeatureSpec) -> None:
    """Name the inputs that are not there.

    Raises:
        MissingColumnsError: None is there.
    """
    from streamfm.data.checks import needed_columns
    from streamfm.expressions import Deriver

    needed = needed_columns(spec, Deriver(spec))
    present = {name.casefold() for name in source.columns}
    missing = [name for name in needed if name.casefold() not in present]
    if len(missing) == len(needed):
        raise MissingColumnsError(needed, list(source.columns), source=source.name)
    if missing:
        say(f"warning: {source.name}: not there, and scored as NULL: {', '.join(missing)}")


def _query(source: Source, columns: Columns) -> str:
    """The query that gives the columns that are kept, and the scores.

    Raises:
        MissingColumnsError: A column that is to be kept is not there.
        DataError: A new column's name is taken.
    """
    from streamfm.expressions import quoted

    names = list(source.columns) if columns.keep is None else next(csv.reader([columns.keep]), [])
    kept = [source.column(name.strip()) for name in names]
    row = "events"
    # A column named like the row would be taken for it.
    while row in {name.casefold() for name in source.columns}:
        row += "_"
    new = [(columns.column, "score")] + ([("logit", "logit")] if columns.logit else [])
    taken = {column.casefold() for column in kept}
    for name, _ in new:
        if quoted(name).casefold() in taken:
            hint = "--column names the scores otherwise; --keep leaves columns out"
            raise DataError(f"{source.name}: there is a column {name!r} already", hint=hint)
        taken.add(quoted(name).casefold())
    made = [f"deepfm_{function}({row}) AS {quoted(name)}" for name, function in new]
    return f"SELECT {', '.join([*(f'{row}.{column}' for column in kept), *made])} FROM ({source.sql}) AS {row}"


def _copy(source: Source, query: str, path: str, options: str) -> int:
    """Copy a query's result into a file; the number of its rows.

    Raises:
        DataError: A file of the source cannot be read, or a column has a type that its feature cannot use.
    """
    from streamfm.data.readers import literal

    try:
        return int(source.execute(f"COPY ({query}) TO {literal(path)} ({options})")[0][0])
    except DataError as error:
        if said := from_model(error.__cause__):
            raise DataError(f"{source.name}: {said.message}", hint=said.hint) from error
        raise


@contextmanager
def query_progress(connection: duckdb.DuckDBPyConnection, label: str) -> Iterator[None]:
    """A progress bar, on a terminal, while the connection runs a query."""
    if not shows_bars():
        yield
        return
    connection.execute("SET enable_progress_bar = true; SET enable_progress_bar_print = false")
    done = threading.Event()
    with progress_bar() as progress:
        task = progress.add_task(label, total=100, note="")

        def follow() -> None:
            while not done.wait(0.2):
                progress.update(task, completed=max(0.0, connection.query_progress()))

        follower = threading.Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield
        finally:
            done.set()
            follower.join()
