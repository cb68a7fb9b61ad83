"""Features that are SQL expressions: checked once, then derived by one and the same text on every route.

Training, streams and Python derive them in a private DuckDB (`Deriver`); the SQL functions put the same text into the
user's query. So `hour(ts)` is one definition, in UTC, whatever the session says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from streamfm.errors import DataError, SpecError
from streamfm.expressions.checking import Expression
from streamfm.expressions.checking import check as check_sql
from streamfm.expressions.prepared import private_connection, run
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.features.accepted import of_arrow, refusal

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

__all__ = ["Deriver", "Expression", "check", "expressions_of", "private_connection", "quoted", "typed"]

_NUMBERS = {
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT"),
    *("FLOAT", "DOUBLE", "BOOLEAN"),
}
_CATEGORIES = _NUMBERS | {"VARCHAR", "DATE", "TIMESTAMP"}


def quoted(name: str) -> str:
    """The name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def typed(item: Input, value: str) -> str:
    """The SQL that turns a value of an input (an SQL text) into what expressions see; a failed cast and NaN are NULL.

    A TIMESTAMPTZ becomes the TIMESTAMP in UTC, by way of the epoch, which no session's TimeZone bends.
    """
    if item.type == "TIMESTAMPTZ":
        return f'"system".main.make_timestamp("system".main.epoch_us(TRY_CAST({value} AS TIMESTAMPTZ)))'
    if item.family == "real" and not item.is_list and item.type != "DOUBLE":
        # By way of the type in which every route carries numbers, so that each rounds the same.
        value = f"TRY_CAST({value} AS DOUBLE)"
    cast, element = f"TRY_CAST({value} AS {item.type})", item.type.removesuffix("[]")
    if element not in ("FLOAT", "DOUBLE"):
        return cast
    # NaN is the missing value everywhere else: dicts and data frames bring it as NULL.
    if item.is_list:
        return f"\"system\".main.list_transform({cast}, lambda one: NULLIF(one, 'nan'::{element}))"
    return f"NULLIF({cast}, 'nan'::{element})"


def check(feature: Feature, inputs: tuple[Input, ...], connection: DuckDBPyConnection | None = None) -> Expression:
    """The feature's expression, if it is a scalar one over the inputs whose value nothing else can change.

    Raises:
        SpecError: It is not (see streamfm.expressions.checking), or its result does not suit the feature's kind.
    """
    where = f"feature {feature.name!r}"
    seen = {i.name: "TIMESTAMP" if i.type == "TIMESTAMPTZ" else i.type for i in inputs if i.type != "TIMESTAMPTZ[]"}
    expression = check_sql(feature.sql, seen, connection or private_connection(), where=where)
    kind = expression.type.split("(", maxsplit=1)[0]
    if feature.kind == "multivalued":
        suits = expression.type.endswith("[]") and expression.type[:-2] in _CATEGORIES
        expected = "a list of texts, integers, booleans or dates"
    elif feature.kind == "numeric":
        suits, expected = kind in {*_NUMBERS, "DECIMAL"} and not expression.type.endswith("]"), "a number"
    else:
        suits = kind in {*_CATEGORIES, "DECIMAL"} and not expression.type.endswith("]")
        expected = "a single text, number, boolean, date or timestamp"
    if not suits:
        hint = None if expression.type == '"NULL"' else "cast the result: (...)::VARCHAR"
        raise SpecError(
            f"{where} is {feature.kind}: expected {expected}, but its sql gives {expression.type}", hint=hint
        )
    return expression


def expressions_of(spec: FeatureSpec) -> dict[str, Expression]:
    """The expressions of all features that have one, by feature name; without any, DuckDB is not even imported.

    Raises:
        SpecError: As `check`.
    """
    derived = [feature for feature in spec.features if feature.sql]
    if not derived:
        return {}
    connection = private_connection()
    try:
        return {feature.name: check(feature, spec.inputs, connection) for feature in derived}
    finally:
        connection.close()


