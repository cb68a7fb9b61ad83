"""`streamfm log`: what an event log holds, and its upkeep."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import click

from streamfm.cli.commands import JSON, Command, argument, option
from streamfm.cli.console import answer, print_json, print_table, say
from streamfm.cli.durations import DURATION

if TYPE_CHECKING:
    from connectors.parquet_log import EventLog
    from connectors.parquet_log_topics import TopicFolder
    from connectors.parquet_log_upkeep import Swept

LOG = argument(
    "log",
    "The event log's folder, which `streamfm collect` writes.",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
)
TOPIC = option("--topic", "topics", multiple=True, help="Of this topic only; again for others. [default: all]")
GRACE = option(
    "--grace",
    type=DURATION,
    default="10m",
    show_default=True,
    help="Superseded files stay for so long, for tools that read without a lease.",
)
EXIT_PROBLEMS = 1


@click.group(short_help="Look at an event log; compact it, let old rows go, erase a user's.")
def log() -> None:
    """Look at an event log that `streamfm collect` writes, and keep it in order.

    Every action goes on beside collectors and readers, is one of a kind at a time, and may be killed at any moment.

    \b
    Examples:
      streamfm log show log
      streamfm log compact log
      streamfm log retain log --days 90
      streamfm log erase log --column user_id --value u17
      streamfm log sql log impressions
    """


@log.command(cls=Command)
@LOG
@JSON
def show(log: Path, as_json: bool) -> int:
    """List partitions, their offsets, rows and files, and what is damaged, missing or there twice.

    The exit code is 1 if something is.

    \b
    Examples:
      streamfm log show log
      streamfm log show log --json
    """
    from connectors.parquet_log import contents_of
    from connectors.parquet_log_topics import list_topics
    from connectors.parquet_log_upkeep import rows_of

    lines: list[dict[str, object]] = []
    problems: list[str] = []
    for folder in list_topics(log):
        contents = contents_of(folder)
        problems += contents.problems()
        problems += [
            f"{contents.manifest.label}/{it.partition}: offsets {it.start} to {it.end} are there twice, and read once"
            for it in contents.coverage.overlaps
        ]
        for partition, end in contents.coverage.ends.items():
            pieces = [piece for piece in contents.coverage.pieces if piece.segment.partition == partition]
            old = [segment for segment in contents.coverage.superseded if segment.partition == partition]
            lines.append(
                {
                    "partition": f"{contents.manifest.label}/{partition}",
                    "kind": contents.manifest.kind,
                    "begin": pieces[0].first if pieces else end,
                    "end": end,
                    "rows": sum(rows_of(piece.segment) for piece in pieces),
                    "files": len(pieces),
                    "bytes": sum(piece.segment.path.stat().st_size for piece in pieces),
                    "superseded": len(old),
                }
            )
    if as_json:
        print_json({"partitions": lines, "problems": problems})
    else:
        print_table(list(lines[0]) if lines else ["partition"], [list(line.values()) for line in lines])
        for problem in problems:
            say(problem)
    return EXIT_PROBLEMS if problems else 0


@log.command(cls=Command)
@LOG
@argument("topic", "Such as impressions.")
@option("--errors", is_flag=True, help="Records that could not be read, too, with _error and _raw.")
@option("--skip-damaged", is_flag=True, help="Without what is damaged or missing.")
def sql(log: Path, topic: str, errors: bool, skip_damaged: bool) -> None:
    """Print the SQL that reads a topic as it is now: for DuckDB, or as a list of files for anything else.

    \b
    Examples:
      streamfm log sql log impressions
      streamfm log sql log clicks | duckdb
    """
    from connectors.parquet_log import EventLog

    answer(EventLog(log).relation(topic, errors=errors, damaged="skip" if skip_damaged else "refuse"))


@log.command(cls=Command)
@LOG
@TOPIC
@option("--target-rows", type=click.IntRange(1), default=4_000_000, show_default=True, help="A large segment's rows.")
@option("--target-mb", type=click.IntRange(1), default=256, show_default=True, help="A large segment's size.")
@GRACE
def compact(log: Path, topics: tuple[str, ...], target_rows: int, target_mb: int, grace: float) -> None:
    """Join small files into large ones, and remove those that were superseded before.

    Readers see the small files or the large one, never both. Only files of one day are joined, so that retention still
    lets rows go by the day. Once an hour is enough for most.

    \b
    Examples:
      streamfm log compact log
      streamfm log compact log --target-mb 512
    """
    from connectors.parquet_log_compaction import CompactSettings
    from connectors.parquet_log_compaction import compact as compact_topic

    settings = CompactSettings(target_rows=target_rows, target_bytes=target_mb * 1_000_000)
    for folder in _folders(log, topics):
        made, used = compact_topic(folder, settings)
        _tell(folder, f"{used:,} files into {len(made):,}", _sweep(folder, grace))


@log.command(cls=Command)
@LOG
@TOPIC
@option(
    "--days", type=click.FloatRange(0, min_open=True), required=True, help="Keep rows that came within so many days."
)
@GRACE
def retain(log: Path, topics: tuple[str, ...], days: float, grace: float) -> None:
    """Let files go whose newest row, by Kafka's time, is older; models do not learn from them again.

    Where a partition begins is kept, and so is where it ends: collectors go on as before.

    \b
    Examples:
      streamfm log retain log --days 90
    """
    from connectors.parquet_log_upkeep import retain as retain_topic

    for folder in _folders(log, topics):
        begins = retain_topic(folder, timedelta(days=days), now=datetime.now(UTC))
        label = folder.manifest().label
        moved = ", ".join(f"{label}/{partition} begins at {begin:,}" for partition, begin in sorted(begins.items()))
        _tell(folder, moved or "nothing is so old", _sweep(folder, grace))


@log.command(cls=Command)
@LOG
@option("--column", required=True, help="Of the impressions, such as user_id.")
@option("--value", required=True, help="Whose rows go; compared as text.")
@option(
    "--wait", type=DURATION, default="60s", show_default=True, help="How long to wait for readers of the old files."
)
def erase(log: Path, column: str, value: str, wait: float) -> int:
    """Erase the impressions that have a value in a column, and their clicks.

    Files are written anew without them, and the old ones removed as soon as nobody reads them; if somebody still does
    after --wait, the exit code is 1, and the same command finishes it later. Records that could not be decoded lose
    their bytes where these hold the value, or the id of such an impression. What a collector has in hand meanwhile
    comes into the log after this, which says so: run it again then. Kafka keeps its own copy for as long as its
    retention says, and a collector that begins anew would bring it back. Models that were trained on the rows stay as
    they are: see docs/event-log.md.

    \b
    Examples:
      streamfm log erase log --column user_id --value u17
    """
    from connectors.parquet_log import EventLog
    from connectors.parquet_log_erasure import erase as erase_rows

    found = erase_rows(EventLog(log), column, value, wait_s=wait)
    for topic, rows in sorted(found.rows.items()):
        blanked = f", {found.blanked[topic]:,} unreadable records without their bytes" if found.blanked[topic] else ""
        answer(f"{topic}: {rows:,} rows erased{blanked}")
    if found.under_way:
        say(f"{found.under_way:,} partitions are being collected: what is in hand comes after this; run it again then")
    if found.kept:
        say(f"{found.kept:,} files that still have such rows are being read; run it again")
    if found.is_more:
        say("such rows were still coming in; run it again")
    return EXIT_PROBLEMS if found.kept or found.is_more else 0


def _folders(log: Path, topics: tuple[str, ...]) -> list[TopicFolder]:
    from connectors.parquet_log import EventLog

    known: EventLog = EventLog(log)
    return [folder for topic in topics or known.topics() for folder in known.folders(topic)]


def _sweep(folder: TopicFolder, grace_s: float) -> Swept:
    from connectors.parquet_log_upkeep import sweep

    return sweep(folder, grace_s=grace_s)


def _tell(folder: TopicFolder, what: str, swept: Swept) -> None:
    line = f"{folder.manifest().label}: {what}"
    line += f"; {swept.removed:,} superseded files removed" if swept.removed else ""
    line += f"; {swept.kept:,} superseded files stay for now" if swept.kept else ""
    answer(line)
