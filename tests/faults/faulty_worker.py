"""`streamfm stream` as people run it, whose two ends are watched by a proxy that does harm at a chosen step.

The environment variable FAULT says which: `before:send:7` and `after:flush:7` kill the process with SIGKILL around the
seventh call, `during:commit:7:0.003` 3 ms after it began, `inside:commit:7` between the two calls of the client library
of which an exactly-once commit is made; `slow:poll:7:35` waits 35 s after the seventh call, as a slow model would, and
`slow:flush:7:35` as a slow broker. Of polls, those count that bring records.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from typing import Any

from streamfm.cli import main, stream_parts

STEPS = ("poll", "send", "flush", "commit")


class Fault:
    """What is to happen, and when."""

    def __init__(self, text: str) -> None:
        self.kind, self.step, number, *rest = text.split(":")
        self.number, self.seconds = int(number), float(rest[0]) if rest else 0.0
        self._calls = 0

    def call(self, step: str, method: Any, *arguments: Any) -> Any:
        """The step itself, and the harm."""
        if step != self.step:
            return method(*arguments)
        if step == "poll":
            found = method(*arguments)
            self._calls += bool(found.records)
            if found.records and self._calls == self.number:
                self._strike()
            return found
        self._calls += 1
        if self._calls != self.number:
            return method(*arguments)
        if self.kind == "before":
            die()
        if self.kind == "during":
            threading.Timer(self.seconds, die).start()
        if self.kind == "inside":
            die_before_the_transaction_is_committed()
        found = method(*arguments)
        self._strike()
        return found

    def _strike(self) -> None:
        if self.kind == "slow":
            time.sleep(self.seconds)
        else:
            die()


class Watched:
    """A source or a sink, with the fault around its steps."""

    def __init__(self, end: Any, fault: Fault) -> None:
        self._end, self._fault = end, fault

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._end, name)
        return (lambda *arguments: self._fault.call(name, method, *arguments)) if name in STEPS else method


_is_marked = False


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_the_transaction_is_committed() -> None:
    global _is_marked
    _is_marked = True


def mark_commits() -> None:
    """Let both libraries' producers ask, before they commit a transaction, whether to die."""
    import confluent_kafka
    import kafka

    class Producer(confluent_kafka.Producer):
        def commit_transaction(self, *arguments: Any, **options: Any) -> Any:
            return die() if _is_marked else super().commit_transaction(*arguments, **options)

    confluent_kafka.Producer = Producer
    commit = kafka.KafkaProducer.commit_transaction
    kafka.KafkaProducer.commit_transaction = lambda self: die() if _is_marked else commit(self)


def with_fault(text: str) -> None:
    """Put the proxies between the loop and the two ends."""
    open_ends, fault = stream_parts.ends, Fault(text)

    def ends(given: Any) -> Any:
        return tuple(Watched(end, fault) for end in open_ends(given))

    stream_parts.ends = ends
    if fault.kind == "inside":
        mark_commits()


if __name__ == "__main__":
    if os.environ["FAULT"]:
        with_fault(os.environ["FAULT"])
    sys.exit(main())
