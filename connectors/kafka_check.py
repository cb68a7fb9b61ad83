"""What `streamfm stream --check` asks of Kafka, without joining the group or writing anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from connectors.kafka_client import Bounds
from connectors.kafka_errors import bounded
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Partition, Positions, Record

Check = tuple[str, bool, str]
# Room for the headers that tell what is wrong with a dead letter.
_HEADERS_BYTES = 4_096
_TRIES, _AGAIN_S = 10, 0.5


class Looker(Protocol):
    """A consumer in no group."""

    def partitions(self, topic: str) -> list[Partition]:
        """Those of a topic; raises a StreamError where it is not there."""

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        """See `Consumer`."""

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Consumer`."""

    def read_alone(self, positions: Positions) -> None:
        """Read from there."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Consumer`."""

    def close(self, timeout_s: float) -> None:
        """See `Consumer`."""


class Inspector(Protocol):
    """A client library with the options that the stream will have."""

    def open_unsubscribed(self) -> Looker:
        """A consumer in no group."""

    def sizes(self, topics: Sequence[str]) -> Mapping[str, int]:
        """Of each topic, max.message.bytes."""


def check(settings: KafkaSettings, client: str = "kafka-python") -> tuple[list[Check], Record | None]:
    """What is there and what is not.

    Args:
        settings: What the stream will be told.
        client: The library that will run it, and that asks: ``kafka-python`` or ``confluent``.

    Returns:
        What was looked at, whether it is right, and what was found, with what to do about it; and an event of the
        input, if there is one.
    """
    try:
        inspector = _inspector(settings, client)
    except StreamError as error:
        return [("client", False, str(error))], None
    found: list[Check] = [("client", True, f"{client} is there, and takes the options")]
    try:
        looker = inspector.open_unsubscribed()
    except StreamError as error:
        return [*found, ("broker", False, str(error))], None
    try:
        return found, _inspect(inspector, looker, settings, found)
    finally:
        looker.close(1.0)


def _inspector(settings: KafkaSettings, client: str) -> Inspector:
    if client == "confluent":
        from connectors.confluent_client import ConfluentClient

        return ConfluentClient(settings)
    from connectors.kafka_python_client import KafkaPythonClient

    return KafkaPythonClient(settings)


def _inspect(inspector: Inspector, looker: Looker, settings: KafkaSettings, found: list[Check]) -> Record | None:
    def attempt(what: str, ask: Callable[[], str]) -> None:
        try:
            found.append((what, True, bounded(what, settings.call_limit_s * 2, lambda: _patiently(ask))))
        except StreamError as error:
            found.append((what, False, str(error)))

    for topic in settings.topics:
        attempt(f"topic {topic}", lambda: f"{len(looker.partitions(topic))} partitions")  # noqa: B023
    if not all(is_right for _, is_right, _ in found):
        return None
    attempt(f"group {settings.group_id}", lambda: _standing(looker, settings))
    if settings.dead_letter_topic:
        found.append(("size of dead letters", True, _sizes_told(inspector, settings)))
    try:
        return _first(looker, settings)
    except StreamError:
        return None


def _patiently(ask: Callable[[], str]) -> str:
    """The answer; a broker that has just started has nobody to ask about groups for some seconds."""
    for _ in range(_TRIES - 1):
        try:
            return ask()
        except DisturbedError:
            time.sleep(_AGAIN_S)
    return ask()


def _inputs(looker: Looker, settings: KafkaSettings) -> list[Partition]:
    return [partition for topic in settings.input_topics for partition in looker.partitions(topic)]


def _standing(looker: Looker, settings: KafkaSettings) -> str:
    partitions = _inputs(looker, settings)
    bounds, known = looker.bounds(partitions), looker.committed(partitions)
    lost = [
        f"{partition[0]}[{partition[1]}] stands at {offset}, the log has {begin} to {end}"
        for partition, (begin, end) in bounds.items()
        if not begin <= (offset := known.get(partition, begin)) <= end
    ]
    if lost:
        raise StreamError(
            f"offsets out of range: {'; '.join(lost)}",
            hint="events were deleted, or the topic was made anew; see kafka-consumer-groups.sh --reset-offsets",
        )
    lag = sum(bounds[partition].end - offset for partition, offset in known.items())
    fresh = len(partitions) - len(known)
    begin = f", {fresh} partitions begin at {settings.start}" if fresh else ""
    return f"stands in {len(known)} partitions, {lag} events behind{begin}"


def _sizes_told(inspector: Inspector, settings: KafkaSettings) -> str:
    """What is told of them: a broker need not answer, nor let everybody ask, and the stream runs all the same."""
    try:
        return bounded("asking for max.message.bytes", settings.call_limit_s, lambda: _sizes(inspector, settings))
    except StreamError as error:
        return f"not known: {error.message}"


def _sizes(inspector: Inspector, settings: KafkaSettings) -> str:
    sizes = dict(inspector.sizes([*settings.input_topics, settings.dead_letter_topic]))
    dead = sizes.pop(settings.dead_letter_topic)
    largest = max(sizes.values())
    if dead < largest + _HEADERS_BYTES:
        # Not wrong before such an event comes; then it would stop the stream.
        return (
            f"max.message.bytes is {dead}; an event of the input may have {largest}, and a dead letter has headers, "
            f"too: better {largest + _HEADERS_BYTES}"
        )
    return f"max.message.bytes is {dead}"


def _first(looker: Looker, settings: KafkaSettings) -> Record | None:
    """An event that is still there; it comes at once, or not within some polls."""
    bounds = looker.bounds(_inputs(looker, settings))
    begins = {partition: begin for partition, (begin, end) in bounds.items() if begin < end}
    if not begins:
        return None
    looker.read_alone(begins)
    for _ in range(20):
        if records := looker.poll(1, 0.1):
            return records[0]
    return None
