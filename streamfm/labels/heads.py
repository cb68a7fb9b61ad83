"""How far impressions and clicks have come, and what therefore is closed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from streamfm.labels.logs import OFFSET, PARTITION, Log, Read, read_before
from streamfm.labels.settings import LabelSettings, Position, microseconds

SECOND_US = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Clock:
    """What has not happened yet.

    Attributes:
        now_us: Microseconds since 1970; None where nobody says.
        limit_us: Later events are of the future; those up to it come from a clock that is a little fast.
    """

    now_us: int | None
    limit_us: int | None

    @classmethod
    def at(cls, now: datetime | None, settings: LabelSettings) -> Clock:
        """The clock at an instant."""
        if now is None:
            return cls(now_us=None, limit_us=None)
        return cls(now_us=microseconds(now), limit_us=microseconds(now + timedelta(seconds=settings.future_s)))

    def at_most_now(self, us: int) -> int:
        """How far an event shows that a log has come: a fast clock does not make what comes until then come."""
        return us if self.now_us is None else min(us, self.now_us)


@dataclass(frozen=True, kw_only=True)
class Head:
    """How far a log has come, at one look at it.

    Attributes:
        log: Which.
        before: What was read of it in earlier rounds.
        ends: End of each partition; rows that come afterwards wait for the next round.
        newest_us: Largest time, without those of the future, and no later than now; None when there is none.
        first_new_us: Smallest time among the rows that were not read before.
        new: Rows that were not read before.
        future: How many of them are from the future.
        without_time: How many of them have no time.
        live: The same of each partition that a stream fills (its rows have a `_timestamp`; those of files have none).
    """

    log: Log
    before: Read | None
    ends: Mapping[str, int]
    newest_us: int | None
    first_new_us: int | None
    new: int
    future: int
    without_time: int
    live: Mapping[str, int]

    def rows(self, limit_us: int | None) -> str:
        """SQL that is true of the rows that this look found, without those of the future."""
        # Where there are none, the time need not be read.
        present = "true" if limit_us is None or not self.future else f"{self.log.us} <= {limit_us}"
        return f"{self.log.visible(self.ends)} AND {present}"

    @property
    def has_time(self) -> str:
        """SQL that is true of the rows that have a time."""
        return "true" if self.before is None and not self.without_time else f"{self.log.us} IS NOT NULL"

    @property
    def is_read(self) -> str:
        """SQL that is true of the rows that were read before."""
        return self.log.before(self.before)


def look_at(
    log: Log,
    position: Position | None,
    clock: Clock,
    *,
    window_us: int | None = None,
    finished: Collection[str] = (),
    whole: bool = True,
) -> Head:
    """How far a log has come.

    Args:
        log: Which.
        position: What was read before.
        clock: What of the log is of the future.
        window_us: Of clicks, the window; None for impressions.
        finished: Partitions that no stream fills any more.
        whole: Whether rows before the position's time matter where there are no offsets that could tell new ones.
    """
    partitions = _partitions(log) if log.has_offsets else ()
    before = read_before(position, partitions, window_us=window_us)
    prune = "true" if whole or log.has_offsets or before is None else log.since(before.until_us)
    new = "" if before is None else f"NOT {log.before(before)}"
    present = "" if clock.limit_us is None else f"{log.us} <= {clock.limit_us}"
    future = f"NOT {present}" if present else "false"
    partition, end = (PARTITION, f"max({OFFSET}) + 1") if log.has_offsets else ("''", "0")
    aggregates = [
        partition,
        end,
        f"max({log.us}) {_only(present)}",
        f"min({log.us}) {_only(new, present)}",
        f"count(*) {_only(new)}",
        f"count(*) {_only(new, future)}",
        f"count(*) {_only(new)} - count({log.us}) {_only(new)}",
        f"count({log.arrival})" if log.arrival else "0",
    ]
    found = log.source.execute(log.source.select(", ".join(aggregates), f"WHERE {prune} GROUP BY ALL"))
    newest = {row[0]: clock.at_most_now(row[2]) for row in found if row[2] is not None}
    return Head(
        log=log,
        before=before,
        ends={row[0]: row[1] for row in found} if log.has_offsets else {},
        newest_us=max(newest.values(), default=None),
        first_new_us=min((row[3] for row in found if row[3] is not None), default=None),
        new=sum(row[4] for row in found),
        future=sum(row[5] for row in found),
        without_time=sum(row[6] for row in found),
        live={row[0]: newest[row[0]] for row in found if row[7] and row[0] in newest.keys() - finished},
    )


def _only(*conditions: str) -> str:
    needed = " AND ".join(filter(None, conditions))
    return f"FILTER ({needed})" if needed else ""


def _partitions(log: Log) -> list[str]:
    return [partition for (partition,) in log.source.execute(log.source.select(f"DISTINCT {PARTITION}"))]


@dataclass(frozen=True, kw_only=True)
class Closing:
    """What is closed.

    Attributes:
        closed_us: Impressions before it are.
        clicks_us: Clicks before it belong to them or to nothing: the windows end before it.
        window_us: See `LabelSettings.window_s`.
        lookback_us: See `LabelSettings.lookback_s`.
        limit_us: Later events are of the future; None without a clock.
        from_us: No row before it matters; None when all do.
    """

    closed_us: int
    clicks_us: int
    window_us: int
    lookback_us: int
    limit_us: int | None
    from_us: int | None


def awaited(clicks: Head, newest_us: int, settings: LabelSettings) -> dict[str, int]:
    """The partitions of the clicks that labels wait for, and the largest time of each.

    They are those that a stream fills: files are finished. One that was silent for longer than `stalled_s` and
    `lookback_s` together, until the newest impression, is taken for one that nobody writes to any more.
    """
    silent_us = round(SECOND_US * (settings.stalled_s + settings.lookback_s))
    return {partition: us for partition, us in clicks.live.items() if newest_us - us <= silent_us}


def _watermark(impressions: Head, clicks: Head, settings: LabelSettings) -> int | None:
    """Up to where both logs have come; None when one of them is empty.

    Of the clicks it is the partition that has come least far: what it lacks would be a negative. Of the impressions it
    is the one that has come furthest: those that are late are labelled when they are there.
    """
    if impressions.newest_us is None or clicks.newest_us is None:
        return None
    least_us = min(awaited(clicks, impressions.newest_us, settings).values(), default=clicks.newest_us)
    return min(impressions.newest_us, least_us) - round(SECOND_US * settings.lateness_s)


def close(
    impressions: Head,
    clicks: Head,
    settings: LabelSettings,
    *,
    since: Position | None,
    clock: Clock,
    until: datetime | None,
) -> Closing | None:
    """What the two watermarks close; None when nothing can be, since a log is empty."""
    window_us, lookback_us = (round(SECOND_US * seconds) for seconds in (settings.window_s, settings.lookback_s))
    before_us = None if since is None else microseconds(since.closed_until)
    closed_us = before_us
    if (watermark_us := _watermark(impressions, clicks, settings)) is not None:
        closed_us = watermark_us - window_us
        closed_us = closed_us if until is None else min(closed_us, microseconds(until))
        closed_us = closed_us if before_us is None else max(closed_us, before_us)
    if closed_us is None:
        return None
    firsts = [before_us, impressions.first_new_us]
    firsts += [] if clicks.first_new_us is None else [clicks.first_new_us - window_us]
    first_us = None if before_us is None else min(first for first in firsts if first is not None)
    return Closing(
        closed_us=closed_us,
        clicks_us=closed_us + window_us,
        window_us=window_us,
        lookback_us=lookback_us,
        limit_us=clock.limit_us,
        from_us=None if first_us is None else first_us - lookback_us,
    )
