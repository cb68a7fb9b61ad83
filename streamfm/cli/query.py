"""`streamfm sql`: DuckDB with the model registered, for one text of statements or a prompt."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfm.cli.commands import PRECISION, REFERENCE, Command, argument, option
from streamfm.cli.console import answer, output, say
from streamfm.cli.csv_output import print_csv
from streamfm.errors import StreamFMError

if TYPE_CHECKING:
    import duckdb

    from streamfm.scoring import Precision

MEMORY = ":memory:"
SHOWN_ROWS = 40


@click.command(cls=Command, short_help="Ask the model in SQL: a query, a script, or a prompt.")
@REFERENCE
@argument("query", "One or more statements; without, they are read from standard input.", required=False)
@option("-d", "--database", default=MEMORY, help="A DuckDB file, opened for reading only; in memory by default.")
@option("--write", is_flag=True, help="Open the database file for writing; one that is not there is made.")
@option("--name", default="deepfm", show_default=True, help="What the functions' names begin with.")
@option("--csv", "as_csv", is_flag=True, help="Print CSV, every row, instead of a table.")
@option("--max-rows", default=SHOWN_ROWS, show_default=True, type=click.IntRange(1), help="Of a table.")
@PRECISION
def sql(
    reference: str, query: str | None, database: str, write: bool, name: str, as_csv: bool, max_rows: int,
    precision: Precision,
) -> None:  # fmt: skip
    """Run SQL in DuckDB with deepfm_score(...) and its companions; on a terminal without QUERY, prompt for it.

    deepfm_score takes inputs by name, by position, or a whole row; deepfm_explain tells what each feature adds,
    deepfm_embedding what the model has learnt of a value, deepfm_models() what is registered. Nothing of it is stored
    in the database file.

    \b
    Examples:
      streamfm sql models/ctr@champion "SELECT deepfm_score(e) AS p, * FROM 'e.parquet' e ORDER BY p DESC LIMIT 10"
      streamfm sql models/ctr@champion "SELECT deepfm_score(user_id := 'u1', app_id := 'a7')"
      streamfm sql models/ctr@champion -d shop.duckdb --csv "FROM events e SELECT id, deepfm_score(e)" > scores.csv
      streamfm sql models/ctr@champion < report.sql
      streamfm sql models/ctr@champion
    """
    from streamfm.cli.prompt import Prompt
    from udfs.duckdb_udf import register

    with closing(_connect(database, write=write)) as connection:
        registration = register(connection, reference, name=name, precision=precision, temporary=True)
        show = Show(connection, max_rows=max_rows, as_csv=as_csv)
        if query is None and sys.stdin.isatty():
            Prompt(registration, show.script).run()
        else:
            show.script(sys.stdin.read() if query is None else query)


def _connect(database: str, *, write: bool) -> duckdb.DuckDBPyConnection:
    import duckdb

    if database == MEMORY and write:
        raise click.UsageError("--write goes with a --database")
    if database != MEMORY and not write and not Path(database).exists():
        raise StreamFMError(f"{database}: no such file", hint="--write makes it")
    # Without the setting, FROM x would find a variable x of this program.
    return duckdb.connect(
        database, read_only=database != MEMORY and not write, config={"python_enable_replacements": False}
    )


class Show:
    """Runs statements on a connection, and prints what they give."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, *, max_rows: int, as_csv: bool) -> None:
        """Print tables of so many rows at most, or all rows as CSV."""
        self.connection = connection
        self._max_rows, self._as_csv = max_rows, as_csv

    def script(self, text: str) -> None:
        """Run the statements of a text, one after the other; the first that fails is the last.

        Raises:
            duckdb.Error: A statement cannot be read, or fails.
            KeyboardInterrupt: Ctrl-C; the statement has ended, and the connection is free.
        """
        for statement in self.connection.extract_statements(text):
            self._statement(statement)

    def _statement(self, statement: duckdb.Statement) -> None:
        import duckdb

        from streamfm.data.interruptible import interruptible

        rows = interruptible(self.connection, lambda: self.connection.sql(statement))
        gives_nothing = duckdb.ExpectedResultType.NOTHING in statement.expected_result_type
        if rows is None or (gives_nothing and statement.type != duckdb.StatementType.MULTI):
            return
        if rows.columns == ["Count"] and statement.type != duckdb.StatementType.SELECT:
            say(f"{rows.fetchall()[0][0]:,} rows")
        elif statement.type == duckdb.StatementType.EXPLAIN:
            for _, plan in rows.fetchall():
                answer(plan)
        elif self._as_csv:
            print_csv(self.connection, lambda path: rows.write_csv(path, header=True))
        else:
            width = output.width if output.is_terminal else sys.maxsize
            interruptible(self.connection, lambda: rows.show(max_rows=self._max_rows, max_width=width))
