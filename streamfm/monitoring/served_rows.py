"""Labelled rows that say what was served: which columns tell it, and which rows do."""

from __future__ import annotations

from streamfm.data.labelled_rows import instant
from streamfm.data.sources import Source
from streamfm.errors import DataError
from streamfm.expressions import quoted
from streamfm.features import FeatureSpec
from streamfm.monitoring.settings import MonitorSettings

_OTHER_VERSION = "version"


class ServedRows:
    """Labelled rows, and SQL of what monitoring asks of them.

    Attributes:
        source: The rows of the model that carry a score, a probability that is.
        unscored: Rows of the model that carry none.
        others: Rows of other models.
        score: SQL of the probability.
        version: SQL of the version, a text; '—' where none is known.
        us: SQL of the event time in microseconds since 1970.
        label: SQL of 0 or 1.
        weight: SQL of the sample weight.
    """

    def __init__(self, source: Source, spec: FeatureSpec, settings: MonitorSettings, name: str) -> None:
        """Find the columns; count the rows.

        Args:
            source: Labelled rows: the spec's inputs, event time and label, and the served score.
            spec: The model's.
            settings: Names of the columns that tell what was served.
            name: The model's.

        Raises:
            MissingColumnsError: The label, event time or score is not there.
            DataError: No row carries a score.
        """
        have = {column.casefold() for column in source.columns}
        source.require([spec.label, spec.event_time, settings.score])
        version = next((one for one in (settings.version, _OTHER_VERSION) if one.casefold() in have), None)
        self.score = f"CAST({source.column(settings.score)} AS DOUBLE)"
        self.version = "'—'" if version is None else f"coalesce(CAST({source.column(version)} AS VARCHAR), '—')"
        self.us = f"epoch_us({instant(source.column(spec.event_time))})"
        self.label = f"CAST({source.column(spec.label)} AS DOUBLE)"
        self.weight = f"CAST({source.column(spec.weight)} AS DOUBLE)" if spec.weight else "1::DOUBLE"
        mine = "true"
        if settings.model.casefold() in have:
            # What was served without a name may be anyone's; it has a score, so that it counts.
            mine = f"coalesce({source.column(settings.model)} = {_literal(name)}, true)"
        scored = f"coalesce({self.score} BETWEEN 0 AND 1, false)"
        total, ours, told = source.fetch(f"count(*), count_if({mine}), count_if(({mine}) AND {scored})")
        if not told:
            raise DataError(
                f"{source.name}: none of {total:,} labelled rows carries a score of {name} from 0 to 1",
                hint=f"collect what `streamfm stream` writes as impressions: it has {quoted(settings.score)} in it",
            )
        self.source = source.part(f"served by {name}", f"({mine}) AND {scored}")
        self.unscored, self.others = ours - told, total - ours

    def part_of(self, version: int) -> Source:
        """The rows that one version served."""
        return self.source.part(f"version {version}", f"{self.version} = {_literal(str(version))}")


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
