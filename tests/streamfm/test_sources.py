from __future__ import annotations

import gzip
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamfm.data.sources import Source, SourceLike, open_source
from streamfm.errors import DataError, MissingColumnsError
from streamfm.features.inputs import Input

TABLE = pa.table({"user_id": [1, 2, None], "city": ["Basel", "", "Zürich"], "clicked": [True, False, None]})
ROWS = [(1, "Basel", True), (2, "", False), (None, "Zürich", None)]


def read(rows: SourceLike, *inputs: Input) -> list[tuple[object, ...]]:
    with open_source(rows, inputs=inputs) as source:
        return source.execute(source.sql)


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "events.parquet"
    pq.write_table(TABLE, path)
    return path


def test_a_parquet_file_is_read_by_path(parquet: Path) -> None:
    assert ROWS == read(parquet)
    assert ROWS == read(str(parquet))


def test_a_glob_a_list_and_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        pq.write_table(pa.table({"name": [f"{name}1", f"{name}2"]}), tmp_path / f"{name}.parquet")
    expected = [("a1",), ("a2",), ("b1",), ("b2",), ("c1",), ("c2",)]
    assert expected == read(tmp_path / "*.parquet")
    assert expected == read(tmp_path)
    assert expected[4:] + expected[:2] == read([tmp_path / "c.parquet", tmp_path / "a.parquet"])


def test_files_whose_columns_differ_are_joined_by_name(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1], "b": ["x"]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"b": ["y"], "c": [True]}), tmp_path / "2.parquet")
    assert [(1, "x", None), (None, "y", True)] == read(tmp_path)


@pytest.mark.parametrize(
    "query", ["SELECT * FROM '{}'", " from '{}'", "-- all\n(with t AS (FROM '{}') SELECT * FROM t);"]
)
def test_a_text_that_begins_like_sql_is_a_query(query: str, parquet: Path) -> None:
    assert ROWS == read(query.format(parquet))


@pytest.mark.parametrize("name", ["select.parquet", "from-april.parquet", "within.parquet", "FROM.parquet"])
def test_a_file_may_be_named_like_sql(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pq.write_table(TABLE, name)
    assert ROWS == read(name)


def test_a_query_is_run_once_so_that_every_pass_sees_the_same_rows() -> None:
    with open_source("SELECT random() AS x FROM range(100)") as source:
        assert source.execute(source.sql) == source.execute(source.sql)


@pytest.mark.parametrize("make", [pa.Table.to_pandas, pl.from_arrow, lambda table: table, pa.Table.to_reader])
def test_tables_and_frames_are_read_where_they_are(make: object) -> None:
    assert ROWS == read(
        make(TABLE.cast(pa.schema([("user_id", pa.int64()), ("city", pa.string()), ("clicked", pa.bool_())])))
    )  # type: ignore[operator]


def test_an_open_source_passes_through(parquet: Path) -> None:
    with open_source(parquet) as source, open_source(source) as again:
        assert source is again


def test_times_are_in_utc_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    table = pa.table({"t": pa.array([0], pa.timestamp("us", tz="Asia/Tokyo"))})
    with open_source(table) as source:
        assert (0, 0) == source.fetch("hour(t), hour(CAST(t AS TIMESTAMP))")
        assert [(0,)] == source.connection.cursor().execute(
            "SELECT hour(TIMESTAMPTZ '1970-01-01 00:00:00Z')"
        ).fetchall()


def test_the_temporary_folder_is_gone_afterwards(tmp_path: Path) -> None:
    with open_source("SELECT * FROM range(10)", folder=tmp_path) as source:
        assert 10 == source.rows
        assert [] != list(tmp_path.iterdir())
    assert [] == list(tmp_path.iterdir())


def test_what_does_not_fit_in_memory_is_spilled(tmp_path: Path) -> None:
    with open_source(
        "SELECT range AS i FROM range(3_000_000)", memory_limit="60MB", threads=1, folder=tmp_path
    ) as source:
        grouped = source.select("'a value of some length ' || i AS v, count(*) AS n", "GROUP BY v")
        assert 3_000_000 == sum(batch.num_rows for batch in source.batches(grouped))


# --- text files: what is declared decides


def test_declared_texts_of_a_csv_stay_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("version,n\n1.50,1\n,2\n")
    assert [(1.5, 1), (None, 2)] == read(tmp_path / "a.csv")
    assert [("1.50", 1), (None, 2)] == read(tmp_path / "a.csv", Input(name="Version", type="VARCHAR"))


def test_declared_lists_and_instants_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('genres,ts,s\n"[a, b]",1700000000000,1.5\n,,\n')
    inputs = (
        Input(name="genres", type="VARCHAR[]"),
        Input(name="ts", type="TIMESTAMP", json="epoch_ms"),
        Input(name="s", type="TIMESTAMP", json="epoch_s"),
    )
    with open_source(tmp_path / "a.csv", inputs=inputs) as source:
        shown = source.execute(source.select("genres, CAST(ts AS VARCHAR), CAST(s AS VARCHAR)"))
    assert [(["a", "b"], "2023-11-14 22:13:20", "1970-01-01 00:00:01.5"), (None, None, None)] == shown


def test_compressed_csv_and_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"a,b\n1,x\n"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1, "b": "x"}\n'))
    assert [(1, "x")] == read(tmp_path / "a.csv.gz") == read(tmp_path / "a.jsonl.gz")


