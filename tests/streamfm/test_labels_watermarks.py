"""How far the logs have come: partitions that lag, are silent or finished, and clocks that are fast."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from streamfm.labels import Labels, LabelSettings, Position, closed_labels

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
MINUTE = 60.0


def instant(second: float) -> dt.datetime:
    return START + dt.timedelta(seconds=second)


def partition(name: str, events: Mapping[str, float], *, is_stream: bool = True) -> pa.Table:
    """Events of one partition, by their second."""
    times = pa.array([instant(second) for second in events.values()], pa.timestamp("us", "UTC"))
    table = pa.table({"event_id": pa.array(list(events), pa.string()), "ts": times})
    arrival = times if is_stream else pa.nulls(len(table), times.type)
    own = {"_partition": pa.repeat(name, len(table)), "_offset": pa.array(range(len(table)), pa.int64())}
    for column, values in (own | {"_timestamp": arrival}).items():
        table = table.append_column(column, values)
    return table


def log(*partitions: pa.Table) -> pa.Table:
    return pa.concat_tables(partitions)


def rows_of(labels: Labels) -> dict[str, int]:
    assert labels.refusal is None
    table = pa.Table.from_batches(list(labels.source.batches(labels.source.sql)))
    return dict(zip(table["event_id"].to_pylist(), table["clicked"].to_pylist(), strict=True))


def closed_until(labels: Labels) -> float:
    return (labels.position.closed_until - START).total_seconds()


SHOWN = {f"e{number}": number * MINUTE for number in range(240)}
"""One a minute; each is clicked, in one of two partitions."""


def clicks_of(number: int, until: float, **options: Any) -> pa.Table:
    clicks = {name: at + 1 for place, (name, at) in enumerate(SHOWN.items()) if place % 2 == number and at + 1 < until}
    return partition(f"clicked/{number}", clicks, **options)


def test_a_partition_of_the_clicks_that_lags_holds_labels_back_and_makes_no_negatives() -> None:
    shown = partition("shown/0", SHOWN)
    lagging = log(clicks_of(0, math.inf), clicks_of(1, 195 * MINUTE))
    with closed_labels(shown, lagging, LabelSettings(window_s=30 * MINUTE)) as labels:
        # Its last click is of a second after minute 193.
        assert closed_until(labels) == 163 * MINUTE + 1
        assert {f"e{number}": 1 for number in range(164)} == rows_of(labels)
        position = labels.position
    caught_up = log(clicks_of(0, math.inf), clicks_of(1, math.inf))
    with closed_labels(shown, caught_up, LabelSettings(window_s=30 * MINUTE), since=position) as labels:
        assert {f"e{number}": 1 for number in range(164, 209)} == rows_of(labels)


def test_labels_do_not_wait_for_a_partition_that_nobody_writes_to_any_more() -> None:
    shown, clicks = partition("shown/0", SHOWN), log(clicks_of(0, math.inf), clicks_of(1, 60 * MINUTE))
    settings = LabelSettings(window_s=30 * MINUTE, stalled_s=60 * MINUTE, lookback_s=100 * MINUTE)
    with closed_labels(shown, clicks, settings) as labels:
        assert closed_until(labels) == 208 * MINUTE + 1
    still = log(clicks_of(0, math.inf), clicks_of(1, 90 * MINUTE))
    with closed_labels(shown, still, settings) as labels:
        assert labels.refusal is not None
        assert labels.refusal.reason == "stalled"


def test_labels_do_not_wait_for_a_partition_of_a_topic_that_was_made_anew() -> None:
    shown, clicks = partition("shown/0", SHOWN), log(clicks_of(0, math.inf), clicks_of(1, 90 * MINUTE))
    settings = LabelSettings(window_s=30 * MINUTE, stalled_s=60 * MINUTE)
    with closed_labels(shown, clicks, settings) as labels:
        assert labels.refusal is not None
    with closed_labels(shown, clicks, settings, finished={"clicked/1"}) as labels:
        assert closed_until(labels) == 208 * MINUTE + 1


def test_labels_do_not_wait_for_files_or_for_a_partition_without_a_click() -> None:
    shown, settings = partition("shown/0", SHOWN), LabelSettings(window_s=30 * MINUTE)
    finished = clicks_of(1, 100 * MINUTE, is_stream=False)
    with closed_labels(shown, log(clicks_of(0, math.inf), finished), settings) as labels:
        assert closed_until(labels) == 208 * MINUTE + 1
    files = log(clicks_of(0, math.inf, is_stream=False), finished)
    with closed_labels(shown, files, settings) as labels:
        assert closed_until(labels) == 208 * MINUTE + 1
    future = partition("clicked/1", {"e1": 1_000 * MINUTE})
    with closed_labels(shown, log(clicks_of(0, math.inf), future), settings, now=instant(240 * MINUTE)) as labels:
        assert closed_until(labels) == 208 * MINUTE + 1


def test_impressions_of_a_partition_that_lags_are_labelled_when_they_are_there() -> None:
    early, late = (dict(list(SHOWN.items())[number::2]) for number in (0, 1))
    clicks, settings = log(clicks_of(0, math.inf), clicks_of(1, math.inf)), LabelSettings(window_s=30 * MINUTE)
    lagging = partition("shown/1", {name: at for name, at in late.items() if at < 60 * MINUTE})
    with closed_labels(log(partition("shown/0", early), lagging), clicks, settings) as labels:
        first, position = rows_of(labels), labels.position
    with closed_labels(
        log(partition("shown/0", early), partition("shown/1", late)), clicks, settings, since=position
    ) as labels:
        second = rows_of(labels)
    assert not first.keys() & second.keys()
    assert {f"e{number}": 1 for number in range(209)} == first | second


def test_a_fast_clock_closes_no_window() -> None:
    now = 120 * MINUTE
    names = {f"e{number}": now - 14.5 * MINUTE + number * 10 for number in range(87)}
    before, fast = {"old": now - 31 * MINUTE}, {"fast": now + 290}
    shown = partition("shown/0", before | names | fast)
    clicks = partition("clicked/0", {"old": now - 30 * MINUTE} | fast)
    settings = LabelSettings(window_s=15 * MINUTE)
    with closed_labels(shown, clicks, settings, now=instant(now)) as labels:
        assert {"old": 1} == rows_of(labels)
        assert closed_until(labels) == now - 15 * MINUTE
        assert 0 == labels.counts.future
        position = labels.position
    # The clicks come, five minutes late at most; so does the time of those with the fast clock.
    clicked = {name: at + 10 * MINUTE for name, at in names.items()}
    clicks = log(clicks, partition("clicked/1", clicked | {"end": now + 60 * MINUTE}))
    shown = log(shown, partition("shown/1", {"end": now + 60 * MINUTE}))
    stalled_s = 2 * 60 * MINUTE
    settings = LabelSettings(window_s=15 * MINUTE, stalled_s=stalled_s)
    with closed_labels(shown, clicks, settings, since=position, now=instant(now + 60 * MINUTE)) as labels:
        assert {} == {name: label for name, label in rows_of(labels).items() if not label}


def test_a_fast_clock_does_not_make_clicks_look_stalled() -> None:
    shown = partition("shown/0", SHOWN | {"fast": 244 * MINUTE})
    clicks = log(clicks_of(0, math.inf), clicks_of(1, math.inf))
    settings = LabelSettings(window_s=30 * MINUTE, stalled_s=3 * MINUTE)
    with closed_labels(shown, clicks, settings, now=instant(240 * MINUTE)) as labels:
        assert closed_until(labels) == 208 * MINUTE + 1


def test_a_position_is_never_set_back() -> None:
    shown = partition("shown/0", SHOWN)
    lagging = log(clicks_of(0, math.inf), clicks_of(1, 195 * MINUTE))
    since = Position(closed_until=instant(200 * MINUTE), offsets={"shown/0": 240})
    with closed_labels(shown, lagging, LabelSettings(window_s=30 * MINUTE), since=since) as labels:
        assert labels.refusal is not None
        assert labels.refusal.reason == "nothing_new"
        assert since == labels.position
