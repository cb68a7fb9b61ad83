"""Kills a round of retraining at every change that it makes to the file system, and makes it again.

Run as a program, so that nothing but imports has happened before it forks: FOLDER STRIDE. It prints a JSON line for
each kill: at which change, what was there then, and what the round that followed has made of it.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from streamfm.bundle import read_manifest
from streamfm.finetuning import FineTuneSettings
from streamfm.labels import LabelSettings
from streamfm.registry import Registry
from streamfm.retraining import Retrainer, RetrainSettings, Tables

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


class Killer:
    """Ends the process, as SIGKILL would, at a change to what is below a folder; counts them."""

    def __init__(self, folder: Path, at: int | None) -> None:
        """Never, if `at` is None."""
        self.count, self._folder, self._at = 0, os.fsencode(folder), at

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        """An audit hook of the interpreter."""
        if event == "open":
            path, _, flags = arguments
            changing = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            paths = [path] if changing else []
        else:
            paths = list(arguments[:2]) if event in CHANGES else []
        if any(self._is_below(path) for path in paths):
            self.count += 1
            if self.count == self._at:
                os._exit(KILLED)

    def _is_below(self, path: object) -> bool:
        return isinstance(path, (str, bytes, os.PathLike)) and os.fsencode(path).startswith(self._folder)


def one_round(folder: Path) -> str:
    feed = Tables(f"{folder}/shown/*.parquet", f"{folder}/clicks/*.parquet")
    with Retrainer(Registry(folder / "models"), "ctr", feed, SETTINGS) as retrainer:
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


def killed(folder: Path, at: int | None) -> int:
    """How many changes a round makes, if it is not killed at one."""
    killer = Killer(folder / "models", at)
    sys.addaudithook(killer)
    one_round(folder)
    return killer.count


def tell(facts: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


def main() -> None:
    """Kill at every `stride`-th change."""
    pristine, stride = Path(sys.argv[1]), int(sys.argv[2])
    whole = Path(shutil.copytree(pristine, pristine.with_name("whole")))
    _, changes = in_child(lambda: killed(whole, None))
    expected = in_child(lambda: state(whole))[1]
    tell({"changes": changes, "expected": expected})
    for at in range(1, changes + 1, stride):
        work = Path(shutil.copytree(pristine, pristine.with_name(f"at-{at}")))
        code = in_child(lambda folder=work, number=at: killed(folder, number))[0]  # type: ignore[misc]
        after = in_child(lambda folder=work: state(folder))[1]  # type: ignore[misc]
        outcome = in_child(lambda folder=work: one_round(folder))[1]  # type: ignore[misc]
        found = in_child(lambda folder=work: state(folder))[1]  # type: ignore[misc]
        left = sorted(path.name for path in (work / "models").iterdir())
        tell({"at": at, "code": code, "after": after, "outcome": outcome, "found": found, "left": left})
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
