"""connectors.metrics_http: the pages that Prometheus and supervisors ask for."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from connectors.metrics_http import Health, MetricsServer, StreamCollector
from streamfm.errors import StreamError
from streamfm.stream.loop import Stream
from streamfm.stream.measures import Measures
from streamfm.stream.ports import REASONS, STAGES
from streamfm.stream.serving import ServedModels
from streamfm.stream.settings import StreamSettings
from streamfm.testing import FakeClock, ListSink, ListSource
from streamfm.testing.streams import events_of

BUNDLE = Path(__file__).resolve().parents[1] / "data" / "bundle_v1"


class Running:
    """A stream over doubles, and its server."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        settings = StreamSettings(event_id="n")
        self.models = ServedModels(BUNDLE, settings, shadow=BUNDLE, clock=self.clock.monotonic)
        events = [json.dumps({"n": n, "user_id": "u1", "country": "Atlantis"}).encode() for n in range(5)]
        self.source = ListSource({("events", 0): events_of([*events, None, b"{"], timestamp=0)}, clock=self.clock)
        self.measures = Measures()
        self.stream = Stream(
            self.source,
            ListSink(self.source),
            self.models,
            settings,
            clock=self.clock.monotonic,
            now_ms=self.clock.now_ms,
            sleep=self.clock.sleep,
            measures=self.measures,
        )
        collector = StreamCollector(self.measures, self.models, self.source.lag)
        health = Health(self.measures, self.source.lag, clock=self.clock.monotonic, stalled_s=60, max_lag=6)
        self.server = MetricsServer("127.0.0.1", 0, collector, health)

    def get(self, page: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://{self.server.address}{page}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()

    def samples(self) -> dict[tuple[str, ...], float]:
        """The value of each sample by its name and the values of its labels, these by their names."""
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(self.get("/metrics")[1])
            for sample in family.samples
        }


@pytest.fixture
def running() -> Iterator[Running]:
    running = Running()
    with running.server:
        yield running


def test_what_happened_is_told_in_prometheus_format(running: Running) -> None:
    running.stream.run(lambda: False)
    samples = running.samples()
    expected = {
        ("streamfm_events_total",): 7,
        ("streamfm_scores_total",): 5,
        ("streamfm_commits_total",): 1,
        ("streamfm_rebalances_total",): 1,
        ("streamfm_disturbances_total",): 0,
        ("streamfm_model_swaps_total",): 0,
        ("streamfm_model_refusals_total",): 0,
        ("streamfm_shadow_scored_total",): 5,
        ("streamfm_shadow_failed_total",): 0,
        ("streamfm_dead_letters_total", "null_value"): 1,
        ("streamfm_dead_letters_total", "not_json"): 1,
        ("streamfm_dead_letters_total", "wrong_type"): 0,
        ("streamfm_unknown_values_total", "country"): 5,
        ("streamfm_batch_records_bucket", "4"): 0,
        ("streamfm_batch_records_bucket", "16"): 1,
        ("streamfm_batch_records_bucket", "+Inf"): 1,
        ("streamfm_batch_records_count",): 1,
        ("streamfm_batch_records_sum",): 7,
        ("streamfm_stage_seconds_count", "score"): 1,
        ("streamfm_stage_seconds_count", "commit"): 1,
        ("streamfm_event_to_score_seconds_count",): 5,
        ("streamfm_lag_records", "0", "events"): 0,
    }
    assert expected == {name: samples[name] for name in expected}
    assert samples["process_resident_memory_bytes",] > 1e6


def test_models_are_told_with_their_versions(running: Running) -> None:
    roles = {name[1:] for name in running.samples() if name[0] == "streamfm_model"}
    scorer = running.models.current().scorer
    assert {(scorer.name, "fp32", role, str(scorer.version or "")) for role in ("champion", "shadow")} == roles


def test_it_is_healthy_while_the_loop_takes_turns(running: Running) -> None:
    assert (200, "ok\n") == running.get("/healthz")
    running.stream.turn()
    running.clock.sleep(59)
    assert (200, "ok\n") == running.get("/healthz")
    running.clock.sleep(2)
    assert (503, "the loop took its last turn 61 s ago\n") == running.get("/healthz")


def test_it_is_ready_when_it_has_partitions_and_keeps_up(running: Running) -> None:
    assert (503, "7 events behind, more than 6\n") == running.get("/readyz")
    running.stream.turn()
    assert (200, "ok\n") == running.get("/readyz")


def test_it_is_not_ready_without_partitions() -> None:
    clock = FakeClock()
    health = Health(Measures(), dict, clock=clock.monotonic, stalled_s=60, max_lag=6)
    assert "no partitions are assigned" == health.hindrance()
    assert "" == health.ailment()


def test_other_pages_are_not_found(running: Running) -> None:
    code, text = running.get("/metric")
    assert 404 == code
    assert "/metrics" in text


def test_an_address_that_is_taken_is_named(running: Running) -> None:
    host, port = running.server.address.split(":")
    health = Health(running.measures, dict, clock=running.clock.monotonic, stalled_s=60, max_lag=6)
    collector = StreamCollector(running.measures, running.models, dict)
    with pytest.raises(StreamError, match=f"http {host}:{port}: .*in use"):
        MetricsServer(host, int(port), collector, health)


def test_every_metric_is_documented(running: Running) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "streaming.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`streamfm_\w+`) \| (\w+)(?:, ([^|]*?))? \|", page, re.MULTILINE)
    documented = {(name.strip("`"), kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows}
    running.stream.run(lambda: False)
    told = set()
    for family in text_string_to_metric_families(running.get("/metrics")[1]):
        if family.name.startswith("streamfm_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            told.add((name, family.type, tuple(sorted(labels))))
    assert documented == told


def test_every_reason_and_stage_is_documented(running: Running) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "streaming.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| `([A-Z_]+)` \|", page, re.MULTILINE)
    assert dict(STAGES) == dict(rows)
    assert set(REASONS) == set(STAGES)
    (stages,) = re.findall(r"`streamfm_stage_seconds` \| histogram, `stage` \|(.*)\|", page)
    assert set(running.measures.stage_s) == set(re.findall(r"`(\w+)`", stages))
