"""What labels are made of: columns, kinds, times, the future, refusals, sampling, late positives, replay."""

from __future__ import annotations

import datetime as dt
import math
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from streamfm.data.labelled_rows import LabelledRows
from streamfm.errors import DataError, MissingColumnsError, SpecError
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.labels import Labels, LabelSettings, Position, closed_labels, logit_correction
from streamfm.labels.drawing import NEGATIVES_SEED
from streamfm.labels.health import wilson
from streamfm.labels.repeats import repeated

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ANY_RATE = (0.0, math.inf)


def seconds(*values: float | None) -> pa.Array:
    moments = [None if value is None else START + dt.timedelta(seconds=value) for value in values]
    return pa.array(moments, pa.timestamp("us", "UTC")).cast(pa.timestamp("us"))


def log(events: dict[str, float], **columns: Any) -> pa.Table:
    return pa.table({"event_id": list(events), "ts": seconds(*events.values()), **columns})


def settings_of(**changes: Any) -> LabelSettings:
    return LabelSettings(**{"window_s": 10, "ctr_bounds": ANY_RATE, "stalled_s": 1e6, **changes})


def rows_of(labels: Labels) -> dict[str, int]:
    table = pa.Table.from_batches(list(labels.source.batches(labels.source.sql)))
    return dict(zip(table["event_id"].to_pylist(), table["clicked"].to_pylist(), strict=True))


def labels_of(shown: Any, clicks: Any, since: Position | None = None, **changes: Any) -> dict[str, int]:
    with closed_labels(shown, clicks, settings_of(**changes), since=since) as labels:
        return rows_of(labels)


SHOWN = log({"a": 0, "b": 1, "end": 100})
CLICKS = log({"a": 3, "end": 101})


# --- the window


def test_a_window_includes_both_its_ends() -> None:
    shown = log({"first": 20, "last": 20, "before": 20, "after": 20, "end": 100})
    clicks = log({"first": 20, "last": 30, "before": 19.999999, "after": 30.000001, "end": 100})
    with closed_labels(shown, clicks, settings_of()) as labels:
        assert {"after": 0, "before": 0, "first": 1, "last": 1} == rows_of(labels)
        assert (1, 1) == (labels.counts.clicks_late, labels.counts.clicks_before)


def test_a_row_is_open_until_both_logs_have_passed_its_window() -> None:
    shown = log({"a": 0, "b": 90, "c": 91})
    assert {"a": 1} == labels_of(shown, log({"a": 3, "x": 100}))
    assert {"a": 1} == labels_of(log({"a": 0, "b": 90, "c": 92, "d": 200}), log({"a": 3, "x": 100}))
    assert {"a": 1, "b": 0} == labels_of(log({"a": 0, "b": 90, "c": 92, "d": 200}), log({"a": 3, "x": 101}))
    assert {"a": 1} == labels_of(log({"a": 0, "b": 90, "c": 92, "d": 200}), log({"a": 3, "x": 101}), lateness_s=5)


def test_nothing_from_an_instant_on() -> None:
    shown, clicks = log({"a": 0, "b": 1, "c": 2, "end": 100}), log({"a": 3, "end": 100})
    until = START + dt.timedelta(seconds=2)
    with closed_labels(shown, clicks, settings_of(), until=until) as labels:
        assert {"a": 1, "b": 0} == rows_of(labels)
        assert until == labels.position.closed_until


def test_events_from_the_future_are_counted_and_wait() -> None:
    shown, clicks = log({"a": 0, "future": 5000, "end": 100}), log({"a": 3, "end": 100, "future": 5001})
    clock = START + dt.timedelta(seconds=110)
    with closed_labels(shown, clicks, settings_of(future_s=60), now=clock) as labels:
        assert {"a": 1} == rows_of(labels)
        assert (1, 1) == (labels.counts.future, labels.counts.clicks_future)
        position = labels.position
    shown = pa.concat_tables([shown, log({"beyond": 6000})])
    clicks = pa.concat_tables([clicks, log({"beyond": 6000})])
    with closed_labels(shown, clicks, settings_of(), since=position, now=clock + dt.timedelta(days=1)) as labels:
        assert {"end": 1, "future": 1} == rows_of(labels)


