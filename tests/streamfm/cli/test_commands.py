"""The command line as a whole: help, exit codes, the page in docs/, how errors are told."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import duckdb
import pytest

from streamfm.cli import cli, commands, training
from streamfm.cli.complaints import DEFECT, complaint
from streamfm.cli.console import print_json, print_table
from streamfm.errors import DataError
from streamfm.registry import CHAMPION
from streamfm.settings import ModelSettings, TrainSettings

ROOT = Path(__file__).resolve().parents[3]


def every_command(group: click.Group = cli, name: str = "streamfm") -> Iterator[tuple[str, click.Command]]:
    """Each command with what one types to call it."""
    for inner, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from every_command(command, f"{name} {inner}")
        else:
            yield f"{name} {inner}", command


COMMANDS = dict(every_command())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_by_examples_that_it_would_take(name: str, streamfm) -> None:
    done = streamfm(*name.split()[1:], "--help")
    assert (0, "") == (done.code, done.err)
    examples = re.findall(rf"^ +{name}(?: .*)?$", done.out.partition("Examples:")[2], re.MULTILINE)
    assert examples
    for example in examples:
        options = re.findall(r"(?<= )--?[a-z][a-z0-9-]*", re.sub(r"\"[^\"]*\"|\| .*", "", example))
        known = {
            option for parameter in COMMANDS[name].params for option in [*parameter.opts, *parameter.secondary_opts]
        }
        assert set(options) <= known


def test_the_help_of_all_answers_without_heavy_libraries() -> None:
    code = """
import sys
from streamfm.cli import main
try:
    main(["train", "--help"])
finally:
    print(*sorted({"numpy", "numba", "pyarrow", "duckdb", "onnxruntime", "torch"} & set(sys.modules)), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (0, "\n") == (done.returncode, done.stderr)
    assert "--learning-rate" in done.stdout


def test_the_page_of_the_command_line_is_up_to_date() -> None:
    script = ROOT / "scripts" / "write_cli_docs.py"
    spec = importlib.util.spec_from_file_location("write_cli_docs", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert module.page() == page, f"run {script}"
    for name, command in COMMANDS.items():
        section = page.partition(f" {name}\n")[2].partition("\n#")[0]
        shown = [parameter for parameter in command.params if not getattr(parameter, "hidden", False)]
        options = {option for parameter in shown for option in parameter.opts if option.startswith("--")}
        assert {option for option in options if option not in section} <= {"--debug", "--help"}


def test_the_readme_names_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in cli.commands if f"streamfm {name}" not in readme and f"make {name}" not in readme] == []


@pytest.mark.parametrize(
    ("settings", "offered"),
    [
        (ModelSettings, training._NETWORK),
        (TrainSettings, training._TRAINING | training._FINE_POINTS | {"objective": "follows the specification's task"}),
    ],
)
def test_every_setting_of_training_is_an_option_with_the_same_name_and_default(settings: type, offered) -> None:
    assert {field.name for field in fields(settings)} == set(offered)
    options = {parameter.name: parameter for parameter in COMMANDS["streamfm train"].params}
    for field in fields(settings):
        if field.name != "objective":
            default = options[field.name].default
            assert field.default == (commands.widths(default) if field.name == "hidden" else default)


def test_the_champion_is_the_registrys() -> None:
    assert CHAMPION == commands.CHAMPION


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "No such command 'nope'"),
        (["train"], "Missing argument 'DATA...'"),
        (["train", "x.parquet", "--out", "m/x", "--batch-size", "1"], "batch_size is 1, expected at least 2"),
        (["train", "x.parquet", "--out", "m/x", "--hidden", "4,x"], "'4,x': expected widths"),
        (["train", "x.parquet", "--out", "m/x", "--epoch", "1"], "No such option '--epoch'"),
        (["score", "m/x@champion", "x.parquet", "-o", "scores.txt"], "scores.txt: the ending tells no format"),
        (["sql", "m/x@champion", "--write", "SELECT 1"], "--write goes with a --database"),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what_was_expected(arguments: list[str], said: str, streamfm) -> None:
    done = streamfm(*arguments)
    assert (2, "") == (done.code, done.out)
    assert "Usage: streamfm" in done.err
    assert said in done.err


