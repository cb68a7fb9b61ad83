"""`--workers N`: so many processes of one group on this machine, kept running and ended together."""

from __future__ import annotations

import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from streamfm.cli.drain import EXIT_UNDRAINED

logger = logging.getLogger(__name__)

LOOK_S = 0.1
FIRST_BACKOFF_S = 1.0
MAX_BACKOFF_S = 30.0
CALM_S = 300.0
"""After so long a run, the next restart comes as soon as the first."""
GRACE_S = 5.0
"""So long after `drain_s`, by which it should have ended itself, a worker is killed: it may hang in a library."""
# The exit codes of a worker that was told to end before it heeded signals: it has lost nothing.
_BEFORE_IT_BEGAN = (130, signal.SIGTERM, signal.SIGINT)


def supervise(arguments: Sequence[str], count: int, *, drain_s: float) -> int:
    """Run a command in `count` processes, with `--slot 0`, `--slot 1`, ... after it; the exit code of all.

    A worker that ends with an error ends all: its error would be the others', too. One that is killed is started
    again, later each time.

    Args:
        arguments: Of the command line, without the program.
        count: How many.
        drain_s: What a worker takes to end, at most.
    """
    command = [sys.executable, "-m", "streamfm.cli", *arguments, "--parent", str(os.getpid())]
    is_ending, kill_s = False, math.inf
    with Signals() as signals:
        workers = [Worker([*command, "--slot", str(slot)]) for slot in range(count)]
        while any(worker.is_running for worker in workers):
            time.sleep(LOOK_S)
            for worker in workers:
                worker.look(may_restart=not is_ending)
            numbers = signals.take()
            if not is_ending and any(worker.code for worker in workers):
                numbers = numbers or [signal.SIGTERM]
            if numbers and not is_ending:
                is_ending, kill_s = True, time.monotonic() + drain_s + GRACE_S
            for number in numbers:
                for worker in workers:
                    worker.signal(number)
            if time.monotonic() > kill_s:
                kill_s = math.inf
                for worker in workers:
                    worker.kill()
    codes = [worker.code or 0 for worker in workers]
    return max((code for code in codes if not (is_ending and code in _BEFORE_IT_BEGAN)), default=0)


class Worker:
    """One of the processes.

    Attributes:
        code: Its exit code; None while it runs, or is to run again.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it."""
        self.code: int | None = None
        self._command = command
        self._backoff_s = FIRST_BACKOFF_S
        self._restart_s: float | None = None
        self._process = self._start()

    @property
    def is_running(self) -> bool:
        """Whether it runs, or is to run again."""
        return self.code is None

    def look(self, *, may_restart: bool) -> None:
        """See whether it has ended; start again what was killed."""
        if self.code is not None:
            return
        if self._restart_s is not None:
            if not may_restart:
                self.code = 1
            elif time.monotonic() >= self._restart_s:
                self._restart_s = None
                self._process = self._start()
            return
        code = self._process.poll()
        if code is None:
            return
        if code >= 0 or not may_restart:
            self.code = EXIT_UNDRAINED if code == -signal.SIGKILL else abs(code)
            return
        if time.monotonic() - self._began_s > CALM_S:
            self._backoff_s = FIRST_BACKOFF_S
        logger.error(
            "worker %d was killed by %s; started again in %.0f s",
            self._process.pid,
            signal.Signals(-code).name,
            self._backoff_s,
        )
        self._restart_s = time.monotonic() + self._backoff_s
        self._backoff_s = min(2 * self._backoff_s, MAX_BACKOFF_S)

    def signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.code is None and self._restart_s is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, if it runs."""
        if self.code is None and self._restart_s is None:
            logger.error("worker %d does not end: killed; what was not committed will be read again", self._process.pid)
            self._process.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        self._began_s = time.monotonic()
        # In a group of its own: a terminal's Ctrl-C would reach it twice, and twice means at once.
        return subprocess.Popen(self._command, process_group=0)


class Signals:
    """SIGTERM and SIGINT that came, to be passed on. A context manager.

    The handler only notes them: in the middle of starting a worker it would send them to the one before it.
    """

    def __init__(self) -> None:
        """None came yet."""
        self._came: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        """Take the signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, lambda number, _: self._came.append(number))
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def take(self) -> list[int]:
        """Those that came since the last call."""
        taken, self._came = self._came, []
        return taken


def follow(parent: int) -> None:
    """Let this process be terminated when `parent`, which has started it, is gone."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, name="streamfm-parent", daemon=True).start()
