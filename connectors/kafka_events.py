"""Events from Kafka and scores to Kafka, by kafka-python.

At-least-once: scores and dead letters are flushed, each acknowledgement is checked, and then the offsets are
committed; after a crash what was sent since the last commit is scored again. Exactly-once: scores, dead letters and
offsets are one transaction, and who reads with ``isolation.level=read_committed`` finds each once, whatever crashed. A
null header of an event becomes an empty one, since kafka-python cannot send it.

    source, sink = open_kafka(KafkaSettings(bootstrap_servers="localhost:9092", ...))
"""

from __future__ import annotations

from connectors.kafka_python_client import KafkaPythonClient
from connectors.kafka_settings import KafkaSettings
from connectors.kafka_sink import KafkaSink
from connectors.kafka_source import KafkaSource, open_with


def open_kafka(settings: KafkaSettings) -> tuple[KafkaSource, KafkaSink]:
    """The two ends of a stream, connected; the group is joined with the first poll.

    Raises:
        StreamError: A topic is not there, something is not allowed, or a library is missing.
        DisturbedError: No broker answers.
    """
    return open_with(KafkaPythonClient(settings), settings)
