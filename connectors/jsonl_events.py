"""Events from JSON lines, scores to JSON lines: files, standard input and output, the same loop.

    source, sink = open_json_lines("events.jsonl", "scores.jsonl")

A line is an event: its topic is the path as it was given, its partition 0, its offset the byte at which it begins; it
has no key, no timestamp and no headers. Empty lines are none. What a crash at any moment, and a run after it, leave:

    file to file        exactly once, in storage: `OUT.progress` tells how much of the input and of the outputs is
                        done. It is replaced after the outputs were flushed to the disk; the next run cuts the outputs
                        back to what it tells, and goes on from there.
    pipe to file        at most once: events that were read and not committed are gone with the pipe; so are, after a
                        SIGTERM, up to a MiB that was read ahead. The output holds whole batches, and the next run
                        appends to it.
    anything to a pipe  nothing is remembered: every run reads its input from the beginning, and a line that was
                        written may or may not have been read.

The next run tells another input from a grown one: by its path, and by what stands right before the place reached. An
output of another path that holds something is refused.
"""

from __future__ import annotations

import base64
import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from connectors.jsonl_files import STANDARD, Input, Output, told
from connectors.jsonl_progress import Progress, resumption
from streamfm.errors import StreamError
from streamfm.stream.ports import Answers, Checkpoint, DeadLetter, Event, Partition, Polled

_FOLLOW_S = 0.05


