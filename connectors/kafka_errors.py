"""Errors of Kafka, told apart: those that pass, and those that somebody must mend; calls that must come to an end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import TypeVar

from streamfm.errors import DisturbedError, StreamError

_ALLOW = "grant it with kafka-acls.sh, or use another user (options sasl_..., ssl_...)"
_SMALLER = (
    "raise max.message.bytes of the topic, and the option producer.max_request_size (kafka-python) "
    "or producer.message.max.bytes (confluent)"
)

MENDS: Mapping[int, str] = {
    10: _SMALLER,
    17: "topic names have letters, digits, '.', '_' and '-'",
    18: _SMALLER,
    23: "the group is used by other programs with another assignment strategy: choose another group_id",
    24: "choose another group_id",
    26: "session_timeout_s must be in the broker's group.min.session.timeout.ms to group.max.session.timeout.ms",
    29: _ALLOW,
    30: _ALLOW,
    31: _ALLOW,
    32: "the topic refuses the event's time: see its message.timestamp.before.max.ms and ...after.max.ms",
    33: "see the option sasl_mechanism",
    34: "see the options security_protocol and sasl_mechanism",
    35: "the broker is too old",
    43: "the topic's message format is too old",
    44: "the topic's policy refuses the record",
    50: "transaction_timeout_s must not be longer than the broker's transaction.max.timeout.ms",
    53: _ALLOW,
    58: "see the options sasl_plain_username and sasl_plain_password",
    76: "see the option producer.compression_type",
    81: "the group has group.max.size members",
    82: "another worker runs with the same group_id, instance and worker_slot; give each a slot of its own",
    87: "the topic refuses the record: a compacted topic needs keys",
}
"""What to do about the errors, by Kafka's codes, that no second try mends."""

_FENCED = frozenset((47, 90))
FENCED_HINT = (
    "another worker runs with the same group_id, instance and worker_slot: give each a slot of its own; "
    "or batches take longer than transaction_timeout_s"
)

_Result = TypeVar("_Result")


class FencedError(DisturbedError):
    """Another producer has taken the transactional id, or the broker has ended the transaction for its age."""


def stream_error(doing: str, code: int | None, text: str) -> StreamError:
    """The error to be raised for one of Kafka.

    Args:
        doing: What was tried.
        code: Kafka's code of the error; None where it is the client's own.
        text: What the client says.
    """
    if code is not None and code in MENDS:
        return StreamError(f"{doing}: {text}", hint=MENDS[code])
    if code in _FENCED:
        return FencedError(f"{doing}: {text}", hint=FENCED_HINT)
    return DisturbedError(f"{doing}: {text}")


def no_topic(topic: str, bootstrap_servers: str) -> StreamError:
    """The error to be raised for a topic that is not found."""
    return StreamError(
        f"topic {topic!r} is not there, or this user may not see it",
        hint=f"kafka-topics.sh --bootstrap-server {bootstrap_servers} --create --topic {topic}",
    )


def bounded(doing: str, limit_s: float, call: Callable[[], _Result]) -> _Result:
    """What `call()` returns or raises, if it ends in time; else it goes on in a thread that nobody waits for.

    Raises:
        DisturbedError: It did not.
    """
    results: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name=f"streamfm: {doing}", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise DisturbedError(f"{doing}: not done after {limit_s:g} s")
    return results[0]
