"""Events from Kafka and scores to Kafka, by confluent-kafka: the fast client.

Guarantees, settings and errors are those of `kafka_events`; options have librdkafka's names. What it can do more: a
header without a value stays so. What it needs more: the library, ``pip install 'streamfm[confluent]'``.

    source, sink = open_kafka(KafkaSettings(bootstrap_servers="localhost:9092", ...))
"""

from __future__ import annotations

from connectors.confluent_client import ConfluentClient
from connectors.kafka_settings import KafkaSettings
from connectors.kafka_sink import KafkaSink
from connectors.kafka_source import KafkaSource, open_with


def open_kafka(settings: KafkaSettings) -> tuple[KafkaSource, KafkaSink]:
    """The two ends of a stream, connected; the group is joined with the first poll.

    Raises:
        StreamError: A topic is not there, or something is not allowed.
        DisturbedError: No broker answers.
    """
    return open_with(ConfluentClient(settings), settings)
