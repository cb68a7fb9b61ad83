"""Records to answers: the same scores as on every other route, whoever stands beside an event."""

from __future__ import annotations

import itertools
import json
import random
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamfm.errors import DataError, StreamError
from streamfm.scoring import Scorer, load
from streamfm.stream.answering import Answered, Answering
from streamfm.stream.ports import REASONS, Event
from streamfm.stream.settings import StreamSettings
from udfs.duckdb_udf import register

SPEC = """
format = 1
label = "clicked"

[inputs]
user = "VARCHAR"
"app id" = "VARCHAR"
position = "INTEGER"
level = "INTEGER"
flag = "BOOLEAN"
share = "FLOAT"
tags = "VARCHAR[]"
flags = "BOOLEAN[]"
price = "DOUBLE"
stars = "DECIMAL(10,2)"
day = "DATE"
seen = "TIMESTAMPTZ"
ts = { type = "TIMESTAMP", json = "epoch_ms" }
code = "VARCHAR"
amount = "BIGINT"
unused = "VARCHAR"

[features.user]
kind = "categorical"
["features"."app id"]
kind = "categorical"
hash_buckets = 32
[features.position]
kind = "categorical"
[features.level]
kind = "categorical"
[features.height]
kind = "numeric"
input = "level"
[features.flag]
kind = "categorical"
[features.share]
kind = "categorical"
hash_buckets = 32
[features.tags]
kind = "multivalued"
max_length = 3
table = "tags"
[features.flags]
kind = "multivalued"
max_length = 2
[features.price]
kind = "numeric"
transform = "log1p"
[features.stars]
kind = "numeric"
transform = "quantile"
buckets = 4
[features.day]
kind = "categorical"
[features.seen]
kind = "categorical"
hash_buckets = 32
[features.hour]
kind = "categorical"
sql = "hour(ts)"
[features.whole]
kind = "categorical"
sql = "CAST(code AS INTEGER) % 7"
[features.half]
kind = "numeric"
sql = "amount / 2"
"""
USERS, TAGS = ["ann", "bob", "Ünïcödé 🎲", "1", "true"], ["a", "b", "1.5"]
VALUES: Mapping[str, Sequence[str]] = {
    "user": USERS,
    "position": ["1", "2", "2.5", "x"],
    "level": ["1", "2", "true"],
    "flag": ["true", "false"],
    "tags": TAGS,
    "flags": ["true", "false"],
    "day": ["2024-02-29"],
    "hour": [str(hour) for hour in range(24)],
    "whole": [str(rest) for rest in range(7)],
}
TOLERANCE = 1e-6


