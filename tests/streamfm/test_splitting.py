from __future__ import annotations

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfm.data.sources import open_source
from streamfm.data.splitting import split
from streamfm.errors import DataError
from streamfm.features import Feature, FeatureSpec, Input

SPEC = FeatureSpec(
    inputs=(Input(name="x", type="BIGINT"),), features=(Feature(name="x", kind="categorical"),), label="y"
)
TIMED = FeatureSpec(inputs=SPEC.inputs, features=SPEC.features, label="y", event_time="at")


def parts(table: pa.Table, spec: FeatureSpec, fraction: float, seed: int = 0) -> tuple[list[int], list[int]]:
    with open_source(table) as source:
        train, valid = split(source, spec, valid_fraction=fraction, seed=seed)
        # Only x: fetching a TIMESTAMPTZ would need pytz.
        rows = [[x for (x,) in part.execute(f"SELECT x FROM ({part.sql})")] for part in (train, valid)]
        return rows[0], rows[1]


@settings(max_examples=30)
@given(st.integers(200, 2000), st.floats(0.1, 0.9), st.integers(0, 2**63 - 1))
def test_every_row_is_in_one_part_in_its_order(rows: int, fraction: float, seed: int) -> None:
    train, valid = parts(pa.table({"x": range(rows), "y": [0] * rows}), SPEC, fraction, seed)
    assert list(range(rows)) == sorted(train + valid)
    assert (train, valid) == (sorted(train), sorted(valid))
    assert abs(len(valid) / rows - fraction) < 5 * np.sqrt(fraction * (1 - fraction) / rows)


def test_the_same_seed_draws_the_same_rows_and_another_seed_others() -> None:
    table = pa.table({"x": range(1000), "y": [0] * 1000})
    assert parts(table, SPEC, 0.2, 7) == parts(table, SPEC, 0.2, 7)
    common = set(parts(table, SPEC, 0.2, 7)[1]) & set(parts(table, SPEC, 0.2, 8)[1])
    assert len(common) < 80


def test_drawn_rows_are_spread_evenly_and_do_not_follow_one_another() -> None:
    drawn = np.zeros(200_000)
    drawn[parts(pa.table({"x": range(200_000)}), SPEC, 0.1, 3)[1]] = 1
    for lag in (1, 2, 7, 10, 24, 34, 55, 100, 1000):
        assert abs(np.corrcoef(drawn[:-lag], drawn[lag:])[0, 1]) < 0.012
    shares = drawn.reshape(100, -1).mean(axis=1)
    assert (np.abs(shares - 0.1) < 0.04).all()


@pytest.mark.parametrize(
    "kind", [pa.timestamp("us"), pa.timestamp("ns"), pa.timestamp("ms", tz="Asia/Tokyo"), pa.date32()]
)
def test_the_latest_rows_validate_where_there_is_an_event_time(kind: pa.DataType) -> None:
    days = np.random.default_rng(1).permutation(100)
    times = [dt.datetime(2024, 1, 1) + dt.timedelta(days=int(day)) for day in days]
    table = pa.table({"x": days, "at": pa.array(times, pa.timestamp("us")).cast(kind)})
    train, valid = parts(table, TIMED, 0.25)
    assert (set(range(75)), set(range(75, 100))) == (set(train), set(valid))


def test_rows_of_one_instant_stay_together_and_rows_without_one_train() -> None:
    day = dt.datetime(2024, 1, 1)
    table = pa.table({"x": range(6), "at": [None, day, day + dt.timedelta(1), *[day + dt.timedelta(2)] * 3]})
    assert ([0, 1, 2], [3, 4, 5]) == parts(table, TIMED, 0.2)


@pytest.mark.parametrize(
    ("table", "spec", "fraction", "message"),
    [
        (pa.table({"x": [1, 2]}), SPEC, 0.0, "valid_fraction is 0.0, expected more than 0 and less than 1"),
        (pa.table({"x": [1, 2]}), SPEC, 1e-9, r"the Table \(valid\): no rows when 1e-09 of 2 validate"),
        (pa.table({"x": [1, 2], "at": [dt.datetime(2024, 1, 1)] * 2}), TIMED, 0.5, r"the Table \(train\): no rows"),
        (pa.table({"x": [1], "at": pa.array([None], pa.timestamp("us"))}), TIMED, 0.5, "'at' is NULL in every row"),
    ],
)
def test_a_split_that_leaves_a_part_empty_is_refused(
    table: pa.Table, spec: FeatureSpec, fraction: float, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        parts(table, spec, fraction)
