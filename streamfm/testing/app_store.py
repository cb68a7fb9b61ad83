"""What tests, benchmarks, examples and the demo share: a simulated app store whose click probabilities are known.

    events = simulate_events(100_000, seed=7)                        # a pyarrow.Table, sorted by time
    store = AppStore(seed=7, users=50_000, drift_per_day=0.02)       # or a world of one's own, period by period
    day = store.events(10_000, random=np.random.default_rng(1), days=1)

The logit of a click is a sum that a factorisation machine can find: taste of the user times appeal of the app, its
quality, the user's readiness, the position, the hour for the category, the price for the user, the session's length.

Legend: B events, U users, A apps, K factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamfm.errors import DataError, MissingColumnsError
from streamfm.testing.app_world import Apps, Floats, Indices, Users, draw_world

OPENING = datetime(2026, 1, 5, tzinfo=UTC)  # a Monday
_OPENING_MS = int(OPENING.timestamp()) * 1_000

_POSITION_SHARES: Floats = 1 / np.sqrt(np.arange(1.0, 11.0))
_MEDIAN_SESSION_S = 240.0
# Impressions by hour, from 00:00 UTC: fewest at 04:00, most at 20:00.
_NIGHT, _MORNING = (0.55, 0.35, 0.22, 0.15, 0.12, 0.15), (0.3, 0.55, 0.8, 0.9, 0.95, 1.0)
_AFTERNOON, _EVENING = (1.1, 1.05, 1.0, 1.0, 1.05, 1.2), (1.4, 1.6, 1.7, 1.6, 1.3, 0.9)
_RHYTHM = np.array([*_NIGHT, *_MORNING, *_AFTERNOON, *_EVENING])
# Shares of rows whose column is NULL: what a real log loses on the way.
_NULL_SHARES = {"price": 0.03, "device": 0.02, "country": 0.01, "installed_categories": 0.04}


def simulate_events(
    rows: int, *, seed: int, users: int = 10_000, apps: int = 600, days: float = 28.0, click_rate: float = 0.15
) -> pa.Table:
    """Four weeks of impressions and clicks of an app store; the columns are those of `AppStore.events`.

    Args:
        rows: B.
        seed: Of the world and of what happens in it; the same seed gives the same bytes (with one numpy).
        users: U.
        apps: A.
        days: Length of the log, from `OPENING` on.
        click_rate: Mean true probability.

    Raises:
        DataError: An argument out of its range.
    """
    store = AppStore(seed=seed, users=users, apps=apps, click_rate=click_rate)
    return store.events(rows, random=np.random.default_rng([seed, 2]), days=days)


@dataclass(frozen=True, kw_only=True)
class AppStore:
    """A world of users and apps, wholly determined by these fields.

    Attributes:
        seed: Of everything drawn about users and apps.
        users: U; their activity falls off as in Zipf's law.
        apps: A; so does their popularity.
        click_rate: Mean true probability over the first four weeks.
        drift_per_day: Radians by which every app turns each day towards the appeal and quality of another one.
        newcomer_share: Share of users, and of apps, that arrive evenly over `growth_days` instead of being there first.
        growth_days: See `newcomer_share`.
        still_days: From `OPENING` on, in which nothing turns and nobody arrives yet.

    Raises:
        DataError: A field out of its range.
    """

    seed: int
    users: int = 10_000
    apps: int = 600
    click_rate: float = 0.15
    drift_per_day: float = 0.0
    newcomer_share: float = 0.0
    growth_days: float = 28.0
    still_days: float = 0.0

    def __post_init__(self) -> None:
        """Refuse a world that cannot be."""
        _require(self.seed >= 0, f"seed is {self.seed}, expected 0 or more")
        _require(self.users >= 1, f"users is {self.users}, expected 1 or more")
        _require(self.apps >= 1, f"apps is {self.apps}, expected 1 or more")
        _require(0 < self.click_rate < 1, f"click_rate is {self.click_rate}, expected between 0 and 1")
        _require(0 <= self.newcomer_share < 1, f"newcomer_share is {self.newcomer_share}, expected 0 to below 1")
        _require(self.growth_days > 0, f"growth_days is {self.growth_days}, expected above 0")
        _require(self.still_days >= 0, f"still_days is {self.still_days}, expected 0 or more")

    def events(
        self,
        rows: int,
        *,
        random: np.random.Generator,
        start: datetime = OPENING,
        days: float = 28.0,
        first_event: int = 0,
    ) -> pa.Table:
        """Impressions of a period and their clicks, sorted by time.

        Columns: event_id, ts, user_id, device, os_version, country, installed_categories (LIST, of the user), app_id,
        category, developer, genres (LIST, of the app), price, rating, position, session_seconds, clicked (0 or 1),
        true_probability. NULL now and then: device, country, installed_categories (empty for some), price, rating.

        Args:
            rows: B.
            random: Draws what happens; the same state gives the same bytes.
            start: Beginning of the period, with its time zone.
            days: Its length; impressions follow the hours of the day.
            first_event: Number in the first event_id, for periods that follow each other.

        Raises:
            DataError: `rows` or `first_event` below 0, `days` not above 0, or `start` without a time zone.
        """
        _require(start.tzinfo is not None, f"start is {start} without a time zone, expected one, such as UTC")
        _require(rows >= 0, f"rows is {rows}, expected 0 or more")
        _require(first_event >= 0, f"first_event is {first_event}, expected 0 or more")
        _require(days > 0, f"days is {days}, expected above 0")
        shown = self._draw(rows, random, start, days)
        probability = _sigmoid(self._logits(shown) + self._intercept)
        users, apps = self._world
        return pa.table(
            {
                "event_id": _event_ids(first_event, rows),
                "ts": pa.array(shown.time_ms, pa.timestamp("ms")).cast(pa.timestamp("us")),
                **_take_rows(users.columns, shown.user, random),
                **_take_rows(apps.columns, shown.app, random),
                "position": pa.array(shown.position, pa.int32()),
                "session_seconds": pa.array(shown.session_s),
                "clicked": pa.array(random.random(rows) < probability).cast(pa.int8()),
                "true_probability": pa.array(probability),
            }
        )

    def click_probability(self, events: pa.Table) -> Floats:
        """The true probability [B] of a click on each impression.

        Args:
            events: Any table with user_id, app_id, position, session_seconds and ts as `events` gives them: another
                position or app asks what would have been.

        Raises:
            DataError: A column is absent or has a NULL, or a user or app is not of this world.
        """
        needed = ("user_id", "app_id", "position", "session_seconds", "ts")
        absent = [name for name in needed if name not in events.column_names]
        if absent:
            raise MissingColumnsError(absent, events.column_names, source="events")
        for name in needed:
            _require(events[name].null_count == 0, f"column {name!r} has NULLs, expected none")
        users, apps = self._world
        shown = _Shown(
            user=_places(events["user_id"], users.columns["user_id"]),
            app=_places(events["app_id"], apps.columns["app_id"]),
            position=events["position"].to_numpy(),
            session_s=events["session_seconds"].to_numpy(),
            time_ms=events["ts"].cast(pa.timestamp("ms")).cast(pa.int64()).to_numpy(),
        )
        return _sigmoid(self._logits(shown) + self._intercept)

    @cached_property
    def _world(self) -> tuple[Users, Apps]:
        return draw_world(self.users, self.apps, np.random.default_rng([self.seed, 0]))

    @cached_property
    def _intercept(self) -> float:
        """What brings the mean probability to `click_rate`, by bisection over impressions of their own seed."""
        logits = self._logits(self._draw(50_000, np.random.default_rng([self.seed, 1]), OPENING, 28.0))
        low, high = -40.0, 40.0
        while high - low > 1e-9:
            middle = (low + high) / 2
            low, high = (low, middle) if _sigmoid(logits + middle).mean() > self.click_rate else (middle, high)
        return low

    def _draw(self, rows: int, random: np.random.Generator, start: datetime, days: float) -> _Shown:
        """Who is shown what, when and where."""
        time_ms = _draw_times_ms(rows, start.timestamp() / 3_600, days * 24, random)
        users, apps = self._world
        days_since = _days_since_opening(time_ms)
        return _Shown(
            user=_draw_index(users.activity, self._present(self.users, days_since), random),
            app=_draw_index(apps.popularity, self._present(self.apps, days_since), random),
            position=1 + _draw_index(_POSITION_SHARES, np.full(rows, len(_POSITION_SHARES)), random),
            session_s=np.round(_MEDIAN_SESSION_S * np.exp(random.normal(size=rows)), 1),
            time_ms=time_ms,
        )

    def _present(self, count: int, days_since_opening: Floats) -> Indices:
        """[B] how many of `count` users or apps have arrived by then; they come in the order of their numbers."""
        newcomers = min(count - 1, round(count * self.newcomer_share))
        arrivals = self.still_days + np.linspace(0, self.growth_days, newcomers, endpoint=False)
        present: Indices = count - newcomers + np.searchsorted(arrivals, days_since_opening, side="right")
        return present

    def _logits(self, shown: _Shown) -> Floats:
        """[B] true logits, less the intercept."""
        users, apps = self._world
        days = _days_since_opening(shown.time_ms)
        appeal, quality = apps.appeal[shown.app], apps.quality[shown.app]
        if self.drift_per_day:
            other = (shown.app + self.apps // 2) % self.apps
            turned = self.drift_per_day * np.maximum(days - self.still_days, 0)
            old, new = np.cos(turned), np.sin(turned)
            appeal = old[:, None] * appeal + new[:, None] * apps.appeal[other]
            quality = old * quality + new * apps.quality[other]
        evening = np.cos((days * 24 - 20) * np.pi / 12)
        logits: Floats = (
            np.einsum("bk,bk->b", users.taste[shown.user], appeal)
            + quality
            + users.readiness[shown.user]
            - 0.45 * np.log(shown.position)
            + 0.4 * apps.evening[shown.app] * evening
            - 0.4 * users.thrift[shown.user] * np.log1p(apps.price[shown.app])
            - 0.2 * np.log(shown.session_s / _MEDIAN_SESSION_S)
        )
        return logits


@dataclass(frozen=True, kw_only=True, slots=True)
class _Shown:
    """Impressions before their clicks, [B] each; users and apps by their number in the world."""

    user: Indices
    app: Indices
    position: Indices
    session_s: Floats
    time_ms: Indices


def _days_since_opening(time_ms: Indices) -> Floats:
    return (time_ms - _OPENING_MS) / 86_400_000


def _draw_times_ms(rows: int, start_hour: float, hours: float, random: np.random.Generator) -> Indices:
    """[B] ascending milliseconds since 1970, denser where the hour of the day is busy; hours count from 1970, too."""
    end_hour = start_hour + hours
    edges = np.concatenate(([start_hour], np.arange(math.floor(start_hour) + 1, end_hour), [end_hour]))
    lengths = np.diff(edges)
    busy = lengths * _RHYTHM[edges[:-1].astype(np.int64) % 24]
    hour = _draw_index(busy, np.full(rows, len(busy)), random)
    return np.sort(((edges[hour] + random.random(rows) * lengths[hour]) * 3_600_000).astype(np.int64))


def _draw_index(shares: Floats, first: Indices, random: np.random.Generator) -> Indices:
    """[B] indices among the `first` [B] ones of the shares, each as often as its share says."""
    cumulative = np.cumsum(shares)
    drawn = np.searchsorted(cumulative, random.random(len(first)) * cumulative[first - 1], side="right")
    indices: Indices = np.minimum(drawn, first - 1)
    return indices


def _take_rows(table: pa.Table, rows: Indices, random: np.random.Generator) -> dict[str, pa.ChunkedArray]:
    """Columns of the table's rows, with NULLs strewn over those that have a NULL share."""
    columns = {}
    for name in table.column_names:
        share = _NULL_SHARES.get(name)
        lost = None if share is None else random.random(len(rows)) < share
        columns[name] = table[name].take(pa.array(rows, mask=lost))
    return columns


def _event_ids(first: int, rows: int) -> pa.Array:
    numbers = pc.utf8_lpad(pa.array(np.arange(first, first + rows)).cast(pa.string()), width=9, padding="0")
    return pc.binary_join_element_wise("e", numbers, "")


def _places(values: pa.ChunkedArray, known: pa.ChunkedArray) -> Indices:
    """[B] places of the values among the known ones."""
    places = pc.index_in(values, value_set=known.combine_chunks())
    if places.null_count:
        stranger = values.filter(pc.is_null(places))[0].as_py()
        message = f"{stranger!r} is not of this world"
        raise DataError(message, hint="events of another seed or size?")
    found: Indices = places.to_numpy().astype(np.int64)
    return found


def _sigmoid(logits: Floats) -> Floats:
    return 1 / (1 + np.exp(-logits))


def _require(right: bool, message: str) -> None:
    if not right:
        raise DataError(message)
