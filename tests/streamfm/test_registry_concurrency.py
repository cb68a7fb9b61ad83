"""The registry by many processes at once: nobody sees half of anything, nobody loses, nobody waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from streamfm.registry import Registry, current, resolve

LEADER = """
import json, os, random, signal, sys, time, traceback
from pathlib import Path
from streamfm.bundle import check_files, open_bundle
from streamfm.errors import BundleError, RegistryError
from streamfm.registry import Registry, current, hold, resolve

root, bundle = Path(sys.argv[1]), Path(sys.argv[2])
stop = root / "stop"

def work(index, code):
    # What a process has of its own, it gets after the fork.
    names = globals() | {"registry": Registry(root), "choice": random.Random(index)}
    try:
        exec(code, names)
        answer = {"result": names["result"]}
    except BaseException:
        answer = {"error": traceback.format_exc()}
    Path(f"{root}.{index}.json").write_text(json.dumps(answer))
    os._exit(0)

children = []
for index, code in enumerate(json.load(sys.stdin)):
    children.append(os.fork())
    if children[-1] == 0:
        work(index, code)
for child in children:
    os.waitpid(child, 0)
"""

PUBLISHER = """
numbers = []
for _ in range(5):
    numbers.append(registry.publish(bundle, "ctr", keep_source=True).version)
result = numbers
"""

WRITER = """
moves = []
while len(moves) < 125:
    head = registry.last_move("ctr")
    expected = choice.choice([None, None, None, head.version])
    try:
        version = choice.choice([v for v in registry.model("ctr").versions if v != head.version])
        move = registry.promote("ctr", version, expected=expected)
    except RegistryError as error:
        assert "expected" in str(error) or "was pruned" in str(error) or "is being pruned" in str(error), error
        continue
    # Another process may have moved it there already.
    if move.moved_by.endswith(f":{os.getpid()}") and (not moves or move.sequence > moves[-1][0]):
        moves.append((move.sequence, move.earlier[-1], move.version))
result = moves
"""

READER = """
seen, opened = [], 0
while not stop.exists():
    current(root / "ctr@champion")
    sequence = registry.last_move("ctr").sequence
    assert not seen or sequence >= seen[-1], (sequence, seen[-1])
    seen.append(sequence)
    time.sleep(0.06)
    with hold(root / "ctr@champion") as held:
        manifest = open_bundle(held.resolved.path).manifest
        assert manifest.version == held.resolved.version
    opened += 1
result = [len(set(seen)), opened]
"""

HOLDER = """
held, lost = 0, 0
while not stop.exists():
    # The newest but one is what the pruner is after.
    versions = registry.model("ctr").versions
    try:
        lease = registry.hold("ctr", choice.choice(versions[-2:]))
    except RegistryError:
        lost += 1
        continue
    with lease:
        for _ in range(5):
            check_files(root / "ctr" / str(lease.version))
            time.sleep(0.01)
    held += 1
result = [held, lost]
"""

PUBLISHER_AND_PRUNER = """
removed = []
while not stop.exists() and len(removed) < ENOUGH:
    registry.publish(bundle, "ctr", keep_source=True)
    removed += registry.prune("ctr", keep=KEEP).removed
    time.sleep(PAUSE_S)
