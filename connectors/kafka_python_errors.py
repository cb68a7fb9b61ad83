"""What kafka-python raises, as errors of streamfm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from kafka.errors import (
    KafkaConfigurationError,
    KafkaConnectionError,
    KafkaError,
    LogTruncationError,
    UnsupportedCodecError,
)

from connectors.kafka_errors import stream_error
from streamfm.errors import StreamError

_CLOSED = "Transport closed for writes"


def translated(doing: str, error: Exception) -> StreamError:
    """What a `StreamError` says of an error of kafka-python."""
    name, text = type(error).__name__, str(error)
    # Most of them tell their name themselves.
    text = text if name in text else f"{name}: {text}".removesuffix(": ")
    if isinstance(error, KafkaConfigurationError | UnsupportedCodecError | LogTruncationError):
        return StreamError(f"{doing}: {text}")
    return stream_error(doing, _code(error, text), text)


def _code(error: Exception, text: str) -> int | None:
    """Kafka's code of the error; of a transaction it often is a plain KafkaError that has the broker's inside."""
    inner = [argument for argument in error.args if isinstance(argument, KafkaError)]
    if inner:
        return _code(inner[0], str(inner[0]))
    told = re.search(r"\[Error (\d+)\]", text)
    return int(told[1]) if told else getattr(error, "errno", None)


FAILURES = (KafkaError, RuntimeError)
"""What requests fail with: a plain RuntimeError, when a broker dies while it is being connected to. See `known`."""


def known(error: Exception) -> KafkaError:
    """The failure as an error of kafka-python; raises it, if it is another one."""
    if isinstance(error, KafkaError):
        return error
    if str(error) == _CLOSED:
        return KafkaConnectionError(_CLOSED)
    raise error


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Raise errors of kafka-python in there as errors of streamfm."""
    try:
        yield
    except FAILURES as error:
        raise translated(doing, known(error)) from error