class Deriver:
    """Adds the columns of a specification's SQL features. Safe to share between threads; can be pickled and forked."""

    def __init__(self, spec: FeatureSpec) -> None:
        """Check the expressions.

        Raises:
            SpecError: As `check`.
        """
        self.spec = spec
        self.expressions = expressions_of(spec)
        used = {name for expression in self.expressions.values() for name in expression.columns}
        self._inputs = tuple(item for item in spec.inputs if item.name in used)

    def derive(
        self, columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int
    ) -> dict[str, pa.Array | pa.ChunkedArray]:
        """The columns, and those of the SQL features by feature name.

        Args:
            columns: By input name; an absent one is all NULL.
            rows: B, the length of every column.

        Raises:
            DataError: A column whose type its expressions cannot use, or an expression that fails on a value.
        """
        result = dict(columns)
        if self.expressions:
            result.update(self._run(self._sources(columns, rows), list(self.expressions)))
        return result

    def _sources(self, columns: Mapping[str, pa.Array | pa.ChunkedArray], rows: int) -> pa.Table:
        arrays = []
        for item in self._inputs:
            array = columns.get(item.name)
            if array is None:
                array = pa.nulls(rows)
            elif expected := refusal(item, ["sql"], of_arrow(array.type)):
                used = f"input {item.name!r} ({item.type}) is used by SQL features"
                msg = f"{used}, but its column holds {array.type}, expected {expected}"
                raise DataError(msg, hint=f"cast the column to {item.type}")
            elif item.family == "text":
                _check_utf8(item, array)
            arrays.append(_readable(array))
        # A column of its own keeps the number of rows when expressions use no input.
        names = [f"c{number}" for number in range(len(arrays))]
        return pa.table([*arrays, pa.nulls(rows)], names=[*names, "nothing"])

    def _run(self, sources: pa.Table, features: list[str]) -> dict[str, pa.Array]:
        import duckdb

        values = {item.name: typed(item, f"c{number}") for number, item in enumerate(self._inputs)}
        wanted = [f"{self.expressions[name].render(values)} AS {quoted(name)}" for name in features]
        try:
            derived = run(", ".join(wanted), sources)
        except (duckdb.FatalException, duckdb.InternalException) as error:
            raise self._failure(features[0], error) from error
        except duckdb.Error as error:
            raise self._blame(sources, features, error) from error
        return {name: derived.column(name).combine_chunks() for name in features}

    def _blame(self, sources: pa.Table, features: list[str], error: Exception) -> DataError:
        """The error of the feature that fails, found by deriving one at a time."""
        for name in features if len(features) > 1 else ():
            try:
                self._run(sources, [name])
            except DataError as found:
                return found
        return self._failure(features[0], error)

    def _failure(self, feature: str, error: Exception) -> DataError:
        text = str(error).split("\n", maxsplit=1)[0]
        hint = "TRY(...) makes NULL of what fails"
        return DataError(f"feature {feature!r}: sql = {self.expressions[feature].sql!r}: {text}", hint=hint)


def _readable(array: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The column in a type that DuckDB reads."""
    if types.is_run_end_encoded(array.type) and _readable_type(array.type.value_type) != array.type.value_type:
        array = pc.run_end_decode(array)
    kind = _readable_type(array.type)
    return array if kind == array.type else pc.cast(array, kind)


def _readable_type(kind: pa.DataType) -> pa.DataType:
    """A type that DuckDB reads and that holds the same values: what it casts alike to the declared type."""
    if types.is_float16(kind):
        return pa.float64()
    if types.is_decimal(kind) and (types.is_decimal256(kind) or kind.scale < 0):
        return pa.string()
    if types.is_dictionary(kind):
        entry = _readable_type(kind.value_type)
        return kind if entry == kind.value_type else entry
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        element = _readable_type(kind.value_type)
        return kind if element == kind.value_type else pa.large_list(element)
    return kind


def _check_utf8(item: Input, array: pa.Array | pa.ChunkedArray) -> None:
    # DuckDB trusts Arrow's texts, and gives its whole database up when a function meets one that is none.
    try:
        array.validate(full=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"input {item.name!r}: {error}", hint="decode its bytes to UTF-8 text first") from error
