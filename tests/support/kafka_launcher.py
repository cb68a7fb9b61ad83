"""A genuine Kafka from ../shared/kafka, whose nodes a test may start, kill, pause and resume."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

LAUNCHER = Path(__file__).parents[3] / "shared" / "kafka" / "broker"


def why_no_launcher() -> str:
    """Why no broker can be started here; empty if one can."""
    if not LAUNCHER.exists():
        return f"no Kafka can be started: there is no {LAUNCHER}"
    return "" if shutil.which("java") else "no Kafka can be started: there is no java"


class Brokers:
    """A cluster of its own, of one node or three."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        try:
            self.bootstrap = self.call("start", *options)
        except subprocess.CalledProcessError:
            # A port that was free is another's in the meantime.
            shutil.rmtree(folder, ignore_errors=True)
            self.bootstrap = self.call("start", *options)
        self.nodes = self.bootstrap.count(",") + 1

    def call(self, command: str, *options: object) -> str:
        line = [str(LAUNCHER), command, str(self.folder), *map(str, options)]
        return subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True, timeout=300).stdout.strip()

    def close(self) -> None:
        self.call("destroy")