@pytest.mark.parametrize("place", ["first", "last"])
def test_debug_prints_the_traceback_wherever_it_stands(place: str, streamfm) -> None:
    arguments = ["models", "list", "nowhere"]
    done = streamfm(*(["--debug", *arguments] if place == "first" else [*arguments, "--debug"]))
    assert 1 == done.code
    assert "Traceback (most recent call last)" in done.err
    assert done.err.endswith(
        "error: nowhere: no such folder\nhint: name a registry; streamfm train DATA --out nowhere/NAME makes one\n"
    )


def test_an_error_that_nobody_foresaw_is_called_a_defect(streamfm, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise TypeError("what?")

    monkeypatch.setitem(cli.commands, "broken", click.Command("broken", callback=broken))
    assert (1, "", f"error: TypeError: what?\nhint: {DEFECT}\n") == streamfm("broken")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (DataError("a: wrong", hint="do b"), "error: a: wrong\nhint: do b"),
        (DataError("a: wrong"), "error: a: wrong"),
        (FileNotFoundError(2, "No such file or directory", "x"), "error: x: No such file or directory"),
        (MemoryError(), "error: out of memory\nhint: fewer --threads need less"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "error: this needs torch, which is not installed"
         "\nhint: pip install 'streamfm[train]'"),
        (ModuleNotFoundError("No module named 'msgspec'", name="msgspec"), "error: this needs msgspec, which is not "
         "installed\nhint: pip install 'streamfm[stream]'"),
        (duckdb.IOException("IO Error: x\n\nAt:\n  /usr/lib/a.py(1): f"), "error: IO Error: x"),
        (duckdb.Error("a" * 400), "error: " + "a" * 299 + "…"),
    ],
)  # fmt: skip
def test_an_error_is_told_in_a_line_and_a_hint(error: Exception, told: str) -> None:
    assert told == complaint(error)


def test_tables_are_not_folded_where_nobody_looks(capfd: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "[x]"], [("n" * 300, 1.5), ("[red]", None)], title="models/[a]/ctr")
    out = capfd.readouterr().out
    assert out.startswith("models/[a]/ctr\n")
    assert "n" * 300 in out
    assert re.search(r"\[red\] +│ NULL", out)


def test_json_holds_no_character_that_a_locale_could_spoil(capfd: pytest.CaptureFixture[str]) -> None:
    print_json({"city": "Zürich 🏔", "long": "x" * 500})
    out = capfd.readouterr().out
    assert out.isascii()
    assert {"city": "Zürich 🏔", "long": "x" * 500} == json.loads(out)


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamfm.cli", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert re.fullmatch(r"streamfm, version [\d.]+\w*\n", done.stdout)


def test_bytes_that_are_no_text_and_a_closed_standard_output_are_survived(tmp_path: Path) -> None:
    command = [sys.executable.encode(), b"-m", b"streamfm.cli", b"models", b"list"]
    done = subprocess.run([*command, b"m\xff"], capture_output=True, timeout=60)
    assert (2, b"") == (done.returncode, done.stdout)
    assert b"Error: 'm\\udcff': no text in utf-8, which the locale says" in done.stderr
    closed = subprocess.run(
        [*command, bytes(tmp_path)], preexec_fn=lambda: os.close(1), stderr=subprocess.PIPE, timeout=60
    )
    assert (0, f"{tmp_path}: no models yet\n".encode()) == (closed.returncode, closed.stderr)


def test_no_color_is_heeded_and_a_log_is_no_terminal() -> None:
    code = "from streamfm.cli.console import output, shows_bars; print(shows_bars(), output.no_color)"
    environment = {**os.environ, "NO_COLOR": "1", "FORCE_COLOR": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment)
    assert "False True\n" == done.stdout
