"""confluent-kafka (librdkafka) behind the port of `kafka_client`."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import KafkaError, TopicCollection
from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from connectors.confluent_config import consumer_config, producer_config
from connectors.confluent_consumer import ConfluentConsumer
from connectors.confluent_errors import Reports, translated, translating
from connectors.confluent_producer import ConfluentProducer
from connectors.kafka_client import Revocation, TopicFacts
from connectors.kafka_errors import no_topic
from connectors.kafka_settings import KafkaSettings

_MOCK = "mockCluster"


class ConfluentClient:
    """A `Client`."""

    def __init__(self, settings: KafkaSettings) -> None:
        """Check what can be checked without a broker.

        Raises:
            StreamError: An option cannot be given.
        """
        self._settings = settings
        self._consumer_config = consumer_config(settings)
        self._producer_config = producer_config(settings)

    def open_consumer(self, revocation: Revocation) -> ConfluentConsumer:
        """See `Client`."""
        consumer = self.open_unsubscribed()
        try:
            for topic in self._settings.topics:
                consumer.partitions(topic)
            consumer.subscribe(revocation)
        except BaseException:
            consumer.close(0.0)
            raise
        return consumer

    def open_unsubscribed(self) -> ConfluentConsumer:
        """A consumer in no group."""
        return ConfluentConsumer(self._consumer_config, self._settings)

    def sizes(self, topics: Sequence[str]) -> Mapping[str, int]:
        """See `kafka_check.Inspector`."""
        asked = [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics]
        with translating("asking for the topics' settings", Reports()):
            # Without a reference it would end before the answers come.
            admin = AdminClient(self._producer_config)
            answers = admin.describe_configs(asked, request_timeout=self._settings.request_timeout_s)
            return {asked.name: int(answer.result()["max.message.bytes"].value) for asked, answer in answers.items()}

    def facts(self, topics: Sequence[str]) -> Mapping[str, TopicFacts]:
        """See `kafka_collector.Client`."""
        limit_s = self._settings.request_timeout_s
        reports = Reports()
        admin = AdminClient(self._consumer_config | {"error_cb": reports})
        with translating(f"connecting to {self._settings.bootstrap_servers}", reports):
            cluster = str(admin.list_topics(timeout=limit_s).cluster_id)
            found = {topic: admin.list_topics(topic, limit_s).topics[topic] for topic in topics}
        for topic, about in found.items():
            if about.error and about.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise no_topic(topic, self._settings.bootstrap_servers)
            if about.error:
                raise translated(f"looking for topic {topic!r}", about.error)
        ids: dict[str, str] = {}
        # librdkafka's own mock cluster has no controller, whom it would wait for.
        if not cluster.startswith(_MOCK):
            with translating("asking for the topics' ids", reports):
                asked = admin.describe_topics(TopicCollection(list(topics)), request_timeout=limit_s)
                ids = {topic: _text(answer.result().topic_id) for topic, answer in asked.items()}
        return {topic: TopicFacts(cluster, ids.get(topic) or None, len(found[topic].partitions)) for topic in topics}

    def open_producer(self) -> ConfluentProducer:
        """See `Client`."""
        producer = ConfluentProducer(self._producer_config, self._settings)
        try:
            producer.prepare()
        except BaseException:
            producer.close(0.0)
            raise
        return producer


def _text(topic_id: Any) -> str:
    """A topic's id as other clients write it; empty for the zeros of a broker that has none."""
    mask = (1 << 64) - 1
    high, low = topic_id.get_most_significant_bits() & mask, topic_id.get_least_significant_bits() & mask
    return str(uuid.UUID(int=high << 64 | low)) if high or low else ""
