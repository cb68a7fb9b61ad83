"""`streamfm stream --check`, as far as it is Kafka's."""

from __future__ import annotations

from typing import Any

from connectors.kafka_check import check


def test_everything_is_there(bench: Any, client: str) -> None:
    bench.produce([b"a", b"b", b"c"])

    checks, sample = check(bench.settings(), client)

    assert [(what, is_right) for what, is_right, _ in checks] == [
        ("client", True),
        (f"topic {bench.events}", True),
        (f"topic {bench.scores}", True),
        (f"topic {bench.dead}", True),
        (f"group {bench.name}", True),
        ("size of dead letters", True),
    ]
    found = {what: message for what, _, message in checks}
    assert found[f"topic {bench.events}"] == "2 partitions"
    assert found[f"group {bench.name}"] == "stands in 0 partitions, 0 events behind, 2 partitions begin at earliest"
    # As large as the largest event, but a dead letter has headers, too.
    assert "better 1052684" in found["size of dead letters"]
    assert sample is not None
    assert sample.value in (b"a", b"b")


def test_the_group_is_left_as_it_was(bench: Any, client: str) -> None:
    bench.produce([b"a", b"b"])
    bench.worker().run(2)
    bench.produce([b"c"])

    checks, _ = check(bench.settings(), client)

    assert ("group " + bench.name, True, "stands in 2 partitions, 1 events behind") in checks
    assert bench.committed() == {0: 1, 1: 1}


def test_a_topic_that_is_missing_is_told(bare_bench: Any, client: str) -> None:
    bare_bench.make(bare_bench.events)
    bare_bench.make(bare_bench.dead)

    checks, sample = check(bare_bench.settings(), client)

    assert [what for what, is_right, _ in checks if not is_right] == [f"topic {bare_bench.scores}"]
    assert "hint: kafka-topics.sh" in next(message for _, is_right, message in checks if not is_right)
    assert sample is None


def test_events_that_are_lost_are_told_before_the_stream_runs(bench: Any, client: str) -> None:
    import kafka

    bench.produce([b"a"] * 20)
    bench.worker().run(10)
    committed = bench.committed()[0]
    bench.produce([b"a"] * 20)
    bench.admin.delete_records({kafka.TopicPartition(bench.events, 0): committed + 5})

    checks, _ = check(bench.settings(), client)

    (wrong,) = [message for _, is_right, message in checks if not is_right]
    assert wrong.startswith(
        f"offsets out of range: {bench.events}[0] stands at {committed}, the log has {committed + 5}"
    )


def test_options_are_those_of_the_client(bench: Any, client: str) -> None:
    mistyped, right = {"queued.min.messagess": "1"}, {"queued.min.messages": "1"}
    if client == "kafka-python":
        mistyped, right = {"fetch_min_bytess": "1"}, {"fetch_min_bytes": "1"}

    (wrong,), _ = check(bench.settings(options=mistyped), client)
    checks, _ = check(bench.settings(options=right), client)

    assert wrong[:2] == ("client", False)
    assert next(iter(mistyped)) in wrong[2]
    assert all(is_right for _, is_right, _ in checks)


def test_options_that_cannot_be_given_are_told(bench: Any, client: str) -> None:
    checks, _ = check(bench.settings(options={"acks": "1"}), client)

    assert checks[-1][:2] == ("client", False)
    assert "idempotence" in checks[-1][2]
