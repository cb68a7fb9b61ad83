"""Late positives: clicks that are known only after their impression was labelled and trained on.

They come after the attribution window, or reach the log late. The model was told 0 (or a smaller weight) by then. With
`late_positives` the impression comes back once as a positive, with a weight that makes up for the 0 in expectation:

    w = v + p / (1 - p)             v: weight of the kind; p: probability of a click, as served

Rows (x, 1) of mass p, of which a share λ comes late: trained on are p (1 - λ) on time, 1 - p (1 - λ) as negatives, of
which λ p are false, and λ p w again. The best odds of log loss are (p (1 - λ) + λ p w) / (1 - p + λ p), which are
p / (1 - p) for every λ just when w = 1 / (1 - p), which is the formula at v = 1. Said by gradients: a pair of a
positive of weight v and a negative of weight -1, which takes the false one back, has the gradient -v (1 - p) - p at
the logit; so has a positive of weight w. It is the fake negative weighting of Ktena et al. 2019, Addressing Delayed
Feedback for Continuous Training with Neural Networks in CTR Prediction, with the whole correction in the row that
comes late, so that rows on time stay as they are.

Of negatives of which a share s is kept, the false one was trained on only if it was kept (the same hash tells), at odds
that are 1 / s times higher: w = v + p / (1 - p) / s if it was, v if not. An impression that was a positive of a smaller
weight u comes back with v - u. p is at most `MOST_PROBABLE`, since a row may not outweigh a thousand others.
"""

from __future__ import annotations

from streamfm.labels.drawing import kept
from streamfm.labels.names import AGAIN, CLICKS, ID, LATE, MATCHED, RANK, ROW, STATE, US, WEIGHT
from streamfm.labels.settings import LabelSettings

MOST_PROBABLE = 0.95


def find_late(reach_us: int) -> str:
    """SQL that makes `LATE` of impressions that were read: what was known of them then, and what is now."""
    counts = f"c.us BETWEEN m.us AND m.us + {reach_us}"
    return (
        f"CREATE TABLE {LATE} AS SELECT m.id, m.us, max(c.weight) AS new, max(c.weight) FILTER (c.read) AS old "
        f"FROM {MATCHED} m JOIN {CLICKS} c ON c.id = m.id WHERE m.place = 'past' AND {counts} "
        f"GROUP BY ALL HAVING old IS NULL OR new > old"
    )


def late_rows(shown: str, settings: LabelSettings, score: str | None, click_rate: float) -> str:
    """SQL of the impressions in `LATE`, as rows to label.

    Args:
        shown: SQL of the impressions that were read.
        settings: See there.
        score: The column of served probabilities, quoted; None without one.
        click_rate: Stands for it.
    """
    p = rate = repr(float(click_rate))
    if score is not None:
        served = f"CAST({ROW}.{score} AS DOUBLE)"
        p = f"CASE WHEN isfinite({served}) THEN {served} ELSE {rate} END"
    p = f"greatest(0, least({p}, {MOST_PROBABLE}))"
    odds = f"{p} / (1 - {p}) / {settings.negative_share!r}"
    false_negative = f"CASE WHEN {kept(settings, f'{ROW}.{ID}')} THEN {odds} ELSE 0 END"
    weight = f"CASE WHEN l.old IS NULL THEN l.new + {false_negative} ELSE l.new - l.old END"
    return (
        f"SELECT {ROW}.*, {weight} AS {WEIGHT}, {AGAIN} AS {STATE}, true AS {RANK} "
        f"FROM ({shown}) {ROW} JOIN {LATE} l ON {ROW}.{ID} = l.id AND {ROW}.{US} = l.us "
        f"QUALIFY row_number() OVER (PARTITION BY {ROW}.{ID} ORDER BY {ROW}) = 1"
    )
