import pytest

from streamfm.errors import DisturbedError, StreamError
from streamfm.stream.ports import Answers, Polled
from streamfm.testing import (
    Crash,
    Disturbance,
    Failure,
    FakeClock,
    Fault,
    ListSink,
    ListSource,
    Rebalance,
    Silence,
    events_of,
)
from streamfm.testing.streams import Entry

LEFT, RIGHT = ("events", 0), ("events", 1)


def source_of(*entries: Entry, endless: bool = False) -> ListSource:
    return ListSource({LEFT: entries}, clock=FakeClock(), endless=endless)


def values(polled: Polled) -> list[bytes | None]:
    return [record.value for record in polled.records]


def echo(polled: Polled) -> Answers:
    return Answers(polled.records, [record.value or b"" for record in polled.records], (), ())


def test_partitions_take_turns_and_keep_their_order() -> None:
    events = {LEFT: events_of([b"a", b"b", b"c"]), RIGHT: events_of([b"x"], partition=RIGHT, offset=7)}
    source = ListSource(events, clock=FakeClock())

    first = source.poll(2, 0)
    assert [b"a", b"b"] == values(first)
    assert {LEFT: 2} == first.checkpoint.positions
    assert {LEFT: 1, RIGHT: 1} == source.lag()
    second = source.poll(2, 0)
    assert [b"x", b"c"] == values(second)
    assert {LEFT: 3, RIGHT: 8} == second.checkpoint.positions
    assert source.is_finished()


def test_waiting_for_nothing_lets_the_time_pass() -> None:
    clock = FakeClock(5.0)
    source = ListSource({LEFT: ()}, clock=clock, endless=True)
    assert [] == values(source.poll(1, 0.25))
    assert (5.25, 5.25, 5_250) == (clock.time(), clock.monotonic(), clock.now_ms())
    assert not source.is_finished()
    source.append(LEFT, *events_of([b"a"]))
    assert [b"a"] == values(source.poll(1, 0.25))
    assert 5.25 == clock.time()


def test_a_silence_ends_while_it_is_waited_for() -> None:
    clock = FakeClock(0.0)
    source = ListSource({LEFT: [Silence(1.0), *events_of([b"a"])]}, clock=clock)
    assert [] == values(source.poll(1, 0.75))
    assert [b"a"] == values(source.poll(1, 0.75))
    assert 1.0 == clock.time()


def test_what_is_no_event_happens_once_and_at_its_place() -> None:
    first, second, third = events_of([b"a", b"b", b"c"])
    source = source_of(first, Disturbance("broker away"), second, Failure("topic deleted"), third)

    assert [b"a"] == values(source.poll(9, 0))
    with pytest.raises(DisturbedError, match="broker away"):
        source.poll(9, 0)
    source.rewind()
    assert [b"a", b"b"] == values(source.poll(9, 0))
    with pytest.raises(StreamError, match="topic deleted"):
        source.poll(9, 0)
    assert [b"c"] == values(source.poll(9, 0))


def test_a_rebalance_goes_back_and_refuses_what_was_before() -> None:
    first, second = events_of([b"a", b"b"])
    source = source_of(first, Rebalance(), second)
    sink = ListSink(source)

    before = source.poll(9, 0)
    sink.send(echo(before), before.checkpoint)
    after = source.poll(9, 0)
    assert [b"a", b"b"] == values(after)
    assert before.checkpoint.assignment != after.checkpoint.assignment
    sink.send(echo(after), after.checkpoint)
    sink.flush()
    with pytest.raises(DisturbedError, match="assignment 1, expected 2"):
        sink.commit()
    assert {} == source.committed


@pytest.mark.parametrize("exactly_once", [False, True])
def test_sent_flushed_and_committed_are_kept_apart(exactly_once: bool) -> None:
    source = source_of(*events_of([b"a", b"b"]))
    sink = ListSink(source, exactly_once=exactly_once)

    polled = source.poll(9, 0)
    sink.send(echo(polled), polled.checkpoint)
    assert ([1], [], []) == ([len(sink.in_flight)], sink.flushed, sink.values)
    sink.commit()
    assert {} == source.committed

    sink.flush()
    assert ([] if exactly_once else [b"a", b"b"]) == sink.values
    assert {} == source.committed
    sink.commit()
    assert [b"a", b"b"] == sink.values
    assert {LEFT: 2} == source.committed
    source.restart()
    assert source.is_finished()


@pytest.mark.parametrize(("exactly_once", "seen"), [(False, [b"a", b"a"]), (True, [b"a"])])
def test_a_crash_before_the_commit_doubles_only_at_least_once(exactly_once: bool, seen: list[bytes]) -> None:
    source = source_of(*events_of([b"a"]))
    sink = ListSink(source, exactly_once=exactly_once, faults=[Fault("commit", 1, Crash())])
    for attempt in range(2):
        polled = source.poll(9, 0)
        sink.send(echo(polled), polled.checkpoint)
        sink.flush()
        if attempt == 0:
            with pytest.raises(Crash):
                sink.commit()
            sink.restart()
            source.restart()
        else:
            sink.commit()
    assert seen == sink.values
    assert 1 == len(sink.abandoned)


def test_a_commit_of_unknown_outcome_is_committed_and_fails() -> None:
    source = source_of(*events_of([b"a"]))
    sink = ListSink(source, exactly_once=True, faults=[Fault("commit", 1, DisturbedError("no answer"), done=True)])
    polled = source.poll(9, 0)
    sink.send(echo(polled), polled.checkpoint)
    sink.flush()
    with pytest.raises(DisturbedError):
        sink.commit()
    sink.abandon()
    source.rewind()
    assert source.is_finished()
    assert [b"a"] == sink.values
    assert [] == sink.abandoned
