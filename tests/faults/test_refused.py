"""What Kafka refuses: a clear end with the reason, or going on after a while; never silence."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fault_cluster import Cluster, wait_for
from fault_stream import StreamUnderFault, together
from kafka.admin import ACL, ACLOperation, ACLPermissionType, ResourcePattern, ResourceType
from kafka_launcher import why_no_launcher

# kafka-python leaves sockets of brokers that died to the garbage collection.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

Counts = Callable[[str], None]
Streams = Callable[..., list[StreamUnderFault]]

SLOW_S = 25
"""Longer than transaction_timeout_s, 10, and the broker's next look, 10 more; shorter than max_poll_interval_s, 30."""


def ends_with_the_reason(stream: StreamUnderFault, counts: Counts, campaign: str, *reasons: str) -> None:
    """The worker ends with exit code 1, and says why and what to do."""
    log = stream.ended(0, 1)
    for reason in reasons:
        assert re.search(reason, log, re.IGNORECASE), stream.told(f"{reason!r} is told")
    assert "hint:" in log, stream.told("what to do is told")
    error = next(line for line in reversed(log.splitlines()) if line.startswith("error:"))
    counts(f"{campaign}: {stream.client}, {stream.guarantee}: {error}".replace(stream.name, "NAME"))


def test_no_output_topic(calm_cluster: Cluster, streams: Streams, counts: Counts) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        calm_cluster.delete(stream.scores)
        stream.load().start()
        ends_with_the_reason(stream, counts, "no output topic", stream.scores, "not there")

    together(streams(calm_cluster), campaign)


def test_the_output_topic_is_deleted_under_load_and_made_again(
    calm_cluster: Cluster, streams: Streams, counts: Counts
) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        stream.load().start()
        stream.until_moves("the stream is under way")
        calm_cluster.delete(stream.scores)
        wait_for(lambda: "disturbed" in stream.log(), lambda: stream.told("the deletion is told"))
        calm_cluster.make(stream.scores)
        stream.recovers("a topic that was deleted")
        stream.drain()
        counts(
            f"output topic deleted and made again: {stream.client}, {stream.guarantee}: "
            f"recovered in {stream.recovered_s[-1]:.1f} s"
        )

    together(streams(calm_cluster), campaign)


def test_a_score_too_large_for_the_output_topic(calm_cluster: Cluster, streams: Streams, counts: Counts) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        calm_cluster.delete(stream.scores)
        calm_cluster.make(stream.scores, max_message_bytes="200")
        stream.load().start()
        ends_with_the_reason(stream, counts, "message too large", stream.events, "max.message.bytes")

    together(streams(calm_cluster), campaign)


def test_a_batch_longer_than_the_transaction_s_time(calm_cluster: Cluster, streams: Streams, counts: Counts) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        stream.load()
        # What was flushed is not committed: a transaction is open.
        stream.start(fault=f"slow:flush:15:{SLOW_S}")
        if stream.guarantee == "exactly-once":
            wait_for(lambda: "disturbed" in stream.log(), lambda: stream.told("the time-out is told"))
            stream.recovers("a transaction that timed out")
        else:
            stream.until_moves("the slow worker goes on")
        stream.judged(counts, f"a transaction of {SLOW_S} s")

    together(streams(calm_cluster), campaign)


@pytest.fixture(scope="module")
def strict_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A node that asks whether a user may."""
    if reason := why_no_launcher():
        pytest.skip(reason)
    authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer"
    everyone = "allow.everyone.if.no.acl.found=true"
    cluster = Cluster(tmp_path_factory.mktemp("kafka") / "strict", "--set", authorizer, "--set", everyone)
    try:
        yield cluster
    finally:
        cluster.close()


def deny(cluster: Cluster, kind: Any, name: str, operation: Any) -> None:
    """The operation is denied, and no other."""
    pattern = ResourcePattern(kind, name)
    # In this order: of a resource with a rule, everything is denied that none allows.
    for what, permission in ((ACLOperation.ALL, ACLPermissionType.ALLOW), (operation, ACLPermissionType.DENY)):
        with cluster.administering() as admin:
            made = admin.create_acls([ACL("User:ANONYMOUS", "*", what, permission, pattern)])
        assert not made["failed"], made


DENIED: dict[str, tuple[Any, Callable[[StreamUnderFault], str], Any, str]] = {
    "reading events": (ResourceType.TOPIC, lambda stream: stream.events, ACLOperation.READ, "topic_?authorization"),
    "writing scores": (ResourceType.TOPIC, lambda stream: stream.scores, ACLOperation.WRITE, "topic_?authorization"),
    "the group": (ResourceType.GROUP, lambda stream: stream.name, ACLOperation.READ, "group_?authorization"),
    "transactions": (
        ResourceType.TRANSACTIONAL_ID,
        lambda stream: stream.transactional_id,
        ACLOperation.WRITE,
        "transactional_?id_?authorization",
    ),
}


@pytest.mark.parametrize("under_way", [False, True], ids=["before", "under-way"])
@pytest.mark.parametrize("denied", DENIED)
def test_not_allowed(strict_cluster: Cluster, streams: Streams, counts: Counts, denied: str, under_way: bool) -> None:
    kind, name_of, operation, reason = DENIED[denied]

    def campaign(stream: StreamUnderFault) -> None:
        if under_way:
            stream.load().start()
            stream.until_moves("the stream is under way")
        deny(strict_cluster, kind, name_of(stream), operation)
        if not under_way:
            time.sleep(1)
            stream.load().start()
        ends_with_the_reason(stream, counts, f"not allowed {'any more' if under_way else ''}: {denied}", reason)

    both = streams(strict_cluster)
    together([it for it in both if denied != "transactions" or it.guarantee == "exactly-once"], campaign)
