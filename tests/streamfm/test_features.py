"""FeatureSpec: what its TOML says, there and back, and its fingerprint."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamfm.features import KEYS_OF_KIND, Feature, FeatureSpec, Input, normalise_type
from streamfm.features.inputs import FAMILIES, JSON_FORMS

EXAMPLE = """
format = 1
label = "clicked"
weight = "importance"
group = "user_id"
event_time = "ts"
event_id = "id"

[inputs]
user_id = "VARCHAR"
price = "decimal(10, 2)"
ts = { type = "TIMESTAMP", json = "epoch_ms" }
genres = "VARCHAR[]"
last_genre = "text"

[features.user_id]
kind = "categorical"
min_count = 2

[features.price]
kind = "numeric"
transform = "log1p"

[features.price_bucket]
kind = "numeric"
input = "price"
transform = "quantile"
buckets = 10

[features.hour]
kind = "categorical"
sql = "hour(ts)"

[features.genres]
kind = "multivalued"
pooling = "sum"
max_length = 8

[features.last_genre]
kind = "categorical"
table = "genres"

[features.agent]
kind = "categorical"
input = "user_id"
hash_buckets = 1000
"""
GOLDEN = "f7fbc6c5673d641497229bc744f3896fa7128b8ae83f09f5d580e575272e9999"


def test_the_example_says_what_it_says() -> None:
    spec = FeatureSpec.from_toml(EXAMPLE)
    columns = (spec.label, spec.task, spec.weight, spec.group, spec.event_time, spec.event_id)
    assert ("clicked", "binary", "importance", "user_id", "ts", "id") == columns
    assert ("user_id", "price", "ts", "genres", "last_genre") == spec.input_names
    assert Input(name="price", type="DECIMAL(10,2)", json="number") == spec.input("price")
    assert Input(name="ts", type="TIMESTAMP", json="epoch_ms") == spec.input("ts")
    features = {feature.name: feature for feature in spec.features}
    assert ["user_id", "price", "price_bucket", "hour", "genres", "last_genre", "agent"] == list(features)
    assert Feature(name="hour", kind="categorical", sql="hour(ts)") == features["hour"]
    assert ("hour", "price", "genres") == tuple(features[name].column for name in ("hour", "price_bucket", "genres"))
    assert ("user_id", "genres", "genres") == tuple(
        features[name].table for name in ("user_id", "genres", "last_genre")
    )
    assert [1, 1, 1, 1, 8, 1, 1] == [feature.slots for feature in spec.features]
    assert [False, True, False, False, False, False, False] == [feature.is_numeric_slot for feature in spec.features]


def test_what_is_left_out_has_these_defaults() -> None:
    feature = Feature(name="x", kind="categorical")
    settings = (feature.input, feature.sql, feature.table, feature.min_count, feature.hash_buckets)
    assert ("x", "", "x", 1, 0) == settings
    assert ("standard", 32) == (Feature(name="x", kind="numeric").transform, Feature(name="x", kind="numeric").buckets)
    listed = Feature(name="x", kind="multivalued")
    assert ("mean", 16) == (listed.pooling, listed.max_length)


def test_the_fingerprint_is_golden() -> None:
    # A bundle keeps it: whoever changes it orphans every bundle.
    assert GOLDEN == FeatureSpec.from_toml(EXAMPLE).fingerprint


def test_comments_and_layout_do_not_change_the_fingerprint() -> None:
    spec = FeatureSpec.from_toml(EXAMPLE)
    commented = spec.to_toml({"label": ["what to learn"], "inputs.ts": ["time"], "features.hour": ["of the day"]})
    assert "# of the day\n[features.hour]" in commented
    assert spec.fingerprint == FeatureSpec.from_toml(commented).fingerprint
    assert (
        spec.fingerprint
        == FeatureSpec.from_toml(EXAMPLE.replace("min_count = 2", "\n  min_count    = 2 # rare")).fingerprint
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("clicked", "bought"),
        ('label = "clicked"', 'label = "clicked"\ntask = "regression"'),
        ("epoch_ms", "epoch_s"),
        ("min_count = 2", "min_count = 3"),
        ("hour(ts)", "hour( ts )"),
        ('user_id = "VARCHAR"\nprice = "decimal(10, 2)"', 'price = "decimal(10, 2)"\nuser_id = "VARCHAR"'),
        ("[features.hour]", "[features.hours]"),
        ('event_id = "id"\n', ""),
    ],
)
def test_every_change_of_the_meaning_changes_the_fingerprint(before: str, after: str) -> None:
    assert before in EXAMPLE
    assert FeatureSpec.from_toml(EXAMPLE.replace(before, after)).fingerprint != GOLDEN


def test_defaults_written_out_do_not_change_the_fingerprint() -> None:
    written = EXAMPLE.replace("min_count = 2", 'min_count = 2\nhash_buckets = 0\ninput = "user_id"\ntable = "user_id"')
    assert GOLDEN == FeatureSpec.from_toml(written).fingerprint


NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name.isprintable() and name.strip())
SCALARS = st.sampled_from([*FAMILIES, "DECIMAL(9,2)"])


@st.composite
def inputs(draw: st.DrawFn, name: str) -> Input:
    scalar = draw(SCALARS)
    forms = JSON_FORMS[Input(name="x", type=scalar).family]
    kind = scalar + draw(st.sampled_from(["", "[]"]))
    return Input(name=name, type=kind, json=draw(st.sampled_from(["", *forms])))


@st.composite
def features(draw: st.DrawFn, name: str, source: Input | None) -> Feature:
    """A feature of an input, or of SQL without one."""
    where: dict[str, Any] = {"sql": draw(st.text(min_size=1))} if source is None else {"input": source.name}
    if source is not None and not source.is_list and source.family in ("integer", "real") and draw(st.booleans()):
        transform = draw(st.sampled_from(["none", "standard", "log1p", "quantile"]))
        buckets = {"buckets": draw(st.integers(2, 65_536))} if transform == "quantile" else {}
        return Feature(name=name, kind="numeric", transform=transform, **where, **buckets)
    rare = draw(st.sampled_from([{}, {"min_count": 3}, {"hash_buckets": 77}]))
    if source is not None and source.is_list:
        pooling = draw(st.sampled_from(["mean", "sum"]))
        length = draw(st.integers(1, 1024))
        return Feature(name=name, kind="multivalued", pooling=pooling, max_length=length, **where, **rare)
    return Feature(name=name, kind="categorical", **where, **rare)


@st.composite
def specs(draw: st.DrawFn) -> FeatureSpec:
    unique = st.lists(NAMES, min_size=4, max_size=9, unique_by=str.casefold)
    label, weight, first, *names = draw(unique)
    columns = [draw(inputs(name)) for name in names]
    made = [draw(features(column.name, column)) for column in columns]
    made += [draw(features(first, None))]
    return FeatureSpec(
        inputs=tuple(columns),
        features=tuple(draw(st.permutations(made))),
        label=label,
        task=draw(st.sampled_from(["binary", "regression"])),
        weight=draw(st.sampled_from(["", weight])),
        group=draw(st.sampled_from(["", names[0]])),
    )


@given(specs(), st.text())
def test_toml_gives_the_same_specification_back(spec: FeatureSpec, comment: str) -> None:
    keys = ["label", *(f"inputs.{item.name}" for item in spec.inputs), *(f"features.{f.name}" for f in spec.features)]
    for text in (spec.to_toml(), spec.to_toml({key: [comment, "why"] for key in keys})):
        again = FeatureSpec.from_toml(text)
        assert spec == again
        assert spec.fingerprint == again.fingerprint
    assert text.count("# why\n") >= len(keys)


def test_a_specification_can_be_pickled_and_hashed() -> None:
    spec = FeatureSpec.from_toml(EXAMPLE)
    assert spec == pickle.loads(pickle.dumps(spec))
    assert 1 == len({spec, FeatureSpec.from_toml(EXAMPLE)})


@pytest.mark.parametrize(
    "content", [EXAMPLE.encode(), b"\xef\xbb\xbf" + EXAMPLE.encode(), EXAMPLE.replace("\n", "\r\n").encode()]
)
def test_a_file_is_read_whatever_the_editor_that_saved_it(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "features.toml").write_bytes(content)
    assert GOLDEN == FeatureSpec.load(tmp_path / "features.toml").fingerprint


def test_lists_of_inputs_and_features_become_tuples() -> None:
    x, feature = Input(name="x", type="VARCHAR"), Feature(name="x", kind="categorical")
    spec = FeatureSpec(inputs=[x], features=[feature], label="y")  # type: ignore[arg-type]
    assert ((x,), (feature,)) == (spec.inputs, spec.features)


@pytest.mark.parametrize(
    ("declared", "normal"),
    [
        ("varchar", "VARCHAR"),
        (" Text ", "VARCHAR"),
        ("string[]", "VARCHAR[]"),
        ("VARCHAR(20)", "VARCHAR"),
        ("ENUM('a', 'b')", "VARCHAR"),
        ("int", "INTEGER"),
        ("INT8", "BIGINT"),
        ("int4 []", "INTEGER[]"),
        ("real", "FLOAT"),
        ("float8", "DOUBLE"),
        ("bool", "BOOLEAN"),
        ("decimal( 9 , 2 )", "DECIMAL(9,2)"),
        ("NUMERIC(5)", "DECIMAL(5,0)"),
        ("DECIMAL", "DECIMAL(18,3)"),
        ("datetime", "TIMESTAMP"),
        ("TIMESTAMP_NS", "TIMESTAMP"),
        ("timestamp  with time zone", "TIMESTAMPTZ"),
        ("DATE[]", "DATE[]"),
    ],
)
def test_types_have_one_spelling(declared: str, normal: str) -> None:
    assert normal == normalise_type(declared)
    assert normal == normalise_type(normal)


@pytest.mark.parametrize(
    "declared",
    [
        *FAMILIES,
        "DECIMAL(9,2)",
        "DECIMAL",
        "NUMERIC(5)",
        "INT",
        "TEXT",
        "REAL",
        "DATETIME",
        "INT1",
        "SHORT",
        "LONG",
        "TIMESTAMP_S",
    ],
)
def test_types_are_those_of_duckdb(declared: str) -> None:
    import duckdb

    normal = normalise_type(declared)
    ours, sqls = duckdb.sql(f"SELECT NULL::{normal} AS ours, NULL::{declared} AS sqls").types
    # A timestamp of another unit is kept as one of microseconds.
    assert declared.startswith("TIMESTAMP_") or str(ours) == str(sqls)
    assert normal.replace("TIMESTAMPTZ", "TIMESTAMP WITH TIME ZONE") == str(ours)


def test_every_kind_heeds_the_settings_it_lists() -> None:
    for kind, keys in KEYS_OF_KIND.items():
        feature = Feature(name="x", kind=kind)
        assert [key for key in keys if not hasattr(feature, key)] == []
    listed = {key for keys in KEYS_OF_KIND.values() for key in keys}
    assert {"name", "kind", "input", "sql"} == {*Feature.__dataclass_fields__} - listed
