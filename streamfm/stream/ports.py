"""What the loop asks of a source of events and of a sink of scores; Kafka and JSON lines are adapters of these ports.

An adapter of a broker entangles the two, since where the source stands is committed with, or after, what the sink has
sent. So the sink is handed a `Checkpoint` with every batch, and commits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

Header = tuple[str, bytes | None]
Partition = tuple[str, int]
"""A topic and the number of one of its partitions; of a file, its name and 0."""
Positions = Mapping[Partition, int]
"""The offset of the next record to read, by partition."""


class Record(Protocol):
    """An event as it was stored. kafka-python's ConsumerRecord is one as it stands."""

    @property
    def topic(self) -> str:
        """Where it was read."""

    @property
    def partition(self) -> int:
        """Which part of the topic."""

    @property
    def offset(self) -> int:
        """Its place in the partition."""

    @property
    def timestamp(self) -> int:
        """When it was stored or made: milliseconds since 1970, -1 where that is not known."""

    @property
    def key(self) -> bytes | None:
        """What decides about the partition."""

    @property
    def value(self) -> bytes | None:
        """The event."""

    @property
    def headers(self) -> Sequence[Header]:
        """Names and values beside the event."""


class Event(NamedTuple):
    """A `Record` of our own making."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where to go on after a batch.

    Attributes:
        positions: Of every partition that the batch has records of.
        assignment: What the source stood for when it gave the records, such as a generation of a consumer group; a
            checkpoint of an earlier assignment must not be committed. Compared by `==`, otherwise the adapter's own.
    """

    positions: Positions = field(default_factory=dict)
    assignment: object = None

    def followed_by(self, later: Checkpoint) -> Checkpoint:
        """The checkpoint after both, of one assignment."""
        return Checkpoint({**self.positions, **later.positions}, later.assignment)


class Polled(NamedTuple):
    """Records, of each partition in the order of their offsets, and where to go on after them."""

    records: Sequence[Record]
    checkpoint: Checkpoint


class DeadLetter(NamedTuple):
    """An event that cannot be scored, and why.

    Attributes:
        record: The event, untouched.
        reason: One of `REASONS`.
        error: The class of the error.
        message: What is wrong.
    """

    record: Record
    reason: str
    error: str
    message: str


REASONS: Mapping[str, str] = {
    "null_value": "the record has no value",
    "too_large": "the value is larger than --max-event-bytes",
    "not_json": "the value is no JSON object in UTF-8",
    "missing_event_id": "the field that names the event is not there",
    "wrong_type": "an input has a JSON type that its features cannot use",
    "not_scored": "a value that no type holds, or on which an SQL feature fails",
}
"""Why an event is a dead letter: the label `reason` of the metrics."""

STAGES: Mapping[str, str] = {
    **dict.fromkeys(("null_value", "too_large", "not_json", "missing_event_id", "wrong_type"), "VALUE_CONVERTER"),
    "not_scored": "TRANSFORMATION",
}
"""Kafka Connect's name of the stage at which the error arose, by reason."""


class Answers(NamedTuple):
    """What becomes of a batch: `values[i]` answers `records[i]`; every other record is a dead letter.

    Attributes:
        records: Those that were scored.
        values: The score of each, as the sink shall write it.
        headers: Which model answered; they go after each record's own.
        dead_letters: Those that were not.
    """

    records: Sequence[Record]
    values: Sequence[bytes]
    headers: Sequence[Header]
    dead_letters: Sequence[DeadLetter]


class Source(Protocol):
    """Where events come from. No method blocks for longer than its time limit, or the adapter's."""

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """Up to so many records, as soon as there are some; none when there are none in time.

        Raises:
            DisturbedError: For the moment; the loop rewinds and goes on.
            StreamError: It cannot go on, as when committed events were deleted before they were read.
        """

    def rewind(self) -> None:
        """Go back to what is committed: every record that was polled since is polled again.

        Raises:
            DisturbedError: Not yet.
        """

    def lag(self) -> Mapping[Partition, int]:
        """How many records of each assigned partition were not polled yet, as far as is known without asking."""

    def is_finished(self) -> bool:
        """Whether there will never be another record: the end of a file, or of a replay."""

    def close(self, timeout_s: float) -> None:
        """Leave, in time; never raises for what cannot be helped."""


class Sink(Protocol):
    """Where scores and dead letters go. No method blocks for longer than the adapter's limits."""

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        """Hand over a batch; waits while too much is in flight, and does not wait for the batch itself.

        Raises:
            DisturbedError: For the moment; what was sent since the last commit is abandoned.
            StreamError: It cannot go on, as when the topic is not there.
        """

    def flush(self) -> None:
        """Return when everything that was sent is stored, with every single acknowledgement checked.

        Raises:
            DisturbedError: Something was not, or nobody knows.
            StreamError: It never will be, as when a record is too large.
        """

    def commit(self) -> None:
        """Make the checkpoints of everything that was flushed durable; with exactly-once, records and checkpoints.

        Raises:
            DisturbedError: They may be committed or not; `Source.rewind` goes to where that was decided.
        """

    def abandon(self) -> None:
        """Let go of what was sent and not committed, so that nothing of it is committed later."""

    def close(self, timeout_s: float) -> None:
        """Leave, in time; never raises for what cannot be helped."""
