"""Impressions and clicks to labelled rows: closed, joined, counted, and judged whether to be believed.

    with closed_labels("impressions/", "clicks/", LabelSettings(window_s=1800), since=position, now=clock()) as labels:
        if labels.refusal is None:
            learn(LabelledRows(labels.source, spec), labels.history(1_000, seed=7))
            position = labels.position

An impression is closed when the watermarks of both logs have passed the end of its window: T = min(watermark of the
impressions, of the clicks) - window, where a watermark is the largest time seen, no later than now, minus the
lateness; of clicks from a stream that of the partition which has come least far. What closes is labelled once: the
position says which rows were.
"""

from streamfm.labels.closing import Labels, closed_labels
from streamfm.labels.counting import LabelCounts
from streamfm.labels.fitting import fitted
from streamfm.labels.health import Refusal
from streamfm.labels.settings import LabelSettings, Position, logit_correction

__all__ = [
    "LabelCounts",
    "LabelSettings",
    "Labels",
    "Position",
    "Refusal",
    "closed_labels",
    "fitted",
    "logit_correction",
]
