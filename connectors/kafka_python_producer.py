"""kafka-python's producer behind the port of `kafka_client`."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import kafka
from kafka.errors import KafkaError, KafkaTimeoutError, UnknownError
from kafka.serializer import Serializer

from connectors.kafka_errors import bounded
from connectors.kafka_python_errors import FAILURES, known, translated, translating
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import StreamError
from streamfm.stream.ports import Header, Positions, Record

_NULL = object()
_SEND_OFF_S = 1.0


class NullSerializer(Serializer):  # type: ignore[misc]
    """Lets a record without key and value pass, which `send` refuses and Kafka does not."""

    def serialize(self, topic: str, headers: object, data: object) -> object:
        """The value as it is."""
        return None if data is _NULL else data


class KafkaPythonProducer:
    """A `Producer`.

    kafka-python cannot send a header without a value: an empty one takes its place. (It could write one, but refuses
    it in `send`, and would fail at its length after the record was added to the batch.)
    """

    def __init__(self, producer: Any, settings: KafkaSettings) -> None:
        """Take it; `prepare` makes it ready."""
        self._producer, self._settings = producer, settings
        # kafka-python bounds nothing; each acknowledgement is the only one to know of its record.
        self._pending: deque[tuple[Any, Record]] = deque()

    def prepare(self) -> None:
        """End what a predecessor of the same name left open.

        Raises:
            DisturbedError: Not in time.
            StreamError: It is not allowed.
        """
        if self._settings.is_exactly_once:
            with translating("taking over the transactional id"):
                self._producer.init_transactions()

    def begin(self) -> None:
        """See `Producer`."""
        with translating("beginning a transaction"):
            self._producer.begin_transaction()

    def send(
        self,
        topic: str,
        records: Sequence[Record],
        values: Iterable[bytes | None],
        headers: Iterable[list[Header]],
    ) -> None:
        """See `Producer`."""
        send, pending, limit = self._producer.send, self._pending, self._settings.max_in_flight
        given: object = None
        for record, value, names in zip(records, values, headers, strict=True):
            key, timestamp = record.key, record.timestamp
            if names is not given:
                # Events without headers of their own share one list.
                given, plain = names, [(name, text or b"") for name, text in names]
            if value is None and key is None:
                value = _NULL  # type: ignore[assignment]
            try:
                future = send(topic, value, key, plain, None, timestamp if timestamp >= 0 else None)
            except FAILURES as error:
                raise self._refused(record, topic, known(error)) from error
            pending.append((future, record))
            if len(pending) >= limit:
                self._acknowledge(self._settings.flush_limit_s)

    def flush(self, timeout_s: float) -> None:
        """See `Producer`."""
        deadline_s = time.monotonic() + timeout_s
        # `flush` has this time limit for each batch anew, and passes over those that have failed: it only sends off.
        # Of a batch that was split, because the broker found it too large, it raises UnknownError; its records go on.
        with suppress(KafkaTimeoutError, UnknownError):
            self._producer.flush(min(timeout_s, _SEND_OFF_S))
        while self._pending:
            if self._pending[0][0].succeeded():
                self._pending.popleft()
                continue
            self._acknowledge(max(0.0, deadline_s - time.monotonic()))

    def _acknowledge(self, timeout_s: float) -> None:
        """Of the oldest record: only its future knows that it failed, a transaction is committed without it."""
        future, record = self._pending.popleft()
        try:
            future.get(timeout_s)
        except FAILURES as error:
            raise self._refused(record, "", known(error)) from error

    def _refused(self, record: Record, topic: str, error: KafkaError) -> StreamError:
        where = f" to {topic}" if topic else ""
        return translated(
            f"sending the answer to {record.topic}[{record.partition}] offset {record.offset}{where}", error
        )

    def commit(self, positions: Positions, membership: object, timeout_s: float) -> None:
        """See `Producer`."""
        offsets = {
            kafka.TopicPartition(*partition): kafka.OffsetAndMetadata(offset, "", -1)
            for partition, offset in positions.items()
        }

        def commit() -> None:
            self._producer.send_offsets_to_transaction(offsets, membership)
            self._producer.commit_transaction()

        with translating("committing a transaction"):
            # These wait for ever for a broker that was away, and is back.
            bounded("committing a transaction", timeout_s, commit)

    def abort(self, timeout_s: float) -> None:
        """See `Producer`."""
        with suppress(*FAILURES, StreamError):
            bounded("aborting a transaction", timeout_s, self._producer.abort_transaction)

    def close(self, timeout_s: float) -> None:
        """See `Producer`."""
        self._pending.clear()
        thread = threading.Thread(target=self._close, name="streamfm: closing a producer", daemon=True)
        thread.start()
        thread.join(timeout_s)

    def _close(self) -> None:
        # With unsent records it fails, and its thread lives on: not before they have expired, and the broker is back,
        # does it end.
        while True:
            with suppress(KafkaError):
                self._producer.close(self._settings.delivery_timeout_s)
                return
