"""kafka-python behind the port of `kafka_client`, around its defects as of 3.0.12."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import kafka
from kafka import codec
from kafka.admin import ConfigResource, ConfigResourceType
from kafka.coordinator.assignors.range import RangePartitionAssignor
from kafka.errors import KafkaError, KafkaTimeoutError
from kafka.net.compat import KafkaNetClient

from connectors.kafka_client import Revocation, TopicFacts
from connectors.kafka_errors import bounded, no_topic, stream_error
from connectors.kafka_options import options_for
from connectors.kafka_python_consumer import KafkaPythonConsumer
from connectors.kafka_python_errors import translated, translating
from connectors.kafka_python_producer import KafkaPythonProducer, NullSerializer
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError

_KNOWN = {"consumer": kafka.KafkaConsumer.DEFAULT_CONFIG, "producer": kafka.KafkaProducer.DEFAULT_CONFIG}
_NO_TOPIC = 3
_NO_BROKER = "is a broker running there? That of `streamfm broker` needs --client confluent"
_Opened = TypeVar("_Opened")


class KafkaPythonClient:
    """A `Client`."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Check what can be checked without a broker.

        Raises:
            StreamError: A library is missing, or an option cannot be given.
        """
        check_libraries()
        self._settings = settings
        self._consumer_config = _consumer_config(settings)
        self._producer_config = _producer_config(settings)

    def open_consumer(self, revocation: Revocation) -> KafkaPythonConsumer:
        """See `Client`."""
        consumer = self.open_unsubscribed()
        try:
            # Also: the leader of a group of a fresh topic can be stuck for ever, unless it has seen its partitions.
            for topic in self._settings.topics:
                consumer.partitions(topic)
            consumer.subscribe(revocation)
        except BaseException:
            consumer.close(0.0)
            raise
        return consumer

    def open_unsubscribed(self) -> KafkaPythonConsumer:
        """A consumer that is connected, and in no group."""
        opened = _opened(kafka.KafkaConsumer, self._consumer_config, self._settings)
        return KafkaPythonConsumer(opened, self._settings)

    def sizes(self, topics: Sequence[str]) -> Mapping[str, int]:
        """See `kafka_check.Inspector`."""
        with translating("asking for the topics' settings"):
            admin = self._open_admin()
            try:
                asked = [ConfigResource(ConfigResourceType.TOPIC, topic) for topic in topics]
                found = admin.describe_configs(asked, config_filter="all")["topic"]
            finally:
                admin.close()
        return {topic: int(found[topic]["max.message.bytes"]["value"]) for topic in topics}

    def facts(self, topics: Sequence[str]) -> Mapping[str, TopicFacts]:
        """See `kafka_collector.Client`."""
        doing = "looking for the topics"
        with translating(doing):
            cluster, found = bounded(doing, self._settings.call_limit_s, lambda: self._described(topics))
        for topic in found:
            if topic["error_code"] == _NO_TOPIC:
                raise no_topic(topic["name"], self._settings.bootstrap_servers)
            if topic["error_code"]:
                raise stream_error(f"{doing}: {topic['name']}", topic["error_code"], f"error {topic['error_code']}")
        # An older broker sends no id, or zeros.
        ids = {topic["name"]: str(topic.get("topic_id") or "") for topic in found}
        return {
            topic["name"]: TopicFacts(
                cluster, ids[topic["name"]] if ids[topic["name"]].strip("0-") else None, len(topic["partitions"])
            )
            for topic in found
        }

    def _described(self, topics: Sequence[str]) -> tuple[str, list[dict[str, Any]]]:
        """The cluster's id, and what it says of topics."""
        admin = self._open_admin()
        try:
            return admin.describe_cluster()["cluster_id"], admin.describe_topics(list(topics))
        finally:
            admin.close()

    def _open_admin(self) -> Any:
        known = kafka.KafkaAdminClient.DEFAULT_CONFIG
        config = {name: value for name, value in self._consumer_config.items() if name in known}
        return _opened(kafka.KafkaAdminClient, config, self._settings)

    def open_producer(self) -> KafkaPythonProducer:
        """See `Client`."""
        producer = KafkaPythonProducer(
            _opened(kafka.KafkaProducer, self._producer_config, self._settings), self._settings
        )
        try:
            producer.prepare()
        except BaseException:
            producer.close(0.0)
            raise
        return producer


