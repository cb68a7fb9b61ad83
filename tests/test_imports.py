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


# Imports them in turn, and prints who imports a module whose own body is still running: a circle, in which it depends
# on who comes first whether a name is there. A package may run while its own modules import each other.
CIRCLES = """
    import builtins, importlib, sys
    packages, modules = sys.argv[1].split(), sys.argv[2:]
    real = builtins.__import__

    def running():
        frame = sys._getframe(2)
        while frame:
            if frame.f_code.co_name == "<module>":
                yield frame.f_globals["__name__"]
            frame = frame.f_back

    def watched(name, given=None, local=None, names=(), level=0):
        importer = (given or {}).get("__name__", "")
        if name.partition(".")[0] in packages and importer.partition(".")[0] in packages:
            wanted = {name, *(f"{name}.{one}" for one in names or ())}
            for module in running():
                if f"{importer}.".startswith(f"{module}."):
                    continue
                if any(f"{one}.".startswith(f"{module}.") for one in wanted):
                    print(importer, "imports", name, "in the middle of", module)
        return real(name, given, local, names, level)

    builtins.__import__ = watched
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:
            print(module, repr(error))
"""


def test_every_module_can_be_imported_first(tmp_path: Path) -> None:
    assert python(CIRCLES, " ".join(PACKAGES), *modules(), folder=tmp_path) == ""


@pytest.mark.parametrize(
    ("files", "first", "said"),
    [
        ({"a": "import circle.b", "b": "from circle import a"}, "circle.a", "circle.b imports circle in the middle of"),
        ({"a": "import circle.b; x = 1", "b": "from circle.a import x"}, "circle.b", "circle.a imports circle.b in"),
        (
            {"a.__init__": "import circle.b", "a.c": "", "b": "import circle.a.c"},
            "circle.b",
            "circle.a imports circle.b",
        ),
        (
            {"a.__init__": "import circle.a.c", "a.c": "import circle.a.d", "a.d": "import circle.b", "b": ""},
            "circle.a",
            "",
        ),
        ({"a": "def f():\n    import circle.b", "b": "import circle.a"}, "circle.a", ""),
    ],
)
def test_a_circle_of_imports_is_found(files: dict[str, str], first: str, said: str, tmp_path: Path) -> None:
    for name, text in {"__init__": "", **files}.items():
        path = tmp_path / "circle" / (name.replace(".", "/") + ".py")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = python(CIRCLES, "circle", first, folder=tmp_path)
    assert found.startswith(said) if said else found == ""


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
