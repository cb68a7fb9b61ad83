"""One round of labels: what has closed since a position, labelled, counted, judged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from streamfm.data.connection import connected
from streamfm.data.readers import literal
from streamfm.data.soundness import LeftOut, sound_part
from streamfm.data.sources import Source, SourceLike
from streamfm.errors import DataError
from streamfm.features import FeatureSpec, Input
from streamfm.labels.counting import LabelCounts, count_all, count_before, match_new, match_past
from streamfm.labels.drawing import add_draw
from streamfm.labels.heads import SECOND_US, Clock, Head, close, look_at
from streamfm.labels.health import Refusal, judge_counts, judge_heads, judge_values
from streamfm.labels.history import draw_history
from streamfm.labels.joining import Join
from streamfm.labels.late import find_late
from streamfm.labels.logs import Log, source_of
from streamfm.labels.names import LABELLED, SAMPLED_OUT, STATE
from streamfm.labels.settings import EPOCH, LabelSettings, Position, microseconds, moment

LARGE_ROWS = 1_000_000
"""More new rows than these are stored in a file of the temporary folder, not in memory."""


@dataclass(frozen=True, kw_only=True)
class Labels:
    """What a round gives; good within the block of `closed_labels`.

    Attributes:
        position: After training on the rows; where there are none, as before.
        counts: Where every impression and click went.
        refusal: Why there are no rows; None when there are.
        left_out: Rows that cannot be learnt from, by the rule that they break; told by `sound`.
        since: The position before; None for all.
    """

    position: Position
    counts: LabelCounts
    refusal: Refusal | None
    since: Position | None
    _join: Join | None
    _source: Source
    left_out: tuple[LeftOut, ...] = ()
    _spec: FeatureSpec | None = None

    def sound(self, spec: FeatureSpec) -> Labels:
        """The same without the rows whose values a model cannot learn from; refused where they are too many.

        Raises:
            SpecError: An SQL feature that is not allowed.
            DataError: Columns are absent, or of a type that cannot be used.
        """
        if self.refusal is not None:
            return self
        source, left_out = sound_part(self._source, spec)
        refusal = judge_values(self._source.rows, source.rows, left_out)
        position = self.position if refusal is None else self.since or Position(closed_until=EPOCH)
        return replace(self, position=position, refusal=refusal, left_out=left_out, _source=source, _spec=spec)

    @property
    def source(self) -> Source:
        """The new rows: all columns of the impressions, label and weight, ordered by time and id.

        Raises:
            DataError: There are none; says why.
        """
        if self.refusal is not None:
            raise DataError(self.refusal.message, hint=self.refusal.hint)
        return self._source

    def history(self, rows: int, *, seed: int = 0, age_s: float | None = None) -> Source:
        """A uniform sample of the rows before `since`, labelled as known now, ordered by time and id; may be empty.

        Late positives are in it once, as positives of their own weight. Another call replaces it.

        Args:
            rows: At most.
            seed: The same seed draws the same rows of the same log, whatever its order.
            age_s: Only rows so much before `since`.
        """
        if self._join is None or self.since is None:
            return self._source.part("before", "false")
        oldest = None if age_s is None else microseconds(self.since.closed_until) - round(SECOND_US * age_s)
        drawn = draw_history(self._join, rows, seed=seed, from_us=oldest)
        return drawn if self._spec is None else sound_part(drawn, self._spec).source


@contextmanager
def closed_labels(
    impressions: SourceLike,
    clicks: SourceLike,
    settings: LabelSettings,
    *,
    finished: Collection[str] = (),
    since: Position | None = None,
    now: datetime | None = None,
    until: datetime | None = None,
    inputs: Sequence[Input] = (),
    in_order: bool = True,
    threads: int | None = None,
    memory_limit: str = "2GB",
    folder: str | Path | None = None,
) -> Iterator[Labels]:
    """Label what has closed since a position; inside `with`.

    Args:
        impressions: SQL, or whatever `open_source` takes save an open source. With columns `_partition` and `_offset`
            late arrivals are told from rows that were trained on; they are not among the labelled rows' columns.
        clicks: The same.
        settings: What makes a label.
        finished: Partitions of the clicks ("clicks/0") that nobody writes to any more: labels do not wait for them.
        since: Rows that were trained on; None for none.
        now: The clock; without one no event is of the future.
        until: No row from this instant on, though it be closed.
        inputs: Declared columns, which decide how CSV and JSON are read.
        in_order: Whether the rows are ordered by time and id; without it a large join is faster.
        threads: Of DuckDB; all cores by default.
        memory_limit: Of DuckDB; what does not fit is spilled.
        folder: Where to spill; the system's temporary folder by default.

    Raises:
        DataError: Rows that cannot be read; a time that is none; columns that bear the name of the label or weight.
        MissingColumnsError: Names the columns that are absent.
    """
    clock = Clock.at(now, settings)
    with connected(threads=threads, memory_limit=memory_limit, folder=folder) as (connection, spill):
        add_draw(connection)
        shown = Log(
            source_of(impressions, "impressions", connection, inputs), settings.impression_id, settings.impression_time
        )
        kind = [settings.click_kind] if settings.click_kind else []
        clicked = Log(source_of(clicks, "clicks", connection), settings.click_id, settings.click_time, *kind)
        _refuse_collisions(shown.source, settings)
        heads = (
            look_at(shown, since, clock, whole=False),
            look_at(clicked, since, clock, window_us=round(SECOND_US * settings.window_s), finished=finished),
        )
        source = Source("the labelled rows", connection, "")
        yield _labels(source, heads, settings, since, clock, until, in_order, spill)


def _labels(
    source: Source,
    heads: tuple[Head, Head],
    settings: LabelSettings,
    since: Position | None,
    clock: Clock,
    until: datetime | None,
    in_order: bool,
    spill: str,
) -> Labels:
    closing = close(*heads, settings, since=since, clock=clock, until=until)
    refusal = judge_heads(*heads, settings)
    before = since or Position(closed_until=EPOCH)
    if closing is None:
        source.sql = f"SELECT * FROM ({heads[0].log.source.sql}) LIMIT 0"
        counts = LabelCounts(impressions=heads[0].new, future=heads[0].future, clicks=heads[1].new)
        return Labels(position=before, counts=counts, refusal=refusal, since=since, _join=None, _source=source)
    join = Join(source=source, impressions=heads[0], clicks=heads[1], closing=closing, settings=settings)
    counts = _make(join, in_order=in_order, spill=spill)
    sql = f"SELECT * EXCLUDE ({STATE}) FROM {LABELLED} WHERE {STATE} IS DISTINCT FROM {SAMPLED_OUT}"
    labelled = Source(source.name, source.connection, sql)
    refusal = refusal or judge_counts(counts, settings)
    after = before if refusal else _position_after(join, before)
    return Labels(position=after, counts=counts, refusal=refusal, since=since, _join=join, _source=labelled)


def _make(join: Join, *, in_order: bool, spill: str) -> LabelCounts:
    """Fill the tables of the round."""
    source = join.source
    join.gather_clicks()
    match_past(join)
    before = count_before(join)
    if join.has_late:
        source.execute(find_late(join.reach_us))
    # Asked for before the result is written, so that no two large queries hold memory at once.
    _ = join.has_copies
    place = LABELLED
    if join.impressions.new > LARGE_ROWS:
        source.execute(f"ATTACH {literal(str(Path(spill) / 'labelled.duckdb'))} AS stored")
        place = f"stored.{LABELLED}"
    rate = before[1] / before[0] if before[0] else 0.0
    # Without an order to keep, DuckDB writes what each thread has, and holds little of it.
    source.execute(f"SET preserve_insertion_order = {str(in_order).lower()}")
    source.execute(f"CREATE TABLE {place} AS {join.labelled(in_order=in_order, click_rate=rate)}")
    join.settle(place)
    source.execute("SET preserve_insertion_order = true")
    if place != LABELLED:
        source.execute(f"CREATE VIEW {LABELLED} AS SELECT * FROM {place}")
    match_new(join)
    return count_all(join, before)


def _position_after(join: Join, before: Position) -> Position:
    offsets = dict(before.offsets)
    for head in (join.impressions, join.clicks):
        for partition, end in head.ends.items():
            offsets[partition] = max(end, offsets.get(partition, 0))
    until = moment(join.closing.closed_us), moment(join.closing.clicks_us)
    return Position(closed_until=until[0], offsets=offsets, clicks_until=until[1])


def _refuse_collisions(impressions: Source, settings: LabelSettings) -> None:
    names = {name.casefold(): name for name in impressions.columns}
    for what in ("label", "weight"):
        if (name := getattr(settings, what).casefold()) in names:
            message = f"{impressions.name}: column {names[name]!r} is there already, expected to be added as {what}"
            hint = f"leave it out: SELECT * EXCLUDE ({names[name]}) FROM ..., or name another {what}"
            raise DataError(message, hint=hint)
