"""kafka-python's consumer behind the port of `kafka_client`."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any

import kafka
from kafka.errors import KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError, RetriableError
from kafka.structs import MemberState

from connectors.kafka_client import Bounds, BrokenClientError, OutOfRangeError, Revocation, UnpositionedError
from connectors.kafka_errors import bounded, no_topic
from connectors.kafka_python_errors import FAILURES, known, translated, translating
from connectors.kafka_settings import KafkaSettings
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Partition, Positions, Record


class KafkaPythonConsumer:
    """A `Consumer`."""

    def __init__(self, consumer: Any, settings: KafkaSettings) -> None:
        """Take it; `subscribe` joins the group."""
        self._consumer, self._settings = consumer, settings
        self._timeout_ms = round(settings.request_timeout_s * 1000)
        self._listener: _Listener | None = None

    def subscribe(self, revocation: Revocation) -> None:
        """Join the group, with the first poll."""
        self._listener = _Listener(self._consumer, revocation, self._settings.revoke_deadline_s)
        self._consumer.subscribe(list(self._settings.input_topics), listener=self._listener)

    def partitions(self, topic: str) -> list[Partition]:
        """Those of a topic.

        Raises:
            StreamError: It is not there, or this user may not see it.
            DisturbedError: No broker answers.
        """
        doing = f"looking for topic {topic!r}"
        limit_s = self._settings.call_limit_s
        with translating(doing):
            numbers = bounded(doing, limit_s, lambda: self._consumer.partitions_for_topic(topic))
        if not numbers:
            raise no_topic(topic, self._settings.bootstrap_servers)
        return [(topic, number) for number in sorted(numbers)]

    def read_alone(self, positions: Positions) -> None:
        """Read from there, outside of the group; instead of `subscribe`."""
        self._consumer.assign([kafka.TopicPartition(*partition) for partition in positions])
        self.seek(positions)

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """See `Consumer`."""
        try:
            polled = self._consumer.poll(timeout_ms=timeout_s * 1000, max_records=max_records)
        except NoOffsetForPartitionError as error:
            raise UnpositionedError("nothing is committed") from error
        except OffsetOutOfRangeError as error:
            ((partition, offset),) = error.args[0].items()
            raise OutOfRangeError(tuple(partition), offset) from None
        except FAILURES as error:
            failure = known(error)
            problem = translated("polling", failure)
            if isinstance(problem, DisturbedError) and not isinstance(failure, RetriableError):
                # Such as UnknownBrokerIdError, after which nothing more would come.
                raise BrokenClientError(problem.message) from error
            raise problem from error
        parts: list[list[Record]] = list(polled.values())
        return parts[0] if len(parts) == 1 else [record for part in parts for record in part]

    def membership(self) -> object | None:
        """See `Consumer`."""
        metadata = self._consumer.group_metadata()
        # After max_poll_interval it is (-1, ""), which a broker takes for somebody outside of all groups, and accepts.
        is_member = metadata.generation_id >= 0 and metadata.member_id and metadata.state == MemberState.STABLE
        return metadata if is_member else None

    def assignment(self) -> Collection[Partition]:
        """See `Consumer`."""
        partitions: Collection[Partition] = self._consumer.assignment()
        return partitions

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """See `Consumer`."""
        with translating("asking for what is committed"):
            found = {
                partition: self._consumer.committed(kafka.TopicPartition(*partition), timeout_ms=self._timeout_ms)
                for partition in partitions
            }
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def commit(self, positions: Positions) -> None:
        """See `Consumer`."""
        with translating("committing offsets"):
            self._consumer.commit(_offsets(positions), timeout_ms=self._timeout_ms)

    def seek(self, positions: Positions) -> None:
        """See `Consumer`."""
        partitions = [kafka.TopicPartition(*partition) for partition in positions]
        try:
            for partition in partitions:
                self._consumer.seek(partition, positions[partition])
            self._consumer.resume(*partitions)
        except (AssertionError, KeyError, KafkaError) as error:
            raise DisturbedError(f"a partition was taken away before it was read: {error}") from error

    def pause(self, partitions: Collection[Partition]) -> None:
        """See `Consumer`."""
        assigned = self._consumer.assignment()
        here = [partition for partition in partitions if partition in assigned]
        self._consumer.pause(*(kafka.TopicPartition(*partition) for partition in here))

    def positions(self) -> Positions:
        """See `Consumer`."""
        found = {}
        for partition in self._consumer.assignment():
            # Without a position, or without the partition in the meantime.
            with suppress(KafkaError, KeyError):
                found[tuple(partition)] = self._consumer.position(partition, timeout_ms=0)
        return {partition: offset for partition, offset in found.items() if offset is not None}

    def known_ends(self) -> Positions:
        """See `Consumer`."""
        ends = {}
        for partition in self._consumer.assignment():
            with suppress(KafkaError, KeyError):
                ends[tuple(partition)] = self._consumer.highwater(partition)
        return {partition: end for partition, end in ends.items() if end is not None}

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        """See `Consumer`."""
        asked = [kafka.TopicPartition(*partition) for partition in partitions]
        with translating("asking for the ends of the log"):
            begins = self._consumer.beginning_offsets(asked, timeout_ms=self._timeout_ms)
            ends = self._consumer.end_offsets(asked, timeout_ms=self._timeout_ms)
        return {partition: Bounds(begins[partition], ends[partition]) for partition in asked}

    def offsets_at(self, partitions: Collection[Partition], time: datetime) -> Positions:
        """See `Consumer`."""
        time_ms = round(time.timestamp() * 1000)
        asked = {kafka.TopicPartition(*partition): time_ms for partition in partitions}
        with translating(f"asking for the offsets of {time.isoformat()}"):
            found = self._consumer.offsets_for_times(asked, timeout_ms=self._timeout_ms)
        return {tuple(partition): place.offset for partition, place in found.items() if place is not None}

    def close(self, timeout_s: float) -> None:
        """See `Consumer`."""
        # What it calls in the background, beside the loop, is of no consequence any more.
        if self._listener:
            self._listener.is_silent = timeout_s <= 0
        with suppress(KafkaError, StreamError, RuntimeError):
            # Its own time limit does not hold for every step.
            limit_ms = max(timeout_s, 1.0) * 1000
            bounded("leaving the group", timeout_s, lambda: self._consumer.close(timeout_ms=limit_ms))
        if self._listener:
            self._listener.is_silent = True


class _Listener(kafka.AsyncConsumerRebalanceListener):  # type: ignore[misc]
    """Runs in the consumer's own thread, while the worker's waits in `poll` or `close`.

    There a call that waits for the consumer would wait for itself: it is awaited.
    """

    def __init__(self, consumer: Any, revocation: Revocation, deadline_s: float) -> None:
        self._consumer, self._revocation, self._deadline_s = consumer, revocation, deadline_s
        self.is_silent = False

    async def on_partitions_revoked(self, revoked: object) -> None:
        if self.is_silent:
            return
        began_s = time.monotonic()
        positions = self._revocation.revoke()
        if not positions:
            return
        left_s = max(0.0, began_s + self._deadline_s - time.monotonic())
        try:
            # The future knows no limit but that of a request; the client waits for its own in this way.
            await self._consumer._manager.wait_for(self._consumer.commit_async(_offsets(positions)), left_s * 1000)
        except Exception as error:
            self._revocation.revoked(error)
        else:
            self._revocation.revoked(None)

    async def on_partitions_assigned(self, assigned: object) -> None:
        """Nothing: the membership has changed, and the source goes to what is committed."""

    async def on_partitions_lost(self, lost: object) -> None:
        if not self.is_silent:
            self._revocation.lose()


def _offsets(positions: Positions) -> dict[Any, Any]:
    return {
        kafka.TopicPartition(*partition): kafka.OffsetAndMetadata(offset, "", -1)
        for partition, offset in positions.items()
    }
