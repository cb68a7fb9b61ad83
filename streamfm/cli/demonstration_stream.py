"""The demo's stream: a broker, a worker that scores, and a collector that keeps what was scored and clicked."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Self

from connectors.dev_broker import DevBroker
from connectors.dev_topics import TopicReader, append
from connectors.parquet_log import EventLog
from streamfm.cli.demonstration_world import KeyValue
from streamfm.errors import StreamError

EVENTS, SCORES, CLICKS, DEAD_LETTERS = "events", "scores", "clicks", "events.dead-letters"
TOPICS = {EVENTS: 4, SCORES: 8, CLICKS: 1, DEAD_LETTERS: 1}
POISON = (
    b"not JSON",
    b'{"event_id": "cut off"',
    b"[1, 2, 3]",
    b'{"event_id": null}',
    b'{"event_id": "e", "price": "free"}',
)
POISON_EVERY = 1_000
TIMEOUT_S = 60.0
# While a new version is waited for, events come by so small a share of the hour's, and so far apart.
TRICKLE_SHARE, TRICKLE_S = 0.002, 0.1
END_S = 10.0
_LOOK_S, _EXTRA_S = 0.1, 0.5
_TOLD_LINES = 12
# This broker answers no fetch before its time is over, however much there is.
_CLIENT = ("--client", "confluent", "--kafka", "fetch.wait.max.ms=10")


class Answer(NamedTuple):
    """What came out for an event.

    Attributes:
        version: Of the model that answered.
        score: Its probability.
        shadow: That of the model alongside; None where it was too slow.
    """

    version: int
    score: float
    shadow: float | None


def stream_command(model: str, frozen: str, bootstrap_servers: str) -> list[str]:
    """The command that scores."""
    command = ["stream", f"{model}@champion", "-b", bootstrap_servers, *_CLIENT, "--in", EVENTS, "--out", SCORES]
    return [*command, "--keep-inputs", "--shadow", frozen, "--watch-s", "0.2"]


def collect_command(model: str, log: Path, bootstrap_servers: str) -> list[str]:
    """The command that collects."""
    command = ["collect", "--log", str(log), "--model", f"{model}@champion", "-b", bootstrap_servers, *_CLIENT]
    return [*command, "--impressions", SCORES, "--clicks", CLICKS, "--roll-s", "0.5"]


class LiveStream:
    """Events in, answers out, and both they and the clicks in the event log. A context manager that ends it all.

    Attributes:
        events: How many were sent, those that cannot be scored among them.
        answered: How many answers came out.
        clicks: How many clicks were sent.
        log: The event log.
    """

    def __init__(self, folder: Path, model: str, frozen: str) -> None:
        """Start nothing yet.

        Args:
            folder: The log and the workers' own news go there.
            model: REGISTRY/NAME; its champion answers.
            frozen: The version that answers alongside.
        """
        self._folder, self._model, self._frozen = folder, model, frozen
        self.log = EventLog(folder / "log")
        self.events = self.answered = self.clicks = 0
        self._poison = itertools.cycle(POISON)

    def __enter__(self) -> Self:
        """Start the broker and the workers."""
        with ExitStack() as stack:
            broker = stack.enter_context(DevBroker(TOPICS))
            self._where = broker.bootstrap_servers
            stream = [*stream_command(self._model, self._frozen, self._where), "--parent", str(os.getpid())]
            collect = collect_command(self._model, self.log.folder, self._where)
            self._workers = {
                command[0]: stack.enter_context(_worker(command, self._folder / f"{command[0]}.log"))
                for command in (stream, collect)
            }
            self._scores = stack.enter_context(TopicReader(self._where, SCORES))
            self._letters = stack.enter_context(TopicReader(self._where, DEAD_LETTERS))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        """End the workers, then the broker.

        Raises:
            StreamError: A worker ended with an error.
        """
        self._stack.__exit__(*error)  # type: ignore[arg-type]

    def score(self, events: Sequence[KeyValue], *, version: int) -> dict[str, Answer]:
        """The answers to events, by event id; a few come until this version answers, then all others.

        After each thousand events comes one that cannot be scored.

        Raises:
            StreamError: The version does not answer in time, or not all events do.
        """
        answers: dict[str, Answer] = {}
        few, sent = max(1, round(len(events) * TRICKLE_SHARE)), 0
        while version not in {answer.version for answer in answers.values()}:
            if sent:
                time.sleep(TRICKLE_S)
            if sent >= len(events) // 2:
                raise self._trouble(f"version {version} does not answer")
            count = self._send(events[sent : sent + few])
            sent += count
            self._take(answers, count)
        self._send(events[sent:])
        self._take(answers, len(events) - len(answers))
        return answers

    def click(self, clicks: Sequence[KeyValue]) -> None:
        """Send clicks."""
        append(self._where, CLICKS, clicks)
        self.clicks += len(clicks)

    def collected(self) -> None:
        """Return when all answers and clicks are in the event log.

        Raises:
            StreamError: They are not in time.
        """
        deadline_s = time.monotonic() + TIMEOUT_S
        while self._ends() != {SCORES: self.answered, CLICKS: self.clicks}:
            if self.ended() or time.monotonic() > deadline_s:
                raise self._trouble("not everything is in the event log")
            time.sleep(_LOOK_S)

    def ended(self) -> list[str]:
        """Which workers have ended by themselves."""
        return [name for name, worker in self._workers.items() if worker.poll() is not None]

    def dead_letters(self) -> int:
        """How many events could not be scored; waits for those that have no answer, and then for more than these."""
        missing = self.events - self.answered
        found = sum(1 for _ in self._letters.read(missing, timeout_s=TIMEOUT_S))
        return found + sum(1 for _ in self._letters.read(self.events, timeout_s=_EXTRA_S))

    def _ends(self) -> dict[str, int]:
        """How many records of each topic are in the log."""
        present = self.log.topics()
        return {topic: sum(self.log.ends(topic).values()) if topic in present else 0 for topic in (SCORES, CLICKS)}

    def _send(self, events: Sequence[KeyValue]) -> int:
        """Send events, and after each thousand of all one that cannot be scored; how many of the former."""
        append(self._where, EVENTS, self._with_poison(events))
        return len(events)

    def _with_poison(self, events: Sequence[KeyValue]) -> Iterator[KeyValue]:
        for event in events:
            yield event
            self.events += 1
            if self.events % (POISON_EVERY + 1) == POISON_EVERY:
                yield None, next(self._poison)
                self.events += 1

    def _take(self, answers: dict[str, Answer], count: int) -> None:
        """Read so many answers more."""
        deadline_s, wanted = time.monotonic() + TIMEOUT_S, len(answers) + count
        while (missing := wanted - len(answers)) > 0:
            if self.ended() or time.monotonic() > deadline_s:
                raise self._trouble(f"{missing:,} events have no answer")
            for record in self._scores.read(missing, timeout_s=_LOOK_S):
                answer = json.loads(record.value or b"")
                answers[answer["event_id"]] = Answer(answer["version"], answer["score"], answer["shadow_score"])
                self.answered += 1

    def _trouble(self, what: str) -> StreamError:
        ended = self.ended()
        who = f"streamfm {' and '.join(ended)} has ended" if ended else f"waited for {TIMEOUT_S:.0f} s"
        return StreamError(f"{what}: {who}", hint=f"see {self._folder}/stream.log and {self._folder}/collect.log")


@contextmanager
def _worker(command: Sequence[str], news: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command of streamfm that runs beside this block, its news in a file; it ends with the block.

    Raises:
        StreamError: It ended with an error, though nothing else was wrong.
    """
    with news.open("wb") as file:
        worker = subprocess.Popen([sys.executable, "-m", "streamfm.cli", *command], stdout=file, stderr=file)
        try:
            yield worker
            worker.terminate()
            code = worker.wait(TIMEOUT_S)
        finally:
            if worker.poll() is None:
                worker.terminate()
                _end(worker)
    if code:
        lines = news.read_text(encoding="utf-8", errors="replace").splitlines()[-_TOLD_LINES:]
        said = "\n".join(f"  {line}" for line in lines)
        raise StreamError(f"streamfm {command[0]}: ended with exit code {code}:\n{said}")


def _end(worker: subprocess.Popen[bytes]) -> None:
    try:
        worker.wait(END_S)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
