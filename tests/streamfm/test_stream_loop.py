"""streamfm.stream.loop, with its guard and its measures: turns, disturbances, the end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from streamfm.errors import DisturbedError, StreamError
from streamfm.scoring import load
from streamfm.stream.answering import Answering
from streamfm.stream.guard import DeadLetterGuard
from streamfm.stream.loop import Stream
from streamfm.stream.ports import Answers, Checkpoint, DeadLetter, Event, Polled
from streamfm.stream.settings import StreamSettings
from streamfm.testing import FakeClock, ListSink, ListSource
from streamfm.testing.streams import Disturbance, Entry, Failure, Fault, Rebalance, Silence, events_of

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "bundle_v1"


class Models:
    """Always the same model."""

    def __init__(self, settings: StreamSettings, clock: FakeClock) -> None:
        self.answering = Answering(load(BUNDLE), settings, clock=clock.monotonic)

    def current(self) -> Answering:
        return self.answering


class Setup:
    """A stream over doubles, its parts at hand."""

    def __init__(
        self,
        entries: Sequence[Entry],
        *,
        faults: Sequence[Fault] = (),
        exactly_once: bool = False,
        endless: bool = False,
        **settings: object,
    ) -> None:
        self.clock = FakeClock()
        self.source = ListSource({("events", 0): entries}, clock=self.clock, endless=endless)
        self.sink = ListSink(self.source, exactly_once=exactly_once, faults=faults)
        self.settings = StreamSettings(**({"event_id": "n", "commit_interval_s": 0.0} | settings))  # type: ignore[arg-type]
        self.waits: list[float] = []
        self.stream = Stream(
            self.source,
            self.sink,
            Models(self.settings, self.clock),
            self.settings,
            clock=self.clock.monotonic,
            now_ms=self.clock.now_ms,
            sleep=self.sleep,
        )

    def sleep(self, duration_s: float) -> None:
        self.waits.append(duration_s)
        self.clock.sleep(duration_s)

    def run(self) -> list[int]:
        self.stream.run(lambda: False)
        return self.ids()

    def ids(self) -> list[int]:
        return [json.loads(value)["n"] for value in self.sink.values]


def numbered(*numbers: int, offset: int | None = None) -> list[Event]:
    return events_of([b'{"n": %d}' % n for n in numbers], offset=numbers[0] if offset is None else offset)


def test_every_event_is_scored_and_committed() -> None:
    setup = Setup(numbered(*range(10)), max_batch_records=4)
    assert list(range(10)) == setup.run()
    assert {("events", 0): 10} == setup.source.committed
    assert (10, 10, 3) == (
        setup.stream.measures.events,
        setup.stream.measures.scores,
        setup.stream.measures.commits,
    )


def test_a_batch_is_full_by_count() -> None:
    setup = Setup(numbered(*range(10)), max_batch_records=4)
    setup.run()
    assert [4, 4, 2] == [len(batch.answers.records) for batch in setup.sink.stored]


def test_a_batch_is_full_by_bytes() -> None:
    # A poll brings one partition's records: the batch takes no further poll.
    setup = Setup([*numbered(0, 1), Silence(0.001), *numbered(2, 3)], linger_s=10.0, max_batch_bytes=16)
    setup.run()
    assert [2, 2] == [len(batch.answers.records) for batch in setup.sink.stored]


def test_a_batch_is_full_by_time() -> None:
    entries = [*numbered(0), Silence(0.01), *numbered(1), Silence(0.5), *numbered(2)]
    setup = Setup(entries, linger_s=0.1)
    setup.run()
    assert [2, 1] == [len(batch.answers.records) for batch in setup.sink.stored]


def test_a_batch_that_does_not_linger_takes_what_is_there() -> None:
    setup = Setup([*numbered(0, 1), Silence(0.001), *numbered(2)], linger_s=0.0)
    setup.run()
    assert [2, 1] == [len(batch.answers.records) for batch in setup.sink.stored]


class Journal(ListSink):
    """Notes which step is done when, and when events are polled."""

    def __init__(self, source: ListSource, steps: list[str]) -> None:
        super().__init__(source)
        self.steps = steps

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        self.steps.append("send")
        super().send(answers, checkpoint)

    def flush(self) -> None:
        self.steps.append("flush")
        super().flush()

    def commit(self) -> None:
        self.steps.append("commit")
        super().commit()


def test_the_next_batch_is_polled_and_answered_while_one_is_under_way() -> None:
    setup = Setup(numbered(*range(4)), max_batch_records=2)
    steps: list[str] = []
    models, poll = Models(setup.settings, setup.clock), setup.source.poll

    class Noting:
        def current(self) -> Answering:
            steps.append("answer")
            return models.current()

    stream = Stream(
        setup.source,
        Journal(setup.source, steps),
        Noting(),
        setup.settings,
        clock=setup.clock.monotonic,
        now_ms=setup.clock.now_ms,
        sleep=setup.sleep,
    )
    setup.source.poll = lambda *given: (steps.append("poll"), poll(*given))[1]  # type: ignore[method-assign,func-returns-value]
    stream.run(lambda: False)
    expected = ["poll", "answer", "send", "poll", "answer", "flush", "commit", "send", "poll", "flush", "commit"]
    assert expected == steps


def test_what_was_sent_is_committed_before_a_batch_waits_for_more(  # else a transaction would stay open meanwhile
) -> None:
    setup = Setup(
        [*numbered(0), Silence(0.001), *numbered(1), Silence(5.0), *numbered(2)], linger_s=15.0, exactly_once=True
    )
    committed: list[dict[tuple[str, int], int]] = []
    poll = setup.source.poll

    def polling(max_records: int, timeout_s: float) -> Polled:
        if timeout_s > 1.0:
            committed.append(dict(setup.source.committed))
        return poll(max_records, timeout_s)

    setup.source.poll = polling  # type: ignore[method-assign]
    setup.stream.turn()
    setup.source.append(("events", 0), *numbered(3), Silence(5.0), *numbered(4))
    setup.run()
    assert [0, 1, 2, 3, 4] == setup.ids()
    # Whoever waited with events in hand had nothing else open.
    assert {("events", 0): 3} in committed


def test_nothing_waits_for_more_events_with_a_batch_under_way() -> None:
    setup = Setup(numbered(0), endless=True, idle_s=60.0, linger_s=0.0)
    for _ in range(2):
        setup.stream.turn()
    assert {("events", 0): 1} == setup.source.committed
    assert FakeClock().monotonic() == setup.clock.monotonic()


def test_a_batch_lingers_from_when_the_one_before_is_settled() -> None:
    # What comes while that one is flushed would else wait for a whole turn.
    setup = Setup(numbered(0, 1, 2), max_batch_records=2, linger_s=1.0, endless=True)
    flush, poll = setup.sink.flush, setup.source.poll
    waits: list[float] = []

    def slow_flush() -> None:
        setup.clock.sleep(5.0)
        flush()

    def noting_poll(max_records: int, timeout_s: float) -> Polled:
        waits.append(timeout_s)
        return poll(max_records, timeout_s)

    setup.sink.flush = slow_flush  # type: ignore[method-assign]
    setup.source.poll = noting_poll  # type: ignore[method-assign]
    setup.stream.turn()
    setup.stream.turn()
    assert [setup.settings.idle_s, 0.0, 1.0] == waits


def test_batches_that_are_acknowledged_in_one_interval_are_committed_together() -> None:
    setup = Setup(numbered(0, 1), endless=True, linger_s=0.0, commit_interval_s=1.0, idle_s=60.0)
    setup.stream.turn()
    setup.source.append(("events", 0), *numbered(2, 3))
    for _ in range(2):
        setup.stream.turn()
    assert (list(range(4)), {}) == (setup.ids(), setup.source.committed)
    assert 0 == setup.stream.measures.events
    began = setup.clock.monotonic()
    setup.stream.turn()
    # It was idle, and waited no longer than until the commit was due.
    assert began + 1.0 == setup.clock.monotonic()
    assert {("events", 0): 4} == setup.source.committed
    assert (4, 2) == (setup.stream.measures.events, setup.stream.measures.commits)


@pytest.mark.parametrize("limit", [{"max_batch_records": 4}, {"max_batch_bytes": 32}])
def test_as_much_as_a_full_batch_waits_for_no_commit(limit: dict[str, int]) -> None:
    setup = Setup([], endless=True, linger_s=0.0, commit_interval_s=1_000.0, **limit)
    for number in (0, 2, 4):
        setup.source.append(("events", 0), *numbered(number, number + 1))
        setup.stream.turn()
    # Eight bytes an event: two batches of two are as much as one that is full.
    assert {("events", 0): 4} == setup.source.committed


def test_a_batch_that_lingers_keeps_no_commit_waiting() -> None:
    setup = Setup(numbered(0), endless=True, linger_s=0.0, commit_interval_s=1.0, exactly_once=True)
    setup.stream.turn()
    setup.stream._settings = replace(setup.settings, linger_s=15.0)
    setup.source.append(("events", 0), *numbered(1), Silence(20.0), *numbered(2))
    waits: list[tuple[float, bool]] = []
    poll = setup.source.poll

    def noting_poll(max_records: int, timeout_s: float) -> Polled:
        waits.append((timeout_s, bool(setup.source.committed)))
        return poll(max_records, timeout_s)

    setup.source.poll = noting_poll  # type: ignore[method-assign]
    setup.stream.turn()
    # It waits for more until the commit is due, and then on.
    assert [(0.0, False), (1.0, False), (14.0, True)] == waits


def test_what_waits_to_be_committed_is_so_before_the_stream_stops() -> None:
    setup = Setup(numbered(0, 1), endless=True, commit_interval_s=1_000.0)
    stops = iter([False, False, False, True])
    setup.stream.run(lambda: next(stops))
    assert {("events", 0): 2} == setup.source.committed


@pytest.mark.parametrize("step", ["send", "flush", "commit"])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("exactly_once", [False, True])
@pytest.mark.parametrize("commit_interval_s", [0.0, 1_000.0])
def test_a_disturbed_step_loses_nothing(step: str, done: bool, exactly_once: bool, commit_interval_s: float) -> None:
    call = 1 if step == "commit" and commit_interval_s else 2
    fault = Fault(step, call, DisturbedError("broker away"), done=done)  # type: ignore[arg-type]
    setup = Setup(
        numbered(*range(10)),
        faults=[fault],
        exactly_once=exactly_once,
        max_batch_records=4,
        commit_interval_s=commit_interval_s,
    )
    scored = setup.run()
    assert set(range(10)) == set(scored)
    if exactly_once:
        assert list(range(10)) == scored
    assert {("events", 0): 10} == setup.source.committed
    assert 1 == setup.stream.measures.disturbances


def test_what_is_read_again_is_counted_once() -> None:
    setup = Setup(numbered(*range(10)), faults=[Fault("flush", 1, DisturbedError("away"), done=True)])
    assert [*range(10), *range(10)] == setup.run()
    assert 10 == setup.stream.measures.events


def test_waits_double_up_to_their_limit_and_begin_anew_after_a_commit() -> None:
    faults = [Fault("flush", call, DisturbedError("away")) for call in (1, 2, 3, 4, 5, 7)]
    setup = Setup(numbered(0, 1), faults=faults, backoff_s=1.0, max_backoff_s=6.0, max_batch_records=1)
    assert [0, 1] == setup.run()
    assert [1.0, 2.0, 4.0, 6.0, 6.0, 1.0] == setup.waits


def test_a_rewind_that_fails_is_tried_again() -> None:
    setup = Setup([*numbered(0), Disturbance("away"), *numbered(1)])
    rewind, failures = setup.source.rewind, [DisturbedError("still away"), DisturbedError("still away")]

    def failing() -> None:
        if failures:
            raise failures.pop()
        rewind()

    setup.source.rewind = failing  # type: ignore[method-assign]
    assert {0, 1} == set(setup.run())
    assert 3 == setup.stream.measures.disturbances


def test_a_stream_that_is_to_stop_does_not_wait_for_a_broker() -> None:
    setup = Setup([Disturbance("away")], endless=True)
    stops = iter([False, True, True, True])
    setup.stream.run(lambda: next(stops))
    assert [] == setup.waits


def test_what_was_sent_is_committed_before_the_stream_stops() -> None:
    setup = Setup(numbered(*range(4)), max_batch_records=2, endless=True)
    stops = iter([False, True])
    setup.stream.run(lambda: next(stops))
    assert [0, 1] == setup.ids()
    assert {("events", 0): 2} == setup.source.committed


def test_what_was_sent_is_committed_when_the_source_cannot_go_on() -> None:
    setup = Setup([*numbered(0, 1), Failure("events-0: offsets 2..5 are lost")], linger_s=0.0)
    with pytest.raises(StreamError, match=r"2\.\.5 are lost"):
        setup.run()
    assert {("events", 0): 2} == setup.source.committed


def test_what_was_sent_is_abandoned_when_the_sink_cannot_go_on() -> None:
    setup = Setup(numbered(0, 1), faults=[Fault("flush", 1, StreamError("scores: too large"))])
    with pytest.raises(StreamError, match="too large"):
        setup.run()
    assert {} == setup.source.committed
    assert 1 == len(setup.sink.abandoned)


def test_a_sink_that_cannot_go_on_is_not_asked_again() -> None:
    # It would say that it is disturbed, and the stream would go on for ever.
    setup = Setup(numbered(0, 1, 2), max_batch_records=2, endless=True, linger_s=0.0)
    errors = iter([StreamError("scores: too large"), DisturbedError("scores: too large")])

    def failing_flush() -> None:
        raise next(errors)

    setup.sink.flush = failing_flush  # type: ignore[method-assign]
    setup.stream.turn()
    with pytest.raises(StreamError, match="too large"):
        setup.stream.turn()


def test_a_batch_never_holds_records_of_two_assignments() -> None:
    setup = Setup([*numbered(0, 1), Silence(0.001), Rebalance(), *numbered(2, 3)], linger_s=10.0)
    assert {0, 1, 2, 3} == set(setup.run())
    assert {("events", 0): 4} == setup.source.committed


def test_rebalances_are_counted() -> None:
    setup = Setup([*numbered(0), Rebalance(), *numbered(1)], max_batch_records=1)
    setup.run()
    assert 2 == setup.stream.measures.rebalances


def test_dead_letters_are_sent_and_counted_by_reason() -> None:
    entries = events_of([b'{"n": 0}', None, b"{", b"{}", b'{"n": 4}'])
    setup = Setup(entries)
    assert [0, 4] == setup.run()
    assert ["null_value", "not_json", "missing_event_id"] == sorted(
        (letter.reason for letter in setup.sink.dead_letters), key=["null_value", "not_json", "missing_event_id"].index
    )
    assert {"null_value": 1, "not_json": 1, "missing_event_id": 1} == dict(setup.stream.measures.dead_letters)
    assert (5, 2) == (setup.stream.measures.events, setup.stream.measures.scores)


def test_no_error_is_tolerated_when_none_shall_be() -> None:
    setup = Setup(events_of([b'{"n": 0}', b"{"]), errors="none")
    with pytest.raises(StreamError, match=r"events-0 offset 1: not_json: .*") as refused:
        setup.run()
    assert "--errors all" in str(refused.value.hint)
    assert [] == setup.sink.stored


def test_too_large_a_share_of_dead_letters_stops_the_stream() -> None:
    good, bad = [b'{"n": 1}'] * 6, [b"{"] * 5
    setup = Setup(events_of([*good, *bad, *bad]), max_batch_records=1, dead_letter_window=10, max_dead_letter_share=0.4)
    with pytest.raises(StreamError, match=r"5 of the latest 10 events cannot be scored, more than a share of 0\.4"):
        setup.run()
    # 4 of the first 10 are tolerated; the one that is too much is not sent, and will be read again.
    assert (6, 4) == (len(setup.sink.values), len(setup.sink.dead_letters))
    assert {("events", 0): 10} == setup.source.committed


def test_a_share_that_rises_as_clean_batches_leave_the_window_waits_for_the_next_dead_letter() -> None:
    guard = DeadLetterGuard(StreamSettings())
    letter = DeadLetter(numbered(0)[0], "not_json", "DecodeError", "expected {")
    guard.check(999, [])
    guard.check(600, [letter] * 600)
    guard.check(400, [])
    with pytest.raises(StreamError, match=r"601 of the latest 1,001 events"):
        guard.check(1, [letter])


def test_few_events_stop_nothing() -> None:
    setup = Setup(events_of([b"{"] * 9), dead_letter_window=10, max_dead_letter_share=0.0)
    setup.run()
    assert 9 == setup.stream.measures.dead_letters["not_json"]


def test_the_time_from_event_to_score_is_counted_for_events_that_tell_theirs() -> None:
    clock = FakeClock()
    stamped = events_of([b'{"n": 0}'], timestamp=clock.now_ms() - 2_000)
    setup = Setup([*stamped, *numbered(1)])
    setup.run()
    assert 1 == setup.stream.measures.event_to_score_s.counts.sum()
    assert setup.stream.measures.event_to_score_s.total == pytest.approx(2.0, abs=0.5)
