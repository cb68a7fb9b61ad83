"""`streamfm score`: any source in, in order, any format out, and nothing half-written."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from streamfm.scoring import load

MODEL = "models/ctr@champion"


@pytest.fixture
def expected(folder: Path) -> NDArray[np.float32]:
    """The scores of tomorrow's events."""
    return load(MODEL).score(pq.read_table("tomorrow.parquet"))


def read(path: str) -> NDArray[np.float32]:
    """The scores in a file, in its order."""
    rows = duckdb.sql(f"SELECT score::FLOAT FROM '{path}'").fetchall()
    return np.array([score for (score,) in rows], np.float32)


def copy(query: str, path: str) -> None:
    duckdb.sql(query).write_csv(path) if path.endswith(".csv") else duckdb.execute(f"COPY ({query}) TO '{path}'")


@pytest.mark.parametrize(
    "target", ["s.parquet", "s.csv", "s.tsv", "s.csv.gz", "s.csv.zst", "s.json", "s.jsonl", "s.ndjson.gz"]
)
def test_every_format_holds_the_rows_in_order_with_the_scores(
    target: str, folder: Path, expected: NDArray[np.float32], streamfm
) -> None:
    done = streamfm("score", MODEL, "tomorrow.parquet", "-o", target)
    assert (0, "") == (done.code, done.out)
    assert done.err.startswith(f"500 events scored into {target} in ")
    assert expected.tolist() == read(target).tolist()
    ids = duckdb.sql(f"SELECT event_id FROM '{target}'").fetchall()
    assert duckdb.sql("SELECT event_id FROM 'tomorrow.parquet'").fetchall() == ids
    assert [] == list(folder.glob(".*"))


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz", "in.json"])
def test_text_files_are_read_as_the_specification_declares(
    name: str, folder: Path, expected: NDArray[np.float32], streamfm
) -> None:
    duckdb.execute(f"COPY (FROM 'tomorrow.parquet') TO '{name}'")
    assert 0 == streamfm("score", MODEL, name, "-o", "s.parquet").code
    np.testing.assert_allclose(read("s.parquet"), expected, atol=1e-6)


def test_many_files_are_scored_one_after_the_other(folder: Path, expected: NDArray[np.float32], streamfm) -> None:
    for part in range(3):
        copy(f"FROM 'tomorrow.parquet' LIMIT 100 OFFSET {part * 100}", f"part-{part}.parquet")
    for data in (["part-*.parquet"], sorted(map(str, Path().glob("part-*.parquet")))):
        assert 0 == streamfm("score", MODEL, *data, "-o", "s.csv").code
        assert expected[:300].tolist() == read("s.csv").tolist()


def test_many_row_groups_and_threads_keep_the_order(folder: Path, streamfm) -> None:
    duckdb.execute(
        "COPY (SELECT i, t.* FROM range(60) r(i), 'tomorrow.parquet' t ORDER BY i)"
        " TO 'many.parquet' (ROW_GROUP_SIZE 2048)"
    )
    done = streamfm("score", MODEL, "many.parquet", "-o", "s.parquet", "--keep", "event_id,i", "--threads", "4")
    assert 0 == done.code
    columns = "event_id, i"
    same = f"SELECT {columns} FROM 's.parquet'", f"SELECT {columns} FROM 'many.parquet'"
    assert duckdb.sql(same[1]).fetchall() == duckdb.sql(same[0]).fetchall()


def test_csv_on_standard_output_is_the_csv_of_a_file(folder: Path, streamfm) -> None:
    streamfm("score", MODEL, "tomorrow.parquet", "-o", "s.csv")
    done = streamfm("score", MODEL, "tomorrow.parquet")
    assert (0, "") == (done.code, done.err)
    assert Path("s.csv").read_text() == done.out


