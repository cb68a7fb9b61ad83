"""One worker of `streamfm stream`: the loop with everything around it, signals, metrics and news."""

from __future__ import annotations

import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

from streamfm.cli.stream_operation import Operation
from streamfm.stream.loop import Stream
from streamfm.stream.measures import Measures
from streamfm.stream.ports import Partition, Sink, Source
from streamfm.stream.serving import ServedModels, Watch

logger = logging.getLogger(__name__)

EXIT_UNDRAINED = 1
LOOK_S = 0.1
_COLLECTION_LIMITS = (20_000, 50, 100)

_UNDRAINED = """\
error: not drained in {:g} s; what was not committed will be read again
hint: --drain-s gives more time
"""


def work(source: Source, sink: Sink, models: ServedModels, operation: Operation) -> Measures:
    """Score the source until it is finished, or a signal says so; what was counted.

    The first SIGTERM or Ctrl-C lets the batch under way be committed; the second ends the process at once.

    Raises:
        StreamError: The stream cannot go on.
    """
    measures = Measures()
    drain = Drain(operation.drain_s)
    stream = Stream(source, sink, models, models.settings, sleep=drain.sleep, measures=measures)
    with ExitStack() as stack:
        stack.enter_context(drain)
        if operation.watch_s:
            stack.enter_context(Watch(models, operation.watch_s))
        if operation.http:
            stack.enter_context(_served(operation, measures, models, source.lag))
        if operation.report_s:
            stack.enter_context(_reported(operation.report_s, measures, models, source.lag))
        # Registered last, so closed first: the sink's last word is about what the source stands for.
        stack.callback(source.close, operation.drain_s / 3)
        stack.callback(sink.close, operation.drain_s / 3)
        stack.enter_context(rarely_collecting())
        stream.run(drain.is_wanted)
    return measures


@contextmanager
def _served(
    operation: Operation, measures: Measures, models: ServedModels, lag: Callable[[], Mapping[Partition, int]]
) -> Iterator[None]:
    from connectors.metrics_http import Health, MetricsServer, StreamCollector

    assert operation.http is not None
    health = Health(measures, lag, clock=time.monotonic, stalled_s=operation.stalled_s, max_lag=operation.max_lag)
    with MetricsServer(*operation.http, StreamCollector(measures, models, lag), health) as server:
        logger.info("metrics at http://%s/metrics, and /healthz, /readyz", server.address)
        yield


@contextmanager
def rarely_collecting() -> Iterator[None]:
    """A block in which Python looks for reference cycles less often.

    A Kafka client in Python makes several objects of each record, none of them in a cycle that lasts: with the usual
    limits a third of the time went into searching them, and the model, again and again.
    """
    limits = gc.get_threshold()
    gc.collect()
    # What is there stays: it is never searched again.
    gc.freeze()
    gc.set_threshold(*_COLLECTION_LIMITS)
    try:
        yield
    finally:
        gc.set_threshold(*limits)
        gc.unfreeze()


class Drain:
    """Notes SIGTERM and SIGINT, and sees that the process then ends in time. A context manager.

    Signals come in the middle of anything, one in the handler of another: it takes no locks, as events and streams do.
    """

    def __init__(self, drain_s: float) -> None:
        """Give it so long after the first signal."""
        self._drain_s = drain_s
        self._signalled_s: float | None = None
        self._ended = False
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Drain:
        """Take the signals over."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._handlers[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, name="streamfm-drain", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the signals back."""
        self._ended = True
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def is_wanted(self) -> bool:
        """Whether the stream is to stop."""
        return self._signalled_s is not None

    def sleep(self, duration_s: float) -> None:
        """Wait, or until a signal comes."""
        until_s = time.monotonic() + duration_s
        while not self.is_wanted() and (left_s := until_s - time.monotonic()) > 0:
            time.sleep(min(left_s, LOOK_S))

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._signalled_s is not None:
            os._exit(128 + number)
        self._signalled_s = time.monotonic()
        os.write(2, f"{signal.Signals(number).name}: draining; again to end at once\n".encode())

    def _watch(self) -> None:
        while not self._ended:
            if self._signalled_s is not None and time.monotonic() - self._signalled_s > self._drain_s:
                os.write(2, _UNDRAINED.format(self._drain_s).encode())
                os._exit(EXIT_UNDRAINED)
            time.sleep(LOOK_S)


@contextmanager
def _reported(
    report_s: float, measures: Measures, models: ServedModels, lag: Callable[[], Mapping[Partition, int]]
) -> Iterator[None]:
    """A line of news every `report_s`, while there is any."""
    ended = threading.Event()

    def report() -> None:
        before, since_s, moving = 0, time.monotonic(), True
        while not ended.wait(report_s):
            now_s, events = time.monotonic(), measures.events
            if events == before and not moving:
                since_s = now_s
                continue
            moving = events != before
            scorer = models.current().scorer
            logger.info(
                "%s/%s: %s events, %s a second, %s dead letters, %s behind",
                scorer.name,
                scorer.version,
                f"{events:,}",
                f"{(events - before) / (now_s - since_s):,.0f}",
                f"{measures.dead_letters.total():,}",
                f"{sum(lag().values()):,}",
            )
            before, since_s = events, now_s

    threading.Thread(target=report, name="streamfm-report", daemon=True).start()
    try:
        yield
    finally:
        ended.set()
