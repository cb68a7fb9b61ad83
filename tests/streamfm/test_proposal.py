from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from streamfm.data import encode_dataset, fit_vocabularies
from streamfm.encoder import Encoder
from streamfm.errors import DataError, MissingColumnsError
from streamfm.features import Feature, FeatureSpec
from streamfm.proposal import Proposal, propose, proposing
from streamfm.testing import simulate_events

ROWS = 2_000
RANDOM = np.random.default_rng(1)
LABEL = RANDOM.integers(0, 2, ROWS)
DAYS = [dt.datetime(2024, 1, 1) + dt.timedelta(hours=int(hour)) for hour in RANDOM.integers(0, 2_000, ROWS)]


def proposed(columns: dict[str, Any], label: Any = LABEL) -> Proposal:
    """The proposal for some columns, beside one that is always good."""
    fine = {"colour": RANDOM.choice(["red", "green"], ROWS)}
    return propose(pa.table({**columns, **fine, "y": label}), "y")


def feature(found: Proposal, name: str) -> Feature:
    return next(one for one in found.spec.features if one.name == name)


def notes(found: Proposal, key: str) -> str:
    return " ".join(found.comments.get(key, ()))


@pytest.mark.parametrize(
    ("values", "expected", "reason"),
    [
        (RANDOM.choice(["a", "b", "c"], ROWS), {"kind": "categorical"}, "3 values."),
        (RANDOM.integers(0, 2, ROWS).astype(bool), {"kind": "categorical"}, "2 values."),
        ([f"v{v}" for v in RANDOM.integers(0, 600, ROWS)], {"kind": "categorical", "min_count": 2}, "seen once"),
        (RANDOM.integers(0, 8, ROWS), {"kind": "categorical"}, "Few different numbers"),
        (RANDOM.choice([0.99, 1.99, 4.99], ROWS), {"kind": "categorical"}, "Few different numbers"),
        (RANDOM.integers(0, 500, ROWS), {"kind": "numeric"}, 'write kind = "categorical"'),
        (RANDOM.normal(3, 1, ROWS), {"kind": "numeric"}, ", median 2.9"),
        (RANDOM.lognormal(3, 2, ROWS), {"kind": "numeric", "transform": "log1p"}, "A long tail"),
        (
            np.where(RANDOM.random(ROWS) < 0.7, 0, RANDOM.random(ROWS)),
            {"kind": "numeric", "transform": "quantile", "buckets": 16},
            "are 0: in buckets",
        ),
        (
            [[f"t{t}" for t in RANDOM.integers(0, 9, n)] for n in RANDOM.integers(0, 4, ROWS)],
            {"kind": "multivalued", "max_length": 3},
            "Lists of 9 values, 99 % of at most 3.",
        ),
        ([None if i % 4 == 0 else "ab"[i % 2] for i in range(ROWS)], {"kind": "categorical"}, "2 values, 25.0% NULL."),
    ],
)
def test_a_column_becomes_the_feature_that_its_values_ask_for(
    values: Any, expected: dict[str, Any], reason: str
) -> None:
    found = proposed({"x": values})
    assert expected == feature(found, "x").settings()
    assert reason in notes(found, "features.x")


