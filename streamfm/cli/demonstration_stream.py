"""The demo's last part: events are scored as they happen, and another version takes over while they flow."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from streamfm.errors import StreamError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from streamfm.stream.ports import Event

EVENTS, SCORES, DEAD_LETTERS = "events", "scores", "events.dead-letters"
POISON = (
    b"not JSON",
    b'{"event_id": "cut off"',
    b"[1, 2, 3]",
    b'{"event_id": null}',
    b'{"event_id": "e", "price": "free"}',
)
PER_SECOND = 2_000
# New versions are looked for every second.
LEAST_LIVE_S = 5.0
TIMEOUT_S = 60.0

KeyValue = tuple[bytes | None, bytes | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flowed:
    """What went through the topics.

    Attributes:
        events: How many were appended.
        dead_letters: How many came out there.
        per_second: At what rate they came while the stream ran.
        versions: Scores by the version that answered.
        scores: By event id, the version and the score.
        backlog_per_second: Events scored in a second when they were there before the stream.
        waited_ms: For each event that came while the stream ran, milliseconds from its time to its answer.
    """

    events: int
    dead_letters: int
    per_second: float
    versions: Counter[int]
    scores: dict[str, tuple[int, float]]
    backlog_per_second: float
    waited_ms: np.ndarray


def command_line(model: str, bootstrap_servers: str) -> list[str]:
    """The command that is shown, and run."""
    # This broker answers no fetch before its time is over, however much there is.
    client = ["--client", "confluent", "--kafka", "fetch.wait.max.ms=10"]
    return ["stream", f"{model}@champion", "-b", bootstrap_servers, *client, "--in", EVENTS, "--out", SCORES]


def stream_events(model: str, next_version: int, events: pa.Table) -> Flowed:
    """Stream events through a broker inside this process: half before the stream is there, half while it runs.

    Among them are some that cannot be scored, and in the middle of the second half the champion becomes
    `next_version`.

    Args:
        model: REGISTRY/NAME.
        next_version: Is published already.
        events: Rows with an event_id.

    Raises:
        StreamError: The stream ended by itself, or not everything came through in time.
    """
    from connectors.dev_broker import DevBroker
    from connectors.dev_topics import append, records
    from streamfm.registry import Registry

    values = list(_with_poison(_as_json(events)))
    backlog, live = values[: len(values) // 2], values[len(values) // 2 :]
    per_second = min(PER_SECOND, len(live) / LEAST_LIVE_S)
    place = Path(model)
    promotion = threading.Timer(len(live) / per_second / 2, Registry(place.parent).promote, [place.name, next_version])
    with DevBroker({EVENTS: 4, SCORES: 4, DEAD_LETTERS: 1}) as broker:
        where = broker.bootstrap_servers
        append(where, EVENTS, backlog)
        worker = subprocess.Popen([sys.executable, "-m", "streamfm.cli", *command_line(model, where)])
        try:
            early = list(records(where, SCORES, count=_scorable(backlog), timeout_s=TIMEOUT_S))
            promotion.start()
            append(where, EVENTS, live, per_second=per_second)
            # The reader begins at the beginning again.
            scores = list(records(where, SCORES, count=_scorable(values), timeout_s=TIMEOUT_S))
            letters = list(records(where, DEAD_LETTERS, count=len(values) - _scorable(values), timeout_s=TIMEOUT_S))
        finally:
            promotion.cancel()
            worker.send_signal(signal.SIGTERM)
            code = worker.wait(TIMEOUT_S)
    if code:
        raise StreamError(f"streamfm {' '.join(command_line(model, where))}: ended with exit code {code}")
    return _flowed(len(values), per_second, early, scores, letters)


def _flowed(
    events: int, per_second: float, early: Sequence[Event], scores: Sequence[Event], letters: Sequence[Event]
) -> Flowed:
    import numpy as np

    answers = [json.loads(record.value or b"") for record in scores]
    scored_ms = np.array([datetime.fromisoformat(answer["scored_at"]).timestamp() * 1_000 for answer in answers])
    event_ms = np.array([record.timestamp for record in scores])
    ids_before = {json.loads(record.value or b"")["event_id"] for record in early}
    came_before = np.array([answer["event_id"] in ids_before for answer in answers])
    busy_s = np.ptp(scored_ms[came_before]) / 1_000
    return Flowed(
        events=events,
        dead_letters=len(letters),
        per_second=per_second,
        versions=Counter(answer["version"] for answer in answers),
        scores={answer["event_id"]: (answer["version"], answer["score"]) for answer in answers},
        backlog_per_second=float(came_before.sum() / busy_s),
        waited_ms=(scored_ms - event_ms)[~came_before],
    )


def _as_json(events: pa.Table) -> Iterator[KeyValue]:
    for row in events.to_pylist():
        yield row["event_id"].encode(), json.dumps(row, default=str).encode()


def _with_poison(values: Iterator[KeyValue]) -> Iterator[KeyValue]:
    """The events, and after each thousand one that cannot be scored."""
    for number, value in enumerate(values):
        yield value
        if number % 1_000 == 999:
            yield None, POISON[number // 1_000 % len(POISON)]


def _scorable(values: Sequence[KeyValue]) -> int:
    return sum(value not in POISON for _, value in values)
