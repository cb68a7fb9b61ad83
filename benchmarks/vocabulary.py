"""Does encoding slow down when a vocabulary is large?

2,048 rows of ten string columns, each with a vocabulary of its own: a million values each (a look-up misses the
processor's caches ten times a row), against a thousand values each. All values are known; every row has new ones.

Limit: three times the cost at 1,000 values.

Traps: a batch that is encoded again finds its slots in the cache, so there are 64 different ones, taken in turn. Both
encoders are warmed up first, they take turns batch by batch, and medians are compared. The strings have the same length
on both sides. The ids are checked: a fast wrong encoder does not count. How long the vocabularies take to make is told.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from _report import report

from streamfm.encoder import Encoder
from streamfm.encoder.vocabulary import VALUES_SCHEMA, VocabularyWriter
from streamfm.features import Feature, FeatureSpec, Input

COLUMNS = [f"c{number}" for number in range(10)]
ROWS, BATCHES, ROUNDS = 2048, 64, 6
SMALL, LARGE = 1_000, 1_000_000
SPEC = FeatureSpec(
    inputs=tuple(Input(name=name, type="VARCHAR") for name in COLUMNS),
    features=tuple(Feature(name=name, kind="categorical") for name in COLUMNS),
    label="y",
)


def texts(numbers: np.ndarray) -> pa.Array:
    """Values such as 'value-0000123'."""
    return pa.array([f"value-{number:07d}" for number in numbers.tolist()])


def encoder_of(values: int, folder: Path) -> Encoder:
    """An encoder whose ten vocabularies have so many values each."""
    writer = VocabularyWriter(folder)
    batch = pa.record_batch([texts(np.arange(values)), pa.array(np.ones(values, np.int64))], schema=VALUES_SCHEMA)
    for name in COLUMNS:
        writer.add_values(name, values, [batch])
    return Encoder(SPEC, writer.finish({}))


class Side:
    """One encoder and its batches."""

    def __init__(self, values: int, folder: Path) -> None:
        """Make them, and check that it encodes rightly."""
        began = time.perf_counter()
        self.encoder = encoder_of(values, folder)
        self.made_s = time.perf_counter() - began
        random = np.random.default_rng(values)
        drawn = random.integers(0, values, (BATCHES, len(COLUMNS), ROWS))
        self.batches = [dict(zip(COLUMNS, map(texts, batch), strict=True)) for batch in drawn]
        first = self.encoder.encode(self.batches[0], ROWS).ids
        expected = drawn[0].T + 2 + np.arange(len(COLUMNS)) * (values + 2)
        np.testing.assert_array_equal(expected, first)
        self.seconds: list[float] = []

    def encode(self, batch: int) -> None:
        """Encode one of the batches, and note how long it takes."""
        began = time.perf_counter()
        self.encoder.encode(self.batches[batch], ROWS)
        self.seconds.append(time.perf_counter() - began)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        small, large = (Side(values, Path(folder) / str(values)) for values in (SMALL, LARGE))
        for turn in range(ROUNDS + 1):
            for batch in range(BATCHES):
                small.encode(batch)
                large.encode(batch)
            if turn == 0:
                # The first round is the warm-up: pages are mapped, kernels compiled.
                small.seconds.clear()
                large.seconds.clear()
        print(
            f"ten vocabularies made in {small.made_s:.2f} s of {SMALL:,} and {large.made_s:.2f} s of {LARGE:,} values"
        )
        costs = [1e6 * statistics.median(side.seconds) for side in (small, large)]
    report("encode_1000_values", costs[0], "µs", higher_is_better=False)
    report("encode_1000000_values", costs[1], "µs", limit=3 * costs[0], goal=">= 1x", higher_is_better=False)


if __name__ == "__main__":
    main()