def test_a_clock_that_jumps_back_loses_nothing_where_there_are_offsets() -> None:
    def events(times: dict[str, float]) -> pa.Table:
        return log(times, _partition=["i/0"] * len(times), _offset=list(range(len(times))))

    times = {"a": 0, "b": 50, "c": 100}
    clicks = log({name: 0 for name in "z"} | {"a": 1, "b": 51, "late": 6, "end": 200})
    with closed_labels(events(times), clicks, settings_of()) as labels:
        assert {"a": 1, "b": 1} == rows_of(labels)
        position = labels.position
        assert {"i/0": 3} == position.offsets
    times |= {"back": 5, "late": 5, "d": 150}
    with closed_labels(events(times), clicks, settings_of(), since=position) as labels:
        assert {"back": 0, "late": 1, "c": 0} == rows_of(labels)
        assert {"i/0": 6} == labels.position.offsets


def test_a_partition_that_is_new_has_not_been_read() -> None:
    shown = log({"a": 0, "b": 1, "end": 100}, _partition=["i/0", "i/1", "i/0"], _offset=[0, 0, 1])
    since = Position(closed_until=START + dt.timedelta(seconds=50), offsets={"i/0": 1})
    clicks = log({"b": 3, "end": 100})
    assert {"b": 1} == labels_of(shown, clicks, since)
    with closed_labels(shown, clicks, settings_of(), since=Position(closed_until=since.closed_until)) as labels:
        assert "nothing_new" == labels.refusal.reason if labels.refusal else False


def test_copies_further_apart_than_the_horizon_are_rows_of_their_own() -> None:
    since = Position(closed_until=START + dt.timedelta(seconds=500))
    shown = pa.concat_tables([log({"a": 400, "b": 100}), log({"a": 550, "b": 551, "end": 600})])
    clicks = log({"a": 401, "b": 552, "end": 600})
    assert {"b": 1} == labels_of(shown, clicks, since, lookback_s=200)
    assert {"a": 0, "b": 1} == labels_of(shown, clicks, since, lookback_s=20)


# --- columns and types


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("us", "Asia/Tokyo"), pa.timestamp("ns"), pa.timestamp("s")]
)
def test_any_timestamp_will_do(kind: pa.DataType) -> None:
    shown = SHOWN.set_column(1, "ts", SHOWN["ts"].cast(pa.timestamp("us", "UTC")).cast(kind))
    for since in (None, Position(closed_until=START - dt.timedelta(days=1))):
        assert {"a": 1, "b": 0} == labels_of(shown, CLICKS, since)


def test_dates_are_midnights() -> None:
    days = pa.table({"event_id": ["a", "b", "end"], "ts": [dt.date(2026, 1, day) for day in (1, 2, 9)]})
    clicks = pa.table({"event_id": ["a", "b", "end"], "ts": [dt.datetime(2026, 1, day, 5) for day in (1, 3, 9)]})
    for since in (None, Position(closed_until=START)):
        assert {"a": 1, "b": 0} == labels_of(days, clicks, since, window_s=86_400)


def test_ids_of_other_types_are_compared_as_texts() -> None:
    shown = SHOWN.set_column(0, "event_id", pa.array([1, 2, 3]))
    assert {1: 1, 2: 0} == labels_of(shown, CLICKS.set_column(0, "event_id", pa.array(["1", "3"])))
    assert {1: 1, 2: 0} == labels_of(shown, CLICKS.set_column(0, "event_id", pa.array([1, 3], pa.int64())))


def test_files_folders_and_sql_are_read(tmp_path: Path) -> None:
    for name, table in (("shown", SHOWN), ("clicks", CLICKS)):
        (tmp_path / name).mkdir()
        pq.write_table(table, tmp_path / name / "0.parquet")
        pyarrow.csv.write_csv(table, tmp_path / f"{name}.csv")
    paths = [tmp_path / "shown", tmp_path / "clicks"]
    expected = {"a": 1, "b": 0}
    assert expected == labels_of(*paths)
    assert expected == labels_of(*(str(path) + "/*.parquet" for path in paths))
    assert expected == labels_of(*(path.with_suffix(".csv") for path in paths))
    assert expected == labels_of(*(f"SELECT * FROM '{path}/*.parquet';" for path in paths))


def test_columns_with_the_names_of_anything_do_no_harm() -> None:
    names = ["s", "c", "m", "x", "id", "us", "weight", "read", "first", "last", "clicks", "copied", "new", "old", "l"]
    shown = log({"a": 0, "b": 1, "end": 100}, **{name: [1, 2, 3] for name in names})
    shown = pa.concat_tables([shown, shown.slice(1, 1), log({"c": 50}, **{name: [7] for name in names})])
    clicks = log({"a": 3, "b": 20, "end": 101}, **{name: ["p", "q", "r"] for name in names})
    changes = {"late_positives": True, "weight": "w"}
    assert {"a": 1, "b": 1, "c": 0} == labels_of(shown, clicks, **changes)
    since = Position(closed_until=START + dt.timedelta(seconds=20))
    with closed_labels(shown, clicks, settings_of(**changes), since=since) as labels:
        assert {"c": 0} == rows_of(labels) if labels.refusal is None else "nothing_new" == labels.refusal.reason
        assert 2 == labels.history(5).rows