def test_a_file_that_the_shell_appends_to_keeps_what_it_has(
    folder: Path, streamfm, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("all.csv").open("a") as file:
        print("before", file=file)
        monkeypatch.setattr(sys, "stdout", file)
        assert 0 == streamfm("score", MODEL, "tomorrow.parquet", "--keep", "event_id").code
    lines = Path("all.csv").read_text().splitlines()
    assert (["before", "event_id,score"], 502) == (lines[:2], len(lines))


def test_whoever_reads_only_the_head_gets_it_without_a_complaint(
    folder: Path, streamfm, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, sink = os.pipe()
    heads: list[bytes] = []

    def head() -> None:
        with os.fdopen(source, "rb") as pipe:
            heads.append(pipe.readline())

    reader = threading.Thread(target=head)
    reader.start()
    monkeypatch.setattr(sys, "stdout", os.fdopen(sink, "w"))
    done = streamfm("score", MODEL, "SELECT t.* FROM range(200), 'tomorrow.parquet' t")
    reader.join()
    sys.stdout.close()
    assert (141, "") == (done.code, done.err)
    assert heads[0].startswith(b"event_id,")


def test_a_full_standard_output_is_told(folder: Path, streamfm, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (["score", MODEL, "tomorrow.parquet"], ["models", "list"], ["models", "list", "--json"]):
        with Path("/dev/full").open("w") as full:
            monkeypatch.setattr(sys, "stdout", full)
            assert (1, "", "error: No space left on device\n") == streamfm(*command)


def test_columns_are_chosen_named_and_added(folder: Path, expected: NDArray[np.float32], streamfm) -> None:
    streamfm(
        "score", MODEL, "tomorrow.parquet", "--keep", "EVENT_ID, ts", "--column", "p", "--logit", "-o", "s.parquet"
    )
    table = pq.read_table("s.parquet")
    assert ["event_id", "ts", "p", "logit"] == table.column_names
    assert expected.tolist() == table["p"].to_pylist()
    np.testing.assert_allclose(expected, 1 / (1 + np.exp(-table["logit"].to_numpy())), atol=1e-6)


def test_a_column_that_is_there_already_is_not_written_twice(folder: Path, streamfm) -> None:
    query = "SELECT *, 1 AS Score, 2 AS logit FROM 'tomorrow.parquet'"
    said = "hint: --column names the scores otherwise; --keep leaves columns out\n"
    assert (1, "", f"error: the SQL query: there is a column 'score' already\n{said}") == streamfm(
        "score", MODEL, query
    )
    done = streamfm("score", MODEL, query, "--column", "p", "--logit")
    assert (1, "", f"error: the SQL query: there is a column 'logit' already\n{said}") == done
    done = streamfm("score", MODEL, query, "--column", "logit", "--logit", "--keep", "ts")
    assert (1, "", f"error: the SQL query: there is a column 'logit' already\n{said}") == done
    assert 0 == streamfm("score", MODEL, query, "--keep", "event_id", "--logit").code


def test_columns_named_like_the_row_in_the_query_do_no_harm(
    folder: Path, expected: NDArray[np.float32], streamfm
) -> None:
    query = "SELECT *, 1 AS events, 2 AS Events_, 3 AS deepfm_score FROM 'tomorrow.parquet'"
    assert 0 == streamfm("score", MODEL, query, "-o", "s.parquet").code
    assert expected.tolist() == read("s.parquet").tolist()


def test_missing_inputs_are_named_once_and_count_as_null(folder: Path, streamfm) -> None:
    query = "SELECT * EXCLUDE (country, price) FROM 'tomorrow.parquet'"
    done = streamfm("score", MODEL, query, "-o", "s.parquet")
    assert 0 == done.code
    assert done.err.startswith("warning: the SQL query: not there, and scored as NULL: country, price\n500 events ")
    rows = pq.read_table("tomorrow.parquet").drop_columns(["country", "price"])
    assert load(MODEL).score(rows).tolist() == read("s.parquet").tolist()


def test_the_columns_of_a_sql_feature_are_missed_too(folder: Path, streamfm) -> None:
    done = streamfm("score", MODEL, "SELECT * EXCLUDE ts FROM 'tomorrow.parquet'", "-o", "s.parquet")
    assert done.err.startswith("warning: the SQL query: not there, and scored as NULL: ts\n")


def test_no_rows_make_an_empty_file(folder: Path, streamfm) -> None:
    done = streamfm("score", MODEL, "FROM 'tomorrow.parquet' LIMIT 0", "-o", "s.parquet")
    assert 0 == done.code
    assert (0, "score") == (pq.read_table("s.parquet").num_rows, pq.read_schema("s.parquet").names[-1])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tomorow.parquet"], "error: tomorow.parquet: no such file\nhint: did you mean 'tomorrow.parquet'?\n"),
        (["tomorrow.parquet", "-o", "tomorrow.parquet"], "error: tomorrow.parquet: is the data itself\n"),
        (["*.parquet", "-o", "./events.parquet"], "error: ./events.parquet: is the data itself\n"),
        (["tomorrow.parquet", "-o", "no/s.csv"], "error: no/s.csv: there is no folder no\nhint: make it first\n"),
        (["tomorrow.parquet", "-o", "folder.csv"], "error: folder.csv: is a folder\n"),
        (
            ["tomorrow.parquet", "--keep", "evnt_id"],
            "error: tomorrow.parquet: column 'evnt_id' not found\nhint: did you",
        ),
        (["SELECT clicked FROM 'tomorrow.parquet'"], "error: the SQL query: column 'ts', 'user_id', "),
        (["SELEC 1"], "error: SELEC 1: no such file\n"),
        (["FROM 'tomorrow.parquet' WHERE"], 'error: the SQL query: Parser Error: syntax error at or near "WHERE"\n'),
        (
            ["SELECT * REPLACE ('cheap' AS price) FROM 'tomorrow.parquet'"],
            "error: the SQL query: input 'price' (feature 'price'): got VARCHAR, expected ",
        ),
        (["broken.csv"], "error: broken.csv: "),
        (["tomorrow.parquet", "--memory-limit", "much"], "error: DuckDB refuses a setting: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_scored_is_refused_and_leaves_nothing(
    arguments: list[str], said: str, folder: Path, streamfm
) -> None:
    (folder / "folder.csv").mkdir()
    (folder / "broken.csv").write_text("user_id,rating\nu1,4.5\nu2,excellent\n")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    done = streamfm("score", MODEL, *arguments)
    assert (1, "") == (done.code, done.out)
    assert said in done.err
    assert "Traceback" not in done.err
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


def test_a_full_disk_leaves_the_old_file_as_it_was(folder: Path, file_size_limit, streamfm) -> None:
    Path("s.csv").write_text("old")
    with file_size_limit(10_000):
        done = streamfm("score", MODEL, "tomorrow.parquet", "-o", "s.csv")
    assert 1 == done.code
    assert "File too large" in done.err
    assert "old" == Path("s.csv").read_text()
    assert [] == list(folder.glob(".*"))
