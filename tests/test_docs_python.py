"""docs/python.md: every block runs, and gives what the page says."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamfm.registry import Registry

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
GOLDEN = ROOT / "tests" / "data" / "bundle_v1"
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n^```text\n(.*?)^```)?", re.MULTILINE | re.DOTALL)


def claims(code: str) -> Iterator[tuple[str, str]]:
    """The block's statements one by one, and what a comment at the end of an expression says that it is."""
    lines = code.splitlines()
    for node in ast.parse(code).body:
        end = lines[(node.end_lineno or 0) - 1]
        comment = end[node.end_col_offset :].partition("#")[2].strip() if isinstance(node, ast.Expr) else ""
        yield ast.unparse(node), comment


def shown(value: Any, like: str) -> str:
    """The value as the page writes it: numbers with as many decimals."""
    decimals = max((len(digits) for digits in re.findall(r"\.(\d+)", like)), default=0)
    if isinstance(value, np.ndarray):
        return np.array2string(value, formatter={"float_kind": lambda number: f"{number:.{decimals}f}"})
    return f"{value:.{decimals}f}" if isinstance(value, float) else str(value)


def test_every_block_runs_and_gives_what_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Registry(tmp_path / "models").publish(GOLDEN, "ctr", alias="champion", keep_source=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    blocks = BLOCK.findall(PAGE)
    assert PAGE.count("```python") == len(blocks)
    for code, printed in blocks:
        for statement, claim in claims(code):
            if claim:
                assert claim == shown(eval(statement, names), claim), statement
            else:
                exec(statement, names)
        assert printed == capsys.readouterr().out


def test_the_page_claims_something() -> None:
    said = [claim for code, _ in BLOCK.findall(PAGE) for _, claim in claims(code) if claim]
    assert 10 < len(said)


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?:)([^)]+)\)", PAGE))
def test_links_lead_somewhere(target: str) -> None:
    page, _, heading = target.partition("#")
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    headings = {title.lower().replace(" ", "-") for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}
    assert not heading or heading in headings