def test_numbers_whose_name_says_that_they_are_names_are_categories() -> None:
    found = proposed({"app_id": RANDOM.integers(0, 900, ROWS), "city": RANDOM.integers(0, 900, ROWS).astype(float)})
    assert {"kind": "categorical", "min_count": 2} == feature(found, "app_id").settings()
    assert "names, by the column's name" in notes(found, "features.city")


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("event_id", [f"e{i}" for i in range(ROWS)], ""),
        ("comment", [f"text {i}" for i in range(ROWS)], "comment: another value in each row"),
        ("token", [f"{i}" for i in range(ROWS - 1)] + ["0"], "token: about 2,000 values in 2,000 rows: almost none"),
        ("version", ["v1"] * ROWS, "version: constant: always 'v1'"),
        ("empty", pa.nulls(ROWS, pa.string()), "empty: NULL in every row"),
        ("nested", [{"a": 1}] * ROWS, "nested: STRUCT(a BIGINT) is no type that a feature can be made of"),
        ("tags", [[]] * ROWS, "tags: "),
        ("bought", np.where(LABEL == 1, "yes", "no"), "bought: tells y all by itself"),
        ("minutes", LABEL * 5 + RANDOM.random(ROWS), "minutes: tells y all by itself"),
        ("click_time", [t if y else None for t, y in zip(DAYS, LABEL, strict=True)], "click_time: tells y all by"),
        ("true_probability", RANDOM.random(ROWS), "true_probability: by its name the answer itself"),
        (
            "ts",
            RANDOM.integers(1_700_000_000, 1_700_100_000, ROWS),
            "make_timestamp(ts::BIGINT * 1000000) AS event_time",
        ),
        ("row_number", range(1, ROWS + 1), "row_number: another value in each row: it names the row"),
        (
            "loaded",
            pa.array([*range(1, ROWS), None]),
            "loaded: about 2,000 values in 1,999 rows: almost none comes again",
        ),
        ("ticket", RANDOM.permutation(ROWS) * 1.0, "ticket: another value in each row: it names the row"),
        ("reference", RANDOM.integers(0, 2**62, ROWS), "reference: another value in each row"),
        ("draw", RANDOM.integers(0, 12_000, ROWS), 'is it an amount? Then write kind = "numeric"'),
        (
            "arrived",
            RANDOM.integers(1_700_000_000, 1_702_000_000, ROWS),
            "make_timestamp(arrived::BIGINT * 1000000) AS arrived_",
        ),
        ("minute", 60 * RANDOM.integers(28_333_333, 28_333_533, ROWS), "minute: an instant as a number, by its values"),
    ],
)
def test_a_column_that_is_left_out_is_named_with_the_reason(name: str, values: Any, reason: str) -> None:
    found = proposed({name: values})
    assert ["colour"] == [one.name for one in found.spec.features]
    assert ("colour",) == found.spec.input_names
    assert reason in notes(found, "label")


