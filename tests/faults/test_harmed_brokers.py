"""Brokers that die, hang and come back; workers too slow for them."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from itertools import islice

import pytest
from fault_cluster import Cluster, good_messages, wait_for
from fault_stream import StreamUnderFault, together

# kafka-python leaves sockets of brokers that died to the garbage collection.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

Counts = Callable[[str], None]
Streams = Callable[..., list[StreamUnderFault]]

DEAD_S = 25
HANGING_S = 40
STOPPED_S = 15
SLOW_S = 35
"""Longer than max_poll_interval_s, which is 30."""
REPLAYED = 20_000


def under_way(streams: list[StreamUnderFault], workers: int = 1) -> None:
    for stream in streams:
        stream.load()
        for slot in range(workers):
            stream.start(slot)
    for stream in streams:
        stream.until_moves("the stream is under way")


def test_the_only_broker_dies_and_comes_back(one_node: Cluster, streams: Streams, counts: Counts) -> None:
    both = streams(one_node)
    under_way(both)
    one_node.call("kill")
    time.sleep(DEAD_S)
    one_node.call("resume")
    together(both, lambda stream: stream.recovers("the broker's death"))
    together(both, lambda stream: stream.judged(counts, f"the only broker dead for {DEAD_S} s"))


def test_the_only_broker_hangs(one_node: Cluster, streams: Streams, counts: Counts) -> None:
    both = streams(one_node)
    under_way(both)
    one_node.call("pause")
    time.sleep(HANGING_S)
    one_node.call("resume")
    together(both, lambda stream: stream.recovers("the broker's standstill"))
    together(both, lambda stream: stream.judged(counts, f"the only broker hanging for {HANGING_S} s"))


def test_a_worker_slower_than_max_poll_interval(one_node: Cluster, streams: Streams, counts: Counts) -> None:
    both = streams(one_node)

    def campaign(stream: StreamUnderFault) -> None:
        stream.load()
        stream.start(0, fault=f"slow:poll:15:{SLOW_S}")
        wait_for(lambda: "disturbed" in stream.log(), lambda: stream.told("the slow worker is told"))
        stream.recovers("a slow batch")
        stream.judged(counts, f"a batch of {SLOW_S} s")

    together(both, campaign)


def test_a_replay_slower_than_max_poll_interval_is_finished_only_at_the_end(
    one_node: Cluster, streams: Streams, counts: Counts
) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        stream.load(islice(good_messages(), REPLAYED), per_second=1e9).wait_for_load()
        stream.start(0, "--until-end", fault=f"slow:poll:2:{SLOW_S}")
        assert "disturbed" in stream.ended(0, 0)
        assert REPLAYED == stream.judged(counts, f"a replay with a batch of {SLOW_S} s").scored

    together(streams(one_node), campaign)


def test_a_worker_is_stopped_and_continued(one_node: Cluster, streams: Streams, counts: Counts) -> None:
    both = streams(one_node)
    under_way(both, workers=2)

    def campaign(stream: StreamUnderFault) -> None:
        for slot in (0, 1, 0):
            stream.signal(signal.SIGSTOP, slot)
            stream.pause(STOPPED_S)
            stream.signal(signal.SIGCONT, slot)
            stream.recovers("a worker that was stopped")
            stream.pause(3)
        stream.judged(counts, f"each worker stopped for {STOPPED_S} s")

    together(both, campaign)


def test_leaders_and_coordinators_die(three_nodes: Cluster, streams: Streams, counts: Counts) -> None:
    both = streams(three_nodes)
    under_way(both)
    roles: dict[str, Callable[[StreamUnderFault], int]] = {
        "leader of an output partition": lambda stream: three_nodes.leader(stream.scores, 0),
        "group coordinator": lambda stream: three_nodes.group_coordinator(stream.name),
        "transaction coordinator": lambda stream: three_nodes.transaction_coordinator(stream.transactional_id),
    }
    for stream in both:
        for role, node_of in roles.items():
            if role.startswith("transaction") and stream.guarantee != "exactly-once":
                continue
            node = node_of(stream)
            three_nodes.call("kill", node)
            together(both, lambda it, role=role: it.recovers(f"the death of the {role}"))  # type: ignore[misc]
            three_nodes.call("resume", node)
            topics = [both[0].scores, both[1].scores, "__consumer_offsets", "__transaction_state"]
            wait_for(lambda: three_nodes.is_whole(topics), lambda: "all replicas are in sync again")  # noqa: B023
    together(both, lambda stream: stream.judged(counts, "three nodes: leaders and coordinators killed"))
