"""Which versions still hold a network, and when it is let go.

A version that no new query calls has been replaced; `GRACE_S` after its last late call its network is freed. Whether a
query still calls it is asked only when something is registered or moves, and only through the connection that is
changing: DuckDB refuses to close a connection while a cursor made from it is at work, and who closes one should not
meet us there.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import duckdb

from streamfm.errors import StreamFMError
from udfs.duckdb_functions import Serving
from udfs.duckdb_macros import info_name
from udfs.duckdb_place import Place

GRACE_S = 600.0
"""A version that was replaced and not called for so long lets its network go."""


@dataclass(slots=True)
class Generation:
    """The functions of one version under one name, and since when no new query calls them."""

    place: Place
    name: str
    function: str
    serving: Serving
    replaced_s: float | None = None

    def is_replaced(self, asking: Place) -> bool:
        """Whether no query that is bound now would call them, as far as can be told from another place."""
        if not self.place.is_open():
            return True
        if self.place.is_temporary:
            # Only the connection itself sees its macros, and another thread may be using it.
            return self is not self._latest()
        try:
            # What another database has is asked when something changes there.
            return asking.has_function(self.function) and not is_called(self.place, self.name, self.function, asking)
        except (StreamFMError, duckdb.Error):
            return False

    def _latest(self) -> Generation:
        """The last one of the same name in the same place."""
        return [other for other in _held if (other.place, other.name) == (self.place, self.name)][-1]


_held: list[Generation] = []
"""Every version whose network is still held; a registration may be dropped, its functions go on."""


def is_called(place: Place, name: str, function: str, asking: Place) -> bool:
    """Whether the macros of a name are those that call this function."""
    return f'"{function}"' in (place.definition(info_name(name), asking) or "")


def hold(generation: Generation) -> None:
    """Take up a version whose functions queries call from now on."""
    _held.append(generation)


def mark_replaced(asking: Place, now_s: float) -> None:
    """Note which versions no query calls any more; a database is asked through `asking`, where something changes."""
    for one in list(_held):
        if one.replaced_s is None and one.is_replaced(asking):
            one.replaced_s = now_s


def let_go(now_s: float) -> None:
    """Free the versions that were replaced and not called for `GRACE_S`; asks no database."""
    for one in list(_held):
        if one.replaced_s is not None and now_s - max(one.replaced_s, one.serving.last_used_s) > GRACE_S:
            one.serving.let_go()
            with suppress(ValueError):
                _held.remove(one)
