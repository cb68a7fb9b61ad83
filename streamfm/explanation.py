"""Explanations: what each feature of an event adds to its logit.

The three parts of a DeepFM are taken apart by the Shapley value, each against the baseline that suits it:

- first order: w_f x_f is the feature's alone;
- pair terms: <v_f, v_g> is shared equally by f and g, which is its Shapley value against leaving the feature out;
- deep part: the Shapley value against NULL, the mean, over the orders in which values can take the place of NULLs, of
  what the served network's answer changes by when the feature's turn comes. A feature that is NULL has no share. Up to
  `EXACT_FEATURES` others it is computed from all 2^N coalitions. Beyond that it is estimated from drawn ones, always
  the same, each with its complement, by the regression whose answer on all coalitions is the Shapley value (Lundberg
  and Lee 2017, theorem 2; Covert and Lee 2021): mostly within 5 % of the largest share, and exact for a
  deep part in which features meet in pairs at most.

So ``base + Σ contributions = logit``, where base is w0 and the deep part's answer for an event of NULLs.

Legend: B rows, S slots, F fields, K factors, N players (fields that are not NULL), C coalitions of players.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamfm.bundle import read_manifest
from streamfm.encoder import Encoded, Layout
from streamfm.errors import BundleError

EXACT_FEATURES = 10
"""Up to so many features that are not NULL, deep shares are exact."""

DRAWN_PAIRS = 1000
"""Coalitions drawn beyond that, each with its complement: a few hundred fewer when some are drawn twice."""

BATCH_ROWS = 2048
"""Rows that the network is asked for at a time, about."""

WEIGHTS_FILE = "weights.safetensors"

Floats = NDArray[np.float64]
Logits = Callable[[Encoded], NDArray[np.float32]]


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
        base: What there is without features: w0, and the deep part's answer for an event of NULLs.
        contributions: One for each feature, in the order of the specification.
    """

    logit: float
    base: float
    contributions: tuple[Contribution, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Parameters:
    """The part of a model that explanations and embeddings read.

    Attributes:
        table: float32 [rows, K + 1], factors and first-order weight; memory-mapped.
        bias: w0.
        has_deep_part: Whether the model is more than a factorisation machine.
    """

    table: NDArray[np.float32]
    bias: float
    has_deep_part: bool

    @classmethod
    def load(cls, bundle: Path) -> Parameters:
        """Those of a bundle that `open_bundle` has verified.

        Raises:
            BundleError: The file is gone, or its table is not the manifest's; names the file.
        """
        layout, path = read_manifest(bundle).layout, bundle / WEIGHTS_FILE
        try:
            table, bias = (_mapped(path, name) for name in ("table", "bias"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{bundle}: {WEIGHTS_FILE}: cannot be read: {error!r}") from error
        if table.shape != (layout.rows, layout.factors + 1) or bias.shape != (1,):
            raise BundleError(
                f"{bundle}: {WEIGHTS_FILE}: holds table {table.shape} and bias {bias.shape}, "
                f"expected {(layout.rows, layout.factors + 1)} and (1,)"
            )
        return cls(table=table, bias=float(bias[0]), has_deep_part=bool(layout.hidden))

    @property
    def factors(self) -> NDArray[np.float32]:
        """float32 [rows, K]."""
        return self.table[:, :-1]


def explain(encoded: Encoded, layout: Layout, parameters: Parameters, logits: Logits) -> list[Explanation]:
    """The explanation of each row.

    Args:
        encoded: Ids and weights [B, S].
        layout: Where the fields lie.
        parameters: Table and bias.
        logits: Asks the served network for the logits [B] of encoded rows.
    """
    rows = _Rows.of(encoded, layout, parameters.table)
    if parameters.has_deep_part:
        answers, bases, deep = _deep_shares(rows, parameters.bias, logits)
    else:
        answers = logits(encoded).astype(np.float64)
        bases, deep = np.zeros(len(answers)), np.zeros(rows.present.shape)
    names = [field.name for field in layout.fields]
    shares = (rows.first_order.tolist(), rows.pairs.tolist(), deep.tolist())
    return [
        Explanation(logit=float(answer), base=parameters.bias + float(base), contributions=_named(names, *of_row))
        for answer, base, *of_row in zip(answers, bases, *shares, strict=True)
    ]


def _named(
    names: list[str], first_order: list[float], pairs: list[float], deep: list[float]
) -> tuple[Contribution, ...]:
    return tuple(
        Contribution(feature=name, first_order=own, pairs=shared, deep=share)
        for name, own, shared, share in zip(names, first_order, pairs, deep, strict=True)
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class _Rows:
    """Encoded rows, and what an event of NULLs is, field by field.

    Attributes:
        encoded: Ids and weights [B, S].
        null_ids: Those of an event of NULLs, [S].
        null_weights: [S].
        field_of_slot: [S].
        present: bool [B, F], where a field is not NULL.
        terms: [B, F, K + 2]: first-order term, pooled factors, and the sum of their squares.
        null_terms: [F, K + 2].
    """

    encoded: Encoded
    null_ids: NDArray[np.int32]
    null_weights: NDArray[np.float32]
    field_of_slot: NDArray[np.intp]
    present: NDArray[np.bool_]
    terms: Floats
    null_terms: Floats

    @classmethod
    def of(cls, encoded: Encoded, layout: Layout, table: NDArray[np.float32]) -> _Rows:
        starts, lengths = [f.start for f in layout.fields], [f.length for f in layout.fields]
        null_ids, null_weights = np.repeat(layout.null_rows, lengths), np.zeros(layout.slots, np.float32)
        null_weights[starts] = 1.0
        differs = encoded.ids != null_ids
        if encoded.weights is not None:
            differs |= encoded.weights != null_weights
        nulls = Encoded(null_ids[None], null_weights[None] if layout.weighted else None)
        return cls(
            encoded=encoded,
            null_ids=null_ids,
            null_weights=null_weights,
            field_of_slot=np.repeat(np.arange(len(lengths)), lengths),
            present=np.logical_or.reduceat(differs, starts, axis=1),
            terms=_field_terms(encoded, starts, table),
            null_terms=_field_terms(nulls, starts, table)[0],
        )

    @property
    def first_order(self) -> Floats:
        """[B, F]."""
        return self.terms[:, :, 0]

    @property
    def pairs(self) -> Floats:
        """Half of each feature's products with all others, [B, F]."""
        factors = self.terms[:, :, 1:-1]
        with_all: Floats = np.einsum("bfk,bk->bf", factors, factors.sum(axis=1))
        return 0.5 * (with_all - self.terms[:, :, -1])

    def replaced(self, rows: NDArray[np.intp], kept: NDArray[np.bool_]) -> Encoded:
        """Each of some rows once for each line of `kept` [C, F], NULL where a field is not kept: [rows · C, S]."""
        slots = kept[:, self.field_of_slot]
        ids = np.where(slots, self.encoded.ids[rows, None], self.null_ids).reshape(-1, slots.shape[1])
        if self.encoded.weights is None:
            return Encoded(ids, None)
        weights = np.where(slots, self.encoded.weights[rows, None], self.null_weights).reshape(ids.shape)
        return Encoded(ids, weights)

    def machine(self, rows: NDArray[np.intp], kept: NDArray[np.bool_]) -> Floats:
        """What the factorisation machine answers for the same, without w0: [rows, C]."""
        sums = kept.astype(np.float64) @ (self.terms[rows] - self.null_terms) + self.null_terms.sum(axis=0)
        answers: Floats = sums[:, :, 0] + 0.5 * (np.square(sums[:, :, 1:-1]).sum(axis=2) - sums[:, :, -1])
        return answers


def _field_terms(encoded: Encoded, starts: list[int], table: NDArray[np.float32]) -> Floats:
    slots = table[encoded.ids].astype(np.float64)
    if encoded.weights is not None:
        slots *= encoded.weights[:, :, None]
    fields = np.add.reduceat(slots, starts, axis=1)
    squares = np.square(fields[:, :, :-1]).sum(axis=2, keepdims=True)
    return np.concatenate([fields[:, :, -1:], fields[:, :, :-1], squares], axis=2)


def _deep_shares(rows: _Rows, bias: float, logits: Logits) -> tuple[Floats, Floats, Floats]:
    """The network's logits [B], the deep part's answers for NULLs [B], and each field's share of it [B, F]."""
    count = len(rows.present)
    answers, bases, shares = np.empty(count), np.empty(count), np.zeros(rows.present.shape)
    patterns, pattern_of = np.unique(rows.present, axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        players = np.flatnonzero(pattern)
        game = _game(len(players))
        kept = np.zeros((len(game.coalitions), len(pattern)), bool)
        kept[:, players] = game.coalitions
        alike = np.flatnonzero(pattern_of.reshape(-1) == number)
        step = max(1, BATCH_ROWS // len(kept))
        for part in (alike[start : start + step] for start in range(0, len(alike), step)):
            asked = logits(rows.replaced(part, kept)).astype(np.float64).reshape(len(part), len(kept))
            deep = asked - rows.machine(part, kept) - bias
            answers[part], bases[part] = asked[:, -1], deep[:, 0]
            shares[np.ix_(part, players)] = deep @ game.weights
    return answers, bases, shares


@dataclass(frozen=True, kw_only=True, eq=False)
class _Game:
    """How the shares of N players follow from what some of their coalitions reach.

    Attributes:
        coalitions: bool [C, N]; the first has nobody in it, the last has all.
        weights: [C, N]; each player's share is a weighted sum of what the coalitions reach.
    """

    coalitions: NDArray[np.bool_]
    weights: Floats


@lru_cache(maxsize=256)
def _game(players: int) -> _Game:
    return _exact_game(players) if players <= EXACT_FEATURES else _sampled_game(players)


def _exact_game(players: int) -> _Game:
    """All coalitions, by the formula of Shapley 1953."""
    coalitions = (np.arange(1 << players)[:, None] >> np.arange(players)) & 1 == 1
    sizes = coalitions.sum(axis=1, keepdims=True)
    # How likely a random order is to have a player join just this coalition, by the coalition's size.
    joins = np.array([1 / (players * math.comb(players - 1, size)) for size in range(players)] + [0.0])
    return _Game(coalitions=coalitions, weights=np.where(coalitions, joins[sizes - 1], -joins[sizes]))


def _sampled_game(players: int) -> _Game:
    """Drawn coalitions with their complements, by a regression on who is a member.

    It is least squares under the condition that shares add up to what all reach, so linear in what is reached. The
    regression's weights are the frequencies, since a size s is drawn as often as its kernel 1 / (s · (N - s)) says.
    """
    drawn, counts = _draw(players)
    members = drawn.astype(np.float64)
    inverse = np.linalg.pinv(members.T @ (counts[:, None] * members))
    unbound = inverse @ members.T * counts
    slack = inverse.sum(axis=1) / inverse.sum()
    bound = unbound - np.outer(slack, unbound.sum(axis=0))
    return _Game(
        coalitions=np.concatenate([np.zeros((1, players), bool), drawn, np.ones((1, players), bool)]),
        weights=np.concatenate([[-bound.sum(axis=1) - slack], bound.T, [slack]]),
    )


def _draw(players: int) -> tuple[NDArray[np.bool_], Floats]:
    """Coalitions of one to all but one player, each with its complement, and how often each was drawn."""
    generator = np.random.default_rng(0)
    sizes = np.arange(1, players)
    chances = 1 / (sizes * (players - sizes))
    drawn_sizes = generator.choice(sizes, DRAWN_PAIRS, p=chances / chances.sum())
    ranks = generator.random((DRAWN_PAIRS, players)).argsort(axis=1)
    drawn = ranks < drawn_sizes[:, None]
    # Of a coalition and its complement, the one with the first player stands for both.
    half, counts = np.unique(np.where(drawn[:, :1], drawn, ~drawn), axis=0, return_counts=True)
    return np.concatenate([half, ~half]), np.concatenate([counts, counts]).astype(np.float64)


def _mapped(path: Path, name: str) -> NDArray[np.float32]:
    """A float32 tensor of a .safetensors file, memory-mapped: a table of gigabytes is not read for one embedding.

    The format: https://huggingface.co/docs/safetensors/index#format
    """
    with path.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        entry = json.loads(opened.read(length))[name]
    if entry["dtype"] != "F32":
        raise ValueError(f"{name} is {entry['dtype']}, expected F32")
    offset = 8 + length + entry["data_offsets"][0]
    return np.asarray(np.memmap(path, np.float32, "r", offset, tuple(entry["shape"])))
