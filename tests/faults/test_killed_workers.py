"""Workers that are killed: between any two steps of a commit, at random moments, and while others come and go."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable

import pytest
from fault_cluster import Cluster
from fault_stream import StreamUnderFault, together

# kafka-python leaves sockets of brokers that died to the garbage collection.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

Counts = Callable[[str], None]
Streams = Callable[..., list[StreamUnderFault]]

BETWEEN = {
    "1 and 2": "after:poll:15",
    "2 and 3": "before:send:15",
    "3 and 4": "after:send:15",
    "4 and 5": "after:flush:15",
    "5, at its begin": "during:commit:15:0.0005",
    "5, soon": "during:commit:15:0.003",
    "5, later": "during:commit:15:0.008",
    "5, late": "during:commit:15:0.02",
    "5 and 1": "after:commit:15",
}
ENDED_AT_ITS_START = (130, -signal.SIGTERM)
INSIDE = "inside:commit:15"


def test_killed_between_each_pair_of_steps(calm_cluster: Cluster, streams: Streams, counts: Counts) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        stream.load()
        faults = [*BETWEEN.values(), *([INSIDE] if stream.guarantee == "exactly-once" else [])]
        for fault in faults:
            stream.start(fault=fault)
            stream.ended(0, -signal.SIGKILL)
        stream.start()
        stream.recovers("the last kill")
        stream.judged(counts, f"killed at {len(faults)} steps")

    together(streams(calm_cluster), campaign)


def test_killed_at_fifty_random_moments(calm_cluster: Cluster, streams: Streams, counts: Counts) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        moments = random.Random(stream.guarantee)
        stream.load()
        for _ in range(50):
            stream.start()
            stream.until_moves("the worker that was started again commits")
            # Of a batch, which takes some tens of milliseconds, any moment.
            moments_s = moments.uniform(0.0, 0.5)
            stream.pause(moments_s)
            stream.kill()
        stream.start()
        stream.recovers("the last kill")
        stream.judged(counts, "killed at 50 random moments")

    # A worker that comes back in time has its partitions at once: without it, most of the time is spent on waiting.
    together(streams(calm_cluster, "--static-membership"), campaign)


def test_workers_that_join_and_leave(calm_cluster: Cluster, streams: Streams, counts: Counts) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        moments = random.Random(stream.guarantee)
        stream.load()
        for slot in range(2):
            stream.start(slot)
        stream.until_moves("the first workers commit")
        for turn in range(14):
            slot = turn % 3
            if slot in stream.slots():
                if moments.random() < 0.5:
                    stream.kill(slot)
                else:
                    stream.signal(signal.SIGTERM, slot)
                    stream.ended(slot, 0, *ENDED_AT_ITS_START)
            else:
                stream.start(slot)
            stream.pause(moments.uniform(1.0, 4.0))
            stream.check_alive()
        if not stream.slots():
            stream.start(0)
        stream.recovers("the last change")
        stream.judged(counts, "workers that join and leave, 14 times")

    together(streams(calm_cluster), campaign)
