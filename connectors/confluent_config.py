"""What confluent-kafka is told: the settings in librdkafka's names, and the options that users add."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import confluent_kafka

from connectors.confluent_errors import text_of
from connectors.kafka_options import OWNED, given_for
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import StreamError

logger = logging.getLogger(__name__)

Config = dict[str, Any]

OWNED_NAMES: Mapping[str, str] = {
    **OWNED,
    "metadata_broker_list": OWNED["bootstrap_servers"],
    "message_timeout_ms": OWNED["delivery_timeout_ms"],
    "socket_timeout_ms": OWNED["request_timeout_ms"],
    "request_required_acks": OWNED["acks"],
    "message_send_max_retries": OWNED["retries"],
    "max_in_flight": OWNED["max_in_flight_requests_per_connection"],
    "enable_auto_offset_store": OWNED["enable_auto_commit"],
    "group_protocol": OWNED["partition_assignment_strategy"],
    "queue_buffering_max_messages": "see max_in_flight",
    "enable_partition_eof": "it tells where a replay ends",
    "delivery_report_only_error": "every error is asked for",
}
"""Options that cannot be given, and why; with librdkafka's other names for them."""


def consumer_config(settings: KafkaSettings) -> Config:
    """For `confluent_kafka.Consumer`.

    Raises:
        StreamError: An option that cannot be given.
    """
    config = {
        # What is read ahead: at most so much, and asked for anew at once when there is less.
        "queued.max.messages.kbytes": 32_768,
        "fetch.queue.backoff.ms": 20,
        "fetch.error.backoff.ms": 100,
        **_options("consumer", settings),
        **_common(settings),
        "group.id": settings.group_id,
        "session.timeout.ms": _ms(settings.session_timeout_s),
        "heartbeat.interval.ms": _ms(settings.heartbeat_interval_s),
        "max.poll.interval.ms": _ms(settings.max_poll_interval_s),
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "auto.offset.reset": "error",
        # Also in at-least-once: only so are pending commits of transactions waited for.
        "isolation.level": "read_committed",
        "allow.auto.create.topics": False,
        "partition.assignment.strategy": "range",
        # The position alone stays before the markers of transactions that end a log.
        "enable.partition.eof": True,
    }
    if settings.static_membership:
        config["group.instance.id"] = settings.worker_name
    return _checked(confluent_kafka.Consumer, config, settings)


def producer_config(settings: KafkaSettings) -> Config:
    """For `confluent_kafka.Producer`.

    Raises:
        StreamError: An option that cannot be given.
    """
    delivery_s = settings.delivery_timeout_s
    config = {
        # It delays nothing: `flush` does not wait for it.
        "linger.ms": 5,
        # A batch is refused as a whole: far below the smallest max.message.bytes that is common.
        "batch.size": 1 << 17,
        # The topic's max.message.bytes decides.
        "message.max.bytes": 8 << 20,
        "queue.buffering.max.kbytes": 1 << 16,
        **_options("producer", settings),
        **_common(settings),
        "acks": "all",
        "enable.idempotence": True,
        # As Kafka's own client, and kafka-python: the same key is in the same partition.
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": settings.max_in_flight,
    }
    if settings.is_exactly_once:
        config["transactional.id"] = settings.worker_name
        config["transaction.timeout.ms"] = _ms(settings.transaction_timeout_s)
        # librdkafka takes no longer one.
        delivery_s = min(delivery_s, settings.transaction_timeout_s)
    config["delivery.timeout.ms"] = _ms(delivery_s)
    return _checked(confluent_kafka.Producer, config, settings)


def _common(settings: KafkaSettings) -> Config:
    limit_s = settings.request_timeout_s
    if settings.is_exactly_once:
        limit_s = min(limit_s, settings.transaction_timeout_s)
    return {
        "client.id": settings.worker_name,
        "bootstrap.servers": settings.bootstrap_servers,
        "socket.timeout.ms": _ms(limit_s),
        # What it would log of errors it reports, too: `Reports` tells them.
        "logger": logger,
        "log_level": 2,
    }


def _options(role: str, settings: KafkaSettings) -> Config:
    given = given_for(role, settings.options, OWNED_NAMES)
    defaults = {
        # The default of 10 s is a long time after the broker is back.
        "reconnect.backoff.max.ms": 1_000,
        # A transaction is some round trips with a retry in between.
        "retry.backoff.ms": 10,
    }
    return {**defaults, **{name.replace("_", "."): text for name, text in given.items()}}


def _checked(kind: Any, config: Config, settings: KafkaSettings) -> Config:
    """The configuration, if librdkafka takes it; it names what it does not know or understand."""
    trial = {name: value for name, value in config.items() if name != "bootstrap.servers"}
    try:
        # Without a broker's address it connects to nothing.
        kind(trial).close()
    except confluent_kafka.KafkaException as failure:
        given = ", ".join(sorted(settings.options)) or "none"
        raise StreamError(
            f"the Kafka client refuses its settings: {text_of(failure.args[0])}", hint=f"options given: {given}"
        ) from None
    return config


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
