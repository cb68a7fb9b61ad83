"""The headers that Kafka Connect gives to what it could not process, so that its tools find their way."""

from __future__ import annotations

from streamfm.stream.ports import STAGES, DeadLetter, Header

_PREFIX = "__connect.errors."
# A message may repeat the value; a dead letter that is too large would stop the stream.
_MESSAGE_CHARACTERS = 1_000


def error_headers(letter: DeadLetter, *, connector: str, task: int) -> list[Header]:
    """The event's own headers, untouched, and after them where it was, and what is wrong with it.

    Args:
        letter: The event, and why it cannot be scored.
        connector: Who found it: the consumer group.
        task: Which of its workers.
    """
    record, message = letter.record, letter.message
    if len(message) > _MESSAGE_CHARACTERS:
        message = message[:_MESSAGE_CHARACTERS] + "..."
    facts = {
        "topic": record.topic,
        "partition": record.partition,
        "offset": record.offset,
        "connector.name": connector,
        "task.id": task,
        "stage": STAGES.get(letter.reason, "TASK_PUT"),
        "class.name": f"streamfm.{letter.reason}",
        "exception.class.name": letter.error,
        "exception.message": message,
        "exception.stacktrace": f"{letter.error}: {message}",
    }
    return [*record.headers, *((_PREFIX + name, str(fact).encode()) for name, fact in facts.items())]
