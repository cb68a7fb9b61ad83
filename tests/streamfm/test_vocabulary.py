"""Vocabularies: written and read back, refused when damaged, and found in whatever their size."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from streamfm.encoder import kernels
from streamfm.encoder.columns import Table
from streamfm.encoder.vocabulary import (
    VALUES_SCHEMA,
    NumericStatistics,
    Vocabularies,
    VocabularyWriter,
    hash_texts,
    seed_of,
)
from streamfm.errors import BundleError, DataError

HOSTILE = [
    "",
    " ",
    "NULL",
    "a\x00b",
    "a\nb",
    '"',
    "\\",
    "🐟",
    "e\u0301",
    "é",
    "\u202e",
    "x" * 100_000,
    "1",
    "-1",
    "1.0",
]


def batch(values: list[str], first_count: int = 1) -> pa.RecordBatch:
    counts = list(range(first_count, first_count + len(values)))
    return pa.record_batch([pa.array(values, pa.string()), pa.array(counts, pa.int64())], schema=VALUES_SCHEMA)


def written(folder: Path, **tables: list[str]) -> Vocabularies:
    writer = VocabularyWriter(folder)
    for name, values in tables.items():
        writer.add_values(name, len(values), [batch(values)])
    return writer.finish({})


def rows_of(vocabularies: Vocabularies, table: str, values: list[str | None]) -> list[int]:
    ids = np.empty((len(values), 1), np.int32)
    Table(vocabularies.tables[table], 0).write_rows(pa.array(values, pa.string()), "", ids, 0)
    return ids[:, 0].tolist()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a vocabulary with a table of every kind."""
    writer = VocabularyWriter(tmp_path / "vocabulary")
    writer.add_rows("price", "number", 3)
    writer.add_values("app", 3, [batch(["b", "a"]), batch(["c"], 7)])
    writer.add_rows("user", "hashed", 1002)
    writer.add_rows("age", "quantile", 5)
    numerics = {"price": NumericStatistics(mean=0.1, deviation=1e-300), "age": NumericStatistics(boundaries=(0.1, 2.0))}
    writer.finish(numerics)
    return tmp_path / "vocabulary"


def test_rows_of_a_small_vocabulary_are_these(tmp_path: Path) -> None:
    vocabularies = written(tmp_path / "v", app=["maps", "mail", ""], user=["mail"])
    assert [2, 3, 4, 1, 0] == rows_of(vocabularies, "app", ["maps", "mail", "", "chess", None])
    assert [1, 2] == rows_of(vocabularies, "user", ["maps", "mail"])
    # Golden: whoever changes them makes every saved vocabulary unreadable.
    assert [0x3235BC532F3A71B0, 0x3DA0FD9C44CFC9EE] == [int(seed_of(name)) for name in ("app", "user")]
    mail = pa.array(["mail"])
    assert [0x89864943D68950A1] == hash_texts(mail, seed_of("app")).tolist()
    assert [0xD5FB3ABB1E6098DF] == hash_texts(mail, seed_of("user")).tolist()
    slots = vocabularies.tables["user"].slots
    assert (16, 2) == slots.shape
    assert [0, 2] == sorted(set(slots[:, 1].tolist()))
    assert hash_texts(mail, seed_of("user")).tolist() == slots[slots[:, 1] > 0, 0].tolist()


def test_every_table_has_a_seed_of_its_own(tmp_path: Path) -> None:
    vocabularies = written(tmp_path / "v", app=["mail"], user=["mail"], ü=[])
    seeds = [int(table.seed) for table in vocabularies.tables.values()]
    assert [int(seed_of("app")), int(seed_of("user")), int(seed_of("ü"))] == seeds
    assert 3 == len(set(seeds))


def test_what_was_written_is_loaded(folder: Path) -> None:
    loaded = Vocabularies.load(folder)
    kinds = [(table.name, table.kind, table.rows, table.hash_buckets) for table in loaded.tables.values()]
    assert [
        ("price", "number", 3, 0),
        ("app", "values", 5, 0),
        ("user", "hashed", 1002, 1000),
        ("age", "quantile", 5, 0),
    ] == kinds
    assert NumericStatistics(mean=0.1, deviation=1e-300) == loaded.numerics["price"]
    assert (0.1, 2.0) == loaded.numerics["age"].boundaries
    assert [3, 2, 4, 1] == rows_of(loaded, "app", ["a", "b", "c", "d"])


def test_a_saved_copy_is_the_same_and_stands_alone(folder: Path, tmp_path: Path) -> None:
    loaded = Vocabularies.load(folder)
    (folder / "notes.txt").write_text("not ours")
    loaded.save(tmp_path / "deep" / "copy")
    shutil.rmtree(folder)
    copy = Vocabularies.load(tmp_path / "deep" / "copy")
    assert ["1.slots.npy", "1.values.arrow", "tables.json"] == sorted(path.name for path in copy.folder.iterdir())
    assert [3, 2, 4] == rows_of(copy, "app", ["a", "b", "c"])
    assert ["b", "a", "c"] == copy.values("app")["value"].to_pylist()


