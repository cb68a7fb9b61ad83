"""What progressive validation is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from streamfm.errors import SpecError
from streamfm.pipeline import PipelineSettings

if TYPE_CHECKING:
    from streamfm.finetuning import FineTuneSettings

ModeName = Literal["frozen", "incremental", "full"]
MODES: tuple[ModeName, ...] = get_args(ModeName)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProgressiveSettings:
    """How a log is replayed.

    Attributes:
        modes: What happens between two shards: "frozen" (nothing), "incremental" (the model learns what has come),
            "full" (another one is trained from scratch, on everything that has come). The first one is what the others
            are compared with.
        warm_start: Share of the rows, the earliest, that the first model is trained on.
        shards: Into how many parts of as many rows the others are cut; None with `interval_s`.
        interval_s: Length of a shard in event time instead, in seconds; shards begin at multiples of it since 1970 in
            UTC.
        delay_s: How long after its event a label comes, in seconds.
        delay_shards: How many shards later a label comes, besides the one that always lies between.
        full_every: How many shards lie between two trainings of "full".
        order: Columns that order rows of one event time, before the event id does.
        replay_seed: Of the rows that are replayed; the seeds of training and fine-tuning stand in their settings.
        training: Of the first model, and of those that "full" trains; by default without an int8 network.
        finetuning: Of "incremental"; None for the defaults.
    """

    modes: Sequence[ModeName] = ("frozen", "incremental")
    warm_start: float = 0.5
    shards: int | None = 100
    interval_s: float | None = None
    delay_s: float = 0.0
    delay_shards: int = 0
    full_every: int = 10
    order: Sequence[str] = ()
    replay_seed: int = 0
    training: PipelineSettings = field(default_factory=PipelineSettings)
    finetuning: FineTuneSettings | None = None

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        object.__setattr__(self, "modes", tuple(self.modes))
        object.__setattr__(self, "order", tuple(self.order))
        if not self.modes or len(set(self.modes)) < len(self.modes) or not set(self.modes) <= set(MODES):
            raise SpecError(f"modes are {', '.join(self.modes) or 'none'}, expected some of {', '.join(MODES)}, once")
        if not 0 < self.warm_start < 1:
            raise SpecError(f"warm_start is {self.warm_start}, expected more than 0 and less than 1")
        if (self.shards is None) == (self.interval_s is None):
            given = f"shards {self.shards} and interval_s {self.interval_s}"
            raise SpecError(f"{given}: expected one of the two", hint="the other is None")
        if self.interval_s is not None and not self.interval_s >= 1e-6:
            raise SpecError(f"interval_s is {self.interval_s}, expected at least a microsecond")
        self._require("delay_s", self.delay_s, 0)
        self._require("delay_shards", self.delay_shards, 0)
        self._require("replay_seed", self.replay_seed, 0)
        self._require("full_every", self.full_every, 1)
        self._require("shards", self.shards, 1)

    def _require(self, name: str, value: Any, least: int) -> None:
        if value is not None and not value >= least:
            raise SpecError(f"{name} is {value}, expected at least {least}")
