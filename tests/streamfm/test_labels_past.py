"""Late positives and the weight that makes up for them; rows of the past for replay."""

from __future__ import annotations

import datetime as dt
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.parquet_log import EventLog
from streamfm.data.sources import Source
from streamfm.labels import LabelSettings, Position, closed_labels
from streamfm.labels.late import MOST_PROBABLE

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ANY_RATE = (0.0, math.inf)


def seconds(values: list[float]) -> pa.Array:
    return pa.array([START + dt.timedelta(seconds=value) for value in values], pa.timestamp("us", "UTC"))


def at(second: float) -> Position:
    return Position(closed_until=START + dt.timedelta(seconds=second))


def log(events: dict[str, float], **columns: Any) -> pa.Table:
    return pa.table({"event_id": list(events), "ts": seconds(list(events.values())), **columns})


def settings_of(**changes: Any) -> LabelSettings:
    values: dict[str, Any] = {"window_s": 10, "ctr_bounds": ANY_RATE, "stalled_s": 1e6, "weight": "w"}
    return LabelSettings(**values | changes)


def table_of(source: Source) -> list[tuple[str, int, float]]:
    table = pa.Table.from_batches(list(source.batches(source.sql)), source.schema(source.sql))
    return list(zip(*(table[name].to_pylist() for name in ("event_id", "clicked", "w")), strict=True))


# --- late positives


def late_rows(shown: pa.Table, clicks: pa.Table, since: Position, **changes: Any) -> list[tuple[str, int, float]]:
    with closed_labels(shown, clicks, settings_of(late_positives=True, **changes), since=since) as labels:
        assert labels.refusal is None
        assert len(table_of(labels.source)) == labels.counts.labelled
        return table_of(labels.source)


def test_a_late_click_brings_its_impression_back_once() -> None:
    shown, clicks = log({"a": 0, "b": 1, "end": 100}, score=[0.2, 0.5, 0.1]), log({"a": 3, "b": 60, "end": 101})
    assert [("b", 1, 1 + 1.0)] == late_rows(shown, clicks, at(20))
    shown, clicks = log({"a": 0, "b": 1, "end": 200}, score=[0.2, 0.5, 0.1]), log({"a": 3, "b": 60, "end": 201})
    with closed_labels(shown, clicks, settings_of(late_positives=True), since=at(90)) as labels:
        assert labels.refusal is not None
    with closed_labels(shown, clicks, settings_of(), since=at(20)) as labels:
        assert (1, 0) == (labels.counts.clicks_late, labels.counts.again)


def test_where_only_a_part_is_trained_on_late_clicks_count_once() -> None:
    shown, clicks = log({"a": 0, "b": 1, "c": 70, "end": 100}), log({"a": 3, "b": 60, "c": 71, "end": 101})
    wanted = settings_of(late_positives=True)
    with closed_labels(shown, clicks, wanted, since=at(20)) as labels:
        assert ["b", "c"] == [name for name, *_ in table_of(labels.source)]
        # c is left for the next round, as the window that a candidate is judged on.
        position = replace(labels.position, closed_until=START + dt.timedelta(seconds=30))
    with closed_labels(shown, clicks, wanted, since=position) as labels:
        assert [("c", 1, 1.0)] == table_of(labels.source)


def test_a_late_click_that_is_known_in_time_makes_a_positive_at_once() -> None:
    shown, clicks = log({"a": 0, "b": 1, "end": 100}), log({"a": 3, "b": 60, "end": 101})
    with closed_labels(shown, clicks, settings_of(late_positives=True)) as labels:
        assert [("a", 1, 1.0), ("b", 1, 1.0)] == table_of(labels.source)
        assert (2, 1) == (labels.counts.positives, labels.counts.in_window)


def test_a_kind_that_weighs_more_adds_what_is_lacking() -> None:
    shown = log({"a": 0, "b": 1, "end": 100}, score=[0.2, 0.5, 0.1])
    clicks = log({"a": 3, "end": 101}, kind=["click", "click"])
    clicks = pa.concat_tables([clicks, log({"a": 60, "b": 61}, kind=["install", "install"])])
    kinds = {"click_kind": "kind", "positives": {"click": 1.0, "install": 5.0}}
    assert [("a", 1, 4.0), ("b", 1, 6.0)] == late_rows(shown, clicks, at(20), **kinds)


def test_a_negative_that_was_sampled_out_needs_no_making_up() -> None:
    names = {f"e{row}": 0.0 for row in range(200)}
    shown = log(names | {"end": 100}, score=[0.5] * 201)
    clicks = log(dict.fromkeys(names, 50.0) | {"end": 101})
    found = late_rows(shown, clicks, at(20), negative_share=0.25)
    with closed_labels(shown, log({"e0": 1, "end": 100}), settings_of(negative_share=0.25)) as labels:
        kept = {name for name, label, _ in table_of(labels.source) if label == 0}
    weights = {name: weight for name, _, weight in found if name != "e0"}
    assert {name: 1 + 1 / 0.25 if name in kept else 1.0 for name in weights} == weights
    assert 199 == len(weights)
    assert 0.1 < len(kept) / 200 < 0.4


