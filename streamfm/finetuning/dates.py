"""When each row of the table was last named by a new row: what eviction goes by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_MICROSECONDS = 1_000_000


class LastTimes:
    """Event times, microseconds since 1970 in UTC.

    Attributes:
        of_rows: int64 [R]; 0 for none. Rows that no new row has named yet count as named when fine-tuning began. The
            first, NULL's of the first table, is dated with every chunk.
    """

    def __init__(self, of_rows: NDArray[np.int64]) -> None:
        """Go on from these, in place."""
        self.of_rows = of_rows

    def note(self, ids: NDArray[np.int32], times: NDArray[np.int64] | None) -> None:
        """Take up new rows.

        Args:
            ids: int32 [B, S].
            times: int64 [B], 0 for NULL; None where there are none.
        """
        if times is None or not times.any():
            return
        if not self.of_rows[0]:
            self.of_rows[self.of_rows == 0] = times[times > 0].min()
        np.maximum.at(self.of_rows, ids, times[:, np.newaxis])
        self.of_rows[0] = max(self.of_rows[0], times.max())

    def since(self, unseen_s: float) -> NDArray[np.bool_]:
        """Bool [R]: which rows were named in the last so many seconds before the newest row."""
        seen: NDArray[np.bool_] = self.of_rows >= self.of_rows[0] - int(unseen_s * _MICROSECONDS)
        return seen

    def relay(self, sources: NDArray[np.intp], fresh: NDArray[np.bool_]) -> None:
        """Lay the rows out anew, as `Learner.relay`; those that begin count as named by the newest row."""
        newest = self.of_rows[0]
        self.of_rows = self.of_rows[sources]
        self.of_rows[fresh] = newest
