"""Vocabularies and encoded rows, against a plain count in Python and the encoder itself."""

from __future__ import annotations

import datetime as dt
import errno
import itertools
import json
import math
from collections import Counter
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamfm.data import encode_dataset, fit_vocabularies
from streamfm.data.dataset import EncodedDataset
from streamfm.data.labelled_rows import NO_GROUP, LabelledRows, open_labelled
from streamfm.data.sources import open_source
from streamfm.encoder import Encoder
from streamfm.encoder.category import as_declared, category_texts
from streamfm.encoder.vocabulary import Vocabularies
from streamfm.errors import DataError
from streamfm.expressions import Deriver
from streamfm.features import Feature, FeatureSpec, Input

UNKNOWN_ROW = 1


def spec_of(inputs: dict[str, str], *features: Feature, **settings: Any) -> FeatureSpec:
    declared = tuple(Input(name=name, type=kind) for name, kind in inputs.items())
    return FeatureSpec(inputs=declared, features=features, label="y", **settings)


def categorical(name: str, **settings: Any) -> Feature:
    return Feature(name=name, kind="categorical", **settings)


def labelled(columns: dict[str, Any]) -> pa.Table:
    """A table with a label that has both values."""
    rows = len(next(iter(columns.values())))
    return pa.table({**columns, "y": [row % 2 for row in range(rows)]})


def counts_of(vocabularies: Vocabularies, table: str) -> dict[str, int]:
    return dict(vocabularies.values(table).to_pydict().items()) and dict(
        zip(*vocabularies.values(table).to_pydict().values(), strict=True)
    )


# --- vocabularies

TEXTS = st.sampled_from(["1", "2", "1.5", "true", "", " ", "é", "ß日", "2024-01-01", "2024-01-01 00:00:00"]) | st.text(
    st.characters(codec="utf-8"), max_size=4
)
COLUMNS: list[tuple[str, pa.DataType, st.SearchStrategy[Any]]] = [
    ("VARCHAR", pa.string(), TEXTS),
    ("VARCHAR", pa.dictionary(pa.int8(), pa.string()), TEXTS),
    ("BIGINT", pa.int64(), st.integers(-3, 3) | st.just(2**62)),
    ("BIGINT", pa.uint8(), st.integers(0, 3)),
    ("DOUBLE", pa.float64(), st.sampled_from([0.0, -0.0, 1.0, 1.5, 0.1, -2.25, 1e300, 1e-7, math.nan])),
    ("FLOAT", pa.float64(), st.sampled_from([0.1, 1.0, 2.0, 0.5])),
    ("DOUBLE", pa.int32(), st.integers(-2, 2)),
    ("DECIMAL(9,3)", pa.decimal128(9, 3), st.sampled_from([Decimal("1"), Decimal("1.5"), Decimal("-2.250")])),
    ("BOOLEAN", pa.bool_(), st.booleans()),
    ("DATE", pa.date32(), st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 3))),
    ("TIMESTAMP", pa.timestamp("us"), st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, 0, 0, 0, 2))),
    ("DATE", pa.timestamp("us"), st.datetimes(dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 3))),
    ("BOOLEAN", pa.int8(), st.integers(0, 2)),
    ("TIMESTAMP", pa.date32(), st.dates(dt.date(2024, 1, 1), dt.date(2024, 1, 3))),
    ("TIMESTAMPTZ", pa.timestamp("ms", tz="Asia/Tokyo"), st.sampled_from([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)])),
    ("TIMESTAMP", pa.timestamp("ns"), st.just(dt.datetime(2024, 1, 1, 12))),
]


@st.composite
def mixed_columns(draw: st.DrawFn) -> tuple[dict[str, str], pa.Table]:
    """Two to four columns of any types, of one length, with NULL here and there."""
    rows = draw(st.integers(2, 30))
    kinds = draw(st.lists(st.sampled_from(COLUMNS), min_size=2, max_size=4))
    types, columns = {}, {}
    for number, (declared, kind, values) in enumerate(kinds):
        drawn = draw(st.lists(values | st.none(), min_size=rows, max_size=rows))
        types[f"c{number}"], columns[f"c{number}"] = declared, pa.array(drawn, kind, from_pandas=False)
    return types, labelled(columns)