def make_bundle(spec_text: str, values: Mapping[str, Sequence[str]], folder: Path, name: str, seed: int) -> Path:
    """A bundle of random weights, large enough that every feature moves the score."""
    import torch

    from streamfm.encoder import Encoder
    from streamfm.encoder.vocabulary import VALUES_SCHEMA, NumericStatistics, VocabularyWriter
    from streamfm.export import Provenance, Sample, Trained, export_bundle
    from streamfm.features import FeatureSpec
    from streamfm.model import DeepFM, ModelSettings

    spec = FeatureSpec.from_toml(spec_text)
    writer = VocabularyWriter(folder / "vocabulary")
    numerics = {}
    for feature in spec.features:
        if feature.kind == "numeric":
            boundaries = () if feature.is_numeric_slot else (1.0, 2.0, 3.0)
            numerics[feature.name] = NumericStatistics(mean=0.5, deviation=2.0, boundaries=boundaries)
            writer.add_rows(feature.table, "quantile" if boundaries else "number", 3 + len(boundaries))
        elif feature.hash_buckets:
            writer.add_rows(feature.table, "hashed", 2 + feature.hash_buckets)
        else:
            known = list(values[feature.name])
            batch = pa.record_batch([known, [1] * len(known)], schema=VALUES_SCHEMA)
            writer.add_values(feature.table, len(known), [batch])
    vocabularies = writer.finish(numerics)
    encoder = Encoder(spec, vocabularies)
    rows = encoder.encode({"user": pa.array([*USERS, None, "?", "eve"])}, 8)
    model = DeepFM(encoder.layout, ModelSettings(factors=4, hidden=(8,)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.3, generator=generator)
    trained = Trained(
        model=model,
        spec=spec,
        vocabularies=vocabularies,
        proof=Sample(rows=rows, labels=np.arange(8, dtype=np.float32) % 2),
        calibration=rows,
    )
    export_bundle(folder / "bundle", trained, Provenance(name=name, created_at=datetime(2026, 1, 31, tzinfo=UTC)))
    return folder / "bundle"


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    return load(make_bundle(SPEC, VALUES, tmp_path_factory.mktemp("kinds"), "ctr", 1))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """A model of fewer inputs, one of which it reads otherwise."""
    text = """
        format = 1
        label = "clicked"
        [inputs]
        user = "VARCHAR"
        position = "DOUBLE"
        [features.user]
        kind = "categorical"
        [features.position]
        kind = "numeric"
    """
    return load(make_bundle(text, VALUES, tmp_path_factory.mktemp("other"), "rival", 2))


def records_of(values: Sequence[Any]) -> list[Event]:
    """Records of events, given as bytes or as what JSON can hold."""
    return [
        Event("clicks", 0, offset, 1_700_000_000_000, None, value if isinstance(value, bytes) else dumps(value))
        for offset, value in enumerate(values)
    ]


def dumps(event: Any) -> bytes:
    return json.dumps(event, ensure_ascii=False).encode("utf-8", "surrogatepass")


def answering(scorer: Scorer, **changes: Any) -> Answering:
    shadow, clock = changes.pop("shadow", None), changes.pop("clock", time.perf_counter)
    return Answering(scorer, StreamSettings(**changes), shadow=shadow, clock=clock)


def answer(scorer: Scorer, events: Sequence[Any], **changes: Any) -> Answered:
    return answering(scorer, **changes).answer(records_of(events), 1_700_000_000_123)


def outputs(answered: Answered) -> list[dict[str, Any]]:
    return [json.loads(value) for value in answered.answers.values]


def reasons(answered: Answered) -> list[tuple[int, str]]:
    return sorted((letter.record.offset, letter.reason) for letter in answered.answers.dead_letters)


# The same score as on every other route.

TEXTS = st.one_of(st.sampled_from([*USERS, *TAGS, "", "x", "5", "2.5", "inf", "a\0b"]), st.text(max_size=6))
WHOLE = st.one_of(
    st.integers(-3, 5), st.sampled_from([2**31, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**38])
)
REAL = st.one_of(
    st.sampled_from([0.5, -0.0, 2.5, 1e300, 1e-7, 5e-324]), st.floats(allow_nan=False, allow_infinity=False)
)
ANY = st.one_of(TEXTS, WHOLE, REAL, st.booleans())
NUMBER = st.one_of(WHOLE, REAL, st.booleans())
DATES = st.one_of(st.dates().map(str), st.sampled_from(["2024-02-29", "2024-02-30", "yesterday", ""]))
INSTANTS = st.one_of(
    st.datetimes(timezones=st.just(UTC)).map(lambda value: value.isoformat()),
    st.sampled_from(["2024-02-29", "2024-02-29T12:00:00+02:00", "noon"]),
)
EPOCHS = st.one_of(st.integers(0, 2 * 10**12), st.just(1e12 + 0.5), st.just(10**18), INSTANTS)
FIELDS: Mapping[str, st.SearchStrategy[Any]] = {
    "user": ANY,
    "app id": ANY,
    "position": ANY,
    "level": NUMBER,
    "flag": ANY,
    "share": NUMBER,
    "tags": st.lists(st.none() | ANY, max_size=4),
    "flags": st.lists(st.none() | ANY, max_size=3),
    "price": NUMBER,
    "stars": NUMBER,
    "day": DATES,
    "seen": INSTANTS,
    "ts": EPOCHS,
    "code": st.one_of(st.sampled_from(["1", "12", "x", ""]), st.integers(-3, 40), st.booleans()),
    "amount": st.one_of(NUMBER, st.sampled_from(["7", "2.5", "x"])),
}
EVENTS = st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in FIELDS.items()})


