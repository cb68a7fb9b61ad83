"""The loop against a model of Kafka: whatever a script of faults does between any two calls, nothing is lost.

The model knows partitions, a group with generations, offsets, transactions, and readers of committed records only.
Every call that a worker makes takes the next action of the script: the process dies before or after it, it fails before
or after it took effect, the group rebalances under it, or the other workers take a whole turn in the midst of it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from streamfm.errors import DisturbedError, StreamError
from streamfm.scoring import load
from streamfm.stream.answering import Answering
from streamfm.stream.loop import Stream
from streamfm.stream.ports import Answers, Checkpoint, Event, Partition, Polled, Record
from streamfm.stream.settings import StreamSettings
from streamfm.testing import Crash, FakeClock

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "bundle_v1"
SETTINGS = StreamSettings(event_id="n", max_batch_records=4, linger_s=0.0, max_dead_letter_share=1.0)
WORKERS = 3
ENOUGH_TURNS = 400

ACTIONS = (
    "nothing", "crash before", "crash after", "fail before", "fail after", "refuse", "part", "expel", "rebalance",
    "others turn",
)  # fmt: skip
SCRIPTS = st.lists(st.sampled_from(ACTIONS), max_size=60)
LONG_SCRIPTS = st.lists(st.sampled_from(ACTIONS), min_size=20, max_size=60)

Result = TypeVar("Result")
Place = tuple[str, int, int]


def place(record: Record) -> Place:
    return record.topic, record.partition, record.offset


@dataclass
class Written:
    """A record of an output topic."""

    event: Place
    is_dead: bool
    is_visible: bool


@dataclass
class Kafka:
    """Brokers that never forget what they acknowledged."""

    events: Mapping[Partition, Sequence[Event]]
    log: list[Written] = field(default_factory=list)
    offsets: dict[Partition, int] = field(default_factory=dict)
    generation: int = 0
    assigned: dict[int, list[Partition]] = field(default_factory=dict)

    def rebalance(self, members: Sequence[int]) -> None:
        self.generation += 1
        self.assigned = {worker: list(self.events)[index :: len(members)] for index, worker in enumerate(members)}

    def commit(self, checkpoint: Checkpoint) -> None:
        if checkpoint.assignment != self.generation:
            raise DisturbedError("the group has another generation")
        self.offsets |= checkpoint.positions

    def visible(self) -> list[Written]:
        return [written for written in self.log if written.is_visible]


class GroupSource:
    """A member's consumer: it meets a new generation at its next poll, and begins at the offsets committed."""

    def __init__(self, world: World, worker: int) -> None:
        self.world, self.worker = world, worker
        self.generation = -1
        self.next: dict[Partition, int] = {}

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        return self.world.call("poll", self.worker, lambda: self._poll(max_records, timeout_s))

    def _poll(self, max_records: int, timeout_s: float) -> Polled:
        kafka = self.world.kafka
        if self.worker not in kafka.assigned:
            kafka.rebalance(sorted({*kafka.assigned, self.worker}))
        if self.generation != kafka.generation:
            self.generation = kafka.generation
            self._seek()
        self.world.clock.sleep(timeout_s)
        records: list[Record] = []
        for partition, position in self.next.items():
            taken = kafka.events[partition][position : position + max_records - len(records)]
            records += taken
            self.next[partition] += len(taken)
        positions = {(record.topic, record.partition): record.offset + 1 for record in records}
        return Polled(records, Checkpoint(positions, self.generation))

    def rewind(self) -> None:
        self.world.call("rewind", self.worker, self._seek)

    def _seek(self) -> None:
        kafka = self.world.kafka
        self.next = {partition: kafka.offsets.get(partition, 0) for partition in kafka.assigned.get(self.worker, [])}

    def lag(self) -> Mapping[Partition, int]:
        return {}

    def is_finished(self) -> bool:
        return False

    def close(self, timeout_s: float) -> None:
        pass


