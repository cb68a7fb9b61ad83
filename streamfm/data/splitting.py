"""Which rows train and which validate."""

from __future__ import annotations

from streamfm.data.labelled_rows import instant
from streamfm.data.sources import ROW_NUMBER, Source
from streamfm.errors import DataError
from streamfm.features import FeatureSpec

_PRIME = 2**31 - 1


def split(source: Source, spec: FeatureSpec, *, valid_fraction: float, seed: int) -> tuple[Source, Source]:
    """The rows to train on and those to validate on, as parts of the source.

    With an event time, the latest rows validate, as the model will be asked about what comes after; all rows of one
    instant are on one side. Without one, rows are drawn at random, the same ones for the same seed.

    Raises:
        DataError: One of the two would be empty.
    """
    if not 0 < valid_fraction < 1:
        raise DataError(f"valid_fraction is {valid_fraction}, expected more than 0 and less than 1")
    if spec.event_time:
        time = instant(source.column(spec.event_time))
        later = f"{time} >= {_cut(source, spec, valid_fraction)}"
        parts = source.part("train", f"NOT coalesce({later}, false)"), source.part("valid", later)
    else:
        drawn = f"{_mixed(seed)} < {int(valid_fraction * _PRIME)}"
        parts = source.part("train", f"NOT {drawn}"), source.part("valid", drawn)
    for part in parts:
        if part.rows == 0:
            hint = "give the rows to validate on yourself"
            raise DataError(f"{part.name}: no rows when {valid_fraction:g} of {source.rows:,} validate", hint=hint)
    return parts


def _cut(source: Source, spec: FeatureSpec, fraction: float) -> str:
    """SQL of the instant from which on rows validate."""
    return f"make_timestamptz({cut_us(source, spec, fraction)})"


def cut_us(source: Source, spec: FeatureSpec, fraction: float) -> int:
    """The instant from which on the latest `fraction` of the rows are, in microseconds since 1970.

    Raises:
        DataError: No row has an event time.
    """
    time = instant(source.column(spec.event_time))
    known = source.fetch(f"count({time})")[0]
    if not known:
        raise DataError(f"{source.name}: event time {spec.event_time!r} is NULL in every row")
    offset = min(known - 1, round(known * (1 - fraction)))
    # Sorted, not a quantile function: those hold all values in memory.
    found = source.fetch(f"epoch_us({time})", f"WHERE {time} IS NOT NULL ORDER BY {time} LIMIT 1 OFFSET {offset}")
    return int(found[0])


def _mixed(seed: int) -> str:
    """SQL of a number below 2**31 - 1 that looks random, made of the row's number and the seed.

    The fifth power is a permutation modulo this prime; it runs at the speed of a scan, and no version changes it.
    """
    x = f"(({ROW_NUMBER} * 1103515245 + {seed % _PRIME}) % {_PRIME})"
    square = f"({x} * {x} % {_PRIME})"
    return f"({square} * {square} % {_PRIME} * {x} % {_PRIME})"


def drawn(source: Source, rows: int, *, seed: int = 0) -> Source:
    """The source itself when it has no more than so many rows, else about as many of them, drawn at random and kept."""
    if source.rows <= rows:
        return source
    part = source.part("sample", f"{_mixed(seed)} < {int(rows / source.rows * _PRIME)}")
    source.execute(f"CREATE OR REPLACE TABLE drawn AS {part.sql}")
    return Source(source.name, source.connection, "SELECT * FROM drawn")
