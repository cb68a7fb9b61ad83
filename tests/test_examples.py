"""Every example runs as it is, in a folder of its own, and says what its text promises."""

from __future__ import annotations

import re
import runpy
import tempfile
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parent.parent / "examples").glob("[0-9]*.py"))
SAYS = {
    "01": [
        r"features: .*\bhour\b.*\buser_id\b",
        r"\nAUC of the rows held back: 0\.[67]\d*\n",
        r"\ncalibration  +[01]\.\d",
    ],
    "02": [r"│ +p +│", r"deepfm_logit\(ts, user_id\)", r"\(base\)", r"│ similarity │"],
    "03": [
        r"at first: +\(1, (0\.\d+)\)\n2 is published: +\(1, \1\)\nand promoted: +\(1, \1\)\n"
        r"refreshed: +True \(2, (0\.\d+)\)\nrolled back to 1: +\(1, \1\)\n",
        r"3\. rollback to version 1\n$",
    ],
    "04": [r"AUC: 0\.[67]", r"is_free_game +has a value in"],
    "05": [
        r"'app_id': '[a-z]+-\d+', 'model': 'ctr', 'version': 1",
        r"by version: +\{1: 1000, 2: 1000\}",
        r"b'not JSON' JSON is malformed",
    ],
    "06": [r"day 9: \w+, @champion is apps/[3-6]\napps/1: log loss .* 0\.4\d*\napps@champion: log loss .* 0\.4\d*\n$"],
}


def test_examples_are_numbered_and_short() -> None:
    assert list(SAYS) == [path.name[:2] for path in EXAMPLES]
    lines = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES}
    assert {} == {name: number for name, number in lines.items() if number > 60}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_and_leaves_nothing(
    path: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    runpy.run_path(str(path), run_name="__main__")
    out, err = capfd.readouterr()
    assert "" == err
    assert [] == [pattern for pattern in SAYS[path.name[:2]] if not re.search(pattern, out)], out
    assert ["temporary"] == [left.name for left in tmp_path.iterdir()]
    # torch keeps a cache of its own there.
    assert [] == [left for left in (tmp_path / "temporary").iterdir() if not left.name.startswith("torchinductor")]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_says_how_to_run_it(path: Path) -> None:
    assert f"\nRun it: python examples/{path.name}\n" in path.read_text()
