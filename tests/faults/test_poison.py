"""A thousand records of ten kinds that cannot be scored, among a hundred thousand that can."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fault_cluster import Cluster, Message, good_value, read_all
from fault_stream import StreamUnderFault, together

# kafka-python leaves sockets of brokers that died to the garbage collection.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

GOOD, OF_EACH_KIND = 100_000, 100
MAX_EVENT_BYTES = 10_000


def changed(number: int, **fields: Any) -> bytes:
    """A good event, with other values; a field that is `...` is left out."""
    event = json.loads(good_value(number)) | fields
    return json.dumps({name: value for name, value in event.items() if value is not ...}).encode()


KINDS: dict[str, tuple[str, Callable[[int], bytes | None]]] = {
    "no value": ("null_value", lambda number: None),
    "not UTF-8": ("not_json", lambda number: b"\xff\xfe\x00" + good_value(number)),
    "not UTF-8 in a field": ("not_json", lambda number: b'{"country": "\xff", ' + good_value(number)[1:]),
    "cut off": ("not_json", lambda number: good_value(number)[:-7]),
    "a list": ("not_json", lambda number: b"[" + good_value(number) + b"]"),
    "no event id": ("missing_event_id", lambda number: changed(number, event_id=...)),
    "event id of another type": ("wrong_type", lambda number: changed(number, event_id={"id": number})),
    "input of another type": ("wrong_type", lambda number: changed(number, installed_categories="games")),
    "too large": ("too_large", lambda number: changed(number, padding="x" * MAX_EVENT_BYTES)),
    "a time that no type holds": ("not_scored", lambda number: changed(number, ts=1e300)),
}


def messages() -> Iterator[Message]:
    """All of them, in a random order that is always the same; the kind is in a header."""
    kinds = ["good"] * GOOD + [kind for kind in KINDS for _ in range(OF_EACH_KIND)]
    random.Random(4).shuffle(kinds)
    for number, kind in enumerate(kinds):
        value = good_value(number) if kind == "good" else KINDS[kind][1](number)
        yield str(number).encode(), value, [("kind", kind.encode()), ("bytes", b"\x00\xff"), ("bytes", b"")]


def test_poison(
    calm_cluster: Cluster, streams: Callable[..., list[StreamUnderFault]], counts: Callable[[str], None]
) -> None:
    def campaign(stream: StreamUnderFault) -> None:
        stream.load(messages(), per_second=1e9).wait_for_load()
        stream.start()
        verdict = stream.judged(counts, "poison")
        assert (GOOD, len(KINDS) * OF_EACH_KIND) == (verdict.scored, verdict.dead)
        check_dead_letters(stream)

    together(streams(calm_cluster, "--max-event-bytes", str(MAX_EVENT_BYTES)), campaign)


def check_dead_letters(stream: StreamUnderFault) -> None:
    events = {record.key: record for record in read_all(stream.cluster.bootstrap, stream.events)}
    kinds: Counter[str] = Counter()
    for letter in read_all(stream.cluster.bootstrap, stream.dead):
        event, own = events[letter.key], len(events[letter.key].headers)
        assert (event.value, event.timestamp) == (letter.value, letter.timestamp)
        assert list(event.headers) == list(letter.headers[:own])
        told = {name.removeprefix("__connect.errors."): text.decode() for name, text in letter.headers[own:]}
        assert (event.topic, event.partition, event.offset) == (
            told["topic"],
            int(told["partition"]),
            int(told["offset"]),
        )
        kind = dict(event.headers)["kind"].decode()
        reason = KINDS[kind][0]
        assert f"streamfm.{reason}" == told["class.name"]
        assert ("TRANSFORMATION" if reason == "not_scored" else "VALUE_CONVERTER") == told["stage"]
        assert (stream.name, "0") == (told["connector.name"], told["task.id"])
        assert told["exception.class.name"]
        assert told["exception.message"]
        kinds[kind] += 1
    assert dict.fromkeys(KINDS, OF_EACH_KIND) == kinds
