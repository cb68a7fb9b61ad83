"""Bad input to training and evaluation: a typed error that says where, what and how to mend it, and nothing is left.

Bundles that are damaged, a full disk and two writers at once are in test_bundle.py and its like; a query that is
cancelled in tests/udfs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamfm.data.sources import SourceLike
from streamfm.errors import DataError, MissingColumnsError, SpecError, StreamFMError
from streamfm.features import FeatureSpec
from streamfm.model import ModelSettings
from streamfm.pipeline import PipelineSettings, evaluate, train
from streamfm.scoring import load
from streamfm.settings import TrainSettings

ROWS = 200
SPEC = """
format = 1
label = "clicked"
weight = "w"
group = "user"
event_time = "ts"

[inputs]
user = "VARCHAR"
price = "DOUBLE"
tags = "VARCHAR[]"
ts = "TIMESTAMP"

[features.user]
kind = "categorical"

[features.price]
kind = "numeric"

[features.tags]
kind = "multivalued"

[features.hour]
kind = "categorical"
sql = "hour(ts)"
"""
SETTINGS = PipelineSettings(
    model=ModelSettings(factors=2, hidden=(4,)), training=TrainSettings(max_epochs=1, batch_size=64, threads=1)
)


def events(**changed: Any) -> pa.Table:
    """Rows without a fault, but for the columns that are given."""
    columns = {
        "user": [f"u{i % 7}" for i in range(ROWS)],
        "price": [float(i % 5) for i in range(ROWS)],
        "tags": [["a", "b"][: i % 3] for i in range(ROWS)],
        "ts": pa.array([3_600 * i for i in range(ROWS)], pa.timestamp("s")),
        "w": [1.0] * ROWS,
        "clicked": [i % 2 for i in range(ROWS)],
    }
    return pa.table({name: value for name, value in (columns | changed).items() if value is not None})


def changed(name: str, row: int, value: Any) -> pa.Table:
    """Rows with one fault; `row` is counted from 0."""
    values = events()[name].to_pylist()
    values[row] = value
    return events(**{name: values})


def refused(rows: SourceLike, folder: Path, kind: type[StreamFMError] = DataError, spec: str = SPEC) -> StreamFMError:
    """The error that training ends with; nothing was left by it."""
    before = sorted(folder.rglob("*"))
    (folder / "temporary").mkdir()
    settings = PipelineSettings(model=SETTINGS.model, training=SETTINGS.training, folder=str(folder / "temporary"))
    with pytest.raises(kind) as caught:
        train(FeatureSpec.from_toml(spec), rows, folder / "bundle", settings=settings)
    assert type(caught.value) is kind
    (folder / "temporary").rmdir()
    assert before == sorted(folder.rglob("*"))
    return caught.value


def test_rows_without_a_fault_train(tmp_path: Path) -> None:
    train(FeatureSpec.from_toml(SPEC), events(), tmp_path / "bundle", settings=SETTINGS)
    assert [tmp_path / "bundle"] == list(tmp_path.iterdir())


def write_parquet(table: pa.Table, path: Path) -> Path:
    pq.write_table(table, path.with_suffix(".parquet"))
    return path.with_suffix(".parquet")


def write_csv(table: pa.Table, path: Path) -> Path:
    table.to_pandas().to_csv(path.with_suffix(".csv"), index=False)
    return path.with_suffix(".csv")


# --- an empty table


@pytest.mark.parametrize("write", [write_parquet, write_csv])
def test_an_empty_table(write: Callable[[pa.Table, Path], Path], tmp_path: Path) -> None:
    path = write(events().slice(0, 0), tmp_path / "events")
    error = refused(path, tmp_path)
    assert (f"{path}: no rows", "check the file, or the filter it was read with") == (error.message, error.hint)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "events.csv").touch()
    error = refused(tmp_path / "events.csv", tmp_path, MissingColumnsError)
    assert f"{tmp_path}/events.csv: column " in error.message


# --- labels


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    path = write_parquet(events(clicked=None, click=[0, 1] * (ROWS // 2)), tmp_path / "events")
    error = refused(path, tmp_path, MissingColumnsError)
    assert f"{path}: column 'clicked' not found" == error.message
    assert (error.hint or "").startswith("did you mean 'click'? it has user, ")


@pytest.mark.parametrize(
    ("value", "message"),
    [(2, "is 2, expected 0 or 1 (1 such rows)"), (-1, "is -1, expected 0 or 1"), (None, "is NULL (1 such rows)")],
)
def test_a_label_that_is_not_0_or_1(value: int | None, message: str, tmp_path: Path) -> None:
    path = write_parquet(changed("clicked", 17, value), tmp_path / "events")
    error = refused(path, tmp_path)
    assert f"{path}: row 18 (counted from 1): label 'clicked' {message}" in error.message
    assert 'REPLACE ("clicked" > 0 AS' in str(error) or 'WHERE "clicked" IS NOT NULL' in str(error)


@pytest.mark.parametrize(
    ("labels", "made"),
    [
        (["no", "yes"], """("clicked" = 'yes')"""),
        (["false", "true"], """("clicked" = 'true')"""),
        (["0", "isn't"], """("clicked" = 'isn''t')"""),
        (["0", "1"], 'CAST("clicked" AS DOUBLE)'),
        ([None, "1.0"], 'CAST("clicked" AS DOUBLE)'),
    ],
)
def test_a_label_that_is_not_a_number(labels: list[str], made: str, tmp_path: Path) -> None:
    error = refused(events(clicked=labels * (ROWS // 2)), tmp_path)
    assert "the Table: column 'clicked' holds VARCHAR, expected numbers" == error.message
    assert f'make it so in SQL, such as: SELECT * REPLACE ({made} AS "clicked") FROM ...' == error.hint


def test_the_hint_at_a_label_that_is_not_a_number_is_right(tmp_path: Path) -> None:
    path = write_parquet(events(clicked=["no", "yes"] * (ROWS // 2)), tmp_path / "events")
    hint = refused(path, tmp_path).hint or ""
    query = hint.partition("such as: ")[2].replace("...", f"'{path}'")
    train(FeatureSpec.from_toml(SPEC), query, tmp_path / "bundle", settings=SETTINGS)


def test_a_label_that_is_infinite_in_a_regression(tmp_path: Path) -> None:
    spec = SPEC.replace("format = 1", 'format = 1\ntask = "regression"')
    error = refused(changed("clicked", 3, math.inf), tmp_path, spec=spec)
    assert "row 4 (counted from 1): label 'clicked' is inf, expected a finite number" in error.message


@pytest.mark.parametrize("value", [0, 1])
def test_all_labels_equal(value: int, tmp_path: Path) -> None:
    error = refused(events(clicked=[value] * ROWS), tmp_path)
    assert f"the Table: label 'clicked' is {value} in all 200 rows: nothing to learn" == error.message
    assert "impressions" in (error.hint or "")


# --- columns


def test_columns_that_are_not_there_are_named_at_once(tmp_path: Path) -> None:
    error = refused(events(user=None, price=None, w=None, prices=[1.0] * ROWS), tmp_path, MissingColumnsError)
    assert "the Table: column 'user', 'price', 'w' not found" == error.message
    assert "it has tags, ts, clicked, prices" in (error.hint or "")


@pytest.mark.parametrize(
    ("name", "values", "message", "hint"),
    [
        (
            "price",
            ["1"] * ROWS,
            "column 'price' holds VARCHAR: feature 'price' is numeric, expected a number or BOOLEAN",
            "to DOUBLE",
        ),
        (
            "tags",
            ["a"] * ROWS,
            "column 'tags' holds VARCHAR: feature 'tags' is multivalued, expected a list",
            "VARCHAR[]",
        ),
        (
            "user",
            [["u"]] * ROWS,
            "column 'user' holds VARCHAR[]: feature 'user' is categorical, expected single",
            "VARCHAR",
        ),
        (
            "user",
            [{"a": 1}] * ROWS,
            "column 'user' holds STRUCT(a BIGINT): feature 'user' is categorical, expected a number, VARCHAR",
            "VARCHAR",
        ),
        (
            "user",
            [b"u"] * ROWS,
            "column 'user' holds BLOB: feature 'user' is categorical, expected a number, VARCHAR",
            "VARCHAR",
        ),
        (
            "ts",
            ["noon"] * ROWS,
            "input 'ts' (TIMESTAMP) is used by SQL features, but its column holds string",
            "TIMESTAMP",
        ),
        ("w", ["1"] * ROWS, "column 'w' holds VARCHAR, expected numbers", "CAST"),
    ],
)
def test_a_column_of_another_type(name: str, values: Any, message: str, hint: str, tmp_path: Path) -> None:
    path = write_parquet(events(**{name: values}), tmp_path / "events")
    error = refused(path, tmp_path)
    assert f"{path}: {message}" in error.message
    assert hint in (error.hint or "")


def test_an_event_time_of_another_type(tmp_path: Path) -> None:
    spec = SPEC.replace('ts = "TIMESTAMP"\n', "").replace('sql = "hour(ts)"', "sql = \"user || 'x'\"")
    error = refused(events(ts=list(range(ROWS))), tmp_path, spec=spec)
    assert "the Table: event time 'ts' holds BIGINT, expected TIMESTAMP" == error.message
    assert "make_timestamp(ts * 1000000)" in (error.hint or "")


def test_a_value_of_another_type_in_the_midst_of_a_csv(tmp_path: Path) -> None:
    path = write_csv(events(tags=["[a]"] * ROWS, price=["1.5"] * 150 + ["a lot"] + ["2.5"] * 49), tmp_path / "events")
    error = refused(path, tmp_path)
    assert f"{path}: " in error.message
    assert "CSV Error on Line: 152" in error.message
    assert '"price"' in error.message
    assert "a lot" in error.message
    assert "declare the column's type in [inputs], or mend the value" == error.hint


def test_a_data_frame_whose_column_mixes_types(tmp_path: Path) -> None:
    frame = pd.DataFrame({"user": ["u", 1], "clicked": [0, 1]})
    error = refused(frame, tmp_path)
    assert "the DataFrame: " in error.message
    assert "user" in error.message
    assert "a column mixes types: make its values one type" == error.hint


def test_an_sql_feature_that_fails_on_a_value(tmp_path: Path) -> None:
    spec = SPEC.replace('sql = "hour(ts)"', 'sql = "CAST(substr(user, 2) AS INTEGER)"')
    error = refused(changed("user", 5, "unknown"), tmp_path, spec=spec)
    assert "feature 'hour': sql = 'CAST(substr(user, 2) AS INTEGER)': the Table: Conversion Error" in error.message
    assert "TRY(...) makes NULL of what fails" == error.hint


# --- numbers


@pytest.mark.parametrize(("value", "shown"), [(math.inf, "inf"), (-math.inf, "-inf")])
def test_infinity_in_a_number(value: float, shown: str, tmp_path: Path) -> None:
    path = write_parquet(changed("price", 40, value), tmp_path / "events")
    error = refused(path, tmp_path)
    expected = f"{path}: row 41 (counted from 1): feature 'price': column 'price' is {shown} (1 such rows)"
    assert expected == error.message
    assert 'sql = "CASE WHEN isfinite(price) THEN price END"' in (error.hint or "")


def test_the_hint_at_infinity_is_right(tmp_path: Path) -> None:
    spec = SPEC.replace(
        '[features.price]\nkind = "numeric"',
        '[features.finite_price]\nkind = "numeric"\nsql = "CASE WHEN isfinite(price) THEN price END"',
    )
    train(FeatureSpec.from_toml(spec), changed("price", 40, math.inf), tmp_path / "bundle", settings=SETTINGS)


def test_nan_is_a_missing_value_everywhere(tmp_path: Path) -> None:
    nan, null = (changed("price", 40, value) for value in (math.nan, None))
    bundles = [
        train(FeatureSpec.from_toml(SPEC), table, tmp_path / name, settings=SETTINGS).bundle
        for name, table in (("nan", nan), ("null", null))
    ]
    files = [{name: entry for name, entry in bundle.manifest.files.items()} for bundle in bundles]
    assert files[0] == files[1]
    scorer = load(bundles[0].path)
    assert scorer.score({"price": math.nan}) == scorer.score({"price": None}) == scorer.score({"user": None})


@pytest.mark.parametrize("value", [-0.5, math.nan, math.inf, None])
def test_a_weight_that_is_none(value: float | None, tmp_path: Path) -> None:
    error = refused(changed("w", 9, value), tmp_path)
    shown = str(value)
    expected = f"the Table: row 10 (counted from 1): weight 'w' is {shown}, expected a finite number of at least 0"
    assert expected in error.message


def test_weights_that_are_all_zero(tmp_path: Path) -> None:
    error = refused(events(w=[0.0] * ROWS), tmp_path)
    assert "the Table: weight 'w' is 0 in every row: no row would count" == error.message


# --- lengths and texts


@pytest.mark.parametrize("settings", ["", "hash_buckets = 100"])
def test_a_text_of_an_absurd_length(settings: str, tmp_path: Path) -> None:
    spec = SPEC.replace('[features.user]\nkind = "categorical"', f'[features.user]\nkind = "categorical"\n{settings}')
    error = refused(changed("user", 30, "u" * (1 << 20) + "é"), tmp_path, spec=spec)
    expected = "the Table: row 31 (counted from 1): feature 'user': column 'user' holds 1,048,578 bytes of text"
    assert expected in error.message
    assert 'sql = "left(user, 100)"' in (error.hint or "")


def test_a_list_of_an_absurd_length_is_cut_and_one_of_absurd_texts_refused(tmp_path: Path) -> None:
    error = refused(changed("tags", 30, ["a" * (1 << 20), "b"]), tmp_path)
    long_list = changed("tags", 30, ["a"] * 200_000)
    train(FeatureSpec.from_toml(SPEC), long_list, tmp_path / "bundle", settings=SETTINGS)
    assert "row 31 (counted from 1): feature 'tags': column 'tags' holds 1,048,577 bytes of text" in error.message


def test_invalid_utf_8_in_a_csv(tmp_path: Path) -> None:
    path = write_csv(events(), tmp_path / "events")
    path.write_bytes(path.read_bytes().replace(b"u3", b"u\xff", 1))
    error = refused(path, tmp_path)
    assert f"{path}: " in error.message
    assert "Line: 5" in error.message
    assert "save it as UTF-8" in (error.hint or "")


def test_invalid_utf_8_in_a_parquet_file(tmp_path: Path) -> None:
    data = pa.array([b"a", b"\xff"] * (ROWS // 2), pa.binary())
    texts = pa.Array.from_buffers(pa.string(), ROWS, data.buffers())
    path = write_parquet(events(user=texts), tmp_path / "events")
    error = refused(path, tmp_path)
    assert str(path) in error.message
    assert "save it as UTF-8" in (error.hint or "")


def test_a_parquet_file_that_is_cut_off(tmp_path: Path) -> None:
    path = write_parquet(events(), tmp_path / "events")
    path.write_bytes(path.read_bytes()[:-100])
    assert str(path) in refused(path, tmp_path).message


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    write_parquet(events(), tmp_path / "events")
    error = refused(tmp_path / "event.parquet", tmp_path)
    assert f"{tmp_path}/event.parquet: no such file" == error.message
    assert f"did you mean '{tmp_path}/events.parquet'?" == error.hint


# --- specifications


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        (
            'kind = "numeric"',
            'kind = "numeric"\ntransfrom = "log1p"',
            "unknown key 'transfrom'",
            "did you mean 'transform'?",
        ),
        ('event_time = "ts"', 'event_tim = "ts"', "unknown key 'event_tim'", "did you mean 'event_time'?"),
        ("[features.hour]", "[features.price]", "features.toml: not valid TOML", "each name may stand once"),
        ('price = "DOUBLE"', 'PRICE = "DOUBLE"\nprice = "DOUBLE"', "differ in case only", "rename"),
    ],
)
def test_a_specification_with_an_unknown_key_or_a_name_that_is_there_twice(
    old: str, new: str, message: str, hint: str, tmp_path: Path
) -> None:
    assert old in SPEC
    (tmp_path / "features.toml").write_text(SPEC.replace(old, new))
    with pytest.raises(SpecError) as caught:
        train(tmp_path / "features.toml", events(), tmp_path / "bundle", settings=SETTINGS)
    assert str(tmp_path / "features.toml") in caught.value.message
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")
    assert [tmp_path / "features.toml"] == list(tmp_path.iterdir())


@pytest.mark.parametrize("second", ["user", "USER"])
@pytest.mark.parametrize("write", [lambda table, path: table, write_parquet])
def test_a_column_that_is_there_twice(write: Callable[[pa.Table, Path], Any], second: str, tmp_path: Path) -> None:
    rows = write(events().append_column(second, pa.array(["other"] * ROWS)), tmp_path / "events")
    error = refused(rows, tmp_path)
    assert ": column 'user' is there twice" in error.message
    assert "rename or drop one" == error.hint


# --- what was serving goes on


def test_an_evaluation_that_fails_names_the_row_and_the_scorer_goes_on(tmp_path: Path) -> None:
    made = train(FeatureSpec.from_toml(SPEC), events(), tmp_path / "bundle", settings=SETTINGS)
    scorer = load(made.bundle.path)
    before = scorer.score(events())
    with pytest.raises(DataError, match=r"row 3 \(counted from 1\): label 'clicked' is 7, expected 0 or 1"):
        evaluate(scorer, changed("clicked", 2, 7))
    assert (before == scorer.score(events())).all()
    assert 0.5 == evaluate(scorer, events()).evaluation.mean_label