@pytest.mark.parametrize(("score", "served"), [(0.999, MOST_PROBABLE), (math.nan, 0.5), (None, 0.5), (-1.0, 0.0)])
def test_scores_that_are_none_give_way_to_the_click_rate(score: float | None, served: float) -> None:
    shown = log({"a": 0, "b": 1, "end": 100}, score=pa.array([0.2, score, 0.1], pa.float64()))
    found = late_rows(shown, log({"a": 3, "b": 60, "end": 101}), at(20))
    assert [("b", 1, pytest.approx(1 + served / (1 - served)))] == found


@given(st.floats(0.01, 0.9), st.floats(0, 1), st.floats(0.5, 10), st.floats(0.05, 1))
def test_the_weight_makes_the_best_answer_the_true_one(p: float, late: float, v: float, share: float) -> None:
    """Of rows that are clicked with probability p, a share of the clicks late: what log loss learns of them all.

    A positive of weight v stands for v of them, so that the best odds of clicks known in time are v p / (1 - p).
    """
    odds = v * p / (1 - p)
    served = odds / (1 + odds)
    w = v + served / (1 - served) / share
    positives = v * p * (1 - late) + late * p * (share * w + (1 - share) * v)
    negatives = share * (1 - p * (1 - late))
    assert positives / negatives == pytest.approx(odds / share)


# --- replay


def past(rows: int, **columns: Any) -> tuple[pa.Table, pa.Table]:
    """A log of which every fifth row has a click, three quarters are trained on, and each tenth row is there twice."""
    names = {f"e{row}": float(row) for row in range(rows)}
    shown = log(names, **columns)
    copies = shown.take(list(range(0, rows, 10)))
    clicked = {name: second + 2 for name, second in names.items() if second % 5 == 0}
    return pa.concat_tables([shown, copies]), log(clicked | {"x": rows * 2})


def test_a_sample_of_the_past_has_its_labels() -> None:
    shown, clicks = past(2000)
    with closed_labels(shown, clicks, settings_of(), since=at(1500)) as labels:
        everything = table_of(labels.history(5000))
        some, again, other = (table_of(labels.history(300, seed=seed)) for seed in (1, 1, 2))
        young = table_of(labels.history(5000, age_s=100))
    assert [(f"e{row}", int(row % 5 == 0), 1.0) for row in range(1500)] == everything
    assert some == again != other
    assert len(some) == pytest.approx(300, abs=30)
    assert set(some) <= set(everything)
    assert everything[1400:] == young
    spread = np.histogram([int(name[1:]) for name, *_ in some], bins=5, range=(0, 1500))[0]
    assert spread.min() > 30


def test_the_past_is_sampled_as_the_rows_were() -> None:
    shown, clicks = past(2000)
    wanted = settings_of(negative_share=0.5)
    with closed_labels(shown, clicks, wanted, since=at(0)) as labels:
        trained = {row for row in table_of(labels.source) if int(row[0][1:]) < 1500}
    with closed_labels(shown, clicks, wanted, since=at(1500)) as labels:
        assert trained == set(table_of(labels.history(5000)))
        some = table_of(labels.history(200))
    assert len(some) == pytest.approx(200, abs=25)
    assert set(some) <= trained


def test_only_rows_that_were_trained_on_are_of_the_past() -> None:
    shown = log({"a": 0, "late": 1, "b": 2, "end": 100}, _partition=["i/0"] * 4, _offset=[0, 2, 1, 3])
    clicks = log({"a": 3, "late": 4, "end": 101})
    since = Position(closed_until=START + dt.timedelta(seconds=50), offsets={"i/0": 2})
    with closed_labels(shown, clicks, settings_of(), since=since) as labels:
        assert [("late", 1, 1.0)] == table_of(labels.source)
        assert [("a", 1, 1.0), ("b", 0, 1.0)] == table_of(labels.history(10))
    with closed_labels(shown, clicks, settings_of()) as labels:
        assert 0 == labels.history(10).rows


# --- what was skipped


@pytest.mark.parametrize(("skipped", "expected"), [(1, (180, 0)), (2, (189, 91))], ids=["between others", "the last"])
def test_what_was_skipped_before_rows_that_were_learnt_counts_as_learnt(
    tmp_path: Path, skipped: int, expected: tuple[int, int]
) -> None:
    events = log({f"e{number}": number for number in range(300)})
    written = EventLog(tmp_path / "log")
    for start in (0, 100, 200):
        written.append("shown", events.slice(start, 100))
    written.append("clicks", events.take(list(range(0, 300, 10))), kind="clicks")
    segment = sorted(tmp_path.rglob("shown-*.parquet"))[skipped]

    def labelled(since: Position | None) -> tuple[int, Position]:
        with (
            written.snapshot("shown", "clicks", damaged="skip") as found,
            closed_labels(found.relation("shown"), found.relation("clicks"), settings_of(), since=since) as labels,
        ):
            return labels.counts.labelled, labels.position

    aside = segment.rename(tmp_path / "aside")
    without, position = labelled(None)
    aside.rename(segment)
    assert expected == (without, labelled(position)[0])
