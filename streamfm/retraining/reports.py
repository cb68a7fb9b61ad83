"""What came of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from streamfm.data.soundness import LeftOut
from streamfm.gate import Verdict
from streamfm.labels import Position

Outcome = Literal["published", "passed", "refused", "held", "nothing"]


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundReport:
    """A round of retraining.

    Attributes:
        outcome: ``published``, the alias moved; ``passed``, in a dry run; ``refused`` by the gate; ``held``, since the
            labels look wrong; ``nothing`` new to learn from.
        message: Why, for people.
        hint: What to do about it, or None.
        parent: The version that was served when it began.
        version: The candidate's, whether it serves or not; None where there is none.
        counts: Of the join: impressions, positives, what was late, ...
        position: What the candidate has been trained on; None where there is no candidate.
        rows: Learnt from, replayed, judged on.
        left_out: Rows with values that cannot be learnt from, by the rule that they break.
        verdict: The gate's, or None.
        seconds: Of each stage.
    """

    outcome: Outcome
    message: str
    hint: str | None = None
    parent: int
    version: int | None = None
    counts: Mapping[str, Any] = field(default_factory=dict)
    position: Position | None = None
    rows: Mapping[str, int] = field(default_factory=dict)
    left_out: Sequence[LeftOut] = ()
    verdict: Verdict | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return {
            "outcome": self.outcome,
            "message": self.message,
            "hint": self.hint,
            "parent": self.parent,
            "version": self.version,
            "counts": dict(self.counts),
            "position": None if self.position is None else self.position.to_json(),
            "rows": dict(self.rows),
            "left_out": [one.to_json() for one in self.left_out],
            "verdict": None if self.verdict is None else self.verdict.to_json(),
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
        }