def test_values_come_with_their_counts_in_the_order_of_their_rows(folder: Path) -> None:
    values = Vocabularies.load(folder).values("app")
    assert {"value": ["b", "a", "c"], "count": [1, 2, 7]} == values.to_pydict()


def test_values_of_a_table_without_values_are_none(folder: Path) -> None:
    loaded = Vocabularies.load(folder)
    assert VALUES_SCHEMA.empty_table() == loaded.values("user")
    with pytest.raises(KeyError):
        loaded.values("nobody")


def test_hostile_values_are_values_like_any_other(tmp_path: Path) -> None:
    vocabularies = written(tmp_path / "v", app=HOSTILE)
    assert list(range(2, 2 + len(HOSTILE))) == rows_of(vocabularies, "app", list(HOSTILE))
    assert HOSTILE == vocabularies.values("app")["value"].to_pylist()


@pytest.mark.parametrize("name", ['"', "a/b", "..", "\\", "🐟", "a\tb"])
def test_hostile_names_of_tables_stay_inside_the_folder(tmp_path: Path, name: str) -> None:
    vocabularies = written(tmp_path / "v", **{name: ["a"]})
    assert [2] == rows_of(vocabularies, name, ["a"])
    assert ["v"] == [path.name for path in tmp_path.iterdir()]


def test_an_empty_vocabulary_knows_nothing(tmp_path: Path) -> None:
    vocabularies = written(tmp_path / "v", app=[])
    assert [1, 0] == rows_of(vocabularies, "app", ["a", None])
    assert 2 == vocabularies.tables["app"].rows


def test_of_a_large_vocabulary_every_value_is_found_and_no_other(tmp_path: Path) -> None:
    count, part = 200_000, 65_536
    known = pa.array([f"user-{number}" for number in range(count)])
    writer = VocabularyWriter(tmp_path / "v")
    batches = (known.slice(start, part) for start in range(0, count, part))
    counted = (pa.record_batch([values, pa.array([1] * len(values))], schema=VALUES_SCHEMA) for values in batches)
    writer.add_values("user", count, counted)
    vocabularies = writer.finish({})
    ids = np.empty((count, 1), np.int32)
    Table(vocabularies.tables["user"], 0).write_rows(known, "", ids, 0)
    assert np.array_equal(np.arange(2, count + 2), ids[:, 0])
    assert {1} == set(rows_of(vocabularies, "user", [f"user-{number}" for number in range(count, count + 10_000)]))
    assert known.equals(vocabularies.values("user")["value"].combine_chunks())


def test_a_loaded_vocabulary_cannot_be_written_to(folder: Path) -> None:
    slots = Vocabularies.load(folder).tables["app"].slots
    assert not slots.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        slots[0, 0] = 1
    with pytest.raises(ValueError, match="WRITEABLE"):
        slots.flags.writeable = True


def test_a_value_that_is_there_twice_is_refused_by_name(tmp_path: Path) -> None:
    writer = VocabularyWriter(tmp_path / "v")
    with pytest.raises(DataError, match="table 'app': value 'b' is there twice, or has the 64-bit hash of another"):
        writer.add_values("app", 4, [batch(["a", "b"]), batch(["c", "b"])])


def test_two_values_of_one_hash_are_detected() -> None:
    # Two such texts are hard to come by; so the hashes themselves.
    slots = np.zeros((16, 2), np.uint64)
    assert 2 == kernels.fill_slots(np.array([11, 12, 11, 13], np.uint64), 2, slots)


@pytest.mark.parametrize("values", [["a"], ["a", "b", "c"], ["a", None]])
def test_other_values_than_announced_are_a_mistake_of_the_caller(tmp_path: Path, values: list[str]) -> None:
    writer = VocabularyWriter(tmp_path / "v")
    with pytest.raises(ValueError, match="table 'app': expected 2 values"):
        writer.add_values("app", 2, [batch(values)])


def test_more_values_than_int32_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"table 'app': 2,147,483,647 values are more than int32 can number") as caught:
        VocabularyWriter(tmp_path / "v").add_values("app", 2**31 - 1, [])
    assert "hash_buckets" in str(caught.value.hint)


def test_a_folder_that_is_there_is_not_written_into(folder: Path) -> None:
    with pytest.raises(FileExistsError):
        VocabularyWriter(folder)


@pytest.mark.parametrize(
    "statistics",
    [
        {"mean": float("nan")},
        {"mean": float("inf")},
        {"deviation": 0.0},
        {"deviation": -1.0},
        {"deviation": float("nan")},
        {"boundaries": (1.0, 1.0)},
        {"boundaries": (2.0, 1.0)},
        {"boundaries": (1.0, float("nan"))},
        {"boundaries": (float("-inf"), 1.0)},
    ],
)
def test_statistics_that_would_make_no_numbers_are_refused(statistics: dict[str, float]) -> None:
    with pytest.raises(DataError):
        NumericStatistics(**statistics)  # type: ignore[arg-type]


