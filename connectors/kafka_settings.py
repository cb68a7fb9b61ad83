"""What a worker is told of Kafka, whichever client library it uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from streamfm.errors import StreamError

Guarantee = Literal["at-least-once", "exactly-once"]
Place = int | datetime | Literal["earliest", "latest", "end"]
"""Where in a partition: an offset, the first record of that time or later, or a word."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaSettings:
    """Topics, group, guarantee and time limits.

    Attributes:
        bootstrap_servers: ``host:port``, several with commas between.
        input_topics: Where the events are.
        output_topic: Where the scores go.
        dead_letter_topic: Where events go that cannot be scored; empty: they are counted, and kept nowhere.
        group_id: The workers of one group share the events, and where they stand.
        guarantee: ``exactly-once`` writes scores, dead letters and where to go on in one transaction.
        instance: Names the deployment or machine among those of the group.
        worker_slot: Names the worker in its instance. Instance and slot must be no other worker's at the same time:
            they are the transactional id, by which a worker takes over from a dead predecessor, and locks out a living
            one.
        static_membership: Whether a worker that comes back within `session_timeout_s` gets its partitions back without
            a rebalance. Another that is started with the same instance and slot ends it: at its next commit, or when it
            has been idle for `watchdog_s`.
        max_in_flight: Records that were sent and not acknowledged, at most.
        request_timeout_s: The longest wait for an answer of a broker.
        delivery_timeout_s: The longest wait for the acknowledgement of a record, all retries included.
        transaction_timeout_s: After so long the broker aborts a transaction; longer than commit interval and longest
            batch together.
        revoke_deadline_s: How long partitions are held back, while what was sent is flushed and committed, when another
            worker is to get them.
        session_timeout_s: A worker that is not heard of for so long loses its partitions.
        heartbeat_interval_s: How often it is heard of.
        max_poll_interval_s: So does a worker that takes longer for a batch.
        watchdog_s: The client is built anew when there is something to read, and nothing came for so long.
        start: Where to begin in a partition of which the group has committed nothing: ``earliest``, ``latest``, an
            offset, or a time like ``2026-01-31T12:00:00+00:00`` (UTC, where no zone is said).
        stop: Where a replay ends: an offset, a time, or ``end``, which is where the partition ends when it is
            assigned. Empty: never.
        options: Options of the client library, by its own names, with dots or underscores; those that begin with
            ``consumer.`` or ``producer.`` are for that one alone.

    Raises:
        StreamError: A setting that cannot be; says which.
    """

    bootstrap_servers: str
    input_topics: tuple[str, ...]
    output_topic: str
    group_id: str
    dead_letter_topic: str = ""
    guarantee: Guarantee = "at-least-once"
    instance: str = "main"
    worker_slot: int = 0
    static_membership: bool = False
    max_in_flight: int = 20_000
    request_timeout_s: float = 10.0
    delivery_timeout_s: float = 15.0
    transaction_timeout_s: float = 10.0
    revoke_deadline_s: float = 3.0
    session_timeout_s: float = 6.0
    heartbeat_interval_s: float = 1.0
    max_poll_interval_s: float = 30.0
    watchdog_s: float = 30.0
    start: str = "earliest"
    stop: str = ""
    options: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check what can be checked without a broker."""
        for name in ("bootstrap_servers", "output_topic", "group_id", "instance"):
            _require(getattr(self, name), f"{name} is empty")
        _require(self.input_topics and all(self.input_topics), "input_topics is empty")
        written = {self.output_topic, self.dead_letter_topic}
        both = sorted(written.intersection(self.input_topics))
        _require(not both, f"{both} is read and written: every score would be an event again")
        _require(self.dead_letter_topic != self.output_topic, "output_topic and dead_letter_topic are the same")
        _require(self.guarantee in ("at-least-once", "exactly-once"), f"guarantee is {self.guarantee!r}")
        _require(self.worker_slot >= 0, f"worker_slot is {self.worker_slot}, expected 0 or more")
        _require(self.max_in_flight >= 1, f"max_in_flight is {self.max_in_flight}, expected 1 or more")
        self._check_times()
        _require(self.start_place != "end", "start is 'end', expected earliest, latest, an offset or a time")
        _require(
            self.stop_place not in ("earliest", "latest"),
            f"stop is {self.stop!r}, expected end, an offset or a time",
        )

    def _check_times(self) -> None:
        for name in self.__slots__:
            if name.endswith("_s"):
                _require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}, expected more than 0")
        for less, more in (
            # While a revocation is flushed, no heartbeat is sent.
            (self.revoke_deadline_s + 2 * self.heartbeat_interval_s, "session_timeout_s"),
            (self.request_timeout_s, "delivery_timeout_s"),
            (self.session_timeout_s, "max_poll_interval_s"),
        ):
            limit = getattr(self, more)
            _require(less < limit, f"{more} is {limit} s, expected more than {less:g} s", hint=_TIMES)

    @property
    def worker_name(self) -> str:
        """The transactional id, and the member's name with static membership; also the client's id."""
        return f"{self.group_id}-{self.instance}-{self.worker_slot}"

    @property
    def topics(self) -> tuple[str, ...]:
        """All that are read or written, each once."""
        named = (*self.input_topics, self.output_topic, self.dead_letter_topic)
        return tuple(dict.fromkeys(filter(None, named)))

    @property
    def is_exactly_once(self) -> bool:
        """Whether there are transactions."""
        return self.guarantee == "exactly-once"

    @property
    def call_limit_s(self) -> float:
        """How long a call of the client may take that has no limit of its own."""
        return self.request_timeout_s + 2

    @property
    def flush_limit_s(self) -> float:
        """How long after the last record was sent all are acknowledged, or have failed."""
        return self.delivery_timeout_s + 2

    @property
    def start_place(self) -> Place:
        """`start`, understood."""
        return _place("start", self.start)

    @property
    def stop_place(self) -> Place | None:
        """`stop`, understood."""
        return _place("stop", self.stop) if self.stop else None


_TIMES = (
    "request_timeout_s < delivery_timeout_s; revoke_deadline_s + 2 x heartbeat_interval_s < session_timeout_s "
    "< max_poll_interval_s"
)


def _place(name: str, text: str) -> Place:
    if text in ("earliest", "latest", "end"):
        return text  # type: ignore[return-value]
    if text.isdecimal():
        return int(text)
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise StreamError(
            f"{name} is {text!r}", hint="earliest, latest, end, an offset, or a time like 2026-01-31T12:00:00+00:00"
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _require(right: object, message: str, *, hint: str | None = None) -> None:
    if not right:
        raise StreamError(message, hint=hint)