def test_json_texts_that_look_like_dates_stay_what_was_written(tmp_path: Path) -> None:
    values = ["2024-01-01T00:00:00Z", "550E8400-E29B-41D4-A716-446655440000", "2024-01-01"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"a": v, "b": v, "c": v}) + "\n" for v in values))
    inputs = [Input(name=name, type="VARCHAR") for name in "abc"]
    assert [(value,) * 3 for value in values] == read(tmp_path / "a.jsonl", *inputs)


def test_json_numbers_and_texts_in_one_column_are_texts(tmp_path: Path) -> None:
    values = [1, "01", 2.0, 2.5, "x", None, 12345678901234567890]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"id": value}) + "\n" for value in values))
    expected = ["1", "01", "2", "2.5", "x", None, "12345678901234567890"]
    assert [(text,) for text in expected] == read(tmp_path / "a.jsonl", Input(name="id", type="VARCHAR"))


def test_json_instants_by_their_declared_form(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"ts": 1700000000, "other": 1}\n{"ts": 1700000000.5}\n{"other": 2}\n')
    inputs = [Input(name="ts", type="TIMESTAMPTZ", json="epoch_s")]
    with open_source(tmp_path / "a.jsonl", inputs=inputs) as source:
        assert [(1_700_000_000_000_000,), (1_700_000_000_500_000,), (None,)] == source.execute(
            source.select("epoch_us(ts)")
        )