def check_libraries() -> None:
    """Raises a StreamError that names what is not installed.

    A topic may be compressed by any of the codecs; kafka-python without it would spin for ever. Without crc32c it reads
    at a fifth of the rate.
    """
    missing = [
        name
        for name, is_there in (
            ("lz4", codec.has_lz4()),
            ("zstandard", codec.has_zstd()),
            ("python-snappy", codec.has_snappy()),
            ("crc32c", importlib.util.find_spec("crc32c") is not None),
        )
        if not is_there
    ]
    if missing:
        raise StreamError(f"Kafka needs {', '.join(missing)}", hint="pip install 'streamfm[stream]'")


def _opened(kind: Callable[..., _Opened], config: dict[str, Any], settings: KafkaSettings) -> _Opened:
    """A consumer or producer; where no broker answers, nothing stays behind.

    A constructor of kafka-python that fails leaves its network thread running, which nobody but it knows.
    """
    clients: list[Any] = []

    def network(**options: Any) -> Any:
        clients.append(KafkaNetClient(**options))
        return clients[-1]

    doing = f"connecting to {settings.bootstrap_servers}"
    try:
        return bounded(doing, settings.call_limit_s * 2, lambda: kind(**config, kafka_client=network))
    except StreamError:
        raise
    except Exception as error:
        for client in clients:
            client.close()
        if isinstance(error, KafkaTimeoutError):
            raise DisturbedError(translated(doing, error).message, hint=_NO_BROKER) from None
        if isinstance(error, KafkaError):
            raise translated(doing, error) from None
        raise StreamError(f"{doing}: {error}") from error


def _common(settings: KafkaSettings) -> dict[str, Any]:
    return {
        "client_id": settings.worker_name,
        "bootstrap_servers": settings.bootstrap_servers.split(","),
        "request_timeout_ms": _ms(settings.request_timeout_s),
        "bootstrap_timeout_ms": _ms(settings.request_timeout_s),
        "allow_auto_create_topics": False,
        # The default of 30 s is a long time after the broker is back.
        "reconnect_backoff_max_ms": 1_000,
        # A transaction is some round trips with a retry in between: at 100 ms, it took twice as long.
        "retry_backoff_ms": 10,
        "metrics_enabled": False,
    }


def _consumer_config(settings: KafkaSettings) -> dict[str, Any]:
    return {
        **_common(settings),
        **options_for("consumer", settings.options, _KNOWN),
        "group_id": settings.group_id,
        "group_instance_id": settings.worker_name if settings.static_membership else None,
        "session_timeout_ms": _ms(settings.session_timeout_s),
        "heartbeat_interval_ms": _ms(settings.heartbeat_interval_s),
        "max_poll_interval_ms": _ms(settings.max_poll_interval_s),
        "enable_auto_commit": False,
        "auto_offset_reset": "none",
        # Also in at-least-once: only so are pending commits of transactions waited for.
        "isolation_level": "read_committed",
        "partition_assignment_strategy": (RangePartitionAssignor,),
    }


def _producer_config(settings: KafkaSettings) -> dict[str, Any]:
    return {
        **_common(settings),
        "linger_ms": 5,
        "batch_size": 1 << 16,
        # The topic's max.message.bytes decides.
        "max_request_size": 8 << 20,
        **options_for("producer", settings.options, _KNOWN),
        "acks": "all",
        "enable_idempotence": True,
        "transactional_id": settings.worker_name if settings.is_exactly_once else None,
        "transaction_timeout_ms": _ms(settings.transaction_timeout_s),
        "delivery_timeout_ms": _ms(settings.delivery_timeout_s),
        "max_block_ms": _ms(settings.request_timeout_s),
        "value_serializer": NullSerializer(),
    }


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
