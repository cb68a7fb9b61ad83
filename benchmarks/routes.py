"""Question: how far apart are the scores that one event has on different routes?

Python in every form, SQL by position, by name and by whole row, files, threads, orders and batch sizes, the command
line, the trained torch model: the routes are those of tests/test_routes.py, here with more rows.

Limit: float32 itself. A score near 1 has neighbours at 6e-8; a sum of some hundred products in another order moves by
a few of these.

Traps: rows that all score alike prove nothing, so the test that shares these routes demands spread; int8 is compared
with int8, since what it costs against float32 is measured at export, not here.

    python benchmarks/routes.py [--rows 20000] [--dicts 1000]
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from _report import report

ROUTES = Path(__file__).resolve().parent.parent / "tests" / "test_routes.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dicts", type=int, default=1_000, help="how many of them are also scored one by one")
    arguments = parser.parse_args()
    routes = load_routes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, events = routes.train_model(folder), routes.make_events(arguments.rows)
        for precision in ("fp32", "int8"):
            place = folder / precision
            place.mkdir()
            world = routes.make_world(bundle, events, precision, place, dicts=arguments.dicts)
            found = {}
            for route in routes.ROUTES:
                if (precision, route) != ("int8", "torch"):
                    found[route] = routes.difference(world, route)
                    print(f"{precision}  {found[route]:.2e}  {route}", flush=True)
            world.database.close()
            report(
                f"routes_{precision}",
                max(found.values()),
                "largest difference of a score",
                goal="<= 1e-6",
                higher_is_better=False,
            )


def load_routes() -> ModuleType:
    """The test's module: one definition of what the routes are."""
    spec = importlib.util.spec_from_file_location("test_routes", ROUTES)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Dataclasses look their module up.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
