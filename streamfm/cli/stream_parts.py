"""What the options of `streamfm stream` make: settings, the model, the two ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from connectors.kafka_settings import KafkaSettings
from streamfm.cli.stream_operation import Operation
from streamfm.errors import StreamError
from streamfm.stream.ports import Sink, Source
from streamfm.stream.serving import ServedModels
from streamfm.stream.settings import StreamSettings

Given = Mapping[str, Any]
Made = TypeVar("Made")


def settings(given: Given) -> StreamSettings:
    """What the loop is told. What came from a pipe is not there to be read again: JSON lines are committed at once."""
    known = {} if given["bootstrap_servers"] else {"commit_interval_s": 0.0}
    return _made(StreamSettings, given, **known)


def models(given: Given) -> ServedModels:
    """The model, and the one beside it.

    Raises:
        RegistryError: No such model, version or alias.
        BundleError: It was refused.
        StreamError: The settings do not go with it.
    """
    return ServedModels(
        given["reference"],
        settings(given),
        shadow=given["shadow"],
        precision=given["precision"],
        threads=given["threads"],
    )


def kafka(given: Given) -> KafkaSettings:
    """What the adapter of Kafka is told.

    Raises:
        StreamError: A setting that cannot be.
    """
    if given["guarantee"] == "exactly-once" and given["commit_interval_s"] > given["transaction_timeout_s"] / 2:
        raise StreamError(
            f"commit_interval_s is {given['commit_interval_s']:g}, expected at most half of transaction_timeout_s, "
            f"{given['transaction_timeout_s']:g}: the broker aborts a transaction that takes longer",
            hint="give a shorter --commit-interval-s, or a longer --transaction-timeout-s",
        )
    dead_letters = given["dead_letters"] or f"{given['source'].partition(',')[0]}.dead-letters"
    return _made(
        KafkaSettings,
        given,
        input_topics=tuple(given["source"].split(",")),
        output_topic=given["target"],
        dead_letter_topic=dead_letters if given["errors"] == "all" else "",
        group_id=given["group"],
        worker_slot=given["slot"] or 0,
        stop="end" if given["until_end"] else given["stop"] or "",
    )


def ends(given: Given) -> tuple[Source, Sink]:
    """Where events come from, and where scores go.

    Raises:
        StreamError: One of them is not there, or cannot be used.
    """
    if not given["bootstrap_servers"]:
        return _files(given)
    if given["client"] == "confluent":
        from connectors.confluent_events import open_kafka as open_confluent

        return open_confluent(kafka(given))
    from connectors.kafka_events import open_kafka

    return open_kafka(kafka(given))


def _files(given: Given) -> tuple[Source, Sink]:
    from connectors.jsonl_events import open_json_lines

    return open_json_lines(given["source"], given["target"], given["dead_letters"], follow=given["follow"])


def operation(given: Given) -> Operation:
    """How the worker is run."""
    http = given["http"]
    if http is not None and http[1]:
        http = (http[0], http[1] + (given["slot"] or 0))
    return _made(Operation, given, http=http)


def _made(kind: type[Made], given: Given, **known: Any) -> Made:
    """The dataclass, of what is known and of the options that have its fields' names."""
    named = {field.name: given[field.name] for field in fields(kind) if field.name in given}  # type: ignore[arg-type]
    return kind(**(named | known))
