from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from streamfm.dropout import RandomByteDropout
from streamfm.encoder import Field, Layout
from streamfm.errors import SpecError
from streamfm.model import DeepFM, ModelSettings, pairwise_interactions


def layout(*lengths: int, rows: int = 50, weighted: bool = True) -> Layout:
    starts = np.cumsum([0, *lengths])
    fields = tuple(Field(name=f"f{i}", start=int(starts[i]), length=n) for i, n in enumerate(lengths))
    nulls = np.arange(len(lengths), dtype=np.int32)
    return Layout(
        fields=fields, slots=sum(lengths), rows=rows, weighted=weighted, null_rows=nulls, unknown_rows=nulls + 1
    )


def random_slots(rows: int, slots: int, columns: int, seed: int) -> Tensor:
    return torch.randn(rows, slots, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def model(made: Layout, *, seed: int = 1, **shape: object) -> DeepFM:
    """A model whose table is large enough for its terms to be seen."""
    made_model = DeepFM(made, ModelSettings(**shape), seed=seed).double()
    with torch.no_grad():
        made_model.table.copy_(torch.randn(made_model.table.shape, generator=torch.Generator().manual_seed(seed)))
        made_model.bias.fill_(0.7)
    return made_model


@given(st.integers(1, 4), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_pairwise_interactions_are_the_double_sum(rows: int, fields: int, factors: int, seed: int) -> None:
    vectors = random_slots(rows, fields, factors, seed)
    pairs = [(vectors[:, i] * vectors[:, j]).sum(dim=1) for i, j in combinations(range(fields), 2)]
    expected = torch.stack([*pairs, torch.zeros(rows, dtype=torch.float64)]).sum(dim=0)
    torch.testing.assert_close(pairwise_interactions(vectors), expected)


@given(st.lists(st.integers(1, 3), min_size=1, max_size=5), st.booleans(), st.integers(0, 2**31))
@settings(deadline=None, max_examples=60)
def test_the_logit_is_the_papers_formula(lengths: list[int], weighted: bool, seed: int) -> None:
    made = layout(*lengths, weighted=weighted)
    machine = model(made, seed=seed, factors=3, hidden=(4,), batch_norm=False).eval()
    random = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, made.rows, (5, made.slots), generator=random, dtype=torch.int32)
    weights = torch.randn(5, made.slots, generator=random, dtype=torch.float64) if weighted else None
    first, second = machine.deep[0], machine.deep[-1]
    for row, got in enumerate(machine(ids, weights)):
        vectors, linear = [], 0.0
        for field in made.fields:
            slots = range(field.start, field.start + field.length)
            x = {s: 1.0 if weights is None else weights[row, s] for s in slots}
            vectors.append(sum(x[s] * machine.table[ids[row, s], :3] for s in slots))
            linear += sum(x[s] * machine.table[ids[row, s], 3] for s in slots)
        pairs = sum((a @ b for a, b in combinations(vectors, 2)), torch.tensor(0.0))
        hidden = torch.relu(first.weight @ torch.cat(vectors) + first.bias)
        expected = 0.7 + linear + pairs + (second.weight @ hidden + second.bias).squeeze()
        torch.testing.assert_close(got, expected, check_dtype=False)


def test_a_field_does_not_interact_with_itself() -> None:
    machine = model(layout(2), factors=4, hidden=())
    ids, weights = torch.tensor([[7, 9]]), torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    expected = 0.7 + 0.5 * (machine.table[7, 4] + machine.table[9, 4])
    torch.testing.assert_close(machine(ids, weights)[0], expected)


def test_padding_slots_change_nothing_and_learn_nothing() -> None:
    machine = model(layout(1, 3), factors=4, hidden=(5,)).eval()
    ids = torch.tensor([[3, 4, 5, 6], [3, 4, 20, 21]])
    weights = torch.tensor([[1.0, 1.0, 0.0, 0.0]] * 2, dtype=torch.float64)
    logits = machine(ids, weights)
    assert logits[0] == logits[1]
    logits.sum().backward()
    assert [3, 4] == machine.table.grad.abs().sum(dim=1).nonzero().squeeze().tolist()


def test_without_hidden_layers_it_is_a_factorisation_machine() -> None:
    machine = model(layout(1, 1), factors=2, hidden=())
    expected = 0.7 + machine.table[3, 2] + machine.table[4, 2] + machine.table[3, :2] @ machine.table[4, :2]
    torch.testing.assert_close(machine(torch.tensor([[3, 4]]))[0], expected)
    assert machine.deep is None


def test_int32_and_int64_ids_are_the_same() -> None:
    machine = model(layout(1, 1)).eval()
    ids = torch.randint(0, 50, (8, 2))
    assert torch.equal(machine(ids), machine(ids.int()))


def test_a_rows_logit_does_not_depend_on_its_batch() -> None:
    machine = model(layout(1, 1, 1)).eval()
    ids = torch.randint(0, 50, (8, 3))
    torch.testing.assert_close(torch.cat([machine(ids[i : i + 1]) for i in range(8)]), machine(ids))


def test_it_starts_as_published() -> None:
    made = DeepFM(layout(*[1] * 10, rows=20_000), ModelSettings(factors=10))
    assert (20_000, 11) == tuple(made.table.shape)
    assert 1e-4 == pytest.approx(made.table.std().item(), rel=0.02)
    linears = [layer for layer in made.deep if isinstance(layer, nn.Linear)]
    assert [(400, 100), (400, 400), (400, 400), (1, 400)] == [tuple(layer.weight.shape) for layer in linears]
    for layer in linears[:3]:
        assert (2 / sum(layer.weight.shape)) ** 0.5 == pytest.approx(layer.weight.std().item(), rel=0.02)
    assert all(not layer.bias.any() for layer in linears)
    assert 0 == made.bias.item()


def test_the_layers_are_those_of_the_settings() -> None:
    plain = DeepFM(layout(1), ModelSettings(hidden=(3, 2), dropout=0, batch_norm=False))
    assert [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear] == [type(layer) for layer in plain.deep]
    full = DeepFM(layout(1), ModelSettings(hidden=(3,)))
    assert [nn.Linear, nn.BatchNorm1d, nn.ReLU, RandomByteDropout, nn.Linear] == [type(layer) for layer in full.deep]


def test_the_seed_decides_the_start() -> None:
    states = [DeepFM(layout(1, 1), ModelSettings(), seed=seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["table"], states[2]["table"])
    assert not torch.equal(states[0]["deep.0.weight"], states[2]["deep.0.weight"])


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    dropout = RandomByteDropout(0.2, np.random.Generator(np.random.SFC64(1)))
    units = torch.ones(1000, 401)
    dropped = dropout(units)
    assert 51 / 256 == pytest.approx((dropped == 0).float().mean().item(), abs=0.003)
    assert 1 == pytest.approx(dropped.mean().item(), abs=0.004)
    assert {0.0, float(np.float32(256 / 205))} == set(dropped.unique().tolist())
    assert torch.equal(units, dropout.eval()(units))


def test_dropout_passes_the_gradient_of_what_it_kept() -> None:
    units = torch.ones(50, 40, requires_grad=True)
    dropped = RandomByteDropout(0.5, np.random.Generator(np.random.SFC64(1)))(units)
    dropped.sum().backward()
    assert torch.equal(dropped, units.grad)


def test_seeded_dropout_repeats_itself() -> None:
    machine = model(layout(1, 1))
    ids = torch.randint(0, 50, (8, 2))
    logits = []
    for seed in (5, 5, 6):
        machine.seed_dropout(seed)
        logits.append(machine(ids))
    assert torch.equal(logits[0], logits[1])
    assert not torch.equal(logits[0], logits[2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"factors": 0}, "factors is 0, expected at least 1"),
        ({"hidden": (4, 0)}, r"hidden is \(4, 0\)"),
        ({"dropout": 1.0}, r"dropout is 1\.0, expected 0 <= dropout < 1"),
        ({"dropout": float("nan")}, "dropout is nan"),
    ],
)
def test_impossible_shapes_are_refused(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        ModelSettings(**wrong)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_dropout_keeps_the_units_type(kind: torch.dtype) -> None:
    dropped = RandomByteDropout(0.5, np.random.Generator(np.random.SFC64(1)))(torch.ones(7, 3, dtype=kind))
    assert (kind, {0.0, 2.0}) == (dropped.dtype, set(dropped.tolist()[0] + dropped.tolist()[1]))
