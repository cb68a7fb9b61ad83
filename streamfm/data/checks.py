"""What must hold of rows before anything is made of them: columns, types, labels, weights, numbers, lengths.

Every rule is a condition in SQL that counts the rows that break it. All rules are asked in one pass; only when one is
broken is the first such row looked for, so that the error can name it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pyarrow import types

from streamfm.data.readers import literal
from streamfm.data.sources import Source
from streamfm.errors import DataError
from streamfm.expressions import Deriver
from streamfm.features import Feature, FeatureSpec
from streamfm.features.accepted import of_arrow, refusal, use_of

MAX_TEXT_BYTES = 1 << 20
"""A longer category is a mistake: a page, a file, a broken line of CSV."""

_SHORT_TEXT_BYTES = 40


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """A condition that no row may fulfil.

    Attributes:
        of: What the rule is about.
        broken: SQL over the source's columns.
        shown: SQL of the value to show.
        message: With a place for the value.
        hint: What to do about it.
    """

    of: str
    broken: str
    shown: str
    message: str
    hint: str | None = None


def needed_columns(spec: FeatureSpec, deriver: Deriver) -> tuple[str, ...]:
    """The inputs that features are made of, in the order of the specification."""
    used = {feature.input for feature in spec.features if not feature.sql}
    used |= {name for expression in deriver.expressions.values() for name in expression.columns}
    return tuple(name for name in spec.input_names if name in used)


def check_rows(source: Source, spec: FeatureSpec, deriver: Deriver, values: Mapping[str, str]) -> None:
    """Refuse rows that cannot be learnt from, or measured on.

    Args:
        source: The rows.
        spec: The specification.
        deriver: Of its SQL features.
        values: SQL of each feature's values over the source's columns.

    Raises:
        DataError: No rows; a column of a type that its feature cannot use; a label that is NULL, or not 0 or 1; a
            weight that is NULL, negative or not finite, or zero in all rows; infinity in a number; a text longer
            than `MAX_TEXT_BYTES`; an SQL feature that fails. Names the column and the first row, or the feature.
    """
    inputs = needed_columns(spec, deriver)
    if source.rows == 0:
        raise DataError(f"{source.name}: no rows", hint="check the file, or the filter it was read with")
    check_types(source, spec, deriver, inputs)
    rules = rules_of(source, spec, values)
    counted = [(rule.of, f"count_if({rule.broken})") for rule in rules]
    # No rule may look at an SQL feature; that it does not fail is seen by computing it.
    computed = [(of_feature(feature), f"max(hash({values[feature.name]}))") for feature in spec.features if feature.sql]
    counts = _aggregates(source, counted + computed)
    for rule, count in zip(rules, counts, strict=False):
        if count:
            place, value = source.first_row(rule.broken, rule.shown)
            raise DataError(f"{place}: {rule.of} {rule.message.format(value)} ({count:,} such rows)", hint=rule.hint)
    if spec.weight and not source.fetch(f"max({source.column(spec.weight)})")[0]:
        raise DataError(f"{source.name}: weight {spec.weight!r} is 0 in every row: no row would count")


def rules_of(source: Source, spec: FeatureSpec, values: Mapping[str, str]) -> list[Rule]:
    """What must hold of labels, weights and the values of features; the SQL of the latter is given."""
    return [*_label_rules(source, spec), *_weight_rules(source, spec), *_value_rules(source, spec, values)]


def _aggregates(source: Source, aggregates: Sequence[tuple[str, str]]) -> tuple[Any, ...]:
    """The values of all aggregates, each of which is about something; the one that fails is named."""
    try:
        return source.fetch(", ".join(sql for _, sql in aggregates))
    except DataError:
        for of, sql in aggregates:
            try:
                source.fetch(sql)
            except DataError as error:
                hint = error.hint or "TRY(...) makes NULL of what fails"
                raise DataError(f"{of}: {error.message}", hint=hint) from error
        raise


def of_feature(feature: Feature) -> str:
    """A feature, and what it is made of."""
    made = f"sql = {feature.sql!r}" if feature.sql else f"column {feature.input!r}"
    return f"feature {feature.name!r}: {made}"


def check_labels_differ(source: Source, spec: FeatureSpec) -> None:
    """Refuse rows that teach nothing.

    Raises:
        DataError: All labels are equal.
    """
    label = source.column(spec.label)
    low, high = source.fetch(f"min({label}), max({label})")
    if low == high:
        hint = "is the log complete? A table of clicks alone needs the impressions without one, too"
        message = f"{source.name}: label {spec.label!r} is {_number(low)} in all {source.rows:,} rows: nothing to learn"
        raise DataError(message, hint=hint if spec.task == "binary" else None)


def _number(value: object) -> str:
    return f"{float(value):g}" if isinstance(value, (bool, int, float)) else str(value)


def check_types(source: Source, spec: FeatureSpec, deriver: Deriver, inputs: tuple[str, ...]) -> None:
    """Refuse columns of types that cannot be used.

    Raises:
        DataError: Names the column.
    """
    optional = [name for name in (spec.weight, spec.event_time) if name]
    listed = ", ".join(f"{source.column(name)} AS c{i}" for i, name in enumerate([*inputs, spec.label, *optional]))
    kinds = dict(zip([*inputs, spec.label, *optional], source.schema(source.select(listed)).types, strict=True))
    for feature in spec.features:
        if feature.sql:
            continue
        item = spec.input(feature.input)
        if expected := refusal(item, [use_of(feature)], of_arrow(kinds[item.name])):
            found = f"{source.name}: column {item.name!r} holds {_type_of(source, item.name)}"
            message = f"{found}: feature {feature.name!r} is {feature.kind}, expected {expected}"
            raise DataError(message, hint=f"cast it to {item.type}, or change the feature {feature.name!r}")
    try:
        deriver.derive({name: pa.array([], kinds[name]) for name in inputs}, 0)
    except DataError as error:
        raise DataError(f"{source.name}: {error.message}", hint=error.hint) from error
    for name in (spec.label, spec.weight):
        if name and not of_arrow(kinds[name]).is_number():
            column = source.column(name)
            hint = f"make it so in SQL, such as: SELECT * REPLACE ({_as_number(source, name)} AS {column}) FROM ..."
            message = f"{source.name}: column {name!r} holds {_type_of(source, name)}, expected numbers"
            raise DataError(message, hint=hint)
    if spec.event_time and not (types.is_timestamp(kinds[spec.event_time]) or types.is_date(kinds[spec.event_time])):
        hint = "make one of seconds since 1970 in SQL: SELECT *, make_timestamp(ts * 1000000) AS event_time FROM ..."
        found = _type_of(source, spec.event_time)
        raise DataError(f"{source.name}: event time {spec.event_time!r} holds {found}, expected TIMESTAMP", hint=hint)


def _as_number(source: Source, name: str) -> str:
    """SQL that makes numbers of a column: a cast, or where texts are no numbers a comparison with one of them.

    It is the last, which of no and yes, or false and true, is the one that means 1.
    """
    column = source.column(name)
    if _type_of(source, name) == "VARCHAR":
        others = f"WHERE TRY_CAST({column} AS DOUBLE) IS NULL AND strlen({column}) <= {_SHORT_TEXT_BYTES}"
        last = source.fetch(f"max({column})", others)[0]
        if last is not None:
            return f"({column} = {literal(last)})"
    return f"CAST({column} AS DOUBLE)"


def _type_of(source: Source, name: str) -> str:
    kinds = {column.casefold(): kind for column, kind in source.columns.items()}
    return kinds[name.casefold()]


def _label_rules(source: Source, spec: FeatureSpec) -> Iterator[Rule]:
    label, of = source.column(spec.label), f"label {spec.label!r}"
    hint = f"leave these rows out: SELECT * FROM ... WHERE {label} IS NOT NULL"
    yield Rule(of=of, broken=f"{label} IS NULL", shown=label, message="is NULL", hint=hint)
    number = f"CAST({label} AS DOUBLE)"
    if spec.task == "binary":
        made = f"SELECT * REPLACE ({label} > 0 AS {label}) FROM ..."
        hint = f'say which are 1: {made}, of ratings perhaps >= 4; or set task = "regression"'
        yield Rule(of=of, broken=f"{number} NOT IN (0, 1)", shown=label, message="is {}, expected 0 or 1", hint=hint)
    else:
        broken, message = f"NOT isfinite({number})", "is {}, expected a finite number"
        yield Rule(of=of, broken=broken, shown=label, message=message)


def _weight_rules(source: Source, spec: FeatureSpec) -> Iterator[Rule]:
    if spec.weight:
        weight = source.column(spec.weight)
        number = f"CAST({weight} AS DOUBLE)"
        yield Rule(
            of=f"weight {spec.weight!r}",
            broken=f"{weight} IS NULL OR NOT isfinite({number}) OR {number} < 0",
            shown=weight,
            message="is {}, expected a finite number of at least 0",
            hint="a row that should not count has weight 0",
        )


def _value_rules(source: Source, spec: FeatureSpec, values: Mapping[str, str]) -> Iterator[Rule]:
    kinds = source.describe(source.select(", ".join(f"{sql} AS v{i}" for i, sql in enumerate(values.values()))))
    for feature, kind in zip(spec.features, kinds.values(), strict=True):
        value = values[feature.name]
        of = of_feature(feature)
        if feature.kind == "numeric":
            x = feature.input or "..."
            hint = (
                f'make it a missing value, by a feature of another name: sql = "CASE WHEN isfinite({x}) THEN {x} END"'
            )
            yield Rule(of=of, broken=f"isinf(CAST({value} AS DOUBLE))", shown=value, message="is {}", hint=hint)
        elif kind.startswith("VARCHAR"):
            length = f"strlen({value})" if kind == "VARCHAR" else f"strlen(array_to_string({value}, ''))"
            message = f"holds {{:,}} bytes of text, more than {MAX_TEXT_BYTES:,}"
            hint = f'is the file damaged? Or shorten it: sql = "left({feature.input or "..."}, 100)"'
            yield Rule(of=of, broken=f"{length} > {MAX_TEXT_BYTES}", shown=length, message=message, hint=hint)
