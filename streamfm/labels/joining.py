"""The join: impressions and their clicks, each impression once, as SQL over the two logs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from streamfm.data.readers import literal
from streamfm.data.sources import Source
from streamfm.expressions import quoted
from streamfm.labels.drawing import kept
from streamfm.labels.heads import Closing, Head
from streamfm.labels.late import late_rows
from streamfm.labels.logs import OFFSET, PARTITION, Log
from streamfm.labels.names import (
    CLICKS,
    CLICKS_BY_ID,
    COPIES,
    ID,
    NEGATIVE,
    NEW,
    POSITIVE,
    RANK,
    READ,
    ROW,
    SAMPLED_OUT,
    STATE,
    UNSETTLED,
    US,
    WEIGHT,
)
from streamfm.labels.repeats import Hashes, hash_parts, repeated
from streamfm.labels.settings import LabelSettings

_ROWS = 1 << 17
UNKNOWN_WEIGHT = -1


@dataclass(frozen=True, kw_only=True)
class Join:
    """What one round joins.

    Attributes:
        source: Of the connection that all runs on.
        impressions: As they were found.
        clicks: As they were found.
        closing: What is closed.
        settings: See there.
    """

    source: Source
    impressions: Head
    clicks: Head
    closing: Closing
    settings: LabelSettings

    @cached_property
    def casts(self) -> tuple[str, str]:
        """SQL of the ids of impressions and clicks, of one type."""
        shown, clicked = self.impressions.log, self.clicks.log
        if shown.identity_type == clicked.identity_type:
            return shown.identity, clicked.identity
        return f"CAST({shown.identity} AS VARCHAR)", f"CAST({clicked.identity} AS VARCHAR)"

    def shown(self, condition: str = "true", *, from_us: int | None = None) -> str:
        """Impressions that have an id and a time and are not of the future, with `ID`, `US` and `READ` beside them.

        Args:
            condition: SQL over these columns.
            from_us: No earlier ones; `closing.from_us` by default.
        """
        log, head = self.impressions.log, self.impressions
        from_us = self.closing.from_us if from_us is None else from_us
        exact = "true" if from_us is None else f"{log.us} >= {from_us}"
        rows = log.source.select(
            f"*, {self.casts[0]} AS {ID}, {log.us} AS {US}, {head.is_read} AS {READ}",
            f"WHERE {log.since(from_us)} AND {exact} AND {head.rows(self.closing.limit_us)} "
            f"AND {log.identity} IS NOT NULL AND {head.has_time}",
        )
        return f"SELECT * FROM ({rows}) WHERE {condition}"

    def new(self, condition: str = "true") -> str:
        """The impressions that were not read before; parts of files that hold none are skipped."""
        return self.shown(f"NOT {READ} AND {condition}", from_us=self.impressions.first_new_us)

    @property
    def identified(self) -> int:
        """How many new impressions have an id and a time and are not of the future."""
        return self._repeated[1]

    @cached_property
    def _repeated(self) -> tuple[Hashes, int]:
        """The hashes that come more than once among the ids of new and read impressions, and `identified`."""
        execute, batches = self.source.execute, self.source.batches
        if self.impressions.before is not None:
            # Few, so that they are counted before room is made for them.
            execute(f"CREATE TABLE {NEW} AS SELECT {ID} AS id FROM ({self.new()})")
            ids = self.shown(f"{ID} IN (SELECT id FROM {NEW})")
            few = list(batches(f"SELECT hash({ID}) FROM ({ids})"))
            hashes, _ = repeated(few, sum(batch.num_rows for batch in few))
            return hashes, execute(f"SELECT count(*) FROM {NEW}")[0][0]
        most = self.impressions.new
        parts = [self.shown(part) for part in hash_parts(f"hash({ID})", most)]
        found = [repeated(batches(f"SELECT hash({ID}) FROM ({part})", _ROWS), most) for part in parts]
        return np.concatenate([hashes for hashes, _ in found]), sum(rows for _, rows in found)

    @cached_property
    def has_copies(self) -> bool:
        """Whether an id of a new impression is there more than once.

        All rows with such an id are then in `COPIES`, by `RANK`: 1 is the one that counts, which is one that was read
        before, else the first. (An id whose hash another one has is there, too, and is the first of its own.)
        """
        execute, hashes = self.source.execute, self._repeated[0]
        if not len(hashes):
            return False
        self.source.connection.register("streamfm_again", pa.table({"hash": hashes}))
        order = [f"{READ} DESC", US, *([PARTITION, OFFSET] if self.impressions.log.has_offsets else []), ROW]
        rank = f"row_number() OVER (PARTITION BY {ID} ORDER BY {', '.join(order)}) AS {RANK}"
        execute(
            f"CREATE TABLE {COPIES} AS SELECT {ROW}.*, {rank} FROM ({self.shown()}) {ROW} "
            f"WHERE hash({ID}) IN (SELECT hash FROM streamfm_again)"
        )
        return True

    def gather_clicks(self) -> None:
        """Fill `CLICKS` and `CLICKS_BY_ID`."""
        head, log = self.clicks, self.clicks.log
        kept = f"{log.identity} IS NOT NULL AND {log.us} < {self.closing.clicks_us} AND {WEIGHT} IS NOT NULL"
        rows = log.source.select(
            f"*, {kind_weight(self.settings, log)} AS {WEIGHT}",
            f"WHERE {log.since(self.closing.from_us)} AND {head.rows(self.closing.limit_us)}",
        )
        self.source.execute(
            f"CREATE TABLE {CLICKS} AS SELECT {self.casts[1]} AS id, {log.us} AS us, {WEIGHT} AS weight, "
            f"{head.is_read} AS read FROM ({rows}) WHERE {kept}"
        )
        all_ids = f"SELECT id, us, weight, false AS copied FROM {CLICKS}"
        if self.has_copies:
            all_ids += f" UNION ALL SELECT {ID}, NULL, NULL, true FROM {COPIES} WHERE {RANK} = 1"
        self.source.execute(
            f"CREATE TABLE {CLICKS_BY_ID} AS SELECT id, min(us) AS first, max(us) AS last, max(weight) AS weight, "
            f"bool_or(copied) AS copied FROM ({all_ids}) GROUP BY id"
        )

    def labelled(self, *, in_order: bool, click_rate: float = 0.0) -> str:
        """SQL of the new rows: all columns of the impressions, the label, the weight, `STATE`.

        Args:
            in_order: Whether in the order of time and id.
            click_rate: For late positives whose rows carry no score.
        """
        settings = self.settings
        state = (
            f"CASE WHEN {WEIGHT} > 0 THEN {POSITIVE} WHEN {WEIGHT} = {UNKNOWN_WEIGHT} THEN {UNSETTLED} "
            f"WHEN {kept(settings, f's.{ID}')} THEN {NEGATIVE} ELSE {SAMPLED_OUT} END"
        )
        wanted = f"s.*, {self.weight('s', 'c')} AS {WEIGHT}, {state} AS {STATE}, c.last IS NOT NULL AS {RANK}"
        clicks = f"LEFT JOIN {CLICKS_BY_ID} c ON s.{ID} = c.id"
        closed = f"{US} < {self.closing.closed_us}"
        joined = f"SELECT {wanted} FROM ({self.new(closed)}) s {clicks}"
        if self.has_copies:
            first = f"SELECT * EXCLUDE ({RANK}) FROM {COPIES} WHERE {RANK} = 1 AND NOT {READ} AND {closed}"
            joined += f" WHERE c.copied IS NOT TRUE UNION ALL SELECT {wanted} FROM ({first}) s {clicks}"
        if self.has_late:
            joined += f" UNION ALL {late_rows(self.shown(READ), settings, self.score, click_rate)}"
        has_offsets = self.impressions.log.has_offsets
        hidden = [ID, US, READ, WEIGHT, STATE, RANK, *([PARTITION, OFFSET] if has_offsets else [])]
        columns = [f"* EXCLUDE ({', '.join(hidden)})"]
        columns += [f"CAST(coalesce({WEIGHT} > 0, false) AS TINYINT) AS {quoted(settings.label)}"]
        weight = f"CASE WHEN {WEIGHT} > 0 THEN {WEIGHT} ELSE 1.0 END"
        columns += [f"{weight} AS {quoted(settings.weight)}"] if settings.weight else []
        columns += [f"CASE WHEN {RANK} THEN CAST({STATE} AS TINYINT) END AS {STATE}"]
        # By the columns themselves: what is hidden need not be sorted with them.
        order = f"ORDER BY {self.impressions.log.time}, {self.impressions.log.identity}" if in_order else ""
        return f"SELECT {', '.join(columns)} FROM ({joined}) WHERE {STATE} >= 0 OR {RANK} {order}"

    def weight(self, shown: str, clicks: str) -> str:
        """SQL of the largest weight among the clicks that count for an impression; NULL where there is none.

        Where some of its clicks count and some do not, `UNKNOWN_WEIGHT`: `settle` looks at each of them.
        """
        s, c = f"{shown}.{US}", clicks
        last = f"{s} + {self.reach_us}"
        return (
            f"CASE WHEN {c}.last IS NULL THEN NULL WHEN {c}.first >= {s} AND {c}.last <= {last} THEN {c}.weight "
            f"WHEN {c}.last < {s} OR {c}.first > {last} THEN NULL ELSE {UNKNOWN_WEIGHT} END"
        )

    def settle(self, table: str) -> None:
        """Label the rows whose clicks count in part; among so many rows they are too few to burden the join with."""
        log, settings, identity = self.impressions.log, self.settings, self.casts[0]
        counts = f"c.us BETWEEN {log.us} AND {log.us} + {self.reach_us}"
        largest = (
            f"SELECT l.rowid AS number, max(c.weight) FILTER ({counts}) AS weight FROM {table} l "
            f"JOIN {CLICKS} c ON c.id = {identity} WHERE {STATE} = {UNSETTLED} GROUP BY ALL"
        )
        changes = [f"{quoted(settings.label)} = CAST(w.weight IS NOT NULL AS TINYINT)"]
        changes += [f"{quoted(settings.weight)} = coalesce(w.weight, 1.0)"] if settings.weight else []
        negative = f"CASE WHEN {kept(settings, identity)} THEN {NEGATIVE} ELSE {SAMPLED_OUT} END"
        changes += [f"{STATE} = CASE WHEN w.weight IS NOT NULL THEN {POSITIVE} ELSE {negative} END"]
        self.source.execute(
            f"UPDATE {table} SET {', '.join(changes)} FROM ({largest}) w WHERE {table}.rowid = w.number"
        )

    @property
    def has_late(self) -> bool:
        """Whether rows of earlier rounds may come back, and `LATE` is there."""
        return self.settings.late_positives and self.impressions.before is not None

    @property
    def score(self) -> str | None:
        """The column of the impressions that holds the served probability, quoted; None where there is none."""
        names = {name.casefold() for name in self.impressions.log.source.columns}
        score = self.settings.score
        return self.impressions.log.source.column(score) if score.casefold() in names else None

    @property
    def reach_us(self) -> int:
        """How long after its impression a click makes a positive."""
        late_us = self.closing.lookback_us if self.settings.late_positives else 0
        return self.closing.window_us + late_us


def kind_weight(settings: LabelSettings, log: Log) -> str:
    """SQL of a click's weight; NULL for kinds that are no positives."""
    if not settings.click_kind:
        return f"CAST({next(iter(settings.positives.values()))} AS DOUBLE)"
    kinds = " ".join(f"WHEN {literal(kind)} THEN {weight}" for kind, weight in settings.positives.items())
    return f"CAST(CASE CAST({log.source.column(settings.click_kind)} AS VARCHAR) {kinds} END AS DOUBLE)"
