"""`streamfm broker`: a Kafka broker for development, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time

import click

from streamfm.cli.commands import Command, option
from streamfm.cli.console import answer, say

PARTITIONS = 4
LOOK_S = 0.1


def _topics(context: click.Context, parameter: click.Parameter, text: str) -> dict[str, int]:
    """TOPIC or TOPIC:PARTITIONS, with commas between; click calls it."""
    topics = {}
    for one in filter(None, text.split(",")):
        name, _, count = one.strip().partition(":")
        if count and not (count.isdecimal() and int(count)):
            raise click.BadParameter(f"{one!r}: expected TOPIC:PARTITIONS", ctx=context, param=parameter)
        topics[name] = int(count or PARTITIONS)
    return topics


@click.command(cls=Command, short_help="Run a small Kafka broker for development.")
@option(
    "--topics",
    default="events,scores,events.dead-letters,clicks",
    show_default=True,
    callback=_topics,
    metavar="TOPIC:PARTITIONS,...",
    help=f"Topics to make; {PARTITIONS} partitions where no number is said.",
)
def broker(topics: dict[str, int]) -> None:
    """Run a Kafka broker inside this process, and print where it is: for demonstrations, without an installation.

    It is librdkafka's mock cluster, out of the confluent-kafka wheel. It keeps little and forgets everything; what
    else it cannot do is printed.

    \b
    Examples:
      streamfm broker
      streamfm broker --topics events:8,scores:8
      streamfm stream models/ctr@champion -b 127.0.0.1:PORT --client confluent --in events --out scores
    """
    from connectors.dev_broker import LIMITS, DevBroker

    ended = []
    with DevBroker(topics) as running:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda number, _: ended.append(number))
        say(LIMITS)
        answer(running.bootstrap_servers)
        sys.stdout.flush()
        while not ended:
            time.sleep(LOOK_S)
