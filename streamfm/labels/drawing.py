"""Draws by the hash of an id: the same for the same id and seed, in any process and any version of any library."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from duckdb.func import ARROW, SPECIAL

from streamfm.encoder.vocabulary import hash_texts
from streamfm.labels.settings import LabelSettings

DRAW = "streamfm_draw"
"""SQL function that says which negatives are kept."""

REPLAY_DRAW = "streamfm_replay_draw"
"""SQL function that says which rows of the past are replayed."""

NEGATIVES_SEED = 0x6E656761


def add_draw(connection: duckdb.DuckDBPyConnection, name: str, seed: int) -> None:
    """Register a function of texts: their XXH64 with a seed, as UBIGINT."""

    def draw(texts: pa.ChunkedArray) -> pa.Array:
        return pa.array(hash_texts(texts.combine_chunks(), np.uint64(seed % 2**64)))

    connection.create_function(name, draw, ["VARCHAR"], "UBIGINT", type=ARROW, null_handling=SPECIAL)


def threshold(share: float) -> int:
    """Below it are so large a share of all draws."""
    return min(round(share * 2**64), 2**64 - 1)


def kept(settings: LabelSettings, identity: str) -> str:
    """SQL that is true of the ids whose negatives are kept."""
    if settings.negative_share == 1:
        return "true"
    return f"{DRAW}(CAST({identity} AS VARCHAR)) < {threshold(settings.negative_share)}"
