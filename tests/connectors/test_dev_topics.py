"""Records into a topic and out of it, with the broker for demonstrations."""

import json

import pytest

from connectors.dev_broker import DevBroker
from connectors.dev_topics import TopicReader, append, records
from streamfm.errors import StreamError


def numbered(first: int, last: int) -> list[tuple[bytes | None, bytes | None]]:
    return [(f"{number}".encode(), json.dumps(number).encode()) for number in range(first, last)]


def test_a_reader_goes_on_where_it_was() -> None:
    with DevBroker({"numbers": 2}) as broker, TopicReader(broker.bootstrap_servers, "numbers") as reader:
        append(broker.bootstrap_servers, "numbers", numbered(0, 50))
        first = [record.value for record in reader.read(30, timeout_s=30)]
        append(broker.bootstrap_servers, "numbers", numbered(50, 60))
        rest = [record.value for record in reader.read(30, timeout_s=30)]
        again = [record.value for record in records(broker.bootstrap_servers, "numbers", count=60, timeout_s=30)]
    assert (30, 30) == (len(first), len(rest))
    assert list(range(60)) == sorted(map(json.loads, filter(None, first + rest)))
    assert sorted(filter(None, again)) == sorted(filter(None, first + rest))


def test_a_reader_gives_what_there_is_in_time() -> None:
    with DevBroker({"numbers": 1}) as broker, TopicReader(broker.bootstrap_servers, "numbers") as reader:
        append(broker.bootstrap_servers, "numbers", numbered(0, 3))
        assert 3 == len(list(reader.read(3, timeout_s=30)))
        assert [] == list(reader.read(1, timeout_s=0.3))


def test_a_reader_without_a_broker_says_so() -> None:
    with pytest.raises(StreamError, match=r"127.0.0.1:1: topic 'numbers' cannot be read"):
        TopicReader("127.0.0.1:1", "numbers", timeout_s=0.5)
