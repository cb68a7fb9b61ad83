from __future__ import annotations

import itertools
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from streamfm.encoder import Encoded, Field, Layout
from streamfm.errors import BundleError
from streamfm.explanation import BATCH_ROWS, EXACT_FEATURES, Explanation, Parameters, explain
from streamfm.scoring import Scorer, load

GOLDEN = Path(__file__).resolve().parents[1] / "data" / "bundle_v1"
FACTORS = 3
BIAS = 0.25
VALUES = 4  # rows of each table: NULL, unknown, two values

Floats = NDArray[np.float64]
Deep = Callable[[Floats], Floats]


class Model:
    """A DeepFM written down as the paper has it: loops over slots, fields and pairs, and any function as deep part."""

    def __init__(self, lengths: tuple[int, ...], deep: Deep | None = None, *, weighted: bool = True) -> None:
        random = np.random.default_rng(7)
        starts = [0, *itertools.accumulate(lengths)]
        null_rows = np.arange(len(lengths), dtype=np.int32) * VALUES
        self.layout = Layout(
            fields=tuple(
                Field(name=f"f{number}", start=start, length=length)
                for number, (start, length) in enumerate(zip(starts, lengths, strict=False))
            ),
            slots=starts[-1],
            rows=len(lengths) * VALUES,
            weighted=weighted,
            null_rows=null_rows,
            unknown_rows=null_rows + 1,
        )
        table = random.normal(0, 0.5, (self.layout.rows, FACTORS + 1)).astype(np.float32)
        self.parameters = Parameters(table=table, bias=BIAS, has_deep_part=deep is not None)
        self.deep = deep

    def vectors(self, ids: NDArray[np.int32], weights: NDArray[np.float32]) -> Floats:
        """First-order term (last) and pooled factors of each field of one row, [F, K + 1]."""
        slots = weights[:, None].astype(np.float64) * self.parameters.table[ids]
        return np.array([slots[f.start : f.start + f.length].sum(axis=0) for f in self.layout.fields])

    def logits(self, rows: Encoded) -> NDArray[np.float32]:
        weights = np.ones(rows.ids.shape, np.float32) if rows.weights is None else rows.weights
        answers = []
        for ids, own in zip(rows.ids, weights, strict=True):
            fields = self.vectors(ids, own)
            pairs = np.triu(fields[:, :-1] @ fields[:, :-1].T, k=1).sum()
            deep = 0.0 if self.deep is None else float(self.deep(fields[:, :-1]))
            answers.append(BIAS + fields[:, -1].sum() + pairs + deep)
        return np.array(answers, np.float32)

    def explain(self, rows: Encoded) -> list[Explanation]:
        return explain(rows, self.layout, self.parameters, self.logits)

    def row(self, values: list[int]) -> Encoded:
        """An event of one value a field, as the number of its row in the field's table; 0 is NULL."""
        ids, weights = np.repeat(self.layout.null_rows, [f.length for f in self.layout.fields])[None], []
        for field, value in zip(self.layout.fields, values, strict=True):
            ids[0, field.start] += value
            weights += [1.0, *[0.0] * (field.length - 1)]
        return Encoded(ids, np.array([weights], np.float32) if self.layout.weighted else None)

    def deep_at(self, row: Encoded, kept: set[int]) -> float:
        """What the deep part answers when the fields that are not kept are NULL."""
        nulls = self.row([0] * len(self.layout.fields))
        ids, weights = nulls.ids[0].copy(), np.ones(self.layout.slots, np.float32)
        if row.weights is not None and nulls.weights is not None:
            weights = nulls.weights[0].copy()
        for number in kept:
            field = self.layout.fields[number]
            slots = slice(field.start, field.start + field.length)
            ids[slots] = row.ids[0, slots]
            if row.weights is not None:
                weights[slots] = row.weights[0, slots]
        assert self.deep is not None
        return float(self.deep(self.vectors(ids, weights)[:, :-1]))


def curved(factors: Floats) -> Floats:
    """A deep part in which everything meddles with everything."""
    return 2 * np.tanh(factors.sum()) + np.maximum(0, factors[0] - factors[-1]).sum() + np.prod(1 + factors[:, 0])


def additive(factors: Floats) -> Floats:
    return np.sin(3 * factors).sum()


def pairwise(factors: Floats) -> Floats:
    return np.square(factors.sum())


