"""What a round of retraining is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from streamfm.errors import SpecError
from streamfm.finetuning import FineTuneSettings
from streamfm.gate import GateSettings
from streamfm.labels import LabelSettings


@dataclass(frozen=True, kw_only=True, slots=True)
class RetrainSettings:
    """How `Retrainer` does it.

    Attributes:
        labels: The join of impressions and clicks; label, weight and the names of the impressions' id and time follow
            the model's specification.
        tuning: How a model learns on.
        gate: When a candidate may serve.
        window_share: Share of the new rows, the newest, on which the gate judges; the next round learns from them.
        max_window_rows: Of those, at most.
        least_rows: Fewer new rows wait for the next round.
        slices: Features whose commonest values, and values new to the parent, must not be served worse.
        int8: Whether candidates have a quantised network, too.
        keep: Versions that stay when older ones are pruned after a publication; 0 prunes none. Those that an alias
            names, or a process holds, stay anyway.
        memory_limit: Of DuckDB.
        folder: For temporary files; the system's by default.
    """

    labels: LabelSettings = field(default_factory=LabelSettings)
    tuning: FineTuneSettings = field(default_factory=FineTuneSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    window_share: float = 0.2
    max_window_rows: int = 100_000
    least_rows: int = 100
    slices: tuple[str, ...] = ()
    int8: bool = True
    keep: int = 50
    memory_limit: str = "2GB"
    folder: str | None = None

    def __post_init__(self) -> None:
        """Refuse impossible settings.

        Raises:
            SpecError: A setting is out of its range; the message names it.
        """
        if not 0 < self.window_share < 1:
            raise SpecError(f"window_share is {self.window_share}, expected more than 0 and less than 1")
        for name, least in (("max_window_rows", 1), ("least_rows", 2), ("keep", 0)):
            if getattr(self, name) < least:
                raise SpecError(f"{name} is {getattr(self, name)}, expected at least {least}")
