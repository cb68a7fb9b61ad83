"""Impressions and clicks for the event log, as JSON and as tables, and what a log holds of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from connectors.parquet_log import EventLog
from connectors.parquet_log_collecting import PartitionCollector, RollSettings
from connectors.parquet_log_decoding import RecordDecoder
from connectors.parquet_log_schema import LogSchema, clicks, impressions
from connectors.parquet_log_topics import Identity, TopicFolder, open_topic
from streamfm.features import FeatureSpec
from streamfm.stream.ports import Event

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

SPEC = FeatureSpec.from_toml("""
    format = 1
    label = "clicked"
    event_time = "ts"
    event_id = "event_id"
    [inputs]
    user_id = "VARCHAR"
    price = "DOUBLE"
    stock = "BIGINT"
    tags = "VARCHAR[]"
    made = { type = "TIMESTAMP", json = "epoch_ms" }
    [features.user_id]
    kind = "categorical"
    [features.price]
    kind = "numeric"
    [features.stock]
    kind = "numeric"
    [features.tags]
    kind = "multivalued"
    [features.hour]
    kind = "categorical"
    sql = "hour(made)"
""")
SHOWN: LogSchema = impressions(SPEC)
CLICKED: LogSchema = clicks()


def shown(number: int, **changes: Any) -> bytes:
    """An impression as JSON."""
    event = {
        "event_id": f"e{number}",
        "ts": (NOON + timedelta(seconds=number)).isoformat(),
        "user_id": f"u{number % 7}",
    }
    return json.dumps(
        event | {"price": number / 8, "stock": number, "tags": ["a", "b"], "made": 1_000} | changes
    ).encode()


def clicked(number: int) -> bytes:
    """Its click, ten seconds later."""
    return json.dumps({"event_id": f"e{number}", "ts": (NOON + timedelta(seconds=number + 10)).isoformat()}).encode()


def table(numbers: Iterable[int], **more: pa.Array) -> pa.Table:
    """Impressions as a table."""
    some = list(numbers)
    return pa.table(
        {
            "event_id": [f"e{number}" for number in some],
            "ts": pa.array([NOON + timedelta(seconds=number) for number in some], pa.timestamp("us", tz="UTC")),
            "user_id": [f"u{number % 7}" for number in some],
            **more,
        }
    )


def rows_of(log: EventLog | Path, topic: str, columns: str = "event_id", **options: Any) -> list[Any]:
    """Columns of a topic in the log, in the order of partitions and offsets; one column as its values."""
    with (log if isinstance(log, EventLog) else EventLog(log)).snapshot(topic) as snapshot:
        sql = f"SELECT {columns} FROM ({snapshot.relation(topic, **options)}) ORDER BY _partition, _offset"
        with duckdb.connect() as connection:
            found = connection.sql(sql).to_arrow_table().to_pydict()
    rows = list(zip(*found.values(), strict=True))
    return [row[0] if len(row) == 1 else row for row in rows]


def fill(
    log: Path,
    sizes: list[int],
    topic: str = "shown",
    values: Callable[[int], bytes] = shown,
    *,
    every: timedelta = timedelta(seconds=1),
) -> TopicFolder:
    """Segments of so many records each; offsets are the numbers, and times one after the other since 1970."""
    schema = SHOWN if topic == "shown" else CLICKED
    folder = open_topic(log, Identity("c", topic, "1"), schema)
    collector = PartitionCollector(folder, 0, schema.arrow, RollSettings())
    decoder, at = RecordDecoder(schema, topic), collector.position
    for size in sizes:
        numbers, every_ms = range(at, at + size), every // timedelta(milliseconds=1)
        events = [Event(topic, 0, number, number * every_ms, None, values(number)) for number in numbers]
        at += size
        collector.add(decoder.decode(events).table, at)
        collector.roll()
    collector.close()
    return folder


def files_of(folder: TopicFolder) -> list[str]:
    """The names of its Parquet files."""
    return sorted(path.name for path in folder.path.glob("*.parquet"))