def alone(scorer: Scorer, event: dict[str, Any]) -> float | None:
    """The score of one dict; None where there is none."""
    try:
        return scorer.score({"user": None, **json.loads(dumps(event))})
    except DataError:
        return None


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(events=st.lists(EVENTS, min_size=1, max_size=8), cut=st.integers(1, 8))
def test_scores_are_those_of_single_dicts_in_any_batching(
    scorer: Scorer, events: list[dict[str, Any]], cut: int
) -> None:
    expected = [alone(scorer, event) for event in events]
    asked = answering(scorer)
    for batch in (records_of(events)[:cut], records_of(events)[cut:], records_of(events)):
        answered = asked.answer(batch, 0)
        assert {letter.reason for letter in answered.answers.dead_letters} <= {"not_scored"}
        found = {r.offset: s for r, s in zip(answered.answers.records, answered.scores, strict=True)}
        wanted = {r.offset: expected[r.offset] for r in batch if expected[r.offset] is not None}
        assert found == pytest.approx(wanted, abs=TOLERANCE)


# Values of one type in each column, which a list of dicts holds as each is alone.
UNIFORM: Mapping[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("user", "app id", "position"), ANY),
    **{
        "level": st.integers(-3, 2**31),
        "flag": st.booleans(),
        "flags": st.lists(st.none() | st.booleans(), max_size=3),
    },
    **{"share": REAL, "price": NUMBER, "stars": st.integers(-3, 5) | st.floats(-9, 9), "tags": FIELDS["tags"]},
    **{"day": st.dates().map(str), "seen": st.datetimes(timezones=st.just(UTC)).map(lambda value: value.isoformat())},
    **{"ts": st.integers(0, 2 * 10**12), "code": st.sampled_from(["1", "12", "-5"]), "amount": st.integers(0, 99)},
}


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow])
@given(
    events=st.lists(
        st.fixed_dictionaries({}, optional={name: st.none() | values for name, values in UNIFORM.items()}),
        min_size=1,
        max_size=8,
    )
)
def test_scores_are_those_of_a_list_of_dicts(scorer: Scorer, events: list[dict[str, Any]]) -> None:
    expected = scorer.score([{"user": None, **json.loads(dumps(event))} for event in events])
    answered = answer(scorer, events)
    assert answered.answers.dead_letters == []
    assert np.abs(answered.scores - expected).max() <= TOLERANCE


def test_scores_are_those_of_sql(scorer: Scorer) -> None:
    rng = random.Random(5)
    rows = [
        {
            "user": rng.choice([*USERS, None]), "app id": rng.choice("abc"), "position": rng.choice([1, 2, None]),
            "level": rng.choice([1, 2, 3]), "flag": rng.choice([True, False, None]), "share": rng.choice([0.5, 0.25]),
            "tags": rng.choices(TAGS, k=rng.randrange(5)), "flags": [True], "price": rng.choice([0.0, 2.5, None]),
            "stars": rng.choice([1.5, 2.25, None]), "day": "2024-02-29", "seen": "2024-02-29T12:00:00+00:00",
            "ts": rng.choice([1_700_000_000_000 + 3_600_000 * hour for hour in range(24)]),
            "code": rng.choice(["1", "33", None]), "amount": rng.choice([1, 2, None]),
        }
        for _ in range(500)
    ]  # fmt: skip
    database = duckdb.connect()
    register(database, scorer)
    table = pa.Table.from_pylist(rows)
    database.register("given", table)
    casts = "epoch_ms(ts) AS ts, day::DATE AS day, seen::TIMESTAMPTZ AS seen, stars::DECIMAL(10,2) AS stars"
    database.execute(f"CREATE TABLE events AS SELECT row_number() OVER () AS n, * REPLACE ({casts}) FROM given")
    expected = database.execute("SELECT deepfm_score(e) FROM events e ORDER BY n").fetchnumpy()
    found = answer(scorer, rows).scores
    assert np.ptp(found) > 0.1, "the features move the score"
    assert np.abs(found - next(iter(expected.values()))).max() <= TOLERANCE


