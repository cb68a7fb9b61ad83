"""Locks between processes: one writer for each partition of an event log, one round of retraining for each model.

A lock is the system's (flock) on a file that stays: it ends with its process, however that ends, so that nobody has to
judge whether a holder is dead. The file tells people who has it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from streamfm.errors import StreamError

logger = logging.getLogger(__name__)

_AGAIN_S = 0.02
_TEXT_BYTES = 4_096


class FolderLock:
    """A lock by a file. A context manager; not for two threads."""

    def __init__(
        self,
        path: Path,
        what: str,
        *,
        wait_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """Take nothing yet.

        Args:
            path: The file; made where it is not, with its folder.
            what: What the lock is about, for the error.
            wait_s: How long to wait for another holder.
            clock: Seconds, from any beginning.
            sleep: Waits so many seconds.
        """
        self._path, self._what, self._wait_s = path, what, wait_s
        self._clock, self._sleep = clock, sleep
        self._file: int | None = None

    def __enter__(self) -> FolderLock:
        """Take it; see `take`."""
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        """Let it go."""
        self.release()

    def take(self) -> None:
        """Hold the lock until `release`, or until the process ends.

        Raises:
            LockedError: Another process has it, and had it for as long as was waited.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            self._lock(file)
            _tell_holder(file)
        except BaseException:
            # What stays open stays locked, for as long as the process lives.
            os.close(file)
            raise
        self._file = file

    def release(self) -> None:
        """Let it go; a second time does nothing."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)

    def _lock(self, file: int) -> None:
        until_s = self._clock() + self._wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if self._clock() >= until_s:
                    raise self._refusal(file) from None
            except OSError as error:
                # Better without than not at all: who runs two collectors on such a file system is warned.
                logger.warning("%s: this file system has no locks (%s): run one collector only", self._path, error)
                return
            self._sleep(_AGAIN_S)

    def _refusal(self, file: int) -> LockedError:
        try:
            holder = json.loads(os.pread(file, _TEXT_BYTES, 0))
            who = f"process {holder['pid']} on {holder['host']}"
        except (ValueError, KeyError, TypeError):
            who = "another process"
        return LockedError(f"{self._what}: {who} has it", hint=f"end that one first; the lock is {self._path}")


def _tell_holder(file: int) -> None:
    """Write down who has it, where there is room: on a full disk the lock holds all the same."""
    holder = json.dumps({"host": socket.gethostname(), "pid": os.getpid()})
    with suppress(OSError):
        os.ftruncate(file, 0)
        os.pwrite(file, holder.encode(), 0)


class LockedError(StreamError):
    """Another process owns the partition, or is at the same work."""
