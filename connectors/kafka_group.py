"""The worker as a member of its group: the consumer, which is replaced when it is broken."""

from __future__ import annotations

from connectors.kafka_client import Client, Consumer, Revocation
from streamfm.errors import DisturbedError
from streamfm.stream.ports import Checkpoint


class Group:
    """Holds the consumer, for the source that reads with it and the sink that commits with it."""

    def __init__(self, client: Client) -> None:
        """Not yet a member."""
        self._client = client
        self._consumer: Consumer | None = None

    def consumer(self, revocation: Revocation) -> Consumer:
        """The consumer; a new one, if there is none.

        Raises:
            StreamError: As `Client.open_consumer`.
        """
        if self._consumer is None:
            self._consumer = self._client.open_consumer(revocation)
        return self._consumer

    def current(self) -> Consumer | None:
        """The consumer, if there is one."""
        return self._consumer

    def is_current(self, assignment: object) -> bool:
        """Whether the worker is still the member that it was when it polled under that assignment."""
        return self._consumer is not None and assignment is not None and self._consumer.membership() == assignment

    def commit(self, checkpoint: Checkpoint) -> None:
        """Commit where to go on.

        Raises:
            DisturbedError: The group has rebalanced since, or does not answer.
        """
        # The consumer commits as the member that it is now, which may be another one than when it polled.
        if self._consumer is None or not self.is_current(checkpoint.assignment):
            raise DisturbedError("the group has rebalanced since the batch was polled")
        self._consumer.commit(checkpoint.positions)

    def leave(self, timeout_s: float) -> None:
        """Close the consumer; the next call of `consumer` opens another."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            consumer.close(timeout_s)
