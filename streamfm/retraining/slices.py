"""Parts of a window that a candidate must not serve worse: newcomers, and the commonest values of chosen features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from streamfm.encoder import Encoder
from streamfm.encoder.kernels import FIRST_VALUE_ROW
from streamfm.errors import SpecError
from streamfm.features import hint_at

COMMONEST = 5

Mask = NDArray[np.bool_]


def check_slices(encoder: Encoder, names: Sequence[str]) -> None:
    """Return if all of them are features.

    Raises:
        SpecError: One is not.
    """
    known = [field.name for field in encoder.layout.fields]
    for name in names:
        if name not in known:
            raise SpecError(f"there is no feature {name!r} to slice by", hint=hint_at(name, known, what="features"))


def slice_masks(ids: NDArray[np.int32], encoder: Encoder, names: Sequence[str]) -> Mapping[str, Mask]:
    """Which rows of the window are in each slice, bool [B] by name.

    Args:
        ids: int32 [B, S], encoded as the parent knows the world.
        encoder: The parent's.
        names: Features.
    """
    layout, masks = encoder.layout, {}
    for index, field in enumerate(layout.fields):
        if field.name not in names:
            continue
        slots = ids[:, field.start : field.start + field.length]
        masks[f"{field.name}: new"] = (slots == layout.unknown_rows[index]).any(axis=1)
        feature = encoder.spec.features[index]
        first = int(layout.null_rows[index]) + FIRST_VALUE_ROW
        values = encoder.vocabularies.values(feature.table)["value"]
        rows, counts = np.unique(slots[(slots >= first) & (slots < first + len(values))], return_counts=True)
        for row in rows[np.argsort(-counts, kind="stable")[:COMMONEST]]:
            masks[f"{field.name}: {values[int(row) - first]}"] = (slots == row).any(axis=1)
    return masks
