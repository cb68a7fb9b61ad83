"""Settings as a model's specification completes them: names stand there once, for all who join."""

from __future__ import annotations

from dataclasses import replace

from streamfm.features import FeatureSpec
from streamfm.labels.settings import LabelSettings


def fitted(settings: LabelSettings, spec: FeatureSpec) -> LabelSettings:
    """The settings with the specification's event id, event time, label and weight.

    Raises:
        SpecError: It names no event id or event time, or no weight where clicks give weights.
    """
    # Impressions may have weights of their own; where clicks give them, that is what the column holds.
    weighted = settings.late_positives or set(settings.positives.values()) != {1.0}
    return replace(
        settings,
        impression_id=spec.event_id,
        impression_time=spec.event_time,
        label=spec.label,
        weight=spec.weight if weighted else "",
    )