@pytest.mark.parametrize(
    ("name", "values", "kind"),
    [
        ("user_id", RANDOM.integers(10**6, 10**6 + 700, ROWS), "categorical"),
        ("account", RANDOM.integers(10**6, 10**6 + 700, ROWS), "numeric"),
        ("price_in_cents", RANDOM.choice([99, 199, 499, 999], ROWS), "categorical"),
        ("price", RANDOM.integers(1, 1_000, ROWS), "numeric"),
        ("paid_in_micros", RANDOM.lognormal(15, 1, ROWS).astype(int) // 1_000, "numeric"),
    ],
)
def test_whole_numbers_that_come_again_or_have_a_long_tail_are_features(name: str, values: Any, kind: str) -> None:
    assert kind == feature(proposed({name: values}), name).kind


@pytest.mark.parametrize("rows", [3, 40, 99])
def test_in_a_small_table_whole_numbers_may_all_be_different_by_chance(rows: int) -> None:
    columns = {"amount": RANDOM.permutation(10_000)[:rows], "colour": RANDOM.choice(["red", "green"], rows)}
    found = propose(pa.table({**columns, "y": [0.5, 1.5, *RANDOM.random(rows - 2)]}), "y")
    assert "numeric" == feature(found, "amount").kind
    assert 'write kind = "categorical"' in notes(found, "features.amount")


@pytest.mark.parametrize("kind", ["INTEGER", "UBIGINT", "DOUBLE", "DECIMAL(18,3)"])
def test_instants_as_numbers_are_made_times_by_the_expression_that_is_proposed(kind: str) -> None:
    seconds = RANDOM.integers(1_700_000_000, 1_700_100_000, ROWS)
    numbers = duckdb.from_arrow(pa.table({"seen": seconds})).query(
        "numbers", f"SELECT seen::{kind} AS seen FROM numbers"
    )
    found = proposed({"seen": numbers.to_arrow_table().column(0)})
    (expression,) = re.findall(r"SELECT \*, (.*) AS seen_time FROM", notes(found, "label"))
    answer = numbers.query("numbers", f"SELECT DISTINCT {expression} FROM numbers ORDER BY ALL").fetchall()
    expected = sorted({dt.datetime.fromtimestamp(int(second), dt.UTC) for second in seconds})
    assert expected == [time.replace(tzinfo=dt.UTC) for (time,) in answer]


def test_what_is_nearly_the_label_is_kept_when_it_is_not_sure() -> None:
    noisy = np.where(RANDOM.random(ROWS) < 0.9, LABEL, 1 - LABEL)
    found = proposed({"clicked_before": noisy})
    assert "Is it known before the event is scored?" in notes(found, "features.clicked_before")


def test_the_event_time_gives_hour_and_weekday_and_other_times_their_age() -> None:
    signed_up = [day - dt.timedelta(days=int(age)) for day, age in zip(DAYS, RANDOM.integers(0, 99, ROWS), strict=True)]
    found = proposed({"signup": signed_up, "ts": DAYS})
    assert "ts" == found.spec.event_time
    assert ("signup", "ts", "colour") == found.spec.input_names
    assert {"days_since_signup": "date_diff('day', signup, ts)", "hour": "hour(ts)", "weekday": "dayofweek(ts)"} == {
        one.name: one.sql for one in found.spec.features if one.sql
    }


def test_names_that_are_taken_or_odd_are_still_right() -> None:
    found = proposed({"hour": RANDOM.integers(0, 24, ROWS), "The Time": DAYS, 'a "b"': RANDOM.choice(["x", "y"], ROWS)})
    assert ['hour("The Time")'] == [one.sql for one in found.spec.features if one.name == "The Time_hour"]
    assert FeatureSpec.from_toml(found.to_toml()) == found.spec


def test_infinite_numbers_become_missing_by_sql() -> None:
    found = proposed({"x": np.where(np.arange(ROWS) < 5, np.inf, RANDOM.random(ROWS))})
    assert "CASE WHEN isfinite(x) THEN x END" == feature(found, "x_finite").sql
    assert "5 values are infinite" in notes(found, "features.x_finite")


def test_roles_are_found_by_name_and_content() -> None:
    found = proposed(
        {
            "event_id": range(ROWS),
            "user_id": RANDOM.integers(0, 99, ROWS),
            "created_at": DAYS,
            "ts": DAYS[::-1],
            "weight": RANDOM.random(ROWS),
        }
    )
    spec = found.spec
    assert ("event_id", "user_id", "ts", "weight") == (spec.event_id, spec.group, spec.event_time, spec.weight)
    assert {"event_id", "weight"} & set(spec.input_names) == set()
    assert "AUC is also taken inside each group" in notes(found, "group")


def test_numbers_in_a_text_file_can_be_declared_to_be_instants(tmp_path: Path) -> None:
    rows = [{"ts": 1_700_000_000_000 + 60_000 * i, "c": "ab"[i % 2], "y": int(i % 3 == 0)} for i in range(500)]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = propose(tmp_path / "events.jsonl", "y")
    assert ("TIMESTAMP", "epoch_ms") == (found.spec.input("ts").type, found.spec.input("ts").json)
    vocabularies = fit_vocabularies(tmp_path / "events.jsonl", found.spec, tmp_path / "v")
    assert {"22", "23", "0"} <= set(vocabularies.values("hour")["value"].to_pylist())


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_lists_and_instants_that_a_text_file_writes_as_texts_are_declared(ending: str, tmp_path: Path) -> None:
    rows = [
        {
            "at": f"2024-03-{1 + i % 28:02} 10:00:00" + (".5" if i % 3 else ""),
            "zoned": f"2024-03-{1 + i % 28:02}T10:00:00{'Z' if i % 2 else '+02:00'}",
            "day": f"2023-01-{1 + i % 28:02}",
            "tags": f"[a{i % 3}, b]" if i % 5 else None,
            "version": f"2024-03-{1 + i % 28:02}b",
            "y": i % 2,
        }
        for i in range(300)
    ]
    path = tmp_path / f"events.{ending}"
    if ending == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        lists = [{**row, "tags": str(row["tags"]).strip("[]").split(", ") if row["tags"] else None} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in lists))
    found = propose(path, "y")
    types = {item.name: item.type for item in found.spec.inputs}
    assert "TIMESTAMP" == types["at"]
    assert types["zoned"].startswith("TIMESTAMP")
    assert ("DATE", "VARCHAR[]", "VARCHAR") == (types["day"], types["tags"], types["version"])
    vocabularies = fit_vocabularies(path, found.spec, tmp_path / "v")
    assert {"a0", "a1", "a2", "b"} == set(vocabularies.values("tags")["value"].to_pylist())
    assert ["10"] == vocabularies.values("hour")["value"].to_pylist()


