"""`streamfm score` and `streamfm sql`: DuckDB with the model registered."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfm.cli.console import PRECISION, console, output, progress_bar
from streamfm.errors import DataError, MissingColumnsError

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

    from streamfm.scoring import Precision

FORMATS = {".parquet": "FORMAT parquet, COMPRESSION zstd", ".csv": "FORMAT csv, HEADER", ".json": "FORMAT json"}
SHOWN_ROWS = 40
WIDE = 200


@click.command(short_help="Score a file of events into another.")
@click.argument("reference")
@click.argument("data")
@click.option(
    "-o",
    "--output",
    "destination",
    default="-",
    show_default=True,
    help="A .parquet, .csv or .json file; - prints CSV.",
)
@click.option("--keep", "keep", help="Columns to carry over, with commas between; all of them by default.")
@click.option("--logit", is_flag=True, help="Add the logit too.")
@click.option("--threads", type=click.IntRange(1), help="Processor cores to use; all by default.")
@PRECISION
def score(
    reference: str,
    data: str,
    destination: str,
    keep: str | None,
    logit: bool,
    threads: int | None,
    precision: Precision,
) -> None:
    """Score every event in DATA (Parquet, CSV, JSON lines; a path, a glob or a SQL query), in order.

    The rows stream through, so a file may be larger than memory; the output appears only when it is whole.

    \b
    Examples:
      streamfm score models/ctr@champion events.parquet -o scored.parquet
      streamfm score models/ctr/3 'log/*.parquet' --keep event_id -o scores.csv
      streamfm score models/ctr@champion "SELECT * FROM 'e.parquet' WHERE country = 'CH'" | head
    """
    from streamfm.scoring import load
    from streamfm.sources import open_source
    from udfs.duckdb_udf import register

    target = None if destination == "-" else Path(destination)
    if target is not None and target.suffix not in FORMATS:
        raise click.UsageError(f"{destination}: unknown kind of file; end it with {', '.join(FORMATS)}")
    scorer = load(reference, precision=precision)
    with open_source(data, inputs=scorer.spec.inputs, threads=threads) as source:
        register(source.connection, scorer)
        columns = _carried(source.columns, keep)
        _warn_of_missing(scorer.spec.input_names, source.columns)
        scores = ", deepfm_logit(__row) AS logit" if logit else ""
        query = f"SELECT {columns}deepfm_score(__row) AS score{scores} FROM ({source.sql}) AS __row"
        if target is None:
            _write_csv(source.connection.sql(query).to_arrow_reader())
            return
        rows = _copy(source.connection, query, target)
    console.print(f"{rows:,} events scored into {target}")


def _carried(columns: Collection[str], keep: str | None) -> str:
    if keep is None:
        return "__row.*, "
    wanted = [name.strip() for name in keep.split(",") if name.strip()]
    if missing := [name for name in wanted if name not in columns]:
        raise DataError(f"--keep: no column {missing[0]!r}", hint=f"the data has {', '.join(columns)}")
    return "".join(f"__row.{_quoted(name)}, " for name in wanted)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _warn_of_missing(inputs: tuple[str, ...], columns: Collection[str]) -> None:
    present = {name.casefold() for name in columns}
    if not present & {name.casefold() for name in inputs}:
        raise MissingColumnsError(inputs, list(columns), source="the data")
    if missing := [name for name in inputs if name.casefold() not in present]:
        console.print(f"[yellow]not in the data, scored as NULL: {', '.join(missing)}[/]")


def _copy(connection: duckdb.DuckDBPyConnection, query: str, target: Path) -> int:
    """Copy to a temporary file beside the target, then rename; the number of rows."""
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    location = str(part).replace("'", "''")
    try:
        with query_progress(connection, "scoring"):
            (rows,) = connection.execute(f"COPY ({query}) TO '{location}' ({FORMATS[target.suffix]})").fetchall()[0]
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    return int(rows)


@contextmanager
def query_progress(connection: duckdb.DuckDBPyConnection, label: str) -> Iterator[None]:
    """A progress bar while the connection runs a query."""
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
        progress.update(task, completed=100)


@click.command(short_help="Run SQL with the model registered, or prompt for it.")
@click.argument("reference")
@click.argument("query", required=False)
@click.option("-d", "--database", default=":memory:", help="A DuckDB file to open; in memory by default.")
@click.option("--read-only", is_flag=True, help="Open the database for reading.")
@click.option("--name", default="deepfm", show_default=True, help="Prefix of the functions: NAME_score and others.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, every row, instead of a table.")
@PRECISION
def sql(
    reference: str, query: str | None, database: str, read_only: bool, name: str, as_csv: bool, precision: Precision
) -> None:
    """Run QUERY in DuckDB with deepfm_score() and its companions; without QUERY, prompt (end a query with ;).

    \b
    Examples:
      streamfm sql models/ctr@champion "SELECT deepfm_score(e) AS p, * FROM 'e.parquet' e ORDER BY p DESC LIMIT 10"
      streamfm sql models/ctr@champion "SELECT deepfm_score(user_id := 'u1', app_id := 'a7')"
      streamfm sql models/ctr@champion -d shop.duckdb
    """
    import duckdb

    from udfs.duckdb_udf import register

    connection = duckdb.connect(database, read_only=read_only)
    register(connection, reference, name=name, precision=precision, temporary=True)
    if query is not None:
        _run(connection, query, as_csv=as_csv)
    elif sys.stdin.isatty():
        _prompt(connection, name, as_csv=as_csv)
    else:
        _run(connection, sys.stdin.read(), as_csv=as_csv)


def _run(connection: duckdb.DuckDBPyConnection, query: str, *, as_csv: bool) -> None:
    relation: duckdb.DuckDBPyRelation | None = connection.sql(query)
    if relation is None:
        return
    if as_csv:
        _write_csv(relation.to_arrow_reader())
        return
    width = output.width if output.is_terminal else WIDE
    relation.show(max_rows=SHOWN_ROWS, max_width=width)


def _write_csv(reader: pa.RecordBatchReader) -> None:
    import pyarrow as pa
    import pyarrow.csv

    with pyarrow.csv.CSVWriter(pa.PythonFile(sys.stdout.buffer), reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)


def _prompt(connection: duckdb.DuckDBPyConnection, name: str, *, as_csv: bool) -> None:
    import readline  # noqa: F401  # line editing and history for input()

    import duckdb

    console.print(f"{name}_score(...) is registered; end a query with ; and leave with Ctrl-D")
    lines: list[str] = []
    while True:
        try:
            lines.append(input("...> " if lines else "sql> "))
        except EOFError:
            click.echo()
            return
        except KeyboardInterrupt:
            lines.clear()
            click.echo()
            continue
        if not lines[-1].rstrip().endswith(";"):
            continue
        try:
            _run(connection, "\n".join(lines), as_csv=as_csv)
        except (duckdb.Error, KeyboardInterrupt) as error:
            console.print(f"[red]{error or 'interrupted'}[/]", markup=True, highlight=False)
        lines.clear()
