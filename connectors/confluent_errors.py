"""What confluent-kafka raises and reports, as errors of streamfm and as lines of the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from connectors.kafka_errors import stream_error
from streamfm.errors import DisturbedError, StreamError

logger = logging.getLogger(__name__)

_TELL_AGAIN_S = 60.0

# Errors of the library that stand for one of the broker's.
_BROKERS = {KafkaError._FENCED: KafkaError.PRODUCER_FENCED, KafkaError._AUTHENTICATION: 58}
_CONFIGURATION = frozenset((KafkaError._INVALID_ARG, KafkaError._CONFLICT, KafkaError._NOT_IMPLEMENTED))


class Reports:
    """What librdkafka tells of beside its calls: a call that fails for want of a broker does not say why.

    Attributes:
        fatal: After this error the client does nothing more.
        refused: The brokers do not believe who we are.
    """

    def __init__(self) -> None:
        """Nothing was told."""
        self.fatal: Any = None
        self.refused: Any = None
        self._told_s: dict[int, float] = {}

    def __call__(self, error: Any) -> None:
        """Take a report; librdkafka's `error_cb`."""
        if error.fatal():
            self.fatal = error
        elif error.code() == KafkaError._AUTHENTICATION:
            self.refused = error
        self._tell(error)

    def _tell(self, error: Any) -> None:
        """Log it, but not each of the hundreds that a broker that is away brings; their texts have times in them."""
        now_s, code = time.monotonic(), error.code()
        if now_s - self._told_s.get(code, float("-inf")) >= _TELL_AGAIN_S:
            self._told_s[code] = now_s
            logger.warning("Kafka: %s", text_of(error))

    def cause_of(self, error: Any) -> Any:
        """The error that explains this one, or itself."""
        if error.code() == KafkaError._FATAL:
            return self.fatal or error
        return self.refused or error


def text_of(error: Any) -> str:
    """Name and text of an error."""
    return f"{error.name()}: {error.str()}"


def translated(doing: str, error: Any) -> StreamError:
    """What a `StreamError` says of an error of librdkafka."""
    if error.code() in _CONFIGURATION:
        return StreamError(f"{doing}: {text_of(error)}")
    return stream_error(doing, _BROKERS.get(error.code(), error.code()), text_of(error))


@contextmanager
def translating(doing: str, reports: Reports) -> Iterator[None]:
    """Raise errors of confluent-kafka in there as errors of streamfm."""
    try:
        yield
    except KafkaException as failure:
        raise translated(doing, reports.cause_of(failure.args[0])) from failure
    except SystemError as failure:
        # The library raises a fatal error between two reports of records, and may lose it there.
        cause = failure.__cause__
        error = cause.args[0] if isinstance(cause, KafkaException) else reports.fatal
        if error is None:
            raise DisturbedError(f"{doing}: a fatal error, which the client does not name") from failure
        raise translated(doing, reports.cause_of(error)) from failure
