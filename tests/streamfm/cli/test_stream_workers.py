"""The supervisor of `streamfm stream --workers N`, over processes that do as little as can be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

import pytest

from streamfm.cli import workers

KILLED = "import os; os.kill(os.getpid(), 9)"
LONG = "import time; time.sleep(60)"
ORPHAN = "import os, time; from streamfm.cli.workers import follow; follow(os.getpid()); time.sleep(60)"

HUNG = """
import ctypes, signal
from streamfm.cli.drain import Drain
with Drain(0.1):
    signal.raise_signal(signal.SIGTERM)
    ctypes.PyDLL(None).sleep(60)  # holds Python's lock
"""

HUNG_BEFORE = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(60)"


def test_a_signal_that_comes_while_a_worker_is_started_again_reaches_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Popen(subprocess.Popen):
        def __init__(self, command: Any, **attributes: Any) -> None:
            super().__init__([sys.executable, "-c", LONG if started else KILLED], **attributes)
            if started:
                os.kill(os.getpid(), signal.SIGTERM)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Popen)
    assert 0 == workers.supervise([], 1, drain_s=30.0)
    assert [-signal.SIGKILL, -signal.SIGTERM] == [process.returncode for process in started]


def test_a_worker_that_ran_for_long_is_started_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    worker = workers.Worker([sys.executable, "-c", KILLED])

    def waits(ran_s: float) -> float:
        """How long it waits after it was killed."""
        worker._process.wait(30)
        worker._began_s -= ran_s
        worker.look(may_restart=True)
        assert worker._restart_s is not None
        waited_s = worker._restart_s - time.monotonic()
        worker._restart_s = 0.0
        worker.look(may_restart=True)
        return waited_s

    found = [round(waits(ran_s)) for ran_s in (0, 0, 0, 2 * workers.CALM_S, 0)]
    worker._process.kill()
    worker._process.wait(30)
    assert [1, 2, 4, 1, 2] == found


def test_a_worker_whose_supervisor_is_gone_before_it_looks_ends() -> None:
    done = subprocess.run([sys.executable, "-c", ORPHAN], timeout=50, check=False)
    assert -signal.SIGTERM == done.returncode


def test_a_library_that_hangs_with_python_s_lock_does_not_keep_a_worker_from_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", HUNG], timeout=50, check=False, capture_output=True)
    assert 1 == done.returncode
    assert b"draining" in done.stderr
    assert b"Timeout" in done.stderr


def test_a_worker_that_hung_before_the_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Popen(subprocess.Popen):
        def __init__(self, command: Any, **attributes: Any) -> None:
            super().__init__([sys.executable, "-c", HUNG_BEFORE], **attributes)
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    monkeypatch.setattr(subprocess, "Popen", Popen)
    monkeypatch.setattr(workers, "GRACE_S", 0.5)
    assert 1 == workers.supervise([], 1, drain_s=0.5)
