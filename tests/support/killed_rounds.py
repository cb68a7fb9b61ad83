"""Kills rounds of retraining at the changes that they make to the file system, and makes them again.

Run as a program, so that hardly more than imports has happened before it forks: STRIDE FOLDER... . A folder with an
event log in it is read as such, any other as two tables. For each it prints a JSON line of a round that is not killed,
and one for each kill: at which change, what was there then, and what the round that followed has made of it. Killed is
at every so manieth change, and always where the alias moves, and right after.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from streamfm.bundle import open_bundle, read_manifest
from streamfm.cli.label_sources import LabelSource
from streamfm.finetuning import FineTuneSettings
from streamfm.labels import LabelSettings
from streamfm.registry import CHAMPION, Registry
from streamfm.retraining import Feed, Retrainer, RetrainSettings, Tables

torch.set_num_threads(1)

SETTINGS = RetrainSettings(
    labels=LabelSettings(window_s=1800.0, stalled_s=86_400.0),
    tuning=FineTuneSettings(threads=1),
    least_rows=500,
    int8=False,
    keep=2,
)
KILLED = 9
CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "shutil.copyfile"}


# What a round imports on its way: here, so that not each child does it anew.
LATE_IMPORTS = ("torch._dynamo", "pandas", "connectors.parquet_log")


class Killer:
    """Ends the process, as SIGKILL would, at a change to what is below a folder; counts them.

    Attributes:
        count: Changes so far.
        moved: At which of them the champion's alias moved.
    """

    def __init__(self, folder: Path, at: int | None) -> None:
        """Never, if `at` is None."""
        self.count, self.moved, self._folder, self._at = 0, 0, os.fsencode(folder), at

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook of the interpreter; a change has not been made yet when it is told."""
        if event == "open":
            path, _, flags = arguments
            changing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            paths = [path] if changing else []
        else:
            paths = list(arguments[:2]) if event in CHANGES else []
        if any(self._is_below(path) for path in paths):
            self.count += 1
            if event == "os.rename" and Path(os.fsdecode(paths[1])).parent.name == CHAMPION:
                self.moved = self.count
            if self.count == self._at:
                os._exit(KILLED)

    def _is_below(self, path: object) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.fsencode(path).startswith(self._folder)


def feed(folder: Path) -> Feed:
    if (folder / "log").is_dir():
        return LabelSource(log=folder / "log", impressions="", clicks="", skip_damaged=False).feed()
    return Tables(f"{folder}/shown/*.parquet", f"{folder}/clicks/*.parquet")


def one_round(folder: Path) -> str:
    with Retrainer(Registry(folder / "models"), "ctr", feed(folder), SETTINGS) as retrainer:
        return retrainer.round().outcome


def state(folder: Path) -> dict[str, Any]:
    """What serves, and what is wrong."""
    registry = Registry(folder / "models")
    version = registry.current("ctr")
    manifest = read_manifest(registry.root / "ctr" / str(version))
    training: Any = manifest.training
    return {
        "weights": manifest.files["weights.safetensors"].sha256,
        "parent": manifest.parent,
        "position": training.get("position"),
        "rows": training.get("round", {}).get("rows"),
        "broken": [str(found.error) for found in registry.verify() if found.error is not None],
    }


def in_child(work: Callable[[], object]) -> tuple[int, Any]:
    """The exit code of a fork that works, and what it gave."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        code = 1
        try:
            os.write(writer, json.dumps(work()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as file:
        answer = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(answer) if answer else None


def killed(folder: Path, at: int | None) -> dict[str, int]:
    """How many changes a round makes, and which is the alias's move, if it is not killed at one."""
    killer = Killer(folder, at)
    sys.addaudithook(killer)
    one_round(folder)
    return {"changes": killer.count, "moved": killer.moved}


def again(folder: Path) -> dict[str, Any]:
    """What is there, and what the next round makes of it."""
    after, outcome = state(folder), one_round(folder)
    left = sorted(path.name for path in (folder / "models").iterdir())
    return {"after": after, "outcome": outcome, "found": state(folder), "left": left}


def tell(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def kill_rounds(pristine: Path, stride: int) -> None:
    """Kill them, each in a copy of the folder."""
    source = {"source": pristine.name}
    whole = Path(shutil.copytree(pristine, pristine.with_name(f"{pristine.name}-whole")))
    parent = in_child(lambda: state(whole))[1]
    steps = in_child(lambda: killed(whole, None))[1]
    tell(source | steps | {"parent": parent, "expected": in_child(lambda: state(whole))[1]})
    changes, moved = steps["changes"], steps["moved"]
    for at in sorted({*range(stride, changes + 1, stride), moved, moved + 1}):
        work = Path(shutil.copytree(pristine, pristine.with_name(f"{pristine.name}-{at}")))
        code = in_child(lambda folder=work, number=at: killed(folder, number))[0]  # type: ignore[misc]
        made = in_child(lambda folder=work: again(folder))[1]  # type: ignore[misc]
        tell(source | {"at": at, "code": code} | (made or {}))
        shutil.rmtree(work)


def main() -> None:
    """Kill at every `stride`-th change, and where the alias moves."""
    stride, folders = int(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
    for name in LATE_IMPORTS:
        import_module(name)
    # Loads what is compiled already.
    open_bundle(folders[0] / "models" / "ctr" / "1")
    for folder in folders:
        kill_rounds(folder, stride)


if __name__ == "__main__":
    main()
