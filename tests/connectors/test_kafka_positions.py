"""Where reading starts, where a replay stops, and what happens when events were deleted."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from streamfm.errors import DisturbedError, StreamError

EVENTS = [b"event %d" % index for index in range(20)]


def test_a_new_group_starts_at_the_earliest_event_and_says_so(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "connectors")
    bench.produce(EVENTS)

    assert bench.worker().run(20) == 20
    starts = f"{bench.events}[0]: 0, {bench.events}[1]: 0"
    assert f"nothing is committed by group {bench.name}, starting at {starts}" in caplog.messages


def test_latest_is_committed_at_once_so_that_a_crash_before_the_first_batch_skips_nothing(bench: Any) -> None:
    bench.produce(EVENTS[:10])
    worker = bench.worker(start="latest")
    worker.join(2)
    bench.produce(EVENTS[10:])
    worker.close()

    again = bench.worker(start="latest")

    assert again.run(10) == 10
    assert {record.value for record in bench.read(bench.scores)} == {b"scored " + event for event in EVENTS[10:]}


def test_an_offset_or_a_time_may_be_the_start(bench: Any) -> None:
    # Event i is at 1,000 + i ms after 1970.
    bench.produce(EVENTS)
    time = datetime.fromtimestamp(1.010, UTC).isoformat()

    at_offset = bench.worker(start="7", group_id=f"{bench.name}-offset")
    at_time = bench.worker(start=time, group_id=f"{bench.name}-time")

    assert at_offset.run(6) == 6
    assert at_time.run(10) == 10


def test_a_start_that_is_not_in_the_log_is_refused_and_not_committed(bench: Any) -> None:
    bench.produce(EVENTS)
    worker = bench.worker(start="11")

    with pytest.raises(StreamError, match=r"\[[01]\]: start is 11, the log has the offsets 0 to 10") as failure:
        worker.run(1)

    assert not isinstance(failure.value, DisturbedError)
    assert bench.committed() == {}


def test_a_replay_that_ends_in_the_future_is_refused(bench: Any) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with pytest.raises(StreamError, match="which is still to come") as failure:
        bench.worker(stop=tomorrow.isoformat())

    assert not isinstance(failure.value, DisturbedError)


def test_what_the_group_has_committed_goes_before_any_start(bench: Any) -> None:
    bench.produce(EVENTS)
    first = bench.worker()
    first.run(20)
    first.close()
    bench.produce(EVENTS[:2])

    assert bench.worker(start="0").run(2) == 2
    assert bench.committed() == {0: 11, 1: 11}


@pytest.mark.parametrize(
    ("stop", "count"), [("end", 20), ("7", 14), (datetime.fromtimestamp(1.010, UTC).isoformat(), 10)]
)
def test_a_replay_ends(bench: Any, stop: str, count: int) -> None:
    bench.produce(EVENTS)
    worker = bench.worker(stop=stop)
    done = 0

    def finished() -> bool:
        nonlocal done
        if not done:
            assert not worker.source.is_finished()
        polled = worker.source.poll(3, 0.1)
        if polled.records:
            worker.send(polled)
            worker.settle()
        done += len(polled.records)
        return bool(worker.source.is_finished())

    bench.until(finished)
    # Not of this replay.
    bench.produce(EVENTS)
    assert not worker.source.poll(100, 0.5).records
    assert done == count == sum(bench.committed().values())


def test_a_replay_of_a_topic_of_transactions_ends_behind_their_markers(bench: Any) -> None:
    bench.produce(EVENTS)
    bench.worker(guarantee="exactly-once").run(20)
    replay = bench.worker(
        input_topics=(bench.scores,), output_topic=bench.make(f"{bench.name}.again"), group_id="r", stop="end"
    )
    done = 0

    def finished() -> bool:
        nonlocal done
        polled = replay.source.poll(100, 0.1)
        done += len(polled.records)
        return bool(replay.source.is_finished())

    bench.until(finished)
    assert done == 20
    assert set(replay.source.lag().values()) == {0}


def test_a_replay_that_is_rewound_ends_where_it_was_to_end(bench: Any) -> None:
    bench.produce(EVENTS)
    worker = bench.worker(stop="5")
    worker.poll()
    worker.recover()
    assert not worker.source.is_finished()

    assert worker.run(10) == 10
    bench.until(worker.source.is_finished, lambda: worker.source.poll(1, 0.1))


def test_an_offset_out_of_range_stops_the_worker_and_names_the_lost_events(bench: Any) -> None:
    import kafka

    bench.produce(EVENTS)
    first = bench.worker()
    first.run(20)
    first.close()
    bench.produce(EVENTS)
    bench.admin.delete_records({kafka.TopicPartition(bench.events, 0): 15})

    worker = bench.worker()
    with pytest.raises(StreamError) as failure:
        worker.run(20, 30.0)

    assert not isinstance(failure.value, DisturbedError)
    assert failure.value.message == (
        f"{bench.events}[0]: events were deleted before they were read: the group stands at offset 10, "
        "the log begins at 15; 5 events are lost, 10 to 14"
    )
    hint = str(failure.value.hint)
    assert "stop all workers of the group" in hint
    assert f"--bootstrap-server {bench.bootstrap} --group {bench.name} " in hint
    assert "--to-earliest" in hint


def test_a_group_that_stands_behind_the_logs_end_stops_the_worker(bench: Any) -> None:
    import kafka

    bench.produce(EVENTS)
    place = kafka.OffsetAndMetadata(11, "", -1)
    bench.admin.alter_group_offsets(
        bench.name, {kafka.TopicPartition(bench.events, number): place for number in (0, 1)}
    )

    worker = bench.worker()
    with pytest.raises(StreamError, match="stands at offset 11, after the log's end 10") as failure:
        worker.run(1, 30.0)
    assert "made anew" in str(failure.value.hint)


def test_lag_is_known_before_everything_is_polled(bench: Any) -> None:
    bench.produce(EVENTS)
    worker = bench.worker()
    polled = worker.poll(4)

    bench.until(lambda: len(worker.source.lag()) == 2 or bool(worker.source.poll(0 + 1, 0.1) and False))
    assert sum(worker.source.lag().values()) <= 20 - len(polled.records)
    assert sum(worker.source.lag().values()) > 0
