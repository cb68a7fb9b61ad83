"""confluent-kafka (librdkafka) behind the port of `kafka_client`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from confluent_kafka.admin import AdminClient, ConfigResource  # type: ignore[attr-defined]

from connectors.confluent_config import consumer_config, producer_config
from connectors.confluent_consumer import ConfluentConsumer
from connectors.confluent_errors import Reports, translating
from connectors.confluent_producer import ConfluentProducer
from connectors.kafka_client import Revocation
from connectors.kafka_settings import KafkaSettings


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

    def open_producer(self) -> ConfluentProducer:
        """See `Client`."""
        producer = ConfluentProducer(self._producer_config, self._settings)
        try:
            producer.prepare()
        except BaseException:
            producer.close(0.0)
            raise
        return producer