def test_an_absent_column_is_named_with_a_hint() -> None:
    with pytest.raises(MissingColumnsError, match=r"'ts' not found\nhint: did you mean 'tss'"):
        labels_of(SHOWN.rename_columns(["event_id", "tss"]), CLICKS)
    with pytest.raises(MissingColumnsError, match=r"clicks.*'kind' not found"):
        labels_of(SHOWN, CLICKS, click_kind="kind")


def test_a_time_that_is_a_number_is_refused_with_a_mend() -> None:
    numbers = SHOWN.set_column(1, "ts", pa.array([0, 1, 100]))
    with pytest.raises(DataError, match=r"'ts' holds BIGINT, expected TIMESTAMP\nhint: .*make_timestamp"):
        labels_of(numbers, CLICKS)
    assert {"a": 1, "b": 0} == labels_of(SHOWN, CLICKS)


def test_a_label_that_is_there_already_is_refused() -> None:
    for name in ("clicked", "CLICKED"):
        with pytest.raises(DataError, match=f"'{name}' is there already.*\nhint: leave it out: SELECT . EXCLUDE"):
            labels_of(SHOWN.append_column(name, pa.array([1, 0, 1])), CLICKS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_s": -1}, "window_s is -1"),
        ({"window_s": math.nan}, "window_s is nan"),
        ({"negative_share": 0}, "negative_share is 0"),
        ({"ctr_bounds": (2, 3)}, "ctr_bounds are 2 and 3"),
        ({"positives": {}}, "positives has 0 kinds"),
        ({"positives": {"click": 1, "install": 2}}, "positives has 2 kinds"),
        ({"positives": {"click": -1}}, "'click' has weight -1"),
        ({"positives": {"click": 2}}, "need a column for weights"),
        ({"late_positives": True}, "late_positives needs a column for weights"),
        ({"weight": "clicked"}, "label and weight are the same column"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        LabelSettings(**changes)


def test_positions_are_instants_and_pass_through_json() -> None:
    with pytest.raises(DataError, match="without a time zone"):
        Position(closed_until=dt.datetime(2026, 1, 1))
    with pytest.raises(DataError, match="is no position"):
        Position.from_json({"offsets": {}})
    tokyo = dt.timezone(dt.timedelta(hours=9))
    position = Position(closed_until=dt.datetime(2026, 1, 1, 9, microsecond=7, tzinfo=tokyo), offsets={"b/1": 3})
    assert "2026-01-01T00:00:00.000007Z" == position.to_json()["closed_until"]
    assert position == Position.from_json(position.to_json())
    further = replace(position, clicks_until=position.closed_until + dt.timedelta(seconds=1))
    assert further == Position.from_json(further.to_json())


def test_labelled_rows_can_be_learnt_from() -> None:
    feature = Feature(name="app", kind="categorical")
    spec = FeatureSpec(
        inputs=(Input(name="app", type="VARCHAR"),),
        features=(feature,),
        label="clicked",
        weight="w",
        event_time="ts",
        event_id="event_id",
    )
    shown = log({"a": 1, "b": 0, "end": 100}, app=["x", "y", "z"])
    with closed_labels(shown, CLICKS, settings_of(weight="w")) as labels:
        batches = list(LabelledRows(labels.source, spec).batches())
    assert [0.0, 1.0] == batches[0].labels.tolist()
    assert ["y", "x"] == batches[0].columns["app"].to_pylist()


# --- refusals


def refusal_of(shown: Any, clicks: Any, since: Position | None = None, **changes: Any) -> str:
    with closed_labels(shown, clicks, settings_of(**changes), since=since) as labels:
        assert labels.refusal is not None
        assert labels.position == (since or Position(closed_until=dt.datetime(1970, 1, 1, tzinfo=dt.UTC)))
        with pytest.raises(DataError, match=re.escape(labels.refusal.message)):
            _ = labels.source
        assert labels.refusal.hint
        return labels.refusal.reason


def test_reasons_to_refuse() -> None:
    nothing = SHOWN.slice(0, 0)
    assert "nothing_new" == refusal_of(nothing, CLICKS)
    assert "nothing_new" == refusal_of(nothing, nothing)
    assert "no_clicks" == refusal_of(SHOWN, nothing)
    assert "nothing_new" == refusal_of(SHOWN, log({"end": 100}))
    many = log({f"e{number}": 0 for number in range(1_000)} | {"end": 100})
    assert "no_clicks" == refusal_of(many, log({"end": 100}))
    assert "nothing_new" == refusal_of(SHOWN, CLICKS, window_s=500)
    assert "stalled" == refusal_of(log({"a": 0, "end": 7300}), log({"a": 1, "x": 3600}), stalled_s=3600)
    done = Position(closed_until=START + dt.timedelta(seconds=90))
    assert "nothing_new" == refusal_of(SHOWN, CLICKS, done)


def many(first: int, rows: int, every: int, start: float) -> tuple[dict[str, float], dict[str, float]]:
    shown = {f"e{first + row}": start + row / rows for row in range(rows)}
    return shown, {name: at + 1 for number, (name, at) in enumerate(shown.items()) if number % every == 0}


@pytest.mark.parametrize(
    ("rows", "every", "reason"),
    [
        (1000, 10, None),
        (1000, 6, None),  # 1.7 times as many
        (1000, 2, "ctr_out_of_bounds"),
        (4000, 30, "ctr_out_of_bounds"),  # a third
        (60, 60, None),  # one click where 6 are expected: by chance, once in 60 rounds
        (10, 3, None),
        (20, 1, "ctr_out_of_bounds"),
    ],
)
def test_a_click_rate_out_of_bounds_is_refused_on_evidence(rows: int, every: int, reason: str | None) -> None:
    shown, clicks = many(0, 5000, 10, 0)
    new_shown, new_clicks = many(10_000, rows, every, 50)
    end = {"end": 100.0}
    since = Position(closed_until=START + dt.timedelta(seconds=20))
    logs = log(shown | new_shown | end), log(clicks | new_clicks | end)
    with closed_labels(*logs, settings_of(ctr_bounds=(0.5, 2)), since=since) as labels:
        assert reason == (labels.refusal and labels.refusal.reason)
        assert (5000, 500) == (labels.counts.labelled_before, labels.counts.in_window_before)
    with closed_labels(*logs, settings_of(), since=since) as labels:
        assert labels.refusal is None


@pytest.mark.parametrize(("hits", "rows"), [(0, 10), (3, 10), (10, 10), (500, 10_000)])
def test_wilsons_interval_ends_where_the_share_is_three_errors_away(hits: int, rows: int) -> None:
    for end in wilson(hits, rows):
        error = math.sqrt(end * (1 - end) / rows)
        assert abs(hits / rows - end) == pytest.approx(3 * error, abs=1e-9)
    assert (0.0, 1.0) == wilson(0, 0)


# --- negatives


def test_negatives_are_kept_by_the_hash_of_their_id() -> None:
    shown = {f"e{row}": float(row % 7) for row in range(2000)}
    clicks = {f"e{row}": 8.0 for row in range(0, 2000, 10)}
    logs = log(shown | {"end": 100}), log(clicks | {"end": 100})
    kept = labels_of(*logs, negative_share=0.3)
    expected = {name for name in shown if xxhash.xxh64_intdigest(name.encode(), NEGATIVES_SEED) < 0.3 * 2**64} | set(
        clicks
    )
    assert expected == set(kept)
    assert {name: int(name in clicks) for name in expected} == kept
    with closed_labels(*logs, settings_of(negative_share=0.3)) as labels:
        counts = labels.counts
    assert (2000, 200, 2000 - len(expected)) == (counts.closed, counts.positives, counts.sampled_out)


@given(st.floats(1e-6, 1 - 1e-6), st.floats(1e-4, 1))
def test_the_correction_gives_back_the_probability(probability: float, share: float) -> None:
    learnt = probability / (probability + share * (1 - probability))
    logit = math.log(learnt / (1 - learnt)) + logit_correction(share)
    assert 1 / (1 + math.exp(-logit)) == pytest.approx(probability, rel=1e-6)
    assert learnt / (learnt + (1 - learnt) / share) == pytest.approx(probability, rel=1e-6)


# --- copies


HASHES = st.integers(0, 30).map(lambda number: xxhash.xxh64_intdigest(number.to_bytes(8, "little")))


@given(st.lists(st.lists(HASHES | st.sampled_from([0, 1, 1024, 2**32, 2**64 - 1]), max_size=40), max_size=5))
def test_hashes_that_come_twice_are_found(parts: list[list[int]]) -> None:
    batches = [pa.record_batch([pa.array(part, pa.uint64())], names=["h"]) for part in parts]
    values = [value for part in parts for value in part]
    found, rows = repeated(batches, len(values))
    assert len(values) == rows
    twice = {value for value, count in Counter(values).items() if count > 1}
    assert twice <= set(found.tolist())
    # Others are held for one of them only where half of their bits are the same.
    assert {value >> 32 for value in set(found.tolist()) - twice} <= {0, 1}


def test_many_copies_on_both_sides() -> None:
    random = np.random.default_rng(5)
    names = [f"e{number}" for number in random.integers(0, 3000, 20_000)]
    shown = pa.table({"event_id": [*names, "end"], "ts": seconds(*(len(name) for name in names), 100)})
    clicked = [f"e{number}" for number in range(0, 6000, 3) for _ in range(2)]
    clicks = pa.table({"event_id": [*clicked, "end"], "ts": seconds(*(len(name) + 1 for name in clicked), 100)})
    assert {name: int(int(name[1:]) % 3 == 0) for name in names} == labels_of(shown, clicks)


@pytest.mark.parametrize("clock", [None, START + dt.timedelta(seconds=500)])
def test_events_without_an_id_or_a_time_are_counted(clock: dt.datetime | None) -> None:
    shown = pa.table({"event_id": ["a", None, "b", "end"], "ts": seconds(0, 1, None, 100)})
    clicks = pa.table({"event_id": ["a", None, "b", "b", "end"], "ts": seconds(3, 4, None, 5, 100)})
    with closed_labels(shown, clicks, settings_of(), now=clock) as labels:
        assert {"a": 1} == rows_of(labels)
        counts = labels.counts
    assert (4, 1, 1, 1, 1) == (counts.impressions, counts.without_id, counts.without_time, counts.open, counts.closed)
    assert (5, 2, 1) == (counts.clicks, counts.clicks_without_id_or_time, counts.clicks_without_impression)
    assert (1, 1) == (counts.clicks_in_window, counts.clicks_open)


@pytest.mark.parametrize("large_rows", [0, 1_000_000])
@pytest.mark.parametrize("in_order", [True, False])
def test_clicks_in_and_out_of_a_window(large_rows: int, in_order: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory or in a file: it makes no difference to what is labelled."""
    monkeypatch.setattr("streamfm.labels.closing.LARGE_ROWS", large_rows)
    shown = log({"c": 22, "b": 21, "a": 20, "end": 100})
    times = {"a": [15, 25, 40], "b": [15, 40], "c": [31, 32, 40], "end": [100]}
    named = [(name, second) for name, seconds_ in times.items() for second in seconds_]
    clicks = pa.table({"event_id": [name for name, _ in named], "ts": seconds(*(second for _, second in named))})
    kinds = pa.array(["install", "click", "install", "install", "install", "click", "install", "install", "click"])
    settings = settings_of(click_kind="k", positives={"click": 1.0, "install": 3.0}, weight="w", negative_share=0.999)
    with closed_labels(shown, clicks.append_column("k", kinds), settings, in_order=in_order) as labels:
        table = pa.Table.from_batches(list(labels.source.batches(labels.source.sql)))
        counts = labels.counts
    found = list(zip(*(table[name].to_pylist() for name in ("event_id", "clicked", "w")), strict=True))
    expected = [("a", 1, 1.0), ("b", 0, 1.0), ("c", 1, 3.0)]
    assert expected == (found if in_order else sorted(found))
    assert (2, 3, 3, 2) == (counts.positives, counts.clicks_in_window, counts.clicks_late, counts.clicks_before)


def test_a_partition_of_the_clicks_that_stalls_is_named() -> None:
    shown = log({f"e{number}": number * 60 for number in range(240)})
    arrival = pa.scalar(dt.datetime(2026, 1, 1, tzinfo=dt.UTC), pa.timestamp("us", tz="UTC"))

    def partition(number: int, last: int) -> pa.Table:
        clicks = log({f"e{place}": place * 60 + 1 for place in range(number, last, 2)})
        own = {"_partition": pa.repeat(f"clicks/{number}", len(clicks)), "_offset": pa.array(range(len(clicks)))}
        for name, column in (own | {"_timestamp": pa.repeat(arrival, len(clicks))}).items():
            clicks = clicks.append_column(name, column)
        return clicks

    silent = pa.concat_tables([partition(0, 240), partition(1, 100)])
    with closed_labels(shown, silent, settings_of(stalled_s=3600.0)) as labels:
        assert labels.refusal is not None
        assert labels.refusal.reason == "stalled"
        assert "clicks/1" in labels.refusal.message
    # Files are finished: the last of a day is not late.
    with closed_labels(shown, silent.drop_columns(["_timestamp"]), settings_of(stalled_s=3600.0)) as labels:
        assert labels.refusal is None
