"""How whoever waits for `train` and `evaluate` is told how far they are."""

from __future__ import annotations

from typing import Protocol

from streamfm.settings import Progress, Silence


class PipelineProgress(Progress, Protocol):
    """A `Progress` of training that is also told what comes before and after."""

    def stage(self, what: str, done: int, rows: int) -> None:
        """So many of all rows are done of a step that its name tells: "counting", "encoding", "exporting"."""


class NoProgress(Silence):
    """A `PipelineProgress` that shows nothing."""

    def stage(self, what: str, done: int, rows: int) -> None:
        """Show nothing."""
