"""Adam for the fused table: gradient, penalty, moments and the average of the weights in one pass over the rows.

A dense update touches every row at every step: exactly Adam with λ/2·‖E‖² over the whole table added to the loss.
A lazy update touches only the rows of the batch: the penalty and the moments of a row move when the row is seen, so a
step costs the same whatever the table's size, and the average of a row that rested is caught up in closed form.

Legend: R rows of the table, C columns (K factors and the first-order weight), n rows touched by a step.
"""

# mypy: disable-error-code="no-untyped-def,untyped-decorator"
from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BETA_1 = 0.9
BETA_2 = 0.999
EPSILON = 1e-8

# Sums may be reordered, which lets them be vectorised; NaN and infinity keep their meaning.
_kernel = njit(cache=True, nogil=True, fastmath={"reassoc", "contract"})


class AverageDecay:
    """The decay of the running average at each step, d_t = min(decay, (t + 1) / (t + 10)), and its products.

    The ramp lets an average that starts at the initial weights forget them within the first steps.
    """

    def __init__(self, decay: float) -> None:
        """Average with `decay` once the ramp is over."""
        self.decay = decay
        self._logarithms = np.zeros(1)

    def at(self, step: int) -> float:
        """d_t of step t = 1, 2, ..."""
        return min(self.decay, (step + 1) / (step + 10))

    def logarithms(self, step: int) -> NDArray[np.float64]:
        """Σ log d_t over the steps 1..t at index t, at least up to `step`."""
        known = len(self._logarithms)
        if step >= known:
            steps = np.arange(known, max(2 * known, step + 1))
            added = np.log(np.minimum(self.decay, (steps + 1) / (steps + 10)))
            # Summed in the order of the steps, so that the sums do not depend on when they were asked for.
            sums = np.cumsum(np.concatenate([self._logarithms[-1:], added]))
            self._logarithms = np.concatenate([self._logarithms, sums[1:]])
        return self._logarithms


class YoungRows(NamedTuple):
    """Rows that few slots of the training rows named so far, and how they learn.

    Attributes:
        until: Up to how many slots a row is young; 0 for never.
        rate: Their learning rate, in units of the others'.
    """

    until: int = 0
    rate: float = 1.0


class TableOptimiser:
    """Adam over the table, in place.

    Attributes:
        table: float32 [R, C], the weights.
        average: float32 [R, C], their average over the steps (settled by `settle`), or None.
        moment1: float32 [R, C], Adam's running mean of the gradient.
        moment2: float32 [R, C], Adam's running mean of its square.
        counts: int64 [R], how many slots of the training rows named each row.
        last_seen: int32 [R], the last step that did; 0 for never.
        young: Which rows learn at a rate of their own.
    """

    def __init__(
        self, table: Floats, average: Floats | None, *, lazy: bool, penalties: tuple[float, float], decay: float
    ) -> None:
        """Start with moments of zero.

        Args:
            table: Updated in place.
            average: Updated in place; None for no average.
            lazy: Touch only the rows of the batch.
            penalties: λ of the factors and of the first-order weight.
            decay: Of the average.
        """
        rows = len(table)
        self.table, self.average, self.lazy = table, average, lazy
        self.moment1 = np.zeros_like(table)
        self.moment2 = np.zeros_like(table)
        self.counts = np.zeros(rows, np.int64)
        self.last_seen = np.zeros(rows, np.int32)
        self.decay = AverageDecay(decay)
        self.young = YoungRows()
        self._penalties = (np.float32(penalties[0]), np.float32(penalties[1]))
        self._settled = np.zeros(rows if lazy else 0, np.int32)
        self._touched, self._position = np.empty(0, np.int32), np.empty(0, np.int32)
        self._make_room()

    def resume(self, step: int) -> None:
        """Take moments and an average set from outside as those of this step."""
        self._settled[:] = step

    def relay(self, table: Floats, average: Floats | None, sources: NDArray[np.intp], fresh: NDArray[np.bool_]) -> None:
        """Go on with a table whose rows were laid out anew.

        Args:
            table: float32 [R', C], its rows those of the old table at `sources`.
            average: The same of the average; None for no average.
            sources: int [R'], of each row the old row that it goes on from.
            fresh: bool [R'], the rows that begin: moments of zero, counted and seen never.
        """
        self.table, self.average = table, average
        for name in ("moment1", "moment2", "counts", "last_seen"):
            array = getattr(self, name)[sources]
            array[fresh] = 0
            setattr(self, name, array)
        if self.lazy:
            self._settled = self._settled[sources]
        self._make_room()

    def accumulate(self, ids: NDArray[np.int32], gradients: Floats, step: int) -> float:
        """Sum the slots' gradients by row and add the penalty's.

        Args:
            ids: int32 [n slots].
            gradients: float32 [n slots, C].
            step: 1, 2, ...

        Returns:
            The squared norm of the table's gradient.
        """
        if self.lazy:
            if len(self._touched) < min(len(ids), len(self.table)):
                size = min(len(ids), len(self.table))
                self._touched = np.empty(size, np.int32)
                self._sums = np.empty((size, self.table.shape[1]), np.float32)
            self._count = _sum_touched(
                ids, gradients, step, self.counts, self.last_seen, self._position, self._touched, self._sums
            )
        else:
            _sum_all(ids, gradients, step, self.counts, self.last_seen, self._sums)
        touched = self._touched[: self._count]
        return float(_add_penalty(self.table, touched, self._sums, *self._penalties))

    def apply(self, learning_rate: float, scale: float, step: int) -> None:
        """One Adam step with the gradient that `accumulate` left, times `scale`."""
        touched = self._touched[: self._count]
        rate = np.float32(learning_rate / (1 - BETA_1**step))
        correction = np.float32(1 / math.sqrt(1 - BETA_2**step))
        if self.average is not None and self.lazy:
            logarithms = self.decay.logarithms(step)
            _catch_up(self.table, self.average, touched, self._settled, logarithms, step - 1)
            self._settled[touched] = step
        young, young_rate = self.young.until, np.float32(self.young.rate)
        _adam(
            *(self.table, self.moment1, self.moment2, self.counts, touched, self._sums),
            *(rate, correction, np.float32(scale), young, young_rate),
        )
        if self.average is not None:
            _average(self.table, self.average, touched, np.float32(self.decay.at(step)))

    def settle(self, step: int) -> None:
        """Bring the average of every row to this step; costs a pass over the table when lazy."""
        if self.average is not None and self.lazy:
            rows = np.arange(len(self.table), dtype=np.int32)
            _catch_up(self.table, self.average, rows, self._settled, self.decay.logarithms(step), step)
            self._settled[:] = step

    def _make_room(self) -> None:
        rows, columns = self.table.shape
        self._position = np.zeros(rows if self.lazy else 0, np.int32)
        self._touched = np.empty(0, np.int32) if self.lazy else np.arange(rows, dtype=np.int32)
        self._sums = np.empty((0 if self.lazy else rows, columns), np.float32)
        self._count = 0 if self.lazy else rows


