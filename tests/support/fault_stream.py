"""`streamfm stream` under fault: its processes, what they have read and written, and the judgement."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fault_cluster import BUNDLE, ROOT, Cluster, Load, Message, good_messages, ids, read_all, wait_for

WORKER = ROOT / "tests" / "faults" / "faulty_worker.py"
EVENTS_A_SECOND = 1_000.0


@dataclass(kw_only=True)
class Verdict:
    """What became of the events.

    Attributes:
        events: In the input topic.
        scored: Ids in the output topic.
        dead: Ids among the dead letters.
        lost: Ids that are in neither.
        doubled: Ids that are there more than once.
    """

    events: int
    scored: int
    dead: int
    lost: int
    doubled: int


class StreamUnderFault:
    """Topics and a group of its own, and the worker processes of the group."""

    def __init__(
        self, cluster: Cluster, client: str, guarantee: str, folder: Path, *options: str, model: Path | str = BUNDLE
    ) -> None:
        self.cluster, self.client, self.guarantee = cluster, client, guarantee
        self.name = f"f{uuid.uuid4().hex[:10]}"
        self.folder = folder / f"{client}-{guarantee}-{self.name}"
        self.folder.mkdir(parents=True)
        self.events, self.scores = f"{self.name}.events", f"{self.name}.scores"
        self.dead = f"{self.events}.dead-letters"
        self.restarts = 0
        self.recovered_s: list[float] = []
        self._options, self._model = options, model
        self._workers: dict[int, subprocess.Popen[bytes]] = {}
        self._load: Load | None = None

    def make_topics(self) -> StreamUnderFault:
        for topic in (self.events, self.scores, self.dead):
            self.cluster.make(topic)
        return self

    def load(self, messages: Iterable[Message] | None = None, per_second: float = EVENTS_A_SECOND) -> StreamUnderFault:
        """Begin to append events; without messages, good ones until `drain`."""
        self._load = Load(
            self.cluster.bootstrap, self.events, good_messages() if messages is None else messages, per_second
        )
        return self

    def wait_for_load(self) -> None:
        """Messages that have an end are stored."""
        assert self._load is not None
        self._load.join()

    def start(self, slot: int = 0, *options: str, fault: str = "") -> subprocess.Popen[bytes]:
        """A worker."""
        assert slot not in self._workers, f"slot {slot} is taken"
        command = [sys.executable, str(WORKER), "stream", str(self._model), "-b", self.cluster.bootstrap]
        command += ["--in", self.events, "--out", self.scores, "--group", self.name, "--slot", str(slot)]
        command += ["--guarantee", self.guarantee, "--client", self.client, *self._options, *options]
        with self._log(slot).open("ab") as log:
            self._workers[slot] = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, "FAULT": fault, "OMP_NUM_THREADS": "1"}
            )
        return self._workers[slot]

    def _log(self, slot: int) -> Path:
        return self.folder / f"worker-{slot}.log"

    def signal(self, number: int, slot: int = 0) -> None:
        self._workers[slot].send_signal(number)

    def kill(self, slot: int = 0) -> None:
        """SIGKILL, and the worker is gone."""
        self.signal(signal.SIGKILL, slot)
        self.ended(slot, -signal.SIGKILL)

    def ended(self, slot: int = 0, *expected: int, limit_s: float = 300.0) -> str:
        """Wait for the worker's end, with one of those exit codes, by default 0; its log."""
        worker = self._workers[slot]
        code = worker.wait(limit_s)
        del self._workers[slot]
        self.restarts += 1
        expected = expected or (0,)
        assert code in expected, f"exit code {code}, expected one of {expected}\n{self.tail(slot)}"
        return self._log(slot).read_text(encoding="utf-8")

    def log(self, slot: int = 0) -> str:
        return self._log(slot).read_text(encoding="utf-8")

    def tail(self, slot: int) -> str:
        return f"--- {self._log(slot)}\n" + "\n".join(self.log(slot).splitlines()[-25:])

    def check_alive(self) -> bool:
        """Fails when a worker has ended of which nobody wanted it."""
        for slot, worker in self._workers.items():
            assert worker.poll() is None, f"a worker ended by itself, exit code {worker.returncode}\n{self.tail(slot)}"
        return True

    def pause(self, seconds: float) -> None:
        """Let some time go by under load."""
        time.sleep(seconds)

    def slots(self) -> list[int]:
        return sorted(self._workers)

    def committed(self) -> int | None:
        """How many events the group has committed; None while no broker tells."""
        offsets = self.cluster.committed(self.name, self.events)
        return None if offsets is None else sum(offsets.values())

    def until_moves(self, what: str, limit_s: float = 300.0) -> float:
        """The seconds until the group has committed more than it has now."""
        before: int | None = None

        def has_moved() -> bool:
            nonlocal before
            now = self.committed()
            before = now if before is None else before
            return self.check_alive() and now is not None and before is not None and now > before

        return wait_for(has_moved, lambda: self.told(what), limit_s)

    def recovers(self, what: str) -> None:
        """Note how long it takes until something is committed again."""
        self.recovered_s.append(self.until_moves(f"recovery from {what}"))

    @property
    def transactional_id(self) -> str:
        """Of the worker in slot 0."""
        return f"{self.name}-main-0"

    def told(self, what: str) -> str:
        return f"{self.client}, {self.guarantee}: {what}\n" + "\n".join(self.tail(slot) for slot in self.slots())

    def drain(self, limit_s: float = 300.0) -> None:
        """End the load, and wait until all of it is committed; then SIGTERM, which must end the workers well."""
        if self._load:
            self._load.end()
        count = len(read_all(self.cluster.bootstrap, self.events, "read_uncommitted"))
        wait_for(
            lambda: self.check_alive() and (self.committed() or 0) >= count,
            lambda: self.told("everything is committed"),
            limit_s,
        )
        self.stop()

    def stop(self) -> None:
        for slot in self.slots():
            self.signal(signal.SIGTERM, slot)
        for slot in self.slots():
            self.ended(slot)
            self.restarts -= 1

    def verdict(self) -> Verdict:
        """Count the ids of all three topics; the score of an event must name the event."""
        events, scores, dead = (read_all(self.cluster.bootstrap, it) for it in (self.events, self.scores, self.dead))
        for record in scores:
            assert json.loads(record.value)["event_id"].encode() == record.key
        there, scored, lettered = ids(events), ids(scores), ids(dead)
        assert max(there.values()) == 1, "the load was doubled on its way in: nothing is proven"
        answered = scored + lettered
        assert answered.keys() <= there.keys(), "answers to events that are not there"
        return Verdict(
            events=len(there),
            scored=len(scored),
            dead=len(lettered),
            lost=len(there.keys() - answered.keys()),
            doubled=sum(count > 1 for count in answered.values()),
        )

    def judged(self, counts: Callable[[str], None], campaign: str) -> Verdict:
        """Drain, count, tell, and hold the guarantee against it."""
        self.drain()
        verdict = self.verdict()
        times = f"{max(self.recovered_s):.1f} s" if self.recovered_s else "-"
        counts(
            f"{campaign}: {self.client}, {self.guarantee}: {verdict.events:,} events, {verdict.dead:,} dead letters, "
            f"lost {verdict.lost}, doubled {verdict.doubled}, restarts {self.restarts}, slowest recovery {times}"
        )
        assert verdict.events > 0
        assert verdict.lost == 0, self.told("events are lost")
        if self.guarantee == "exactly-once":
            assert verdict.doubled == 0, self.told("events are doubled")
        return verdict

    def close(self) -> None:
        for worker in self._workers.values():
            worker.kill()
            worker.wait(30)
        if self._load:
            self._load.abandon()


def together(streams: Sequence[StreamUnderFault], campaign: Callable[[StreamUnderFault], object]) -> list[Any]:
    """The same with all of them at once."""
    with ThreadPoolExecutor(len(streams)) as pool:
        return list(pool.map(campaign, streams))
