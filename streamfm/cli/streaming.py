"""`streamfm stream`: events scored as they happen."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import click

from connectors.kafka_settings import KafkaSettings
from streamfm.cli.commands import Command, argument, option
from streamfm.cli.complaints import complaint
from streamfm.cli.console import say
from streamfm.cli.drain import Drain
from streamfm.cli.stream_logs import LOG_FORMATS, written_logs
from streamfm.cli.stream_operation import Operation
from streamfm.cli.stream_options import (
    PREFIX,
    address,
    client_option,
    config_option,
    configurable,
    each,
    library_option,
    names,
    refuse_idle,
    setting,
)
from streamfm.cli.workers import follow, supervise
from streamfm.stream.settings import StreamSettings

logger = logging.getLogger(__name__)

EXIT_FAILED = 1

KAFKA, EVENTS, REPLAY, OPERATION = "Kafka", "Events and scores", "Replay", "Operation"
GUARANTEES = ("at-least-once", "exactly-once")

TIME_LIMITS = {
    "request_timeout_s": "Of a broker's answer.",
    "delivery_timeout_s": "Of a score's acknowledgement, all retries included.",
    "transaction_timeout_s": "After it the broker aborts a transaction.",
    "revoke_deadline_s": "To commit what was sent, when partitions go to another worker.",
    "session_timeout_s": "A worker not heard of for so long loses its partitions.",
    "heartbeat_interval_s": "How often it is heard of.",
    "max_poll_interval_s": "A worker that takes longer for a batch loses its partitions, too.",
    "watchdog_s": "Without progress for so long, the client is built anew.",
}


# What means nothing without brokers, and with them.
OF_KAFKA = {
    *("group", "guarantee", "client", "options", "instance", "static_membership", "max_in_flight"),
    *TIME_LIMITS,
    *("start", "stop", "until_end", "workers", "commit_interval_s"),
}
OF_FILES = {"follow"}


@click.command(cls=Command, short_help="Score events as they happen: Kafka topics, or JSON lines.")
@argument(
    "reference",
    "models/ctr@champion (an alias, which is followed), models/ctr/3 (a version), or a bundle's folder.",
    envvar=f"{PREFIX}REFERENCE",
)
@configurable("--in", "source", required=True, help="The topic of the events; without brokers a file, or -.")
@configurable("--out", "target", required=True, help="The topic of the scores; without brokers a file, or -.")
@configurable(
    "--dead-letters",
    help="The topic, or file, of what cannot be scored. [default: that of --in, of a file --out, with .dead-letters]",
)
@config_option()
@configurable(
    "-b", "--bootstrap-servers", "bootstrap_servers", heading=KAFKA, help="Kafka's brokers: HOST:PORT,HOST:PORT."
)
@configurable(
    "-g", "--group", default="streamfm", show_default=True, heading=KAFKA, help="Its workers share the events."
)
@setting(
    KafkaSettings,
    "guarantee",
    choices=GUARANTEES,
    heading=KAFKA,
    help="exactly-once: scores, dead letters and offsets in one transaction.",
)
@client_option(heading=KAFKA)
@library_option(heading=KAFKA)
@setting(KafkaSettings, "instance", heading=KAFKA, help="Names this machine or deployment in the group.")
@setting(KafkaSettings, "static_membership", heading=KAFKA, help="A worker that comes back soon keeps its partitions.")
@setting(KafkaSettings, "max_in_flight", heading=KAFKA, help="Scores sent and not acknowledged, at most.")
@each(KafkaSettings, TIME_LIMITS, heading="Time limits of Kafka")
@configurable("--event-id", heading=EVENTS, help="The field that names an event. [default: the specification's]")
@configurable("--keep", callback=names, heading=EVENTS, metavar="FIELD,...", help="Fields that the score repeats.")
@setting(
    StreamSettings,
    "keep_inputs",
    heading=EVENTS,
    help="Repeat all inputs of the model: what `streamfm collect` needs of scores that are shown.",
)
@setting(StreamSettings, "with_logit", heading=EVENTS, help="Tell the logit, too.")
@setting(
    StreamSettings,
    "errors",
    choices=["all", "none"],
    heading=EVENTS,
    help="Tolerate all errors, as dead letters, or none.",
)
@each(
    StreamSettings,
    {
        "max_dead_letter_share": "Of the latest 1,000 events; with more, stop. 1: never.",
        "max_event_bytes": "A larger event is a dead letter.",
    },
    heading=EVENTS,
)
@each(
    StreamSettings,
    {
        "max_batch_records": "Events scored and sent together.",
        "max_batch_bytes": "A batch with so many takes no more.",
        "linger_s": "How long a batch waits for more after its first event.",
        "commit_interval_s": "Kafka: small batches of that time are committed together.",
    },
    heading="Batches",
)
@configurable(
    "--from",
    "start",
    default="earliest",
    show_default=True,
    heading=REPLAY,
    help="Where the group has committed nothing: earliest, latest, an offset, or a time.",
)
@configurable("--to", "stop", heading=REPLAY, help="Stop at an offset or a time.")
@configurable("--until-end", is_flag=True, heading=REPLAY, help="Stop where the topic ends now.")
@configurable("--follow", is_flag=True, heading=REPLAY, help="Of a file: do not stop at its end, wait for more.")
@configurable("--shadow", heading=OPERATION, help="A second model, scored beside the first one.")
@configurable(
    "--precision",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    heading=OPERATION,
    help="The network that answers; int8 is the faster one.",
)
@configurable(
    "--threads",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    heading=OPERATION,
    help="Threads of the network, in each worker.",
)
@configurable(
    "--workers",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    heading=OPERATION,
    help="Processes of the group on this machine.",
)
@configurable(
    "--http",
    callback=address,
    heading=OPERATION,
    metavar="HOST:PORT",
    help="Serve /metrics, /healthz, /readyz; each further worker at the next port.",
)
@each(
    Operation,
    {
        "watch_s": "How often to look for a new version; 0: never.",
        "max_lag": "Events behind, above which it is not ready.",
        "stalled_s": "Time without a turn of the loop, above which it is not healthy.",
        "drain_s": "Time to commit what was sent after SIGTERM.",
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
@option(
    "--check",
    is_flag=True,
    help="Check brokers, topics and codecs, or files, and the model, score one event, and stop.",
)
@option("--slot", type=click.IntRange(0), hidden=True)
@option("--parent", type=int, hidden=True)
def stream(**given: Any) -> int:
    """Score the events of a Kafka topic, or of JSON lines, and write the scores back, until you stop it.

    An event is a JSON object with the model's inputs by name. Its score has its key and timestamp, the fields to keep,
    score, scored_at, and which model and version answered. A new version that the alias moves to answers from the next
    batch on. What cannot be scored goes to the dead letters, untouched, with Kafka Connect's error headers.

    At-least-once: nothing is lost; after a crash some scores are there twice. Exactly-once: read with
    isolation.level=read_committed, nothing is there twice. From file to file it is so by itself.

    Each option may stand in the environment (STREAMFM_MAX_LAG=1000) or in the file of --config (max_lag = 1000); the
    command line goes first, then the environment, then the file. SIGTERM and Ctrl-C commit what was sent and end with
    exit code 0; a second one ends at once.

    \b
    Examples:
      streamfm stream models/ctr@champion -b localhost:9092 --in events --out scores
      streamfm stream models/ctr@champion -b localhost:9092 --in events --out scores --check
      streamfm stream models/ctr@champion -b localhost:9092 --in events --out scores --guarantee exactly-once \\
        --workers 4 --http :9100 --shadow models/ctr@challenger --keep user_id,app_id
      streamfm stream models/ctr@champion -b localhost:9092 --in events --out scores --keep-inputs
      streamfm stream models/ctr@champion -b localhost:9092 --in events --out replayed --group replay-1 \\
        --from 2026-01-31T00:00:00Z --until-end
      streamfm stream models/ctr@champion --in events.jsonl --out scores.jsonl
      tail -f events.jsonl | streamfm stream models/ctr@champion --in - --out -
      streamfm stream --config stream.toml
    """
    context = click.get_current_context()
    if given["bootstrap_servers"]:
        refuse_idle(context, OF_FILES, "with --bootstrap-servers: a topic is waited at")
    else:
        refuse_idle(context, OF_KAFKA, "with JSON lines: it is Kafka's, and needs --bootstrap-servers")
    if given["stop"] and given["until_end"]:
        raise click.UsageError("--to and --until-end both say where to stop: give one of them", context)
    context.with_resource(written_logs(given["log_format"]))
    if given["workers"] > 1 and given["slot"] is None and not given["check"]:
        return supervise(sys.argv[1:], given["workers"], drain_s=given["drain_s"])

    if given["parent"] is not None:
        follow(given["parent"])
    if given["check"]:
        from streamfm.cli.stream_check import print_checks

        return print_checks(given)
    try:
        with Drain(given["drain_s"], log_format=given["log_format"]) as drain:
            return _work(given, drain)
    except BrokenPipeError:
        raise
    except Exception as error:
        if given["log_format"] == "text":
            raise
        logger.error(complaint(error).removeprefix("error: "), exc_info=True)
        return EXIT_FAILED


def _work(given: dict[str, Any], drain: Drain) -> int:
    # What takes long to import is imported when signals are heeded; and the help is there at once.
    from streamfm.cli import stream_parts as parts
    from streamfm.cli.worker import work

    models = parts.models(given)
    began = time.monotonic()
    measures = work(lambda: parts.ends(given), models, parts.operation(given), drain)
    summary = (
        f"{measures.events:,} events in {time.monotonic() - began:,.1f} s: {measures.scores:,} scores, "
        f"{measures.dead_letters.total():,} dead letters"
    )
    if given["log_format"] == "json":
        logger.info(summary)
    else:
        say(summary)
    return 0
