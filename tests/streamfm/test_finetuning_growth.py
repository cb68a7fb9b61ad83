"""Categories come and go: vocabularies grow and shrink, and the rows of the table go with their values."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fine_tuned import DAY_US, SETTINGS, SPEC, assert_same_state, chunk, exported, no_proof, trained_bundle
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from streamfm.bundle import Bundle, open_bundle
from streamfm.data.labelled_rows import LabelledBatch
from streamfm.encoder.columns import Table
from streamfm.encoder.growth import PENDING_SCHEMA, GrownVocabularies
from streamfm.encoder.vocabulary import (
    PENDING_FILE,
    VALUES_SCHEMA,
    Vocabularies,
    VocabularyWriter,
    hash_texts,
    seed_of,
)
from streamfm.errors import BundleError
from streamfm.features import FeatureSpec
from streamfm.finetuning import FineTuner
from streamfm.finetuning.categories import Sightings

TEXTS = st.text(alphabet="abc é🐟", max_size=3)
STOP = {"stop": lambda: True}


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return trained_bundle(tmp_path_factory.mktemp("parent") / "ctr")


def written(folder: Path, values: Mapping[str, int]) -> Vocabularies:
    writer = VocabularyWriter(folder)
    batch = pa.record_batch(
        [pa.array(values, pa.string()), pa.array(values.values(), pa.int64())], schema=VALUES_SCHEMA
    )
    writer.add_rows("price", "number", 3)
    writer.add_values("app", len(values), [batch])
    return writer.finish({})


def rows_of(vocabularies: Vocabularies, texts: list[str]) -> list[int]:
    ids = np.empty((len(texts), 1), np.int32)
    Table(vocabularies.tables["app"], 0).write_rows(pa.array(texts, pa.string()), "", ids, 0)
    return ids[:, 0].tolist()


@st.composite
def changes(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[dict[str, int], list[bool] | None]]]:
    """Values to begin with, and steps: values to add, and which of those there are stay (None for all)."""
    first = {text: draw(st.integers(1, 9)) for text in draw(st.lists(TEXTS, unique=True, max_size=12))}
    there, steps = list(first), []
    for _ in range(draw(st.integers(0, 4))):
        kept = draw(st.none() | st.lists(st.booleans(), min_size=len(there), max_size=len(there)))
        there = [text for text, stays in zip(there, kept or [True] * len(there), strict=True) if stays]
        new = [text for text in draw(st.lists(TEXTS, unique=True, max_size=25)) if text not in there]
        steps.append(({text: draw(st.integers(1, 9)) for text in new}, kept))
        there += new
    return first, steps


@given(changes())
@settings(max_examples=60, deadline=None)
def test_a_changed_vocabulary_is_one_written_with_its_values_from_the_start(
    plan: tuple[dict[str, int], list[tuple[dict[str, int], list[bool] | None]]],
) -> None:
    first, steps = plan
    with tempfile.TemporaryDirectory() as folder:
        changed = GrownVocabularies.of(written(Path(folder) / "first", first))
        expected, before = dict(first), rows_of(changed, list(first))
        for added, kept in steps:
            old = changed
            masks = {} if kept is None else {"app": np.array(kept, np.bool_)}
            changed = changed.changed({"app": added} if added else {}, masks)
            stay = kept or [True] * len(expected)
            expected = {text: n for (text, n), stays in zip(expected.items(), stay, strict=True) if stays} | added
            assert old.tables["app"].rows == len(old.values("app")) + 2
        anew = written(Path(folder) / "anew", expected)
        everything = [*first, *(text for added, _ in steps for text in added), "nobody"]
        changed.save(Path(folder) / "saved")
        for vocabularies in (changed, Vocabularies.load(Path(folder) / "saved")):
            assert rows_of(anew, everything) == rows_of(vocabularies, everything)
            assert anew.values("app").equals(vocabularies.values("app"))
            assert anew.tables["app"].rows == vocabularies.tables["app"].rows
        assert list(range(2, 2 + len(first))) == before
        assert not changed.tables["app"].slots.flags.writeable


def rows(
    users: list[str | None], likes: list[list[str | None] | None], times: NDArray[np.int64] | None = None
) -> LabelledBatch:
    """Rows of these users and likes; the rest is the same for all."""
    count = len(users)
    columns = {
        "user": pa.array(users, pa.string()),
        "likes": pa.array(likes, pa.list_(pa.string())),
        "topic": pa.array(["topic 1"] * count),
        "price": pa.array(np.linspace(0, 3, count)),
        "age": pa.array([30.0] * count),
        "place": pa.array(["place 1"] * count),
    }
    return LabelledBatch(columns, count, np.arange(count, dtype=np.float32) % 2, None, None, times)


USERS = st.sampled_from([None, *(f"u{number}" for number in range(0, 60, 3)), "", "é"])
LIKES = st.none() | st.lists(st.none() | st.sampled_from([f"topic {number}" for number in range(14)]), max_size=5)
ROWS = st.lists(st.tuples(USERS, LIKES), min_size=1, max_size=12)


def of(drawn: list[tuple[str | None, list[str | None] | None]]) -> LabelledBatch:
    return rows([user for user, _ in drawn], [likes for _, likes in drawn])


def answers(tuner: FineTuner, asked: LabelledBatch) -> NDArray[np.float32]:
    return tuner.predict_logits(asked.columns, asked.rows)


@given(grown=ROWS, asked=ROWS, average=st.booleans())
@settings(max_examples=40, deadline=None)
def test_growth_alone_changes_no_answer(parent: Bundle, grown: Any, asked: Any, average: bool) -> None:
    """Bit by bit: known values keep their weights, and new ones answer as unknown ones did."""
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, average=average))
    tuner.learn(of(asked))
    before, probes = answers(tuner, of(asked + grown)), of(asked + grown)
    report = tuner.learn(of(grown), **STOP)
    assert report.interrupted
    assert before.tobytes() == answers(tuner, probes).tobytes()
    assert not any(report.unknown_after.values())
    known = tuner.vocabularies.values("user")["value"].to_pylist()
    assert {user for user, _ in grown if user is not None} <= set(known)
    assert len(set(known)) == len(known)


@given(learnt=ROWS, asked=ROWS)
@settings(max_examples=40, deadline=None)
def test_eviction_makes_values_unknown_and_leaves_the_others_alone(parent: Bundle, learnt: Any, asked: Any) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, unknown_share=0, null_share=0))
    tuner.learn(of(asked))
    tuner.learn(of(learnt))
    before = state_of_values(tuner)
    users = {user for user, _ in learnt}
    # The encoder keeps three values of a list.
    topics = {"topic 1", *(like for _, likes in learnt for like in (likes or [])[:3])}
    expected = answers(
        tuner,
        rows(
            [user if user in users else None if user is None else "never seen" for user, _ in asked],
            [
                likes and [like if like in topics or like is None else "never seen" for like in likes]
                for _, likes in asked
            ],
        ),
    )
    evicted = tuner.evict(unseen_steps=learn_steps(len(learnt)))
    assert expected.tobytes() == answers(tuner, of(asked)).tobytes()
    after = state_of_values(tuner)
    assert {("user", user) for user in users if user is not None} == {key for key in after if key[0] == "user"}
    assert {("topics", topic) for topic in topics if topic is not None} == {key for key in after if key[0] == "topics"}
    assert len(before) - len(after) == sum(evicted.values())
    for key, arrays in after.items():
        assert arrays == before[key]


def learn_steps(count: int) -> int:
    return -(-count // SETTINGS.batch_size)


def state_of_values(tuner: FineTuner) -> dict[tuple[str, str], list[bytes]]:
    """Weights, moments and counts of each value."""
    state = tuner.trained(no_proof(tuner), no_proof(tuner).rows).state or {}
    arrays = [array for name, array in state.items() if name.endswith(".table") or name.startswith("row_")]
    found, base = {}, 0
    for name, table in tuner.vocabularies.tables.items():
        for index, text in enumerate(tuner.vocabularies.values(name)["value"].to_pylist()):
            found[name, text] = [array[base + 2 + index].tobytes() for array in arrays]
        base += table.rows
    return found


def test_new_rows_begin_as_the_unknown_row_with_moments_of_zero(parent: Bundle) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, average=True))
    tuner.learn(chunk(0))
    before = tuner.trained(no_proof(tuner), no_proof(tuner).rows).state or {}
    unknown = int(tuner.encoder.layout.unknown_rows[0])
    expected = {name: before[name][unknown].tolist() for name in ("served.table", "raw.table")}
    tuner.learn(rows(["new"] * 4, [None] * 4), **STOP)
    state = tuner.trained(no_proof(tuner), no_proof(tuner).rows).state or {}
    row = tuner.encoder.row_of("user", "new")
    assert row != unknown
    assert expected == {name: state[name][row].tolist() for name in expected}
    assert not any(state[name][row].any() for name in ("moment1.table", "moment2.table", "row_count", "row_last_step"))


def test_values_are_admitted_after_so_many_sightings_over_all_rounds(parent: Bundle, tmp_path: Path) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, admit_after=3))
    first = tuner.learn(rows(["x", "y", "x", "u1"], [["topic 99"], ["topic 99", None], None, ["topic 98"]]))
    assert ({}, {"user": 2, "topics": 2}) == (first.admitted, first.pending)
    assert {"y": 1, "x": 2} == tuner.vocabularies.pending["user"]
    assert {"topic 99": 2, "topic 98": 1} == tuner.vocabularies.pending["topics"]
    bundle = exported(tuner, tmp_path / "b")
    assert (bundle.path / "vocabulary" / PENDING_FILE).exists()
    tuner = FineTuner.from_bundle(bundle, tuner.settings)
    # What is replayed was counted when it was new.
    again = rows(["y"] * 5, [None] * 5)
    report = tuner.learn(rows(["x", "u2"], [["topic 99"], ["a", "b", "c", "past the third"]]), again)
    assert ({"user": 1, "topics": 1}, {"user": 1, "topics": 4}) == (report.admitted, report.pending)
    assert (0.5, 0.0) == (report.unknown_before["user"], report.unknown_after["user"])
    assert {"y": 1} == tuner.vocabularies.pending["user"]
    assert [3] == [
        n for value, n in zip(*tuner.vocabularies.values("user").to_pydict().values(), strict=True) if value == "x"
    ]
    assert tuner.encoder.row_of("topic", "topic 99") == tuner.encoder.row_of("likes", "topic 99") > 0
    evict = tuner.evict(unseen_steps=0)
    tuner.learn(rows(["x", "y", "y"], [None] * 3))
    assert evict["user"] > 30
    assert {"x": 1} == tuner.vocabularies.pending["user"]
    assert tuner.encoder.row_of("user", "y") > tuner.encoder.row_of("user", "nobody")


def test_without_a_number_of_sightings_the_specification_decides() -> None:
    spec = FeatureSpec.from_toml("""
        format = 1
        label = "clicked"
        [inputs]
        a = "VARCHAR"
        b = "VARCHAR"
        [features.a]
        kind = "categorical"
        min_count = 2
        [features.b]
        kind = "categorical"
    """)
    sightings = Sightings(spec, {}, after=None, limit=10)
    once = [("a", pa.array(["x"])), ("b", pa.array(["x"]))]
    assert {"b": {"x": 1}} == sightings.admit(once)
    assert {"a": {"x": 2}} == sightings.admit(once[:1])


def test_values_that_wait_are_bounded_and_the_rarest_and_oldest_forgotten() -> None:
    sightings = Sightings(SPEC, {"user": {"old": 2, "rare": 1}}, after=100, limit=8)
    for number in range(8):
        sightings.admit([("user", pa.array([f"v{number}"] * (2 if number % 2 else 1) + ["steady"]))])
        assert 8 >= len(sightings.pending["user"])
    assert ("v7", "steady") == tuple(sightings.pending["user"])[-2:]
    assert {"old": 2, "v1": 2, "steady": 8}.items() <= sightings.pending["user"].items()
    assert not {"rare", "v0"} & set(sightings.pending["user"])
    none = Sightings(SPEC, {}, after=2, limit=0)
    assert {} == none.admit([("user", pa.array(["a"]))]) == none.pending["user"]
    assert {"user": {"a": 2}} == none.admit([("user", pa.array(["a", "a"]))])


def test_hashed_tables_do_not_grow(parent: Bundle) -> None:
    tuner = FineTuner.from_bundle(parent, SETTINGS)
    columns = dict(chunk(1).columns) | {"place": pa.array([f"somewhere else {i}" for i in range(100)])}
    report = tuner.learn(chunk(1)._replace(columns=columns))
    assert "place" not in report.admitted
    assert 10 == tuner.vocabularies.tables["place"].rows


@pytest.mark.parametrize("kind", [pa.dictionary(pa.int32(), pa.string()), pa.large_string(), pa.string_view()])
def test_unknown_values_of_any_arrow_type_are_counted(parent: Bundle, kind: pa.DataType) -> None:
    tuner, other = (FineTuner.from_bundle(parent, SETTINGS) for _ in range(2))
    plain = rows(["x", None, "u1", "y", "x"], [["n"], None, [], [None, "m"], ["n", "topic 1"]])
    text = plain.columns["user"]
    user = text.dictionary_encode() if pa.types.is_dictionary(kind) else text.cast(kind)
    likes = plain.columns["likes"].cast(pa.large_list(pa.string()))
    # A slice, whose offsets do not begin at 0.
    columns = {name: pa.concat_arrays([column, column]).slice(5) for name, column in plain.columns.items()}
    columns |= {"user": pa.chunked_array([user.slice(0, 2), user.slice(2)]), "likes": likes}
    expected, report = other.learn(plain), tuner.learn(plain._replace(columns=columns))
    assert {"user": 2, "topics": 2} == expected.admitted == report.admitted
    assert_same_state(tuner, other)


def timed(users: list[str], day: float) -> LabelledBatch:
    times = np.full(len(users), int(1_700_000_000_000_000 + day * DAY_US), np.int64)
    return rows(users, [["topic 1"]] * len(users), times=times)


def test_values_unseen_for_long_lose_their_row(parent: Bundle, tmp_path: Path) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, evict_unseen_s=10 * 86_400.0))
    assert {} == tuner.learn(timed(["a", "b"], 0)).evicted
    assert {} == tuner.learn(timed(["a", "u1"], 9), timed(["b"], 0)).evicted
    tuner = FineTuner.from_bundle(exported(tuner, tmp_path / "b"), tuner.settings)
    report = tuner.learn(timed(["c"], 11))
    # b, which was replayed later but never came again, and all that only the first training saw.
    assert {"user", "topics"} == set(report.evicted)
    assert {"user": 1} == report.admitted
    assert ["u1", "a", "c"] == tuner.vocabularies.values("user")["value"].to_pylist()
    assert ["topic 1"] == tuner.vocabularies.values("topics")["value"].to_pylist()
    assert np.isfinite(answers(tuner, chunk(0))).all()
    assert {"user": 1} == tuner.learn(timed(["b"], 12)).admitted
    assert {"user": 2} == tuner.evict(unseen_s=2 * 86_400.0)
    assert ["c", "b"] == tuner.vocabularies.values("user")["value"].to_pylist()


def test_with_eviction_the_table_stays_bounded(parent: Bundle) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, evict_unseen_s=5 * 86_400.0))
    sizes = []
    for day in range(30):
        tuner.learn(timed([f"user {day} {number}" for number in range(20)], day))
        sizes.append(tuner.vocabularies.tables["user"].rows)
    assert {2 + 6 * 20} == set(sizes[6:])
    assert 2 + 6 * 20 == len(tuner.vocabularies.values("user")) + 2
    assert len(tuner.vocabularies.tables["user"].slots) <= 512


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ARROW1 and no more",
        pa.table({"value": ["a"]}),
        pa.table([["user"], ["a"], [None]], schema=PENDING_SCHEMA),
        pa.table([["no such table"], ["a"], [1]], schema=PENDING_SCHEMA),
        pa.table([["user"], ["a"], [0]], schema=PENDING_SCHEMA),
    ],
)
def test_damaged_pending_values_are_refused_by_the_name_of_their_file(
    parent: Bundle, tmp_path: Path, content: bytes | pa.Table
) -> None:
    parent.vocabularies.save(tmp_path / "v")
    path = tmp_path / "v" / PENDING_FILE
    assert not path.exists()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, content.schema) as writer:
            writer.write_table(content)
    with pytest.raises(BundleError, match=r"pending\.arrow: not a list of pending values"):
        FineTuner.from_bundle(replace(parent, vocabularies=Vocabularies.load(tmp_path / "v")), SETTINGS)


def test_pending_values_go_with_a_copy_of_their_folder(parent: Bundle, tmp_path: Path) -> None:
    tuner = FineTuner.from_bundle(parent, replace(SETTINGS, admit_after=2))
    tuner.learn(rows(["x"] * 1, [None]))
    bundle = exported(tuner, tmp_path / "b")
    bundle.vocabularies.save(tmp_path / "copy")
    assert {"x": 1} == GrownVocabularies.of(Vocabularies.load(tmp_path / "copy")).pending["user"]


def colliding(table: str) -> tuple[str, str]:
    """Two texts with one XXH64 hash: whoever knows a table's name can make them."""
    prime1, prime2, size = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 1 << 64

    def mixed(state: int, lane: bytes) -> int:
        value = (state + int.from_bytes(lane, "little") * prime2) % size
        return ((value << 31 | value >> 33) * prime1) % size

    begin = (int(seed_of(table)) + prime1 + prime2) % size
    rest, second = b"." * 24, b"ABCDEFGH"
    state = mixed(begin, b"first   ")
    for number in range(1 << 16):
        other = b"%08d" % number
        moved = (int.from_bytes(second, "little") + (state - mixed(begin, other)) * pow(prime2, -1, size)) % size
        lane = moved.to_bytes(8, "little")
        if lane.isascii() and lane.decode().isprintable():
            return (b"first   " + rest + second + rest).decode(), (other + rest + lane + rest).decode()
    raise AssertionError("no such texts")


def test_values_of_one_hash_share_a_row(parent: Bundle, tmp_path: Path) -> None:
    one, other = colliding("user")
    assert one != other
    assert 1 == len(set(hash_texts(pa.array([one, other]), seed_of("user")).tolist()))
    tuner = FineTuner.from_bundle(parent, SETTINGS)
    report = tuner.learn(rows([one, other, "x"], [None] * 3))
    assert {"user": 2} == report.admitted
    assert tuner.encoder.row_of("user", one) == tuner.encoder.row_of("user", other)
    tuner = FineTuner.from_bundle(exported(tuner, tmp_path / "b"), SETTINGS)
    assert {} == tuner.learn(rows([one, other, "x"], [None] * 3)).admitted


def test_what_is_exported_needs_its_parent_no_longer(tmp_path: Path) -> None:
    import shutil

    tuner = FineTuner.from_bundle(trained_bundle(tmp_path / "ctr"), SETTINGS)
    shutil.rmtree(tmp_path / "ctr")
    tuner.learn(chunk(0))
    bundle = open_bundle(exported(tuner, tmp_path / "next").path)
    assert_same_state(tuner, FineTuner.from_bundle(bundle, SETTINGS))
