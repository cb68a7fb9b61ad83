"""Killed at each step: nothing lost, nothing twice, no reader disturbed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SUPPORT = Path(__file__).parents[1] / "support"
EVERYBODY = [f"e{number}" for number in range(20)]
OTHERS = [f"e{number}" for number in range(20) if number % 7 != 3]
LEFT = {
    "compact": {"shown": EVERYBODY, "clicked": EVERYBODY},
    "erase": {"shown": OTHERS, "clicked": OTHERS},
    # By whole segments: the first 7 clicks are one.
    "retain": {"shown": EVERYBODY[12:], "clicked": EVERYBODY[7:]},
}


def killed(folder: Path, kind: str, *only: str) -> list[dict[str, Any]]:
    """What each of the runs has left."""
    command = [sys.executable, str(SUPPORT / "killed_collectors.py"), str(folder), kind, *only]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SUPPORT), str(SUPPORT.parents[1])])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert 0 == done.returncode, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_collected(runs: list[dict[str, Any]]) -> None:
    for run in runs:
        assert [99, 0] == run["codes"], run["step"]
        assert {"shown": EVERYBODY, "clicked": EVERYBODY} == run["found"], run["step"]
        assert [] == run["left"], run["step"]


def check_kept(runs: list[dict[str, Any]], kind: str) -> None:
    left = LEFT[kind]
    for run in runs:
        assert [99, 0] == run["codes"], run["step"]
        # Who read before it was killed, and who reads now.
        assert [EVERYBODY, EVERYBODY] == run["seen"], run["step"]
        check_between(run["between"], kind, run["step"])
        assert left == run["found"], run["step"]
        assert [] == run["left"], run["step"]


def check_between(found: dict[str, list[str]], kind: str, step: object) -> None:
    """What a killed one left: each row that is to stay once, and of the others some, once."""
    for topic, names in found.items():
        assert [name for name in EVERYBODY if name in LEFT[kind][topic] or name in names] == names, step
    # The clicks of an impression that is gone would be found by nothing.
    if kind == "erase" and found["shown"] != EVERYBODY:
        assert OTHERS == found["clicked"], step


def test_a_collector_killed_beside_the_rename_loses_and_doubles_nothing(tmp_path: Path) -> None:
    runs = killed(tmp_path, "collect", "rename", "2")
    assert 2 == len(runs)
    check_collected(runs)


@pytest.mark.parametrize("kind", ["compact", "erase"])
def test_upkeep_killed_beside_the_rename_disturbs_no_reader(tmp_path: Path, kind: str) -> None:
    runs = killed(tmp_path, kind, "rename", "2")
    assert 2 == len(runs)
    check_kept(runs, kind)


def test_retention_killed_beside_the_manifest_is_finished_by_the_next(tmp_path: Path) -> None:
    runs = killed(tmp_path, "retain", "replace_file", "1")
    assert 2 == len(runs)
    check_kept(runs, "retain")


@pytest.mark.faults
def test_a_collector_killed_at_any_step_loses_and_doubles_nothing(tmp_path: Path) -> None:
    runs = killed(tmp_path, "collect")
    assert {"write_table", "close", "fsync_file", "rename", "fsync_folder", "replace_file", "commit"} == {
        run["step"][0] for run in runs
    }
    check_collected(runs)


@pytest.mark.faults
@pytest.mark.parametrize("kind", ["compact", "erase", "retain"])
def test_upkeep_killed_at_any_step_disturbs_no_reader_and_is_finished_by_the_next(tmp_path: Path, kind: str) -> None:
    runs = killed(tmp_path, kind)
    # Retention writes no segment.
    written = {"write_table", "fsync_file", "rename"} if kind != "retain" else set()
    assert {"fsync_folder", "replace_file"} | written <= {run["step"][0] for run in runs}
    check_kept(runs, kind)