@pytest.mark.parametrize("mates", [[True, 1, "1"], [2.5, True, "2.5"], ["x", 2**60 + 1, 0.5], [1, 10**60, 0.25]])
def test_sql_features_do_not_depend_on_the_types_beside_them(scorer: Scorer, mates: list[Any]) -> None:
    for order in itertools.permutations(mates):
        events = [{"amount": value, "level": 1} for value in order]
        assert answer(scorer, events).scores.tolist() == pytest.approx([alone(scorer, event) for event in events])


def test_integers_and_booleans_of_one_number_stand_beside_each_other(scorer: Scorer) -> None:
    events = [{"level": value} for value in (True, 2, False, 2.5, None)] * 100
    expected = [alone(scorer, event) for event in events[:5]] * 100
    assert answer(scorer, events).scores.tolist() == pytest.approx(expected, abs=TOLERANCE)


def test_large_batches_are_scored_like_small_ones(scorer: Scorer) -> None:
    events = [{"user": USERS[n % 5], "price": n / 7, "tags": TAGS[: n % 4]} for n in range(5_000)]
    asked = answering(scorer, with_logit=True)
    together = asked.answer(records_of(events), 0)
    for start in range(0, 5_000, 700):
        part = asked.answer(records_of(events[start : start + 700]), 0)
        assert np.abs(part.scores - together.scores[start : start + 700]).max() <= TOLERANCE
    expected = 1 / (1 + np.exp(-np.array([line["logit"] for line in outputs(together)])))
    assert np.abs(together.scores - expected).max() <= TOLERANCE


