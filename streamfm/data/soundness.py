"""Rows of a log that cannot be learnt from: left out, counted by the rule that they break, and told.

A file to train on is mended by who has it, so that `check_rows` refuses it for one wrong value. A log is not: its rows
are there for good, and whoever waits for them to go away waits for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from streamfm.data.checks import Rule, check_types, needed_columns, of_feature, rules_of
from streamfm.data.labelled_rows import deriver_of, values_of
from streamfm.data.sources import Source
from streamfm.errors import DataError
from streamfm.features import FeatureSpec


@dataclass(frozen=True, kw_only=True, slots=True)
class LeftOut:
    """The rows that break one rule.

    Attributes:
        why: What is wrong in the first of them.
        rows: How many.
        event_id: Of the first; None where it has none.
    """

    why: str
    rows: int
    event_id: str | None

    def to_json(self) -> dict[str, Any]:
        """For a manifest."""
        return asdict(self)

    def __str__(self) -> str:
        """For people."""
        where = "" if self.event_id is None else f", as in event {self.event_id!r}"
        return f"{self.rows:,} {'row' if self.rows == 1 else 'rows'} left out: {self.why}{where}"


class Sound(NamedTuple):
    """The rows that can be learnt from, and those that cannot, by the rule that they break; some break several."""

    source: Source
    left_out: tuple[LeftOut, ...]


def sound_part(source: Source, spec: FeatureSpec) -> Sound:
    """The rows of a source that break no rule of `check_rows`.

    Raises:
        SpecError: An SQL feature that is not allowed.
        DataError: Columns are absent, or of a type that cannot be used.
    """
    deriver = deriver_of(spec)
    inputs = needed_columns(spec, deriver)
    source.require([*inputs, spec.label, *(name for name in (spec.weight, spec.event_time) if name)])
    check_types(source, spec, deriver, inputs)
    broken = _broken(source, spec, values_of(source, deriver))
    if not broken:
        return Sound(source, ())
    left_out = tuple(_left_out(source, spec, rule, count) for rule, count in broken)
    anything = " OR ".join(f"({rule.broken})" for rule, _ in broken)
    return Sound(source.part("sound", f"({anything}) IS NOT TRUE"), left_out)


def _broken(source: Source, spec: FeatureSpec, values: Mapping[str, str]) -> list[tuple[Rule, int]]:
    """The rules that rows break, and how many do."""
    rules = rules_of(source, spec, values)
    computed = [f"max(hash({values[feature.name]}))" for feature in spec.features if feature.sql]
    try:
        counts = source.fetch(", ".join([*(f"count_if({rule.broken})" for rule in rules), *computed]))
    except DataError:
        rules = list(_tried_rules(source, spec, values))
        # Each by a filter of its own: what two of them have in common DuckDB computes beforehand, outside of any TRY.
        counts = tuple(source.fetch("count(*)", f"WHERE {rule.broken}")[0] for rule in rules)
    return [(rule, count) for rule, count in zip(rules, counts, strict=False) if count]


def _tried_rules(source: Source, spec: FeatureSpec, values: Mapping[str, str]) -> Iterator[Rule]:
    """The same rules where an SQL feature fails on some rows, and one more for each: that it does not."""
    failing = [feature for feature in spec.features if feature.sql]
    # Where it fails the others see NULL, else they would fail with it.
    yield from rules_of(source, spec, {**values, **{one.name: f"TRY({values[one.name]})" for one in failing}})
    for feature in failing:
        # Of NULL, too, there is a hash.
        broken = f"TRY(hash({values[feature.name]})) IS NULL"
        yield Rule(of=of_feature(feature), broken=broken, shown="NULL", message="fails")


def _left_out(source: Source, spec: FeatureSpec, rule: Rule, count: int) -> LeftOut:
    names = {name.casefold() for name in source.columns}
    identity = "NULL"
    if spec.event_id and spec.event_id.casefold() in names:
        identity = f"CAST({source.column(spec.event_id)} AS VARCHAR)"
    event_id, value = source.fetch(f"{identity}, {rule.shown}", f"WHERE {rule.broken} LIMIT 1")
    return LeftOut(why=f"{rule.of} {rule.message.format(value)}", rows=count, event_id=event_id)
