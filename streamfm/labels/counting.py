"""The accounting of a round: where every impression and every click went."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from streamfm.labels.joining import Join, kind_weight
from streamfm.labels.names import (
    AGAIN,
    CLICKS,
    CLICKS_BY_ID,
    COPIES,
    ID,
    LABELLED,
    LATE,
    MATCHED,
    POSITIVE,
    RANK,
    READ,
    SAMPLED_OUT,
    STATE,
    US,
    WEIGHT,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelCounts:
    """What became of the rows that were new in a round.

    impressions = without_time + without_id + future + open + duplicates + closed
    closed + again = labelled + sampled_out
    clicks = clicks_without_id_or_time + clicks_future + clicks_of_other_kinds + clicks_open + clicks_in_window
             + clicks_late + clicks_before + clicks_without_impression

    Attributes:
        impressions: New ones; those that are open, or of the future, are counted in each round until they are closed.
        without_time: Without a time, or with an infinite one.
        without_id: Without an id.
        future: Later than the clock.
        open: Their window has not passed yet.
        duplicates: Closed, but copies of one that was labelled.
        closed: Labelled, or sampled out.
        positives: With a click that counts, among the closed.
        in_window: With a click within the window, among the closed: the same without late positives.
        sampled_out: Negatives left out by `negative_share`.
        again: Impressions of earlier rounds that come back as late positives.
        labelled: Rows to train on.
        clicks: New ones.
        clicks_without_id_or_time: Without one of them.
        clicks_future: Later than the clock.
        clicks_of_other_kinds: Not among `positives`.
        clicks_open: They may belong to a window that is open.
        clicks_duplicate: Of those below, copies: another click of the same id and weight.
        clicks_in_window: Within the window of their impression.
        clicks_late: After it.
        clicks_before: Before their impression.
        clicks_without_impression: Of no impression of the last `lookback_s`.
        labelled_before: Impressions labelled in the `lookback_s` before.
        in_window_before: Those with a click in their window.
    """

    impressions: int = 0
    without_time: int = 0
    without_id: int = 0
    future: int = 0
    open: int = 0
    duplicates: int = 0
    closed: int = 0
    positives: int = 0
    in_window: int = 0
    sampled_out: int = 0
    again: int = 0
    labelled: int = 0
    clicks: int = 0
    clicks_without_id_or_time: int = 0
    clicks_future: int = 0
    clicks_of_other_kinds: int = 0
    clicks_open: int = 0
    clicks_duplicate: int = 0
    clicks_in_window: int = 0
    clicks_late: int = 0
    clicks_before: int = 0
    clicks_without_impression: int = 0
    labelled_before: int = 0
    in_window_before: int = 0

    def to_json(self) -> dict[str, int]:
        """For a manifest."""
        return asdict(self)


def match_past(join: Join) -> None:
    """Fill `MATCHED` with the impressions of earlier rounds that have clicks."""
    join.source.execute(f"CREATE TABLE {MATCHED} (id {_type(join)}, us BIGINT, place VARCHAR, state TINYINT)")
    if join.impressions.before is not None:
        past = f"SELECT {ID}, min({US}), 'past', NULL FROM ({join.shown(READ)}) {_with_clicks()}"
        join.source.execute(f"INSERT INTO {MATCHED} {past}")


def match_new(join: Join) -> None:
    """Add those of this round, and those that are open."""
    columns = f"{join.casts[0]}, {join.impressions.log.us}, 'new', {STATE}"
    join.source.execute(f"INSERT INTO {MATCHED} SELECT {columns} FROM {LABELLED} WHERE {STATE} < {AGAIN}")
    late = join.shown(f"NOT {READ} AND {US} >= {join.closing.closed_us}", from_us=join.closing.closed_us)
    still = f"SELECT {ID} AS id, min({US}), 'open', NULL FROM ({late}) {_with_clicks()}"
    join.source.execute(f"INSERT INTO {MATCHED} SELECT * FROM ({still}) WHERE id NOT IN (SELECT id FROM {MATCHED})")


def _with_clicks() -> str:
    return f"WHERE {ID} IN (SELECT id FROM {CLICKS_BY_ID}) GROUP BY {ID}"


def _type(join: Join) -> str:
    types = {log.identity_type for log in (join.impressions.log, join.clicks.log)}
    return types.pop() if len(types) == 1 else "VARCHAR"


def count_before(join: Join) -> tuple[int, int]:
    """How many impressions were labelled before, and how many of them have a click in their window."""
    if join.impressions.before is None:
        return 0, 0
    labelled = join.source.execute(f"SELECT count(*) FROM ({join.shown(READ)})")[0][0]
    return labelled, _clicked(join, "past")


def _clicked(join: Join, place: str) -> int:
    within = f"c.us BETWEEN m.us AND m.us + {join.closing.window_us}"
    joined = f"FROM {MATCHED} m JOIN {CLICKS} c ON c.id = m.id WHERE m.place = '{place}' AND {within}"
    return int(join.source.execute(f"SELECT count(DISTINCT m.id) {joined}")[0][0])


def count_all(join: Join, before: tuple[int, int]) -> LabelCounts:
    """The accounting of a round whose rows are in `LABELLED`, and their clicks matched."""
    head, closed_us = join.impressions, join.closing.closed_us
    open_rows = join.shown(f"NOT {READ} AND {US} >= {closed_us}", from_us=closed_us)
    still_open = join.source.execute(f"SELECT count(*) FROM ({open_rows})")[0][0]
    copies = 0
    if join.has_copies:
        left_out = f"{RANK} > 1 AND NOT {READ} AND {US} < {closed_us}"
        copies = join.source.execute(f"SELECT count(*) FROM {COPIES} WHERE {left_out}")[0][0]
    closed = join.identified - still_open - copies
    rows = join.source.execute(f"SELECT count(*) FROM {LABELLED}")[0][0]
    positives, sampled_out = join.source.execute(
        f"SELECT count(*) FILTER (state = {POSITIVE}), count(*) FILTER (state = {SAMPLED_OUT}) "
        f"FROM {MATCHED} WHERE place = 'new'"
    )[0]
    again = join.source.execute(f"SELECT count(*) FROM {LATE}")[0][0] if join.has_late else 0
    rows -= sampled_out
    return LabelCounts(
        impressions=head.new,
        without_time=head.without_time,
        without_id=max(0, head.new - head.without_time - head.future - join.identified),
        future=head.future,
        open=still_open,
        duplicates=copies,
        closed=closed,
        positives=positives,
        in_window=_clicked(join, "new"),
        sampled_out=closed + again - rows,
        again=again,
        labelled=rows,
        labelled_before=before[0],
        in_window_before=before[1],
        **_count_clicks(join),
    )


def _count_clicks(join: Join) -> dict[str, int]:
    head, log = join.clicks, join.clicks.log
    new = log.source.select(
        f"{log.identity} AS id, {log.us} AS us, {kind_weight(join.settings, log)} AS {WEIGHT}",
        f"WHERE NOT {head.is_read} AND {head.rows(join.closing.limit_us)} AND {log.since(join.closing.from_us)}",
    )
    has_both = "id IS NOT NULL AND us IS NOT NULL"
    present, known, waiting = join.source.execute(
        f"SELECT count(*) FILTER ({has_both}), count(*) FILTER ({has_both} AND {WEIGHT} IS NOT NULL), "
        f"count(*) FILTER ({has_both} AND {WEIGHT} IS NOT NULL AND us >= {join.closing.clicks_us}) FROM ({new})"
    )[0]
    matched = f"FROM {CLICKS} c LEFT JOIN {MATCHED} m ON c.id = m.id WHERE NOT c.read"
    last = f"m.us + {join.closing.window_us}"
    inside, late, early, orphans, distinct, total = join.source.execute(
        f"SELECT count(*) FILTER (c.us BETWEEN m.us AND {last}), count(*) FILTER (c.us > {last}), "
        f"count(*) FILTER (c.us < m.us), count(*) FILTER (m.id IS NULL), "
        f"count(DISTINCT (c.id, c.weight)), count(*) {matched}"
    )[0]
    return {
        "clicks": head.new,
        "clicks_without_id_or_time": head.new - head.future - present,
        "clicks_future": head.future,
        "clicks_of_other_kinds": present - known,
        "clicks_open": waiting,
        "clicks_duplicate": total - distinct,
        "clicks_in_window": inside,
        "clicks_late": late,
        "clicks_before": early,
        "clicks_without_impression": orphans,
    }
