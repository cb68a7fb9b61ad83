"""Champions that take over under load, some of them broken; a registry whose disk is full."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_cluster import BUNDLE, Cluster, read_all, wait_for
from fault_stream import StreamUnderFault, together

from streamfm.registry import Registry

# kafka-python leaves sockets of brokers that died to the garbage collection.
pytestmark = [
    pytest.mark.faults,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
]

Counts = Callable[[str], None]
Streams = Callable[..., list[StreamUnderFault]]

CHAMPIONS, BROKEN_EVERY = 50, 5
PUBLISH = "import sys; from streamfm.registry import Registry; Registry({!r}).publish({!r}, 'ctr', alias='champion')"


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Its model `ctr` has a champion, version 1."""
    (tmp_path / "models").mkdir()
    registry = Registry(tmp_path / "models")
    registry.publish(BUNDLE, "ctr", alias="champion", keep_source=True)
    return registry


def spoil(registry: Registry, version: int) -> None:
    """Flip a bit in the middle of the network."""
    network = registry.root / "ctr" / str(version) / "model.onnx"
    network.chmod(0o644)
    data = bytearray(network.read_bytes())
    data[len(data) // 2] ^= 1
    network.write_bytes(data)


def served_by(stream: StreamUnderFault) -> Counter[int]:
    """How many scores each version has made."""
    scores = read_all(stream.cluster.bootstrap, stream.scores)
    return Counter(int(dict(record.headers)["streamfm.model"].split(b"/")[1]) for record in scores)


def test_fifty_champions(calm_cluster: Cluster, streams: Streams, counts: Counts, registry: Registry) -> None:
    both = streams(calm_cluster, "--watch-s", "0.05", model=registry.root / "ctr@champion")
    for stream in both:
        stream.load().start()
    together(both, lambda stream: stream.until_moves("the first champion scores"))
    broken = set()
    for turn in range(1, CHAMPIONS + 1):
        version = registry.publish(BUNDLE, "ctr", keep_source=True).version
        is_broken = turn % BROKEN_EVERY == 0
        # Nobody must see the champion before it is spoiled.
        for stream in both:
            stream.signal(signal.SIGSTOP)
        registry.promote("ctr", version)
        if is_broken:
            spoil(registry, version)
            broken.add(version)
        for stream in both:
            stream.signal(signal.SIGCONT)
        told = f"version {version} is refused" if is_broken else f"ctr/{version} takes over"
        for stream in both:
            wait_for(lambda: told in stream.log(), lambda: stream.told(told))  # noqa: B023
        if turn % 10 == 1:
            together(both, lambda stream: stream.until_moves("the new champion scores"))

    def judge(stream: StreamUnderFault) -> None:
        stream.judged(counts, f"{CHAMPIONS} champions, {len(broken)} of them broken")
        served = served_by(stream)
        assert served.keys() & broken == set()
        assert len(served) > CHAMPIONS / 2, f"hardly any champion has scored: {served}"

    together(both, judge)


def test_a_registry_whose_disk_is_full(
    calm_cluster: Cluster, streams: Streams, counts: Counts, registry: Registry
) -> None:
    both = streams(calm_cluster, "--watch-s", "0.05", model=registry.root / "ctr@champion")
    for stream in both:
        stream.load().start()
    together(both, lambda stream: stream.until_moves("the champion scores"))
    copy = shutil.copytree(BUNDLE, registry.root.parent / "next")
    smallest = 1_000

    done = subprocess.run(
        [sys.executable, "-c", PUBLISH.format(str(registry.root), str(copy))],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (smallest, smallest)),
        capture_output=True,
        text=True,
    )

    assert done.returncode != 0
    assert "BundleError" in done.stderr
    together(both, lambda stream: stream.recovers("a publication that failed"))
    assert registry.publish(copy, "ctr", alias="champion").version
    for stream in both:
        wait_for(lambda: "takes over" in stream.log(), lambda: stream.told("the next champion takes over"))  # noqa: B023
    together(both, lambda stream: stream.judged(counts, "registry without room"))
