"""How long each stage of a round took."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Stages:
    """A stopwatch.

    Attributes:
        seconds: Of every stage that has ended, by its name.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Nothing yet."""
        self.seconds: dict[str, float] = {}
        self._clock, self._began = clock, clock()

    def since_start(self) -> float:
        """Seconds since this was made."""
        return self._clock() - self._began

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Time a block."""
        began = self._clock()
        try:
            yield
        finally:
            self.seconds[name] = self._clock() - began