def rectified(factors: Floats) -> Floats:
    """Two layers of ReLUs with weights as they are in a trained network."""
    random, size = np.random.default_rng(3), factors.size
    hidden = np.maximum(
        0, factors.reshape(-1) @ random.normal(0, 1.5 * size**-0.5, (size, 32)) + random.normal(size=32)
    )
    return np.maximum(0, hidden @ random.normal(0, 0.3, (32, 16))) @ random.normal(0, 0.5, 16)


def shapley(fields: int, reached: Callable[[set[int]], float]) -> list[float]:
    """The Shapley value by its definition: the mean over all orders."""
    shares = np.zeros(fields)
    orders = list(itertools.permutations(range(fields)))
    for order in orders:
        for place, player in enumerate(order):
            shares[player] += reached({*order[: place + 1]}) - reached({*order[:place]})
    return (shares / len(orders)).tolist()


def members(number: int, fields: int) -> set[int]:
    """The fields whose bits are set."""
    return {f for f in range(fields) if number >> f & 1}


def deep_shares(explanation: Explanation) -> list[float]:
    return [contribution.deep for contribution in explanation.contributions]


def total(explanation: Explanation) -> float:
    return explanation.base + sum(contribution.total for contribution in explanation.contributions)


def rows_of(model: Model, count: int, seed: int = 0) -> Encoded:
    """Events of any values and weights."""
    random, layout = np.random.default_rng(seed), model.layout
    bases = np.repeat(layout.null_rows, [field.length for field in layout.fields])
    ids = (bases + random.integers(0, VALUES, (count, layout.slots))).astype(np.int32)
    return Encoded(ids, random.normal(1, 1, ids.shape).astype(np.float32) if layout.weighted else None)


@pytest.mark.parametrize("lengths", [(1,), (1, 1), (1, 3, 1, 2), (2,) * 9, (1,) * 12])
@pytest.mark.parametrize("deep", [None, curved, pairwise])
def test_base_and_contributions_add_up_to_the_logit(lengths: tuple[int, ...], deep: Deep | None) -> None:
    model = Model(lengths, deep)
    rows = rows_of(model, 5)
    explanations = model.explain(rows)
    assert model.logits(rows).tolist() == pytest.approx([e.logit for e in explanations], abs=1e-5)
    assert [e.logit for e in explanations] == pytest.approx([total(e) for e in explanations], abs=1e-4)


def test_first_order_and_pairs_are_what_the_formula_says() -> None:
    model = Model((1, 3, 1, 2), curved)
    rows = rows_of(model, 20)
    for explanation, ids, weights in zip(model.explain(rows), rows.ids, rows.weights, strict=True):
        fields = model.vectors(ids, weights)
        assert fields[:, -1].tolist() == pytest.approx([c.first_order for c in explanation.contributions])
        expected = [
            sum(0.5 * fields[f, :-1] @ fields[g, :-1] for g in range(len(fields)) if g != f) for f in range(len(fields))
        ]
        assert expected == pytest.approx([c.pairs for c in explanation.contributions])


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("fields", [1, 2, 3, 4, 5])
def test_deep_shares_of_few_features_are_the_shapley_value(fields: int, weighted: bool) -> None:
    model = Model((1,) * fields, curved, weighted=weighted)
    rows = rows_of(model, 8)
    for number, explanation in enumerate(model.explain(rows)):
        row = Encoded(rows.ids[[number]], None if rows.weights is None else rows.weights[[number]])
        expected = shapley(fields, lambda kept, row=row: model.deep_at(row, kept))
        assert expected == pytest.approx(deep_shares(explanation), abs=2e-5)
        assert BIAS + model.deep_at(row, set()) == pytest.approx(explanation.base, abs=1e-5)


def test_deep_shares_of_lists_are_the_shapley_value() -> None:
    model = Model((3, 1, 2), curved)
    row = rows_of(model, 1)
    expected = shapley(3, lambda kept: model.deep_at(row, kept))
    assert expected == pytest.approx(deep_shares(model.explain(row)[0]), abs=2e-5)


