"""Scores and dead letters to Kafka, and where to go on with, or after, them; for any client library."""

from __future__ import annotations

import logging
import time

from connectors.connect_headers import error_headers
from connectors.kafka_client import Client, Producer
from connectors.kafka_errors import FENCED_HINT, FencedError
from connectors.kafka_group import Group
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Answers, Checkpoint, DeadLetter, Positions

logger = logging.getLogger(__name__)

_FENCINGS = 5
_APART_COMMITS = 100


class KafkaSink:
    """A `Sink`, and the `Revocation` that a consumer tells when its partitions go.

    The consumer calls from a thread of its own, but only while the loop waits for a poll: nothing here runs twice at a
    time, and there are no locks.
    """

    def __init__(self, settings: KafkaSettings, client: Client, group: Group) -> None:
        """Connect; `prepare` opens the producer."""
        self._settings, self._client, self._group = settings, client, group
        self._producer: Producer | None = None
        # Of a transaction that is not ended; the next producer ends it, or `close`.
        self._abandoned: Producer | None = None
        self._sent: Checkpoint | None = None
        self._failure: StreamError | None = None
        self._fencings = self._commits_since = 0

    def prepare(self) -> None:
        """Open a producer, if there is none. With transactions, it ends the one that a predecessor left open.

        Raises:
            StreamError: As `Client.open_producer`.
        """
        if self._producer is None:
            self._producer = self._client.open_producer()
            if self._abandoned is not None:
                self._abandoned.close(0.0)
                self._abandoned = None

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        """See `Sink`."""
        self._raise_failure()
        if not self._group.is_current(checkpoint.assignment):
            raise DisturbedError("the group has rebalanced since the batch was polled")
        self.prepare()
        try:
            self._send(answers, checkpoint)
        except StreamError as error:
            self._fail(error)
            raise

    def _send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        settings, producer = self._settings, self._producer
        assert producer is not None  # `prepare` has opened it
        if self._sent is not None and self._sent.assignment != checkpoint.assignment:
            raise DisturbedError("the group has rebalanced since what was sent before")
        if self._sent is None and settings.is_exactly_once:
            producer.begin()
        self._sent = self._sent.followed_by(checkpoint) if self._sent else checkpoint
        own = list(answers.headers)
        producer.send(
            settings.output_topic,
            answers.records,
            answers.values,
            ([*record.headers, *own] if record.headers else own for record in answers.records),
        )
        letters = answers.dead_letters
        if letters and settings.dead_letter_topic:
            records = [letter.record for letter in letters]
            headers = (self._headers(letter) for letter in letters)
            producer.send(settings.dead_letter_topic, records, (record.value for record in records), headers)

    def _headers(self, letter: DeadLetter) -> list[tuple[str, bytes | None]]:
        return error_headers(letter, connector=self._settings.group_id, task=self._settings.worker_slot)

    def flush(self) -> None:
        """See `Sink`."""
        self._raise_failure()
        if self._sent is not None:
            self._attempt(self._settings.flush_limit_s, commit=False)

    def commit(self) -> None:
        """See `Sink`; nothing is left to do where a revocation has done it."""
        self._raise_failure()
        if self._sent is None:
            return
        if self._settings.is_exactly_once:
            self._attempt(self._settings.call_limit_s, commit=True)
        else:
            self._group.commit(self._sent)
        self._sent = None
        self._commits_since += 1

    def _attempt(self, limit_s: float, *, commit: bool) -> None:
        """Flush, or commit the transaction; after any error the producer is not used again."""
        # Something was sent.
        assert self._producer is not None
        assert self._sent is not None
        try:
            if commit:
                self._producer.commit(self._sent.positions, self._sent.assignment, limit_s)
            else:
                self._producer.flush(limit_s)
        except StreamError as error:
            self._fail(error)
            raise

    def _fail(self, error: StreamError) -> None:
        """Remember it. Two workers of one name would take it from each other for ever: the one that lost it first ends.

        One fencing may come from a predecessor whose request was under way for long, or from a slow batch.
        """
        self._failure = error
        if not isinstance(error, FencedError):
            return
        self._fencings = self._fencings + 1 if self._commits_since < _APART_COMMITS else 1
        self._commits_since = 0
        if self._fencings >= _FENCINGS:
            raise StreamError(f"locked out {self._fencings} times in short order: {error.message}", hint=FENCED_HINT)

    def _raise_failure(self) -> None:
        if self._failure:
            raise DisturbedError(self._failure.message, hint=self._failure.hint)

    def abandon(self) -> None:
        """See `Sink`. The producer goes, with what it has not sent."""
        if self._producer is not None and (self._sent is not None or self._failure):
            if self._settings.is_exactly_once:
                self._abandoned = self._producer
            else:
                self._producer.close(0.0)
            self._producer = None
        self._sent, self._failure = None, None

    def close(self, timeout_s: float) -> None:
        """See `Sink`. An open transaction is aborted, so that no reader waits for its time-out."""
        producer = self._producer or self._abandoned
        is_open = self._sent is not None or producer is self._abandoned
        self._producer, self._abandoned, self._sent = None, None, None
        if producer is None:
            return
        if is_open and self._settings.is_exactly_once:
            producer.abort(timeout_s)
        producer.close(timeout_s)

    def revoke(self) -> Positions:
        """See `Revocation`."""
        if self._sent is None or self._failure:
            return {}
        limit_s = self._settings.revoke_deadline_s
        deadline_s = time.monotonic() + limit_s
        try:
            self._attempt(limit_s, commit=False)
            if not self._settings.is_exactly_once:
                return self._sent.positions
            self._attempt(max(0.0, deadline_s - time.monotonic()), commit=True)
            self._sent = None
        except StreamError as error:
            logger.warning("partitions are revoked before what was sent is committed: %s", error.message)
        return {}

    def revoked(self, error: Exception | None) -> None:
        """See `Revocation`."""
        if error is None:
            self._sent = None
        else:
            self._failure = DisturbedError(f"partitions were revoked before what was sent was committed: {error}")

    def lose(self) -> None:
        """See `Revocation`."""
        if self._sent is not None:
            self._failure = DisturbedError(
                "the group gave the partitions to another worker before what was sent was committed"
            )