def edit(change: Callable[[dict[str, object]], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "tables.json"
        document = json.loads(path.read_text())
        change(document)
        path.write_text(json.dumps(document))

    return damage


def table(**settings: object) -> Callable[[Path], None]:
    return edit(lambda document: document["tables"][1].update(settings))  # type: ignore[index]


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def save_slots(slots: object) -> Callable[[Path], None]:
    return lambda folder: np.save(folder / "1.slots.npy", slots, allow_pickle=True)  # type: ignore[arg-type]


def truncate(name: str, keep: float) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * keep)])

    return damage


def full_slots(folder: Path) -> None:
    np.save(folder / "1.slots.npy", np.array([[1, 2], [2, 3], [3, 4], [4, 4]], np.uint64))


DAMAGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no tables.json": ("tables.json", lambda folder: (folder / "tables.json").unlink()),
    "tables.json is no JSON": ("tables.json", write("tables.json", b"{")),
    "tables.json is no UTF-8": ("tables.json", write("tables.json", b'{"\xff": 1}')),
    "tables.json is a list": ("tables.json", write("tables.json", b"[]")),
    "tables.json is nested": ("tables.json", write("tables.json", b"[" * 100_000)),
    "tables.json lacks tables": ("tables.json", edit(lambda document: document.pop("tables"))),
    "tables.json lacks numerics": ("tables.json", edit(lambda document: document.pop("numerics"))),
    "numerics is a list": ("tables.json", edit(lambda document: document.update(numerics=[]))),
    "a statistic is NaN": (
        "tables.json",
        edit(lambda document: document["numerics"]["price"].update(mean=float("nan"))),  # type: ignore[index]
    ),
    "a table is a text": ("tables.json", edit(lambda document: document.update(tables=["a"]))),
    "kind unknown": ("tables.json", table(kind="magic")),
    "kind is a list": ("tables.json", table(kind=[])),
    "rows negative": ("tables.json", table(rows=-1)),
    "rows a text": ("tables.json", table(rows="5")),
    "rows true": ("tables.json", table(rows=True)),
    "rows too many for int32": ("tables.json", table(rows=2**31)),
    "rows not those of the slots": ("1.slots.npy", table(rows=6)),
    "a name twice": ("tables.json", table(name="price")),
    "no slots": ("1.slots.npy", lambda folder: (folder / "1.slots.npy").unlink()),
    "slots empty": ("1.slots.npy", write("1.slots.npy", b"")),
    "slots truncated": ("1.slots.npy", truncate("1.slots.npy", 0.9)),
    "slots of another type": ("1.slots.npy", save_slots(np.zeros((16, 2), np.int64))),
    "slots of another byte order": ("1.slots.npy", save_slots(np.zeros((16, 2), ">u8"))),
    "slots of another shape": ("1.slots.npy", save_slots(np.zeros((16, 3), np.uint64))),
    "slots of no shape": ("1.slots.npy", save_slots(np.uint64(1))),
    "slots by columns": ("1.slots.npy", save_slots(np.zeros((16, 2), np.uint64, order="F"))),
    "slots not a power of two": ("1.slots.npy", save_slots(np.zeros((15, 2), np.uint64))),
    "slots without a slot": ("1.slots.npy", save_slots(np.zeros((0, 2), np.uint64))),
    "slots pickled": ("1.slots.npy", save_slots(np.array([["a", None]], object))),
    "slots never free: a search would not end": ("1.slots.npy", full_slots),
    "slots with rows of nobody": ("1.slots.npy", save_slots(np.array([[1, 2], [2, 3], [3, 9], [0, 0]], np.uint64))),
    "slots are a text": ("1.slots.npy", write("1.slots.npy", b"hello")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_by_the_name_of_its_file(folder: Path, damage: str) -> None:
    file, do = DAMAGES[damage]
    do(folder)
    with pytest.raises(BundleError) as caught:
        Vocabularies.load(folder)
    assert str(folder / file) in caught.value.message


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: pa.feather.write_feather(pa.table({"value": ["a"] * 3}), str(path)),
    ],
)
def test_damaged_values_are_refused_by_the_name_of_their_file(folder: Path, damage: Callable[[Path], object]) -> None:
    import pyarrow.feather  # noqa: F401

    loaded = Vocabularies.load(folder)
    damage(folder / "1.values.arrow")
    with pytest.raises(BundleError) as caught:
        loaded.values("app")
    assert str(folder / "1.values.arrow") in caught.value.message


def test_values_can_be_read_after_the_file_is_gone(folder: Path) -> None:
    values = Vocabularies.load(folder).values("app")
    shutil.rmtree(folder)
    assert ["b", "a", "c"] == values["value"].to_pylist()
