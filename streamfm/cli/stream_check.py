"""`streamfm stream --check`: whether everything a stream needs is there, before it runs."""

from __future__ import annotations

import json
import time

import click

from streamfm.cli import stream_parts as parts
from streamfm.cli.console import answer
from streamfm.cli.stream_parts import Given
from streamfm.stream.ports import Event, Record
from streamfm.stream.serving import ServedModels


def print_checks(given: Given) -> int:
    """Print each thing that was checked, and how it is; the exit code."""
    models = parts.models(given)
    scorer = models.current().scorer
    found = [("model", True, f"{scorer.name}/{scorer.version or '?'}, {scorer.precision}, loaded and warmed up")]
    if given["bootstrap_servers"]:
        from connectors.kafka_check import check

        checks, sample = check(parts.kafka(given), given["client"])
    else:
        from connectors.jsonl_check import check as check_files

        checks, sample = check_files(given["source"], given["target"], given["dead_letters"])
    found += checks
    found.append(_scored(models, sample))
    for what, is_right, message in found:
        answer(
            f"{click.style('ok    ', fg='green') if is_right else click.style('FAILED', fg='red')} {what}: {message}"
        )
    return 0 if all(is_right for _, is_right, _ in found) else 1


def _scored(models: ServedModels, sample: Record | None) -> tuple[str, bool, str]:
    """One event answered: the sample or, where there is none, one without values."""
    named = {models.settings.event_id: "check"} if models.settings.event_id else {}
    record = sample or Event("", 0, 0, -1, None, json.dumps(named).encode())
    answered = models.current().answer([record], time.time_ns() // 1_000_000)
    where = f"{record.topic}-{record.partition} offset {record.offset}" if sample else "an event without values"
    if answered.answers.values:
        return "one event", True, f"{where}: {answered.answers.values[0].decode()}"
    letter = answered.answers.dead_letters[0]
    return "one event", False, f"{where}: {letter.reason}: {letter.message}"
