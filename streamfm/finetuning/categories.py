"""Which values have a row of their own: new ones are counted and admitted, old ones evicted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.encoder.growth import GrownVocabularies
from streamfm.encoder.kernels import FIRST_VALUE_ROW, UNKNOWN_ROW
from streamfm.encoder.vocabulary import Vocabularies
from streamfm.features import FeatureSpec

Counts = dict[str, dict[str, int]]

_KEPT_SHARE = 0.75
"""Of the values that may wait for a row, once there are too many: forgetting them one by one would sort at each."""


class Sightings:
    """Counts values that have no row, from round to round."""

    def __init__(
        self, spec: FeatureSpec, pending: Mapping[str, Mapping[str, int]], after: int | None, limit: int
    ) -> None:
        """Go on counting.

        Args:
            spec: The features.
            pending: By table and value.
            after: Sightings that admit a value; None for the feature's `min_count`.
            limit: Values of a table that may wait.
        """
        self._after = {feature.table: after or feature.min_count for feature in spec.features}
        self._limit = limit
        self.pending: Counts = {name: dict(counts) for name, counts in pending.items()}

    def admit(self, seen: Iterable[tuple[str, pa.Array]]) -> Counts:
        """Count values that were seen; gives those that are to get a row, in the order of their sighting.

        Args:
            seen: Tables and canonical texts, each as often as it was seen.
        """
        counted: dict[str, Counter[str]] = {}
        for table, texts in seen:
            counted.setdefault(table, Counter()).update(texts.to_pylist())
        return {table: values for table, counts in counted.items() if (values := self._admitted(table, counts))}

    def _admitted(self, table: str, counts: Mapping[str, int]) -> dict[str, int]:
        pending, after = self.pending.setdefault(table, {}), self._after[table]
        admitted: dict[str, int] = {}
        for text, count in counts.items():
            # Taken out and put back in, so that the order is that of the last sighting.
            total = pending.pop(text, 0) + count
            (admitted if total >= after else pending)[text] = total
        if len(pending) > self._limit:
            self.pending[table] = _commonest(pending, int(_KEPT_SHARE * self._limit))
        return admitted


def _commonest(counts: Mapping[str, int], kept: int) -> dict[str, int]:
    """Those that were seen most often, of equals the latest, in their order."""
    texts = list(counts)
    order = np.argsort(np.array([counts[text] for text in texts]), kind="stable")[len(texts) - kept :]
    return {texts[place]: counts[texts[place]] for place in np.sort(order)}


class Moves(NamedTuple):
    """Where the rows of a table that is laid out anew come from.

    Attributes:
        sources: int [R'], of each row the old row that it goes on from.
        fresh: bool [R'], the rows that begin.
    """

    sources: NDArray[np.intp]
    fresh: NDArray[np.bool_]


def moves(old: Vocabularies, new: Vocabularies, kept: Mapping[str, NDArray[np.bool_]]) -> Moves:
    """How the rows of the fused table move; a new value's row begins as the copy of its table's row for unknown values.

    Args:
        old: As the rows lie now.
        new: As `GrownVocabularies.changed` gave them.
        kept: What it was told.
    """
    sources, fresh, base = [], [], 0
    for name, table in old.tables.items():
        stay = np.arange(base, base + table.rows)
        if name in kept:
            stay = np.concatenate([stay[:FIRST_VALUE_ROW], stay[FIRST_VALUE_ROW:][kept[name]]])
        begin = np.full(new.tables[name].rows - len(stay), base + UNKNOWN_ROW)
        sources += [stay, begin]
        fresh += [np.zeros(len(stay), np.bool_), np.ones(len(begin), np.bool_)]
        base += table.rows
    return Moves(np.concatenate(sources), np.concatenate(fresh))


def values_of_rows(vocabularies: GrownVocabularies, wanted: NDArray[np.bool_]) -> dict[str, NDArray[np.bool_]]:
    """Which values of each table are wanted, when some of a table's are not.

    Args:
        vocabularies: As the rows lie.
        wanted: bool [R]; what it says of the rows of NULL, of unknown and of tables without values does not count.
    """
    kept, base = {}, 0
    for name, table in vocabularies.tables.items():
        if table.kind == "values":
            mask = wanted[base + FIRST_VALUE_ROW : base + table.rows]
            if not mask.all():
                kept[name] = mask
        base += table.rows
    return kept
