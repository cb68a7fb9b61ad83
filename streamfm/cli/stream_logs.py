"""What a long-running command logs: lines on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

LOG_FORMATS = ("text", "json")

# kafka-python tells of each attempt to connect; what comes of them, the adapter says.
_LEVELS = {"streamfm": logging.INFO, "connectors": logging.INFO, "kafka": logging.CRITICAL}


class JsonLines(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the traceback where there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line)


def tell(form: str, level: int, message: str) -> None:
    """Write a line to standard error at once: takes no lock, so that handlers of signals may."""
    if form == "json":
        message = JsonLines().format(logging.LogRecord("streamfm", level, "", 0, message, None, None))
    # Whoever has read it may be gone; that is no reason not to end.
    with suppress(OSError):
        os.write(2, f"{message}\n".encode())


@contextmanager
def written_logs(form: str) -> Iterator[None]:
    """A block in which what streamfm logs, and warnings of other libraries, go to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root = logging.getLogger()
    before = {name: logging.getLogger(name).level for name in _LEVELS}
    root.addHandler(handler)
    for name, level in _LEVELS.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        root.removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
