"""A worker of streamfm, or kafka-python's bare loop, in a process of its own that writes down what each batch does.

Given as JSON: the fields of `_stream_side.Side` and `raw`, a file. A line on standard output says when the first batch
is committed. At SIGTERM it drains, and these arrays lie in the file (npz), with times of time.monotonic, which all
processes of the machine share:

    acknowledged_s [B]   when a batch was flushed
    batch_s [B]          from when it began to fill to then; not of the bare loop
    counts [B]           its size
    latency_ms [N]       of each of its records, from its timestamp to then
    swaps                how often another version took over; not of the bare loop
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from _stream_side import Side, bare_kafka_python, make_stream, open_ends, require_undisturbed

from streamfm.cli.stream_operation import Operation
from streamfm.cli.worker import Drain, rarely_collecting
from streamfm.stream.measures import Measures
from streamfm.stream.ports import Answers, Checkpoint, Sink
from streamfm.stream.serving import Watch


class BatchTimes(Measures):
    """Notes when batches were polled and acknowledged, which is in the order in which they were polled."""

    def __init__(self) -> None:
        """Nothing yet."""
        super().__init__()
        self._polled: deque[float] = deque()
        self.rows: list[tuple[float, float]] = []

    def took(self, **seconds: float) -> None:
        """See `Measures`: a batch is polled when it tells how long it took to fill, acknowledged when it is flushed."""
        super().took(**seconds)
        now = time.monotonic()
        if "fill" in seconds:
            self._polled.append(now - seconds["fill"])
        if "flush" in seconds:
            self.rows.append((now, now - self._polled.popleft()))

    def committed(self, records: Any, answered: Any, acknowledged_ms: int) -> None:
        """See `Measures`."""
        if not self.commits:
            print("committed", flush=True)
        super().committed(records, answered, acknowledged_ms)


class TimedSink:
    """A sink, and how old each record was when its answer was acknowledged."""

    def __init__(self, sink: Sink) -> None:
        """Around that one."""
        self._sink = sink
        self._sent: list[int] = []
        self.commit, self.abandon, self.close = sink.commit, sink.abandon, sink.close
        self.ages_ms: list[Any] = []

    def send(self, answers: Answers, checkpoint: Checkpoint) -> None:
        """See `Sink`."""
        self._sink.send(answers, checkpoint)
        self._sent += [record.timestamp for record in answers.records]

    def flush(self) -> None:
        """See `Sink`."""
        self._sink.flush()
        now_ms = time.time_ns() / 1e6
        self.ages_ms.append(now_ms - np.array(self._sent, np.float64))
        self._sent = []


class Ages:
    """How old each record was when a bare loop's flush returned."""

    def __init__(self, is_over: Callable[[], bool]) -> None:
        """Until it is over."""
        self.is_enough = is_over
        self._is_told = False
        self.acknowledged_s: list[float] = []
        self.ages_ms: list[Any] = []

    def flushed(self, records: Sequence[Any]) -> None:
        """See `Progress`."""
        self.acknowledged_s.append(time.monotonic())
        self.ages_ms.append(time.time_ns() / 1e6 - np.array([record.timestamp for record in records], np.float64))

    def add(self, count: int) -> None:
        """See `Progress`."""
        if not self._is_told:
            print("committed", flush=True)
            self._is_told = True


def watch_bare(side: Side) -> dict[str, Any]:
    with Drain(Operation().drain_s) as drain, rarely_collecting():
        ages = Ages(drain.is_wanted)
        bare_kafka_python(side, ages)
    return saved(ages.acknowledged_s, ages.ages_ms)


def watch_ours(side: Side) -> dict[str, Any]:
    measures = BatchTimes()
    source, inner = open_ends(side)
    sink = TimedSink(inner)
    stream, models = make_stream(side, source, sink, measures)
    operation = Operation()
    with Drain(operation.drain_s) as drain, Watch(models, operation.watch_s), rarely_collecting():
        stream.run(drain.is_wanted)
    sink.close(operation.drain_s)
    source.close(operation.drain_s)
    require_undisturbed(measures)
    acknowledged_s, batch_s = zip(*measures.rows, strict=True)
    return saved(acknowledged_s, sink.ages_ms) | {"batch_s": batch_s, "swaps": models.swaps}


def saved(acknowledged_s: Sequence[float], ages_ms: Sequence[Any]) -> dict[str, Any]:
    """What of both is written down."""
    return {
        "acknowledged_s": acknowledged_s,
        "counts": [len(ages) for ages in ages_ms],
        "latency_ms": np.concatenate(ages_ms),
    }


def main() -> None:
    given = json.loads(sys.argv[1])
    raw = given.pop("raw")
    side = Side(**given)
    np.savez(raw, **(watch_bare(side) if side.kind == "bare" else watch_ours(side)))
    print(json.dumps({}))


if __name__ == "__main__":
    main()
