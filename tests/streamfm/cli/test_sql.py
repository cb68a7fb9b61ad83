"""`streamfm sql`: one text of statements, or a prompt on a terminal."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from streamfm.cli.prompt import is_complete
from streamfm.scoring import load

MODEL = "models/ctr@champion"


def test_a_query_prints_a_table_with_the_scores(folder: Path, streamfm) -> None:
    done = streamfm("sql", MODEL, "SELECT event_id, round(deepfm_score(t), 4) AS p FROM 'tomorrow.parquet' t LIMIT 3")
    assert (0, "") == (done.code, done.err)
    scores = load(MODEL).score(pq.read_table("tomorrow.parquet"))[:3]
    assert all(f"{score:.4f}".rstrip("0") in done.out for score in scores)
    assert "│ e000002500 │" in done.out


def test_csv_holds_every_row(folder: Path, streamfm) -> None:
    done = streamfm("sql", MODEL, "SELECT event_id, deepfm_score(t) AS p, genres FROM 'tomorrow.parquet' t", "--csv")
    assert (0, "") == (done.code, done.err)
    rows = duckdb.read_csv(io.StringIO(done.out)).fetchall()
    scores = load(MODEL).score(pq.read_table("tomorrow.parquet"))
    np.testing.assert_array_equal(scores, np.array([p for _, p, _ in rows], np.float32))


def test_several_statements_print_what_each_gives(folder: Path, streamfm) -> None:
    script = """
        CREATE TABLE t AS SELECT * FROM 'tomorrow.parquet'; -- one; only
        INSERT INTO t FROM t LIMIT 2;
        SELECT count(*) AS first FROM t; SET threads = 1;
        PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b);
        EXPLAIN SELECT 7; SELECT count(deepfm_score(t)) AS last FROM t
    """
    done = streamfm("sql", MODEL, script)
    assert (0, "2 rows\n") == (done.code, done.err)
    assert 2 == done.out.count(" 502 │")
    assert done.out.index("first") < done.out.index("Projection") < done.out.index("last")
    assert (0, "first\n500\n", "2 rows\n") == streamfm(
        "sql", MODEL, "CREATE TABLE t(a INT); INSERT INTO t VALUES (1), (2); SELECT 500 AS first", "--csv"
    )


def test_the_first_statement_that_fails_is_the_last(folder: Path, streamfm) -> None:
    done = streamfm("sql", MODEL, "SELECT 1 AS one; SELECT nope; SELECT 3 AS three")
    assert 1 == done.code
    assert "one" in done.out
    assert "three" not in done.out
    assert done.err.startswith('error: Binder Error: Referenced column "nope"')


def test_tables_are_cut_at_max_rows_and_not_at_a_width(folder: Path, streamfm) -> None:
    done = streamfm("sql", MODEL, "SELECT range, repeat('x', 400) AS wide FROM range(100)", "--max-rows", "7")
    assert "x" * 400 in done.out
    assert "(7 shown)" in done.out


def test_scripts_come_from_standard_input(folder: Path, streamfm, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "SELECT 1 AS a;\nSELECT ctr_score(t) > 0 AS b FROM 'tomorrow.parquet' t LIMIT 1"
    monkeypatch.setattr(sys, "stdin", io.StringIO(script))
    assert (0, "a\n1\nb\ntrue\n", "") == streamfm("sql", MODEL, "--csv", "--name", "ctr")


def test_a_database_file_is_read_unless_writing_is_asked_for(folder: Path, streamfm) -> None:
    done = streamfm("sql", MODEL, "-d", "shop.duckdb", "SELECT 1")
    assert (1, "", "error: shop.duckdb: no such file\nhint: --write makes it\n") == done
    assert not Path("shop.duckdb").exists()
    make = "CREATE TABLE e AS FROM 'tomorrow.parquet'"
    assert (0, "", "") == streamfm("sql", MODEL, "-d", "shop.duckdb", "--write", make)
    assert "500" in streamfm("sql", MODEL, "-d", "shop.duckdb", "SELECT count(deepfm_score(e)) FROM e").out
    done = streamfm("sql", MODEL, "-d", "shop.duckdb", "DELETE FROM e")
    assert (1, "") == (done.code, done.out)
    assert done.err.endswith("hint: --write opens the database file for writing\n")
    with duckdb.connect("shop.duckdb", read_only=True) as connection:
        # Nothing of the model was stored in it.
        query = "SELECT function_name FROM duckdb_functions() WHERE contains(function_name, 'deepfm')"
        assert [] == connection.execute(query).fetchall()


@pytest.mark.parametrize(
    ("query", "said"),
    [
        (
            "SELECT deepfm_score(prize := 1)",
            "error: deepfm_score() does not take these arguments\nhint: deepfm_score(ts, ",
        ),
        ("SELECT deepfm_score(price := 'x')", "error: input 'price' (feature 'price'): got VARCHAR, expected "),
        ("SELECT deepfm_embedding('nope', 1)", "error: no feature 'nope'\nhint: features: "),
        ("SELECT deepfm_scor(1)", 'deepfm_scor does not exist!\nhint: Did you mean "deepfm_score"?\n'),
        ("SELECT deepfm_score(t) FROM (SELECT 1 AS z) t", "error: "),
        ("SELEC 1", 'error: Parser Error: syntax error at or near "SELEC"\nLINE 1: SELEC 1\n        ^^^^^\n'),
        ("FROM 'nothing.parquet'", 'error: IO Error: No files found that match the pattern "nothing.parquet"\n'),
        ("COPY (SELECT 1) TO '/dev/full'", 'Could not write file "/dev/full": No space left on device\n'),
        ("FROM connection", "error: Catalog Error: Table with name connection does not exist!\n"),
        ("SELECT error('one\ntwo')", "error: Invalid Input Error: one\ntwo\n"),
    ],
    ids=lambda value: value[:32],
)
def test_errors_of_a_query_are_told_in_a_few_lines(query: str, said: str, folder: Path, streamfm) -> None:
    done = streamfm("sql", MODEL, query)
    assert (1, "") == (done.code, done.out)
    assert said in done.err
    assert 4 >= done.err.count("\n")
    assert "Traceback" not in done.err


def test_a_model_or_a_database_that_cannot_be_opened_is_told(folder: Path, streamfm) -> None:
    Path("no.duckdb").write_text("this is no database, only a text of some length")
    done = streamfm("sql", MODEL, "-d", "no.duckdb", "SELECT 1")
    assert (1, "") == (done.code, done.out)
    assert "not a valid DuckDB database file" in done.err
    done = streamfm("sql", "models/ctr@best", "SELECT 1")
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("error: models/ctr: there is no alias 'best'\n")
    done = streamfm("sql", MODEL, "SELECT 1", "--name", "1st")
    assert (1, "") == (done.code, done.out)
    assert done.err.startswith("error: name '1st' cannot begin a function's name\n")


@pytest.mark.parametrize(
    ("text", "complete"),
    [
        ("SELECT 1;", True),
        ("SELECT 'ä;\n' ; -- end", True),
        ("SELECT 1", False),
        ("SELECT ';", False),
        ("SELECT 1 -- ;", False),
        ("SELECT 1; SELECT 2", False),
        ("SELECT f(1);", True),
        ("SELECT 'ä' AS \"ö;\"", False),
        ("-- nothing", False),
    ],
)
def test_a_statement_ends_with_a_semicolon_that_ends_it(text: str, complete: bool) -> None:
    assert complete == is_complete(text)


class Terminal:
    """The prompt in a terminal of its own."""

    def __init__(self, folder: Path) -> None:
        self._mine, theirs = pty.openpty()
        command = [sys.executable, "-m", "streamfm.cli", "sql", MODEL]
        environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state"), "TERM": "dumb"}
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True
        )
        os.close(theirs)
        self._shown = b""

    def until(self, text: str, timeout_s: float = 60) -> str:
        """What is shown from the last time on, up to a text."""
        end = time.monotonic() + timeout_s
        while text.encode() not in self._shown:
            assert time.monotonic() < end, self._shown
            if select.select([self._mine], [], [], 0.1)[0]:
                self._shown += os.read(self._mine, 1 << 16)
        before, _, self._shown = self._shown.partition(text.encode())
        return before.decode().replace("\r\n", "\n")

    def write(self, line: str) -> None:
        """Type a line; returns when the terminal shows it."""
        os.write(self._mine, line.encode() + b"\n")
        self.until(line)

    def type(self, line: str, until: str = "sql> ") -> str:
        """What is shown after a line was typed, up to the next prompt."""
        self.write(line)
        return self.until(until)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._mine)


@pytest.fixture
def terminal(folder: Path) -> Iterator[Terminal]:
    opened = Terminal(folder)
    yield opened
    opened.close()


def test_the_prompt_goes_on_after_errors_and_ctrl_c(terminal: Terminal, folder: Path) -> None:
    assert "ctr 1 (fp32) answers as deepfm_score(...)" in terminal.until("sql> ")
    assert "deepfm_score(ts, user_id" in terminal.type(".help")
    assert "VARCHAR[]" in terminal.type(".inputs")
    assert "error: no command .nope" in terminal.type(".nope")
    terminal.type("SELECT deepfm_score(t) > 0 AS", until="...> ")
    assert "│ true " in terminal.type("ok FROM 'tomorrow.parquet' t LIMIT 1;")
    assert "error: Binder Error" in terminal.type("SELECT nope;")
    terminal.write("SELECT count(*) FROM range(1000000000000) t(i) WHERE i % 7 = 3;")
    time.sleep(0.5)
    os.kill(terminal.process.pid, signal.SIGINT)
    assert "interrupted\n" in terminal.until("sql> ")
    assert " 42 │" in terminal.type("SELECT 42 AS still;")
    terminal.write(".quit")
    assert 0 == terminal.process.wait(30)
    assert "SELECT nope;" in (folder / "state" / "streamfm" / "sql_history").read_text()
