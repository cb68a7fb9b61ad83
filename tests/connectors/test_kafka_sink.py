"""What the sink does when partitions go, a call fails, or its name is taken: over libraries that follow a script."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from connectors.connect_headers import error_headers
from connectors.kafka_errors import FencedError
from connectors.kafka_group import Group
from connectors.kafka_python_consumer import KafkaPythonConsumer
from connectors.kafka_settings import KafkaSettings
from connectors.kafka_sink import KafkaSink
from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Answers, Checkpoint, DeadLetter, Event, Header, Positions, Record

EVENT = Event("events", 0, 0, 0, None, b"event")
SENT = Checkpoint({("events", 0): 1}, "member")


def settings(**changes: Any) -> KafkaSettings:
    given: dict[str, Any] = {"input_topics": ("events",), "output_topic": "scores", "group_id": "g"}
    return KafkaSettings(bootstrap_servers="b:1", **(given | changes))


@dataclass
class Library:
    """kafka-python's consumer, as far as closing it goes: it tells of the revocation first."""

    listener: Any = None

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        self.listener = listener

    def close(self, timeout_ms: float) -> None:
        asyncio.run(self.listener.on_partitions_revoked({("events", 0)}))
        asyncio.run(self.listener.on_partitions_lost({("events", 0)}))


@dataclass
class Told:
    """A `Revocation` that keeps what it was told."""

    calls: list[str] = field(default_factory=list)

    def revoke(self) -> Positions:
        self.calls.append("revoke")
        return {}

    def revoked(self, error: Exception | None) -> None:
        raise NotImplementedError("there is nothing to commit")

    def lose(self) -> None:
        self.calls.append("lose")


def test_a_consumer_that_is_given_up_says_nothing_more_beside_the_loop() -> None:
    given_up, left = Told(), Told()

    for told, timeout_s in ((given_up, 0.0), (left, 5.0)):
        library = Library()
        consumer = KafkaPythonConsumer(library, settings())
        consumer.subscribe(told)
        consumer.close(timeout_s)
        # In the background it may go on for long.
        library.close(0.0)

    assert given_up.calls == []
    assert left.calls == ["revoke", "lose"]


@dataclass
class ScriptedProducer:
    """A `Producer` that keeps what it was asked for; every flush takes so long, or fails."""

    flush_s: float = 0.0
    failure: StreamError | None = None
    calls: list[str] = field(default_factory=list)
    commit_limit_s: float = 0.0

    def begin(self) -> None:
        self.calls.append("begin")

    def send(
        self, topic: str, records: Sequence[Record], values: Iterable[bytes | None], headers: Iterable[list[Header]]
    ) -> None:
        self.calls.append("send")

    def flush(self, timeout_s: float) -> None:
        time.sleep(self.flush_s)
        if self.failure:
            raise self.failure

    def commit(self, positions: Positions, membership: object, timeout_s: float) -> None:
        self.commit_limit_s = timeout_s

    def abort(self, timeout_s: float) -> None:
        self.calls.append("abort")

    def close(self, timeout_s: float) -> None:
        self.calls.append("close")


class Member(Group):
    """In the group, whatever happens."""

    def is_current(self, assignment: object) -> bool:
        return True


def sink_of(*producers: ScriptedProducer) -> KafkaSink:
    """A sink with transactions, and the producers that it opens one after another."""
    client: Any = SimpleNamespace(open_producer=iter(producers).__next__)
    return KafkaSink(settings(guarantee="exactly-once"), client, Member(client))


def send(sink: KafkaSink) -> None:
    sink.send(Answers([EVENT], [b"score"], [], []), SENT)


def test_a_revocation_has_one_deadline_for_all_that_it_waits_for() -> None:
    producer = ScriptedProducer(flush_s=0.1)
    sink = sink_of(producer)
    send(sink)

    sink.revoke()

    assert 0 < producer.commit_limit_s <= settings().revoke_deadline_s - 0.1


def test_what_two_memberships_polled_is_not_committed_together() -> None:
    sink = sink_of(ScriptedProducer())
    send(sink)
    sink.flush()

    with pytest.raises(DisturbedError, match="rebalanced since what was sent before"):
        sink.send(Answers([EVENT], [b"score"], [], []), Checkpoint({("events", 1): 1}, "another member"))


def test_an_error_for_good_leaves_no_transaction_open() -> None:
    producer = ScriptedProducer(failure=StreamError("too large"))
    sink = sink_of(producer)
    send(sink)
    with pytest.raises(StreamError):
        sink.flush()

    # As the loop does, and then the command.
    sink.abandon()
    sink.close(5.0)

    assert producer.calls == ["begin", "send", "abort", "close"]


def test_the_next_producer_ends_the_transaction_of_the_one_before() -> None:
    first, second = ScriptedProducer(failure=DisturbedError("for the moment")), ScriptedProducer()
    sink = sink_of(first, second)
    send(sink)
    with pytest.raises(DisturbedError):
        sink.flush()
    sink.abandon()
    sink.prepare()

    sink.close(5.0)

    assert first.calls == ["begin", "send", "close"]
    assert second.calls == ["close"]


def fenced(sink: KafkaSink) -> None:
    send(sink)
    try:
        sink.flush()
    finally:
        sink.abandon()


def test_a_worker_that_is_locked_out_again_and_again_ends() -> None:
    fencing = FencedError("PRODUCER_FENCED")
    sink = sink_of(*(ScriptedProducer(failure=fencing) for _ in range(5)))
    for _ in range(4):
        with pytest.raises(FencedError):
            fenced(sink)

    with pytest.raises(StreamError, match="locked out 5 times") as failure:
        fenced(sink)
    assert not isinstance(failure.value, DisturbedError)
    assert "worker_slot" in str(failure.value.hint)


def test_a_worker_that_is_locked_out_now_and_then_goes_on() -> None:
    producers = [ScriptedProducer() for _ in range(10)]
    sink = sink_of(*producers)
    for producer in producers:
        for _ in range(100):
            send(sink)
            sink.flush()
            sink.commit()
        producer.failure = FencedError("PRODUCER_FENCED")

        with pytest.raises(FencedError):
            fenced(sink)


def test_a_dead_letter_does_not_repeat_a_large_value_in_its_headers() -> None:
    letter = DeadLetter(EVENT, "not_scored", "DataError", "Conversion Error: " + "x" * 200_000)

    headers = error_headers(letter, connector="g", task=0)

    assert sum(len(value or b"") for _, value in headers) < 2_500
    assert dict(headers)["__connect.errors.exception.message"].startswith(b"Conversion Error: xxx")
