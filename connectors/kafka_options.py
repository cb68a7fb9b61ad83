"""Options of a client library, given as text: which are the adapter's own, and what the text means."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from streamfm.errors import StreamError

_GUARANTEE = "the guarantee rests on it"
_BYTES = "values pass as bytes; an error in there would make the client spin for ever"

OWNED: Mapping[str, str] = {
    "bootstrap_servers": "see bootstrap_servers",
    "client_id": "it names the worker",
    "group_id": "see group_id",
    "group_instance_id": "see static_membership",
    "transactional_id": "see guarantee, instance and worker_slot",
    "transaction_timeout_ms": "see transaction_timeout_s",
    "delivery_timeout_ms": "see delivery_timeout_s",
    "request_timeout_ms": "see request_timeout_s",
    "max_block_ms": "see request_timeout_s",
    "session_timeout_ms": "see session_timeout_s",
    "heartbeat_interval_ms": "see heartbeat_interval_s",
    "max_poll_interval_ms": "see max_poll_interval_s",
    "auto_offset_reset": "see start; an offset that is out of range stops the worker",
    "enable_auto_commit": "offsets are committed after the scores; " + _GUARANTEE,
    "enable_idempotence": _GUARANTEE,
    "acks": "fewer than all silently turn idempotence off; " + _GUARANTEE,
    "retries": "0 silently turns idempotence off; see delivery_timeout_s",
    "max_in_flight_requests_per_connection": "more than 5 turn idempotence off; " + _GUARANTEE,
    "isolation_level": _GUARANTEE,
    "allow_auto_create_topics": "a topic that is not there is an error",
    "partition_assignment_strategy": "cooperative assignment wins nothing here, and all workers must agree",
    "partitioner": "both clients put a key into the same partition, by murmur2",
    "key_deserializer": _BYTES,
    "value_deserializer": _BYTES,
    "key_serializer": _BYTES,
    "value_serializer": _BYTES,
    "kafka_client": "it is the adapter's",
}
"""Options that cannot be given, and why; with underscores."""

_ROLES = ("consumer", "producer")


def given_for(role: str, options: Mapping[str, str], owned: Mapping[str, str]) -> dict[str, str]:
    """The options for a consumer or a producer, by their names with underscores, as they were given.

    Raises:
        StreamError: An option is among the `owned`.
    """
    found = {}
    for given, text in options.items():
        roles, name = _understood(given, owned)
        if role in roles:
            found[name] = text
    return found


def options_for(role: str, options: Mapping[str, str], known: Mapping[str, Mapping[str, object]]) -> dict[str, object]:
    """The options for a consumer or a producer, typed by the library's defaults.

    Args:
        role: ``consumer`` or ``producer``.
        options: As in `KafkaSettings.options`.
        known: The library's options of both roles, and their defaults.

    Raises:
        StreamError: An option that is unknown, the adapter's own, or of another type.
    """
    typed = {}
    for given, text in options.items():
        roles, name = _understood(given, OWNED)
        if not any(name in known[which] for which in roles):
            near = difflib.get_close_matches(name, {key for which in roles for key in known[which]}, n=1)
            raise StreamError(
                f"option {given!r} is not known to this client", hint=f"did you mean {near[0]!r}?" if near else None
            )
        if role in roles and name in known[role]:
            typed[name] = _typed(given, text, known[role][name], name)
    return typed


def _understood(given: str, owned: Mapping[str, str]) -> tuple[tuple[str, ...], str]:
    """Whose option it is, and its name with underscores."""
    name = given.replace(".", "_")
    only, _, rest = name.partition("_")
    roles = (only,) if only in _ROLES else _ROLES
    name = rest if only in _ROLES else name
    if name in owned:
        raise StreamError(f"option {given!r} cannot be given: {owned[name]}")
    return roles, name


def _typed(given: str, text: str, default: object, name: str) -> object:
    try:
        if name == "api_version":
            return tuple(int(part) for part in text.split("."))
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, int) or name.endswith("_bytes"):
            return int(text)
        if isinstance(default, float):
            return float(text)
    except (KeyError, ValueError):
        kind = "a version like 2.3" if name == "api_version" else f"a value like {default!r}"
        raise StreamError(f"option {given!r} is {text!r}, expected {kind}") from None
    if default is None or isinstance(default, str):
        return text
    raise StreamError(f"option {given!r} cannot be given as text")
