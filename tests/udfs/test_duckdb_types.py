"""The rule of types, without a database: what is taken, what is refused and in which words."""

from __future__ import annotations

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.errors import DataError
from streamfm.expressions import expressions_of
from streamfm.features import FeatureSpec
from udfs.duckdb_types import arguments_of, is_row, row_value, struct_fields

SPEC = FeatureSpec.from_toml("""
format = 1
label = "clicked"
[inputs]
user = "VARCHAR"
item = "BIGINT"
price = "DOUBLE"
stock = "INTEGER"
both = "INTEGER"
amount = "DECIMAL(9,2)"
ts = "TIMESTAMP"
at = "TIMESTAMPTZ"
seen = "TIMESTAMPTZ"
name = "VARCHAR"
genres = "VARCHAR[]"
sizes = "DOUBLE[]"
unused = "BIGINT"
[features.user]
kind = "categorical"
[features.item]
kind = "categorical"
[features.price]
kind = "numeric"
[features.stock]
kind = "numeric"
[features.both]
kind = "numeric"
[features.both_as_category]
kind = "categorical"
input = "both"
[features.amount]
kind = "categorical"
[features.hour]
kind = "categorical"
sql = "hour(ts)"
[features.at]
kind = "categorical"
[features.seen_hour]
kind = "categorical"
sql = "hour(seen)"
[features.initial]
kind = "categorical"
sql = "name[1]"
[features.genres]
kind = "multivalued"
[features.sizes]
kind = "multivalued"
""")
ARGUMENTS = {argument.item.name: argument for argument in arguments_of(SPEC, expressions_of(SPEC))}

INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT")
NUMBERS = (*INTEGERS, "FLOAT", "DOUBLE", "DECIMAL(18,3)")
TEXTS = ("VARCHAR", "ENUM('a', 'b')", "UUID", "JSON")
TIMES = ("DATE", "TIMESTAMP", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS")
OTHERS = ("BLOB", "BIT", "INTERVAL", "TIME", "STRUCT(a INTEGER)", "TUPLE(INTEGER)", "MAP(VARCHAR, INTEGER)")
EVERY = (*NUMBERS, *TEXTS, *TIMES, *OTHERS, "BOOLEAN", "TIMESTAMP WITH TIME ZONE", '"NULL"')
CATEGORIES = (*TEXTS, *NUMBERS, *TIMES, "BOOLEAN")
ACCEPTED = {
    "user": CATEGORIES,
    "item": CATEGORIES,
    "price": (*NUMBERS, "BOOLEAN"),
    "stock": (*NUMBERS, "BOOLEAN"),
    "both": (*NUMBERS, "BOOLEAN"),
    "amount": (*NUMBERS, "BOOLEAN"),
    "ts": TIMES,
    "at": ("TIMESTAMP WITH TIME ZONE",),
    "seen": ("TIMESTAMP WITH TIME ZONE",),
    "name": (*TEXTS, *INTEGERS, "BOOLEAN"),
}
CARRIERS = {
    "user": "VARCHAR",
    "item": "VARCHAR",
    "price": "DOUBLE",
    "stock": "DOUBLE",
    "both": "VARCHAR",
    "amount": "VARCHAR",
    "ts": "TIMESTAMP",
    "at": "TIMESTAMPTZ",
    "seen": "TIMESTAMPTZ",
    "name": "VARCHAR",
    "genres": "VARCHAR[]",
    "sizes": "DOUBLE[]",
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_an_input_takes_these_types_and_no_others(name):
    taken = {kind for kind in EVERY if ARGUMENTS[name].refusal(kind) is None}
    assert {*ACCEPTED[name], '"NULL"'} == taken


@pytest.mark.parametrize(("name", "elements"), [("genres", CATEGORIES), ("sizes", (*NUMBERS, "BOOLEAN"))])
def test_a_list_takes_lists_and_arrays_of_these_elements(name, elements):
    taken = {kind for kind in EVERY for suffix in ("[]", "[3]") if ARGUMENTS[name].refusal(kind + suffix) is None}
    assert {*elements, '"NULL"'} == taken
    assert {'"NULL"'} == {kind for kind in EVERY if ARGUMENTS[name].refusal(kind) is None}


def test_rows_are_carried_in_these_types():
    assert {name: argument.carrier for name, argument in ARGUMENTS.items()} == CARRIERS


def test_an_input_that_no_feature_uses_is_not_carried():
    assert '"unused"' not in row_value("r", list(ARGUMENTS.values()))


def asked(**given):
    kinds = [given.get(name, '"NULL"') for name in SPEC.input_names]
    return is_row(kinds, SPEC.inputs, list(ARGUMENTS.values()))


def test_single_values_are_no_row():
    assert asked(user="VARCHAR", price="DOUBLE", unused="BLOB") is False


def test_a_struct_in_the_first_place_is_a_row():
    assert asked(user='STRUCT("USER" VARCHAR, other BLOB, price FLOAT)') is True


def test_every_offender_is_named_at_once_with_its_features():
    with pytest.raises(DataError) as caught:
        asked(user="BLOB", both="VARCHAR", seen="TIMESTAMP")
    message = str(caught.value)
    assert "input 'user' (feature 'user'): got BLOB, expected a number, VARCHAR, BOOLEAN, DATE or TIMESTAMP;" in message
    assert "input 'both' (feature 'both', 'both_as_category'): got VARCHAR, expected a number or BOOLEAN;" in message
    assert "input 'seen' (feature 'seen_hour'): got TIMESTAMP, expected TIMESTAMPTZ" in message
    assert caught.value.hint == "cast it: user::VARCHAR"


def test_a_row_s_columns_are_checked_by_name():
    with pytest.raises(DataError, match=r"input 'price' \(feature 'price'\): got VARCHAR"):
        asked(user="STRUCT(price VARCHAR)")


def test_a_row_together_with_values_is_refused():
    with pytest.raises(DataError, match="a whole row and single values"):
        asked(user="STRUCT(price DOUBLE)", price="DOUBLE")


@pytest.mark.parametrize(
    ("name", "kind", "hint"),
    [
        ("ts", "TIMESTAMP WITH TIME ZONE", "ts AT TIME ZONE 'UTC'"),
        ("user", "TIMESTAMP WITH TIME ZONE", "user AT TIME ZONE 'UTC'"),
        ("seen", "TIMESTAMP", "seen AT TIME ZONE 'UTC'"),
        ("genres", "VARCHAR", "[genres]"),
        ("price", "STRUCT(a INTEGER)", "only the first argument may be a whole row"),
        ("ts", "VARCHAR", "ts::TIMESTAMP"),
    ],
)
def test_the_hint_says_what_to_write(name, kind, hint):
    with pytest.raises(DataError) as caught:
        asked(**{name: kind})
    assert hint in caught.value.hint


@pytest.fixture(scope="module")
def database():
    with duckdb.connect() as con:
        yield con


names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=6)
kinds = st.sampled_from(["INTEGER", "ENUM('a,b', 'it''s)', '\"')", "DECIMAL(9,2)", "STRUCT(x INTEGER, y VARCHAR)[]"])


@given(st.dictionaries(names.map(str.casefold), kinds, min_size=1, max_size=4))
def test_the_fields_of_a_struct_are_read_as_duckdb_writes_them(database, fields):
    written = ", ".join('"' + name.replace('"', '""') + f'" {kind}' for name, kind in fields.items())
    (kind,) = database.execute(f"SELECT typeof(NULL::STRUCT({written}))").fetchall()[0]
    expected = database.execute(f"SELECT * FROM (SELECT unnest(NULL::STRUCT({written})))").description
    assert [name for name, *_ in expected] == [name for name, _ in struct_fields(kind)]
    assert list(fields.values()) == [found for _, found in struct_fields(kind)]