class GroupSink:
    """A member's producer: at-least-once as an adapter must be written."""

    def __init__(self, world: World, worker: int) -> None:
        self.world, self.worker = world, worker
        self.buffer: list[Written] = []
        self.sent: list[Checkpoint] = []

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        self.world.call("send", self.worker, lambda: self._send(answers, checkpoint))

    def flush(self) -> None:
        self.world.call("flush", self.worker, self._flush, part=self._part)

    def commit(self) -> None:
        self.world.call("commit", self.worker, self._commit)

    def abandon(self) -> None:
        self.buffer, self.sent = [], []

    def revoke(self) -> None:
        """What an adapter does before its partitions go: as the loop would have done."""
        self._flush()
        self._commit()

    def close(self, timeout_s: float) -> None:
        pass

    def _send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        self.buffer += [Written(place(record), False, True) for record in answers.records]
        self.buffer += [Written(place(letter.record), True, True) for letter in answers.dead_letters]
        self.buffer.sort(key=lambda written: written.event)
        self.sent.append(checkpoint)

    def _flush(self) -> None:
        self.world.kafka.log += self.buffer
        self.buffer = []

    def _part(self) -> None:
        """Half of it is stored, and the rest never will be."""
        self.world.kafka.log += self.buffer[: len(self.buffer) // 2]
        self.buffer = []

    def _commit(self) -> None:
        for checkpoint in self.sent:
            self.world.kafka.commit(checkpoint)
        self.sent = []


class TransactionalSink(GroupSink):
    """Exactly-once: what is stored is invisible until the offsets are committed with it."""

    def __init__(self, world: World, worker: int) -> None:
        super().__init__(world, worker)
        self.open: list[Written] = []

    def abandon(self) -> None:
        super().abandon()
        self.open = []

    def _send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        super()._send(answers, checkpoint)
        for written in self.buffer:
            written.is_visible = False
        self.open += self.buffer

    def _commit(self) -> None:
        super()._commit()
        for written in self.open:
            written.is_visible = True
        self.open = []


class Models:
    """Always the same model."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering

    def current(self) -> Answering:
        return self.answering


@cache
def models() -> Models:
    return Models(Answering(load(BUNDLE), SETTINGS, clock=FakeClock().monotonic))


class World:
    """The brokers, some workers, and what befalls them."""

    def __init__(
        self,
        script: Sequence[str],
        sink: type[GroupSink],
        stream: type[Stream],
        counts: Sequence[int],
        commit_interval_s: float,
    ) -> None:
        self.settings = replace(SETTINGS, commit_interval_s=commit_interval_s)
        self.kafka = Kafka({("events", number): events_of(number, count) for number, count in enumerate(counts)})
        self.clock = FakeClock()
        self.script = list(reversed(script))
        self.sink_type, self.stream_type = sink, stream
        self.exactly_once = issubclass(sink, TransactionalSink)
        self.busy: set[int] = set()
        self.sinks: dict[int, GroupSink] = {}
        self.streams: dict[int, Stream] = {}
        for worker in range(WORKERS):
            self.start(worker)

    def start(self, worker: int) -> None:
        """A new process in a worker's place; its transactional id aborts what the one before it left open."""
        self.sinks[worker] = self.sink_type(self, worker)
        self.streams[worker] = self.stream_type(
            GroupSource(self, worker), self.sinks[worker], models(), self.settings,
            clock=self.clock.monotonic, now_ms=self.clock.now_ms, sleep=self.clock.sleep,
        )  # fmt: skip

    def turn(self, worker: int) -> None:
        self.busy.add(worker)
        try:
            self.streams[worker].turn()
        except (Crash, StreamError):
            # The group learns of the death when its session ends, or when the new process joins.
            self.kafka.assigned.pop(worker, None)
            self.start(worker)
        finally:
            self.busy.discard(worker)
        self.check()

    def call(
        self, step: str, worker: int, effect: Callable[[], Result], part: Callable[[], None] | None = None
    ) -> Result:
        """One call of a port, with what the script does about it."""
        action = self.script.pop() if self.script else "nothing"
        before = {"crash before": Crash(), "fail before": DisturbedError(step)}
        after = {"crash after": Crash(), "fail after": DisturbedError(step)}
        if action in before:
            raise before[action]
        if action == "refuse" and step == "flush":
            raise StreamError("a record is refused")
        if action == "part" and part is not None:
            part()
            raise DisturbedError("a record was not acknowledged")
        if action == "expel":
            self.kafka.rebalance([member for member in range(WORKERS) if member != worker])
        elif action == "rebalance":
            self.rebalance()
        elif action == "others turn":
            for other in set(range(WORKERS)) - self.busy:
                self.turn(other)
        result = effect()
        if action in after:
            raise after[action]
        return result

    def rebalance(self) -> None:
        """In good order: idle members settle what they have sent before the generation ends."""
        for worker in set(self.kafka.assigned) - self.busy:
            try:
                self.sinks[worker].revoke()
            except DisturbedError:
                self.sinks[worker].abandon()
        self.kafka.rebalance(range(WORKERS))

    def is_done(self) -> bool:
        return all(self.kafka.offsets.get(name, 0) == len(events) for name, events in self.kafka.events.items())

    def check(self) -> None:
        """What holds at every moment."""
        answered = [written.event for written in self.kafka.visible()]
        for (topic, partition), position in self.kafka.offsets.items():
            missing = {(topic, partition, offset) for offset in range(position)} - set(answered)
            assert not missing, f"positions passed what nobody answered: {missing}"
        if self.exactly_once:
            doubled = [event for event, count in Counter(answered).items() if count > 1]
            assert not doubled, f"answered twice: {doubled}"
            for topic, partition in self.kafka.events:
                offsets = [event[2] for event in answered if event[:2] == (topic, partition)]
                assert sorted(offsets) == offsets, f"out of order: {offsets}"

    def check_end(self) -> None:
        """What holds when everything was committed."""
        self.check()
        every = {place(event): event.value == b"x" for events in self.kafka.events.values() for event in events}
        assert every == {written.event: written.is_dead for written in self.kafka.visible()}


def events_of(partition: int, count: int) -> list[Event]:
    """Every third one cannot be scored."""
    values = [b"x" if number % 3 == 2 else json.dumps({"n": number}).encode() for number in range(count)]
    return [Event("events", partition, offset, -1, None, value) for offset, value in enumerate(values)]


def live(
    script: Sequence[str],
    counts: Sequence[int],
    sink: type[GroupSink],
    stream: type[Stream] = Stream,
    commit_interval_s: float = 0.0,
) -> None:
    """Let the workers take turns until everything is committed."""
    world = World(script, sink, stream, counts, commit_interval_s)
    for number in range(ENOUGH_TURNS):
        if world.is_done():
            break
        world.turn(number % WORKERS)
    assert world.is_done(), "the workers stand still"
    world.check_end()


INTERVALS = st.sampled_from([0.0, 0.15, 1.0])
COUNTS = st.lists(st.integers(0, 14), min_size=1, max_size=4)
OFTEN = settings(max_examples=200, suppress_health_check=[HealthCheck.too_slow])


@OFTEN
@given(SCRIPTS, COUNTS, INTERVALS)
def test_at_least_once_loses_nothing(script: list[str], counts: list[int], commit_interval_s: float) -> None:
    live(script, counts, GroupSink, commit_interval_s=commit_interval_s)


@OFTEN
@given(SCRIPTS, COUNTS, INTERVALS)
def test_exactly_once_loses_and_doubles_nothing_and_keeps_the_order(
    script: list[str], counts: list[int], commit_interval_s: float
) -> None:
    live(script, counts, TransactionalSink, commit_interval_s=commit_interval_s)


class CommitsFirst(Stream):
    """Steps 5 and 4 the other way round."""

    def _settle(self, *, at_once: bool = False) -> None:
        self._sink.commit()
        super()._settle(at_once=at_once)


class KeepsWhatFailed(Stream):
    """Goes on after a disturbance without letting go of what was sent."""

    def _recover(self, error: DisturbedError, stopping: Callable[[], bool]) -> None:
        self._sent, self._flushed = None, []


class OffsetsApart(TransactionalSink):
    """The records' transaction does not hold the offsets."""

    def _commit(self) -> None:
        for written in self.open:
            written.is_visible = True
        self.open = []
        super()._commit()


class GenerationOfNow(TransactionalSink):
    """Commits for the group's generation of now, not that of the poll."""

    def _commit(self) -> None:
        self.sent = [Checkpoint(checkpoint.positions, self.world.kafka.generation) for checkpoint in self.sent]
        super()._commit()


@pytest.mark.parametrize(
    ("sink", "stream", "message"),
    [
        (GroupSink, CommitsFirst, "nobody answered"),
        (GroupSink, KeepsWhatFailed, "nobody answered|stand still"),
        (OffsetsApart, Stream, "answered twice"),
        (GenerationOfNow, Stream, "answered twice|out of order"),
    ],
)
def test_the_model_finds_what_is_wrong(sink: type[GroupSink], stream: type[Stream], message: str) -> None:
    @settings(
        max_examples=500,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(LONG_SCRIPTS, COUNTS, INTERVALS)
    def campaign(script: list[str], counts: list[int], commit_interval_s: float) -> None:
        live(script, counts, sink, stream, commit_interval_s)

    with pytest.raises(AssertionError, match=message):
        campaign()
