"""One model over the events of a batch, so that no event's score depends on which others stand beside it.

Arrow holds values of one type in a column. Where events bring several (`true` in one, `5` in the next), those of a kind
are scored together; where scoring fails, the events are halved until those stand alone that it fails on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamfm.encoder.values import EXACT_IN_DOUBLE, to_array
from streamfm.errors import DataError
from streamfm.features import FeatureSpec
from streamfm.scoring import NETWORK_ROWS, Scorer
from streamfm.stream.decoding import uses_of

Clock = Callable[[], float]
Places = Sequence[int]
Values = Mapping[str, Sequence[Any]]


class BatchScores(NamedTuple):
    """What a model says of B events (F features).

    Attributes:
        scores: float32 [B]; of an event in `failures`, NaN.
        logits: float32 [B], likewise; zeros where they were not asked for.
        unknown: int64 [F], events with a value that training did not see.
        failures: Why an event has no score, by its place.
        columns_s: Seconds that making the columns took.
    """

    scores: NDArray[np.float32]
    logits: NDArray[np.float32]
    unknown: NDArray[np.int64]
    failures: Mapping[int, DataError]
    columns_s: float


class BatchScorer:
    """Scores the values of a batch."""

    def __init__(self, scorer: Scorer, clock: Clock, *, with_logit: bool = False) -> None:
        """Ask `scorer`, for logits too if they are wanted."""
        self._scorer, self._clock, self._with_logit = scorer, clock, with_logit
        self._inputs = {name: scorer.spec.input(name) for name in uses_of(scorer.spec)}
        self._exacting = _exacting(scorer.spec)

    def score(self, values: Values, rows: int, *, until: float = float("inf")) -> BatchScores:
        """The scores of so many rows.

        Args:
            values: Of each input, one for every row.
            rows: B.
            until: When the clock says so, what has no score yet gets none.
        """
        scores, logits = np.full((2, rows), np.nan, np.float32)
        unknown = np.zeros(len(self._scorer.spec.features), np.int64)
        failures: dict[int, DataError] = {}
        columns_s = 0.0
        waiting = list(self._alike(values, rows))
        if until < float("inf"):
            # What runs cannot be stopped: the clock is looked at after each few rows.
            waiting = [part[at : at + NETWORK_ROWS] for part in waiting for at in range(0, len(part), NETWORK_ROWS)]
            waiting.reverse()
        while waiting:
            places = waiting.pop()
            began = self._clock()
            try:
                if began > until:
                    raise _TooLateError("its time is over")
                part = values if len(places) == rows else _at(values, places)
                columns = {name: to_array(part[name], item) for name, item in self._inputs.items()}
                columns_s += self._clock() - began
                found = self._scorer.answer_columns(columns, len(places), with_logit=self._with_logit)
            except _TooLateError as error:
                failures |= dict.fromkeys(places, error)
            except DataError as error:
                if len(places) == 1:
                    failures[places[0]] = error
                else:
                    half = len(places) // 2
                    waiting += [places[half:], places[:half]]
            else:
                scores[places] = found.scores
                if found.logits is not None:
                    logits[places] = found.logits
                unknown += found.unknown
        return BatchScores(scores, logits, unknown, failures, columns_s)

    def _alike(self, values: Values, rows: int) -> Iterator[Places]:
        """The places of rows that a column holds together as it holds each alone."""
        mixed = [values[name] for name in self._exacting if _is_mixed(values[name])]
        if not mixed:
            if rows:
                yield range(rows)
            return
        groups: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
        for place, row in enumerate(zip(*mixed, strict=True)):
            groups[tuple(map(_kind, row))].append(place)
        yield from groups.values()


class _TooLateError(DataError):
    pass


def _exacting(spec: FeatureSpec) -> tuple[str, ...]:
    """The inputs of which several JSON types do not go into one column.

    Categories declared as text or integer do, as their canonical texts, and so do dates and instants, which have one
    type once they are read.
    """
    return tuple(
        name
        for name, uses in uses_of(spec).items()
        if not (item := spec.input(name)).is_temporal
        and not (uses == {"category"} and item.family in ("text", "integer"))
    )


def _is_mixed(values: Sequence[Any]) -> bool:
    types = set(map(type, values)) - {type(None)}
    if len(types) == 1 and list not in types:
        return False
    return len({kind for kind in map(_kind, values) if kind is not None}) > 1


def _kind(value: Any) -> Any:
    """Values of one kind go into one column; None goes into any."""
    if value is None or isinstance(value, str):
        return None if value is None else str
    if isinstance(value, bool):
        return bool
    if isinstance(value, list):
        return frozenset(map(_kind, value)) - {None}
    # An integer that no double holds makes texts of the floats beside it.
    return int if isinstance(value, int) and abs(value) > EXACT_IN_DOUBLE else float


def _at(values: Values, places: Places) -> Values:
    return {name: [column[place] for place in places] for name, column in values.items()}
