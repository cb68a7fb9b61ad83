import numpy as np
import pytest
import torch

from streamfm.training.table_optimiser import AverageDecay, TableOptimiser, YoungRows

ROWS, COLUMNS = 40, 5


def table(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(ROWS, COLUMNS)).astype(np.float32)


def steps(count: int, slots: int = 12, rows: int = ROWS, seed: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(seed)
    return [
        (random.integers(0, rows, slots).astype(np.int32), random.normal(size=(slots, COLUMNS)).astype(np.float32))
        for _ in range(count)
    ]


def run(optimiser: TableOptimiser, batches: list[tuple[np.ndarray, np.ndarray]], rate: float = 0.01) -> list[float]:
    squares = []
    for step, (ids, gradients) in enumerate(batches, start=1):
        squares.append(optimiser.accumulate(ids, gradients, step))
        optimiser.apply(rate, 0.5, step)
    return squares


def test_the_dense_update_is_torchs_adam_with_the_penalty_over_the_whole_table() -> None:
    ours = table()
    optimiser = TableOptimiser(ours, None, lazy=False, penalties=(0.3, 0.1), decay=0.99)
    theirs = torch.nn.Parameter(torch.from_numpy(table()))
    adam = torch.optim.Adam([theirs], lr=0.01)
    batches = steps(20)
    squares = run(optimiser, batches)
    for (ids, gradients), got in zip(batches, squares, strict=True):
        adam.zero_grad()
        loss = (theirs[torch.from_numpy(ids).long()] * torch.from_numpy(gradients)).sum()
        loss = loss + 0.3 / 2 * theirs[:, :-1].square().sum() + 0.1 / 2 * theirs[:, -1].square().sum()
        loss.backward()
        assert theirs.grad.square().sum().item() == pytest.approx(got, rel=1e-5)
        theirs.grad *= 0.5
        adam.step()
    np.testing.assert_allclose(theirs.detach().numpy(), ours, atol=1e-6)
    np.testing.assert_allclose(adam.state[theirs]["exp_avg"].numpy(), optimiser.moment1, atol=1e-6)
    np.testing.assert_allclose(adam.state[theirs]["exp_avg_sq"].numpy(), optimiser.moment2, atol=1e-6)


def test_lazy_and_dense_agree_where_every_row_is_seen_at_every_step() -> None:
    batches = [(np.arange(ROWS, dtype=np.int32), gradients) for _, gradients in steps(10, slots=ROWS)]
    results = []
    for lazy in (False, True):
        weights, average = table(), table()
        optimiser = TableOptimiser(weights, average, lazy=lazy, penalties=(0.3, 0.1), decay=0.9)
        squares = run(optimiser, batches)
        optimiser.settle(10)
        results.append([np.array(squares), weights, average, optimiser.moment1, optimiser.moment2])
    for dense, lazy in zip(*results, strict=True):
        np.testing.assert_allclose(dense, lazy, rtol=1e-5, atol=1e-6)


def test_a_lazy_update_leaves_rows_alone_that_the_batch_does_not_name() -> None:
    weights, average = table(), table()
    optimiser = TableOptimiser(weights, average, lazy=True, penalties=(0.3, 0.3), decay=0.9)
    run(optimiser, steps(10, rows=7))
    assert np.array_equal(table()[7:], weights[7:])
    assert not optimiser.moment1[7:].any()
    assert not np.isclose(table()[:7], weights[:7]).any()


@pytest.mark.parametrize("lazy", [False, True])
def test_the_average_is_that_of_every_step(lazy: bool) -> None:
    weights, average = table(), table()
    optimiser = TableOptimiser(weights, average, lazy=lazy, penalties=(0.0, 0.0), decay=0.9)
    expected = table()
    for step, (ids, gradients) in enumerate(steps(60, slots=2), start=1):
        optimiser.accumulate(ids, gradients, step)
        optimiser.apply(0.1, 1.0, step)
        decay = min(0.9, (step + 1) / (step + 10))
        expected = decay * expected + (1 - decay) * weights
        if step in (17, 18, 40):
            optimiser.settle(step)
            np.testing.assert_allclose(expected, average, atol=1e-5)
    optimiser.settle(60)
    np.testing.assert_allclose(expected, average, atol=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_are_counted_and_dated(lazy: bool) -> None:
    optimiser = TableOptimiser(table(), None, lazy=lazy, penalties=(0.0, 0.0), decay=0.9)
    gradients = np.zeros((3, COLUMNS), np.float32)
    optimiser.accumulate(np.array([4, 4, 2], np.int32), gradients, 1)
    optimiser.accumulate(np.array([4, 1, 0], np.int32), gradients, 2)
    assert [1, 1, 1, 0, 3] == optimiser.counts[:5].tolist()
    assert [2, 2, 1, 0, 2] == optimiser.last_seen[:5].tolist()


def test_the_lazy_buffers_grow_with_the_batch() -> None:
    weights = table()
    optimiser = TableOptimiser(weights, None, lazy=True, penalties=(0.0, 0.0), decay=0.9)
    run(optimiser, [*steps(1, slots=2), *steps(1, slots=200)])
    assert (weights != table()).all()


def test_the_decay_ramps_up_and_its_logarithms_add_up() -> None:
    decay = AverageDecay(0.99)
    assert 2 / 11 == decay.at(1)
    assert 0.99 == decay.at(100_000)
    expected = sum(np.log(decay.at(t)) for t in range(1, 1001))
    assert expected == pytest.approx(decay.logarithms(1000)[1000])
    assert 0 == decay.logarithms(5)[0]


@pytest.mark.parametrize("asked", [[5, 17, 300], [300], [1, 2, 3, 250, 300]])
def test_the_sums_of_the_decay_do_not_depend_on_when_they_were_asked_for(asked: list[int]) -> None:
    once, often = AverageDecay(0.99), AverageDecay(0.99)
    for step in asked:
        often.logarithms(step)
    assert once.logarithms(300)[:301].tobytes() == often.logarithms(300)[:301].tobytes()


def test_young_rows_learn_at_a_rate_of_their_own() -> None:
    weights = {rate: table() for rate in (1.0, 3.0)}
    for rate, array in weights.items():
        optimiser = TableOptimiser(array, None, lazy=True, penalties=(0.0, 0.0), decay=0.9)
        optimiser.young = YoungRows(until=2, rate=rate)
        optimiser.counts[3] = 5
        optimiser.accumulate(np.array([3, 4, 5, 5, 5], np.int32), np.ones((5, COLUMNS), np.float32), 1)
        optimiser.apply(0.1, 1.0, 1)
    moved = {rate: array - table() for rate, array in weights.items()}
    np.testing.assert_array_equal(moved[1.0][[3, 5]], moved[3.0][[3, 5]])
    np.testing.assert_allclose(3 * moved[1.0][4], moved[3.0][4], rtol=1e-5)


@pytest.mark.parametrize("lazy", [False, True])
def test_rows_laid_out_anew_go_on_as_they_would_have(lazy: bool) -> None:
    """Rows are turned round, two of them left out, and two begin as copies of another."""
    random = np.random.default_rng(5)
    weights = random.normal(size=(12, COLUMNS)).astype(np.float32)
    one, other = (
        TableOptimiser(weights.copy(), weights.copy(), lazy=lazy, penalties=(0.01, 0.02), decay=0.9) for _ in range(2)
    )
    run(one, steps(30, rows=12))
    run(other, steps(30, rows=12))
    kept = np.array([11, 10, 9, 8, 7, 6, 5, 3, 2, 1])
    sources = np.concatenate([kept, [1, 1]])
    fresh = np.arange(12) >= 10
    assert other.average is not None
    other.relay(other.table[sources], other.average[sources], sources, fresh)
    assert not other.moment1[fresh].any()
    assert not other.moment2[fresh].any()
    assert [0, 0] == other.counts[fresh].tolist() == other.last_seen[fresh].tolist()
    places = np.zeros(12, np.int32)
    places[kept] = np.arange(10)
    for step in range(31, 60):
        ids = random.choice(kept, 6).astype(np.int32)
        gradients = random.normal(size=(6, COLUMNS)).astype(np.float32)
        for optimiser, named in ((one, ids), (other, places[ids])):
            optimiser.accumulate(named, gradients, step)
            optimiser.apply(0.05, 1.0, step)
    for optimiser in (one, other):
        optimiser.settle(59)
    for name in ("table", "average", "moment1", "moment2", "counts", "last_seen"):
        assert getattr(one, name)[kept].tobytes() == getattr(other, name)[:10].tobytes(), name