def test_events_are_scored_without_pandas_where_it_is_installed(scorer: Scorer) -> None:
    code = """
    import json, sys, time
    from streamfm.scoring import load
    from streamfm.stream.answering import Answering
    from streamfm.stream.ports import Event
    from streamfm.stream.settings import StreamSettings
    answering = Answering(load(sys.argv[1]), StreamSettings(event_id="id"), clock=time.perf_counter)
    rows = [
        {"user": "ann", "level": 1, "price": 1, "stars": 0.5, "tags": ["a", None], "flags": [True], "code": "5"},
        {"user": 2.5, "level": 2.5, "price": 0.5, "stars": None, "tags": [1, 2.5], "ts": 5, "day": "2024-02-29"},
        {"user": None, "level": True, "flag": 1, "share": 1, "seen": "2024-02-29", "amount": "7"},
        {},
    ]
    records = [Event("t", 0, n, 0, None, json.dumps({"id": n} | row).encode()) for n, row in enumerate(rows)]
    answered = answering.answer(records, 0)
    print(len(answered.scores), {"pandas", "torch", "onnx"} & sys.modules.keys())
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(scorer.bundle.path)]
    assert "4 set()\n" == subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


# What an answer says.


def test_an_answer_says_what_was_scored_by_whom_and_when(scorer: Scorer) -> None:
    event = {"id": 7, "user": "ann", "at": {"page": [1, 2.50]}, "day": "2024-02-29"}
    answered = answer(scorer, [event], event_id="id", keep=("at", "user", "gone", "id"), with_logit=True)
    (line,) = outputs(answered)
    assert list(line) == ["id", "at", "user", "gone", "score", "logit", "scored_at", "model", "version"]
    assert line == {
        **{"id": 7, "at": {"page": [1, 2.5]}, "user": "ann", "gone": None, "scored_at": "2023-11-14T22:13:20.123Z"},
        **{"score": scorer.score(event), "logit": scorer.logit(event), "model": "ctr", "version": None},
    }
    assert answered.answers.headers == (("streamfm.model", b"ctr"),)


def test_kept_fields_are_on_one_line_and_otherwise_as_the_event_wrote_them(scorer: Scorer) -> None:
    event = b'{"id": "a", "page": {"n": 1.50,\r\n "big": 123456789012345678901234567890, "t": "\\n"},\n"user": "ann"}'
    (value,) = answer(scorer, [event], event_id="id", keep=("page", "user")).answers.values
    assert b"\n" not in value
    assert b'"page":{"n": 1.50,   "big": 123456789012345678901234567890, "t": "\\n"},"user":"ann"' in value


def test_records_answers_and_scores_stand_in_one_order(scorer: Scorer) -> None:
    events: list[Any] = [{"id": n, "user": USERS[n % 5]} for n in range(50)]
    events[7], events[20], events[33] = b"?", {"id": None}, {"id": 33, "code": "x"}
    answered = answer(scorer, events, event_id="id")
    assert reasons(answered) == [(7, "not_json"), (20, "missing_event_id"), (33, "not_scored")]
    lines = outputs(answered)
    assert [record.offset for record in answered.answers.records] == [line["id"] for line in lines]
    assert [line["score"] for line in lines] == answered.scores.tolist()


def test_unknown_values_are_counted_by_event(scorer: Scorer) -> None:
    events = [{"user": "?", "tags": ["?", "!", "a"]}, {"user": "ann", "tags": ["a"]}, {"user": "eve", "app id": "?"}]
    unknown = answer(scorer, events).unknown
    assert (unknown["user"], unknown["tags"], unknown["app id"], unknown["price"]) == (2, 1, 0, 0)
    assert list(unknown) == [feature.name for feature in scorer.spec.features]


def test_no_records_have_no_answers(scorer: Scorer) -> None:
    answered = answer(scorer, [])
    assert (answered.answers.records, answered.answers.values, len(answered.scores)) == ([], [], 0)


def test_only_poison_has_no_answers(scorer: Scorer) -> None:
    answered = answer(scorer, [b"", {"id": 1, "code": "x"}], event_id="id")
    assert (answered.answers.values, reasons(answered)) == ([], [(0, "not_json"), (1, "not_scored")])


def test_an_answer_may_repeat_all_that_the_model_was_told(scorer: Scorer) -> None:
    event = {"id": 7, "user": "ann", "page": "p", "more": [1], "day": "2024-02-29"}
    answered = answer(scorer, [event], event_id="id", keep=("more",), keep_inputs=True)
    (line,) = outputs(answered)
    inputs = [item.name for item in scorer.spec.inputs]
    assert ["id", "more", *inputs] == list(line)[: 2 + len(inputs)]
    assert {name: event.get(name) for name in ("more", *inputs)} == {name: line[name] for name in ("more", *inputs)}


@pytest.mark.parametrize("changes", [{"keep": ("score",)}, {"event_id": "version"}, {"keep": ("a", "shadow_score")}])
def test_a_field_of_the_answers_own_name_is_refused(scorer: Scorer, changes: dict[str, Any]) -> None:
    with pytest.raises(StreamError, match=r"has a field of that name itself"):
        answering(scorer, **changes)


def test_an_event_id_that_can_name_nothing_is_refused(scorer: Scorer) -> None:
    with pytest.raises(StreamError, match="neither text nor integer"):
        answering(scorer, event_id="tags")


def test_an_input_can_be_the_event_id(scorer: Scorer) -> None:
    answered = answer(scorer, [{"user": "ann"}, {"user": 5}, {"user": True}, {}], event_id="user")
    assert [line["user"] for line in outputs(answered)] == ["ann", 5]
    assert reasons(answered) == [(2, "wrong_type"), (3, "missing_event_id")]
    assert answered.scores.tolist() == pytest.approx([scorer.score({"user": "ann"}), scorer.score({"user": 5})])


# What cannot be scored.

CULPRITS: Sequence[tuple[dict[str, Any], str]] = [
    ({"day": "2024-02-30"}, "input 'day' (DATE, JSON form iso8601) is '2024-02-30'"),
    ({"seen": "noon"}, "input 'seen' (TIMESTAMPTZ, JSON form iso8601) is 'noon'"),
    ({"ts": 10**18}, "input 'ts' (TIMESTAMP): int too big"),
    ({"code": "x"}, "feature 'whole': sql = 'CAST(code AS INTEGER) % 7'"),
    ({"level": 10**80}, "feature 'height': it is numeric"),
]


@pytest.mark.parametrize(("culprit", "message"), CULPRITS)
def test_an_event_that_cannot_be_scored_hurts_no_other(scorer: Scorer, culprit: dict[str, Any], message: str) -> None:
    good: list[dict[str, Any]] = [{"user": USERS[n % 5], "level": n % 3, "code": str(n)} for n in range(40)]
    answered = answer(scorer, [*good[:13], culprit, *good[13:]])
    (letter,) = answered.answers.dead_letters
    assert (letter.record.offset, letter.reason, letter.error) == (13, "not_scored", "DataError")
    assert message in letter.message
    assert "row " not in letter.message
    assert np.abs(answered.scores - scorer.score(good)).max() <= TOLERANCE


def test_each_of_many_culprits_is_found(scorer: Scorer) -> None:
    events = [{"code": "x" if n % 3 == 0 else "5", "day": "?" if n % 7 == 0 else "2024-02-29"} for n in range(100)]
    answered = answer(scorer, events)
    assert [offset for offset, _ in reasons(answered)] == [n for n in range(100) if n % 3 == 0 or n % 7 == 0]
    assert {letter.reason for letter in answered.answers.dead_letters} <= REASONS.keys()


def test_what_is_no_fault_of_the_events_is_raised(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(scorer)
    monkeypatch.setattr(scorer, "_session", None)
    with pytest.raises(AttributeError):
        asked.answer(records_of([{"user": "ann"}]), 0)


# A second model beside the first.


def test_a_shadow_scores_the_same_events(scorer: Scorer, other: Scorer) -> None:
    events = [{"id": n, "user": USERS[n % 5], "position": n % 3} for n in range(20)]
    answered = answer(scorer, events, event_id="id", shadow=other)
    lines = outputs(answered)
    assert list(lines[0])[-3:] == ["shadow_score", "shadow_model", "shadow_version"]
    assert [line["shadow_score"] for line in lines] == pytest.approx(other.score(events).tolist(), abs=TOLERANCE)
    assert [line["score"] for line in lines] == pytest.approx(scorer.score(events).tolist(), abs=TOLERANCE)
    assert (lines[0]["shadow_model"], lines[0]["shadow_version"]) == ("rival", None)
    assert answered.answers.headers[-1] == ("streamfm.shadow", b"rival")
    assert answered.shadow[:4] == (20, 0, 0, "")


def test_a_shadow_of_the_same_inputs_shares_what_was_read(scorer: Scorer) -> None:
    events = [{"user": USERS[n % 5], "code": "x" if n == 3 else "4"} for n in range(9)]
    answered = answer(scorer, events, shadow=scorer)
    assert [line["shadow_score"] for line in outputs(answered)] == answered.scores.tolist()


def test_events_that_only_the_shadow_cannot_use_have_no_shadow_score(scorer: Scorer, other: Scorer) -> None:
    events = [{"user": "ann", "position": position} for position in (1, "x", 2, 10**400, True)]
    answered = answer(scorer, events, shadow=other)
    assert reasons(answered) == []
    found = [line["shadow_score"] for line in outputs(answered)]
    assert [score is None for score in found] == [False, True, False, True, False]
    assert (answered.shadow.scored, answered.shadow.failed) == (3, 2)
    assert found[2] == pytest.approx(other.score({"user": "ann", "position": 2}), abs=TOLERANCE)
    assert answered.shadow.error


def test_a_broken_shadow_costs_only_its_scores(scorer: Scorer, other: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(scorer, shadow=other)
    monkeypatch.setattr(other, "_session", None)
    answered = asked.answer(records_of([{"user": "ann"}] * 3), 0)
    assert [line["shadow_score"] for line in outputs(answered)] == [None] * 3
    assert answered.scores.tolist() == pytest.approx([scorer.score({"user": "ann"})] * 3)
    assert (answered.shadow.scored, answered.shadow.failed) == (0, 3)
    assert "AttributeError" in answered.shadow.error


def ticking(step_s: float) -> Callable[[], float]:
    """A clock that goes on by a step whenever it is read."""
    return itertools.count(0.0, step_s).__next__


def test_a_slow_shadow_is_left_out_for_a_while(scorer: Scorer, other: Scorer) -> None:
    # A batch takes the shadow three looks at the clock, and then is left out for twenty, which are two batches.
    asked = answering(scorer, shadow=other, clock=ticking(0.1), shadow_limit_s=0.25, shadow_pause_s=2.0)
    found = [asked.answer(records_of([{"user": "ann"}]), 0).shadow for _ in range(7)]
    assert [shadow.skipped for shadow in found] == [0, 1, 1, 0, 1, 1, 0]
    assert [shadow.scored for shadow in found] == [1, 0, 0, 1, 0, 0, 1]
    assert "paused" in found[0].error


def test_a_shadow_that_is_always_slow_takes_twice_the_time_of_the_first_model_at_most(
    scorer: Scorer, other: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"first": 0.0, "shadow": 0.0}

    def takes(model: Scorer, who: str, duration_s: float) -> None:
        ask = model.answer_columns

        def slowly(*given: Any, **named: Any) -> Any:
            seconds[who] += duration_s
            return ask(*given, **named)

        monkeypatch.setattr(model, "answer_columns", slowly)

    takes(scorer, "first", 0.01)
    takes(other, "shadow", 0.4)
    asked = answering(scorer, shadow=other, clock=lambda: sum(seconds.values()), shadow_limit_s=0.5)
    found = [asked.answer(records_of([{"user": "ann"}]), 0).shadow for _ in range(400)]

    assert seconds["first"] == pytest.approx(4.0)
    # Besides what it may take for a batch at the start.
    assert seconds["shadow"] == pytest.approx(2 * 4.0 + 0.5, abs=0.4)
    assert [1] * 400 == [shadow.scored + shadow.skipped for shadow in found]


def test_a_shadow_stops_searching_for_culprits_when_its_time_is_over(scorer: Scorer, other: Scorer) -> None:
    asked = answering(scorer, shadow=other, clock=ticking(0.01), shadow_limit_s=0.3)
    events = [{"user": "ann", "position": 10**400 if n % 2 else n} for n in range(64)]
    answered = asked.answer(records_of(events), 0)
    assert len(answered.scores) == 64
    assert answered.shadow.scored + answered.shadow.failed == 64
    assert 0 < answered.shadow.scored < 32


def test_a_shadow_that_takes_long_for_a_few_rows_is_not_asked_for_the_rest(scorer: Scorer, other: Scorer) -> None:
    asked = answering(scorer, shadow=other, clock=ticking(0.1), shadow_limit_s=0.45)
    answered = asked.answer(records_of([{"user": "ann"}] * 1_024), 0)
    assert 1_024 == len(answered.scores)
    assert answered.shadow.scored in (256, 512)
    assert 1_024 == answered.shadow.scored + answered.shadow.failed
