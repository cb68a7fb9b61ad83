"""README.md and docs: every block runs as it is printed, and gives what the page says."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import streamfm
from connectors.parquet_log import EventLog
from streamfm.cli import cli, main, stream_parts
from streamfm.data import encode_dataset, fit_vocabularies
from streamfm.encoder import Encoder
from streamfm.features import FeatureSpec, Input
from streamfm.registry import Registry
from streamfm.stream.ports import Event
from streamfm.stream.serving import ServedModels
from streamfm.stream.settings import StreamSettings
from streamfm.testing import simulate_events

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "data" / "bundle_v1"
FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n(?:\n^```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)

FOLDERS = (".", "docs", "docs/decisions", "benchmarks")
PAGES = [str(path.relative_to(ROOT)) for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.md"))]
PAGES.remove("docs/cli.md")  # printed by the commands, which tests/streamfm/cli runs
# Which languages of which page are run below.
RUN = {
    "README.md": {"sh", "python"},
    "docs/sql.md": {"python", "sql"},
    "docs/python.md": {"python"},
    "docs/features.md": {"toml"},
    "docs/streaming.md": {"sh", "json", "toml", "ini"},
    "docs/continuous-training.md": {"sh"},
    "docs/event-log.md": {"sh", "python"},
    "CONTRIBUTING.md": {"sh"},
}
ONLY_UNDERSTOOD = ("README.md", "docs/continuous-training.md", "docs/event-log.md")
"""Pages with commands that are not run: they work on logs that grow. What they do has tests in tests/streamfm/cli."""
NEEDS_KAFKA = "-b localhost:9092"
"""Commands that have it are not run: there is no Kafka at that address. That they can be understood is tested."""
# Commands of these pages that are not run here, and why.
NOT_RUN = {
    "make demo": "installs, and takes two minutes; tests/streamfm/cli/test_demo.py has it with fewer events and hours",
    "make test": "runs this test",
    "make install": "installs",
    'make pytest PYTEST_FLAGS="-k encoder"': "runs tests",
    "make bench NAME=frappe": "takes minutes, and files that are not ours to give",
    "make wheel": "installs; CI runs it by itself",
    "make faults": "takes long, and a Kafka",
    "make constraints": "asks the package index",
    ".venv/bin/ruff format . && .venv/bin/ruff check --fix .": "rewrites files",
    "git log --oneline": "no git outside of a checkout",
    "streamfm broker": "runs until it is stopped; tests/streamfm/cli/test_stream.py has it",
    "streamfm models promote models/ctr/2": "there is one version only; tests/streamfm/cli/test_models.py has it",
    "streamfm retrain models/ctr --log log --every 1m": "never ends; tests/streamfm/cli/test_retrain.py has it",
    "streamfm retrain models/ctr --impressions 'shown/*.parquet' --clicks 'clicks/*.parquet' --window 1h --dry-run": (
        "there are no clicks; tests/streamfm/cli/test_retrain.py has it"
    ),
    "streamfm monitor models/ctr --log log --rollback": "no log; tests/streamfm/cli/test_monitor.py has it",
    "streamfm log compact log": "no log; tests/streamfm/cli/test_collect.py has it",
    "streamfm models rollback models/ctr": "there is one version only; tests/streamfm/cli/test_models.py has it",
    "streamfm evaluate --progressive events.parquet --features features.toml --shards 100": (
        "takes a minute; tests/streamfm/cli/test_evaluate_progressive.py has it"
    ),
    "tail -f events.jsonl | streamfm stream models/ctr@champion --in - --out -": "never ends",
}


class Block(NamedTuple):
    """A fenced block, and the `text` block that follows it."""

    language: str
    code: str
    printed: str


class Said(NamedTuple):
    """An expression of a block, its value, and the comment behind it."""

    statement: str
    value: Any
    comment: str


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[Block]:
    return [block for block in map(Block._make, FENCE.findall(page(name))) if block.language == language]


def commands(name: str) -> list[str]:
    """The lines of a page's `sh` blocks, without comments."""
    code = "".join(block.code for block in blocks(name, "sh"))
    lines = re.findall(r'^(?:"[^"]*"|[^"\n])+$', code, re.MULTILINE)
    return [re.sub(r"\s+# .*", "", line) for line in lines]