class JsonLinesSource:
    """A `Source` of the lines of one input. A line that does not end is an event only where nothing is to follow."""

    def __init__(self, path: str, *, follow: bool = False, sleep: Callable[[float], object] = time.sleep) -> None:
        """Open it at its beginning.

        Args:
            path: A file, a pipe, or ``-`` for standard input.
            follow: Wait at the end of a file for what is appended; it never is finished.
            sleep: Waits so many seconds.

        Raises:
            StreamError: It cannot be read.
        """
        self.input = Input(path)
        self._partition: Partition = (path, 0)
        self._follow = follow and self.input.is_plain
        self._sleep = sleep
        self._committed = 0
        self._lines = 0
        self._begin = 0

    def poll(self, max_records: int, timeout_s: float) -> Polled:
        """See `Source`.

        Raises:
            StreamError: The input was replaced or cut while it was read, or has a line beyond all measure.
        """
        found = self.input.read_lines(max_records, timeout_s, last=not self._follow)
        if not found:
            self._wait(timeout_s)
            return Polled([], Checkpoint())
        self._lines += len(found)
        topic = self.input.name
        records = [Event(topic, 0, line.offset, -1, None, line.value) for line in found]
        return Polled(records, Checkpoint({self._partition: found[-1].end}))

    def rewind(self) -> None:
        """See `Source`.

        Raises:
            StreamError: What was read of a pipe cannot be read again.
        """
        if self.input.is_plain:
            self.input.seek(self._committed)
        elif self.input.position != self._committed:
            raise StreamError(f"{self.input.name}: cannot be read again; events were lost")

    def begin_at(self, position: int) -> None:
        """Go on with the line that begins there; only of a file."""
        self.input.seek(position)
        self._committed = self._begin = position

    def committed(self, checkpoint: Checkpoint) -> int:
        """Take over where to go on; the place."""
        self._committed = checkpoint.positions[self._partition]
        return self._committed

    def lag(self) -> Mapping[Partition, int]:
        """How many lines of a file are left, if they are as long as those before; of a pipe, nobody knows."""
        read = self.input.position - self._begin
        if not self.input.is_plain or not self._lines:
            return {}
        return {self._partition: -(-self.input.unread_bytes() * self._lines // read)}

    def is_finished(self) -> bool:
        """Whether the end was met, and is not waited at."""
        return not self._follow and self.input.is_finished()

    def close(self, timeout_s: float) -> None:
        """See `Source`."""
        self.input.close()

    def _wait(self, timeout_s: float) -> None:
        """At the end of a file: see that it is still the same, and give it time to grow."""
        if self.input.is_plain:
            self.input.check_same()
        if self._follow:
            self._sleep(min(timeout_s, _FOLLOW_S))


class JsonLinesSink:
    """A `Sink` of a line for each score, in the order of the events, and of a line for each dead letter."""

    def __init__(self, source: JsonLinesSource, path: str, dead_letters: str) -> None:
        """Open the outputs, and let the source go on where an earlier run into them has come to.

        Args:
            source: Where the events are from.
            path: Where the scores go: a file or pipe, or ``-`` for standard output.
            dead_letters: Where the dead letters go: a file or pipe, or ``-`` for standard error.

        Raises:
            StreamError: A path cannot be written, or is used twice; the outputs or the input are not those of the
                earlier run.
        """
        self._source = source
        refuse_one_file(source.input.name, path, dead_letters)
        self._outputs: list[Output] = []
        try:
            self._outputs.append(Output(path, standard=1))
            self._outputs.append(Output(dead_letters, standard=2))
            self._progress = Path(f"{path}.progress") if self._outputs[0].is_plain else None
            self._resume()
        except BaseException:
            self.close(0)
            raise
        self._committed = self._flushed = self._sizes()
        self._sent: Checkpoint | None = None
        self._durable: Checkpoint | None = None

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        """See `Sink`.

        Raises:
            BrokenPipeError: Nobody reads the scores any more.
            StreamError: The disk is full, or the system's error.
        """
        self._sent = checkpoint
        scores, dead_letters = self._outputs
        scores.write(b"".join(value + b"\n" for value in answers.values))
        dead_letters.write(b"".join(map(_dead_line, answers.dead_letters)))

    def flush(self) -> None:
        """See `Sink`.

        Raises:
            StreamError: The disk is full, or the system's error.
        """
        for output in self._outputs:
            output.sync()
        self._durable, self._sent, self._flushed = self._sent or self._durable, None, self._sizes()

    def commit(self) -> None:
        """See `Sink`; the progress file is replaced on the disk.

        Raises:
            StreamError: The disk is full, or the system's error; the next run begins before this batch.
        """
        if self._durable is None:
            return
        if self._progress is not None:
            events = self._source.input
            offset = self._durable.positions[events.name, 0]
            digest = events.digest(offset) if events.is_plain else ""
            Progress(events.identity, offset, digest, self._flushed).write(self._progress)
        self._source.committed(self._durable)
        self._committed, self._durable = self._flushed, None

    def abandon(self) -> None:
        """See `Sink`; what a pipe has cannot be taken back."""
        self._sent = self._durable = None
        for output in self._outputs:
            # What stays there now, the next run cuts.
            with suppress(StreamError):
                output.cut(self._committed.get(output.identity, 0))

    def close(self, timeout_s: float) -> None:
        """See `Sink`."""
        for output in self._outputs:
            output.close()

    def _sizes(self) -> dict[str, int]:
        return {output.identity: output.size for output in self._outputs if output.is_plain}

    def _resume(self) -> None:
        """Cut the outputs back to what is done, and let the source go on from there."""
        if self._progress is None:
            return
        source = self._source
        done = resumption(self._progress, source.input, self._sizes())
        for output in self._outputs:
            output.cut(done.outputs.get(output.identity, 0))
        if source.input.is_plain:
            source.begin_at(done.offset)


def open_json_lines(
    source: str, scores: str, dead_letters: str | None = None, *, follow: bool = False
) -> tuple[JsonLinesSource, JsonLinesSink]:
    """Both ends of a stream over lines.

    Args:
        source: A file, a pipe, or ``-`` for standard input.
        scores: A file, a pipe, or ``-`` for standard output.
        dead_letters: A file, a pipe, or ``-`` for standard error. None: see `default_dead_letters`.
        follow: Wait at the end of the input for what is appended to it.

    Raises:
        StreamError: One of them is not there, cannot be used, or does not go with an earlier run into these outputs.
    """
    dead_letters = dead_letters or default_dead_letters(source, scores)
    lines = JsonLinesSource(source, follow=follow)
    try:
        return lines, JsonLinesSink(lines, scores, dead_letters)
    except BaseException:
        lines.close(0)
        raise


def default_dead_letters(source: str, scores: str) -> str:
    """Beside the scores, with `.dead-letters`; where those are no file, beside the input; else standard error."""
    for path in (scores, source):
        # Two runs over one input have their own, since what one has not committed, its next run cuts.
        if path != STANDARD and (Path(path).is_file() or not Path(path).exists()):
            return f"{path}.dead-letters"
    return STANDARD


def refuse_one_file(*paths: str) -> None:
    """See that no file has two uses.

    Raises:
        StreamError: Two of them are one file.
    """
    named = [path for path in paths if path != STANDARD]
    for index, path in enumerate(named):
        for other in named[index + 1 :]:
            with told(path):
                both_plain = Path(path).is_file() and Path(other).is_file()
                same = os.path.realpath(path) == os.path.realpath(other)
            if (same and not Path(path).is_char_device()) or (both_plain and Path(path).samefile(other)):
                raise StreamError(f"{path} and {other} are one file, expected one for each")


def _dead_line(letter: DeadLetter) -> bytes:
    """A dead letter as a line: where the event is, what is wrong, and the event itself."""
    value = letter.record.value or b""
    fields = {
        "topic": letter.record.topic,
        "offset": letter.record.offset,
        "reason": letter.reason,
        "error": letter.error,
        "message": letter.message,
    }
    try:
        fields["value"] = value.decode()
    except UnicodeDecodeError:
        fields["value_base64"] = base64.b64encode(value).decode()
    return json.dumps(fields, ensure_ascii=False).encode() + b"\n"
