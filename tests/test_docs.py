"""docs/features.md: says all there is to say, and nothing that is not so."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import duckdb
import pyarrow as pa
import pytest

from streamfm.encoder.category import category_texts
from streamfm.encoder.kernels import MAX_WEIGHT
from streamfm.encoder.vocabulary import hash_texts, seed_of
from streamfm.expressions import Deriver
from streamfm.features import KEYS_OF_KIND, Feature, FeatureSpec, Input, Pooling, Task, Transform
from streamfm.features.inputs import FAMILIES, JSON_FORMS

PAGE = (Path(__file__).resolve().parent.parent / "docs" / "features.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def rows(title: str) -> list[list[str]]:
    """The cells of the tables in a section, heads included."""
    lines = [line for line in section(title).splitlines() if line.startswith("|") and not line.startswith("|-")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def keys(title: str) -> set[str]:
    return {cells[0].strip("`") for cells in rows(title)}


def test_every_key_of_a_specification_is_documented() -> None:
    assert {"format", *(field.name for field in fields(FeatureSpec) if field.compare)} <= keys("Top level")
    assert {field.name for field in fields(Input)} <= keys("Inputs")
    assert {field.name for field in fields(Feature)} <= keys("Features")


def test_every_choice_is_documented() -> None:
    for choice in (*KEYS_OF_KIND, *get_args(Transform), *get_args(Pooling)):
        assert f'`"{choice}"`' in section("Features")
    assert [] == [choice for choice in get_args(Task) if f'`"{choice}"`' not in section("Top level")]
    assert set(get_args(Transform)) <= keys("Features")


def test_every_type_is_documented_with_its_json_forms() -> None:
    documented: dict[str, tuple[str, ...]] = {}
    for types, forms, *_ in rows("Inputs"):
        documented |= dict.fromkeys(re.findall(r"`([A-Z]+)[`(]", types), tuple(re.findall(r"`(\w+)`", forms)))
    expected = {name: JSON_FORMS[family] for name, family in FAMILIES.items()} | {"DECIMAL": JSON_FORMS["real"]}
    assert expected == {name: forms for name, forms in documented.items() if name in expected}
    assert set(expected) == set(documented) - {"TYPE"}


@pytest.mark.parametrize(
    "field", [field for field in fields(Feature) if field.name not in ("name", "kind", "input", "table")]
)
def test_the_defaults_of_features_are_those_of_the_page(field: object) -> None:
    name, default = field.name, field.default  # type: ignore[attr-defined]
    kinds, documented = next((cells[1], cells[3]) for cells in rows("Features") if cells[0] == f"`{name}`")
    shown = {"": "none", 0: "0: a vocabulary"}.get(default, default if isinstance(default, int) else f'`"{default}"`')
    assert str(shown) == documented
    heeding = [kind for kind, heeded in KEYS_OF_KIND.items() if name in heeded]
    assert kinds == (", ".join(heeding) or "all")


@pytest.mark.parametrize("example", EXAMPLES, ids=range(len(EXAMPLES)))
def test_the_examples_are_specifications(example: str) -> None:
    spec = FeatureSpec.from_toml(example)
    Deriver(spec)
    assert spec == FeatureSpec.from_toml(spec.to_toml())


def test_the_examples_use_every_key() -> None:
    used = {key for example in EXAMPLES for key in re.findall(r"(\w+) = ", example)}
    known = {field.name for owner in (FeatureSpec, Input, Feature) for field in fields(owner) if field.compare}
    assert set() == known - used - {"name", "inputs", "features"}


CATEGORIES = [(cells[0].strip("`"), cells[1].strip("`")) for cells in rows("What is the same category")[1:]]


@pytest.mark.parametrize(("value", "category"), CATEGORIES)
def test_the_categories_are_those_of_the_page(value: str, category: str) -> None:
    column = duckdb.sql(f"SELECT {value} AS x").to_arrow_table().column(0).combine_chunks()
    expected = None if category == "NULL" else category.removeprefix("'").removesuffix("'")
    assert [expected] == category_texts(column).to_pylist()


HASHES = [[cell.strip("`") for cell in cells] for cells in rows("The hash")[1:]]


@pytest.mark.parametrize(("table", "category", "expected"), HASHES)
def test_the_hashes_are_those_of_the_page(table: str, category: str, expected: str) -> None:
    assert expected == f"0x{hash_texts(pa.array([category]), seed_of(table))[0]:016X}"


def test_the_limit_of_weights_is_that_of_the_page() -> None:
    assert f"between -{MAX_WEIGHT:,.0f} and {MAX_WEIGHT:,.0f}" in section("Features")