@pytest.mark.parametrize("kind", [pa.int8(), pa.bool_(), pa.float64(), pa.decimal128(20, 1)])
def test_labels_of_0_and_1_make_a_click_model(kind: pa.DataType) -> None:
    assert "binary" == proposed({}, pa.array(LABEL.tolist()).cast(pa.int64()).cast(kind, safe=False)).spec.task


def test_other_numbers_make_a_regression() -> None:
    found = proposed({}, RANDOM.integers(1, 6, ROWS))
    assert "regression" == found.spec.task
    assert "SELECT * REPLACE (y >= 4 AS y) FROM ..." in notes(found, "task")


@pytest.mark.parametrize(
    ("label", "message", "hint"),
    [
        (["yes", "no"] * (ROWS // 2), "the Table: label 'y' holds VARCHAR, expected 0 and 1", "\"y\" = 'yes'"),
        ([1] * ROWS, "the Table: label 'y' is 1 in all 2,000 rows: nothing to learn", ""),
        (pa.nulls(ROWS, pa.int64()), "the Table: label 'y' is NULL in all 2,000 rows", ""),
        ([None, *LABEL[1:]], "the Table: label 'y' is NULL in 1 of 2,000 rows", 'WHERE "y" IS NOT NULL'),
        ([1, 2] * (ROWS // 2), "the Table: label 'y' has the values 1 and 2, expected 0 and 1", '"y" = 2'),
        ([np.inf, *LABEL[1:]], "the Table: label 'y' is infinite in 1 rows", ""),
    ],
)
def test_a_label_that_cannot_be_learnt_is_refused(label: Any, message: str, hint: str) -> None:
    with pytest.raises(DataError) as caught:
        proposed({}, label)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_label_that_is_not_there_and_rows_that_are_not_there() -> None:
    with pytest.raises(MissingColumnsError, match="'clicked' not found"):
        propose(pa.table({"click": [0, 1]}), "clicked")
    with pytest.raises(DataError, match="no rows"):
        propose(pa.table({"y": pa.array([], pa.int64())}), "y")
    with pytest.raises(DataError, match="no column that a feature can be made of: x: constant"):
        propose(pa.table({"x": [1, 1], "y": [0, 1]}), "y")


def test_hundreds_of_columns(tmp_path: Path) -> None:
    columns = {f"c{i}": RANDOM.integers(0, 3 + i % 7, 300) for i in range(200)}
    found = propose(pa.table({**columns, "y": LABEL[:300]}), "y")
    assert 200 == len(found.spec.features)


def test_large_tables_are_sampled_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposing, "SAMPLE_ROWS", 500)
    found = proposed({"x": RANDOM.choice(["a", "b", "c"], ROWS), "id": range(ROWS)})
    assert "id" == found.spec.event_id
    assert "drawn at random, so that rarer values were not seen" in notes(found, "label")
    assert "2,000 rows." in notes(found, "label")


def test_the_app_store_gets_a_specification_that_trains(tmp_path: Path) -> None:
    pq.write_table(simulate_events(3_000, seed=3, users=200, apps=50), tmp_path / "events.parquet")
    found = propose(tmp_path / "events.parquet", "clicked")
    assert FeatureSpec.from_toml(found.to_toml()) == found.spec
    assert ("user_id", "ts", "event_id") == (found.spec.group, found.spec.event_time, found.spec.event_id)
    vocabularies = fit_vocabularies(tmp_path / "events.parquet", found.spec, tmp_path / "v")
    encoded = encode_dataset(tmp_path / "events.parquet", Encoder(found.spec, vocabularies), tmp_path / "e")
    assert 3_000 == len(encoded)