@pytest.mark.parametrize("fields", [EXACT_FEATURES + 1, EXACT_FEATURES + 20])
@pytest.mark.parametrize("deep", [additive, pairwise])
def test_sampled_shares_are_exact_where_features_meet_in_pairs_at_most(deep: Deep, fields: int) -> None:
    model = Model((1,) * fields, deep)
    row = model.row([1 + number % 3 for number in range(fields)])
    alone = [model.deep_at(row, {f}) - model.deep_at(row, set()) for f in range(fields)]
    expected = []
    for f in range(fields):
        with_others = [
            model.deep_at(row, {f, g}) - model.deep_at(row, {f}) - model.deep_at(row, {g}) + model.deep_at(row, set())
            for g in range(fields)
            if g != f
        ]
        expected.append(alone[f] + 0.5 * sum(with_others))
    assert expected == pytest.approx(deep_shares(model.explain(row)[0]), abs=2e-5)


def test_sampled_shares_are_near_the_shapley_value() -> None:
    fields = EXACT_FEATURES + 2
    model = Model((1,) * fields, rectified)
    row = model.row([1 + number % 3 for number in range(fields)])
    reached = [model.deep_at(row, members(number, fields)) for number in range(1 << fields)]
    chance = [1 / (fields * math.comb(fields - 1, size)) for size in range(fields)]
    expected = [
        sum(
            chance[number.bit_count()] * (reached[number | 1 << f] - reached[number])
            for number in range(1 << fields)
            if not number >> f & 1
        )
        for f in range(fields)
    ]
    found = deep_shares(model.explain(row)[0])
    assert 0.02 * np.abs(expected).max() > np.abs(np.subtract(expected, found)).max()