@settings(max_examples=25)
@given(mixed_columns(), st.integers(1, 3))
def test_a_vocabulary_is_a_count_of_canonical_texts(drawn: tuple[dict[str, str], pa.Table], min_count: int) -> None:
    types, table = drawn
    names = list(types)
    features = [categorical(name, table="shared" if name in names[:2] else "", min_count=min_count) for name in names]
    expected: dict[str, Counter[str]] = {feature.table: Counter() for feature in features}
    for feature in features:
        texts = category_texts(as_declared(table.column(feature.name).combine_chunks(), types[feature.name]))
        expected[feature.table].update(text for text in texts.to_pylist() if text is not None)
    with TemporaryDirectory() as folder:
        found = fit_vocabularies(table, spec_of(types, *features), Path(folder) / "v")
        for name, counts in expected.items():
            kept = {text: count for text, count in counts.items() if count >= min_count}
            assert kept == counts_of(found, name)
            assert list(kept) != [] or found.tables[name].rows == 2


@settings(max_examples=10)
@given(mixed_columns(), st.integers(1, 3))
def test_values_of_training_have_rows_and_rare_ones_are_unknown(
    drawn: tuple[dict[str, str], pa.Table], min_count: int
) -> None:
    types, table = drawn
    spec = spec_of(types, *(categorical(name, min_count=min_count) for name in types))
    with TemporaryDirectory() as folder:
        encoder = Encoder(spec, fit_vocabularies(table, spec, Path(folder) / "v"))
        encoded = encode_dataset(table, encoder, Path(folder) / "e")
        ids = np.array(encoded.ids)
    for slot, (name, declared) in enumerate(types.items()):
        base = int(encoder.layout.null_rows[slot])
        texts = category_texts(as_declared(table.column(name).combine_chunks(), declared)).to_pylist()
        counts = Counter(texts)
        for text, row in zip(texts, (ids[:, slot] - base).tolist(), strict=True):
            expected = 0 if text is None else UNKNOWN_ROW if counts[text] < min_count else row
            assert expected == row
            assert (text is not None and counts[text] >= min_count) == (row >= 2)


def test_the_commonest_values_come_first_and_equals_by_their_bytes(tmp_path: Path) -> None:
    table = labelled({"c": ["b", "é", "a", "z", "z", "z", "é", "e"]})
    found = fit_vocabularies(table, spec_of({"c": "VARCHAR"}, categorical("c")), tmp_path / "v")
    assert [("z", 3), ("é", 2), ("a", 1), ("b", 1), ("e", 1)] == list(counts_of(found, "c").items())


def test_of_lists_only_the_values_that_the_encoder_keeps_count(tmp_path: Path) -> None:
    table = labelled({"c": [["a", "b", "c"], ["b"], [], None, ["a", None, "b"]]})
    spec = spec_of({"c": "VARCHAR[]"}, Feature(name="c", kind="multivalued", max_length=2))
    found = fit_vocabularies(table, spec, tmp_path / "v")
    assert {"a": 2, "b": 2} == counts_of(found, "c")


def test_a_list_and_a_single_value_share_a_table(tmp_path: Path) -> None:
    table = labelled({"last": ["a", "b"], "before": pa.array([["b", "c"], ["b"]], pa.list_(pa.string(), -1))})
    spec = spec_of(
        {"last": "VARCHAR", "before": "VARCHAR[]"},
        categorical("last", table="app"),
        Feature(name="before", kind="multivalued", table="app"),
    )
    found = fit_vocabularies(table, spec, tmp_path / "v")
    assert (["app"], {"a": 1, "b": 3, "c": 1}) == (list(found.tables), counts_of(found, "app"))


