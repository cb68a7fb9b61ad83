"""What `streamfm stream --check` asks of Kafka, without joining the group or writing anything."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import kafka
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.errors import KafkaError

from connectors.kafka_errors import bounded
from connectors.kafka_options import options_for
from connectors.kafka_python_client import check_libraries
from connectors.kafka_python_errors import translated
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import StreamError
from streamfm.stream.ports import Record

Check = tuple[str, bool, str]
_KNOWN = {"consumer": kafka.KafkaConsumer.DEFAULT_CONFIG, "producer": kafka.KafkaProducer.DEFAULT_CONFIG}
# Room for the headers that tell what is wrong with a dead letter.
_HEADERS_BYTES = 4_096


def check(settings: KafkaSettings, client: str = "kafka-python") -> tuple[list[Check], Record | None]:
    """What is there and what is not.

    Args:
        settings: What the stream will be told.
        client: The library whose options `settings` has; kafka-python asks, with those of them that it knows.

    Returns:
        What was looked at, whether it is right, and what was found; and an event of the input, if there is one.
    """
    found: list[Check] = [_attempt("libraries", settings, _libraries)]
    options = _options(settings, client)
    if isinstance(options, StreamError):
        return [*found, ("options", False, str(options))], None
    consumers: list[Any] = []
    reached = _attempt("broker", settings, lambda: _connect(settings, options, consumers))
    found.append(reached)
    if not consumers:
        return found, None
    (consumer,) = consumers
    try:
        topics = [*settings.input_topics, settings.output_topic, settings.dead_letter_topic]
        for topic in filter(None, topics):
            found.append(_attempt(f"topic {topic}", settings, lambda: _partitions(consumer, topic)))  # noqa: B023
        if not all(is_right for _, is_right, _ in found):
            return found, None
        found.append(_attempt(f"group {settings.group_id}", settings, lambda: _committed(consumer, settings)))
        if settings.dead_letter_topic:
            found.append(_attempt("size of dead letters", settings, lambda: _sizes(settings, options)))
        return found, _sample(consumer, settings)
    finally:
        consumer.close(timeout_ms=1_000)


def _attempt(what: str, settings: KafkaSettings, ask: Callable[[], str]) -> Check:
    try:
        return what, True, bounded(what, settings.call_limit_s * 2, ask)
    except KafkaError as error:
        return what, False, str(translated("asked", error))
    except StreamError as error:
        return what, False, str(error)


def _libraries() -> str:
    check_libraries()
    return "all codecs, crc32c"


def _options(settings: KafkaSettings, client: str) -> dict[str, Any] | StreamError:
    given = settings.options
    if client != "kafka-python":
        given = {name: value for name, value in given.items() if name.replace(".", "_") in _KNOWN["consumer"]}
    try:
        options_for("producer", given, _KNOWN)
        return options_for("consumer", given, _KNOWN)
    except StreamError as error:
        return error


def _connect(settings: KafkaSettings, options: dict[str, Any], consumers: list[Any]) -> str:
    consumers.append(
        kafka.KafkaConsumer(
            **options,
            bootstrap_servers=settings.bootstrap_servers.split(","),
            group_id=settings.group_id,
            enable_auto_commit=False,
            isolation_level="read_committed",
            allow_auto_create_topics=False,
            bootstrap_timeout_ms=round(settings.request_timeout_s * 1000),
            request_timeout_ms=round(settings.request_timeout_s * 1000),
        )
    )
    return f"{settings.bootstrap_servers} answers"


def _partitions(consumer: Any, topic: str) -> str:
    partitions = consumer.partitions_for_topic(topic)
    if not partitions:
        raise StreamError("it is not there, or this user may not see it")
    return f"{len(partitions)} partitions"


def _inputs(consumer: Any, settings: KafkaSettings) -> list[Any]:
    return [
        kafka.TopicPartition(topic, number)
        for topic in settings.input_topics
        for number in sorted(consumer.partitions_for_topic(topic))
    ]


def _committed(consumer: Any, settings: KafkaSettings) -> str:
    partitions = _inputs(consumer, settings)
    limit_ms = round(settings.request_timeout_s * 1000)
    begins = consumer.beginning_offsets(partitions, timeout_ms=limit_ms)
    ends = consumer.end_offsets(partitions, timeout_ms=limit_ms)
    committed = {partition: consumer.committed(partition, timeout_ms=limit_ms) for partition in partitions}
    lost = [
        f"{it.topic}[{it.partition}] stands at {offset}, the log has {begins[it]} to {ends[it]}"
        for it, offset in committed.items()
        if offset is not None and not begins[it] <= offset <= ends[it]
    ]
    if lost:
        raise StreamError(f"offsets out of range: {'; '.join(lost)}")
    known = {partition: offset for partition, offset in committed.items() if offset is not None}
    lag = sum(ends[partition] - offset for partition, offset in known.items())
    fresh = len(partitions) - len(known)
    begin = f", {fresh} partitions begin at {settings.start}" if fresh else ""
    return f"stands in {len(known)} partitions, {lag} events behind{begin}"


def _sizes(settings: KafkaSettings, options: dict[str, Any]) -> str:
    names = [*settings.input_topics, settings.dead_letter_topic]
    admin_options = {name: value for name, value in options.items() if name in kafka.KafkaAdminClient.DEFAULT_CONFIG}
    admin = kafka.KafkaAdminClient(**admin_options, bootstrap_servers=settings.bootstrap_servers.split(","))
    try:
        resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
        configs = admin.describe_configs(resources, config_filter="all")["topic"]
    finally:
        admin.close()
    sizes = {name: int(configs[name]["max.message.bytes"]["value"]) for name in names}
    dead = sizes.pop(settings.dead_letter_topic)
    largest = max(sizes.values())
    if dead < largest + _HEADERS_BYTES:
        # Not wrong before such an event comes; then it would stop the stream.
        return (
            f"max.message.bytes is {dead}; an event of the input may have {largest}, and a dead letter has headers, "
            f"too: better {largest + _HEADERS_BYTES}"
        )
    return f"max.message.bytes is {dead}"


def _sample(consumer: Any, settings: KafkaSettings) -> Record | None:
    """The first event that is still there, of any partition."""
    partitions = _inputs(consumer, settings)
    consumer.assign(partitions)
    consumer.seek_to_beginning(*partitions)
    try:
        polled = consumer.poll(timeout_ms=2_000, max_records=1)
    except KafkaError:
        return None
    for records in polled.values():
        record: Record = records[0]
        return record
    return None
