"""Which features to make of a column, judged by its name and by what it holds."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from streamfm.expressions import private_connection, quoted
from streamfm.features import Feature, Kind
from streamfm.features.inputs import Input
from streamfm.proposal.column_statistics import ColumnStatistics

FEW_VALUES = 50
"""So many different integers or fewer are names of something rather than amounts."""

HASHED_VALUES = 2_000_000
"""More values than these are hashed."""

_HASH_BUCKETS = 1 << 21
_RARE_VALUES = 100
_BY_CHANCE = 100
"""In so many rows or fewer, different values may be so by chance."""

_NAMES_THE_ROW = "another value in each row: it names the row, and tells nothing"
_OR_AN_AMOUNT = 'is it an amount? Then write kind = "numeric"'
_MAX_LIST = 64
_SIMPLE = re.compile(r"[a-z_][a-z0-9_]*", re.IGNORECASE)
_THING = re.compile(
    r"(^|_)(id|ids|key|code|zip|postcode|uuid|guid|hash|user|item|app|ad|campaign|city|country|region|category|brand"
    r"|product|store|shop|channel|type|class|device|os|language|lang|gender|page|site|slot|movie|author|publisher)$",
    re.IGNORECASE,
)
_AFTERWARDS = re.compile(
    r"(^|_)(click|clicks|clicked|purchase|purchased|install|installed|dwell|revenue)(_|$)", re.IGNORECASE
)
TIMES = ("event_time", "event_timestamp", "timestamp", "ts", "time", "datetime", "event_date", "created_at", "date")
"""Usual names of the event's time, the surest first."""

_EPOCHS = {"epoch_s": 1.0, "epoch_ms": 1e3, "epoch_us": 1e6}
_YEAR_1995_S, _YEAR_2100_S = 788_918_400, 4_102_444_800


@dataclass(frozen=True, kw_only=True)
class Proposed:
    """A feature and the reasons for it.

    Attributes:
        feature: The feature.
        notes: Lines of a comment.
    """

    feature: Feature
    notes: tuple[str, ...]


class FeatureRules:
    """The rules, for the columns of one table."""

    def __init__(self, names: Collection[str], event_time: Input | None) -> None:
        """Remember which names are taken, and which column tells the event's time."""
        self._taken = {name.casefold() for name in names}
        self._event_time = event_time

    def features_of(self, column: ColumnStatistics, item: Input) -> list[Proposed] | str:
        """Features to make of a column, or the reason why there are none.

        Args:
            column: What it holds.
            item: The input that it is declared as.
        """
        if item.is_list:
            return self._of_list(column)
        if item.is_temporal:
            return self._of_time(column, item)
        if item.family in ("text", "boolean"):
            return self._of_category(column)
        if _THING.search(column.name) and column.is_whole:
            return self._of_category(column, "Numbers that are names, by the column's name.")
        if reason := _instant(column) or _whole_number_of_a_row(column):
            return reason
        few = FEW_VALUES if column.is_whole else FEW_VALUES // 4
        if column.distinct <= few and not _hardly_repeats(column):
            return self._of_category(column, "Few different numbers: names of something rather than amounts.")
        return self._of_number(column)

    def _of_category(self, column: ColumnStatistics, *reason: str) -> list[Proposed] | str:
        if column.is_unique and column.rows > 1:
            return _NAMES_THE_ROW
        if _hardly_repeats(column) and column.present > _BY_CHANCE:
            return _almost_none_again(column)
        settings, notes = _rare(column)
        feature = Feature(name=column.name, kind="categorical", **settings)
        return [_named(column, feature, f"{_count(column.distinct)} values{_nulls(column)}.", *reason, *notes)]

    def _of_list(self, column: ColumnStatistics) -> list[Proposed] | str:
        if column.distinct == 0:
            return "lists without values"
        settings, notes = _rare(column)
        length = min(max(column.length, 1), _MAX_LIST)
        feature = Feature(name=column.name, kind="multivalued", max_length=length, **settings)
        first = f"Lists of {_count(column.distinct)} values, 99 % of at most {column.length}{_nulls(column)}."
        return [_named(column, feature, first, *notes)]

    def _of_number(self, column: ColumnStatistics) -> list[Proposed]:
        notes = [f"From {_short(column.least)}, median {_short(column.median)}, 99 % below {_short(column.high)}"]
        notes[0] += f"{_nulls(column)}."
        settings: dict[str, Any] = {}
        if column.zeros > 0.5:
            notes.append(f"{column.zeros:.0%} are 0: in buckets, so that 0 has a weight of its own.")
            settings = {"transform": "quantile", "buckets": 16}
        elif _has_long_tail(column):
            notes.append("A long tail: by its logarithm.")
            settings = {"transform": "log1p"}
        if column.is_whole:
            notes.append('An amount? If its numbers are names of something, write kind = "categorical".')
        if column.infinite:
            notes.append(f"{column.infinite:,} values are infinite, which nothing scales: they count as missing.")
            name = sql_name(column.name)
            sql = f"CASE WHEN isfinite({name}) THEN {name} END"
            return [self._derived(f"{column.name}_finite", "numeric", sql, *notes, **settings)]
        return [_named(column, Feature(name=column.name, kind="numeric", **settings), *notes)]

    def _of_time(self, column: ColumnStatistics, item: Input) -> list[Proposed] | str:
        """Hour and weekday of the event's time; how long ago other times were."""
        name, event = sql_name(column.name), self._event_time
        if event is None:
            return "a time, but not the event's"
        if item.name != event.name:
            notes = (
                f"Days between {column.name} and the event{_nulls(column)}.",
                "Is it known before the event is scored?",
            )
            sql = f"date_diff('day', {name}, {sql_name(event.name)})"
            return [self._derived(f"days_since_{column.name}", "numeric", sql, *notes, transform="log1p")]
        hour = self._derived(self._free("hour", column), "categorical", f"hour({name})", "Hour of the day, in UTC.")
        day_note = "Day of the week; Sunday is 0."
        day = self._derived(self._free("weekday", column), "categorical", f"dayofweek({name})", day_note)
        return [day] if item.family == "date" else [hour, day]

    def _derived(self, name: str, kind: Kind, sql: str, *notes: str, **settings: Any) -> Proposed:
        return Proposed(feature=Feature(name=name, kind=kind, sql=sql, **settings), notes=notes)

    def _free(self, name: str, column: ColumnStatistics) -> str:
        return f"{column.name}_{name}" if name in self._taken else name


