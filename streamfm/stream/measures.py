"""What a stream counts about itself; whoever serves metrics reads it from another thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamfm.stream.answering import Answered
from streamfm.stream.ports import Record

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0)
RECORDS = (1, 4, 16, 64, 256, 512, 1024, 2048, 4096, 8192)

STAGES = ("fill", "decode", "encode", "score", "send", "flush", "commit")
"""What a batch spends its time on."""


class Histogram:
    """How many values were at most each of some bounds.

    Attributes:
        bounds: Upper bounds, ascending; above the last is one more bucket.
        counts: Values in each bucket, not cumulated.
        total: Sum of the values.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        """Count nothing yet."""
        self.bounds = tuple(bounds)
        self.counts: NDArray[np.int64] = np.zeros(len(bounds) + 1, np.int64)
        self.total = 0.0
        self._edges = np.array(bounds)

    def observe(self, *values: float) -> None:
        """Count some values."""
        self.observe_all(np.array(values))

    def observe_all(self, values: NDArray[np.float64]) -> None:
        """Count an array of values."""
        places = np.searchsorted(self._edges, values, side="left")
        self.counts += np.bincount(places, minlength=len(self.counts))
        self.total += float(values.sum())


class Measures:
    """Counts since the start. An event is counted when it is committed, so what is read again counts once.

    Attributes:
        events: Events committed.
        scores: Of these, scored.
        dead_letters: The others, by reason.
        commits: Batches committed.
        disturbances: Times that the stream had to go back to what is committed.
        rebalances: Times that another assignment of partitions took effect, the first one included.
        unknown: Events that had a value that training did not see, by feature.
        shadow_scored: Events that the second model scored.
        shadow_failed: Events that it could not score, or not in time.
        shadow_skipped: Events that it was not asked about, since it had been too slow.
        batch_records: Records of a batch.
        stage_s: Seconds of a batch by stage.
        event_to_score_s: Seconds from an event's timestamp to the acknowledgement of its score.
        turned_s: When the loop last took a turn, by its own clock.
    """

    def __init__(self) -> None:
        """Start at nothing."""
        self.events = self.scores = self.commits = self.disturbances = self.rebalances = 0
        self.shadow_scored = self.shadow_failed = self.shadow_skipped = 0
        self.dead_letters: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self.batch_records = Histogram(RECORDS)
        self.stage_s = {stage: Histogram(SECONDS) for stage in STAGES}
        self.event_to_score_s = Histogram(SECONDS)
        self.turned_s: float | None = None

    def turned(self, now_s: float) -> None:
        """The loop is alive."""
        self.turned_s = now_s

    def took(self, **seconds: float) -> None:
        """A batch spent so long on each stage."""
        for stage, spent in seconds.items():
            self.stage_s[stage].observe(spent)

    def committed(self, records: Sequence[Record], answered: Answered, acknowledged_ms: int) -> None:
        """A batch is done.

        Args:
            records: All of it.
            answered: What became of it.
            acknowledged_ms: When all of it was acknowledged, in milliseconds since 1970.
        """
        letters = answered.answers.dead_letters
        self.commits += 1
        self.events += len(records)
        self.scores += len(records) - len(letters)
        self.batch_records.observe(len(records))
        self.dead_letters.update(letter.reason for letter in letters)
        self.unknown.update(answered.unknown)
        self.shadow_scored += answered.shadow.scored
        self.shadow_failed += answered.shadow.failed
        self.shadow_skipped += answered.shadow.skipped
        stamped = np.array([record.timestamp for record in answered.answers.records], np.int64)
        self.event_to_score_s.observe_all(np.maximum(0, acknowledged_ms - stamped[stamped >= 0]) / 1000.0)
