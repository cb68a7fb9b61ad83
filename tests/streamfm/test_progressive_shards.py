"""Where a log is cut, and which labels are known: the arithmetic on which every honest prediction rests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.errors import DataError, SpecError
from streamfm.progressive import ProgressiveSettings
from streamfm.progressive.shards import Shard, cut

SECOND = 1_000_000


@st.composite
def logs(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], int]:
    """Times in seconds, ascending, with ties; and the first row to predict."""
    gaps = draw(st.lists(st.sampled_from([0, 0, 1, 2, 7, 60]), min_size=3, max_size=60))
    times = np.cumsum(np.array(gaps, np.int64)) * SECOND + draw(st.integers(-(10**12), 10**15))
    return times, draw(st.integers(1, len(times) - 1))


@given(log=logs(), shards=st.integers(1, 12), delay=st.sampled_from([0.0, 0.5, 1.0, 30.0]), later=st.integers(0, 4))
def test_no_label_is_known_before_it_came(log: Any, shards: int, delay: float, later: int) -> None:
    times, first = log
    shards = min(shards, len(times) - first)
    found = cut(times, first, ProgressiveSettings(shards=shards, delay_s=delay, delay_shards=later))
    assert shards == len(found)
    for number, shard in enumerate(found):
        assert 0 <= shard.known <= shard.start
        assert (times[: shard.known] + delay * SECOND <= times[shard.start]).all()
        assert shard.known <= found[max(0, number - later)].start
        if not delay and not later:
            assert shard.known == shard.start


@given(log=logs(), interval=st.sampled_from([1.0, 5.0, 3600.0]), delay=st.sampled_from([0.0, 3.0]))
def test_shards_are_all_rows_in_their_order_and_those_of_an_interval_share_it(
    log: Any, interval: float, delay: float
) -> None:
    times, first = log
    found = cut(times, first, ProgressiveSettings(shards=None, interval_s=interval, delay_s=delay))
    assert list(range(first, len(times))) == [row for shard in found for row in range(shard.start, shard.end)]
    numbers = [set(times[shard.start : shard.end] // round(interval * SECOND)) for shard in found]
    assert all(1 == len(number) for number in numbers)
    assert len(found) == len(set.union(*numbers))
    known = [shard.known for shard in found]
    assert known == sorted(known)


def test_shards_of_as_many_rows() -> None:
    found = cut(np.arange(10) * SECOND, 4, ProgressiveSettings(shards=3, delay_s=2))
    assert [Shard(4, 6, 3), Shard(6, 8, 5), Shard(8, 10, 7)] == found


def test_more_shards_than_rows_are_refused() -> None:
    with pytest.raises(DataError, match="2 rows after the warm start, expected at least one for each of 3 shards"):
        cut(np.arange(4), 2, ProgressiveSettings(shards=3))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"modes": ()}, "modes are none"),
        ({"modes": ("frozen", "frozen")}, "modes are frozen, frozen"),
        ({"modes": ("thawed",)}, "modes are thawed"),
        ({"warm_start": 1.0}, "warm_start is 1.0"),
        ({"interval_s": 5.0}, "shards 100 and interval_s 5.0"),
        ({"shards": None}, "shards None and interval_s None"),
        ({"shards": None, "interval_s": 0.0}, "interval_s is 0.0"),
        ({"shards": 0}, "shards is 0"),
        ({"delay_s": -1.0}, "delay_s is -1.0"),
        ({"delay_s": float("nan")}, "delay_s is nan"),
        ({"full_every": 0}, "full_every is 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        ProgressiveSettings(**wrong)
