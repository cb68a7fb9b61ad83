"""`streamfm init`: a first specification out of the data, with the reasons as comments.

It is meant to be read and changed. What it leaves out, and what it is not sure of, it says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from streamfm.data.sources import Source, SourceLike, open_source
from streamfm.data.splitting import drawn
from streamfm.errors import DataError, SpecError
from streamfm.expressions import check, quoted
from streamfm.features import FeatureSpec, Task
from streamfm.features.inputs import Input
from streamfm.proposal.column_statistics import ColumnStatistics, column_statistics, explains_label, inputs_in_texts
from streamfm.proposal.features import TIMES, FeatureRules, Proposed, epoch_form, sql_name

SAMPLE_ROWS = 500_000
"""Larger tables are looked at through so many rows, drawn at random."""

_GROUPS = ("user_id", "userid", "user", "uid", "member_id", "customer_id", "visitor_id", "account_id", "session_id")
_EVENT_IDS = ("event_id", "impression_id", "request_id", "row_id", "id", "uuid")
_ID = re.compile(r"(^|_)(id|key|uuid|guid|hash)$", re.IGNORECASE)
_RESULT = re.compile(
    r"(^|_)(label|target|true|truth|outcome|prediction|predicted|probability|converted|conversion)(_|$)", re.IGNORECASE
)


class Proposal(NamedTuple):
    """A specification and why it is so.

    Attributes:
        spec: The specification.
        comments: Lines above a setting, input or feature, as `FeatureSpec.to_toml` takes them.
    """

    spec: FeatureSpec
    comments: Mapping[str, Sequence[str]]

    def to_toml(self) -> str:
        """The commented TOML file."""
        return self.spec.to_toml(self.comments)


def propose(rows: SourceLike, label: str) -> Proposal:
    """A specification for learning a label from the other columns.

    Args:
        rows: See `SourceLike`.
        label: The column to learn: 0 and 1, or any numbers for a regression.

    Raises:
        MissingColumnsError: There is no such label.
        DataError: No rows, a label that cannot be learnt, or no column that a feature can be made of.
    """
    with open_source(rows) as source:
        source.keep()
        source.require([label])
        if source.rows == 0:
            raise DataError(f"{source.name}: no rows", hint="check the file, or the filter it was read with")
        written = inputs_in_texts(source) if source.is_text else ()
        if not written:
            return _Draft(source, _spelling(source, label)).proposal()
    with open_source(rows, inputs=written) as source:
        source.keep()
        return _Draft(source, _spelling(source, label)).proposal()


def _spelling(source: Source, label: str) -> str:
    return next(name for name in source.columns if name.casefold() == label.casefold())


class _Draft:
    """A proposal in the making."""

    def __init__(self, source: Source, label: str) -> None:
        self.source, self.label = source, label
        self.sample = drawn(source, SAMPLE_ROWS)
        self.task = self._task()
        self.left_out: list[str] = []

    def proposal(self) -> Proposal:
        columns = column_statistics(self.sample, [name for name in self.source.columns if name != self.label])
        usable = [column for column in columns if not self._leaves_out(column, self._reason_against(column))]
        items = {column.name: item for column in usable if (item := self._item(column)) is not None}
        roles = _roles(usable, items)
        proposed = self._features(usable, items, roles)
        if not proposed:
            what = "; ".join(self.left_out)
            raise DataError(f"{self.source.name}: no column that a feature can be made of: {what}")
        used = self._used(proposed, items)
        spec = FeatureSpec(
            inputs=tuple(item for item in items.values() if item.name in used),
            features=tuple(one.feature for one in proposed),
            label=self.label,
            task=self.task,
            **roles,
        )
        comments = {f"features.{one.feature.name}": one.notes for one in proposed}
        return Proposal(spec, self._comments() | comments)

    def _task(self) -> Task:
        """What the label's values ask for.

        Raises:
            DataError: They cannot be learnt.
        """
        column = column_statistics(self.source, [self.label])[0]
        of, label = f"{self.source.name}: label {self.label!r}", quoted(self.label)
        if column.item is None or column.item.is_list or column.item.family not in ("integer", "real", "boolean"):
            hint = f"make numbers of it in SQL: SELECT * REPLACE ({label} = 'yes' AS {label}) FROM ..."
            raise DataError(f"{of} holds {column.type[:60]}, expected 0 and 1, or numbers", hint=hint)
        if 0 < column.present < column.rows:
            hint = f"leave these rows out: SELECT * FROM ... WHERE {label} IS NOT NULL"
            raise DataError(f"{of} is NULL in {column.rows - column.present:,} of {column.rows:,} rows", hint=hint)
        if column.distinct < 2:
            raise DataError(f"{of} is {column.shown or 'NULL'} in all {column.rows:,} rows: nothing to learn")
        if column.infinite:
            raise DataError(f"{of} is infinite in {column.infinite:,} rows, expected finite numbers")
        if column.distinct > 2:
            return "regression"
        if column.item.family != "boolean" and (column.least, column.high) != (0.0, 1.0):
            hint = f"make them so in SQL: SELECT * REPLACE ({label} = {column.high:g} AS {label}) FROM ..."
            raise DataError(f"{of} has the values {column.least:g} and {column.high:g}, expected 0 and 1", hint=hint)
        return "binary"

    def _leaves_out(self, column: ColumnStatistics, reason: str) -> bool:
        if reason:
            self.left_out.append(f"{column.name}: {reason}")
        return bool(reason)

    def _reason_against(self, column: ColumnStatistics) -> str:
        if column.present == 0:
            return "NULL in every row"
        if column.item is None:
            return f"{column.type[:60]} is no type that a feature can be made of; take it apart in SQL"
        if column.distinct <= 1 and column.present == column.rows and not column.item.is_list:
            return f"constant: always {column.shown!r}"
        if _RESULT.search(column.name):
            return "by its name the answer itself, or made of it; it would not be known when an event is scored"
        if self.task == "binary" and explains_label(self.sample, column, quoted(self.label)):
            return f"tells {self.label} all by itself: known only afterwards?"
        return ""

    def _item(self, column: ColumnStatistics) -> Input | None:
        """As what a column is declared; a text file's numbers can be declared to be instants."""
        form = epoch_form(column) if self.source.is_text and column.item is not None else None
        return Input(name=column.name, type="TIMESTAMP", json=form) if form else column.item

    def _features(
        self, columns: Sequence[ColumnStatistics], items: Mapping[str, Input], roles: Mapping[str, str]
    ) -> list[Proposed]:
        rules = FeatureRules(self.source.columns, items.get(roles.get("event_time", "")))
        proposed: list[Proposed] = []
        for column in columns:
            if column.name in (roles.get("event_id"), roles.get("weight")):
                continue
            found = rules.features_of(column, items[column.name])
            if not isinstance(found, str):
                found = self._reason_against_sql(found, items) or found
            if isinstance(found, str):
                self.left_out.append(f"{column.name}: {found}")
            else:
                proposed += found
        return proposed

    def _reason_against_sql(self, proposed: Sequence[Proposed], items: Mapping[str, Input]) -> str:
        try:
            for one in proposed:
                if one.feature.sql:
                    check(one.feature, tuple(items.values()))
        except SpecError as error:
            return error.message
        return ""

    def _used(self, proposed: Sequence[Proposed], items: Mapping[str, Input]) -> set[str]:
        used = {one.feature.input for one in proposed}
        for one in proposed:
            if one.feature.sql:
                used |= set(check(one.feature, tuple(items.values())).columns)
        return used

    def _comments(self) -> dict[str, Sequence[str]]:
        notes = [f"Proposed from {self.source.name}, {self.source.rows:,} rows."]
        if self.sample.rows < self.source.rows:
            notes.append(
                f"Looked at: {self.sample.rows:,} of them, drawn at random, so that rarer values were not seen."
            )
        if self.left_out:
            notes += ["Left out:", *(f"  {line}" for line in self.left_out)]
        name = sql_name(self.label)
        regression = [
            f"{name} has other values than 0 and 1: squared error. For clicks, make them 0 and 1:",
            f"SELECT * REPLACE ({name} >= 4 AS {name}) FROM ...",
        ]
        return {
            "label": notes,
            "task": regression if self.task == "regression" else [],
            "group": ["AUC is also taken inside each group."],
            "event_time": ["The latest rows validate."],
            "event_id": ["Another value in each row: it names the event, and is no feature."],
        }


