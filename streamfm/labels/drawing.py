"""Draws by the hash of an id: the same for the same id and seed, in any process and any version of any library."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import ARROW, SPECIAL

from streamfm.encoder.vocabulary import hash_texts
from streamfm.labels.settings import LabelSettings

DRAW = "streamfm_draw"
"""SQL function of a text and a seed, UBIGINT: the text's XXH64."""

NEGATIVES_SEED = 0x6E656761
"""Of the draw that says which negatives are kept."""


def add_draw(connection: duckdb.DuckDBPyConnection) -> None:
    """Register `DRAW`."""

    def draw(texts: pa.ChunkedArray, seeds: pa.ChunkedArray) -> pa.Array:
        # One seed a query.
        return pa.array(hash_texts(texts.combine_chunks(), np.uint64(seeds[0].as_py())))

    connection.create_function(DRAW, draw, ["VARCHAR", "UBIGINT"], "UBIGINT", type=ARROW, null_handling=SPECIAL)


def drawn(identity: str, seed: int) -> str:
    """SQL of a number that looks random, of an id."""
    return f"{DRAW}(CAST({identity} AS VARCHAR), {seed % 2**64}::UBIGINT)"


def threshold(share: float) -> int:
    """Below it are so large a share of all draws."""
    return min(round(share * 2**64), 2**64 - 1)


def kept(settings: LabelSettings, identity: str) -> str:
    """SQL that is true of the ids whose negatives are kept."""
    if settings.negative_share == 1:
        return "true"
    return f"{drawn(identity, NEGATIVES_SEED)} < {threshold(settings.negative_share)}"
