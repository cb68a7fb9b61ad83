"""Which rows of a log a model has seen: no prediction of those counts."""

from __future__ import annotations

from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from streamfm.bundle import Bundle
from streamfm.errors import DataError
from streamfm.progressive.shards import MICROSECONDS


class Past(NamedTuple):
    """The rows before the first that is predicted.

    Attributes:
        trained: So many, the earliest, the model was trained on.
        seen: So many are not predicted: those that chose among its weights are neither trained on nor new.
    """

    trained: int
    seen: int


def seen(bundle: Bundle, times: NDArray[np.int64], source: str) -> Past:
    """The rows that a model has seen, by the instants in its manifest.

    Args:
        bundle: The model's.
        times: int64 [N], microseconds since 1970, ascending.
        source: What the rows are called.

    Raises:
        DataError: The model does not say up to when it was trained, or no row is later.
    """
    facts: Any = bundle.manifest.training
    windows = facts.get("windows", {})
    ends = [windows.get(part, (None, None))[1] for part in ("train", "validation")]
    closed = facts.get("position", {}).get("closed_until")
    trained, chosen = (0 if end is None else int(np.searchsorted(times, _microseconds(end), "right")) for end in ends)
    if closed is not None:
        trained = max(trained, int(np.searchsorted(times, _microseconds(closed), "left")))
    elif ends[0] is None:
        message = f"{bundle.path}: the model does not say up to when it was trained"
        raise DataError(message, hint="its specification named no event_time: train anew with one, by --features")
    past = Past(trained=trained, seen=max(trained, chosen))
    if past.seen == len(times):
        last = closed or max(end for end in ends if end is not None)
        message = f"{source}: no row is later than {last}, up to when the model was trained"
        raise DataError(message, hint="give a log that goes on after that, or train on a part of this one: --features")
    return past


def _microseconds(instant: str) -> int:
    return round(datetime.fromisoformat(instant).timestamp() * MICROSECONDS)
