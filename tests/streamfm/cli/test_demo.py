"""The demonstration: what it prints can be done oneself, and README.md's first query with it."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
TABLE = r"^[┌│├└].*\n"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder where the demonstration stood, and what it printed."""
    folder = tmp_path_factory.mktemp("stand")
    return folder, _streamfm(folder, "demo", "--events", "10000")


def _streamfm(folder: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "streamfm.cli", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=folder)
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_the_printed_queries_run_as_printed(demo: tuple[Path, str]) -> None:
    folder, printed = demo
    asked = printed.partition("5. The same model")[2].partition("Done in")[0]
    queries = re.findall(r"^((?:WITH|SELECT) .*?)\n(?=┌)", asked, re.MULTILINE | re.DOTALL)
    assert 4 == len(queries)
    for query in queries:
        again = _streamfm(folder, "sql", "demo/models/apps@champion", query)
        tables = [re.findall(TABLE, text, re.MULTILINE) for text in (again, asked[asked.index(query) :])]
        assert tables[0], query
        assert tables[0] == tables[1][: len(tables[0])], query


def test_every_event_of_the_stream_is_scored_or_a_dead_letter_and_a_version_takes_over(demo: tuple[Path, str]) -> None:
    streamed = demo[1].partition("6. The same model on a stream")[2]
    (events, scores, dead_letters, right) = re.findall(
        r"([\d,]+) events in = ([\d,]+) scores \+ ([\d,]+) dead letters.*: (yes|NO)$", streamed, re.MULTILINE
    )[0]
    assert ("1,251", "1,250", "1", "yes") == (events, scores, dead_letters, right)
    answered = re.findall(r"^│ apps/(\d) +│ +([\d,]+) │ +(\S+) │$", streamed, re.MULTILINE)
    assert ["1", "2"] == [version for version, _, _ in answered]
    assert 1_250 == sum(int(count.replace(",", "")) for _, count, _ in answered)
    assert all(float(distance) <= 1e-6 for _, _, distance in answered)


def test_the_explanation_is_rounded(demo: tuple[Path, str]) -> None:
    explanation = demo[1].partition("What each feature adds")[2].partition("Apps near")[0]
    assert [] == re.findall(r"\.\d{5,}", explanation)


def test_the_first_command_of_the_readme_answers_in_the_form_of_the_page(demo: tuple[Path, str]) -> None:
    # The names and scores are those of the whole demonstration on one machine: only their form is compared.
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    (command, expected), *_ = re.findall(
        r"^(?:\.venv/bin/)(streamfm sql .*?)\n```\n\n```text\n(.*?)```", page, re.M | re.S
    )
    answer = _streamfm(demo[0], *shlex.split(command)[1:])
    head = [re.findall(r"\w+", line) for line in expected.splitlines()[1:3]]
    assert head == [re.findall(r"\w+", line) for line in answer.splitlines()[1:3]]
    assert len(expected.splitlines()) == len(answer.strip().splitlines())


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "7"}, "7 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_waiting_threads_sleep_soon_unless_the_user_says_otherwise(
    own: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    code = (
        "import os, sys; from streamfm.cli import main\n"
        "assert 'torch' not in sys.modules\n"
        "try: main(['--version'])\n"
        "except SystemExit: print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert expected == done.stdout.splitlines()[-1]
