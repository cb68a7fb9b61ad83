"""The encoder against a naive one, under every form that a column can have."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfm.encoder import Encoded, Encoder
from streamfm.encoder.kernels import MAX_WEIGHT
from streamfm.encoder.vocabulary import VALUES_SCHEMA, NumericStatistics, Vocabularies, VocabularyWriter
from streamfm.errors import DataError
from streamfm.features import Feature, FeatureSpec, Input
from streamfm.rows import to_columns

SPEC = FeatureSpec.from_toml("""
    format = 1
    label = "clicked"

    [inputs]
    user = "VARCHAR"
    item = "BIGINT"
    ratio = "FLOAT"
    fresh = "BOOLEAN"
    price = "DOUBLE"
    stock = "INTEGER"
    age = "DOUBLE"
    genres = "VARCHAR[]"
    items = "BIGINT[]"
    agent = "VARCHAR"

    [features.user]
    kind = "categorical"
    [features.item]
    kind = "categorical"
    [features.ratio]
    kind = "categorical"
    [features.fresh]
    kind = "categorical"
    [features.price]
    kind = "numeric"
    [features.log_price]
    kind = "numeric"
    input = "price"
    transform = "log1p"
    [features.stock]
    kind = "numeric"
    transform = "none"
    [features.age]
    kind = "numeric"
    transform = "quantile"
    buckets = 4
    [features.genres]
    kind = "multivalued"
    max_length = 3
    [features.items]
    kind = "multivalued"
    table = "item"
    pooling = "sum"
    max_length = 2
    [features.agent]
    kind = "categorical"
    hash_buckets = 50
    [features.hour]
    kind = "categorical"
    sql = "'h' || user"
