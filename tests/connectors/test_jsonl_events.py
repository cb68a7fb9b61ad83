from __future__ import annotations

import base64
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from connectors.jsonl_events import JsonLinesSink, JsonLinesSource, default_dead_letters, open_json_lines
from streamfm.errors import StreamError
from streamfm.stream.ports import Answers, DeadLetter, Polled

Ends = tuple[JsonLinesSource, JsonLinesSink]


class Folder:
    """An input and its outputs, and what a run over them does."""

    def __init__(self, path: Path) -> None:
        self.events, self.scores, self.dead = path / "in.jsonl", path / "out.jsonl", path / "dead.jsonl"
        self.progress = path / "out.jsonl.progress"

    @contextmanager
    def opened(self, *, follow: bool = False) -> Iterator[Ends]:
        source, sink = open_json_lines(str(self.events), str(self.scores), str(self.dead), follow=follow)
        try:
            yield source, sink
        finally:
            sink.close(0)
            source.close(0)

    def run(self, batch: int = 2) -> None:
        with self.opened() as (source, sink):
            while not source.is_finished():
                polled = source.poll(batch, 0)
                if polled.records:
                    sink.send(answers(polled), polled.checkpoint)
                    sink.flush()
                    sink.commit()


def answers(polled: Polled) -> Answers:
    """Repeats each event; what begins with an x is a dead letter."""
    good = [record for record in polled.records if not (record.value or b"").startswith(b"x")]
    bad = [record for record in polled.records if (record.value or b"").startswith(b"x")]
    letters = [DeadLetter(record, "not_json", "DecodeError", "no object") for record in bad]
    return Answers(good, [record.value or b"" for record in good], (), letters)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_lines_are_events_at_their_bytes(folder: Folder) -> None:
    folder.events.write_bytes(b'{"a":1}\n\n  \n{"b":2}\r\nlast')
    with folder.opened() as (source, _):
        polled = source.poll(9, 0)
        last = source.poll(9, 0)
        assert source.is_finished()
    name = str(folder.events)
    found = [(record.topic, record.partition, record.offset, record.value) for record in polled.records]
    assert [(name, 0, 0, b'{"a":1}'), (name, 0, 12, b'{"b":2}\r')] == found
    assert {(name, 0): 21} == polled.checkpoint.positions
    assert [(21, b"last")] == [(record.offset, record.value) for record in last.records]
    assert {(name, 0): 25} == last.checkpoint.positions