def test_json_fields_that_first_appear_late_are_not_lost(tmp_path: Path) -> None:
    lines = ['{"a": 1}'] * 30_000 + ['{"a": "x", "late": 7}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    with open_source(tmp_path / "a.jsonl", inputs=[Input(name="a", type="VARCHAR")]) as source:
        assert (7, "x") == source.fetch("max(late), max(a)")


# --- parts and places


def test_the_first_row_is_named_with_its_file(tmp_path: Path) -> None:
    for number in range(3):
        pq.write_table(pa.table({"x": [10 * number, 10 * number + 1]}), tmp_path / f"{number}.parquet")
    with open_source(tmp_path / "*.parquet") as source:
        assert (f"{tmp_path / '2.parquet'}: row 1 (counted from 1)", 20) == source.first_row("x >= 20", "x")
        part = source.part("odd", "x % 2 = 1")
        assert (f"{tmp_path / '1.parquet'}: row 2 (counted from 1)", 11) == part.first_row("x > 5", "x")


def test_parts_of_parts() -> None:
    with open_source(pa.table({"x": range(10)})) as source:
        part = source.part("high", "x >= 5").part("even", "x % 2 = 0")
        assert [(6,), (8,)] == part.execute(part.sql)
        assert ("the Table (high) (even)", 2, ["x"]) == (part.name, part.rows, list(part.columns))


# --- Ctrl-C


ENDLESS = "SELECT i FROM range(1000000000000) t(i) WHERE hash(i) = 3"


@pytest.fixture
def interruption() -> Iterator[threading.Timer]:
    """Presses Ctrl-C half a second after it is started."""
    # Whoever runs the tests in the background has them ignore Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    yield timer
    timer.join()
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    "ask",
    [
        lambda source: source.execute(ENDLESS),
        lambda source: source.fetch("count(*)", f"JOIN ({ENDLESS}) ON true"),
        lambda source: source.execute(f"CREATE TABLE kept AS {ENDLESS}"),
        lambda source: list(source.batches(ENDLESS)),
    ],
    ids=["execute", "fetch", "create", "batches"],
)
def test_ctrl_c_ends_a_query_and_leaves_the_connection_free(
    ask: Callable[[Source], object], interruption: threading.Timer
) -> None:
    with open_source(TABLE) as source:
        interruption.start()
        with pytest.raises(KeyboardInterrupt):
            ask(source)
        assert 3 == source.rows


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, ValueError])
def test_batches_that_break_off_leave_the_connection_free(error: type[BaseException]) -> None:
    with open_source("SELECT range AS number FROM range(200000)") as source:
        batches = source.batches(source.select("number"), 2048)
        next(batches)
        with pytest.raises(error) as caught:
            batches.throw(error)
        # As long as the error is kept, so is what it was raised among.
        assert caught.tb is not None
        assert 200_000 == source.fetch("count(*)")[0]
        assert 200_000 == sum(batch.num_rows for batch in source.batches(source.select("number")))


def test_a_query_that_another_thread_asks_for_and_somebody_interrupts_is_an_interruption() -> None:
    errors: list[BaseException] = []

    def ask(source: Source) -> None:
        try:
            source.execute(ENDLESS)
        except BaseException as error:
            errors.append(error)

    with open_source(TABLE) as source:
        asking = threading.Thread(target=ask, args=(source,))
        asking.start()
        while asking.is_alive():
            source.connection.interrupt()
            asking.join(0.1)
        assert [KeyboardInterrupt] == [type(error) for error in errors]
        assert 3 == source.rows


# --- what cannot be read