def epoch_form(column: ColumnStatistics) -> str | None:
    """The JSON form of a column of numbers that by name and values are instants."""
    return _form_of_values(column) if column.name.casefold() in TIMES else None


def _form_of_values(column: ColumnStatistics) -> str | None:
    """The same by the values alone."""
    if not column.is_number:
        return None
    for form, unit in _EPOCHS.items():
        if _YEAR_1995_S * unit <= column.least and column.high <= _YEAR_2100_S * unit:
            return form
    return None


def _instant(column: ColumnStatistics) -> str:
    """Why numbers that by their values are instants make no feature, or nothing."""
    form = _form_of_values(column)
    if form is None:
        return ""
    made = f"make_timestamp({sql_name(column.name)}::BIGINT * {1e6 / _EPOCHS[form]:.0f})"
    name = "event_time" if column.name.casefold() in TIMES else sql_name(f"{column.name}_time")
    return f"an instant as a number, by its values; to use it: SELECT *, {made} AS {name} FROM ..."


def _whole_number_of_a_row(column: ColumnStatistics) -> str:
    """Why whole numbers that hardly come again make no feature, or nothing: amounts come again, or have a long tail."""
    if not column.is_whole or not _hardly_repeats(column) or column.present <= _BY_CHANCE:
        return ""
    if column.is_unique:
        return f"{_NAMES_THE_ROW}; {_OR_AN_AMOUNT}"
    return "" if _has_long_tail(column) else f"{_almost_none_again(column)}; {_OR_AN_AMOUNT}"


def _hardly_repeats(column: ColumnStatistics) -> bool:
    return column.distinct > 0.9 * column.present


def _almost_none_again(column: ColumnStatistics) -> str:
    return f"{_count(column.distinct)} values in {column.present:,} rows: almost none comes again"


def _has_long_tail(column: ColumnStatistics) -> bool:
    return column.high - column.median > 5 * max(column.median - column.low, 1e-9 * abs(column.high))


def sql_name(name: str) -> str:
    """The name as people write it in SQL: quoted only where it must be."""
    return name if _SIMPLE.fullmatch(name) and name.casefold() not in _keywords() else quoted(name)


@cache
def _keywords() -> frozenset[str]:
    """Words that SQL keeps for itself."""
    query = "SELECT keyword_name FROM duckdb_keywords() WHERE keyword_category <> 'unreserved'"
    with private_connection() as connection:
        return frozenset(word for (word,) in connection.execute(query).fetchall())


def _named(column: ColumnStatistics, feature: Feature, *notes: str) -> Proposed:
    """A feature of the column itself, with a warning where its name asks for one."""
    warning = ("Is it known before the event is scored? If not, remove it.",)
    return Proposed(feature=feature, notes=notes + (warning if _AFTERWARDS.search(column.name) else ()))


def _rare(column: ColumnStatistics) -> tuple[dict[str, Any], list[str]]:
    """Settings for values that are seen too seldom, or are too many, and the reason."""
    if column.distinct > HASHED_VALUES:
        return {"hash_buckets": _HASH_BUCKETS}, ["So many are hashed; for a vocabulary, set min_count instead."]
    if column.distinct > _RARE_VALUES:
        return {"min_count": 2}, ["Values seen once teach what an unknown value is worth."]
    return {}, []


def _count(number: int) -> str:
    """Large counts are estimates: two digits of them."""
    return f"{number:,}" if number < 1000 else f"about {float(f'{number:.2g}'):,.0f}"


def _short(number: float) -> str:
    return f"{float(f'{number:.4g}'):,.10g}"


def _nulls(column: ColumnStatistics) -> str:
    return f", {column.null_share:.1%} NULL" if column.present < column.rows else ""
