"""Clusters that may be harmed, streams over both clients and guarantees, and the counts at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fault_cluster import Cluster
from fault_stream import StreamUnderFault
from kafka_launcher import why_no_launcher

GUARANTEES = ("at-least-once", "exactly-once")
COUNTS = pytest.StashKey[list[str]]()

Streams = Callable[..., list[StreamUnderFault]]


def pytest_configure(config: pytest.Config) -> None:
    config.stash[COUNTS] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[COUNTS]:
        terminalreporter.section("fault campaigns")
        for line in config.stash[COUNTS]:
            terminalreporter.line(line)


@pytest.fixture
def counts(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Keeps a line for the summary."""
    lines = request.config.stash[COUNTS]
    return lines.append


@pytest.fixture(params=["kafka-python", "confluent"])
def client(request: pytest.FixtureRequest) -> str:
    """The client library."""
    name: str = request.param
    if name == "confluent" and importlib.util.find_spec("connectors.confluent_events") is None:
        pytest.skip("there is no connectors.confluent_events yet")
    return name


def _cluster(factory: pytest.TempPathFactory, *options: str) -> Iterator[Cluster]:
    if reason := why_no_launcher():
        pytest.skip(reason)
    cluster = Cluster(factory.mktemp("kafka") / "cluster", *options)
    try:
        yield cluster
    finally:
        cluster.close()


@pytest.fixture(scope="session")
def calm_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node, which nobody harms."""
    yield from _cluster(tmp_path_factory)


@pytest.fixture(scope="module")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """One node, which may be harmed, and is well again after the test."""
    yield from _cluster(tmp_path_factory)


@pytest.fixture
def three_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three nodes, which may be harmed."""
    yield from _cluster(tmp_path_factory, "--nodes", "3")


@pytest.fixture
def streams(client: str, tmp_path: Path) -> Iterator[Streams]:
    """Makes a stream of each guarantee, with topics; what is left of their processes is killed at the end."""
    made: list[StreamUnderFault] = []

    def make(cluster: Cluster, *options: str, **given: object) -> list[StreamUnderFault]:
        for guarantee in GUARANTEES:
            made.append(StreamUnderFault(cluster, client, guarantee, tmp_path, *options, **given))  # type: ignore[arg-type]
            made[-1].make_topics()
        return made[-2:]

    yield make
    for stream in made:
        stream.close()
