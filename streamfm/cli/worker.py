"""One worker of `streamfm stream`: the loop with everything around it, signals, metrics and news."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType

import click

from streamfm.cli.stream_operation import Operation
from streamfm.stream.loop import Stream
from streamfm.stream.measures import Measures
from streamfm.stream.ports import Partition, Sink, Source
from streamfm.stream.serving import ServedModels, Watch
from streamfm.stream.settings import StreamSettings

logger = logging.getLogger(__name__)

EXIT_UNDRAINED = 1


def work(source: Source, sink: Sink, models: ServedModels, settings: StreamSettings, operation: Operation) -> Measures:
    """Score the source until it is finished, or a signal says so; what was counted.

    The first SIGTERM or Ctrl-C lets the batch under way be committed; the second ends the process at once.

    Raises:
        StreamError: The stream cannot go on.
    """
    measures = Measures()
    stop = threading.Event()
    stream = Stream(
        source,
        sink,
        models,
        settings,
        clock=time.monotonic,
        now_ms=lambda: time.time_ns() // 1_000_000,
        sleep=stop.wait,
        measures=measures,
    )
    with ExitStack() as stack:
        stack.enter_context(_draining(stop, operation.drain_s))
        if operation.watch_s:
            stack.enter_context(Watch(models, operation.watch_s))
        if operation.http:
            stack.enter_context(_served(operation, measures, models, source.lag))
        if operation.report_s:
            stack.enter_context(_reported(operation.report_s, measures, models, source.lag))
        # Registered last, so closed first: the sink's last word is about what the source stands for.
        stack.callback(source.close, operation.drain_s / 3)
        stack.callback(sink.close, operation.drain_s / 3)
        stream.run(stop.is_set)
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
def _draining(stop: threading.Event, drain_s: float) -> Iterator[None]:
    """Sets `stop` at SIGTERM and SIGINT, and sees that the process then ends in time."""
    deadline = threading.Timer(drain_s, _give_up, [drain_s])
    deadline.daemon = True

    def handle(number: int, frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        click.echo(f"{signal.Signals(number).name}: draining; again to end at once", err=True)
        deadline.start()

    before = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        deadline.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _give_up(drain_s: float) -> None:
    click.echo(
        f"error: not drained in {drain_s:g} s; what was not committed will be read again\n"
        "hint: --drain-s gives more time",
        err=True,
    )
    os._exit(EXIT_UNDRAINED)


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
