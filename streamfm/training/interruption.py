"""Ctrl-C between two steps instead of within one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interruption:
    """Whether Ctrl-C was pressed since `held_interrupts` began."""

    def __init__(self) -> None:
        """Not yet."""
        self.requested = False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Note the first Ctrl-C; the second one interrupts at once.

        Raises:
            KeyboardInterrupt: It was the second.
        """
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True


@contextmanager
def held_interrupts() -> Iterator[Interruption]:
    """Notes Ctrl-C instead of raising KeyboardInterrupt, so that no half-made step or copy is ever kept.

    Only in the main thread, and only where Python's own handler is in place: a host with its own way to handle SIGINT
    keeps it.
    """
    interruption = Interruption()
    mine = threading.current_thread() is threading.main_thread()
    if not mine or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield interruption
        return
    signal.signal(signal.SIGINT, interruption.handle)
    try:
        yield interruption
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