def run(code: str, names: dict[str, Any]) -> Iterator[Said]:
    """The block's statements one by one, run; what the expressions among them are."""
    lines = code.splitlines()
    for node in ast.parse(code).body:
        statement = ast.unparse(node)
        if isinstance(node, ast.Expr):
            comment = lines[(node.end_lineno or 0) - 1][node.end_col_offset :].partition("#")[2].strip()
            yield Said(statement, eval(statement, names), comment)
        else:
            exec(statement, names)


def shown(value: Any, like: str) -> str:
    """The value as the page writes it: numbers with as many decimals."""
    decimals = max((len(digits) for digits in re.findall(r"\.(\d+)", like)), default=0)
    if isinstance(value, np.ndarray):
        return np.array2string(value, formatter={"float_kind": lambda number: f"{number:.{decimals}f}"})
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


class Shop(NamedTuple):
    """A folder in which the commands of README.md have run, and what each of them printed."""

    folder: Path
    printed: dict[str, str]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """A small log of the users u1, u2, .. and apps a1, a2, .., and README.md's commands in their order."""
    folder = tmp_path_factory.mktemp("shop")
    simulated = simulate_events(1_500, seed=7, users=50, apps=12).drop_columns(["true_probability"])
    short = "'{}' || dense_rank() OVER (ORDER BY {}) AS {}"
    names = ", ".join(short.format(name[0], name, name) for name in ("user_id", "app_id"))
    query = f"SELECT {names}, * EXCLUDE (user_id, app_id) FROM log ORDER BY ts"
    events = duckdb.from_arrow(simulated).query("log", query).to_arrow_table()
    pq.write_table(events.slice(0, 1_200), folder / "events.parquet")
    pq.write_table(events.slice(1_200), folder / "tomorrow.parquet")
    lines = [json.dumps(event, default=str) + "\n" for event in events.slice(1_200).to_pylist()]
    (folder / "events.jsonl").write_text("".join(lines), encoding="utf-8")
    printed = {}
    for command in commands("README.md"):
        if command.startswith("streamfm ") and command not in NOT_RUN and NEEDS_KAFKA not in command:
            with contextlib.chdir(folder), contextlib.redirect_stderr(io.StringIO()) as err:
                printed[command] = _streamfm(command) + err.getvalue()
    return Shop(folder, printed)


def _streamfm(command: str) -> str:
    program, *arguments = shlex.split(command)
    assert "streamfm" == program
    with contextlib.redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit) as stop:
        main(arguments)
    assert 0 == stop.value.code, command
    return out.getvalue()