@pytest.mark.parametrize("fields", [4, EXACT_FEATURES, EXACT_FEATURES + 5])
def test_a_feature_that_is_null_has_no_deep_share(fields: int) -> None:
    model = Model((1, 2) * (fields // 2) + (1,) * (fields % 2), curved)
    explanation = model.explain(model.row([number % 2 for number in range(fields)]))[0]
    assert [0.0] * ((fields + 1) // 2) == deep_shares(explanation)[::2]
    assert 0 < min(map(abs, deep_shares(explanation)[1::2]))


def test_an_event_of_nulls_is_all_base_but_for_what_null_itself_weighs() -> None:
    model = Model((1, 2, 1), curved)
    row = model.row([0, 0, 0])
    explanation = model.explain(row)[0]
    assert [0.0, 0.0, 0.0] == deep_shares(explanation)
    assert BIAS + model.deep_at(row, {0, 1, 2}) == pytest.approx(explanation.base, abs=1e-5)


def test_an_empty_list_is_not_null() -> None:
    model = Model((1, 2), curved)
    row = model.row([2, 0])
    assert row.weights is not None
    row.weights[0, 1] = 0.0
    assert abs(deep_shares(model.explain(row)[0])[1]) > 1e-3


@pytest.mark.parametrize("fields", [3, EXACT_FEATURES])
def test_features_that_do_the_same_have_the_same_shares(fields: int) -> None:
    model = Model((1,) * fields, lambda factors: np.tanh(factors.sum()) * 3)
    model.parameters.table[:] = np.tile(model.parameters.table[:VALUES], (fields, 1))
    explanation = model.explain(model.row([2] * fields))[0]
    first, *others = explanation.contributions
    for other in others:
        assert [first.first_order, first.pairs, first.deep] == pytest.approx(
            [other.first_order, other.pairs, other.deep], abs=1e-5
        )


@pytest.mark.parametrize("lengths", [(1, 2, 1), (1,) * (EXACT_FEATURES + 3)])
def test_a_row_is_explained_the_same_alone_among_others_and_again(lengths: tuple[int, ...]) -> None:
    model = Model(lengths, curved)
    rows = rows_of(model, 12)
    together = model.explain(rows)
    assert together == model.explain(rows)
    for number, explanation in enumerate(together):
        assert rows.weights is not None
        alone = model.explain(Encoded(rows.ids[[number]], rows.weights[[number]]))[0]
        assert deep_shares(explanation) == pytest.approx(deep_shares(alone), abs=1e-6)
        assert explanation.logit == pytest.approx(alone.logit, abs=1e-6)


@pytest.mark.parametrize("fields", [EXACT_FEATURES, EXACT_FEATURES + 1, 70])
def test_a_row_costs_at_most_one_batch_of_the_network(fields: int) -> None:
    model, asked = Model((1,) * fields, additive), []

    def logits(rows: Encoded) -> NDArray[np.float32]:
        asked.append(len(rows.ids))
        return np.zeros(len(rows.ids), np.float32)

    explain(model.row([2] * fields), model.layout, model.parameters, logits)
    assert [1] == [len(asked)]
    assert BATCH_ROWS >= asked[0]


def test_without_a_deep_part_deep_shares_are_exactly_zero() -> None:
    model = Model((1, 2, 1))
    for explanation in model.explain(rows_of(model, 5)):
        assert [0.0] * 3 == deep_shares(explanation)
        assert BIAS == explanation.base


@pytest.mark.parametrize("deep", [None, curved])
def test_no_rows_have_no_explanations(deep: Deep | None) -> None:
    model = Model((1, 2), deep)
    assert [] == model.explain(rows_of(model, 0))


@given(st.lists(st.lists(st.integers(0, VALUES - 1), min_size=4, max_size=4), min_size=1, max_size=12))
def test_contributions_add_up_for_any_values(events: list[list[int]]) -> None:
    model = Model((1, 2, 1, 1), curved)
    rows = [model.row(event) for event in events]
    encoded = Encoded(np.concatenate([r.ids for r in rows]), np.concatenate([r.weights for r in rows]))
    for explanation, event in zip(model.explain(encoded), events, strict=True):
        assert explanation.logit == pytest.approx(total(explanation), abs=1e-4)
        assert [not value for value in event] == [share == 0 for share in deep_shares(explanation)]


@pytest.fixture(scope="module", params=["fp32", "int8"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    return load(GOLDEN, precision=request.param)


EVENTS = [
    {"user_id": "user-00013", "app_id": "music-002", "genres": ["cards", "war"], "position": 3, "price": 2.99},
    {"installed_categories": ["music", "fitness", None], "category": "music", "rating": 3.2, "price": 1.0, "ts": 0},
    {"user_id": None},
]


def test_a_bundle_explains_what_its_own_network_answers(scorer: Scorer) -> None:
    explanations = scorer.explain(EVENTS)
    assert scorer.logit(EVENTS).tolist() == pytest.approx([total(e) for e in explanations], abs=1e-4)
    assert scorer.logit(EVENTS).tolist() == pytest.approx([e.logit for e in explanations], abs=1e-5)
    names = tuple(feature.name for feature in scorer.spec.features)
    assert [names] * 3 == [tuple(c.feature for c in e.contributions) for e in explanations]


def test_features_that_sql_derives_are_explained(scorer: Scorer) -> None:
    by_name = {c.feature: c for c in scorer.explain({"ts": 0, "price": 4.0, "rating": 2.0}).contributions}
    assert scorer.encoder.layout.null_rows.size == len(by_name)
    assert all(by_name[name].deep != 0 for name in ("hour", "is_weekend", "price_per_star", "price", "rating"))
    assert by_name["app_id"].deep == 0


def test_one_dict_has_one_explanation(scorer: Scorer) -> None:
    one = scorer.explain(EVENTS[0])
    assert one.logit == pytest.approx(scorer.explain(EVENTS)[0].logit, abs=1e-6)
    assert scorer.explain(EVENTS[:1]) == [one]


def test_parameters_are_mapped_and_cannot_be_changed() -> None:
    parameters = Parameters.load(GOLDEN)
    assert (False, False) == (parameters.table.flags.owndata, parameters.table.flags.writeable)
    expected = load_file(GOLDEN / "weights.safetensors")
    np.testing.assert_array_equal(expected["table"], parameters.table)
    np.testing.assert_array_equal(expected["table"][:, :-1], parameters.factors)
    assert (expected["bias"].item(), True) == (parameters.bias, parameters.has_deep_part)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"table": np.zeros((3, 4), np.float32)}, r"table \(3, 4\)"),
        ({"table": np.zeros((185, 4), np.float64)}, "F64, expected F32"),
        ({"bias": np.zeros((2, 2), np.float32)}, r"bias \(2, 2\)"),
        ({"bias": None}, "'bias'"),
    ],
)
def test_weights_that_are_not_the_manifests_are_refused(change: dict, found: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "bundle"))
    tensors = {name: t for name, t in (load_file(GOLDEN / "weights.safetensors") | change).items() if t is not None}
    save_file(tensors, folder / "weights.safetensors")
    with pytest.raises(BundleError, match=rf"bundle: weights\.safetensors: .*{found}"):
        Parameters.load(folder)


def test_weights_that_are_gone_are_named(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(GOLDEN, tmp_path / "bundle"))
    (folder / "weights.safetensors").unlink()
    with pytest.raises(BundleError, match=r"weights\.safetensors: cannot be read"):
        Parameters.load(folder)