def test_tables_without_values_have_their_rows(tmp_path: Path) -> None:
    table = labelled({"h": ["a", "b", "c", "d"], "n": [1.0, 2.0, 3.0, 4.0]})
    spec = spec_of(
        {"h": "VARCHAR", "n": "DOUBLE"},
        categorical("h", hash_buckets=100),
        Feature(name="n", kind="numeric"),
        Feature(name="q", kind="numeric", input="n", transform="quantile", buckets=4),
    )
    found = fit_vocabularies(table, spec, tmp_path / "v")
    assert {"h": ("hashed", 102), "n": ("number", 3), "q": ("quantile", 5)} == {
        name: (table.kind, table.rows) for name, table in found.tables.items()
    }
    encoded = encode_dataset(table, Encoder(spec, found), tmp_path / "e")
    assert [2, 3, 4, 4] == (np.array(encoded.ids)[:, 2] - 105).tolist()


def test_sql_features_are_counted_as_they_are_derived(tmp_path: Path) -> None:
    times = pa.array([0, 3_600, 3_601, None], pa.timestamp("s", tz="Asia/Tokyo"))
    table = labelled({"ts": times, "city": ["Basel", "BASEL", None, "Bern"]})
    spec = spec_of(
        {"ts": "TIMESTAMPTZ", "city": "VARCHAR"},
        categorical("hour", sql="hour(ts)"),
        categorical("town", sql="lower(city)"),
        Feature(name="length", kind="numeric", sql="length(city)", transform="standard"),
    )
    found = fit_vocabularies(table, spec, tmp_path / "v")
    assert {"1": 2, "0": 1} == counts_of(found, "hour")
    assert {"basel": 2, "bern": 1} == counts_of(found, "town")
    assert pytest.approx(14 / 3) == found.numerics["length"].mean
    encoded = encode_dataset(table, Encoder(spec, found), tmp_path / "e")
    assert [[3, 2], [2, 2], [2, 0], [0, 3]] == (np.array(encoded.ids)[:, :2] - [0, 4]).tolist()


def test_more_values_than_fit_in_memory_are_counted_by_spilling(tmp_path: Path) -> None:
    query = "SELECT 'value number ' || (i % 600_000) AS c, i % 2 AS y FROM range(700_000) t(i)"
    spec = spec_of({"c": "VARCHAR"}, categorical("c", min_count=2))
    with open_source(query, memory_limit="40MB", threads=1, folder=tmp_path) as source:
        found = fit_vocabularies(source, spec, tmp_path / "v")
    assert 100_002 == found.tables["c"].rows


# --- the same value in every format

VALUES = ["1", "2", "02", None, "10"]
NUMBERS = [1, 2, 7, None, 10]


def write_formats(folder: Path, values: list[Any], kind: pa.DataType) -> dict[str, Any]:
    """The same column, as every route of training has it."""
    array = pa.array(values, kind)
    table = labelled({"c": array})
    pq.write_table(table, folder / "plain.parquet")
    dictionary = table.set_column(0, "c", array.cast(pa.string()).dictionary_encode())
    pq.write_table(dictionary, folder / "dictionary.parquet")
    pa.csv.write_csv(table, folder / "rows.csv")
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table.to_pylist()))
    literals = ["NULL" if v is None else repr(v) for v in values]
    listed = f"(VALUES {', '.join(f'({v}, {i % 2})' for i, v in enumerate(literals))}) t(c, y)"
    enum = "ENUM ('1', '2', '02', '7', '10')"
    texts = table.set_column(0, "c", array.cast(pa.string()))
    return {
        "parquet": folder / "plain.parquet",
        "dictionary": folder / "dictionary.parquet",
        "csv": folder / "rows.csv",
        "json": folder / "rows.jsonl",
        "sql": f"SELECT * FROM {listed}",
        "sql text": f"SELECT CAST(c AS VARCHAR) AS c, y FROM {listed}",
        "sql enum": f"SELECT CAST(CAST(c AS VARCHAR) AS {enum}) AS c, y FROM {listed}",
        "arrow": table,
        "arrow text": texts,
        "pandas": table.to_pandas(),
    }


