"""Explanations: what each feature of an event adds to its logit.

The three parts of a DeepFM are taken apart by the Shapley value, each against the baseline that suits it:

- first order: w_f x_f is the feature's alone;
- pair terms: <v_f, v_g> is shared equally by f and g, which is its Shapley value against leaving the feature out;
- deep part: the mean, over fixed random orders and their reverses, of what the network's answer changes by when the
  feature's value takes the place of NULL (Castro, Gómez and Tejada 2009, sampling of the Shapley value). The
  differences along one order add up to the whole, so their means do too.

So ``base + Σ contributions = logit``, where base is w0 and the deep part's answer for an event of NULLs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open

from streamfm.encoder import Encoded, Layout

ORDERS = 32
"""Orders sampled for the deep part: half of them drawn, the others their reverses."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """What one feature adds to the logit: the sum of three shares."""

    feature: str
    first_order: float
    pairs: float
    deep: float

    @property
    def total(self) -> float:
        """All three together."""
        return self.first_order + self.pairs + self.deep


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """A logit taken apart.

    Attributes:
        logit: What the model answered.
        base: What it would have answered without features: w0, and the deep part for an event of NULLs.
        contributions: One for each feature, in the order of the specification.
    """

    logit: float
    base: float
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameters:
    """The part of a model that explanations and embeddings read.

    Attributes:
        table: float32 [rows, K + 1], factors and first-order weight.
        bias: w0.
    """

    table: NDArray[np.float32]
    bias: float

    @classmethod
    def load(cls, bundle: Path) -> Parameters:
        """Those of a bundle that `open_bundle` has verified."""
        with safe_open(bundle / "weights.safetensors", framework="numpy") as tensors:
            return cls(table=tensors.get_tensor("table"), bias=float(tensors.get_tensor("bias")[0]))

    @property
    def factors(self) -> NDArray[np.float32]:
        """float32 [rows, K]."""
        return self.table[:, :-1]


def explain(
    encoded: Encoded, layout: Layout, parameters: Parameters, logits: Callable[[Encoded], NDArray[np.float32]]
) -> Explanation:
    """The explanation of one event.

    Args:
        encoded: Its ids and weights [1, S].
        layout: Where the fields lie.
        parameters: Table and bias.
        logits: Asks the served network for the logits [B] of encoded rows.
    """
    ids = encoded.ids[0]
    weights = np.ones(layout.slots, np.float32) if encoded.weights is None else encoded.weights[0]
    first_order, factors = _field_vectors(parameters.table, layout, ids[None], weights[None])
    pairs = 0.5 * (factors[0] @ factors[0].sum(axis=0) - np.square(factors[0]).sum(axis=1))
    deep, base = _deep_shares(ids, weights, layout, parameters, logits, weighted=encoded.weights is not None)
    return Explanation(
        logit=float(logits(encoded)[0]),
        base=parameters.bias + base,
        contributions=tuple(
            Contribution(feature=f.name, first_order=float(w), pairs=float(p), deep=float(d))
            for f, w, p, d in zip(layout.fields, first_order[0], pairs, deep, strict=True)
        ),
    )


def _field_vectors(
    table: NDArray[np.float32], layout: Layout, ids: NDArray[np.int32], weights: NDArray[np.float32]
) -> tuple[Floats, Floats]:
    """First-order terms [B, F] and pooled factors [B, F, K]."""
    slots = table[ids].astype(np.float64) * weights[:, :, None]
    fields = np.add.reduceat(slots, [f.start for f in layout.fields], axis=1)
    return fields[:, :, -1], fields[:, :, :-1]


def _deep_shares(
    ids: NDArray[np.int32],
    weights: NDArray[np.float32],
    layout: Layout,
    parameters: Parameters,
    logits: Callable[[Encoded], NDArray[np.float32]],
    *,
    weighted: bool,
) -> tuple[Floats, float]:
    """Each field's share of the deep part [F], and the deep part's answer for NULLs."""
    fields = len(layout.fields)
    orders = _orders(fields)
    present = np.zeros((len(orders), fields + 1, fields), bool)
    for step in range(fields):
        present[:, step + 1] = present[:, step]
        present[np.arange(len(orders)), step + 1, orders[:, step]] = True
    rows = _with_nulls(ids, weights, layout, present.reshape(-1, fields))
    first_order, factors = _field_vectors(parameters.table, layout, *rows)
    machine = first_order.sum(axis=1) + 0.5 * (
        np.square(factors.sum(axis=1)).sum(axis=1) - np.square(factors).sum(axis=(1, 2))
    )
    answers = logits(Encoded(rows[0], rows[1] if weighted else None)) - machine - parameters.bias
    steps = np.diff(answers.reshape(len(orders), fields + 1), axis=1)
    shares = np.zeros((len(orders), fields))
    np.put_along_axis(shares, orders, steps, axis=1)
    return shares.mean(axis=0), float(answers[0])


def _orders(fields: int) -> NDArray[np.int64]:
    """Fixed random orders of the fields and their reverses, [ORDERS, F]."""
    generator = np.random.default_rng(0)
    drawn = np.array([generator.permutation(fields) for _ in range(ORDERS // 2)])
    return np.concatenate([drawn, drawn[:, ::-1]])


def _with_nulls(
    ids: NDArray[np.int32], weights: NDArray[np.float32], layout: Layout, present: NDArray[np.bool_]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The row once for each line of `present` [N, F], with NULL for what is absent: ids and weights [N, S]."""
    lengths = [f.length for f in layout.fields]
    null_weights = np.zeros(layout.slots, np.float32)
    null_weights[[f.start for f in layout.fields]] = 1.0
    kept = np.repeat(present, lengths, axis=1)
    all_ids = np.where(kept, ids, np.repeat(layout.null_rows, lengths)).astype(np.int32)
    return all_ids, np.where(kept, weights, null_weights).astype(np.float32)
