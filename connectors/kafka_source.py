"""Events from Kafka, from where the group stands; for any client library."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime

from connectors.kafka_client import BrokenClientError, Client, Consumer, OutOfRangeError, UnpositionedError
from connectors.kafka_group import Group
from connectors.kafka_settings import KafkaSettings, Place
from connectors.kafka_sink import KafkaSink
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Checkpoint, Partition, Polled, Positions, Record

logger = logging.getLogger(__name__)

_REWINDS_IN_VAIN = 5


class KafkaSource:
    """A `Source`: with every rebalance it goes back to what is committed, and its checkpoints name the membership."""

    def __init__(
        self, settings: KafkaSettings, group: Group, sink: KafkaSink, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect; `prepare` joins the group."""
        self._settings, self._group, self._sink, self._clock = settings, group, sink, clock
        self._membership: object | None = None
        self._positions: dict[Partition, int] = {}
        self._stops: dict[Partition, int] = {}
        self._rewinds_in_vain = 0
        self._member_s = clock()
        # When each partition was last read from.
        self._moved_s: dict[Partition, float] = {}

    def prepare(self) -> None:
        """Open the consumer; it joins the group with the first poll.

        Raises:
            StreamError: As `Client.open_consumer`.
        """
        self._group.consumer(self._sink)

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """See `Source`. The poll that brings a rebalance returns no records, and whatever was polled is read again."""
        consumer = self._group.consumer(self._sink)
        try:
            records = consumer.poll(max_records, timeout_s)
            membership = consumer.membership()
            if membership is None or membership != self._membership:
                records = ()
                self._join(consumer, membership)
        except UnpositionedError:
            # It is a new member; its next poll, in its place, will tell so.
            self._place(consumer)
            records, membership = (), self._membership
        except OutOfRangeError as error:
            raise self._explained(consumer, error) from None
        except BrokenClientError:
            self._give_up()
            raise
        positions = {(record.topic, record.partition): record.offset + 1 for record in records}
        self._watch(consumer, positions)
        if records:
            self._positions.update(positions)
            if self._stops:
                return self._stopped(consumer, records, membership)
        else:
            self._positions.update(consumer.positions())
        return Polled(records, Checkpoint(positions, membership))

    def _join(self, consumer: Consumer, membership: object | None) -> None:
        # Kept even when the positions cannot be found now: the loop rewinds then.
        self._membership = membership
        if membership is not None:
            self._place(consumer)

    def rewind(self) -> None:
        """See `Source`. After some failures in a row there is a new consumer."""
        try:
            # First of all: a new producer decides what the one before has left open, and so what is committed.
            if self._settings.is_exactly_once:
                self._sink.prepare()
            self._place(self._group.consumer(self._sink))
            self._rewinds_in_vain = 0
        except DisturbedError:
            self._rewinds_in_vain += 1
            if self._rewinds_in_vain % _REWINDS_IN_VAIN == 0:
                self._give_up()
            raise

    def _place(self, consumer: Consumer) -> None:
        """Go to what is committed; where nothing is, to the start, which is committed at once.

        Else a crash before the first commit would begin at another "latest", and what came in between would be lost.
        """
        assigned = consumer.assignment()
        places = dict(consumer.committed(assigned)) if assigned else {}
        fresh = [partition for partition in assigned if partition not in places]
        if fresh:
            starts = self._starts_of(consumer, fresh)
            named = ", ".join(f"{topic}[{number}]: {offset}" for (topic, number), offset in sorted(starts.items()))
            logger.info("nothing is committed by group %s, starting at %s", self._settings.group_id, named)
            consumer.commit(starts)
            places.update(starts)
        stop = self._settings.stop_place
        unbounded = [partition for partition in assigned if partition not in self._stops]
        if stop is not None and unbounded:
            self._stops.update(self._offsets_of(consumer, unbounded, stop))
        consumer.seek(places)
        self._positions = places
        self._moved_s = dict.fromkeys(places, self._clock())

    def _starts_of(self, consumer: Consumer, partitions: Collection[Partition]) -> Positions:
        """Where the group begins; once it is committed, it would be blamed on the topic that it is not in the log."""
        starts = self._offsets_of(consumer, partitions, self._settings.start_place)
        if isinstance(self._settings.start_place, int):
            for partition, (begin, end) in consumer.bounds(partitions).items():
                if not begin <= starts[partition] <= end:
                    raise StreamError(
                        f"{_name(partition)}: start is {starts[partition]}, the log has the offsets {begin} to {end}",
                        hint="give a start that is in every partition, such as a time",
                    )
        return starts

    def _offsets_of(self, consumer: Consumer, partitions: Collection[Partition], place: Place) -> Positions:
        if isinstance(place, int):
            return dict.fromkeys(partitions, place)
        bounds = consumer.bounds(partitions)
        if place == "earliest":
            return {partition: bounds[partition].begin for partition in partitions}
        offsets = consumer.offsets_at(partitions, place) if isinstance(place, datetime) else {}
        return {partition: offsets.get(partition, bounds[partition].end) for partition in partitions}

    def _stopped(self, consumer: Consumer, records: Sequence[Record], membership: object) -> Polled:
        """The records before the end of the replay; partitions that are there are paused."""
        consumer.pause([it for it, stop in self._stops.items() if self._positions.get(it, 0) >= stop])
        within = [record for record in records if record.offset < self._stops[record.topic, record.partition]]
        positions = {(record.topic, record.partition): record.offset + 1 for record in within}
        return Polled(within, Checkpoint(positions, membership))

    def _watch(self, consumer: Consumer, read: Collection[Partition]) -> None:
        """Whether the client still lives: a member of the group, and moving where there is something to read.

        Raises:
            BrokenClientError: It does not; the next `rewind` opens another.
        """
        now_s, watchdog_s = self._clock(), self._settings.watchdog_s
        if self._membership is not None:
            self._member_s = now_s
        elif now_s - self._member_s > self._settings.max_poll_interval_s:
            self._give_up()
            raise BrokenClientError(f"no member of the group for {self._settings.max_poll_interval_s:g} s")
        self._moved_s.update(dict.fromkeys(read, now_s))
        silent = [partition for partition, moved_s in self._moved_s.items() if now_s - moved_s > watchdog_s]
        if silent:
            self._moved_s.update(dict.fromkeys(silent, now_s))
            self._probe(consumer, silent)

    def _probe(self, consumer: Consumer, silent: Collection[Partition]) -> None:
        assigned = consumer.assignment()
        is_idle = set(assigned) <= set(silent)
        if is_idle and self._settings.static_membership:
            # Where another member has taken its name, a consumer is told by a commit only, not while it polls; a new
            # one would take the name back, and so on for ever.
            consumer.commit(dict(consumer.committed(assigned)))
        known = consumer.positions()
        active = [
            partition
            for partition in assigned
            if partition in silent
            and known.get(partition, -1) < self._stops.get(partition, known.get(partition, -1) + 1)
        ]
        try:
            bounds = consumer.bounds(active) if active else {}
        except DisturbedError as error:
            if not is_idle:
                # Of a partition without a leader another consumer would know no more.
                logger.warning("nothing came for %g s from %s: %s", self._settings.watchdog_s, active, error.message)
                return
            self._give_up()
            raise
        behind = {partition: bounds[partition].end - known.get(partition, 0) for partition in active}
        if any(count > 0 for count in behind.values()):
            self._give_up()
            raise BrokenClientError(f"nothing came for {self._settings.watchdog_s:g} s, and is left to read: {behind}")

    def _give_up(self) -> None:
        """Let go of the consumer; there will be another."""
        logger.warning("the Kafka consumer is given up, and opened anew")
        self._group.leave(0.0)
        self._membership = None
        self._moved_s.clear()
        self._member_s = self._clock()

    def _explained(self, consumer: Consumer, error: OutOfRangeError) -> StreamError:
        partition, offset = error.partition, error.offset
        begin, end = consumer.bounds([partition])[partition]
        name = _name(partition)
        reset = (
            f"stop all workers of the group, and then kafka-consumer-groups.sh --bootstrap-server "
            f"{self._settings.bootstrap_servers} --group {self._settings.group_id} "
            f"--topic {partition[0]}:{partition[1]} --reset-offsets --to-earliest --execute"
        )
        if offset < begin:
            return StreamError(
                f"{name}: events were deleted before they were read: the group stands at offset {offset}, "
                f"the log begins at {begin}; {begin - offset} events are lost, {offset} to {begin - 1}",
                hint=f"give the topic a longer retention.ms; to go on without them, {reset}",
            )
        return StreamError(
            f"{name}: the group stands at offset {offset}, after the log's end {end}",
            hint="the topic was made anew, or an unclean leader election cut its log; to read it from the beginning, "
            + reset,
        )

    def lag(self) -> Mapping[Partition, int]:
        """See `Source`."""
        consumer = self._group.current()
        ends: Positions = consumer.known_ends() if consumer else {}
        positions = self._positions
        return {partition: max(0, end - positions.get(partition, end)) for partition, end in ends.items()}

    def is_finished(self) -> bool:
        """See `Source`: every assigned partition is where the replay ends."""
        consumer = self._group.current()
        # A poll that failed may have lost all partitions: of none, each is where it ends.
        if not self._settings.stop or consumer is None or not self._group.is_current(self._membership):
            return False
        positions, stops = self._positions, self._stops
        return all(positions.get(partition, -1) >= stops.get(partition, 1 << 63) for partition in consumer.assignment())

    def close(self, timeout_s: float) -> None:
        """See `Source`."""
        self._group.leave(timeout_s)


def _name(partition: Partition) -> str:
    return f"{partition[0]}[{partition[1]}]"


def open_with(
    client: Client, settings: KafkaSettings, *, clock: Callable[[], float] = time.monotonic
) -> tuple[KafkaSource, KafkaSink]:
    """The two ends of a stream by that client library, connected; the group is joined with the first poll.

    Raises:
        StreamError: A topic is not there, something is not allowed, or a library is missing.
        DisturbedError: No broker answers.
    """
    stop = settings.stop_place
    if isinstance(stop, datetime) and stop > datetime.now(UTC):
        raise StreamError(
            f"stop is {settings.stop}, which is still to come: where its first event will be, nobody knows",
            hint="a replay ends at a time that is past, at an offset, or at 'end'",
        )
    group = Group(client)
    sink = KafkaSink(settings, client, group)
    source = KafkaSource(settings, group, sink, clock=clock)
    source.prepare()
    try:
        # Before the first poll: what a predecessor left open is decided, and so what is committed.
        sink.prepare()
    except BaseException:
        source.close(0.0)
        raise
    return source, sink
