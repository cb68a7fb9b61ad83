"""How far training is: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

from rich.progress import TaskID

from streamfm.cli.console import progress_bar, say, shows_bars
from streamfm.settings import EpochReport


class TrainingProgress:
    """A `PipelineProgress` on standard error: a bar for each stage and epoch, a line for each epoch that is done."""

    def __init__(self) -> None:
        """Draw nothing yet."""
        self._bar = progress_bar()
        self._is_drawn = shows_bars()
        self._task: TaskID | None = None
        self._stage = ""
        self._max_epochs = self._rows = 0

    def __enter__(self) -> TrainingProgress:
        """Begin to draw."""
        if self._is_drawn:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wipe the bar."""
        if self._is_drawn:
            self._bar.stop()

    def stage(self, what: str, done: int, rows: int) -> None:
        """So many rows of a stage are done."""
        if what != self._stage:
            self._begin(what, rows)
            if not self._is_drawn:
                say(f"{what}, {rows:,} rows")
        if self._task is not None:
            self._bar.update(self._task, completed=done)

    def start(self, rows_per_epoch: int, max_epochs: int) -> None:
        """Training begins."""
        self._rows, self._max_epochs = rows_per_epoch, max_epochs
        self._begin("epoch 1", rows_per_epoch)

    def advance(self, rows: int, loss: float) -> None:
        """A step is done."""
        if self._is_drawn and self._task is not None:
            task = self._bar.tasks[self._bar.task_ids.index(self._task)]
            speed = f", {task.speed:,.0f} rows/s" if task.speed else ""
            self._bar.update(self._task, advance=rows, note=f"loss {loss:.4f}{speed}")

    def end_epoch(self, epoch: EpochReport) -> None:
        """An epoch was validated."""
        auc = "" if epoch.valid_auc is None else f", AUC {epoch.valid_auc:.5f}"
        self._print(
            f"epoch {epoch.epoch:3}  loss {epoch.train_loss:.5f}, validation {epoch.valid_loss:.5f}{auc}"
            f"  {epoch.rows_per_s:,.0f} rows/s" + ("  best" if epoch.improved else "")
        )
        if epoch.epoch < self._max_epochs:
            self._begin(f"epoch {epoch.epoch + 1}", self._rows)

    def _print(self, line: str) -> None:
        if self._is_drawn:
            # Through the bar, which makes room for it.
            self._bar.console.print(line, markup=False, soft_wrap=True)
        else:
            say(line)

    def _begin(self, what: str, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._stage = what
        self._task = self._bar.add_task(what, total=total, note="")