@pytest.fixture
def in_shop(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.chdir(shop.folder)
    return shop


@pytest.mark.parametrize("name", PAGES)
def test_every_block_is_run_or_named_with_a_reason(name: str) -> None:
    languages = set(re.findall(r"^```(\w+)$", page(name), re.MULTILINE)) - {"text"}
    assert RUN.get(name, set()) == languages
    run_here = ("streamfm ", ".venv/bin/streamfm sql demo/")  # the second by tests/streamfm/cli/test_demo.py
    others = [command for command in commands(name) if not command.startswith(run_here)]
    assert [] == [command for command in others if command not in NOT_RUN]


def test_what_is_not_run_is_on_some_page() -> None:
    assert set() == set(NOT_RUN) - {command for name in RUN for command in commands(name)}


def test_the_commands_of_the_readme_go_from_a_log_to_scores(in_shop: Shop) -> None:
    init, train, evaluate, score, sql, models, stream = in_shop.printed.values()
    assert "features.toml" in init
    assert "published as models/ctr/1, @champion" in train
    assert [] == [word for word in ("auc", "log_loss", "calibration", "95% interval") if word not in evaluate]
    assert "300 events scored into scored.parquet" in score
    assert "score" in pq.read_schema("scored.parquet").names
    assert 5 + 5 == len(re.findall(r"^[│├┌└]", sql, re.MULTILINE)), sql
    assert re.search(r"│ ctr +│ +1 │ +1 │ champion → 1 │", models)
    assert "300 scores, 0 dead letters" in stream
    by_stream = [json.loads(line)["score"] for line in Path("scores.jsonl").read_text().splitlines()]
    expected = streamfm.load("models/ctr@champion").score(pq.read_table("tomorrow.parquet"))
    np.testing.assert_allclose(expected, by_stream, atol=1e-6)


def test_the_commands_of_the_page_about_streams_that_need_no_kafka_run(in_shop: Shop) -> None:
    ran = [
        command
        for command in commands("docs/streaming.md")
        if NEEDS_KAFKA not in command and command not in NOT_RUN and "--follow" not in command
    ]
    assert ["streamfm stream models/ctr@champion --in events.jsonl --out scores.jsonl"] == ran
    # README.md has run it: this is its next run, which finds nothing left to do.
    assert "" == _streamfm(ran[0])


@pytest.mark.parametrize("name", ["README.md", "docs/streaming.md"])
def test_the_commands_that_need_a_kafka_can_be_understood(name: str) -> None:
    found = [command for command in commands(name) if NEEDS_KAFKA in command and command.startswith("streamfm stream")]
    assert 2 <= len(found)
    for command in found:
        _, subcommand, *arguments = shlex.split(command)
        with cli.commands[subcommand].make_context(subcommand, arguments) as context:
            given = {**context.params, "slot": None}
            assert "localhost:9092" == stream_parts.kafka(given).bootstrap_servers
            assert stream_parts.settings(given) is not None


@pytest.mark.parametrize("name", ONLY_UNDERSTOOD)
def test_the_commands_about_continuous_training_can_be_understood(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("features.toml").touch()
    Path("log").mkdir()
    found = [command for command in commands(name) if command.startswith("streamfm ")]
    assert 5 <= len(found)
    for text in found:
        _, *arguments = shlex.split(text.partition(" | ")[0])
        command: click.Command = cli
        while isinstance(command, click.Group):
            command = command.commands[arguments.pop(0)]
        with command.make_context(text, arguments):
            pass


def test_the_python_about_the_event_log_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for topic, kind in (("shown", "impressions"), ("clicked", "clicks")):
        table = pa.table({"event_id": ["e1"], "ts": pa.array([0], pa.timestamp("us"))})
        EventLog("log").append(topic, table, kind=kind)  # type: ignore[arg-type]
    (block,) = blocks("docs/event-log.md", "python")

    with duckdb.connect() as connection:
        exec(block.code, {"connection": connection})


def test_the_event_of_the_page_about_streams_becomes_the_score_beside_it() -> None:
    event, score = (json.loads(block.code) for block in blocks("docs/streaming.md", "json"))
    model = ServedModels(GOLDEN, StreamSettings(keep=("user_id",)))
    record = Event("events", 0, 0, 0, None, json.dumps(event).encode())
    (answer,) = model.current().answer([record], 0).answers.values
    assert score.keys() == json.loads(answer).keys()
    assert event["event_id"] == json.loads(answer)["event_id"]


def test_the_unit_of_the_page_about_streams_is_the_sample() -> None:
    (block,) = blocks("docs/streaming.md", "ini")
    sample = page("examples/deploy/streamfm-stream.service").splitlines()
    assert [] == [line for line in block.code.splitlines() if line not in sample]


def test_the_python_of_the_readme_runs(in_shop: Shop) -> None:
    in_duckdb, in_python = blocks("README.md", "python")
    names: dict[str, Any] = {}
    registration, by_name, by_row, explained, embedding = [said.value for said in run(in_duckdb.code, names)]
    try:
        assert registration.reference == "models/ctr@champion"
        assert [1, 1_200] == [len(answer.fetchall()) for answer in (by_name, by_row)]
        assert "p" == by_row.columns[-1]
        assert ["feature", "first_order", "pairs", "deep", "total"] == [name for name, _ in explained.types[0].children]
        assert ["FLOAT[32]"] == embedding.types
    finally:
        registration.close()
        names["con"].close()
    events = pq.read_table("events.parquet")
    one, many, explanation = [said.value for said in run(in_python.code, {"events": events})]
    assert isinstance(one, float)
    assert ((1_200,), np.float32) == (many.shape, many.dtype)
    assert one == pytest.approx(1 / (1 + np.exp(-explanation.logit)), abs=1e-6)


@pytest.fixture
def in_duckdb(in_shop: Shop) -> Iterator[duckdb.DuckDBPyConnection]:
    """The connection that docs/sql.md opens, with a table of events."""
    names: dict[str, Any] = {}
    (block,) = blocks("docs/sql.md", "python")
    assert [] == list(run(block.code, names))
    names["con"].execute("CREATE OR REPLACE TABLE events AS FROM 'events.parquet'")
    yield names["con"]
    names["registration"].close()
    names["con"].close()
    Path("shop.duckdb").unlink()


def test_the_three_calls_of_the_page_about_sql_answer_alike(in_duckdb: duckdb.DuckDBPyConnection) -> None:
    (block,) = blocks("docs/sql.md", "sql")
    statements = in_duckdb.extract_statements(block.code)
    by_name, by_position, by_row = (in_duckdb.sql(statement.query) for statement in statements)
    assert by_name.fetchall() == by_position.fetchall()
    events = pq.read_table("events.parquet")
    assert [*events.column_names, "p"] == by_row.columns
    expected = streamfm.load("models/ctr@champion").score(events)
    np.testing.assert_allclose(expected, by_row.fetchnumpy()["p"], atol=1e-6)


@pytest.mark.parametrize(
    ("call", "expected", "printed"),
    [
        ("deepfm_score(e)", "FLOAT", "FLOAT in [0, 1]"),
        ("deepfm_logit(e)", "FLOAT", "FLOAT"),
        (
            "deepfm_explain(e)",
            "STRUCT(feature VARCHAR, first_order DOUBLE, pairs DOUBLE, deep DOUBLE, total DOUBLE)[]",
            "a LIST of STRUCT(feature, first_order, pairs, deep, total)",
        ),
        ("deepfm_embedding('app_id', app_id)", "FLOAT[32]", "FLOAT[K]"),
    ],
)
def test_the_functions_give_the_types_of_the_page_about_sql(
    call: str, expected: str, printed: str, in_duckdb: duckdb.DuckDBPyConnection
) -> None:
    row = rf"^\| `{call.partition('(')[0]}\([^`]*\)` \| (.*) \|$"
    (gives,) = re.findall(row, page("docs/sql.md"), re.MULTILINE)
    assert gives.startswith(printed)
    assert [expected] == [str(kind) for kind in in_duckdb.sql(f"SELECT {call} FROM events e").types]


def test_what_is_registered_is_listed_as_the_page_about_sql_says(in_duckdb: duckdb.DuckDBPyConnection) -> None:
    (printed,) = re.findall(r"^\| `deepfm_models\(\)` \| .*: (.*) \|$", page("docs/sql.md"), re.MULTILINE)
    listed = in_duckdb.sql("FROM deepfm_models()")
    assert [] == [name for name in printed.split(", ") if name not in listed.columns]
    assert 1 == len(listed.fetchall())


def test_the_blocks_about_python_give_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry(tmp_path / "models").publish(GOLDEN, "ctr", alias="champion", keep_source=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    claims = 0
    for block in blocks("docs/python.md", "python"):
        for statement, value, claim in run(block.code, names):
            claims += bool(claim)
            assert not claim or claim == shown(value, claim), statement
        assert block.printed == capsys.readouterr().out
    assert 10 < claims


@pytest.mark.parametrize("block", blocks("docs/features.md", "toml"))
def test_the_specifications_of_the_page_encode_rows(block: Block, tmp_path: Path) -> None:
    spec = FeatureSpec.from_toml(block.code)
    columns = {name: "i % 2" for name in (spec.label, spec.weight, spec.group, spec.event_id) if name}
    columns |= {item.name: _some_values(item) for item in spec.inputs}
    select = ", ".join(f"{value} AS {name}" for name, value in columns.items())
    rows = duckdb.sql(f"SELECT {select} FROM range(200) r(i)").to_arrow_table()
    vocabularies = fit_vocabularies(rows, spec, tmp_path / "vocabulary")
    assert 200 == len(encode_dataset(rows, Encoder(spec, vocabularies), tmp_path / "rows"))


def _some_values(item: Input) -> str:
    """SQL of different values of the input's type, by the number i of the row."""
    value = "TIMESTAMP '2026-01-01' + to_hours(i)" if item.is_temporal else "i % 7"
    return f"CAST({f'[{value}]' if item.is_list else value} AS {item.type})"


@pytest.mark.parametrize("name", PAGES)
def test_links_between_pages_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", page(name)):
        target, _, heading = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        assert not heading or heading in headings(path), link


def headings(path: Path) -> set[str]:
    """What a link to a heading of the page may say."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
