"""What SIGTERM and Ctrl-C do to a worker: what was sent is committed, in time."""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from streamfm.cli.stream_logs import tell

EXIT_UNDRAINED = 1
LOOK_S = 0.1
_GRACE_S = 1.0

_UNDRAINED = """\
error: not drained in {:g} s; what was not committed will be read again
hint: --drain-s gives more time"""


class Drain:
    """Notes SIGTERM and SIGINT, and sees that the process then ends in time. A context manager.

    Signals come in the middle of anything, one in the handler of another: it takes no locks, as events and streams do.
    """

    def __init__(self, drain_s: float, *, log_format: str = "text") -> None:
        """Give it so long after the first signal."""
        self._drain_s, self._log_format = drain_s, log_format
        self._signalled_s: float | None = None
        self._ended = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Drain:
        """Take the signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, name="streamfm-drain", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        self._ended = True
        faulthandler.cancel_dump_traceback_later()
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def is_wanted(self) -> bool:
        """Whether the stream is to stop."""
        return self._signalled_s is not None

    def sleep(self, duration_s: float) -> None:
        """Wait, or until a signal comes."""
        until_s = time.monotonic() + duration_s
        while not self.is_wanted() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, LOOK_S))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled_s is not None:
            os._exit(128 + number)
        self._signalled_s = time.monotonic()
        # A library that hangs with Python's lock stops all its threads, `_watch` too; this one needs no lock.
        faulthandler.dump_traceback_later(self._drain_s + _GRACE_S, exit=True, file=2)
        tell(self._log_format, logging.INFO, f"{signal.Signals(number).name}: draining; again to end at once")

    def _watch(self) -> None:
        while not self._ended:
            if self._signalled_s is not None and time.monotonic() - self._signalled_s > self._drain_s:
                tell(self._log_format, logging.ERROR, _UNDRAINED.format(self._drain_s))
                os._exit(EXIT_UNDRAINED)
            time.sleep(LOOK_S)
