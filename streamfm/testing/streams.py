"""Doubles of a stream's two ends and of time: no threads, no waiting, every disturbance where the test puts it.

    clock = FakeClock()
    source = ListSource({("events", 0): [*events_of([b"{}", b"{}"]), Disturbance("broker away"), *more]}, clock=clock)
    sink = ListSink(source, exactly_once=True, faults=[Fault("commit", 2, Crash(), done=True)])

What is committed outlives a crash: after `sink.restart()` and `source.restart()` a new loop goes on where it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Answers, Checkpoint, DeadLetter, Event, Partition, Polled

Step = Literal["send", "flush", "commit"]


class FakeClock:
    """Time that passes when somebody sleeps; the functions are those of the module `time`."""

    def __init__(self, now_s: float = 1_000_000_000.0) -> None:
        """Begin so many seconds after 1970."""
        self._now_s = now_s

    def time(self) -> float:
        """Seconds since 1970."""
        return self._now_s

    def monotonic(self) -> float:
        """The same: this clock is never set."""
        return self._now_s

    def now_ms(self) -> int:
        """Milliseconds since 1970."""
        return round(self._now_s * 1_000)

    def sleep(self, duration_s: float) -> None:
        """Let time pass."""
        self._now_s += duration_s


class Disturbance(NamedTuple):
    """An entry of a `ListSource`: the poll that comes to it raises DisturbedError, once."""

    message: str


class Failure(NamedTuple):
    """An entry of a `ListSource`: the poll that comes to it raises StreamError, once."""

    message: str


class Rebalance(NamedTuple):
    """An entry of a `ListSource`: the poll that comes to it begins a new assignment, once.

    Reading goes on from what is committed, and checkpoints of before are refused.
    """


class Silence(NamedTuple):
    """An entry of a `ListSource`: its partition has nothing for so long, once."""

    duration_s: float


Entry = Event | Disturbance | Failure | Rebalance | Silence


class Crash(BaseException):
    """The process ends here; nothing catches it, least of all the loop."""


def events_of(
    values: Iterable[bytes | None], *, partition: Partition = ("events", 0), offset: int = 0, timestamp: int = -1
) -> list[Event]:
    """An event for each value, without keys and headers, from `offset` on."""
    return [Event(*partition, offset + index, timestamp, None, value) for index, value in enumerate(values)]


class ListSource:
    """A `Source` of partitions that are held in memory.

    A poll takes what is there, one partition after another, and begins where the poll before it ended; an entry that is
    no event is met by the first poll that finds it at the head of its partition.

    Attributes:
        committed: Where reading goes on after a rewind, by partition.
        assignment: A number that rises with every `Rebalance` and every restart.
    """

    def __init__(
        self, partitions: Mapping[Partition, Sequence[Entry]], *, clock: FakeClock, endless: bool = False
    ) -> None:
        """Hold the entries, each partition's events in the order of their offsets.

        Args:
            partitions: What will be there to poll.
            clock: Is slept on when there is nothing.
            endless: Whether more may come after the last entry, by `append`; else the source is finished there.
        """
        self._entries: dict[Partition, list[Entry]] = {name: list(entries) for name, entries in partitions.items()}
        self._clock = clock
        self._endless = endless
        self._next = dict.fromkeys(self._entries, 0)
        self._silent_until_s = dict.fromkeys(self._entries, 0.0)
        self._order = list(self._entries)
        self.committed: dict[Partition, int] = {}
        self.assignment = 1

    def append(self, partition: Partition, *entries: Entry) -> None:
        """Let more come."""
        self._entries[partition].extend(entries)

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """See `Source`; when there is nothing, the clock goes on by the time-out, or to the end of a silence."""
        for name in self._entries:
            self._meet(name)
        records = self._take(max_records)
        if not records and timeout_s > 0:
            now_s = self._clock.monotonic()
            wakes = [until_s for until_s in self._silent_until_s.values() if now_s < until_s <= now_s + timeout_s]
            self._clock.sleep(min(wakes, default=now_s + timeout_s) - now_s)
            if wakes:
                records = self._take(max_records)
        positions = {(record.topic, record.partition): record.offset + 1 for record in records}
        return Polled(records, Checkpoint(positions, self.assignment))

    def rewind(self) -> None:
        """Go back to what is committed; entries that were met do not come again."""
        for name, entries in self._entries.items():
            position = self.committed.get(name, -1)
            following = (
                index for index, entry in enumerate(entries) if isinstance(entry, Event) and entry.offset >= position
            )
            self._next[name] = next(following, len(entries))

    def restart(self) -> None:
        """What a new process finds: a new assignment, from what is committed on."""
        self.assignment += 1
        self.rewind()

    def commit(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Take over the positions of checkpoints, all or none.

        Raises:
            DisturbedError: One is of an earlier assignment.
        """
        for checkpoint in checkpoints:
            if checkpoint.assignment != self.assignment:
                raise DisturbedError(f"checkpoint of assignment {checkpoint.assignment}, expected {self.assignment}")
        for checkpoint in checkpoints:
            self.committed |= checkpoint.positions

    def lag(self) -> Mapping[Partition, int]:
        """How many events of each partition were not polled since the last rewind."""
        return {name: len(self._following(name)) for name in self._entries}

    def is_finished(self) -> bool:
        """Whether everything was polled, and nothing can be appended."""
        return not self._endless and all(self._next[name] == len(self._entries[name]) for name in self._entries)

    def close(self, timeout_s: float) -> None:
        """Nothing to leave."""

    def _meet(self, name: Partition) -> None:
        """Act on the entries at the head of a partition that are no events, and take them out."""
        entries = self._entries[name]
        while (at := self._next[name]) < len(entries) and not isinstance(entry := entries[at], Event):
            del entries[at]
            if isinstance(entry, Silence):
                self._silent_until_s[name] = self._clock.monotonic() + entry.duration_s
            elif isinstance(entry, Rebalance):
                self.restart()
            elif isinstance(entry, Disturbance):
                raise DisturbedError(entry.message)
            else:
                raise StreamError(entry.message)

    def _take(self, max_records: int) -> list[Event]:
        records: list[Event] = []
        for name in tuple(self._order):
            if len(records) == max_records:
                break
            # The partition that is read now comes last the next time.
            self._order.append(self._order.pop(0))
            if self._clock.monotonic() < self._silent_until_s[name]:
                continue
            for entry in self._entries[name][self._next[name] :]:
                if len(records) == max_records or not isinstance(entry, Event):
                    break
                records.append(entry)
                self._next[name] += 1
        return records

    def _following(self, name: Partition) -> list[Event]:
        return [entry for entry in self._entries[name][self._next[name] :] if isinstance(entry, Event)]


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a call of a sink.

    Attributes:
        step: The method.
        call: Which call of it, from 1 on; restarts do not begin anew.
        error: What it raises; `Crash()` ends the process.
        done: Whether the call had its effect before: an outcome that the caller does not know.
    """

    step: Step
    call: int
    error: BaseException
    done: bool = False


class Batch(NamedTuple):
    """What a sink was sent."""

    answers: Answers
    checkpoint: Checkpoint


class ListSink:
    """A `Sink` that keeps apart what is in flight, flushed and committed.

    At-least-once, a batch is stored when it is flushed, and its positions are committed into the source after that.
    Exactly-once, both become visible together when it is committed.

    Attributes:
        in_flight: Sent, and not flushed.
        flushed: Flushed, and not committed.
        committed: Committed, with their positions.
        stored: What a reader of the output finds, in its order (with exactly-once: one that reads committed records).
        abandoned: What was let go of.
    """

    def __init__(self, source: ListSource, *, exactly_once: bool = False, faults: Iterable[Fault] = ()) -> None:
        """Commit positions into `source`."""
        self._source = source
        self._exactly_once = exactly_once
        self._faults = {(fault.step, fault.call): fault for fault in faults}
        self._calls: dict[Step, int] = {"send": 0, "flush": 0, "commit": 0}
        self.in_flight: list[Batch] = []
        self.flushed: list[Batch] = []
        self.committed: list[Batch] = []
        self.stored: list[Batch] = []
        self.abandoned: list[Batch] = []

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        """See `Sink`."""
        fault = self._fault("send")
        self.in_flight.append(Batch(answers, checkpoint))
        _raise(fault)

    def flush(self) -> None:
        """See `Sink`."""
        fault = self._fault("flush")
        if not self._exactly_once:
            self.stored += self.in_flight
        self.flushed += self.in_flight
        self.in_flight = []
        _raise(fault)

    def commit(self) -> None:
        """See `Sink`; what was not flushed is not committed.

        Raises:
            DisturbedError: A batch is of an earlier assignment.
        """
        fault = self._fault("commit")
        self._source.commit([batch.checkpoint for batch in self.flushed])
        if self._exactly_once:
            self.stored += self.flushed
        self.committed += self.flushed
        self.flushed = []
        _raise(fault)

    def abandon(self) -> None:
        """See `Sink`. With at-least-once, what was flushed stays stored, and will be there twice."""
        self.abandoned += self.flushed + self.in_flight
        self.flushed, self.in_flight = [], []

    def restart(self) -> None:
        """What a new process finds: nothing in flight."""
        self.abandon()

    def close(self, timeout_s: float) -> None:
        """Nothing to leave; what was not committed never will be."""
        self.abandon()

    @property
    def values(self) -> list[bytes]:
        """The scores that a reader finds."""
        return [value for batch in self.stored for value in batch.answers.values]

    @property
    def dead_letters(self) -> list[DeadLetter]:
        """The dead letters that a reader finds."""
        return [letter for batch in self.stored for letter in batch.answers.dead_letters]

    def _fault(self, step: Step) -> Fault | None:
        """What this call of a step shall raise after its effect; raises what comes before it."""
        self._calls[step] += 1
        fault = self._faults.get((step, self._calls[step]))
        if fault is not None and not fault.done:
            raise fault.error
        return fault


def _raise(fault: Fault | None) -> None:
    if fault is not None:
        raise fault.error
