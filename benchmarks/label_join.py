"""How much dearer than DuckDB's plain left join are labels that are exact?

10 M impressions and 300,000 clicks in Parquet become labelled rows by `closed_labels`, with duplicates on both sides,
late clicks and clicks without an impression, beside `SELECT i.*, c.event_id IS NOT NULL FROM i LEFT JOIN c`, which
doubles rows, takes every click for a positive and knows no window. Both write a table, ordered by time and id.

Limit: the plain join. With `--large`, 100 M narrow impressions and 3 M clicks: the question is memory, limit 8 GB.

Traps: both sides run on two threads, in one process, in turn, each in a DuckDB of its own, and write to a table of the
same kind: in a file, ordered by time and id, as `closed_labels` does unless it is told otherwise; `--any-order` has
neither ordered. Ids are random texts, so that no order helps. Processor time is told beside the seconds on the clock,
since on a machine that others use, the side that runs while they do looks slower. The labels are counted against how
the clicks were made. The peak of memory is that of the whole process, so `--large` runs one side only.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import duckdb
from _report import report

from streamfm.labels import LabelCounts, LabelSettings, closed_labels

THREADS, WINDOW_S = 2, 1800
MEMORY_GB = 8
SETTINGS = LabelSettings(window_s=WINDOW_S, ctr_bounds=(0, float("inf")))
IDENTITY = "format('{:016x}', hash(n))"
WIDE = (
    "hash(n, 1) % 50000 AS user_id, hash(n, 2) % 2000 AS app_id, 'category ' || hash(n, 3) % 20 AS category, "
    "'device ' || hash(n, 4) % 5 AS device, (hash(n, 5) % 1000) / 10 AS price, hash(n, 6) % 10 AS position, "
    "((hash(n, 7) % 1000) / 1000)::FLOAT AS score"
)


def make_logs(folder: Path, rows: int, *, narrow: bool) -> int:
    """Write impressions and clicks over ten days; tell how many impressions have a click in their window.

    One impression in a thousand is written twice. Of 33 impressions one has clicks: 90 % in the window, 5 % of them
    doubled, the others late; one click in a hundred has no impression.
    """
    columns = "" if narrow else f", {WIDE}"
    time_of = f"TIMESTAMP '2026-01-01' + to_microseconds(n * {864_000_000_000 // rows})"
    connection = duckdb.connect(config={"threads": THREADS, "memory_limit": "4GB", "temp_directory": str(folder)})
    shown = f"SELECT {IDENTITY} AS event_id, {time_of} AS ts{columns} FROM range({rows}) r(n)"
    twice = f"SELECT {IDENTITY} AS event_id, {time_of} AS ts{columns} FROM range(0, {rows}, 1000) r(n)"
    connection.execute(f"COPY ({shown} UNION ALL {twice}) TO '{folder}/impressions.parquet'")
    late = "n // 33 % 10 = 9"
    after = f"to_microseconds(CASE WHEN {late} THEN {WINDOW_S} + 1 + n % 60 ELSE n % {WINDOW_S} END * 1000000)"
    clicks = f"SELECT {IDENTITY} AS event_id, {time_of} + {after} AS ts FROM range(0, {rows}, 33) r(n)"
    again = f"SELECT {IDENTITY}, {time_of} + {after} FROM range(0, {rows}, 660) r(n)"
    orphans = f"SELECT 'none ' || n, {time_of} FROM range(0, {rows}, 3300) r(n)"
    connection.execute(f"COPY ({clicks} UNION ALL {again} UNION ALL {orphans}) TO '{folder}/clicks.parquet'")
    closed = "(SELECT max(ts) - to_seconds(?) FROM i)"
    within = f"n % 33 = 0 AND NOT ({late}) AND {time_of} < {closed}"
    positives = connection.execute(
        f"WITH i AS (SELECT least(max(i.ts), (SELECT max(ts) FROM '{folder}/clicks.parquet')) AS ts "
        f"FROM '{folder}/impressions.parquet' i) SELECT count(*) FROM range({rows}) r(n) WHERE {within}",
        [WINDOW_S],
    ).fetchone()
    connection.close()
    assert positives is not None
    return int(positives[0])


class Cost(NamedTuple):
    """Seconds on the clock, and of processors."""

    wall_s: float
    processor_s: float


def now() -> Cost:
    return Cost(time.perf_counter(), time.process_time())


def since(began: Cost) -> Cost:
    return Cost(*(end - start for start, end in zip(began, now(), strict=True)))


def plain_join(folder: Path, *, in_order: bool) -> Cost:
    """What the plain join costs."""
    with tempfile.TemporaryDirectory() as spill:
        connection = duckdb.connect(
            config={
                "threads": THREADS,
                "memory_limit": f"{MEMORY_GB}GB",
                "temp_directory": spill,
                "preserve_insertion_order": in_order,
            }
        )
        began = now()
        connection.execute(f"ATTACH '{spill}/plain.duckdb' AS stored")
        order = "ORDER BY i.ts, i.event_id" if in_order else ""
        connection.execute(
            "CREATE TABLE stored.plain AS SELECT i.*, (c.event_id IS NOT NULL)::TINYINT AS clicked "
            f"FROM '{folder}/impressions.parquet' i LEFT JOIN '{folder}/clicks.parquet' c USING (event_id) {order}"
        )
        took = since(began)
        connection.close()
        return took


def label(folder: Path, *, in_order: bool, memory_limit: str) -> tuple[Cost, LabelCounts]:
    """What the labels cost, and their accounting."""
    began = now()
    with closed_labels(
        str(folder / "impressions.parquet"),
        str(folder / "clicks.parquet"),
        SETTINGS,
        threads=THREADS,
        memory_limit=memory_limit,
        in_order=in_order,
    ) as labels:
        took = since(began)
        assert labels.source.rows == labels.counts.labelled
        return took, labels.counts


def check(counts: LabelCounts, rows: int, positives: int) -> None:
    """A fast wrong join does not count."""
    assert (counts.duplicates, counts.positives) == (-(-counts.closed // 1000), positives), counts
    assert counts.closed + counts.open + counts.duplicates == counts.impressions == rows + -(-rows // 1000), counts
    print(counts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--large", action="store_true", help="100 M narrow impressions within 8 GB; needs 20 GB of disk"
    )
    parser.add_argument("--any-order", action="store_true", help="neither side ordered by time and id")
    parser.add_argument("--rows", type=int, help="impressions; 10 M, or 100 M")
    parser.add_argument("--turns", type=int, default=5, help="of each side; the first of them does not count")
    given = parser.parse_args()
    rows = given.rows or (100_000_000 if given.large else 10_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        positives = make_logs(folder, rows, narrow=given.large)
        if given.large:
            took, counts = label(folder, in_order=not given.any_order, memory_limit=f"{MEMORY_GB - 3}GB")
            check(counts, rows, positives)
            peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
            report("label_join_large", took.wall_s, "s", higher_is_better=False)
            report("label_join_large_memory", peak_gb, "GB", goal=f"<= {MEMORY_GB}", higher_is_better=False)
            return
        plain, ours = [], []
        for _ in range(given.turns):
            plain.append(plain_join(folder, in_order=not given.any_order))
            took, counts = label(folder, in_order=not given.any_order, memory_limit=f"{MEMORY_GB}GB")
            ours.append(took)
        check(counts, rows, positives)
    for number, what in enumerate(Cost._fields):
        limits, values = ([cost[number] for cost in side[1:]] for side in (plain, ours))
        ratio = statistics.median(value / limit for value, limit in zip(values, limits, strict=True))
        report(f"plain_join_{what}", statistics.median(limits), "s", higher_is_better=False)
        report(f"label_join_{what}", statistics.median(values), "s", higher_is_better=False)
        goal = "<= 1.3" if what == "wall_s" and not given.any_order else None
        report(f"label_join_over_plain_{what}", ratio, "x", goal=goal, higher_is_better=False)


if __name__ == "__main__":
    main()
