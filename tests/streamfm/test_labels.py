"""Labels against a plain join in Python, over rounds: every closed row is labelled in exactly one of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfm.labels import LabelCounts, LabelSettings, Position, closed_labels

START = datetime(2026, 1, 1, tzinfo=UTC)
WINDOW, LOOKBACK, FUTURE = 5, 1000, 10
NOW = 80
END = 200
KINDS = {"click": 1.0, "install": 4.0}


class Shown(NamedTuple):
    partition: str
    offset: int
    id: str | None
    at: int | None
    x: int


class Click(NamedTuple):
    partition: str
    offset: int
    id: str | None
    at: int | None
    kind: str | None


Key = tuple[str, int, float]
"""Id, label, weight."""


@dataclass
class PlainJoin:
    """The rules, said again without sets and positions: what was labelled is remembered."""

    lateness: int
    late_positives: bool = False
    has_offsets: bool = True
    closed: int | None = None
    labelled: dict[str, int] = field(default_factory=dict)
    known: dict[str, float] = field(default_factory=dict)
    read: list[Shown] = field(default_factory=list)

    def round(self, shown: list[Shown], clicks: list[Click]) -> list[Key] | None:
        """The rows of the next round; None where there are none, which leaves all as it was."""
        present = [row for row in shown if row.at is not None and row.at <= NOW + FUTURE]
        clicked = [click for click in clicks if click.at is not None and click.at <= NOW + FUTURE]
        closed = self._closed(present, clicked)
        if closed is None:
            return None
        firsts: dict[str, Shown] = {}
        for row in sorted(present, key=lambda row: (row.at, row.partition, row.offset, row.x)):
            is_lost = not self.has_offsets and self.closed is not None and row.at < self.closed
            if row.id is not None and not is_lost and row.at < closed and row.id not in self.labelled:
                firsts.setdefault(row.id, row)
        lost = {row.id for row in present if self.closed is not None and row.at < self.closed and row.id is not None}
        if not self.has_offsets:
            firsts = {name: row for name, row in firsts.items() if name not in lost}
        weights = {name: self._weight(name, row.at, clicked, closed) for name, row in firsts.items()}
        within = [name for name, row in firsts.items() if self._weight(name, row.at, clicked, closed, late=False)]
        again = list(self._again(clicked, closed)) if self.late_positives else []
        if not (firsts or again) or (firsts and not within):
            return None
        rate = self._rate_before(clicked, closed)
        rows = [(name, int(weight > 0), weight or 1.0) for name, weight in weights.items()]
        for name, new in again:
            old = self.known[name]
            rows.append((name, 1, new - old if old else new + rate / (1 - rate)))
            self.known[name] = new
        self.closed, self.read = closed, present
        self.labelled |= {name: row.at for name, row in firsts.items()}
        self.known |= weights
        return rows

    def _closed(self, present: list[Shown], clicked: list[Click]) -> int | None:
        """Impressions before it are closed: every partition of the clicks has passed their windows, and so has now."""
        if not (present and clicked):
            return self.closed
        parts: dict[str, list[int]] = {}
        for click in clicked:
            parts.setdefault(click.partition if self.has_offsets else "", []).append(click.at)
        end = min(NOW, max(row.at for row in present), *(max(part) for part in parts.values()))
        closed = end - self.lateness - WINDOW
        return closed if self.closed is None else max(closed, self.closed)

    def _weight(self, name: str, at: int, clicks: list[Click], closed: int, *, late: bool = True) -> float:
        last = at + WINDOW + (LOOKBACK if late and self.late_positives else 0)
        found = [c for c in clicks if c.id == name and at <= c.at <= last and c.at < closed + WINDOW]
        return max((KINDS[c.kind] for c in found if c.kind in KINDS), default=0.0)

    def _again(self, clicks: list[Click], closed: int) -> Iterator[tuple[str, float]]:
        for name, at in self.labelled.items():
            new = self._weight(name, at, clicks, closed)
            if new > self.known[name]:
                yield name, new

    def _rate_before(self, clicks: list[Click], closed: int) -> float:
        rows = [row for row in self.read if row.id in self.labelled and row.at < (self.closed or 0)]
        within = [n for n, at in self.labelled.items() if self._weight(n, at, clicks, closed, late=False)]
        return min(0.95, len(within) / len(rows)) if rows else 0.0


def instant(at: int | None) -> datetime | None:
    return None if at is None else START + timedelta(seconds=at)


def table(events: list[Any], *, has_offsets: bool = True) -> pa.Table:
    third = "x" if not events or isinstance(events[0], Shown) else "kind"
    columns: dict[str, Any] = {
        "event_id": pa.array([event.id for event in events], pa.string()),
        "ts": pa.array([instant(event.at) for event in events], pa.timestamp("us")),
        third: pa.array([event[4] for event in events], pa.int64() if third == "x" else pa.string()),
    }
    if has_offsets:
        columns["_partition"] = pa.array([event.partition for event in events], pa.string())
        columns["_offset"] = pa.array([event.offset for event in events], pa.int64())
        # A stream fills it: a partition that has less than the others may yet have more.
        columns["_timestamp"] = pa.repeat(pa.scalar(START, pa.timestamp("us", "UTC")), len(events))
    return pa.table(columns)


def clicks_table(events: list[Click], *, has_offsets: bool = True) -> pa.Table:
    made = table(events, has_offsets=has_offsets)
    return made if events else made.rename_columns(["kind" if name == "x" else name for name in made.column_names])


def settings_of(lateness: int = 0, **changes: Any) -> LabelSettings:
    values: dict[str, Any] = {
        "click_kind": "kind",
        "positives": KINDS,
        "window_s": WINDOW,
        "lookback_s": LOOKBACK,
        "lateness_s": lateness,
        "future_s": FUTURE,
        "ctr_bounds": (0, float("inf")),
        "stalled_s": 1e8,
        "weight": "w",
    }
    return LabelSettings(**values | changes)


class Round(NamedTuple):
    rows: list[dict[str, Any]] | None
    position: Position
    counts: LabelCounts


def run(shown: pa.Table, clicks: pa.Table, wanted: LabelSettings, since: Position | None = None) -> Round:
    """One round; the position passes through JSON, as it does in a manifest."""
    with closed_labels(shown, clicks, wanted, since=since, now=instant(NOW), threads=1) as labels:
        rows = None
        if labels.refusal is None:
            rows = [row for batch in labels.source.batches(labels.source.sql) for row in batch.to_pylist()]
        return Round(rows, Position.from_json(labels.position.to_json()), labels.counts)


def keys(rows: list[dict[str, Any]]) -> list[Key]:
    return sorted((row["event_id"], row["clicked"], pytest.approx(row["w"])) for row in rows)  # type: ignore[type-var]


IDS = st.sampled_from("abcdefghij")


@st.composite
def logs(draw: st.DrawFn, *, copies_differ: bool = False) -> tuple[list[list[Shown]], list[list[Click]]]:
    """What is appended to both logs in each of one to four rounds: with copies, orphans, ties, NULL, the future."""
    at_of = {name: draw(st.sampled_from(range(0, 61, 3))) for name in "abcdefghij"}
    rounds = draw(st.integers(1, 4))
    offsets: dict[str, int] = {}

    def appended(topic: str) -> tuple[str, int]:
        partition = f"{topic}/{draw(st.integers(0, 1))}"
        offsets[partition] = offsets.get(partition, -1) + draw(st.integers(1, 3))
        return partition, offsets[partition]

    def shown() -> Shown:
        name = draw(st.none() | IDS)
        at = draw(st.integers(0, 60)) if copies_differ or name is None else at_of[name]
        strange = draw(st.integers(0, 30))
        return Shown(*appended("i"), name, {0: None, 1: 150, 2: 85}.get(strange, at), draw(st.integers(0, 9)))

    def click() -> Click:
        shown_ids = sorted({row.id for rows in shown_rounds for row in rows if row.id in at_of})
        name = draw(st.sampled_from([*shown_ids, *shown_ids, *"abcdefghij", None, "orphan"]))
        near = at_of.get(name or "", 30) + draw(st.sampled_from(range(-2, 2 * WINDOW)))
        at = draw(st.sampled_from([near, near, near, near, draw(st.integers(0, 70)), 85, 160, None]))
        return Click(*appended("c"), name, at, draw(st.sampled_from(["click", "click", "install", "like", None])))

    def beat(topic: str, number: int) -> Any:
        """An event that belongs to no other, and says how far its partition has come; most rounds close something."""
        offset = offsets[f"{topic}/{number}"] = offsets.get(f"{topic}/{number}", -1) + 1
        if topic == "i":
            return Shown("i/0", offset, f"beat {offset}", draw(st.sampled_from([20, 40, 50, 60, 64])), 0)
        return Click(f"c/{number}", offset, None, draw(st.sampled_from([20, 40, 50, 60, 64, 68, 72, 76, 84])), "like")

    shown_rounds = [[*(shown() for _ in range(draw(st.sampled_from([3, 5, 6])))), beat("i", 0)] for _ in range(rounds)]
    click_rounds: list[list[Click]] = []
    for _ in range(rounds):
        beats = [beat("c", number) for number in (0, 1) if draw(st.sampled_from([True, True, False]))]
        click_rounds.append([click() for _ in range(draw(st.sampled_from([4, 6, 8])))] + beats)
    return shown_rounds, click_rounds


def check_counts(counts: LabelCounts) -> None:
    c = counts
    assert c.impressions == c.without_time + c.without_id + c.future + c.open + c.duplicates + c.closed
    assert c.closed + c.again == c.labelled + c.sampled_out
    known = c.clicks_in_window + c.clicks_late + c.clicks_before + c.clicks_without_impression
    left_out = c.clicks_without_id_or_time + c.clicks_future + c.clicks_of_other_kinds
    assert c.clicks == known + left_out + c.clicks_open
    assert min(counts.to_json().values()) >= 0


@pytest.mark.parametrize("late_positives", [False, True])
@settings(max_examples=15, deadline=None)
@given(logs(), st.integers(0, 3))
def test_rounds_are_those_of_a_plain_join(
    late_positives: bool, drawn: tuple[list[list[Shown]], list[list[Click]]], lateness: int
) -> None:
    plain = PlainJoin(lateness, late_positives)
    shown: list[Shown] = []
    clicks: list[Click] = []
    position = None
    for new_shown, new_clicks in zip(*drawn, strict=True):
        shown, clicks = shown + new_shown, clicks + new_clicks
        expected = plain.round(shown, clicks)
        wanted = settings_of(lateness, late_positives=late_positives)
        found = run(table(shown), clicks_table(clicks), wanted, position)
        check = found.rows if found.rows is None else keys(found.rows)
        assert (expected if expected is None else sorted(expected)) == check
        if found.rows is not None:
            order = [(row["ts"], row["event_id"]) for row in found.rows]
            assert sorted(order) == order
            assert len(found.rows) == found.counts.labelled
            check_counts(found.counts)
            position = found.position
            assert position.closed_until == instant(plain.closed)


@settings(max_examples=12, deadline=None)
@given(logs(), st.integers(0, 3))
def test_without_offsets_rows_that_come_late_are_left_out(
    drawn: tuple[list[list[Shown]], list[list[Click]]], lateness: int
) -> None:
    plain = PlainJoin(lateness, has_offsets=False)
    shown: list[Shown] = []
    clicks: list[Click] = []
    position = None
    for new_shown, new_clicks in zip(*drawn, strict=True):
        shown, clicks = shown + new_shown, clicks + new_clicks
        expected = plain.round(shown, clicks)
        logs_ = table(shown, has_offsets=False), clicks_table(clicks, has_offsets=False)
        found = run(*logs_, settings_of(lateness), position)
        assert (expected if expected is None else sorted(expected)) == (found.rows and keys(found.rows))
        position = found.position if found.rows is not None else position


@settings(max_examples=12, deadline=None)
@given(logs(copies_differ=True), st.data())
def test_rounds_together_are_one_shot(drawn: tuple[list[list[Shown]], list[list[Click]]], data: st.DataObject) -> None:
    """Whatever the times of copies: each id once. The clicks are there from the start, so labels are the same, too."""
    last = Shown("i/2", 0, "last", 65, 0)
    rounds = [*drawn[0], [last]]
    clicks = [
        *itertools.chain(*drawn[1]),
        Click("c/0", 1000, "last", 66, "click"),
        *(Click(f"c/{partition}", 3000, "later", 80, "click") for partition in (0, 1)),
    ]
    clicks += [Click("c/1", 2000 + at, name, at, "click") for name, at in (("a", 3), ("b", 20))]
    shown: list[Shown] = []
    union: list[dict[str, Any]] = []
    position = None
    for appended in [*rounds, [Shown("i/2", 1, "beyond", 79, 0)]]:
        shown = shown + appended
        found = run(table(shown), clicks_table(clicks), settings_of(), position)
        union += found.rows or []
        position = found.position if found.rows is not None else position
    once = run(table(shown), clicks_table(clicks), settings_of())
    ids = [row["event_id"] for row in union]
    assert sorted(set(ids)) == sorted(ids)
    assert sorted(row["event_id"] for row in once.rows or []) == sorted(ids)
    first = {row.id: row for row in sorted(shown, key=lambda row: (row.at or 0, row.partition, row.offset))}
    same = {name for name in first if len({row.at for row in shown if row.id == name}) == 1}
    assert [key for key in keys(once.rows or []) if key[0] in same] == [key for key in keys(union) if key[0] in same]
