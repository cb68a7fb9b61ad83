"""The loop: events in, scores and dead letters out, nothing lost.

Each batch goes through five numbered steps:

    1 poll     records, until the batch is full
    2 answer   decode, derive, score; what cannot be scored is a dead letter
    3 send     scores and dead letters; with exactly-once, into a transaction
    4 flush    every one of them is acknowledged
    5 commit   where to go on; with exactly-once, together with what was sent

and steps 1 and 2 of the next batch run while what was sent is under way: a turn is 1, 2, then 4 and 5 of the batch
before, then 3. Where a batch would wait for more events, 4 of the one before comes first. 5 is done once for all
batches that were flushed within the commit interval, up to the size of a full one.

What is lost or done twice when the process dies between two steps:

    before 3        nothing was sent: the batch is read again
    3 to 4, 4 to 5  at-least-once: scores since the last 5 may be there and are made again; exactly-once: the
                    transaction is aborted
    in 5            it happened or it did not; at-least-once: as before; exactly-once: both or neither
    after 5         nothing is read again

The loop has no thread of its own, the source waits for records, and time is handed in: a test holds all of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.answering import Answered, Answering
from streamfm.stream.batch_scoring import Clock
from streamfm.stream.guard import DeadLetterGuard
from streamfm.stream.measures import Measures
from streamfm.stream.ports import Checkpoint, Polled, Record, Sink, Source
from streamfm.stream.settings import StreamSettings

logger = logging.getLogger(__name__)


class Models(Protocol):
    """Says which model answers; asked before each batch."""

    def current(self) -> Answering:
        """The model that answers the next batch."""


class _Batch(NamedTuple):
    """A batch that was sent and not committed, with the bytes of its values."""

    records: Sequence[Record]
    answered: Answered
    size: int
    acknowledged_ms: int = 0


class Stream:
    """A source, the model, and a sink."""

    def __init__(
        self,
        source: Source,
        sink: Sink,
        models: Models,
        settings: StreamSettings,
        *,
        clock: Clock = time.monotonic,
        now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        sleep: Callable[[float], object] = time.sleep,
        measures: Measures | None = None,
    ) -> None:
        """Connect them; nothing happens before `turn`.

        Args:
            source: Where events come from.
            sink: Where answers go.
            models: Which model answers.
            settings: How batches fill, and which errors are tolerated.
            clock: Seconds, from any beginning.
            now_ms: Milliseconds since 1970, as events are stamped.
            sleep: Waits so many seconds, or less if the stream is to stop.
            measures: What is counted; one's own by default.
        """
        self.measures = measures or Measures()
        self._source, self._sink, self._models, self._settings = source, sink, models, settings
        self._clock, self._now_ms, self._sleep = clock, now_ms, sleep
        self._guard = DeadLetterGuard(settings)
        self._sent: _Batch | None = None
        self._flushed: list[_Batch] = []
        self._commit_due_s = 0.0
        self._assignment: object = None
        self._failures = 0

    def run(self, stopping: Callable[[], bool]) -> Measures:
        """Take turns until the source is finished or `stopping()`; then flush and commit what was sent.

        Raises:
            StreamError: The stream cannot go on. Everything that was not committed will be read again.
        """
        while not stopping() and not (self._is_settled() and self._source.is_finished()):
            self.turn(stopping)
        try:
            self._settle(at_once=True)
        except DisturbedError as error:
            self._sink.abandon()
            logger.warning("stopped before what was sent was committed; it will be read again: %s", error.message)
        return self.measures

    def turn(self, stopping: Callable[[], bool] = lambda: False) -> None:
        """One batch: poll and answer it, settle the one before, send it.

        Raises:
            StreamError: As `run`.
        """
        self.measures.turned(self._clock())
        try:
            self._turn()
        except DisturbedError as error:
            self._recover(error, stopping)
        except BaseException:
            self._sink.abandon()
            raise

    def _turn(self) -> None:
        polled, size = self._poll()
        if not polled.records:
            # At the end there is nothing that a commit could wait for.
            self._settle(at_once=self._source.is_finished())
            return
        with self._apart():
            answered = self._answer(polled)
        self._settle()
        self._send(_Batch(polled.records, answered, size), polled.checkpoint)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """What fails for good in here has nothing to do with what was sent: that is settled first."""
        try:
            yield
        except DisturbedError:
            raise
        except StreamError:
            self._settle(at_once=True)
            raise

    def _poll(self) -> tuple[Polled, int]:
        """Step 1, and the bytes of the values."""
        settings = self._settings
        with self._apart():
            polled = self._source.poll(settings.max_batch_records, self._at_most(settings.idle_s))
        records, checkpoint = list(polled.records), polled.checkpoint
        if not records:
            return polled, 0
        size, filling, until = _bytes_of(records), 0.0, None
        while len(records) < settings.max_batch_records and size < settings.max_batch_bytes:
            # What was sent does not wait for what may come; what came meanwhile is still taken.
            self._settle()
            began = self._clock()
            until = began + settings.linger_s if until is None else until
            if began >= until:
                break
            with self._apart():
                more = self._source.poll(settings.max_batch_records - len(records), self._at_most(until - began))
            filling += self._clock() - began
            if not more.records:
                continue
            if more.checkpoint.assignment != checkpoint.assignment:
                # Nothing of the earlier assignment was sent; its records are read again by whoever has them now.
                records, checkpoint, size = [], Checkpoint(), 0
            records += more.records
            checkpoint = checkpoint.followed_by(more.checkpoint)
            size += _bytes_of(more.records)
        self.measures.took(fill=filling)
        if checkpoint.assignment != self._assignment:
            self._assignment = checkpoint.assignment
            self.measures.rebalances += 1
        return Polled(records, checkpoint), size

    def _answer(self, polled: Polled) -> Answered:
        """Step 2."""
        answered = self._models.current().answer(polled.records, self._now_ms())
        self._guard.check(len(polled.records), answered.answers.dead_letters)
        self.measures.took(decode=answered.decode_s, encode=answered.encode_s, score=answered.score_s)
        return answered

    def _send(self, batch: _Batch, checkpoint: Checkpoint) -> None:
        """Step 3."""
        began = self._clock()
        # What is sent in part must be settled, or abandoned, too.
        self._sent = batch
        self._sink.send(batch.answered.answers, checkpoint)
        self.measures.took(send=self._clock() - began)

    def _at_most(self, wait_s: float) -> float:
        """How long a poll may wait: not at all with a batch under way, and no longer than until a commit is due."""
        if self._sent is not None:
            return 0.0
        return min(wait_s, max(0.0, self._commit_due_s - self._clock())) if self._flushed else wait_s

    def _is_settled(self) -> bool:
        return self._sent is None and not self._flushed

    def _settle(self, *, at_once: bool = False) -> None:
        """Step 4 of the batch that was sent, and step 5 when it is due, or at once."""
        if self._sent is not None:
            self._flush(self._sent)
        if self._flushed and (at_once or self._is_commit_due()):
            self._commit()

    def _is_commit_due(self) -> bool:
        """After the interval, or with as much as a full batch: what is kept until then is bounded."""
        records = sum(len(batch.records) for batch in self._flushed)
        size = sum(batch.size for batch in self._flushed)
        is_full = records >= self._settings.max_batch_records or size >= self._settings.max_batch_bytes
        return is_full or self._clock() >= self._commit_due_s

    def _flush(self, sent: _Batch) -> None:
        """Step 4."""
        began = self._clock()
        self._sink.flush()
        flushed = self._clock()
        self.measures.took(flush=flushed - began)
        if not self._flushed:
            self._commit_due_s = flushed + self._settings.commit_interval_s
        self._flushed.append(sent._replace(acknowledged_ms=self._now_ms()))
        self._sent = None

    def _commit(self) -> None:
        """Step 5."""
        began = self._clock()
        self._sink.commit()
        self.measures.took(commit=self._clock() - began)
        for batch in self._flushed:
            self.measures.committed(batch.records, batch.answered, batch.acknowledged_ms)
        self._flushed = []
        self._failures = 0

    def _recover(self, error: DisturbedError, stopping: Callable[[], bool]) -> None:
        """Go back to what is committed, as soon as that can be."""
        settings, problem = self._settings, error
        self._sink.abandon()
        self._sent, self._flushed = None, []
        while not stopping():
            delay_s = min(settings.backoff_s * 2 ** min(self._failures, 30), settings.max_backoff_s)
            self._failures += 1
            self.measures.disturbances += 1
            logger.warning("disturbed, again in %.1f s (%d in a row): %s", delay_s, self._failures, problem)
            self._sleep(delay_s)
            self.measures.turned(self._clock())
            try:
                self._source.rewind()
                return
            except DisturbedError as again:
                problem = again


def _bytes_of(records: Sequence[Record]) -> int:
    return sum(len(record.value) for record in records if record.value is not None)
