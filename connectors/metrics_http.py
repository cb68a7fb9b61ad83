"""How a stream is watched: /metrics for Prometheus, /healthz and /readyz for whoever keeps it running.

    /metrics   what `streamfm.stream.measures.Measures` counts, for Prometheus, with the memory and CPU of the process
    /healthz   200 while the loop takes turns; 503 when it has not for `stalled_s`: restart it
    /readyz    200 when partitions are assigned and lag is below its bound; 503, with the reason, until then

Metrics are made when they are asked for, out of what the loop counts anyway.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from streamfm.errors import StreamError
from streamfm.stream.measures import Histogram, Measures
from streamfm.stream.ports import REASONS, Partition
from streamfm.stream.serving import ServedModels


class StreamCollector(Collector):
    """The metrics of one stream."""

    def __init__(self, measures: Measures, models: ServedModels, lag: Callable[[], Mapping[Partition, int]]) -> None:
        """Read them from here."""
        self._measures, self._models, self._lag = measures, models, lag

    def collect(self) -> Iterator[Metric]:
        """Every metric, with its help."""
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        measures, models = self._measures, self._models
        for name, text, value in (
            ("events", "Events committed.", measures.events),
            ("scores", "Events scored.", measures.scores),
            ("commits", "Batches committed.", measures.commits),
            ("disturbances", "Times that the stream went back to what is committed.", measures.disturbances),
            ("rebalances", "Assignments of partitions, the first one included.", measures.rebalances),
            ("model_swaps", "Times that another version of a model took over.", models.swaps),
            ("model_refusals", "Times that a version was refused.", models.refusals),
            ("shadow_scored", "Events that the second model scored.", measures.shadow_scored),
            ("shadow_failed", "Events that the second model could not score.", measures.shadow_failed),
            (
                "shadow_skipped",
                "Events that the second model, being slow, was not asked about.",
                measures.shadow_skipped,
            ),
        ):
            yield CounterMetricFamily(f"streamfm_{name}", text, value=value)
        letters = CounterMetricFamily("streamfm_dead_letters", "Events that cannot be scored.", labels=["reason"])
        for reason in REASONS:
            letters.add_metric([reason], measures.dead_letters[reason])
        yield letters
        unknown = CounterMetricFamily(
            "streamfm_unknown_values", "Events with a value that training did not see.", labels=["feature"]
        )
        for feature in models.current().scorer.spec.features:
            unknown.add_metric([feature.name], measures.unknown[feature.name])
        yield unknown

    def _histograms(self) -> Iterator[Metric]:
        measures = self._measures
        batch = HistogramMetricFamily("streamfm_batch_records", "Records of a batch.")
        batch.add_metric([], *_cumulated(measures.batch_records))
        yield batch
        stages = HistogramMetricFamily("streamfm_stage_seconds", "What a batch spends its time on.", labels=["stage"])
        for stage, histogram in measures.stage_s.items():
            stages.add_metric([stage], *_cumulated(histogram))
        yield stages
        latency = HistogramMetricFamily(
            "streamfm_event_to_score_seconds", "From an event's timestamp to the acknowledgement of its score."
        )
        latency.add_metric([], *_cumulated(measures.event_to_score_s))
        yield latency

    def _gauges(self) -> Iterator[Metric]:
        lag = GaugeMetricFamily(
            "streamfm_lag_records", "Records that were not polled yet.", labels=["topic", "partition"]
        )
        for (topic, partition), records in self._lag().items():
            lag.add_metric([topic, str(partition)], records)
        yield lag
        models = GaugeMetricFamily(
            "streamfm_model", "1 for each model that answers.", labels=["role", "name", "version", "precision"]
        )
        answering = self._models.current()
        for role, scorer in (("champion", answering.scorer), ("shadow", answering.shadow)):
            if scorer is not None:
                models.add_metric([role, scorer.name, str(scorer.version or ""), scorer.precision], 1)
        yield models


def _cumulated(histogram: Histogram) -> tuple[list[tuple[str, float]], float]:
    """The buckets and the sum, as Prometheus has them."""
    totals = histogram.counts.cumsum().tolist()
    bounds = [*(f"{bound:g}" for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, totals, strict=True)), histogram.total


class Health:
    """Whether a stream lives, and whether it keeps up."""

    def __init__(
        self,
        measures: Measures,
        lag: Callable[[], Mapping[Partition, int]],
        *,
        clock: Callable[[], float],
        stalled_s: float,
        max_lag: int,
    ) -> None:
        """Judge by these bounds."""
        self._measures, self._lag, self._clock = measures, lag, clock
        self._stalled_s, self._max_lag = stalled_s, max_lag

    def ailment(self) -> str:
        """Why the process should be restarted; empty while the loop takes turns."""
        turned_s = self._measures.turned_s
        silent_s = 0.0 if turned_s is None else self._clock() - turned_s
        return f"the loop took its last turn {silent_s:.0f} s ago" if silent_s > self._stalled_s else ""

    def hindrance(self) -> str:
        """Why it is not ready; empty when it is."""
        lag = self._lag()
        if not lag:
            return "no partitions are assigned"
        behind = sum(lag.values())
        return self.ailment() or (
            f"{behind:,} events behind, more than {self._max_lag:,}" if behind > self._max_lag else ""
        )


class MetricsServer:
    """Serves the three pages from a thread of its own until it is closed. A context manager.

    Attributes:
        address: Host and port; of port 0, the one that was free.
    """

    def __init__(self, host: str, port: int, collector: Collector, health: Health) -> None:
        """Begin to serve.

        Raises:
            StreamError: The address cannot be had.
        """
        registry = CollectorRegistry()
        registry.register(collector)
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        pages: Mapping[str, Callable[[], tuple[HTTPStatus, str, bytes]]] = {
            "/metrics": lambda: (HTTPStatus.OK, CONTENT_TYPE_LATEST, generate_latest(registry)),
            "/healthz": lambda: _verdict(health.ailment()),
            "/readyz": lambda: _verdict(health.hindrance()),
        }
        try:
            self._server = ThreadingHTTPServer((host, port), _handler(pages))
        except OSError as error:
            raise StreamError(f"http {host}:{port}: {error.strerror}", hint="--http names another address") from error
        self._server.daemon_threads = True
        self.address = f"{host}:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, name="streamfm-http", daemon=True).start()

    def __enter__(self) -> Self:
        """The server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()


def _verdict(complaint: str) -> tuple[HTTPStatus, str, bytes]:
    status = HTTPStatus.SERVICE_UNAVAILABLE if complaint else HTTPStatus.OK
    return status, "text/plain; charset=utf-8", f"{complaint or 'ok'}\n".encode()


def _handler(pages: Mapping[str, Callable[[], tuple[HTTPStatus, str, bytes]]]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name that http.server calls
            page = pages.get(self.path.partition("?")[0])
            if page is None:
                self.send_error(HTTPStatus.NOT_FOUND, f"the pages are {', '.join(pages)}")
                return
            status, kind, body = page()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing: probes come every few seconds."""

    return Handler
