"""Where impressions and clicks are read: the port of a log, and plain tables."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import NamedTuple, Protocol

from streamfm.data.sources import SourceLike


class Relations(NamedTuple):
    """Two tables, of one state of the log, as `streamfm.labels.closed_labels` takes them.

    Attributes:
        impressions: See there.
        clicks: See there.
        finished: See there.
    """

    impressions: SourceLike
    clicks: SourceLike
    finished: Collection[str] = ()


class Feed(Protocol):
    """A log of impressions and clicks, which may grow between two rounds."""

    def relations(self) -> AbstractContextManager[Relations]:
        """What is there now; it stays there during the block.

        Raises:
            StreamFMError: A part of it is missing or damaged; names it.
        """


class Tables:
    """A `Feed` of any two tables that DuckDB reads: paths, globs, SQL queries, Arrow tables."""

    def __init__(self, impressions: SourceLike, clicks: SourceLike) -> None:
        """Read nothing yet."""
        self._relations = Relations(impressions, clicks)

    @contextmanager
    def relations(self) -> Iterator[Relations]:
        """See `Feed`."""
        yield self._relations
