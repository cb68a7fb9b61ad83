"""The rows that a candidate is judged on. Legend: B rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.errors import DataError
from streamfm.evaluation.samples import Floats

NO_GROUP = np.int64(np.iinfo(np.int64).min)
"""Stands for no group, as in labelled rows: such a row depends on no other."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Something that the caller measured: refused where it is above its limit, or not finite.

    Attributes:
        name: As in the table: "onnx parity".
        value: What was measured.
        limit: The most that is allowed.
        note: For people: what it is, or what went wrong.
    """

    name: str
    value: float
    limit: float
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Rows that neither model trained on, nor any earlier window held, oldest first.

    Rows of weight 0 do not count.

    Attributes:
        labels: [B] of 0 and 1.
        candidate: [B] logits.
        parent: [B] logits of the model that serves.
        anchor: [B] logits of the version that the evidence names; None where the parent is the anchor, or where
            it is gone.
        parent_version: What the parent is called; becomes the anchor's name when the anchor moves on.
        sample_weights: [B] non-negative, or None.
        groups: int64 [B], usually a hash of the user: rows of one group are not independent. `NO_GROUP` for none.
        slices: Guarded parts of the rows by name, bool [B] each.
    """

    labels: NDArray[Any]
    candidate: NDArray[Any]
    parent: NDArray[Any]
    anchor: NDArray[Any] | None = None
    parent_version: str = ""
    sample_weights: NDArray[Any] | None = None
    groups: NDArray[np.int64] | None = None
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse columns that do not belong together.

        Raises:
            DataError: Another number of rows, a label other than 0 and 1, or a weight that is impossible.
        """
        rows = len(self.labels)
        for name, column in self._columns().items():
            if column.shape != (rows,):
                raise DataError(f"{name} of the window have shape {column.shape}, expected ({rows},) as the labels")
        if not ((self.labels == 0) | (self.labels == 1)).all():
            raise DataError("labels of the window are not all 0 or 1")
        if self.sample_weights is not None and not (
            np.isfinite(self.sample_weights).all() and (self.sample_weights >= 0).all()
        ):
            raise DataError("sample weights of the window are not all finite and 0 or more")

    def _columns(self) -> dict[str, NDArray[Any]]:
        named = {"labels": self.labels, "candidate logits": self.candidate, "parent logits": self.parent}
        optional = {"anchor logits": self.anchor, "sample weights": self.sample_weights, "groups": self.groups}
        named |= {name: column for name, column in optional.items() if column is not None}
        return named | {f"rows of slice {name!r}": mask for name, mask in self.slices.items()}

    def part(self, rows: NDArray[np.bool_] | slice) -> Window:
        """Some of the rows."""
        return replace(
            self,
            labels=self.labels[rows],
            candidate=self.candidate[rows],
            parent=self.parent[rows],
            anchor=None if self.anchor is None else self.anchor[rows],
            sample_weights=None if self.sample_weights is None else self.sample_weights[rows],
            groups=None if self.groups is None else self.groups[rows],
            slices={name: mask[rows] for name, mask in self.slices.items()},
        )

    def counted(self) -> Window:
        """The rows that have a weight."""
        return self if self.sample_weights is None else self.part(self.sample_weights > 0)

    @property
    def rows(self) -> int:
        """B."""
        return len(self.labels)

    @property
    def positives(self) -> int:
        """Rows with label 1."""
        return int(np.count_nonzero(self.labels))

    def weights(self) -> Floats:
        """Float64 [B]; 1 each where there are none."""
        if self.sample_weights is None:
            return np.ones(self.rows)
        return self.sample_weights.astype(np.float64)

    def clusters(self) -> NDArray[np.intp]:
        """[B] codes from 0 without gaps: one for a group, and one for each row without a group."""
        if self.groups is None:
            return np.arange(self.rows)
        known, codes = np.unique(self.groups, return_inverse=True)
        alone = self.groups == NO_GROUP
        if alone.any():
            # The smallest number sorts first: its rows get numbers of their own behind the others'.
            codes = codes - 1
            codes[alone] = len(known) - 1 + np.arange(np.count_nonzero(alone))
        return codes
