"""How often does the gate refuse a model that is as good as its parent, and how soon one that is not?

Simulated days of minute rounds: 200 to 1,000 rows each, from 5,000 users of very different activity (the rows of one go
together), a base rate that swings by a factor of e over the day, and models whose errors, user by user, wander from
version to version without becoming larger: what fine-tuning does. Every round is judged as `streamfm retrain` judges
it: the parent is the last candidate that passed, the anchor what the evidence says.

- equal: no version is made better or worse. Limits: refusals a round at most the settings' alpha (0.01), and wrong
  roll-backs at most lineage_alpha (0.001) for each anchor: 0.05 a day are some fifty anchors. Wrong is one where what
  served is, by the true probabilities, within the margin: an anchor can be luckier with the busiest users than those
  after it.
- slow: each version is worse than the last, by the nats given. Goal: it is told to roll back before it is worse than
  the version at the start by so much.
- break: one candidate is worse by the nats given. Goal: share refused at once; the rest by the lineage.

Traps: windows must not overlap; the parent, not the candidate, is compared with the anchor, for the candidate was
chosen by the window that would judge it; a decline in the same direction at every row is too easy to see.

Ends with exit code 1 when a goal is missed.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from dataclasses import dataclass, field
from statistics import mean, median

import numpy as np
from _report import report
from numpy.typing import NDArray

from streamfm.gate import Evidence, GateSettings, Verdict, Window, judge

Numbers = NDArray[np.float64]
USERS = 5_000
MEMORY = 0.97
"""Share of a version's error that the next one inherits."""


@dataclass
class World:
    """Users who click, and versions of a model that knows them with an error."""

    random: np.random.Generator
    base: float
    error: float
    rows: tuple[int, int]
    taste: Numbers = field(init=False)
    bad_direction: Numbers = field(init=False)
    activity: Numbers = field(init=False)
    versions: dict[str, Numbers] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Draw the users."""
        self.taste = self.random.normal(0, 1, USERS)
        self.bad_direction = self.random.normal(0, 1, USERS)
        activity = self.random.pareto(1.2, USERS) + 0.05
        self.activity = np.cumsum(activity / activity.sum())
        self.versions["0"] = self.random.normal(0, self.error, USERS)

    def wander(self, parent: str, child: str) -> None:
        """The next version's error for each user: as large, and mostly the same."""
        step = self.random.normal(0, self.error, USERS)
        self.versions[child] = MEMORY * self.versions[parent] + np.sqrt(1 - MEMORY**2) * step

    def window(
        self, minute: int, logits_of: dict[str, str], worse: dict[str, float], parent: str
    ) -> tuple[Window, float]:
        """Rows of a minute, and the true excess of the parent's log loss over the anchor's, summed over them.

        Args:
            minute: Of the day.
            logits_of: The version in each role.
            worse: By how many nats a version is worse than its wandering makes it.
            parent: The version that serves.
        """
        users = np.searchsorted(self.activity, self.random.random(self.random.integers(*self.rows)))
        truth = self.base + 0.5 * np.sin(2 * np.pi * minute / 1_440) + self.taste[users]
        truth += self.random.normal(0, 0.7, len(users))
        chance = 1 / (1 + np.exp(-truth))
        spread = float(np.mean(chance * (1 - chance)))
        logits = {
            role: truth
            + self.versions[version][users]
            + np.sqrt(2 * worse.get(version, 0.0) / spread) * self.bad_direction[users]
            for role, version in logits_of.items()
        }
        window = Window(
            labels=self.random.random(len(users)) < chance,
            groups=users,
            parent_version=parent,
            slices={"new users": users % 4 == 0},
            **logits,
        )
        excess = expected_losses(chance, logits["parent"]) - expected_losses(
            chance, logits.get("anchor", logits["parent"])
        )
        return window, float(excess.sum())


def expected_losses(chance: Numbers, logits: Numbers) -> Numbers:
    """Mean log loss of each row, whose click has that chance."""
    return np.logaddexp(0.0, logits) - chance * logits


@dataclass
class Day:
    """What became of some rounds."""

    verdicts: list[Verdict] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    rolled_back: int | None = None
    true_excess: float = 0.0

    @property
    def refused(self) -> int:
        """Rounds that were."""
        return sum(not verdict.passed for verdict in self.verdicts)

    @property
    def is_alarmed(self) -> bool:
        """Whether it was told to roll back though what served was, in truth, within the margin."""
        check = self.verdicts[-1].check("lineage")
        return self.rolled_back is not None and self.true_excess / (check.rows or 1) <= (check.limit or 0.0)

    @property
    def anchors(self) -> int:
        """How many there were."""
        return len({verdict.evidence.anchor for verdict in self.verdicts})


def live(
    world: World, settings: GateSettings, rounds: int, decline: float = 0.0, shock: tuple[int, float] = (-1, 0.0)
) -> Day:
    """Rounds until one tells to roll back; a decline a version, a shock to one candidate and all after it."""
    day, evidence, parent, worse = Day(), Evidence(), "0", {"0": 0.0}
    for minute in range(rounds):
        child = str(minute + 1)
        world.wander(parent, child)
        worse[child] = worse[parent] + decline + (shock[1] if minute == shock[0] else 0.0)
        roles = {"candidate": child, "parent": parent}
        if evidence.anchor not in ("", parent):
            roles["anchor"] = evidence.anchor
        window, excess = world.window(minute, roles, worse, parent)
        verdict = judge(window, settings, evidence)
        day.true_excess = day.true_excess + excess if verdict.evidence.anchor == evidence.anchor else 0.0
        evidence = verdict.evidence
        day.verdicts.append(verdict)
        day.parents.append(parent)
        if verdict.roll_back_to is not None:
            day.rolled_back = minute
            break
        if verdict.passed:
            parent = child
        world.versions = {name: world.versions[name] for name in {parent, evidence.anchor, "0"}}
    return day