@_kernel
def _sum_all(ids, gradients, step, counts, last_seen, sums):
    """Gradients by row, for all rows."""
    sums[:] = 0
    for index in range(len(ids)):
        row = ids[index]
        last_seen[row] = step
        counts[row] += 1
        for column in range(sums.shape[1]):
            sums[row, column] += gradients[index, column]


@_kernel
def _sum_touched(ids, gradients, step, counts, last_seen, position, touched, sums):
    """Gradients by row, for the rows named in `ids`, in the order in which they are first named; gives their number."""
    count = 0
    for index in range(len(ids)):
        row = ids[index]
        if last_seen[row] != step:
            last_seen[row] = step
            position[row] = count
            touched[count] = row
            sums[count] = 0
            count += 1
        counts[row] += 1
        place = position[row]
        for column in range(sums.shape[1]):
            sums[place, column] += gradients[index, column]
    return count


@_kernel
def _add_penalty(table, touched, sums, penalty, first_order_penalty):
    """Add λ·E to the gradients; gives their squared norm."""
    last = table.shape[1] - 1
    total = np.float64(0)
    for index in range(len(touched)):
        row = touched[index]
        sums[index, last] += (first_order_penalty - penalty) * table[row, last]
        squares = np.float32(0)
        for column in range(table.shape[1]):
            gradient = sums[index, column] + penalty * table[row, column]
            sums[index, column] = gradient
            squares += gradient * gradient
        total += squares
    return total


@_kernel
def _adam(table, moment1, moment2, counts, touched, sums, rate, correction, scale, young, young_rate):
    """Kingma & Ba 2015, algorithm 1, with the bias corrections in `rate` and `correction`.

    The rate of rows with counts up to `young` is multiplied by `young_rate`.
    """
    beta1, beta2, epsilon = np.float32(BETA_1), np.float32(BETA_2), np.float32(EPSILON)
    rest1, rest2 = np.float32(1 - BETA_1), np.float32(1 - BETA_2)
    for index in range(len(touched)):
        row = touched[index]
        row_rate = rate * young_rate if counts[row] <= young else rate
        for column in range(table.shape[1]):
            gradient = scale * sums[index, column]
            first = beta1 * moment1[row, column] + rest1 * gradient
            second = beta2 * moment2[row, column] + rest2 * gradient * gradient
            moment1[row, column] = first
            moment2[row, column] = second
            table[row, column] -= row_rate * first / (np.sqrt(second) * correction + epsilon)


@_kernel
def _average(table, average, touched, decay):
    """Move the average: decay · average + (1 - decay) · weight."""
    rest = np.float32(1) - decay
    for index in range(len(touched)):
        row = touched[index]
        for column in range(table.shape[1]):
            average[row, column] = decay * average[row, column] + rest * table[row, column]


@_kernel
def _catch_up(table, average, rows, settled, logarithms, step):
    """Average rows over the steps since they were settled, in which their weights stood still."""
    for index in range(len(rows)):
        row = rows[index]
        if settled[row] == step:
            continue
        decay = np.float32(math.exp(logarithms[step] - logarithms[settled[row]]))
        for column in range(table.shape[1]):
            average[row, column] = table[row, column] + decay * (average[row, column] - table[row, column])
