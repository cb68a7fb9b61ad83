"""How a chunk becomes batches: what replayed rows count, and how many rows a step has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.data.batches import Batch
from streamfm.finetuning import FineTuneSettings
from streamfm.finetuning.settings import LEAST_STEP_ROWS
from streamfm.finetuning.stepping import _parts, joined


def rows(count: int, weight: float | None = None) -> Batch:
    weights = None if weight is None else np.full(count, weight, np.float32)
    return Batch(np.arange(2 * count, dtype=np.int32).reshape(count, 2), None, np.zeros(count, np.float32), weights)


def test_replayed_rows_count_what_they_are_told_to() -> None:
    assert joined(rows(2), rows(3)).sample_weights is None
    assert joined(rows(2), None, 0.5).sample_weights is None
    np.testing.assert_array_equal([1, 1, 0.5, 0.5, 0.5], joined(rows(2), rows(3), 0.5).sample_weights)
    np.testing.assert_array_equal([1, 1, 2.0, 2.0, 2.0], joined(rows(2), rows(3, 4.0), 0.5).sample_weights)
    np.testing.assert_array_equal([3, 3, 0.5], joined(rows(2, 3.0), rows(1), 0.5).sample_weights)


@given(count=st.integers(1, 700), batch=st.integers(4, 128), least=st.integers(1, 9), passes=st.integers(1, 3))
def test_each_pass_has_all_rows_once_in_batches_of_nearly_one_size(
    count: int, batch: int, least: int, passes: int
) -> None:
    settings = FineTuneSettings(batch_size=batch, least_steps=least, passes=passes)
    parts = _parts(count, settings, np.random.default_rng(1))
    sizes = [len(part) for part in parts]
    steps = len(parts) // passes
    for number in range(passes):
        seen = np.concatenate(parts[number * steps : (number + 1) * steps])
        np.testing.assert_array_equal(np.arange(count), np.sort(seen))
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    if count >= least * LEAST_STEP_ROWS:
        assert steps >= least


@pytest.mark.parametrize(("count", "steps"), [(1_000, 16), (50, 4), (31, 3), (7, 1), (1, 1)])
def test_small_chunks_have_smaller_batches(count: int, steps: int) -> None:
    assert steps == len(_parts(count, FineTuneSettings(), np.random.default_rng(1)))
