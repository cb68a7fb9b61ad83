"""One worker of `streamfm stream`: the loop with everything around it, signals, metrics and news."""

from __future__ import annotations

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from streamfm.cli.drain import Drain
from streamfm.cli.stream_operation import Operation
from streamfm.errors import DisturbedError
from streamfm.stream.loop import Stream
from streamfm.stream.measures import Measures
from streamfm.stream.ports import Partition, Sink, Source
from streamfm.stream.serving import ServedModels, Watch
from streamfm.stream.settings import StreamSettings

logger = logging.getLogger(__name__)

_COLLECTION_LIMITS = (20_000, 50, 100)

Ends = tuple[Source, Sink]


def work(open_ends: Callable[[], Ends], models: ServedModels, operation: Operation, drain: Drain) -> Measures:
    """Score the source until it is finished, or a signal says so; what was counted.

    Args:
        open_ends: Opens both ends; it is tried again while it is disturbed, as when no broker answers.
        models: What answers.
        operation: How it is run.
        drain: Tells of signals: the first lets what was sent be committed; the second ends the process at once.

    Raises:
        StreamError: The stream cannot go on.
    """
    measures = Measures()
    ends: Ends | None = None

    def lag() -> Mapping[Partition, int]:
        return ends[0].lag() if ends else {}

    with ExitStack() as stack:
        if operation.watch_s:
            stack.enter_context(Watch(models, operation.watch_s))
        if operation.http:
            stack.enter_context(_served(operation, measures, models, lag))
        if operation.report_s:
            stack.enter_context(_reported(operation.report_s, measures, models, lag))
        ends = _opened(open_ends, models.settings, drain, measures)
        if ends is None:
            return measures
        source, sink = ends
        # Registered last, so closed first: the sink's last word is about what the source stands for.
        stack.callback(source.close, operation.drain_s / 3)
        stack.callback(sink.close, operation.drain_s / 3)
        stack.enter_context(rarely_collecting())
        Stream(source, sink, models, models.settings, sleep=drain.sleep, measures=measures).run(drain.is_wanted)
    return measures


def _opened(open_ends: Callable[[], Ends], settings: StreamSettings, drain: Drain, measures: Measures) -> Ends | None:
    """Both ends, for as long as it takes, with the loop's waits; None when a signal came before."""
    failures = 0
    while not drain.is_wanted():
        measures.turned(time.monotonic())
        try:
            return open_ends()
        except DisturbedError as error:
            delay_s = min(settings.backoff_s * 2 ** min(failures, 30), settings.max_backoff_s)
            failures += 1
            measures.disturbances += 1
            logger.warning("not open, again in %.1f s (%d in a row): %s", delay_s, failures, error.message)
        drain.sleep(delay_s)
    return None


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
    limits they, and the model, would be searched again and again.
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