""")
VALUES = {
    "user": ["ann", "bob", "", "ü"],
    "item": ["1", "2", "-3"],
    "ratio": ["0.1", "2"],
    "fresh": ["true", "false"],
    "genres": ["puzzle", "racing"],
    "hour": ["hann"],
}
NUMERICS = {
    "price": NumericStatistics(mean=2.0, deviation=4.0),
    "log_price": NumericStatistics(mean=0.5, deviation=2.0),
    "stock": NumericStatistics(),
    "age": NumericStatistics(boundaries=(10.0, 20.0, 20.5)),
}
# Each table's first row: after NULL, unknown and the values of the table before.
BASES = {"user": 0, "item": 6, "ratio": 11, "fresh": 15, "price": 19, "log_price": 22, "stock": 25, "age": 28}
BASES |= {"genres": 34, "agent": 38, "hour": 90}
ROWS = 93


def fit(folder: Path, spec: FeatureSpec, values: Mapping[str, list[str]]) -> Vocabularies:
    """Vocabularies by hand, with a table of every kind that the specification asks for."""
    writer = VocabularyWriter(folder)
    first = {feature.table: feature for feature in reversed(spec.features)}
    for table in dict.fromkeys(feature.table for feature in spec.features):
        feature = first[table]
        if feature.is_numeric_slot:
            writer.add_rows(feature.table, "number", 3)
        elif feature.kind == "numeric":
            writer.add_rows(feature.table, "quantile", 2 + feature.buckets)
        elif feature.hash_buckets:
            writer.add_rows(feature.table, "hashed", 2 + feature.hash_buckets)
        else:
            known = values[feature.table]
            batch = pa.record_batch([pa.array(known, pa.string()), pa.array([1] * len(known))], schema=VALUES_SCHEMA)
            writer.add_values(feature.table, len(known), [batch])
    return writer.finish(
        {f.name: NUMERICS.get(f.name, NumericStatistics()) for f in spec.features if f.kind == "numeric"}
    )


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(SPEC, fit(tmp_path_factory.mktemp("encoder") / "vocabulary", SPEC, VALUES))


# Laws that follow from the definition already, asked of rows that take long to draw.
FEW = settings(max_examples=30)

Row = dict[str, Any]
TEXTS = st.sampled_from([*VALUES["user"], *VALUES["genres"], "nobody", "\x00"]) | st.text(max_size=40)
INTEGERS = st.sampled_from([1, 2, -3]) | st.integers(-(2**63), 2**63 - 1)
NUMBERS = st.floats()
EVENTS = st.fixed_dictionaries(
    {
        "user": st.none() | TEXTS,
        "item": st.none() | INTEGERS,
        "ratio": st.none() | st.floats(width=32),
        "fresh": st.none() | st.booleans(),
        "price": st.none() | NUMBERS,
        "stock": st.none() | st.integers(-(2**31), 2**31 - 1),
        "age": st.none() | NUMBERS | st.sampled_from([10.0, 20.0, 20.5]),
        "genres": st.none() | st.lists(st.none() | TEXTS, max_size=5),
        "items": st.none() | st.lists(st.none() | INTEGERS, max_size=5),
        "agent": st.none() | TEXTS,
        "hour": st.none() | st.sampled_from(["hann", "hbob"]),
    }
)
TYPES = {
    "user": pa.string(),
    "item": pa.int64(),
    "ratio": pa.float32(),
    "fresh": pa.bool_(),
    "price": pa.float64(),
    "stock": pa.int32(),
    "age": pa.float64(),
    "genres": pa.list_(pa.string()),
    "items": pa.list_(pa.int64()),
    "agent": pa.string(),
    "hour": pa.string(),
}


def columns_of(rows: list[Row]) -> dict[str, pa.Array]:
    return {name: pa.array([row[name] for row in rows], kind) for name, kind in TYPES.items()}


def naive(row: Row) -> tuple[list[int], list[float]]:
    """What one row must give, by the definitions."""
    ids, weights = [], []

    def look_up(table: str, value: Any) -> int:
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return BASES[table]
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
        if isinstance(value, float):
            text = next((known for known in VALUES[table] if np.float32(known) == np.float32(value)), "unknown")
        known = VALUES[table]
        return BASES[table] + (2 + known.index(text) if text in known else 1)

    def number(name: str, value: float | None, scaled: float) -> None:
        missing = value is None or not math.isfinite(value)
        ids.append(BASES[name] + (0 if missing else 2))
        weights.append(1.0 if missing else min(max(scaled, -MAX_WEIGHT), MAX_WEIGHT))

    def spread(table: str, values: list[Any] | None, length: int, *, mean: bool) -> None:
        kept = [None] if values is None else values[:length]
        ids.extend([look_up(table, value) for value in kept] + [BASES[table]] * (length - len(kept)))
        weights.extend(
            [1 / len(kept) if mean else 1.0] * len(kept) + [0.0] * (length - len(kept)) if kept else [0.0] * length
        )

    for name in ("user", "item", "ratio", "fresh"):
        ids.append(look_up(name, row[name]))
        weights.append(1.0)
    price, age, agent = row["price"], row["age"], row["agent"]
    finite = price if price is not None and math.isfinite(price) else 0.0
    number("price", price, (finite - 2.0) / 4.0)
    number("log_price", price, (math.copysign(math.log1p(abs(finite)), finite) - 0.5) / 2.0)
    number("stock", row["stock"], row["stock"] or 0)
    missing = age is None or not math.isfinite(age)
    ids.append(BASES["age"] + (0 if missing else 2 + sum(age >= boundary for boundary in (10.0, 20.0, 20.5))))
    weights.append(1.0)
    spread("genres", row["genres"], 3, mean=True)
    spread("item", row["items"], 2, mean=False)
    seed = xxhash.xxh64_intdigest(b"agent")
    hashed = 0 if agent is None else 2 + xxhash.xxh64_intdigest(agent.encode(), seed=seed) % 50
    ids.append(BASES["agent"] + hashed)
    ids.append(look_up("hour", row["hour"]))
    weights.extend([1.0, 1.0])
    return ids, weights


def assert_same(expected: Encoded, actual: Encoded) -> None:
    np.testing.assert_array_equal(expected.ids, actual.ids)
    assert expected.weights is not None
    assert actual.weights is not None
    np.testing.assert_array_equal(expected.weights, actual.weights)


def test_the_layout_of_a_specification(encoder: Encoder) -> None:
    layout = encoder.layout
    fields = [(field.name, field.start, field.length) for field in layout.fields]
    assert [
        *(("user", 0, 1), ("item", 1, 1), ("ratio", 2, 1), ("fresh", 3, 1), ("price", 4, 1), ("log_price", 5, 1)),
        *(("stock", 6, 1), ("age", 7, 1), ("genres", 8, 3), ("items", 11, 2), ("agent", 13, 1), ("hour", 14, 1)),
    ] == fields
    assert (15, ROWS, True) == (layout.slots, layout.rows, layout.weighted)
    bases = [BASES.get(name, BASES["item"]) for name, _, _ in fields]
    assert bases == layout.null_rows.tolist()
    assert [base + 1 for base in bases] == layout.unknown_rows.tolist()


@given(st.lists(EVENTS, max_size=8))
def test_rows_are_encoded_as_defined(encoder: Encoder, rows: list[Row]) -> None:
    encoded = encoder.encode(columns_of(rows), len(rows))
    expected = [naive(row) for row in rows]
    shape = (len(rows), 15)
    np.testing.assert_array_equal(np.array([ids for ids, _ in expected], np.int32).reshape(shape), encoded.ids)
    np.testing.assert_allclose(
        np.array([weights for _, weights in expected], np.float32).reshape(shape), encoded.weights, rtol=1e-6
    )


@FEW
@given(st.lists(EVENTS, min_size=1, max_size=8))
def test_what_comes_out_is_what_the_model_reads(encoder: Encoder, rows: list[Row]) -> None:
    ids, weights = encoder.encode(columns_of(rows), len(rows))
    assert weights is not None
    assert (np.int32, np.float32) == (ids.dtype, weights.dtype)
    assert ids.flags.c_contiguous
    assert weights.flags.c_contiguous
    assert np.isfinite(weights).all()
    ends = [*(BASES[name] for name in list(BASES)[1:]), ROWS]
    limits = dict(zip(BASES, ends, strict=True))
    for field, feature in zip(encoder.layout.fields, SPEC.features, strict=True):
        slots = ids[:, field.start : field.start + field.length]
        assert ((BASES[feature.table] <= slots) & (slots < limits[feature.table])).all()


@FEW
@given(st.lists(EVENTS, min_size=1, max_size=8), st.data())
def test_permuted_rows_have_permuted_ids(encoder: Encoder, rows: list[Row], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(rows))))
    ids, weights = encoder.encode(columns_of(rows), len(rows))
    assert weights is not None
    permuted = encoder.encode(columns_of([rows[index] for index in order]), len(rows))
    assert_same(Encoded(ids[list(order)], weights[list(order)]), permuted)


@FEW
@given(st.lists(EVENTS, min_size=1, max_size=8), st.data())
def test_a_part_of_a_batch_is_encoded_as_in_the_whole(encoder: Encoder, rows: list[Row], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    stop = data.draw(st.integers(start, len(rows)))
    columns = columns_of(rows)
    ids, weights = encoder.encode(columns, len(rows))
    assert weights is not None
    part = encoder.encode({name: array.slice(start, stop - start) for name, array in columns.items()}, stop - start)
    assert_same(Encoded(ids[start:stop], weights[start:stop]), part)


def dictionary(array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        plain = pa.array(array.to_pylist(), array.type)
        entries = plain.values.dictionary_encode()
        return pa.ListArray.from_arrays(plain.offsets, entries, mask=pc.is_null(plain))
    return array.dictionary_encode() if array.type in (pa.string(), pa.int64(), pa.float64()) else array


def dictionary_with_null_entry(array: pa.Array) -> pa.Array:
    if array.type != pa.string():
        return array
    entries = pa.concat_arrays([pa.nulls(1, pa.string()), array])
    return pa.DictionaryArray.from_arrays(pa.array([n + 1 for n in range(len(array))], pa.int16()), entries)


def large_dictionary(array: pa.Array) -> pa.Array:
    """Of many more entries than rows: decoded, not looked up entry by entry."""
    if array.type != pa.string():
        return array
    entries = pa.concat_arrays([array, pa.array([f"other {n}" for n in range(200)])])
    return pa.DictionaryArray.from_arrays(pa.array(range(len(array)), pa.int32()), entries)


def large(array: pa.Array) -> pa.Array:
    kinds = {pa.string(): pa.large_string(), pa.list_(pa.string()): pa.large_list(pa.large_string())}
    return array.cast(kinds.get(array.type, array.type))


def views(array: pa.Array) -> pa.Array:
    if pa.types.is_list(array.type):
        return pa.array(array.to_pylist(), pa.list_view(array.type.value_type))
    return array.cast(pa.string_view()) if array.type == pa.string() else array


def polars_categories(array: pa.Array) -> pa.Array:
    if array.type != pa.string():
        return array
    encoded = array.dictionary_encode()
    return pa.DictionaryArray.from_arrays(encoded.indices.cast(pa.uint32()), encoded.dictionary.cast(pa.string_view()))


def shifted(array: pa.Array) -> pa.Array:
    """The same values behind others, so that no offset is 0."""
    return pa.concat_arrays([array, array]).slice(len(array), len(array))


def shifted_views(array: pa.Array) -> pa.Array:
    return shifted(views(array))


def chunks_of(form: Callable[[pa.Array], pa.Array]) -> Callable[[pa.Array], pa.ChunkedArray]:
    def chunked(array: pa.Array) -> pa.ChunkedArray:
        middle = len(array) // 2
        parts = [array.slice(0, middle), array.slice(0, 0), array.slice(middle)]
        return pa.chunked_array([form(part) for part in parts])

    return chunked


def run_ends(array: pa.Array) -> pa.Array:
    return pc.run_end_encode(array) if array.type in (pa.string(), pa.float64(), pa.int64()) else array


FORMS = {
    "dictionary": dictionary,
    "dictionary with a NULL entry": dictionary_with_null_entry,
    "large dictionary": large_dictionary,
    "large": large,
    "views": views,
    "categories of polars": polars_categories,
    "offset": shifted,
    "offset views": lambda array: shifted(views(array)),
    "offset dictionary": lambda array: shifted(dictionary(array)),
    "run ends": run_ends,
    "chunks": chunks_of(lambda array: array),
    "chunks of views": chunks_of(views),
    "chunks with dictionaries of their own": chunks_of(dictionary),
    "chunks with polars' dictionaries": chunks_of(polars_categories),
    "chunks of run ends": chunks_of(run_ends),
}


@pytest.mark.parametrize("form", FORMS)
@FEW
@given(st.lists(EVENTS, min_size=1, max_size=6))
def test_every_arrow_form_of_a_column_has_the_same_ids(encoder: Encoder, form: str, rows: list[Row]) -> None:
    columns = columns_of(rows)
    formed = {name: FORMS[form](array) for name, array in columns.items()}
    assert_same(encoder.encode(columns, len(rows)), encoder.encode(formed, len(rows)))


@pytest.mark.parametrize("rows_per_entry", [100, 3, 2, 1])
def test_dictionaries_of_any_share_of_entries_have_the_same_ids(encoder: Encoder, rows_per_entry: int) -> None:
    """Few entries are looked up themselves, many are decoded."""
    texts = pa.array([None, "ann", "nobody", *(f"user {number}" for number in range(5)), "ü"])
    ratios = pa.array([None, 0.1, math.nan, *(number / 8 for number in range(5)), 2.0])
    count = len(texts) * rows_per_entry
    indices = [None if number % 5 == 4 else number * 7 % len(texts) for number in range(count + 3)]
    for index in (pa.int8() if count < 120 else pa.uint16(), pa.int64()):
        columns = {
            "user": pa.DictionaryArray.from_arrays(pa.array(indices, index), texts).slice(3),
            "ratio": pa.DictionaryArray.from_arrays(pa.array(indices, index), ratios).slice(3),
        }
        plain = {name: array.dictionary_decode() for name, array in columns.items()}
        assert_same(encoder.encode(plain, count), encoder.encode(columns, count))


@FEW
@given(st.lists(EVENTS, min_size=1, max_size=6))
def test_dicts_have_the_ids_of_tables(encoder: Encoder, rows: list[Row]) -> None:
    given_hours = [row.pop("hour") for row in copy.deepcopy(rows)]
    events = [{name: row[name] for name in SPEC.input_names} for row in rows]
    expected = encoder.encode(columns_of(rows), len(rows))
    columns, count = to_columns(events, SPEC)
    assert_same(expected, encoder.encode(columns | {"hour": pa.array(given_hours, pa.string())}, count))
    for number, (event, hour) in enumerate(zip(events, given_hours, strict=True)):
        columns, count = to_columns(event, SPEC)
        one = encoder.encode(columns | {"hour": pa.array([hour], pa.string())}, count)
        assert_same(expected.part(number, 1), one)


@FEW
@given(st.lists(EVENTS, min_size=1, max_size=4))
def test_the_inputs_are_left_as_they_were(encoder: Encoder, rows: list[Row]) -> None:
    columns = columns_of(rows)
    before = {name: array.to_pylist() for name, array in copy.deepcopy(columns).items()}
    encoder.encode(columns, len(rows))
    assert repr(before) == repr({name: array.to_pylist() for name, array in columns.items()})


def test_no_rows_are_no_ids(encoder: Encoder) -> None:
    ids, weights = encoder.encode(columns_of([]), 0)
    assert weights is not None
    assert ((0, 15), (0, 15)) == (ids.shape, weights.shape)
    assert (0, 15) == encoder.encode({}, 0).ids.shape


NOTHING = dict.fromkeys(TYPES)


@pytest.mark.parametrize(
    "columns",
    [
        {},
        {name: pa.nulls(3) for name in TYPES},
        {name: pa.nulls(3, kind) for name, kind in TYPES.items()},
        {name: pa.chunked_array([], kind).combine_chunks() for name, kind in TYPES.items()}
        and columns_of([NOTHING] * 3),
        {"unheard of": pa.array([1, 2, 3])},
    ],
    ids=["absent", "type null", "all NULL", "rows of None", "others only"],
)
def test_what_is_absent_is_null(encoder: Encoder, columns: dict[str, pa.Array]) -> None:
    ids, weights = naive(NOTHING)
    expected = Encoded(np.array([ids] * 3, np.int32), np.array([weights] * 3, np.float32))
    assert_same(expected, encoder.encode(columns, 3))


def test_unknown_values_take_the_unknown_row_and_missing_ones_the_null_row(encoder: Encoder) -> None:
    ids = encoder.encode({"user": pa.array(["nobody", None, "bob", "Bob", "bob "])}, 5).ids
    assert [1, 0, 3, 1, 1] == ids[:, 0].tolist()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None])
@pytest.mark.parametrize("feature", ["price", "log_price", "age"])
def test_numbers_that_are_none_take_the_null_row_with_weight_one(
    encoder: Encoder, feature: str, value: float | None
) -> None:
    slot = next(field.start for field in encoder.layout.fields if field.name == feature)
    ids, weights = encoder.encode({"price": pa.array([value], pa.float64()), "age": pa.array([value], pa.float64())}, 1)
    assert weights is not None
    assert (BASES[feature], 1.0) == (ids[0, slot], weights[0, slot])


@pytest.mark.parametrize("value", [1.7e308, -1.7e308, 5e-324, 0.0, -0.0])
def test_extreme_numbers_have_finite_weights(encoder: Encoder, value: float) -> None:
    weights = encoder.encode({"price": pa.array([value])}, 1).weights
    assert weights is not None
    assert (np.abs(weights) <= MAX_WEIGHT).all()


@pytest.mark.parametrize(
    "values",
    [
        pa.array([3, None], pa.int8()),
        pa.array([3, None], pa.int64()),
        pa.array([9, 3, None], pa.int64()).slice(1),
        pa.array([3, None], pa.uint64()),
        pa.array([3, None], pa.float32()),
        pa.array([np.float16(3), None], pa.float16()),
        pa.array([Decimal("3.00"), None]),
        pa.array([3, None]).dictionary_encode(),
        pa.array([3.0, None]).dictionary_encode(),
        pa.array([1, 3, None]).slice(1),
        pc.run_end_encode(pa.array([3.0, None])),
    ],
    ids=lambda values: str(values.type),
)
def test_a_number_is_the_same_in_every_type(encoder: Encoder, values: pa.Array) -> None:
    ids, weights = encoder.encode({"price": values, "age": values}, 2)
    assert weights is not None
    assert [[21, 30], [19, 28]] == ids[:, [4, 7]].tolist()
    assert [0.25, 1.0] == weights[:, 4].tolist()


def test_a_boolean_is_a_number_too(encoder: Encoder) -> None:
    weights = encoder.encode({"price": pa.array([True, False])}, 2).weights
    assert weights is not None
    assert [-0.25, -0.5] == weights[:, 4].tolist()


@pytest.mark.parametrize(
    ("genres", "ids", "weights"),
    [
        (["puzzle"], [36, 34, 34], [1, 0, 0]),
        (["puzzle", "chess"], [36, 35, 34], [0.5, 0.5, 0]),
        (["puzzle", "racing", "puzzle", "chess"], [36, 37, 36], [1 / 3] * 3),
        (["puzzle", None], [36, 34, 34], [0.5, 0.5, 0]),
        ([None], [34, 34, 34], [1, 0, 0]),
        ([], [34, 34, 34], [0, 0, 0]),
        (None, [34, 34, 34], [1, 0, 0]),
    ],
)
def test_lists_fill_slots_from_the_left(
    encoder: Encoder, genres: list[str | None] | None, ids: list[int], weights: list[float]
) -> None:
    encoded = encoder.encode({"genres": pa.array([genres], pa.list_(pa.string()))}, 1)
    assert encoded.weights is not None
    assert ids == encoded.ids[0, 8:11].tolist()
    assert np.float32(weights).tolist() == encoded.weights[0, 8:11].tolist()


def test_a_sum_weighs_every_value_one(encoder: Encoder) -> None:
    encoded = encoder.encode({"items": pa.array([[1, 2, -3], [2], [], None])}, 4)
    assert encoded.weights is not None
    assert [[8, 9], [9, 6], [6, 6], [6, 6]] == encoded.ids[:, 11:13].tolist()
    assert [[1, 1], [1, 0], [0, 0], [1, 0]] == encoded.weights[:, 11:13].tolist()


def test_what_a_null_list_hides_is_not_read(encoder: Encoder) -> None:
    values = pa.array(["puzzle", "racing", "racing"])
    lists = pa.ListArray.from_arrays(pa.array([0, 2, 3]), values, mask=pa.array([True, False]))
    encoded = encoder.encode({"genres": lists}, 2)
    assert [[34, 34, 34], [37, 34, 34]] == encoded.ids[:, 8:11].tolist()


def test_lists_of_fixed_size_are_lists(encoder: Encoder) -> None:
    fixed = pa.array([["x", "x"], ["puzzle", "racing"], None, ["racing", None]], pa.list_(pa.string(), 2)).slice(1)
    encoded = encoder.encode({"genres": fixed}, 3)
    assert [[36, 37, 34], [34, 34, 34], [37, 34, 34]] == encoded.ids[:, 8:11].tolist()


def test_lists_of_nothing_are_lists(encoder: Encoder) -> None:
    encoded = encoder.encode({"genres": pa.array([[], [None]])}, 2)
    assert encoded.weights is not None
    assert [[0, 0, 0], [1, 0, 0]] == encoded.weights[:, 8:11].tolist()


def test_features_that_share_a_table_share_its_rows(encoder: Encoder) -> None:
    ids = encoder.encode({"item": pa.array([2]), "items": pa.array([[2, 99]])}, 1).ids
    assert [9, 9, 7] == ids[0, [1, 11, 12]].tolist()


def test_values_are_cast_to_their_declared_type_first(encoder: Encoder) -> None:
    columns = {"ratio": pa.array([0.1, 0.1 + 1e-12]), "fresh": pa.array([1, 0])}
    assert [[13, 17], [13, 18]] == encoder.encode(columns, 2).ids[:, [2, 3]].tolist()
    doubles = {"ratio": pa.array([0.1, 2.0]).dictionary_encode()}
    assert [13, 14] == encoder.encode(doubles, 2).ids[:, 2].tolist()


def test_without_numbers_and_lists_there_are_no_weights(tmp_path: Path) -> None:
    inputs = (Input(name="user", type="VARCHAR"), Input(name="age", type="DOUBLE"))
    features = (
        Feature(name="user", kind="categorical"),
        Feature(name="age", kind="numeric", transform="quantile", buckets=4),
    )
    spec = FeatureSpec(inputs=inputs, features=features, label="clicked")
    encoder = Encoder(spec, fit(tmp_path / "v", spec, VALUES))
    encoded = encoder.encode({"user": pa.array(["bob", None]), "age": pa.array([15, None])}, 2)
    assert encoded.weights is None
    assert not encoder.layout.weighted
    assert [[3, 9], [0, 6]] == encoded.ids.tolist()
    assert ([[0, 6]], None) == (encoded.part(1, 1).ids.tolist(), encoded.part(1, 1).weights)
    assert encoder.encode({}, 2).weights is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"user": pa.array([b"x"])}, "feature 'user': values of type binary cannot be categories"),
        ({"user": pa.array([["x"]])}, r"feature 'user': values of type list<item: string> cannot be categories"),
        ({"user": pa.array([{"a": 1}])}, "feature 'user': values of type struct"),
        ({"item": pa.array([1], pa.time64("us"))}, "feature 'item': values of type time64"),
        ({"price": pa.array(["1.5"])}, "feature 'price': it is numeric, but its column holds string"),
        ({"age": pa.array([date(2020, 1, 1)])}, "feature 'age': it is numeric, but its column holds date32"),
        ({"price": pa.array(["1"]).dictionary_encode()}, "feature 'price': it is numeric, but its column holds string"),
        ({"genres": pa.array(["puzzle"])}, "feature 'genres': it is multivalued, but its column holds string"),
        ({"genres": pa.array([[b"x"]])}, "feature 'genres': values of type binary"),
        ({"genres": pa.array([[["x"]]])}, r"feature 'genres': values of type list"),
        ({"genres": pa.array([{"a": 1}])}, "feature 'genres': it is multivalued, but its column holds struct"),
        ({"hour": pa.array([1], pa.duration("s"))}, "feature 'hour': values of type duration"),
        ({"user": pa.array(["a", "b"])}, "feature 'user': its column has 2 rows, expected 1"),
        ({"user": pa.chunked_array([["a"], ["b"]])}, "feature 'user': its column has 2 rows, expected 1"),
        ({"user": pa.nulls(2)}, "feature 'user': its column has 2 rows, expected 1"),
        ({"user": pa.array([2**62], pa.timestamp("s"))}, "feature 'user': Casting from timestamp"),
    ],
)
def test_a_column_of_a_wrong_type_or_length_is_an_error_that_names_the_feature(
    encoder: Encoder, columns: dict[str, pa.Array], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        encoder.encode(columns, 1)


@FEW
@given(EVENTS)
def test_row_of_a_value_is_the_row_that_encode_gives(encoder: Encoder, event: Row) -> None:
    encoded = encoder.encode(columns_of([event]), 1)
    for field, feature in zip(encoder.layout.fields, SPEC.features, strict=True):
        value = event[feature.column]
        if feature.kind == "multivalued":
            rows = [encoder.row_of(feature.name, element) for element in (value or [None])[: field.length]]
            assert rows == encoded.ids[0, field.start : field.start + len(rows)].tolist()
        else:
            assert encoder.row_of(feature.name, value) == encoded.ids[0, field.start]


@pytest.mark.parametrize(
    ("feature", "value", "row"),
    [
        ("user", 1.0, 1),
        ("item", "2", 9),
        ("item", Decimal("2.00"), 9),
        ("item", 2**70, 7),
        ("ratio", 0.1, 13),
        ("fresh", 1, 17),
        ("genres", "racing", 37),
        ("items", 2, 9),
        ("hour", "hann", 92),
        ("price", 5, 21),
        ("age", 20, 32),
    ],
)
def test_row_of_takes_what_a_dict_may_bring(encoder: Encoder, feature: str, value: object, row: int) -> None:
    assert row == encoder.row_of(feature, value)


def test_row_of_nobody_is_an_error(encoder: Encoder) -> None:
    with pytest.raises(DataError, match="no feature 'usr'") as caught:
        encoder.row_of("usr", 1)
    assert "user" in str(caught.value.hint)
    with pytest.raises(DataError, match="feature 'price': it is numeric"):
        encoder.row_of("price", "dear")
    with pytest.raises(DataError, match="feature 'user': values of type binary"):
        encoder.row_of("user", b"x")


def test_many_threads_have_the_ids_of_one(encoder: Encoder) -> None:
    rows = 20_000
    columns = {
        "user": pa.array(["ann", "bob", "nobody", None] * (rows // 4)),
        "item": pa.array([1, 2, 3, None] * (rows // 4)),
        "price": pa.array([1.0, 2.0, math.nan, None] * (rows // 4)),
        "genres": pa.array([["puzzle"], ["x", "racing"], [], None] * (rows // 4)),
    }
    expected = encoder.encode(columns, rows)
    found: list[Encoded] = []
    threads = [threading.Thread(target=lambda: found.append(encoder.encode(columns, rows))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 8 == len(found)
    for encoded in found:
        assert_same(expected, encoded)


def user_spec(**settings: Any) -> FeatureSpec:
    feature = Feature(name="user", **{"kind": "categorical", **settings})
    kind = {"numeric": "DOUBLE", "multivalued": "VARCHAR[]"}.get(feature.kind, "VARCHAR")
    return FeatureSpec(inputs=(Input(name="user", type=kind),), features=(feature,), label="clicked")


QUANTILE: dict[str, Any] = {"kind": "numeric", "transform": "quantile"}


@pytest.mark.parametrize(
    ("fitted", "asked"),
    [
        ({}, {"hash_buckets": 5}),
        ({"hash_buckets": 5}, {}),
        ({"hash_buckets": 5}, {"hash_buckets": 6}),
        ({"kind": "numeric"}, {}),
        ({}, {"kind": "numeric"}),
        ({"kind": "numeric"}, QUANTILE),
        (QUANTILE, {"kind": "numeric"}),
        ({"kind": "multivalued", "hash_buckets": 5}, {"kind": "multivalued"}),
    ],
)
def test_vocabularies_of_another_specification_are_refused(
    tmp_path: Path, fitted: dict[str, Any], asked: dict[str, Any]
) -> None:
    vocabularies = fit(tmp_path / "v", user_spec(**fitted), VALUES)
    with pytest.raises(DataError, match="feature 'user'"):
        Encoder(user_spec(**asked), vocabularies)


def test_vocabularies_without_the_table_are_refused(tmp_path: Path) -> None:
    vocabularies = fit(tmp_path / "v", user_spec(), VALUES)
    other = FeatureSpec(
        inputs=(Input(name="item", type="VARCHAR"),), features=(Feature(name="item", kind="categorical"),), label="y"
    )
    with pytest.raises(DataError, match="feature 'item': the vocabularies lack 'item'"):
        Encoder(other, vocabularies)


def test_more_boundaries_than_the_table_has_rows_are_refused(tmp_path: Path) -> None:
    writer = VocabularyWriter(tmp_path / "v")
    writer.add_rows("user", "quantile", 4)
    vocabularies = writer.finish({"user": NumericStatistics(boundaries=(1.0, 2.0))})
    with pytest.raises(DataError, match="feature 'user': its table 'user' holds quantile with 4 rows"):
        Encoder(user_spec(**QUANTILE), vocabularies)


def test_tables_too_large_for_int32_are_refused(tmp_path: Path) -> None:
    writer = VocabularyWriter(tmp_path / "v")
    writer.add_rows("user", "hashed", 2**30 + 2)
    writer.add_rows("other", "hashed", 2**30 + 2)
    with pytest.raises(DataError, match=r"2,147,483,652 rows together, more than int32 can number"):
        Encoder(user_spec(hash_buckets=2**30), writer.finish({}))
