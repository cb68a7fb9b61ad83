"""What happens in the demo's app store hour by hour, and what therefore must come out of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamfm.testing import AppStore

CLICK_DELAY_S = 120.0
"""Mean time from an impression to its click; it is exponential."""

SENT_TWICE = 50
"""One click in so many is sent a second time, as trackers do."""

KeyValue = tuple[bytes | None, bytes | None]


class Expected(NamedTuple):
    """What a join of all impressions with all clicks must find.

    Attributes:
        labelled: Impressions whose window has closed.
        positives: Those with a click in it.
        clicks_duplicate: Clicks that were sent a second time and whose window has closed.
    """

    labelled: int
    positives: int
    clicks_duplicate: int


@dataclass(frozen=True, kw_only=True)
class Hour:
    """One hour of impressions.

    Attributes:
        number: 1, 2, ...
        begin: Its beginning.
        end: Where the next one begins.
        events: The impressions, without what only the simulation knows.
        clicked: int8 [B] whether each is clicked, sooner or later.
        truth: float64 [B] its true probability.
    """

    number: int
    begin: datetime
    end: datetime
    events: pa.Table
    clicked: NDArray[np.int8]
    truth: NDArray[np.float64]

    @property
    def ids(self) -> list[str]:
        """Of the impressions."""
        names: list[str] = self.events["event_id"].to_pylist()
        return names

    def messages(self) -> list[KeyValue]:
        """The impressions as events of a topic: key and JSON."""
        return [_message(row) for row in self.events.to_pylist()]


class SimulatedHours:
    """A world that goes on, hour by hour."""

    def __init__(self, store: AppStore, *, begin: datetime, per_hour: int, first_event: int, seed: int) -> None:
        """Begin.

        Args:
            store: The world.
            begin: Of the first hour.
            per_hour: Impressions.
            first_event: Number of the first one.
            seed: Of what happens.
        """
        self._store, self._begin, self._per_hour, self._first_event = store, begin, per_hour, first_event
        self._random = np.random.default_rng(seed)
        self._hours = 0
        # Milliseconds since 1970: of every impression so far, and of its click, 0 for none.
        self._shown_ms: NDArray[np.int64] = np.empty(0, np.int64)
        self._clicked_ms: NDArray[np.int64] = np.empty(0, np.int64)
        self._ids: list[str] = []
        self._sent = np.empty(0, np.bool_)
        self._twice = np.empty(0, np.bool_)
        self._last_click_ms = self._now_ms = 0

    def hour(self) -> Hour:
        """The next hour's impressions."""
        begin = self._begin + timedelta(hours=self._hours)
        events = self._store.events(
            self._per_hour,
            random=self._random,
            start=begin,
            days=1 / 24,
            first_event=self._first_event + self._hours * self._per_hour,
        )
        self._hours += 1
        clicked: NDArray[np.int8] = events["clicked"].to_numpy()
        shown_ms = events["ts"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy()
        delay_ms = np.ceil(1_000 * self._random.exponential(CLICK_DELAY_S, len(events))).astype(np.int64)
        self._shown_ms = np.concatenate([self._shown_ms, shown_ms])
        self._clicked_ms = np.concatenate([self._clicked_ms, np.where(clicked > 0, shown_ms + delay_ms, 0)])
        nothing = np.zeros(len(events), np.bool_)
        self._sent = np.concatenate([self._sent, nothing])
        self._twice = np.concatenate([self._twice, nothing])
        hour = Hour(
            number=self._hours,
            begin=begin,
            end=begin + timedelta(hours=1),
            events=events.drop_columns(["clicked", "true_probability"]),
            clicked=clicked,
            truth=events["true_probability"].to_numpy(),
        )
        self._ids += hour.ids
        return hour

    def clock(self) -> float:
        """Seconds since 1970 up to which clicks were asked for."""
        return self._now_ms / 1_000

    def clicks(self) -> list[KeyValue]:
        """The clicks so far that were not sent yet, in the order of their time; some of them twice."""
        self._now_ms = end_ms = round((self._begin + timedelta(hours=self._hours)).timestamp() * 1_000)
        due = np.flatnonzero((self._clicked_ms > 0) & (self._clicked_ms < end_ms) & ~self._sent)
        due = due[np.argsort(self._clicked_ms[due], kind="stable")]
        self._sent[due] = True
        self._twice[due[::SENT_TWICE]] = True
        if len(due):
            self._last_click_ms = max(self._last_click_ms, int(self._clicked_ms[due[-1]]))
        messages = []
        for place in due.tolist():
            click = {"event_id": self._ids[place], "ts": _instant(int(self._clicked_ms[place]))}
            messages += [_message(click)] * (1 + bool(self._twice[place]))
        return messages

    def expected(self, window_s: float) -> Expected:
        """What a join of everything that was sent so far must find, with an attribution window."""
        window_ms = round(1_000 * window_s)
        if not len(self._shown_ms):
            return Expected(0, 0, 0)
        closed_ms = min(int(self._shown_ms[-1]), self._last_click_ms) - window_ms
        closed = self._shown_ms < closed_ms
        positive = closed & (self._clicked_ms > 0) & (self._clicked_ms <= self._shown_ms + window_ms)
        # A late copy is both; what the log sees of clicks ends with the window of the last closed impression.
        copies = self._twice & (self._clicked_ms < closed_ms + window_ms)
        return Expected(int(closed.sum()), int(positive.sum()), int(copies.sum()))

    def shown_before(self, moment: datetime) -> int:
        """How many impressions there were before an instant."""
        return int((self._shown_ms * 1_000 < round(moment.timestamp() * 1_000_000)).sum())


def _message(row: dict[str, Any]) -> KeyValue:
    return row["event_id"].encode(), json.dumps(row, default=str).encode()


def _instant(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1_000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