def test_a_run_goes_on_where_the_one_before_it_ended(folder: Folder) -> None:
    folder.events.write_bytes(b"a\nb\nc\nx1\nd")
    folder.run()
    assert b"a\nb\nc\nd\n" == folder.scores.read_bytes()
    folder.run()
    assert b"a\nb\nc\nd\n" == folder.scores.read_bytes()
    with folder.events.open("ab") as file:
        file.write(b"\ne\n")
    folder.run()
    assert b"a\nb\nc\nd\ne\n" == folder.scores.read_bytes()
    assert [4] == [json.loads(line)["offset"] // 2 + 1 for line in folder.dead.read_bytes().splitlines()]


@pytest.mark.parametrize("steps", [0, 1, 2, 3])
def test_a_crash_after_any_step_leaves_each_line_once(folder: Folder, steps: int) -> None:
    folder.events.write_bytes(b"a\nx1\nb\nx2\nc\n")
    with folder.opened() as (source, sink):
        polled = source.poll(2, 0)
        sink.send(answers(polled), polled.checkpoint)
        sink.flush()
        sink.commit()
        polled = source.poll(2, 0)
        for step in [lambda: sink.send(answers(polled), polled.checkpoint), sink.flush, sink.commit][:steps]:
            step()
    folder.run()
    assert b"a\nb\nc\n" == folder.scores.read_bytes()
    assert ["x1", "x2"] == [json.loads(line)["value"] for line in folder.dead.read_bytes().splitlines()]


def test_what_is_abandoned_is_read_and_written_again(folder: Folder) -> None:
    folder.events.write_bytes(b"a\nb\n")
    with folder.opened() as (source, sink):
        polled = source.poll(9, 0)
        sink.send(answers(polled), polled.checkpoint)
        sink.flush()
        sink.abandon()
        sink.commit()
        assert not folder.progress.exists()
        assert b"" == folder.scores.read_bytes()
        source.rewind()
        assert polled == source.poll(9, 0)


def test_a_dead_letter_holds_its_line(folder: Folder) -> None:
    folder.events.write_bytes("x ü\n".encode() + b"x\xff\n")
    folder.run()
    text, binary = map(json.loads, folder.dead.read_bytes().splitlines())
    expected = {"topic": str(folder.events), "reason": "not_json", "error": "DecodeError", "message": "no object"}
    assert expected | {"offset": 0, "value": "x ü"} == text
    assert expected | {"offset": 5, "value_base64": base64.b64encode(b"x\xff").decode()} == binary


def test_a_followed_file_gives_a_line_when_it_is_complete(folder: Folder) -> None:
    folder.events.write_bytes(b"a\nhal")
    with folder.opened(follow=True) as (source, _), folder.events.open("ab", buffering=0) as file:
        assert [b"a"] == [record.value for record in source.poll(9, 0).records]
        assert [] == source.poll(9, 0).records
        file.write(b"f\n")
        assert [b"half"] == [record.value for record in source.poll(9, 0).records]
        assert [] == source.poll(9, 0).records
        assert not source.is_finished()


def test_a_followed_file_that_is_cut_or_replaced_ends_the_stream(folder: Folder) -> None:
    folder.events.write_bytes(b"a\nb\n")
    with folder.opened(follow=True) as (source, _):
        source.poll(9, 0)
        folder.events.write_bytes(b"a\n")
        with pytest.raises(StreamError, match="has 2 bytes, expected 4 or more: it was cut"):
            source.poll(9, 0)
        other = folder.events.with_name("other")
        other.write_bytes(b"a\nb\nc\n")
        other.replace(folder.events)
        with pytest.raises(StreamError, match="was replaced"):
            source.poll(9, 0)
        folder.events.unlink()
        with pytest.raises(StreamError, match="was removed"):
            source.poll(9, 0)


@pytest.mark.parametrize(("content", "message"), [(b"a\n", "it was cut"), (b"A\nb\nc\n", "is not the file of which")])
def test_another_input_is_refused_by_the_next_run(folder: Folder, content: bytes, message: str) -> None:
    folder.events.write_bytes(b"a\nb\n")
    folder.run()
    folder.events.write_bytes(content)
    with pytest.raises(StreamError, match=message):
        folder.run()


def test_outputs_that_are_not_of_this_run_are_refused(folder: Folder) -> None:
    folder.events.write_bytes(b"a\n")
    folder.scores.write_bytes(b"precious\n")
    with pytest.raises(StreamError, match=r"holds 9 bytes, and .*progress does not tell whose"):
        folder.run()
    assert b"precious\n" == folder.scores.read_bytes()

    folder.scores.unlink()
    folder.run()
    folder.scores.write_bytes(b"")
    with pytest.raises(StreamError, match="has 0 bytes, expected 2 or more"):
        folder.run()

    folder.progress.write_text("{}")
    with pytest.raises(StreamError, match="is not what a run has written"):
        folder.run()


def test_another_file_of_dead_letters_is_not_cut(folder: Folder) -> None:
    folder.events.write_bytes(b"a\n")
    folder.run()
    folder.dead = folder.dead.with_name("precious.jsonl")
    folder.dead.write_bytes(b"precious\n")
    with pytest.raises(StreamError, match=r"precious.jsonl: holds 9 bytes, and .*progress does not tell whose"):
        folder.run()
    assert b"precious\n" == folder.dead.read_bytes()


def test_two_outputs_over_one_input_have_their_own_dead_letters(folder: Folder) -> None:
    def default(scores: str) -> str:
        return default_dead_letters(str(folder.events), scores)

    folder.events.write_bytes(b"a\n")
    assert str(folder.scores) + ".dead-letters" == default(str(folder.scores))
    assert str(folder.events) + ".dead-letters" == default("-") == default("/dev/null")
    assert "-" == default_dead_letters("-", "-")


def test_one_file_has_one_use_and_one_writer(folder: Folder) -> None:
    folder.events.write_bytes(b"a\n")
    with pytest.raises(StreamError, match="are one file"):
        open_json_lines(str(folder.events), str(folder.events))
    with pytest.raises(StreamError, match="are one file"):
        open_json_lines(str(folder.events), str(folder.scores), str(folder.scores))
    with folder.opened(), pytest.raises(StreamError, match="another process"):
        folder.run()
    with pytest.raises(StreamError, match="No such file"):
        open_json_lines(str(folder.events) + "x", str(folder.scores))


def test_a_full_disk_ends_the_stream_and_counts_nothing(folder: Folder) -> None:
    line = b"a" * 4_000 + b"\n"
    folder.events.write_bytes(line * 4)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StreamError, match="the disk is full; nothing of this batch counts"):
            folder.run(batch=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert 2 * len(line) == json.loads(folder.progress.read_text())["offset"]
    folder.run()
    assert line * 4 == folder.scores.read_bytes()


def test_a_pipe_is_waited_for_and_read_once(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as standard, os.fdopen(writing, "wb", buffering=0) as pipe:
        monkeypatch.setattr("sys.stdin", standard)
        source, sink = open_json_lines("-", str(folder.scores), str(folder.dead))
        assert [] == source.poll(9, 0).records
        pipe.write(b"a\nb\nc")
        polled = source.poll(9, 0)
        assert [b"a", b"b"] == [record.value for record in polled.records]
        with pytest.raises(StreamError, match="cannot be read again"):
            source.rewind()
        sink.send(answers(polled), polled.checkpoint)
        sink.flush()
        sink.commit()
        pipe.close()
        assert [b"c"] == [record.value for record in (source.poll(9, 1).records or source.poll(9, 1).records)]
        assert source.is_finished()
        sink.close(0)
    assert b"a\nb\n" == folder.scores.read_bytes()


def test_a_pipe_that_nobody_reads_any_more_says_so(folder: Folder) -> None:
    folder.events.write_bytes(b"a\n")
    pipe = folder.events.with_name("pipe")
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    source, sink = open_json_lines(str(folder.events), str(pipe), str(folder.dead))
    polled = source.poll(9, 0)
    sink.send(answers(polled), polled.checkpoint)
    sink.flush()
    sink.commit()
    assert b"a\n" == os.read(reading, 9)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        sink.send(answers(polled), polled.checkpoint)
    sink.close(0)
    source.close(0)
