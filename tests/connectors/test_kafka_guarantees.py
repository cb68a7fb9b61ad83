"""Both guarantees on a genuine Kafka: what is stored, and what is committed."""

from __future__ import annotations

from typing import Any

import pytest

from streamfm.stream.ports import DeadLetter, Event, Polled

EVENTS = [b"event %d" % index for index in range(300)]
BOTH = pytest.mark.parametrize("guarantee", ["at-least-once", "exactly-once"])


@BOTH
def test_every_event_is_scored_once_and_committed(bench: Any, guarantee: str) -> None:
    bench.produce(EVENTS)
    worker = bench.worker(guarantee=guarantee)

    assert worker.run(300) == 300

    scores = bench.read(bench.scores)
    assert sorted(record.value for record in scores) == sorted(b"scored " + event for event in EVENTS)
    assert bench.committed() == {0: 150, 1: 150}
    assert worker.source.lag() == {(bench.events, 0): 0, (bench.events, 1): 0}


def test_a_score_has_the_events_key_time_and_headers_and_the_models(bench: Any) -> None:
    bench.produce([b"a"])

    bench.worker().turn()

    (score,) = bench.read(bench.scores)
    assert (score.key, score.timestamp, list(score.headers)) == (b"0", 1_000, [("n", b"0"), ("model", b"m@1")])


def test_keys_go_to_the_partition_that_murmur2_says(bench: Any) -> None:
    from kafka.partitioner.default import murmur2

    bench.produce(EVENTS)

    bench.worker().run(300)

    for score in bench.read(bench.scores):
        assert score.partition == (murmur2(score.key) & 0x7FFFFFFF) % 2


@BOTH
def test_dead_letters_are_untouched_and_say_where_they_were_and_why(bench: Any, guarantee: str) -> None:
    bench.produce([b"good", b"bad"])
    worker = bench.worker(guarantee=guarantee, worker_slot=3)
    worker.run(2, poison=b"bad")

    (letter,) = bench.read(bench.dead)
    assert (letter.key, letter.value, letter.timestamp) == (b"1", b"bad", 1_001)
    assert dict(letter.headers) == {
        "n": b"1",
        "__connect.errors.topic": bench.events.encode(),
        "__connect.errors.partition": b"1",
        "__connect.errors.offset": b"0",
        "__connect.errors.connector.name": bench.name.encode(),
        "__connect.errors.task.id": b"3",
        "__connect.errors.stage": b"VALUE_CONVERTER",
        "__connect.errors.class.name": b"streamfm.not_json",
        "__connect.errors.exception.class.name": b"DecodeError",
        "__connect.errors.exception.message": b"expected {",
        "__connect.errors.exception.stacktrace": b"DecodeError: expected {",
    }
    assert [record.value for record in bench.read(bench.scores)] == [b"scored good"]
    assert bench.committed() == {0: 1, 1: 1}


def test_a_dead_letter_without_key_and_value_stays_so(bench: Any, client: str) -> None:
    bench.produce([b"a"])
    worker = bench.worker()
    polled = worker.poll()
    (record,) = polled.records
    empty = Event(record.topic, record.partition, record.offset, record.timestamp, None, None, [("h", None)])
    worker.send(Polled([empty], polled.checkpoint), [DeadLetter(empty, "null_value", "NullValue", "no value")])
    worker.settle()

    (letter,) = bench.read(bench.dead)
    assert (letter.key, letter.value) == (None, None)
    # kafka-python cannot send a header without a value.
    assert letter.headers[0] == ("h", b"" if client == "kafka-python" else None)


def test_an_event_of_1970_stays_there(bench: Any, client: str) -> None:
    bench.produce([b"a"])
    worker = bench.worker()
    polled = worker.poll()
    event = Event(bench.events, 0, polled.records[0].offset, 0, None, b"a")
    worker.send(Polled([event], polled.checkpoint))
    worker.settle()

    (score,) = bench.read(bench.scores)
    # librdkafka takes 0 for now.
    assert score.timestamp == (0 if client == "kafka-python" else 1)


def test_without_a_dead_letter_topic_they_are_kept_nowhere(bench: Any) -> None:
    bench.produce([b"bad"])
    worker = bench.worker(dead_letter_topic="")
    polled = worker.poll()
    worker.send(polled, [DeadLetter(polled.records[0], "not_json", "DecodeError", "expected {")])
    worker.settle()

    assert bench.committed()[0] == 1
    assert bench.read(bench.dead) == bench.read(bench.scores) == []


def test_exactly_once_shows_nothing_before_the_commit(bench: Any) -> None:
    bench.produce([b"a"])
    worker = bench.worker(guarantee="exactly-once")
    worker.send(worker.poll())
    worker.sink.flush()

    assert bench.read(bench.scores) == []
    assert [record.value for record in bench.read(bench.scores, "read_uncommitted")] == [b"scored a"]

    worker.sink.commit()
    assert [record.value for record in bench.read(bench.scores)] == [b"scored a"]


@BOTH
def test_what_is_abandoned_is_read_again(bench: Any, guarantee: str) -> None:
    bench.produce([b"a"])
    worker = bench.worker(guarantee=guarantee)
    worker.send(worker.poll())
    worker.recover()

    again = worker.poll()

    assert [record.value for record in again.records] == [b"a"]
    worker.send(again)
    worker.settle()
    scores = [record.value for record in bench.read(bench.scores)]
    assert set(scores) == {b"scored a"}
    assert guarantee == "at-least-once" or len(scores) == 1


def test_closing_aborts_an_open_transaction_so_that_nobody_waits_for_its_time_out(bench: Any) -> None:
    bench.produce([b"a"])
    worker = bench.worker(guarantee="exactly-once", transaction_timeout_s=600.0)
    worker.send(worker.poll())
    worker.sink.flush()
    worker.close()

    # Until it is decided, its offsets could not be read: a successor has another name here.
    assert bench.worker(guarantee="exactly-once", instance="other").run(1) == 1
    assert [record.value for record in bench.read(bench.scores)] == [b"scored a"]


def test_in_flight_sends_are_bounded(bench: Any) -> None:
    bench.produce(EVENTS)
    worker = bench.worker(max_in_flight=7)

    assert worker.run(300) == 300

    assert len(bench.read(bench.scores)) == 300


@pytest.mark.parametrize("codec", ["gzip", "snappy", "lz4", "zstd"])
def test_events_of_every_codec_are_read(bench: Any, codec: str) -> None:
    bench.produce(EVENTS, compression_type=codec)

    assert bench.worker().run(300) == 300
    assert len(bench.read(bench.scores)) == 300
