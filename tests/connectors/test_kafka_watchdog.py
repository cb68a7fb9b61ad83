"""A consumer that no longer lives is replaced: the policy, over a client library that follows a script."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from connectors.kafka_client import Bounds, BrokenClientError, Revocation
from connectors.kafka_settings import KafkaSettings
from connectors.kafka_source import KafkaSource, open_with
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Event, Header, Partition, Positions, Record

ONLY = ("events", 0)
OTHER = ("events", 1)
LATER_S = 31.0
"""Longer than watchdog_s and max_poll_interval_s."""


@dataclass
class Log:
    """The one partition of the broker, and where the group stands."""

    end: int = 3
    committed: int = 0


class ScriptedConsumer:
    """A `Consumer` that reads the log; it falls silent, or fails, when the test says so."""

    def __init__(self, log: Log) -> None:
        self.log, self.position = log, log.committed
        self.member: object | None = "member"
        self.is_silent = False
        self.failure: StreamError | None = None
        self.is_closed = False

    def _answer(self) -> None:
        if self.failure:
            raise self.failure

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        if self.is_silent:
            return ()
        start, self.position = self.position, min(self.position + max_records, self.log.end)
        return [Event("events", 0, offset, 0, None, b"event") for offset in range(start, self.position)]

    def membership(self) -> object | None:
        return self.member

    def assignment(self) -> Collection[Partition]:
        return [ONLY]

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        self._answer()
        return {ONLY: self.log.committed}

    def commit(self, positions: Positions) -> None:
        self._answer()
        self.log.committed = positions[ONLY]

    def seek(self, positions: Positions) -> None:
        self.position = positions.get(ONLY, self.position)

    def pause(self, partitions: Collection[Partition]) -> None:
        raise NotImplementedError("no replays here")

    def positions(self) -> Positions:
        return {ONLY: self.position}

    def known_ends(self) -> Positions:
        return {ONLY: self.log.end}

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        self._answer()
        return {ONLY: Bounds(0, self.log.end)}

    def offsets_at(self, partitions: Collection[Partition], time: datetime) -> Positions:
        raise NotImplementedError("no replays here")

    def close(self, timeout_s: float) -> None:
        self.is_closed = True


class ConsumerOfTwo(ScriptedConsumer):
    """It has a second partition, to which an event comes with every poll; of the first it reads nothing more."""

    others = 0

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        if self.position < self.log.committed + 3:
            return super().poll(max_records, timeout_s)
        self.others += 1
        return [Event("events", 1, self.others - 1, 0, None, b"event")]

    def assignment(self) -> Collection[Partition]:
        return [ONLY, OTHER]

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        return {ONLY: self.log.committed, OTHER: 0}

    def positions(self) -> Positions:
        return {ONLY: self.position, OTHER: self.others}

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        self._answer()
        return {partition: Bounds(0, self.log.end) for partition in partitions}


class LosingConsumer(ScriptedConsumer):
    """A poll that says that it was left out of the group has taken all partitions away already."""

    is_lost = False

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        if self.is_lost:
            raise DisturbedError("max.poll.interval.ms exceeded")
        return super().poll(max_records, timeout_s)

    def membership(self) -> object | None:
        return None if self.is_lost else self.member

    def assignment(self) -> Collection[Partition]:
        return [] if self.is_lost else [ONLY]

    def pause(self, partitions: Collection[Partition]) -> None: ...


class NoProducer:
    """A `Producer` that nothing is sent with."""

    def begin(self) -> None: ...

    def send(
        self, topic: str, records: Sequence[Record], values: Iterable[bytes | None], headers: Iterable[list[Header]]
    ) -> None:
        raise NotImplementedError("nothing is sent here")

    def flush(self, timeout_s: float) -> None: ...

    def commit(self, positions: Positions, membership: object, timeout_s: float) -> None: ...

    def abort(self, timeout_s: float) -> None: ...

    def close(self, timeout_s: float) -> None: ...


@dataclass
class ScriptedClient:
    """A `Client` that keeps the consumers it has opened."""

    log: Log = field(default_factory=Log)
    opened: list[ScriptedConsumer] = field(default_factory=list)
    kind: type[ScriptedConsumer] = ScriptedConsumer

    def open_consumer(self, revocation: Revocation) -> ScriptedConsumer:
        self.opened.append(self.kind(self.log))
        return self.opened[-1]

    def open_producer(self) -> NoProducer:
        return NoProducer()


@dataclass
class Desk:
    """A source over the scripted client, and the time."""

    client: ScriptedClient
    source: KafkaSource
    pass_time: Callable[[float], None]

    def offsets(self) -> list[int]:
        return [record.offset for record in self.source.poll(10, 0.0).records]


@pytest.fixture
def make_desk() -> Callable[..., Desk]:
    def make(kind: type[ScriptedConsumer] = ScriptedConsumer, **changes: object) -> Desk:
        now = [0.0]
        given = {"bootstrap_servers": "b:1", "input_topics": ("events",), "output_topic": "scores", "group_id": "g"}
        client = ScriptedClient(kind=kind)
        source, _ = open_with(client, KafkaSettings(**(given | changes)), clock=lambda: now[0])  # type: ignore[arg-type]

        def pass_time(seconds: float) -> None:
            now[0] += seconds

        desk = Desk(client, source, pass_time)
        # The poll of a rebalance has no records.
        assert (desk.offsets(), desk.offsets()) == ([], [0, 1, 2])
        return desk

    return make


def test_a_consumer_that_reads_nothing_of_what_is_there_is_replaced(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.client.opened[0].is_silent = True
    desk.client.log.end = 5
    desk.pass_time(LATER_S)

    with pytest.raises(BrokenClientError, match="is left to read"):
        desk.source.poll(10, 0.0)
    desk.source.rewind()

    assert [consumer.is_closed for consumer in desk.client.opened] == [True, False]
    desk.offsets()
    # Nothing was committed.
    assert desk.offsets() == [0, 1, 2, 3, 4]


def test_a_partition_that_is_stuck_is_seen_while_others_move(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(ConsumerOfTwo)
    desk.client.log.end = 5
    desk.offsets()
    desk.pass_time(LATER_S)

    with pytest.raises(BrokenClientError, match=r"is left to read: \{\('events', 0\): 2\}"):
        desk.source.poll(10, 0.0)

    assert desk.client.opened[0].is_closed


def test_a_partition_without_a_leader_does_not_stop_the_others(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(ConsumerOfTwo)
    desk.client.opened[0].failure = DisturbedError("no leader")
    desk.pass_time(LATER_S)

    assert (desk.offsets(), desk.offsets()) == ([0], [1])


def test_a_consumer_that_has_read_everything_is_kept(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    for _ in range(3):
        desk.pass_time(LATER_S)
        assert desk.offsets() == []

    assert len(desk.client.opened) == 1


def test_a_silent_consumer_that_cannot_say_what_is_there_is_replaced(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.client.opened[0].failure = DisturbedError("no broker")
    desk.pass_time(LATER_S)

    with pytest.raises(DisturbedError, match="no broker"):
        desk.source.poll(10, 0.0)

    assert desk.client.opened[0].is_closed


def test_a_consumer_that_is_no_member_for_too_long_is_replaced(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    desk.client.opened[0].member = None
    assert desk.offsets() == []
    desk.pass_time(LATER_S)

    with pytest.raises(BrokenClientError, match="no member of the group for 30 s"):
        desk.source.poll(10, 0.0)
    desk.source.rewind()

    assert [consumer.is_closed for consumer in desk.client.opened] == [True, False]


@pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])
def test_after_five_rewinds_in_vain_there_is_a_new_consumer(make_desk: Callable[..., Desk], guarantee: str) -> None:
    desk = make_desk(guarantee=guarantee)
    broken = desk.client.opened[0]
    broken.failure = DisturbedError("never comes back")
    for attempt in range(5):
        assert not broken.is_closed, attempt
        with pytest.raises(DisturbedError, match="never comes back"):
            desk.source.rewind()

    assert broken.is_closed
    desk.source.rewind()
    assert len(desk.client.opened) == 2
    desk.offsets()
    assert desk.offsets() == [0, 1, 2]


def test_a_rewind_that_succeeds_begins_the_count_anew(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk()
    consumer = desk.client.opened[0]
    for _ in range(2):
        consumer.failure = DisturbedError("for the moment")
        for _ in range(4):
            with pytest.raises(DisturbedError):
                desk.source.rewind()
        consumer.failure = None
        desk.source.rewind()

    assert not consumer.is_closed


def test_an_idle_static_member_asks_whether_its_name_is_anothers(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(static_membership=True)
    desk.client.log.committed = 3
    desk.pass_time(LATER_S)
    assert desk.offsets() == []
    desk.client.opened[0].failure = StreamError("FencedInstanceIdError")
    desk.pass_time(LATER_S)

    # It ends, and takes no name back.
    with pytest.raises(StreamError, match="FencedInstanceId") as failure:
        desk.source.poll(10, 0.0)
    assert not isinstance(failure.value, DisturbedError)
    assert len(desk.client.opened) == 1


def test_a_replay_that_has_lost_its_partitions_is_not_finished(make_desk: Callable[..., Desk]) -> None:
    desk = make_desk(LosingConsumer, stop="4")
    desk.client.log.end = 5
    (consumer,) = desk.client.opened
    consumer.is_lost = True
    with pytest.raises(DisturbedError):
        desk.source.poll(10, 0.0)

    desk.source.rewind()
    assert not desk.source.is_finished()

    consumer.is_lost, consumer.member = False, "member again"
    assert (desk.offsets(), desk.offsets()) == ([], [0, 1, 2, 3])
    assert desk.source.is_finished()
