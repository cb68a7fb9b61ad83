"""A sample of the rows that were trained on, labelled by the same rules, for replay.

Impressions are drawn first, by a hash of their id, and only these are joined with clicks.
"""

from __future__ import annotations

import math

from streamfm.data.sources import Source
from streamfm.expressions import quoted
from streamfm.labels.drawing import drawn, kept
from streamfm.labels.joining import Join, kind_weight
from streamfm.labels.logs import OFFSET, PARTITION
from streamfm.labels.names import ID, RANK, READ, ROW, US, WEIGHT

_DRAWN, _HISTORY = "streamfm_drawn", "streamfm_history"


def draw_history(join: Join, rows: int, *, seed: int, from_us: int | None) -> Source:
    """So many labelled rows of those that were read, drawn at random; fewer where there are fewer.

    Args:
        join: The round's.
        rows: At most.
        seed: The same seed draws the same rows of the same log.
        from_us: No earlier ones.
    """
    source, log = join.source, join.impressions.log
    draw = drawn(ID, seed)
    past = join.shown(READ, from_us=-(2**62) if from_us is None else from_us)
    # Negatives that were sampled out are drawn, too; so many more are drawn at first.
    most = math.ceil(rows / join.settings.negative_share)
    source.execute(
        f"CREATE OR REPLACE TABLE {_DRAWN} AS SELECT DISTINCT id FROM "
        f"(SELECT {ID} AS id FROM ({past}) ORDER BY {draw}, {ID} LIMIT {most})"
    )
    first = f"row_number() OVER (PARTITION BY {ID} ORDER BY {US}, {ROW}) = 1"
    once = f"SELECT {ROW}.* FROM ({past}) {ROW} WHERE {ID} IN (SELECT id FROM {_DRAWN}) QUALIFY {first}"
    settings, hidden = join.settings, [ID, US, READ, WEIGHT, RANK, *([PARTITION, OFFSET] if log.has_offsets else [])]
    label = f"CAST({WEIGHT} IS NOT NULL AS TINYINT) AS {quoted(settings.label)}"
    weight = f", coalesce({WEIGHT}, 1.0) AS {quoted(settings.weight)}" if settings.weight else ""
    joined = (
        f"SELECT s.*, (SELECT max(c.weight) FROM ({_clicks(join)}) c "
        f"WHERE c.id = s.{ID} AND c.us BETWEEN s.{US} AND s.{US} + {join.reach_us}) AS {WEIGHT}, {draw} AS {RANK} "
        f"FROM ({once}) s"
    )
    wanted = f"WHERE {WEIGHT} IS NOT NULL OR {kept(settings, ID)} ORDER BY {RANK}, {ID} LIMIT {rows}"
    source.execute(
        f"CREATE OR REPLACE TABLE {_HISTORY} AS SELECT * EXCLUDE ({', '.join(hidden)}), {label}{weight} "
        f"FROM (SELECT * FROM ({joined}) {wanted}) ORDER BY {US}, {ID}"
    )
    return Source("rows labelled before", source.connection, f"SELECT * FROM {_HISTORY}")


def _clicks(join: Join) -> str:
    """SQL of the clicks on the rows drawn."""
    log, weight = join.clicks.log, kind_weight(join.settings, join.clicks.log)
    there = f"{join.clicks.rows(join.closing.limit_us)} AND {log.us} < {join.closing.clicks_us}"
    wanted = f"{join.casts[1]} IN (SELECT id FROM {_DRAWN})"
    return log.source.select(
        f"{join.casts[1]} AS id, {log.us} AS us, {weight} AS weight", f"WHERE {there} AND {wanted}"
    )
