"""confluent-kafka's consumer behind the port of `kafka_client`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, TopicPartition

from connectors.confluent_config import Config
from connectors.confluent_errors import Reports, translated, translating
from connectors.kafka_client import Bounds, BrokenClientError, OutOfRangeError, Revocation
from connectors.kafka_errors import bounded, no_topic
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Event, Partition, Positions, Record

_FENCED = KafkaError(KafkaError.FENCED_INSTANCE_ID)
_ENDS_S = 0.1
_ASKING_COMMITTED = "asking for what is committed"


class ConfluentConsumer:
    """A `Consumer`.

    Partitions that the group gives it are not assigned to librdkafka before `seek` says where to begin: nothing is
    read from a place that nobody asked for.
    """

    _revocation: Revocation

    def __init__(self, config: Config, settings: KafkaSettings) -> None:
        """Start it; `subscribe` joins the group."""
        self._settings = settings
        self._timeout_s = settings.request_timeout_s
        self._reports = Reports()
        self._consumer = Consumer({**config, "error_cb": self._reports})
        self._membership: object | None = None
        self._partitions: list[Partition] = []
        # Where it was told to begin, or the end that it came to.
        self._reached: dict[Partition, int] = {}
        self._ends: dict[Partition, int] = {}
        self._ends_due_s = 0.0
        self._is_closing = False

    def subscribe(self, revocation: Revocation) -> None:
        """Join the group, with the first poll."""
        self._revocation = revocation
        with translating("subscribing", self._reports):
            self._consumer.subscribe(
                list(self._settings.input_topics),
                on_assign=self._on_assign,
                on_revoke=self._on_revoke,
                on_lost=self._on_lost,
            )

    def partitions(self, topic: str) -> list[Partition]:
        """Those of a topic.

        Raises:
            StreamError: It is not there, or this user may not see it.
            DisturbedError: No broker answers.
        """
        servers = self._settings.bootstrap_servers
        with translating(f"connecting to {servers}", self._reports):
            found = self._consumer.list_topics(topic, self._timeout_s).topics.get(topic)
        if found is None or (found.error and found.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART):
            raise no_topic(topic, servers)
        if found.error:
            raise translated(f"looking for topic {topic!r}", found.error)
        return [(topic, number) for number in sorted(found.partitions)]

    def read_alone(self, positions: Positions) -> None:
        """Read from there, outside of the group; instead of `subscribe`."""
        self._partitions = list(positions)
        self.seek(positions)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Consumer`."""
        with translating("polling", self._reports):
            first: Any = self._consumer.poll(timeout_s)
            self._note_ends()
            if first is None:
                return ()
            # `consume` alone would wait until there are so many.
            messages: list[Any] = [first, *self._consumer.consume(max_records - 1, 0)] if max_records > 1 else [first]
        records = [
            Event(
                message.topic(),
                message.partition(),
                message.offset(),
                message.timestamp()[1],
                message.key(),
                message.value(),
                message.headers() or (),
            )
            for message in messages
            if message.error() is None
        ]
        if len(records) < len(messages):
            self._hear([message for message in messages if message.error() is not None])
        return records

    def _hear(self, reports: Sequence[Any]) -> None:
        """What comes among the records: ends, and errors, after which everything is polled again."""
        for report in reports:
            error = report.error()
            if error.code() == KafkaError._FATAL and _FENCED.str() in error.str():
                error = _FENCED
            code = error.code()
            if code == KafkaError._PARTITION_EOF:
                self._reached[report.topic(), report.partition()] = report.offset()
            elif code in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE, KafkaError._LOG_TRUNCATION):
                raise OutOfRangeError((report.topic(), report.partition()), report.offset())
            else:
                problem = translated("polling", error)
                if isinstance(problem, DisturbedError) and error.fatal():
                    raise BrokenClientError(problem.message)
                raise problem

    def _on_assign(self, _: object, partitions: Sequence[Any]) -> None:
        self._partitions = [(it.topic, it.partition) for it in partitions]
        self._membership = self._consumer.consumer_group_metadata()
        self._reached.clear()
        self._consumer.assign([])

    def _on_revoke(self, _: object, partitions: object) -> None:
        if not self._is_closing:
            self._settle()
        self._let_go()

    def _settle(self) -> None:
        """Commit what was sent."""
        deadline_s = time.monotonic() + self._settings.revoke_deadline_s
        positions = self._revocation.revoke()
        if positions:
            try:
                self._commit_here(positions, max(0.0, deadline_s - time.monotonic()))
            except StreamError as error:
                self._revocation.revoked(error)
            else:
                self._revocation.revoked(None)

    def _commit_here(self, positions: Positions, timeout_s: float) -> None:
        """As `commit`, inside a call of librdkafka: waiting for another thread's call there would not end."""
        doing = "committing offsets"
        with translating(doing, self._reports):
            self._consumer.commit(offsets=_places(positions), asynchronous=True)
        # On one connection it is answered after the commit; and this call has a limit.
        if self._committed(list(positions), timeout_s) != positions:
            raise DisturbedError(f"{doing}: they are not committed")

    def _on_lost(self, _: object, partitions: object) -> None:
        if not self._is_closing:
            self._revocation.lose()
        self._let_go()

    def _let_go(self) -> None:
        # Where the callback does not, the library does, by a call that may wait for ever in a consumer that closes.
        with suppress(KafkaException, RuntimeError):
            self._consumer.unassign()
        self._membership, self._partitions, self._ends = None, [], {}
        self._reached.clear()

    def membership(self) -> object | None:
        """See `Consumer`."""
        # After max_poll_interval the group has left us, and we are told with the next poll.
        is_member = self._membership is not None and self._consumer.consumer_group_metadata() == self._membership
        return self._membership if is_member else None

    def assignment(self) -> Collection[Partition]:
        """See `Consumer`."""
        return list(self._partitions)

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Consumer`."""
        # Its own limit does not count while another call has the handle, as a commit that goes on behind a dead broker.
        return bounded(
            _ASKING_COMMITTED, self._settings.call_limit_s, lambda: self._committed(partitions, self._timeout_s)
        )

    def _committed(self, partitions: Collection[Partition], timeout_s: float) -> Mapping[Partition, int]:
        with translating(_ASKING_COMMITTED, self._reports):
            found = self._consumer.committed([TopicPartition(*it) for it in partitions], timeout_s)
        return {partition: offset for partition, offset in _offsets(_ASKING_COMMITTED, found).items() if offset >= 0}

    def commit(self, positions: Positions) -> None:
        """See `Consumer`."""
        doing = "committing offsets"
        offsets = _places(positions)
        with translating(doing, self._reports):
            # It knows no limit of its own.
            done = bounded(
                doing, self._settings.call_limit_s, lambda: self._consumer.commit(offsets=offsets, asynchronous=False)
            )
        _offsets(doing, done)

    def seek(self, positions: Positions) -> None:
        """See `Consumer`."""
        places = {**self.positions(), **positions}
        if not places.keys() <= set(self._partitions):
            raise DisturbedError("a partition was taken away before it was read")
        with translating("going to an offset", self._reports):
            self._consumer.assign(_places(places))
            self._consumer.resume(_places(positions))
        self._reached = dict(places)

    def pause(self, partitions: Collection[Partition]) -> None:
        """See `Consumer`."""
        here = [TopicPartition(*partition) for partition in partitions if partition in self._partitions]
        with translating("pausing", self._reports):
            self._consumer.pause(here)

    def positions(self) -> Positions:
        """See `Consumer`."""
        found = dict(self._reached)
        with suppress(KafkaException):
            for it in self._consumer.position([TopicPartition(*partition) for partition in found]):
                found[it.topic, it.partition] = max(found[it.topic, it.partition], it.offset)
        return found

    def known_ends(self) -> Positions:
        """See `Consumer`."""
        return self._ends

    def _note_ends(self) -> None:
        """For other threads: the library lets in one at a time, and who polls again and again keeps the others out."""
        now_s = time.monotonic()
        if now_s < self._ends_due_s and len(self._ends) == len(self._partitions):
            return
        self._ends_due_s = now_s + _ENDS_S
        ends = {}
        for partition in self._partitions:
            with suppress(KafkaException):
                _, ends[partition] = self._consumer.get_watermark_offsets(TopicPartition(*partition), cached=True)
        self._ends = {partition: end for partition, end in ends.items() if end != OFFSET_INVALID}

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        """See `Consumer`."""
        deadline_s = time.monotonic() + self._settings.call_limit_s
        found = {}
        with translating("asking for the ends of the log", self._reports):
            for partition in partitions:
                left_s = max(0.1, deadline_s - time.monotonic())
                found[partition] = Bounds(
                    *self._consumer.get_watermark_offsets(TopicPartition(*partition), timeout=left_s)
                )
        return found

    def offsets_at(self, partitions: Collection[Partition], time: datetime) -> Positions:
        """See `Consumer`."""
        doing = f"asking for the offsets of {time.isoformat()}"
        asked = [TopicPartition(*partition, round(time.timestamp() * 1000)) for partition in partitions]
        with translating(doing, self._reports):
            found = self._consumer.offsets_for_times(asked, self._timeout_s)
        return {partition: offset for partition, offset in _offsets(doing, found).items() if offset >= 0}

    def close(self, timeout_s: float) -> None:
        """See `Consumer`."""
        # What it calls in the background is of no consequence any more.
        self._is_closing = timeout_s <= 0
        # The library may lose the error of a callback, and raise a SystemError instead.
        with suppress(KafkaException, StreamError, RuntimeError, SystemError):
            bounded("leaving the group", timeout_s, self._leave)
        self._is_closing = True

    def _leave(self) -> None:
        """Close it, when no callback is left that `close` would call.

        There it waits, with Python's lock, for a thread of the library that may have ended, so for ever
        (https://github.com/confluentinc/librdkafka/issues/4884).
        """
        # A static member that ends its subscription would leave the group for good.
        if not self._settings.static_membership:
            self._consumer.unsubscribe()
        while self._consumer.poll(0) is not None:
            pass
        self._consumer.close()


def _places(positions: Positions) -> list[Any]:
    return [TopicPartition(*partition, offset) for partition, offset in positions.items()]


def _offsets(doing: str, found: Sequence[Any]) -> dict[Partition, int]:
    """The offsets by partition; raises the error of any of them."""
    for it in found:
        if it.error is not None:
            raise translated(f"{doing} of {it.topic}[{it.partition}]", it.error)
    return {(it.topic, it.partition): it.offset for it in found}
