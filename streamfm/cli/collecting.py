"""`streamfm collect`: impressions and clicks into the event log."""

from __future__ import annotations

import glob
import logging
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamfm.cli.collect_options import CollectOptions, reported
from streamfm.cli.commands import Command
from streamfm.cli.console import say
from streamfm.cli.drain import Drain
from streamfm.cli.stream_logs import LOG_FORMATS, written_logs
from streamfm.cli.stream_options import (
    client_option,
    config_option,
    configurable,
    each,
    library_option,
    names,
    refuse_idle,
)
from streamfm.errors import StreamError

if TYPE_CHECKING:
    from connectors.kafka_collected_topics import Client, Collected
    from connectors.kafka_settings import KafkaSettings
    from connectors.parquet_log_schema import LogSchema
    from streamfm.features import FeatureSpec

logger = logging.getLogger(__name__)

KAFKA, EVENTS, SEGMENTS, OPERATION = "Kafka", "Events", "Segments", "Operation"
OF_KAFKA = {"group", "client", "options", "start", "until_end", "skip_lost", "report_s"}
FORMS = ("iso8601", "epoch_s", "epoch_ms", "epoch_us")


@click.command(cls=Command, short_help="Keep impressions and clicks in an event log: from Kafka topics, or files.")
@configurable(
    "--log",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="The event log's folder; made where it is not.",
)
@configurable(
    "--features",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The specification: which columns an impression has.",
)
@configurable("--model", help="A model that has one: models/ctr@champion, a version, or a bundle's folder.")
@configurable(
    "--impressions",
    default="impressions",
    show_default=True,
    callback=names,
    help="The topic; without brokers, files: JSON lines or Parquet, PATH,PATH or a glob.",
)
@configurable("--clicks", default="clicks", show_default=True, callback=names, help="The same of the clicks.")
@config_option()
@configurable(
    "-b", "--bootstrap-servers", "bootstrap_servers", heading=KAFKA, help="Kafka's brokers: HOST:PORT,HOST:PORT."
)
@client_option(heading=KAFKA)
@library_option(heading=KAFKA)
@configurable(
    "-g",
    "--group",
    default="streamfm-collect",
    show_default=True,
    heading=KAFKA,
    help="Told to Kafka for those who watch lags; the log alone says where to go on.",
)
@configurable(
    "--from",
    "start",
    default="earliest",
    show_default=True,
    heading=KAFKA,
    help="Where the log has nothing of a partition: earliest, latest, an offset, or a time.",
)
@configurable("--until-end", is_flag=True, heading=KAFKA, help="Stop where the topics end now.")
@configurable(
    "--skip-lost", is_flag=True, heading=KAFKA, help="Go on where Kafka has deleted records before they were collected."
)
@configurable("--event-id", heading=EVENTS, help="The field that names an impression. [default: the specification's]")
@configurable("--event-time", heading=EVENTS, help="The field of its time. [default: the specification's]")
@configurable(
    "--time-form",
    type=click.Choice(FORMS),
    default=FORMS[0],
    show_default=True,
    heading=EVENTS,
    help="How JSON writes the times that are no inputs.",
)
@configurable("--also", callback=names, heading=EVENTS, metavar="NAME=TYPE,...", help="More fields of impressions.")
@configurable("--click-id", default="event_id", show_default=True, heading=EVENTS, help="The clicks' field of it.")
@configurable(
    "--click-time",
    default="ts",
    show_default=True,
    heading=EVENTS,
    help="The clicks' field of their time; _timestamp: Kafka's own.",
)
@configurable(
    "--click-kind", default="", heading=EVENTS, help="The clicks' field of their kind, if they are of several."
)
@each(
    CollectOptions,
    {
        "roll_s": "After so long a segment ends: how fresh the log is.",
        "roll_rows": "A segment ends with so many rows.",
        "roll_mb": "A segment ends with so many MB.",
    },
    heading=SEGMENTS,
)
@each(
    CollectOptions,
    {
        "drain_s": "Time to write what was read after SIGTERM.",
        "report_s": "Time between two lines of news; 0: none.",
    },
    heading=OPERATION,
)
@configurable(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    default="text",
    show_default=True,
    heading=OPERATION,
    help="Of what goes to standard error.",
)
@click.pass_context
def collect(context: click.Context, /, **given: Any) -> None:
    """Keep the impressions and clicks of Kafka topics, or of files, in an event log that `streamfm retrain` reads.

    The log is a folder of Parquet files, which anything can read. Each record is there once, whatever crashes: a file
    is named by the offsets that it holds, and its name is the commit. What cannot be read is kept, too, with _error and
    _raw, counted and told. A second collector of the same topics is refused; run another one under a supervisor, and it
    goes on where the log ends.

    An impression is a JSON object with the model's inputs, the event's id and time and, where a stream answered, score,
    model and version. A click has the impression's id and its own time.

    SIGTERM and Ctrl-C put what was read into the log and end with exit code 0; a second one ends at once.

    \b
    Examples:
      streamfm collect --log log --features features.toml -b localhost:9092 --impressions shown --clicks clicked
      streamfm collect --log log --model models/ctr@champion -b localhost:9092 --until-end
      streamfm collect --log log --features features.toml --impressions 'days/*.jsonl' --clicks clicks.parquet
      streamfm collect --config collect.toml
      streamfm log show log
    """
    if given["bootstrap_servers"]:
        if len(given["impressions"]) != 1 or len(given["clicks"]) != 1:
            raise click.UsageError("--impressions and --clicks name one topic each")
    else:
        refuse_idle(context, OF_KAFKA, "with files: it is Kafka's, and needs --bootstrap-servers")
    if bool(given["features"]) == bool(given["model"]):
        raise click.UsageError("give --features FILE, or --model REFERENCE: what an impression has")
    context.with_resource(written_logs(given["log_format"]))
    with Drain(given["drain_s"], log_format=given["log_format"]) as drain:
        began = time.monotonic()
        collected = _from_kafka(given, drain) if given["bootstrap_servers"] else _from_files(given, drain)
    for line in summary(collected):
        say(line)
    say(f"{time.monotonic() - began:,.1f} s")


