"""What kafka-python raises, as errors of streamfm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import KafkaConfigurationError, KafkaError, LogTruncationError, UnsupportedCodecError

from connectors.kafka_errors import stream_error
from streamfm.errors import StreamError


def translated(doing: str, error: Exception) -> StreamError:
    """What a `StreamError` says of an error of kafka-python."""
    text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    # Errors of transactions often come as a plain KafkaError that has the broker's in its text.
    inner = re.search(r"\[Error (\d+)\]", text)
    code = int(inner[1]) if inner else getattr(error, "errno", None)
    if isinstance(error, KafkaConfigurationError | UnsupportedCodecError | LogTruncationError):
        return StreamError(f"{doing}: {text}")
    return stream_error(doing, code, text)


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Raise errors of kafka-python in there as errors of streamfm."""
    try:
        yield
    except KafkaError as error:
        raise translated(doing, error) from error
