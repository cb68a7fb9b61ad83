"""What a long-running command logs: lines on standard error, as text or as JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from datetime import UTC, datetime

LOG_FORMATS = ("text", "json")


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


def write_logs(form: str) -> None:
    """Send what streamfm logs, and warnings of other libraries, to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    for name in ("streamfm", "connectors"):
        logging.getLogger(name).setLevel(logging.INFO)
    # It tells of each attempt to connect; what comes of them, the adapter says.
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
