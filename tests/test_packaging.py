"""What people type and read about the project is there, and the pinned versions fit what it declares."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINNED_EXTRAS = ("train", "stream", "confluent", "dev")
PAGES = ("README.md", "CONTRIBUTING.md")
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def pins() -> dict[str, str]:
    """The version of each library in constraints.txt."""
    lines = (line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#"))
    return {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}


def requirements() -> list[Requirement]:
    """What the project and its extras ask for, apart from itself."""
    extras = [text for extra in PINNED_EXTRAS for text in PROJECT["optional-dependencies"][extra]]
    declared = [Requirement(text) for text in [*PROJECT["dependencies"], *extras]]
    return [requirement for requirement in declared if requirement.name != PROJECT["name"]]


@pytest.mark.parametrize("requirement", requirements(), ids=lambda requirement: requirement.name)
def test_constraints_pin_a_version_that_the_project_accepts(requirement: Requirement) -> None:
    assert requirement.specifier.contains(pins()[canonicalize_name(requirement.name)])


def test_constraints_name_no_build_of_one_platform() -> None:
    assert [version for version in pins().values() if "+" in version] == []


def test_serving_asks_for_nothing_that_only_training_needs() -> None:
    base = {canonicalize_name(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert base & {"torch", "onnx", "scikit-learn", "pandas", "polars"} == set()


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", (ROOT / page).read_text(), re.MULTILINE))
    assert named
    assert named - targets == set()


def test_every_make_target_tells_what_it_does() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))
    assert set(re.findall(r"^([a-z]+):.*## \S", makefile, re.MULTILINE)) == targets


def test_contributing_places_every_module_of_the_core() -> None:
    named = set(re.findall(r"`(\w+)`", (ROOT / "CONTRIBUTING.md").read_text()))
    paths = (ROOT / "streamfm").iterdir()
    modules = {path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert modules - named == {"__init__"}


def test_the_changelog_begins_with_what_is_not_released() -> None:
    headings = re.findall(r"^## (.+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "[Unreleased]"


def test_decisions_are_numbered_without_a_gap() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_its_four_parts(page: Path) -> None:
    text = page.read_text()
    assert text.startswith(f"# {page.name[:4]}: ")
    assert re.findall(r"^## (.+)", text, re.MULTILINE) == ["Status", "Context", "Decision", "Consequences"]