def summary(collected: Collected) -> list[str]:
    """What was done, a line a topic."""
    lines = []
    for topic in sorted({*collected.rows, *collected.lost}):
        errors = {reason: count for (of, reason), count in sorted(collected.errors.items()) if of == topic}
        line = f"{topic}: {collected.rows[topic]:,} rows in {collected.segments[topic]:,} segments"
        if errors:
            line += f", {sum(errors.values()):,} of them unreadable ("
            line += ", ".join(f"{reason} {count:,}" for reason, count in errors.items()) + ")"
        if "missing_time" in errors:
            line += "; scores have the time of their events with streamfm stream --keep-inputs"
        if collected.lost[topic]:
            line += f"; {collected.lost[topic]:,} offsets were deleted before"
        lines.append(line)
    return lines or ["nothing new"]


def _from_kafka(given: dict[str, Any], drain: Drain) -> Collected:
    from connectors.kafka_collector import Collector, CollectSettings
    from connectors.kafka_settings import KafkaSettings
    from streamfm.cli.worker import rarely_collecting

    (impressions,), (clicks,) = given["impressions"], given["clicks"]
    kafka = KafkaSettings(
        bootstrap_servers=given["bootstrap_servers"],
        input_topics=(impressions, clicks),
        # Nothing is written.
        output_topic="-",
        group_id=given["group"],
        start=given["start"],
        options=given["options"],
    )
    collector = Collector(
        given["log"],
        _client(given["client"], kafka),
        kafka,
        dict(zip((impressions, clicks), _schemas(given), strict=True)),
        settings=CollectSettings(skip_lost=given["skip_lost"]),
        roll=_options(given).roll(),
        sleep=drain.sleep,
    )
    with collector, reported(given["report_s"], collector.collected), rarely_collecting():
        return collector.run(drain.is_wanted, until_end=given["until_end"])


def _from_files(given: dict[str, Any], drain: Drain) -> Collected:
    from connectors.file_collector import collect_files
    from connectors.kafka_collected_topics import Collected

    collected = Collected()
    for topic, schema in zip(("impressions", "clicks"), _schemas(given), strict=True):
        paths = _paths(given[topic])
        roll = _options(given).roll()
        collect_files(given["log"], topic, schema, paths, stopping=drain.is_wanted, roll=roll, collected=collected)
    return collected


def _paths(given: tuple[str, ...]) -> list[Path]:
    found = []
    for pattern in given:
        some = sorted(glob.glob(pattern, recursive=True)) if glob.has_magic(pattern) else [pattern]  # noqa: PTH207
        if not some:
            raise StreamError(f"{pattern}: no file has such a name")
        found += [Path(path) for path in some]
    return found


def _schemas(given: dict[str, Any]) -> tuple[LogSchema, LogSchema]:
    """Of impressions, and of clicks."""
    from connectors.parquet_log_schema import SERVED, clicks, impressions
    from streamfm.features import Input

    spec = _spec(given)
    changes = {key: given[key] for key in ("event_id", "event_time") if given[key]}
    spec = replace(spec, **changes) if changes else spec
    also = [
        Input(name=name, type=kind or "VARCHAR") for name, _, kind in (text.partition("=") for text in given["also"])
    ]
    shown = impressions(spec, also=(*SERVED, *also), time_form=given["time_form"])
    click_time = "" if given["click_time"] == "_timestamp" else given["click_time"]
    id_type = next(item.type for item in shown.columns if item.name == shown.id)
    return shown, clicks(
        id=given["click_id"],
        time=click_time,
        kind=given["click_kind"],
        id_type=id_type,
        time_form=given["time_form"],
    )


def _spec(given: dict[str, Any]) -> FeatureSpec:
    from streamfm.features import FeatureSpec

    if given["features"]:
        return FeatureSpec.load(given["features"])
    from streamfm.registry.resolving import hold

    with hold(given["model"]) as held:
        return FeatureSpec.load(held.resolved.path / "features.toml")


def _client(name: str, kafka: KafkaSettings) -> Client:
    if name == "confluent":
        from connectors.confluent_client import ConfluentClient

        return ConfluentClient(kafka)
    from connectors.kafka_python_client import KafkaPythonClient

    return KafkaPythonClient(kafka)


def _options(given: dict[str, Any]) -> CollectOptions:
    return CollectOptions(**{field.name: given[field.name] for field in fields(CollectOptions)})
