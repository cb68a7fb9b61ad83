"""Whether a candidate may take its parent's place: pure functions over logits and labels; numpy only."""

from streamfm.gate.judging import judge
from streamfm.gate.lineage import Evidence, LineageBounds, accumulated, lineage_bounds
from streamfm.gate.settings import GateSettings
from streamfm.gate.verdict import Check, Verdict
from streamfm.gate.window import NO_GROUP, Figure, Window

__all__ = [
    "NO_GROUP",
    "Check",
    "Evidence",
    "Figure",
    "GateSettings",
    "LineageBounds",
    "Verdict",
    "Window",
    "accumulated",
    "judge",
    "lineage_bounds",
]
