"""The guard: stops a stream of which too many events, or any, would become dead letters."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from streamfm.errors import StreamError
from streamfm.stream.ports import DeadLetter
from streamfm.stream.settings import StreamSettings


class DeadLetterGuard:
    """Sees every batch before it is sent."""

    def __init__(self, settings: StreamSettings) -> None:
        """Tolerate what the settings say."""
        self._settings = settings
        self._batches: deque[tuple[int, int]] = deque()
        self._events = self._dead_letters = 0

    def check(self, events: int, dead_letters: Sequence[DeadLetter]) -> None:
        """Take a batch into account.

        Args:
            events: All of the batch.
            dead_letters: Those that cannot be scored.

        Raises:
            StreamError: One too many; names an event and what is wrong with it.
        """
        self._slide(events, len(dead_letters))
        if dead_letters and self._settings.errors == "none":
            raise StreamError(
                f"{described(dead_letters[0])}; errors are not tolerated",
                hint="--errors all sends such events to the dead-letter topic and goes on",
            )
        share, limit = self._dead_letters / max(self._events, 1), self._settings.max_dead_letter_share
        # Clean batches that leave the window raise the share, too; the next dead letter tells of it.
        if dead_letters and self._events >= self._settings.dead_letter_window and share > limit:
            raise StreamError(
                f"{self._dead_letters:,} of the latest {self._events:,} events cannot be scored, more than a share of "
                f"{limit:g}; one of them: {described(dead_letters[0])}",
                hint="if that is as it should be, raise --max-dead-letter-share",
            )

    def _slide(self, events: int, dead_letters: int) -> None:
        """Add the batch to the window, and drop the oldest that it can do without."""
        self._batches.append((events, dead_letters))
        self._events += events
        self._dead_letters += dead_letters
        while self._events - self._batches[0][0] >= self._settings.dead_letter_window:
            oldest_events, oldest_dead_letters = self._batches.popleft()
            self._events -= oldest_events
            self._dead_letters -= oldest_dead_letters


def described(letter: DeadLetter) -> str:
    """Which event it is, and why it cannot be scored."""
    record = letter.record
    return f"{record.topic}-{record.partition} offset {record.offset}: {letter.reason}: {letter.message}"