@pytest.mark.parametrize(
    ("values", "kind", "declared"),
    [(VALUES, pa.string(), "VARCHAR"), (NUMBERS, pa.int32(), "BIGINT"), (NUMBERS, pa.int64(), "VARCHAR")],
)
def test_a_value_is_the_same_category_in_every_format(
    values: list[Any], kind: pa.DataType, declared: str, tmp_path: Path
) -> None:
    spec = spec_of({"c": declared}, categorical("c"))
    formats = write_formats(tmp_path, values, kind)
    expected = {str(value): 1 for value in values if value is not None}
    encoders = {}
    for name, rows in formats.items():
        vocabularies = fit_vocabularies(rows, spec, tmp_path / name)
        assert (name, expected) == (name, counts_of(vocabularies, "c"))
        encoders[name] = Encoder(spec, vocabularies)
    ids = [
        np.array(encode_dataset(rows, encoders["parquet"], tmp_path / f"{name} encoded").ids)[:, 0].tolist()
        for name, rows in formats.items()
    ]
    assert [ids[0]] * len(formats) == ids
    assert 0 == ids[0][3]
    assert sorted(ids[0]) == [0, 2, 3, 4, 5]


# --- encoded rows

FULL = spec_of(
    {"user": "VARCHAR", "price": "DOUBLE", "tags": "VARCHAR[]", "ts": "TIMESTAMP"},
    categorical("user", min_count=2),
    Feature(name="price", kind="numeric", transform="log1p"),
    Feature(name="tags", kind="multivalued", max_length=3),
    categorical("hour", sql="hour(ts)"),
    weight="w",
    group="user",
    event_time="ts",
)


def events(rows: int, seed: int) -> pa.Table:
    random = np.random.default_rng(seed)
    tags = [None if n == 4 else [f"t{t}" for t in random.integers(0, 6, n)] for n in random.integers(0, 5, rows)]
    users = [None if u == 9 else f"u{u}" for u in random.integers(0, 10, rows)]
    return labelled(
        {
            "user": users,
            "price": pa.array(random.exponential(10, rows), mask=random.random(rows) < 0.2),
            "tags": tags,
            "ts": pa.array(random.integers(0, 10**6, rows), pa.timestamp("s")),
            "w": random.random(rows).astype(np.float32),
        }
    )


def test_every_column_of_a_dataset_is_what_the_rows_say(tmp_path: Path) -> None:
    table = events(200, 1)
    encoder = Encoder(FULL, fit_vocabularies(table, FULL, tmp_path / "v"))
    seen: list[tuple[int, int]] = []
    dataset = encode_dataset(table, encoder, tmp_path / "e", progress=lambda done, total: seen.append((done, total)))
    inputs = {name: table.column(name).combine_chunks() for name in FULL.input_names}
    expected = encoder.encode(Deriver(FULL).derive(inputs, 200), 200)
    assert (200, [(200, 200)]) == (len(dataset), seen)
    np.testing.assert_array_equal(expected.ids, dataset.ids)
    np.testing.assert_array_equal(expected.weights, dataset.weights)
    np.testing.assert_array_equal(table.column("y").to_numpy(), dataset.labels)
    np.testing.assert_array_equal(table.column("w").to_numpy(), dataset.sample_weights)
    np.testing.assert_array_equal(
        table.column("ts").cast(pa.timestamp("us")).cast(pa.int64()).to_numpy(), dataset.times
    )
    users, groups = table.column("user").to_pylist(), list(np.array(dataset.groups))
    assert len(set(users)) == len(set(groups)) == len(set(zip(users, groups, strict=True)))
    assert {bool(group == NO_GROUP) for user, group in zip(users, groups, strict=True) if user is None} == {True}


@settings(max_examples=6)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=6), st.integers(0, 100))
def test_the_chunks_in_which_rows_come_change_nothing(sizes: list[int], seed: int) -> None:
    table = events(sum(sizes) + 2, seed)
    cuts = np.cumsum([0, *sizes, 2])
    chunked = pa.concat_tables([table.slice(start, end - start) for start, end in itertools.pairwise(cuts)])
    with TemporaryDirectory() as folder:
        encoder = Encoder(FULL, fit_vocabularies(table, FULL, Path(folder) / "v"))
        whole = encode_dataset(table, encoder, Path(folder) / "whole")
        with open_source(chunked) as source:
            rows = LabelledRows(source, FULL)
            batches = list(rows.batches())
            parts = encode_dataset(rows, encoder, Path(folder) / "parts")
        assert len(table) == sum(batch.rows for batch in batches)
        for name in ("ids", "weights", "labels", "sample_weights", "groups", "times"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name))


