"""What the gate says: whether the candidate passes, why not, and every number behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from streamfm.errors import DataError
from streamfm.gate.lineage import Evidence

TABLE_NAMES = ("check", "candidate", "against", "value", "95% interval", "p", "verdict")


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One question to a candidate, and its answer.

    Attributes:
        name: "finite", "log_loss", "auc", "calibration", "score_shift", "lineage", "slice new_users", or a figure's.
        passed: Whether it does not refuse the candidate; a check that the rows cannot answer passes.
        text: For people: why it refuses, or what there is to know; may be empty.
        value: What was asked for: a difference against the parent (log_loss, auc, slices), Σp/Σy, an index, a figure.
        low: Lower end of its 95 % interval (of the lineage: of its confidence sequence); None, as `high`, without one.
        high: Upper end.
        limit: What p, or the value, is compared with.
        p: Probability of such a value of a candidate that is as good as its parent; None for no test.
        first: The candidate's figure (of the lineage: None).
        second: The parent's.
        detectable: The least difference that would be refused with the power of the settings.
        rows: That it is over.
    """

    name: str
    passed: bool
    text: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    p: float | None = None
    first: float | None = None
    second: float | None = None
    detectable: float | None = None
    rows: int | None = None

    def cells(self) -> tuple[str, ...]:
        """A line of the table, under `TABLE_NAMES`."""
        interval = "" if self.low is None or self.high is None else f"{_short(self.low)} .. {_short(self.high)}"
        verdict = ("passed" if self.passed else "REFUSED") + (f": {self.text}" if self.text else "")
        return (
            self.name,
            _short(self.first),
            _short(self.second),
            _short(self.value),
            interval,
            "" if self.p is None else f"{self.p:.2g}",
            verdict,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Whether a candidate may serve.

    Attributes:
        passed: Whether the alias may move.
        checks: Every question, in the order of the table.
        logit_shift: To be added to the candidate's logit before it is exported; 0 mostly. The checks are about the
            shifted candidate.
        roll_back_to: The anchor's version, where the lineage since then is proven to be worse; else None.
        evidence: For the next round, passed or not, as long as windows do not overlap.
        rows: Rows judged.
        positives: Of these with label 1.
        groups: Of these: independent ones.
    """

    passed: bool
    checks: tuple[Check, ...]
    logit_shift: float
    roll_back_to: str | None
    evidence: Evidence
    rows: int
    positives: int
    groups: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why it was refused, for people, each with its number and limit; empty when it passed."""
        return tuple(check.text for check in self.checks if not check.passed)

    def check(self, name: str) -> Check:
        """The check of that name.

        Raises:
            DataError: No such check; names those there are.
        """
        for check in self.checks:
            if check.name == name:
                return check
        raise DataError(f"no check {name!r} in this verdict", hint=f"it has {', '.join(c.name for c in self.checks)}")

    def table_rows(self) -> list[tuple[str, ...]]:
        """Lines of a table, under `TABLE_NAMES`."""
        return [check.cells() for check in self.checks]

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON types; what is not finite is None."""
        body = {field.name: getattr(self, field.name) for field in fields(self)}
        checks = [{name: _json(value) for name, value in asdict(check).items()} for check in self.checks]
        return body | {"checks": checks, "evidence": self.evidence.to_json(), "reasons": list(self.reasons)}

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Verdict:
        """What `to_json` gave.

        Raises:
            DataError: It is none.
        """
        try:
            values = {field.name: body[field.name] for field in fields(cls)}
            values["checks"] = tuple(Check(**check) for check in values["checks"])
            values["evidence"] = Evidence.from_json(values["evidence"])
            return cls(**values)
        except (KeyError, TypeError) as error:
            raise DataError(f"not a verdict of the gate: {error}") from error


def _json(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.5g}"
