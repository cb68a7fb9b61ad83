"""What an import may bring with it, and what the three packages show."""

from __future__ import annotations

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import streamfm

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("streamfm", "udfs", "connectors")
TRAINING_ONLY = ("torch", "onnx", "sklearn", "pandas", "polars")
# The rest of what serving reads, encoder, bundle, rows, is imported by these.
SERVING = (
    *("streamfm", "streamfm.cli", "streamfm.registry", "streamfm.scoring", "streamfm.stream.loop", "udfs.duckdb_udf"),
    *("connectors.kafka_events", "connectors.confluent_events", "connectors.jsonl_events", "connectors.metrics_http"),
)
# kafka-python reads its own resources in an old way when it is imported.
OF_OTHERS = [f"-Wignore:{name} is deprecated:DeprecationWarning" for name in ("open_text", "read_text")]


def python(code: str, *arguments: str, folder: Path) -> str:
    """What a fresh interpreter prints; it starts in `folder`, and a warning there is an error."""
    command = [sys.executable, "-W", "error", *OF_OTHERS, "-c", textwrap.dedent(code), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def modules() -> list[str]:
    """Every module of the three packages, as it is written in an import."""
    files = [path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    return sorted(".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files)


@pytest.mark.parametrize("module", SERVING)
def test_serving_imports_nothing_that_only_training_needs(module: str, tmp_path: Path) -> None:
    code = """
        import importlib, sys
        importlib.import_module(sys.argv[1])
        print(*sorted({name.partition(".")[0] for name in sys.modules} & set(sys.argv[2:])))
    """
    assert python(code, module, *TRAINING_ONLY, folder=tmp_path).split() == []


def test_every_module_can_be_imported_first(tmp_path: Path) -> None:
    # One interpreter with our modules forgotten before each import: a cycle shows, and torch is loaded once.
    code = """
        import importlib, sys
        for module in sys.argv[1:]:
            for name in [name for name in sys.modules if name.partition(".")[0] in ("streamfm", "udfs", "connectors")]:
                del sys.modules[name]
            try:
                importlib.import_module(module)
            except BaseException as error:
                print(module, repr(error))
    """
    assert python(code, *modules(), folder=tmp_path) == ""


@pytest.mark.parametrize("package", ["udfs", "connectors"])
def test_adapter_packages_hold_a_docstring_and_nothing_else(package: str) -> None:
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    assert ast.get_docstring(tree)
    assert len(tree.body) == 1


def test_the_public_names_are_sorted_and_all_there() -> None:
    assert sorted(streamfm.__all__) == list(streamfm.__all__)
    assert [name for name in streamfm.__all__ if not hasattr(streamfm, name)] == []
    assert set(streamfm.__all__) <= set(dir(streamfm))


def test_nothing_of_our_own_is_public_by_accident() -> None:
    ours = {name for name, value in vars(streamfm).items() if getattr(value, "__module__", "").startswith("streamfm")}
    assert {name for name in ours if not name.startswith("_")} - set(streamfm.__all__) == set()


@pytest.mark.parametrize("name", ["benchmarks", "examples", "scripts", "tests"])
def test_an_installation_exposes_only_the_three_packages(name: str, tmp_path: Path) -> None:
    code = """
        import importlib.util, sys
        found = importlib.util.find_spec(sys.argv[1])
        for place in (found.submodule_search_locations or [found.origin]) if found else []:
            print(place)
    """
    found = [Path(line).resolve() for line in python(code, name, folder=tmp_path).splitlines()]
    assert [path for path in found if path.is_relative_to(ROOT)] == []