def worlds(options: argparse.Namespace, what: int, number: int, **changes: object) -> list[World]:
    told = {"base": -2.5, "error": options.error, "rows": (200, 1_001)} | changes
    return [World(random=np.random.default_rng([options.seed, what, day]), **told) for day in range(number)]  # type: ignore[arg-type]


def equal(options: argparse.Namespace, settings: GateSettings) -> list[bool | None]:
    """False refusals."""
    reached = []
    for what, (name, base, rows) in enumerate(
        [("ctr_8%", -2.9, (200, 1_001)), ("ctr_1%", -5.3, (200, 1_001)), ("hourly_ctr_8%", -2.9, (20_000, 20_001))]
    ):
        rounds = 24 if name.startswith("hourly") else 1_440
        days = [live(world, settings, rounds) for world in worlds(options, what, options.days, base=base, rows=rows)]
        judged = sum(len(day.verdicts) for day in days)
        by = Counter(c.name for day in days for v in day.verdicts for c in v.checks if not c.passed)
        anchors = sum(day.anchors for day in days)
        told = sum(day.rolled_back is not None for day in days)
        alarms = sum(day.is_alarmed for day in days)
        positives = mean(v.positives for day in days for v in day.verdicts)
        print(
            f"equal {name}: {len(days)} days, {judged:,} rounds with {positives:.1f} positives, {anchors} anchors; ",
            end="",
        )
        print(f"refused: {dict(by)}, told to roll back: {told}, wrongly: {alarms}")
        share = sum(day.refused for day in days) / judged
        reached.append(
            report(f"gate_false_refusals_{name}", share, "of rounds", goal="<= 0.01", higher_is_better=False)
        )
        reached.append(
            report(f"gate_false_rollbacks_{name}", alarms / len(days), "a day", goal="<= 0.05", higher_is_better=False)
        )
    return reached


def slow(options: argparse.Namespace, settings: GateSettings) -> list[bool | None]:
    """Declines too slow for a single round to see."""
    reached = []
    for what, (decline, goal) in enumerate([(5e-4, "<= 0.02"), (1e-4, "<= 0.01"), (2e-5, "<= 0.006")]):
        days = [live(world, settings, 1_440, decline) for world in worlds(options, 10 + what, options.days)]
        ends = [day.rolled_back for day in days if day.rolled_back is not None]
        lost = [decline * sum(v.passed for v in day.verdicts) for day in days]
        print(f"slow {decline:g} nats a version: {len(ends)} of {len(days)} days told to roll back", end="")
        if ends:
            tenth, ninth = np.quantile(ends, [0.1, 0.9])
            print(f", after {median(ends):.0f} rounds ({tenth:.0f} to {ninth:.0f}), ", end="")
            print(f"at {median(lost):.4f} nats; other refusals: {mean(d.refused - 1 for d in days):.1f}", end="")
        print()
        reached.append(
            report(
                f"gate_slow_decline_{decline:g}",
                float(np.quantile(lost, 0.9)),
                "nats",
                goal=goal,
                higher_is_better=False,
            )
        )
    return reached


def sudden(options: argparse.Namespace, settings: GateSettings) -> list[bool | None]:
    """A candidate that is worse at once, after an hour of good ones."""
    reached = []
    for what, (shock, goal) in enumerate([(0.01, None), (0.02, None), (0.05, None), (0.1, ">= 0.9")]):
        days = [live(world, settings, 360, shock=(60, shock)) for world in worlds(options, 20 + what, options.days * 4)]
        seen = [not day.verdicts[60].passed for day in days if len(day.verdicts) > 60]
        slipped = [day for day, was_seen in zip(days, seen, strict=False) if not was_seen]
        later = [day.rolled_back - 60 for day in slipped if day.rolled_back is not None]
        print(
            f"break of {shock:g} nats: refused at once {mean(seen):.2f}; of {len(slipped)} that slipped through, ",
            end="",
        )
        print(f"{len(later)} told to roll back, after {median(later) if later else 0:.0f} rounds")
        if goal:
            reached.append(
                report(f"gate_break_{shock:g}", mean(seen), "refused at once", goal=goal, higher_is_better=True)
            )
        found = (sum(seen) + len(later)) / len(days)
        reached.append(
            report(f"gate_break_{shock:g}_in_5_hours", found, "of breaks", goal=">= 0.99", higher_is_better=True)
        )
    return reached


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--days", type=int, default=20)
    arguments.add_argument("--error", type=float, default=0.15, help="of a version, in logits: its standard deviation")
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--only", choices=["equal", "slow", "sudden"])
    options = arguments.parse_args()
    settings = GateSettings()
    parts = {"equal": equal, "slow": slow, "sudden": sudden}
    reached = [one for name, part in parts.items() if options.only in (None, name) for one in part(options, settings)]
    sys.exit(0 if all(reached) else 1)


if __name__ == "__main__":
    main()