def _roles(columns: Sequence[ColumnStatistics], items: Mapping[str, Input]) -> dict[str, str]:
    """Event id, event time, group and weight, by name and content."""
    by_name = {column.name.casefold(): column for column in columns}
    names = [c for c in columns if not items[c.name].is_list and items[c.name].family in ("text", "integer")]
    ids = [column for column in names if column.is_unique and column.rows > 1 and _ID.search(column.name)]
    times = [c for c in columns if items[c.name].is_temporal and not items[c.name].is_list and c.null_share < 0.01]
    groups = [column for column in names if 1 < column.distinct < 0.9 * column.present]
    weights = [c for c in columns if c.is_number and c.least >= 0 and not c.infinite and c.present == c.rows]
    chosen = {
        "weight": _preferred(("weight", "sample_weight"), by_name, weights),
        "group": _preferred(_GROUPS, by_name, groups),
        "event_time": _preferred(TIMES, by_name, times) or (times[0] if times else None),
        "event_id": _preferred(_EVENT_IDS, by_name, ids) or (ids[0] if ids else None),
    }
    return {role: column.name for role, column in chosen.items() if column is not None}


def _preferred(
    names: Sequence[str], columns: Mapping[str, ColumnStatistics], allowed: Sequence[ColumnStatistics]
) -> ColumnStatistics | None:
    return next((columns[name] for name in names if columns.get(name) in allowed), None)
