"""What the loop is told: how batches fill, and what happens to events that cannot be scored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamfm.errors import StreamError

Errors = Literal["none", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamSettings:
    """A batch is full with `max_batch_records`, `max_batch_bytes`, or `linger_s` after its first record.

    Attributes:
        max_batch_records: Records that are scored and sent together.
        max_batch_bytes: Bytes of their values after which a batch takes no more.
        linger_s: How long a batch waits for more records after its first; 0 takes what is there.
        commit_interval_s: How long batches that are acknowledged may wait to be committed together, up to the size of
            a full one; 0 commits each. What is not committed when the process dies is read again.
        errors: Which errors are tolerated: ``all`` makes a dead letter of an event that cannot be scored, ``none``
            stops at the first one.
        max_dead_letter_share: Share of dead letters among the latest `dead_letter_window` events above which the
            stream stops; 1 never does.
        dead_letter_window: See there; nothing stops before so many events were seen.
        max_event_bytes: An event with a larger value is a dead letter.
        event_id: The JSON field that names an event; one without it is a dead letter. Empty: none is asked for. None:
            that of the model's specification.
        keep: JSON fields of the event that the answer repeats.
        keep_inputs: Whether it also repeats all inputs of the model that answers, so that one can learn from it.
        with_logit: Whether the answer tells the logit, too.
        shadow_limit_s: When a second model takes longer than that for a batch, it is left out for `shadow_pause_s`. It
            is also left out of batches while all of them have taken it more than twice as long as the first model.
        shadow_pause_s: See there.
        idle_s: How long a poll may wait when there is nothing else to do.
        backoff_s: The first wait after a disturbance; it doubles up to `max_backoff_s`.
        max_backoff_s: The longest.

    Raises:
        StreamError: A setting out of its range; names it.
    """

    max_batch_records: int = 4096
    max_batch_bytes: int = 16 << 20
    linger_s: float = 0.002
    commit_interval_s: float = 0.1
    errors: Errors = "all"
    max_dead_letter_share: float = 0.5
    dead_letter_window: int = 1_000
    max_event_bytes: int = 1 << 20
    event_id: str | None = None
    keep: tuple[str, ...] = ()
    keep_inputs: bool = False
    with_logit: bool = False
    shadow_limit_s: float = 0.5
    shadow_pause_s: float = 60.0
    idle_s: float = 0.1
    backoff_s: float = 0.1
    max_backoff_s: float = 5.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("max_batch_records", "max_batch_bytes", "dead_letter_window", "max_event_bytes"):
            _require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}, expected 1 or more")
        for name in (
            "linger_s",
            "commit_interval_s",
            "shadow_limit_s",
            "shadow_pause_s",
            "idle_s",
            "backoff_s",
            "max_backoff_s",
        ):
            _require(getattr(self, name) >= 0, f"{name} is {getattr(self, name)}, expected 0 or more")
        _require(
            0 <= self.max_dead_letter_share <= 1,
            f"max_dead_letter_share is {self.max_dead_letter_share}, expected 0 to 1",
        )
        _require(self.errors in ("none", "all"), f"errors is {self.errors!r}, expected 'none' or 'all'")


def _require(right: bool, message: str) -> None:
    if not right:
        raise StreamError(message)
