from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfm.data.scaling import numeric_statistics
from streamfm.data.sources import open_source
from streamfm.encoder.vocabulary import NumericStatistics
from streamfm.features import Feature


def statistics(values: Any, **settings: Any) -> NumericStatistics:
    feature = Feature(name="x", kind="numeric", **settings)
    with open_source(pa.table({"x": values})) as source:
        return numeric_statistics(source, {"x": '"x"'}, [feature])["x"]


@settings(max_examples=30)
@given(st.lists(st.floats(-1e6, 1e6).map(lambda x: round(x, 3)), min_size=2, max_size=50))
def test_standard_is_the_mean_and_population_deviation(values: list[float]) -> None:
    found = statistics(pa.array(values, pa.float64()))
    deviation = float(np.std(values))
    assert found.mean == pytest.approx(np.mean(values), abs=1e-6 * max(deviation, 1e-3))
    assert found.deviation == pytest.approx(deviation if deviation > 1e-6 else 1.0, rel=1e-6)


def test_log1p_keeps_the_sign() -> None:
    values = [-math.e + 1, 0.0, math.e - 1, math.e**3 - 1]
    found = statistics(values, transform="log1p")
    assert (found.mean, found.deviation) == pytest.approx((0.75, np.std([-1, 0, 1, 3])))


def test_missing_values_do_not_count() -> None:
    assert statistics([1.0, 3.0]) == statistics([1.0, None, math.nan, 3.0, math.inf, -math.inf])


@pytest.mark.parametrize(
    "values",
    [
        pa.array([1, 3]),
        pa.array([1, 3], pa.uint8()),
        pa.array([1.0, 3.0], pa.float32()),
        pa.array([1, 3]).cast(pa.decimal128(21, 2)),
    ],
)
def test_every_type_of_number_has_the_same_statistics(values: pa.Array) -> None:
    assert NumericStatistics(mean=2.0, deviation=1.0) == statistics(values)


def test_booleans_are_0_and_1() -> None:
    assert NumericStatistics(mean=0.5, deviation=0.5) == statistics([True, False])


@pytest.mark.parametrize("values", [[5.0] * 3, [5.0], [5.0, None], [0.1] * 7])
def test_a_constant_column_has_deviation_1(values: list[float]) -> None:
    assert NumericStatistics(mean=values[0], deviation=1.0) == statistics(values)


@pytest.mark.parametrize("transform", ["none", "standard", "log1p", "quantile"])
def test_a_column_without_values_is_left_as_it_is(transform: str) -> None:
    assert NumericStatistics() == statistics(pa.array([None, None], pa.float64()), transform=transform)


def test_none_leaves_numbers_as_they_are() -> None:
    assert NumericStatistics() == statistics([1.0, 2.0, 3.0], transform="none")


def test_huge_numbers_neither_overflow_nor_cancel() -> None:
    assert statistics([1e308, -1e308]).deviation == pytest.approx(1e308)
    assert statistics([5e-324, 1e-323]).deviation > 0
    found = statistics([1e15, 1e15 + 1, 1e15 + 2])
    assert (found.mean, found.deviation) == pytest.approx((1e15 + 1, math.sqrt(2 / 3)), rel=1e-8)


def test_statistics_do_not_depend_on_the_threads() -> None:
    numbers = np.random.default_rng(1).normal(3, 1e-3, 400_000)
    feature = Feature(name="x", kind="numeric")
    found = []
    for threads in (1, 2, 4):
        with open_source(pa.table({"x": numbers}), threads=threads) as source:
            found.append(numeric_statistics(source, {"x": '"x"'}, [feature])["x"])
    assert [found[0]] * 3 == found


@settings(max_examples=30)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=60), st.integers(2, 12))
def test_quantile_boundaries_are_the_values_at_which_each_share_is_reached(values: list[int], buckets: int) -> None:
    ordered = sorted(values)
    reached = {ordered[math.ceil(share * len(ordered) / buckets - 1e-9) - 1] for share in range(1, buckets)}
    expected = tuple(float(value) for value in sorted(reached - {ordered[0]}))
    assert expected == statistics(pa.array(values), transform="quantile", buckets=buckets).boundaries


def test_quantiles_count_rows_over_many_batches() -> None:
    found = statistics(np.random.default_rng(1).permutation(100_000).astype(float), transform="quantile", buckets=4)
    assert (24_999.0, 49_999.0, 74_999.0) == found.boundaries
