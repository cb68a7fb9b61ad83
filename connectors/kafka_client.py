"""What the Kafka adapter asks of a client library: the port between what is Kafka's and what is the library's.

`kafka_source` and `kafka_sink` hold the policy (guarantees, revocation, replays, watchdog) once; a library is made to
fit here. Every call is bounded by its time limit, or by `KafkaSettings`. What goes wrong is raised as `DisturbedError`
or `StreamError` (see `kafka_errors`), never as an error of the library.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol

from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Header, Partition, Positions, Record


class BrokenClientError(DisturbedError):
    """The consumer cannot go on, and another may."""


class UnpositionedError(DisturbedError):
    """Assigned partitions have no position: the group has committed none."""


class OutOfRangeError(StreamError):
    """An offset that is not in the log.

    Attributes:
        partition: Whose.
        offset: What was asked for.
    """

    def __init__(self, partition: Partition, offset: int) -> None:
        """Keep both."""
        super().__init__(f"{partition[0]}[{partition[1]}] has no offset {offset}")
        self.partition, self.offset = partition, offset


class Bounds(NamedTuple):
    """Of a partition: the offset of the first record, and the one that the next record will get."""

    begin: int
    end: int


class TopicFacts(NamedTuple):
    """What the brokers say of a topic.

    Attributes:
        cluster: The cluster's id.
        topic_id: What tells the topic from an earlier one of its name; None where brokers give none: those before Kafka
            2.8, and the development broker.
        partitions: How many it has.
    """

    cluster: str
    topic_id: str | None
    partitions: int


class Revocation(Protocol):
    """Whom a consumer tells, before others get its partitions. Called during `Consumer.poll` and `close` only."""

    def revoke(self) -> Positions:
        """Flush what was sent, within the deadline, and commit its transaction; never raises.

        Returns:
            The positions that the consumer is to commit, before it lets go.
        """

    def revoked(self, error: Exception | None) -> None:
        """The consumer has committed them, or failed to."""

    def lose(self) -> None:
        """The partitions are already another's; nothing can be committed any more."""


class Consumer(Protocol):
    """A member of the group, subscribed to the input topics; it positions itself nowhere but at what is committed."""

    def poll(self, max_records: int, timeout_s: float) -> Sequence[Record]:
        """Up to so many records, as soon as there are some.

        Raises:
            UnpositionedError: Nothing is committed; `seek` before the next poll.
            OutOfRangeError: See there.
            BrokenClientError: See there.
        """

    def membership(self) -> object | None:
        """What the group knows the worker by at the moment, for comparison and `Producer.commit`; None: not a member.

        It changes with every rebalance.
        """

    def assignment(self) -> Collection[Partition]:
        """The partitions at the moment."""

    def committed(self, partitions: Collection[Partition]) -> Mapping[Partition, int]:
        """Where the group stands, once open transactions are decided; without those that have nothing committed."""

    def commit(self, positions: Positions) -> None:
        """Commit as the member that it is at the moment."""

    def seek(self, positions: Positions) -> None:
        """Read on from there, also what was paused."""

    def pause(self, partitions: Collection[Partition]) -> None:
        """Read nothing more of those of them that are assigned."""

    def positions(self) -> Positions:
        """What it would read next, of the partitions of which that is known; asks nobody."""

    def known_ends(self) -> Positions:
        """The ends of the assigned partitions as of the latest fetch; asks nobody, and any thread may call it."""

    def bounds(self, partitions: Collection[Partition]) -> Mapping[Partition, Bounds]:
        """Ask for the begin and end; the end is before the first open transaction."""

    def offsets_at(self, partitions: Collection[Partition], time: datetime) -> Positions:
        """Ask for the first records of that time or later; without the partitions that have none."""

    def close(self, timeout_s: float) -> None:
        """Leave the group; never raises."""


class Producer(Protocol):
    """One idempotent producer; after any error it is not used again, save for `close`."""

    def begin(self) -> None:
        """Begin a transaction."""

    def send(
        self,
        topic: str,
        records: Sequence[Record],
        values: Iterable[bytes | None],
        headers: Iterable[list[Header]],
    ) -> None:
        """Send for each record a value and headers, with the record's key and timestamp; partition by murmur2.

        Waits while more than `max_in_flight` are not acknowledged.

        Raises:
            StreamError: What is refused for good; names the record.
        """

    def flush(self, timeout_s: float) -> None:
        """Return when all is acknowledged.

        Raises:
            DisturbedError: Not in time, or something was not.
            StreamError: As `send`.
        """

    def commit(self, positions: Positions, membership: object, timeout_s: float) -> None:
        """Put the positions into the transaction as that member, and commit it."""

    def abort(self, timeout_s: float) -> None:
        """Abort the transaction, if there is one; never raises."""

    def close(self, timeout_s: float) -> None:
        """Let go of it; never raises, and goes on in the background if it must."""


class Client(Protocol):
    """A client library."""

    def open_consumer(self, revocation: Revocation) -> Consumer:
        """A new member of the group.

        Raises:
            StreamError: A topic that is not there, a codec that is missing, what is not allowed.
            DisturbedError: No broker for the moment.
        """

    def open_producer(self) -> Producer:
        """A new producer; with transactions, it has locked out and aborted whoever had its name before.

        Raises:
            StreamError: As `open_consumer`.
            DisturbedError: As `open_consumer`.
        """