result = removed
"""


class Crew:
    """Processes that work on one registry at once: forks of a leader, so that they import everything only once."""

    def __init__(self, root: Path, bundle: Path) -> None:
        self.root = root
        self.bundle = bundle
        self.roles: list[tuple[str, str]] = []
        self.leader: subprocess.Popen[str] | None = None

    def hire(self, role: str, code: str, count: int = 1) -> None:
        self.roles += [(role, code)] * count

    def begin(self) -> None:
        command = [sys.executable, "-c", LEADER, str(self.root), str(self.bundle)]
        self.leader = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)
        assert self.leader.stdin is not None
        json.dump([code for _, code in self.roles], self.leader.stdin)
        self.leader.stdin.close()

    def results(self, role: str) -> list[Any]:
        """What the processes of a role have come to, when they have all come to an end."""
        indices = [index for index, (name, _) in enumerate(self.roles) if name == role]
        answers = [self._answer(index) for index in indices]
        assert [] == [answer["error"] for answer in answers if "error" in answer]
        return [answer["result"] for answer in answers]

    def _answer(self, index: int) -> Any:
        path = Path(f"{self.root}.{index}.json")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            with suppress(FileNotFoundError, json.JSONDecodeError):
                return json.loads(path.read_text())
            time.sleep(0.05)
        pytest.fail(f"{self.roles[index][0]} did not come to an end")

    def stop(self) -> None:
        (self.root / "stop").touch()

    def dismiss(self) -> None:
        if self.leader is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.leader.pid, signal.SIGKILL)
            self.leader.wait()


@pytest.fixture
def crew(pristine_bundle: Path, tmp_path: Path) -> Iterator[Crew]:
    crew = Crew(tmp_path / "models", pristine_bundle)
    yield crew
    crew.dismiss()


def fill(crew: Crew, versions: int) -> Registry:
    registry = Registry(crew.root)
    for _ in range(versions):
        registry.publish(crew.bundle, "ctr", alias="champion", keep_source=True)
    return registry


def test_publishers_at_once_get_different_numbers(crew: Crew) -> None:
    crew.hire("publisher", PUBLISHER, 4)
    crew.begin()
    numbers = crew.results("publisher")
    assert list(range(1, 21)) == sorted(number for mine in numbers for number in mine)
    assert all(sorted(mine) == mine for mine in numbers)
    registry = Registry(crew.root)
    assert tuple(range(1, 21)) == registry.model("ctr").versions
    assert [None] * 20 == [found.error for found in registry.verify()]


@pytest.mark.slow
def test_four_writers_move_an_alias_five_hundred_times(crew: Crew) -> None:
    registry = fill(crew, 4)
    crew.hire("writer", WRITER, 4)
    crew.hire("reader", READER, 2)
    crew.hire("publisher and pruner", f"KEEP, PAUSE_S, ENOUGH = 3, 0.25, 1000\n{PUBLISHER_AND_PRUNER}")
    crew.begin()
    moves = sorted(tuple(move) for mine in crew.results("writer") for move in mine)
    crew.stop()
    readers = crew.results("reader")
    (removed,) = crew.results("publisher and pruner")

    # Every move won alone, and each began where the one before it had ended: none was lost, none was made twice.
    assert list(range(5, 505)) == [sequence for sequence, _, _ in moves]
    assert [4, *(version for _, _, version in moves[:-1])] == [expected for _, expected, _ in moves]
    assert moves[-1][2] == registry.current("ctr")
    assert all(different > 10 and opened > 10 for different, opened in readers)
    assert len(removed) == len(set(removed)) > 0
    assert {"champion": moves[-1][2]} == registry.model("ctr").aliases
    assert [] == [found for found in registry.verify() if found.error is not None]
    assert [] == [path.name for path in (crew.root / "ctr").iterdir() if path.name.startswith(".")]
    assert [] == list((crew.root / "ctr" / "leases").iterdir())


def test_pruning_takes_no_version_from_a_reader(crew: Crew) -> None:
    registry = fill(crew, 6)
    crew.hire("holder", HOLDER, 3)
    crew.hire("publisher and pruner", f"KEEP, PAUSE_S, ENOUGH = 1, 0, 15\n{PUBLISHER_AND_PRUNER}", 2)
    crew.begin()
    removed = [version for mine in crew.results("publisher and pruner") for version in mine]
    crew.stop()
    held = crew.results("holder")
    assert all(count > 5 for count, _ in held)
    assert len(removed) == len(set(removed)) >= 30
    assert [] == [found for found in registry.verify() if found.error is not None]
    assert 6 == registry.current("ctr")


KILLED = """
def forever(work):
    # The child of a fork needs no second to import anything, so it is killed at work and not before.
    child = os.fork()
    if child == 0:
        while True:
            work()
    time.sleep(choice.uniform(0.005, 0.06))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

def move():
    versions = registry.model("ctr").versions
    registry.promote("ctr", choice.choice(versions))

def publish():
    registry.publish(bundle, "ctr", keep_source=True)

def prune():
    publish()
    registry.prune("ctr", keep=1)

works = {"move": move, "publish": publish, "prune": prune}
before = registry.last_move("ctr").sequence
for _ in range(15):
    forever(works[WORK])
    head = registry.last_move("ctr")
    began = time.monotonic()
    other = next(version for version in registry.model("ctr").versions if version != head.version)
    assert registry.promote("ctr", other).sequence > head.sequence
    assert time.monotonic() - began < 5
    open_bundle(resolve(root / "ctr@champion").path)
assert [] == [str(found) for found in registry.verify() if found.error is not None]
result = registry.last_move("ctr").sequence - before
"""


@pytest.mark.parametrize("work", ["move", "publish", "prune"])
def test_a_process_that_is_killed_at_work_stops_nobody(crew: Crew, work: str) -> None:
    registry = fill(crew, 3)
    crew.hire("killer", f"WORK = {work!r}\n{KILLED}")
    crew.begin()
    (moved,) = crew.results("killer")
    assert moved >= 15
    registry.prune("ctr", keep=2)
    assert [] == [path.name for path in (crew.root / "ctr").iterdir() if path.name.startswith(".pruned")]
    # One that was killed in the act of writing may be anybody's, and is left alone for its ten minutes.
    assert {b""} >= {path.read_bytes() for path in (crew.root / "ctr" / "leases").iterdir()}
    assert current(crew.root / "ctr@champion") == resolve(crew.root / "ctr@champion").version
