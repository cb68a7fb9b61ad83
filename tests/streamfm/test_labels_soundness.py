"""Labelled rows of a log with values that no model can learn from."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pytest

from streamfm.data.labelled_rows import LabelledRows
from streamfm.data.sources import Source
from streamfm.errors import DataError
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.labels import Labels, LabelSettings, Position, closed_labels

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
SPEC = FeatureSpec(
    inputs=(Input(name="app", type="VARCHAR"), Input(name="price", type="DOUBLE"), Input(name="code", type="VARCHAR")),
    features=(
        Feature(name="app", kind="categorical"),
        Feature(name="price", kind="numeric"),
        Feature(name="number", kind="numeric", sql="CAST(code AS INTEGER)"),
        Feature(name="twice", kind="categorical", sql="CAST(code AS INTEGER) + CAST(code AS INTEGER)"),
    ),
    label="clicked",
    weight="w",
    event_time="ts",
    event_id="event_id",
)
ROWS = 500
SETTINGS = LabelSettings(window_s=10, ctr_bounds=(0.0, math.inf), stalled_s=1e6)


def instants(seconds: list[float]) -> pa.Array:
    return pa.array([START + dt.timedelta(seconds=second) for second in seconds], pa.timestamp("us", "UTC"))


def shown(**changes: Mapping[int, Any]) -> pa.Table:
    """An impression a second, with some values changed; every fifth is clicked."""
    columns: dict[str, list[Any]] = {"app": ["x", "y"] * (ROWS // 2), "price": [1.5] * ROWS, "code": ["7", None] * 250}
    columns["w"] = [1.0] * ROWS
    for name, values in changes.items():
        for row, value in values.items():
            columns[name][row] = value
    end = pa.table({"event_id": ["end"], "ts": instants([ROWS + 20.0])})
    rows = pa.table({"event_id": [f"e{row}" for row in range(ROWS)], "ts": instants(list(range(ROWS))), **columns})
    return pa.concat_tables([rows, end], promote_options="default")


NAMES = [f"e{row}" for row in range(0, ROWS, 5)]
CLICKS = pa.table({"event_id": [*NAMES, "end"], "ts": instants([*(row + 1.0 for row in range(0, ROWS, 5)), ROWS + 20])})


def ids(source: Source) -> set[str]:
    return {row["event_id"] for batch in source.batches(source.sql) for row in batch.to_pylist()}


def told(labels: Labels) -> list[str]:
    return [str(one) for one in labels.left_out]


def test_rows_that_break_a_rule_are_left_out_and_told_by_the_rule() -> None:
    table = shown(price={3: math.inf, 4: -math.inf}, app={9: "z" * (1 << 20) + "z"}, code={20: "x7"}, w={30: None})
    with closed_labels(table, CLICKS, SETTINGS) as labels:
        with pytest.raises(DataError, match="Could not convert string"):
            LabelledRows(labels.source, SPEC)
        sound = labels.sound(SPEC)
        assert sound.refusal is None
        assert [
            "1 row left out: weight 'w' is None, expected a finite number of at least 0, as in event 'e30'",
            "1 row left out: feature 'app': column 'app' holds 1,048,577 bytes of text, more than 1,048,576, "
            "as in event 'e9'",
            "2 rows left out: feature 'price': column 'price' is inf, as in event 'e3'",
            "1 row left out: feature 'number': sql = 'CAST(code AS INTEGER)' fails, as in event 'e20'",
            "1 row left out: feature 'twice': sql = 'CAST(code AS INTEGER) + CAST(code AS INTEGER)' fails, "
            "as in event 'e20'",
        ] == told(sound)
        assert ids(labels.source) - {"e3", "e4", "e9", "e20", "e30"} == ids(sound.source)
        assert ROWS - 5 == sum(batch.rows for batch in LabelledRows(sound.source, SPEC).batches())
        assert labels.position == sound.position


def test_sound_rows_stay_as_they_are() -> None:
    with closed_labels(shown(), CLICKS, SETTINGS) as labels:
        sound = labels.sound(SPEC)
        assert [] == told(sound)
        assert labels.source.sql == sound.source.sql


@pytest.mark.parametrize(("wrong", "is_refused"), [(1, False), (5, False), (10, False), (14, True), (ROWS, True)])
def test_more_than_a_hundredth_is_refused_on_evidence(wrong: int, is_refused: bool) -> None:
    with closed_labels(shown(price=dict.fromkeys(range(wrong), math.inf)), CLICKS, SETTINGS) as labels:
        sound = labels.sound(SPEC)
    assert is_refused == (sound.refusal is not None)
    if sound.refusal is not None:
        assert "unsound_values" == sound.refusal.reason
        assert f"{wrong} of 500 labelled rows cannot be learnt from" in sound.refusal.message
        assert "as in event 'e0'" in sound.refusal.message
        assert Position(closed_until=dt.datetime(1970, 1, 1, tzinfo=dt.UTC)) == sound.position


def test_replayed_rows_are_sound_too() -> None:
    since = Position(closed_until=START + dt.timedelta(seconds=300))
    with closed_labels(shown(price={3: math.inf, 400: math.nan}), CLICKS, SETTINGS, since=since) as labels:
        sound = labels.sound(SPEC)
        assert [] == told(sound)
        assert {f"e{row}" for row in range(300) if row != 3} == ids(sound.history(1_000))


def test_a_column_that_is_no_number_is_refused_as_ever() -> None:
    table = shown()
    table = table.set_column(table.column_names.index("price"), "price", pa.array([b"x"] * (ROWS + 1)))
    with (
        closed_labels(table, CLICKS, SETTINGS) as labels,
        pytest.raises(DataError, match="'price' holds BLOB"),
    ):
        labels.sound(SPEC)
