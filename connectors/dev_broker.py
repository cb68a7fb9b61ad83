"""A Kafka broker for demonstrations, inside this process: no installation, no Java, nothing to configure.

    with DevBroker({"events": 4, "scores": 4}) as broker:
        print(broker.bootstrap_servers)         # 127.0.0.1:PORT, for every client on this machine

It is the mock cluster that librdkafka tests itself with, and that comes with the confluent-kafka wheel: the real
protocol, spoken by a thread of C. What it cannot do is in `LIMITS`; delivery is proven on genuine Kafka only.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import ModuleType, TracebackType

from streamfm.errors import StreamError

KAFKA_PYTHON_API_VERSION = (2, 3)
"""What kafka-python must be told as `api_version`: it cannot read the answer of this broker when it asks for one."""

LIMITS = """\
It keeps everything in memory, on a port of its own choice, and forgets it with the process.
It keeps at most the latest 5 MB of a partition, and drops what is older though nobody has read it.
A consumer group that anyone joins or leaves stands still for its session time-out less a second.
A topic that was not declared comes into being when a producer first names it, with 4 partitions; none is made on
request, and streamfm names none that is not there.
It ignores read_committed, does not fence off an older producer, and stores no offsets of a transaction:
exactly-once runs, and promises nothing.
kafka-python reaches it with api_version=(2, 3) only. There is neither TLS nor authentication.\
"""
"""What people should know before they rely on it."""

_PRODUCER = 0
_ERROR_BYTES = 512
# How long a new consumer group waits for more members: 3 s if nothing is said.
_FIRST_MEMBER_WAIT_MS = 100


class DevBroker:
    """One broker on a loopback port; a context manager that ends it.

    Attributes:
        bootstrap_servers: Where clients find it, ``host:port``.
    """

    def __init__(self, topics: Mapping[str, int]) -> None:
        """Start it with these topics.

        Args:
            topics: Partitions by topic.

        Raises:
            StreamError: confluent-kafka is not installed, or a topic cannot be.
        """
        self._library = _library()
        self._client = self._start_client()
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, 1)
        try:
            self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, _FIRST_MEMBER_WAIT_MS)
            for topic, partitions in topics.items():
                self._create(topic, partitions)
        except BaseException:
            self.close()
            raise
        self.bootstrap_servers: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def __enter__(self) -> DevBroker:
        """The running broker."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End it."""
        self.close()

    def close(self) -> None:
        """End it, with all that it holds; a second time does nothing."""
        cluster, self._cluster = self._cluster, None
        if cluster is not None:
            self._library.rd_kafka_mock_cluster_destroy(cluster)
            self._library.rd_kafka_destroy(self._client)

    def _start_client(self) -> int:
        """The client that the cluster belongs to; it connects to nothing, and would warn of that."""
        library = self._library
        error = ctypes.create_string_buffer(_ERROR_BYTES)
        settings = library.rd_kafka_conf_new()
        library.rd_kafka_conf_set(settings, b"log_level", b"3", error, _ERROR_BYTES)
        client: int | None = library.rd_kafka_new(_PRODUCER, settings, error, _ERROR_BYTES)
        if client is None:
            raise StreamError(f"the development broker does not start: {error.value.decode()}")
        return client

    def _create(self, topic: str, partitions: int) -> None:
        if partitions < 1:
            raise StreamError(f"topic {topic!r} has {partitions} partitions, expected 1 or more")
        code = self._library.rd_kafka_mock_topic_create(self._cluster, topic.encode(), partitions, 1)
        if code:
            reason = self._library.rd_kafka_err2str(code).decode()
            raise StreamError(f"topic {topic!r} with {partitions} partitions cannot be created: {reason}")


def _library() -> ctypes.CDLL:
    """librdkafka, with the types of what is called; Python's client has no names for it."""
    try:
        from confluent_kafka import cimpl
    except ImportError as error:
        raise StreamError(
            "the development broker is a part of confluent-kafka, which is not installed",
            hint="pip install 'streamfm[confluent]'",
        ) from error
    library = ctypes.CDLL(_path(cimpl))
    pointer, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
    signatures = {
        "rd_kafka_conf_new": (pointer, []),
        "rd_kafka_conf_set": (number, [pointer, text, text, text, ctypes.c_size_t]),
        "rd_kafka_new": (pointer, [number, pointer, text, ctypes.c_size_t]),
        "rd_kafka_destroy": (None, [pointer]),
        "rd_kafka_err2str": (text, [number]),
        "rd_kafka_mock_cluster_new": (pointer, [pointer, number]),
        "rd_kafka_mock_cluster_destroy": (None, [pointer]),
        "rd_kafka_mock_cluster_bootstraps": (text, [pointer]),
        "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [pointer, ctypes.c_int32]),
        "rd_kafka_mock_topic_create": (number, [pointer, text, number, number]),
    }
    for name, (result, arguments) in signatures.items():
        try:
            function = getattr(library, name)
        except AttributeError as error:
            raise StreamError(
                f"this build of confluent-kafka has no {name}", hint="the wheels on PyPI for Linux and macOS have it"
            ) from error
        function.restype, function.argtypes = result, arguments
    return library


def _path(extension: ModuleType) -> str:
    """The extension's file: a name that it lacks is looked for in the librdkafka that it is linked to."""
    if extension.__file__ is None:
        raise StreamError("confluent-kafka was not loaded from a file; the development broker needs its library")
    return extension.__file__
