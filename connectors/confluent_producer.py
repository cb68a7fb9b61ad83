"""confluent-kafka's producer behind the port of `kafka_client`."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from connectors.confluent_config import Config
from connectors.confluent_errors import Reports, translated, translating
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Header, Positions, Record

_POLL_S = 0.1
_FAILED_TRANSACTION = frozenset((KafkaError._STATE, KafkaError._PURGE_QUEUE, KafkaError._PURGE_INFLIGHT))


class ConfluentProducer:
    """A `Producer`.

    librdkafka counts a record from when it is handed over until its report is dealt with, and reports it once the
    broker has acknowledged or refused it, or its time is over. So when none is counted any more, each was reported;
    and a report that is not of an error is of an acknowledgement by all replicas. Python is called for errors only.
    """

    def __init__(self, config: Config, settings: KafkaSettings) -> None:
        """Start it; `prepare` makes it ready."""
        self._settings = settings
        self._reports = Reports()
        self._refusals: list[tuple[Any, Any]] = []
        self._sent: list[tuple[Sequence[Record], list[bytes | None]]] = []
        self._producer: Any = Producer(
            {
                **config,
                "error_cb": self._reports,
                "on_delivery": lambda error, message: self._refusals.append((error, message)),
                "delivery.report.only.error": True,
            }
        )

    def prepare(self) -> None:
        """End what a predecessor of the same name left open.

        Raises:
            DisturbedError: Not in time.
            StreamError: It is not allowed.
        """
        if self._settings.is_exactly_once:
            with translating("taking over the transactional id", self._reports):
                self._producer.init_transactions(self._settings.call_limit_s)

    def begin(self) -> None:
        """See `Producer`."""
        with translating("beginning a transaction", self._reports):
            self._producer.begin_transaction()

    def send(
        self,
        topic: str,
        records: Sequence[Record],
        values: Iterable[bytes | None],
        headers: Iterable[list[Header]],
    ) -> None:
        """See `Producer`."""
        values = list(values)
        self._sent.append((records, values))
        produce = self._producer.produce
        for record, value, names in zip(records, values, headers, strict=True):
            # To librdkafka 0 is now: the first millisecond of 1970 is told as the second.
            timestamp = record.timestamp or 1 if record.timestamp >= 0 else 0
            try:
                produce(topic, value, record.key, timestamp=timestamp, headers=names)
            except BufferError:
                self._send_later(topic, value, record.key, timestamp=timestamp, headers=names)
            except KafkaException as failure:
                error = self._cause_of(failure.args[0])
                raise translated(f"{_sending(record)} to {topic}", error) from failure
        self._serve(0)

    def _serve(self, timeout_s: float) -> None:
        """Hear the reports of records; raises what was refused."""
        with translating("sending", self._reports):
            self._producer.poll(timeout_s)
        self._raise_refusal()

    def _send_later(self, *given: Any, **named: Any) -> None:
        """Wait while too much is in flight."""
        limit_s = self._settings.flush_limit_s
        deadline_s = time.monotonic() + limit_s
        while time.monotonic() < deadline_s:
            self._serve(_POLL_S)
            with suppress(BufferError), translating("sending", self._reports):
                self._producer.produce(*given, **named)
                return
        raise DisturbedError(f"sending: nothing was acknowledged in {limit_s:g} s")

    def flush(self, timeout_s: float) -> None:
        """See `Producer`."""
        with translating("flushing", self._reports):
            left = self._producer.flush(timeout_s)
        self._raise_refusal()
        if left:
            raise DisturbedError(f"flushing: {left} records are not acknowledged after {timeout_s:g} s")
        self._sent.clear()

    def _raise_refusal(self) -> None:
        """Of the largest record: a batch is refused as a whole, and its size may be why."""
        if not self._refusals:
            return
        error, message = max(self._refusals, key=lambda refusal: len(refusal[1].value() or b""))
        raise translated(f"{self._sending(message)} to {message.topic()}", self._cause_of(error))

    def _cause_of(self, error: Any) -> Any:
        """The error that explains this one; records of a transaction that has failed are only said to be purged."""
        if not self._settings.is_exactly_once or error.code() not in _FAILED_TRANSACTION:
            return self._reports.cause_of(error)
        try:
            # While one is under way none begins: the refusal names why that one has failed.
            self._producer.begin_transaction()
        except KafkaException as failure:
            error = failure.args[0]
        return self._reports.cause_of(error)

    def _sending(self, message: Any) -> str:
        """Which event's answer it was; events of the same key and answer are not told apart."""
        key, value = message.key(), message.value()
        for records, values in self._sent:
            for record, sent in zip(records, values, strict=True):
                if sent == value and record.key == key:
                    return _sending(record)
        return "sending an answer"

    def commit(self, positions: Positions, membership: object, timeout_s: float) -> None:
        """See `Producer`."""
        deadline_s = time.monotonic() + timeout_s
        offsets = [TopicPartition(*partition, offset) for partition, offset in positions.items()]
        with translating("committing a transaction", self._reports):
            self._producer.send_offsets_to_transaction(offsets, membership, timeout_s)
            self._producer.commit_transaction(max(0.0, deadline_s - time.monotonic()))

    def abort(self, timeout_s: float) -> None:
        """See `Producer`."""
        with suppress(StreamError), translating("aborting a transaction", self._reports):
            self._producer.abort_transaction(timeout_s)

    def close(self, timeout_s: float) -> None:
        """See `Producer`."""
        producer, self._producer = self._producer, None
        self._sent.clear()
        if producer is not None:
            thread = threading.Thread(target=_close, args=[producer], name="streamfm: closing a producer", daemon=True)
            del producer
            thread.start()
            thread.join(timeout_s)


def _sending(record: Record) -> str:
    return f"sending the answer to {record.topic}[{record.partition}] offset {record.offset}"


def _close(producer: Any) -> None:
    """Forget what was not sent; the last reference ends librdkafka's threads, and waits for them."""
    with suppress(KafkaException):
        producer.purge(blocking=False)
        producer.poll(0)