def test_rows_keep_their_order_over_many_batches(tmp_path: Path) -> None:
    rows = 150_000
    table = pa.table({"c": np.arange(rows) % 1000, "y": np.arange(rows) % 2, "w": np.arange(rows, dtype=np.float32)})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=10_000)
    spec = spec_of({"c": "BIGINT"}, categorical("c"), weight="w")
    encoder = Encoder(spec, fit_vocabularies(tmp_path / "rows.parquet", spec, tmp_path / "v"))
    done: list[int] = []
    dataset = encode_dataset(
        tmp_path / "rows.parquet", encoder, tmp_path / "e", progress=lambda rows, _: done.append(rows)
    )
    np.testing.assert_array_equal(np.arange(rows, dtype=np.float32), dataset.sample_weights)
    assert (sorted(done), rows) == (done, done[-1])


# --- nothing half-written


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        fit_vocabularies(events(10, 1), FULL, tmp_path / "v")
    assert "mine" == (tmp_path / "v" / "mine.txt").read_text()


def test_rows_that_fail_half_way_leave_no_folder(tmp_path: Path) -> None:
    table = events(50, 1)
    encoder = Encoder(FULL, fit_vocabularies(table, FULL, tmp_path / "v"))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encode_dataset(table, encoder, tmp_path / "e", progress=stop)
    assert [tmp_path / "v"] == list(tmp_path.iterdir())
    with pytest.raises(DataError):
        EncodedDataset.open(tmp_path / "e")


MANY = labelled({"x": [f"value {i}" for i in range(40_000)]})
MANY_SPEC = spec_of({"x": "VARCHAR"}, categorical("x"))
FULL_DISK = "make room there; temporary files lie where TMPDIR says, or from Python where `folder` does"


def test_a_disk_that_is_full_while_vocabularies_are_written_is_told_by_the_folder(
    tmp_path: Path, file_size_limit
) -> None:
    with file_size_limit(100_000), pytest.raises(DataError) as caught:
        fit_vocabularies(MANY, MANY_SPEC, tmp_path / "vocabulary")
    assert f"{tmp_path}/vocabulary: the disk is full ([Errno {errno.EFBIG}] " in caught.value.message
    assert FULL_DISK == caught.value.hint
    assert [] == list(tmp_path.iterdir())


# Of 160 kB of ids, the first batch is written at once, and the end is in memory until the file is closed.
@pytest.mark.parametrize("size", [50, 1_000, 140_000, 160_100])
def test_a_disk_that_is_full_while_rows_are_encoded_is_told_by_the_folder(
    size: int, tmp_path: Path, file_size_limit
) -> None:
    encoder = Encoder(MANY_SPEC, fit_vocabularies(MANY, MANY_SPEC, tmp_path / "vocabulary"))
    with file_size_limit(size), pytest.raises(DataError) as caught:
        encode_dataset(MANY, encoder, tmp_path / "rows")
    assert f"{tmp_path}/rows: the disk is full ([Errno {errno.EFBIG}] " in caught.value.message
    assert FULL_DISK == caught.value.hint
    assert [tmp_path / "vocabulary"] == list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "query",
    ["SELECT hash(i) AS h FROM range(1000000) t(i)", "SELECT hash(i) AS h FROM range(9000000) t(i) ORDER BY h"],
    ids=["stored", "spilled"],
)
def test_a_disk_that_is_full_while_a_query_is_stored_is_told_by_the_file(
    query: str, tmp_path: Path, file_size_limit
) -> None:
    options: Any = {"folder": tmp_path, "memory_limit": "60MB", "threads": 1}
    with file_size_limit(1 << 20), pytest.raises(DataError) as caught, open_source(query, **options):
        pass
    assert f'Could not write file "{tmp_path}/streamfm-' in caught.value.message
    assert FULL_DISK == caught.value.hint
    assert [] == list(tmp_path.iterdir())


def test_labelled_rows_pass_through() -> None:
    with open_labelled(events(10, 1), FULL) as rows, open_labelled(rows, FULL) as again:
        assert rows is again