@pytest.mark.parametrize(
    ("rows", "message", "hint"),
    [
        ("event.parquet", "event.parquet: no such file", "did you mean 'events.parquet'?"),
        ("nowhere/a.csv", "nowhere/a.csv: no such file", "the working folder is "),
        ("*.json", "*.json: no file matches", "the working folder is "),
        ("empty", "empty: the folder holds no Parquet file", "'empty/*.csv'"),
        ([], "no file is named", "name at least one"),
        ("events.txt", "events.txt: the ending '.txt' tells no format", "read_csv('events.txt')"),
        (["events.parquet", "a.csv"], "events.parquet is parquet, but a.csv is csv", "UNION ALL BY NAME"),
        ("broken.parquet", "broken.parquet", None),
        ("SELECT * FROM nothing", "the SQL query: Catalog Error: Table with name nothing does not exist!", None),
        ("SELECT 1 FROM (", "the SQL query: Parser Error: syntax error", None),
        (7, "int holds no rows", "give a path"),
        ([{"a": 1}], "list holds no rows", "give a path"),
        (pd.DataFrame({"a": [1, "x"]}), "the DataFrame: ", "a column mixes types"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(
    rows: SourceLike, message: str, hint: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(TABLE, tmp_path / "events.parquet")
    (tmp_path / "empty").mkdir()
    for name, text in (("events.txt", "a\n1\n"), ("a.csv", "a\n1\n"), ("broken.parquet", "PAR1 but no more")):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught, open_source(rows) as source:
        source.columns  # noqa: B018
    assert message in caught.value.message
    assert (hint or "") in (caught.value.hint or "")


def test_missing_columns_are_named_all_at_once(parquet: Path) -> None:
    with open_source(parquet) as source, pytest.raises(MissingColumnsError) as caught:
        source.require(["user", "clicked", "age"])
    assert ("user", "age") == caught.value.missing
    assert f"{parquet}: column 'user', 'age' not found" == caught.value.message
    assert "did you mean 'user_id'? it has user_id, city, clicked" == caught.value.hint


def test_columns_are_found_as_in_sql_whatever_their_case(parquet: Path) -> None:
    with open_source(parquet) as source:
        assert '"user_id"' == source.column("USER_id")


# --- a column that is there twice


AGAIN = " (as 'A', the same to SQL)"


@pytest.mark.parametrize(
    ("name", "text", "again"),
    [
        ("a.csv", "a,b,a\n1,2,3\n", ""),
        ("a.csv", "a,b,A\n1,2,3\n", AGAIN),
        ("a.csv", "a,b,a\n", ""),
        ("a.csv", "a,b,a\nx,y,z\n", ""),
        ("a.csv", "\ufeffa, a ,b\r\n1,2,3\r\n", ""),
        ("a.csv", '# events\n"a";"b;c";"a"\n1;"2;2";3\n', ""),
        ("a.tsv", "a\ta\n1\t2\n", ""),
        ("a.csv.gz", "a,a_1,a\n1,2,3\n", ""),
        ("a.jsonl", '{"A": 1, "a": 2}\n', " (as 'a', the same to SQL)"),
        ("a.jsonl", '{"A": 1}\n{"a": 2}\n', " (as 'a', the same to SQL)"),
    ],
)
def test_a_text_file_with_a_column_twice_is_refused(name: str, text: str, again: str, tmp_path: Path) -> None:
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    with pytest.raises(DataError) as caught, open_source(tmp_path / name):
        pass
    first = "A" if name == "a.jsonl" else "a"
    assert f"{tmp_path / name}: column {first!r} is there twice{again}" == caught.value.message
    assert "rename or drop one" == caught.value.hint


def test_a_key_twice_in_one_json_object_is_refused_by_duckdb(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": 1, "a": 2}\n')
    with pytest.raises(DataError, match='duplicate key "a"'):
        read(tmp_path / "a.jsonl")


def test_the_file_of_several_that_has_a_column_twice_is_named(tmp_path: Path) -> None:
    nested = pa.array([{"a": 1, "b": [{"a": 2}]}])
    pq.write_table(pa.table([nested, [1]], names=["n", "a"]), tmp_path / "1.parquet")
    pq.write_table(pa.table([[1], nested, [1]], names=["a", "n", "a"]), tmp_path / "2.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert f"{tmp_path / '2.parquet'}: column 'a' is there twice" == caught.value.message


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("SELECT 1 AS a, 2 AS b, 3 AS a", "the SQL query: column 'a' is there twice"),
        ("FROM (SELECT 1 AS a) AS x, (SELECT 2 AS A) AS y;", f"the SQL query: column 'a' is there twice{AGAIN}"),
        (pa.table([[1], [2]], names=["a", "a"]), "the Table: column 'a' is there twice"),
        (pa.table([[1], [2]], names=["a", "A"]), f"the Table: column 'a' is there twice{AGAIN}"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "the DataFrame: column 'a' is there twice"),
        (pl.DataFrame({"a": [1], "A": [2]}), f"the DataFrame: column 'a' is there twice{AGAIN}"),
    ],
    ids=["query", "query, other case", "Arrow", "Arrow, other case", "pandas", "polars"],
)
def test_a_query_or_a_table_with_a_column_twice_is_refused(rows: SourceLike, message: str) -> None:
    with pytest.raises(DataError) as caught, open_source(rows):
        pass
    assert (message, "rename or drop one") == (caught.value.message, caught.value.hint)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "user,user_1,,\n1,2,,\n"),
        ("a.csv", "user,user_1\n"),
        ("a.csv", "1,1,2\n3,4,5\n"),
        ("a.csv", "user,user_1\n" + '1,"line\n""line"""\n' * 3),
        ("a.jsonl", '{"user": 1, "user_1": {"user": 2}}\n'),
    ],
)
def test_names_that_only_look_as_if_one_were_there_twice_are_none(name: str, text: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with open_source(tmp_path / name) as source:
        assert list(source.columns)[:2] in (["user", "user_1"], ["column0", "column1"])
