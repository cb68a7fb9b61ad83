"""confluent-kafka (librdkafka) behind the port of `kafka_client`."""

from __future__ import annotations

from connectors.confluent_config import consumer_config, producer_config
from connectors.confluent_consumer import ConfluentConsumer
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
        settings = self._settings
        consumer = ConfluentConsumer(self._consumer_config, settings, revocation)
        try:
            for topic in dict.fromkeys((*settings.input_topics, settings.output_topic, settings.dead_letter_topic)):
                if topic:
                    consumer.require_topic(topic)
            consumer.subscribe()
        except BaseException:
            consumer.close(0.0)
            raise
        return consumer

    def open_producer(self) -> ConfluentProducer:
        """See `Client`."""
        producer = ConfluentProducer(self._producer_config, self._settings)
        try:
            producer.prepare()
        except BaseException:
            producer.close(0.0)
            raise
        return producer
