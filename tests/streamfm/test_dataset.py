import json
from pathlib import Path

import numpy as np
import pytest

from streamfm.data.batches import CHUNK_BYTES, Batch, shuffled_batches
from streamfm.data.dataset import DatasetWriter, EncodedDataset
from streamfm.encoder import Encoded, Field, Layout
from streamfm.errors import DataError


def layout(slots: int = 3, *, weighted: bool = False) -> Layout:
    fields = tuple(Field(name=f"f{i}", start=i, length=1) for i in range(slots))
    rows = np.zeros(slots, np.int32)
    return Layout(fields=fields, slots=slots, rows=1000, weighted=weighted, null_rows=rows, unknown_rows=rows + 1)


def encoded(rows: int, slots: int = 3, *, weighted: bool = False, first: int = 0) -> Encoded:
    ids = np.arange(first, first + rows, dtype=np.int32)[:, None] * np.ones(slots, np.int32)
    return Encoded(ids, np.full((rows, slots), 0.5, np.float32) if weighted else None)


def write(folder: Path, rows: int) -> EncodedDataset:
    with DatasetWriter(folder, layout()) as writer:
        writer.append(encoded(rows), np.arange(rows) % 2)
        return writer.finish()


def test_what_was_appended_in_parts_is_read_back_whole(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", layout(weighted=True), sample_weights=True, groups=True, times=True) as writer:
        for first in (0, 5, 7):
            rows = {0: 5, 5: 2, 7: 4}[first]
            values = np.arange(first, first + rows)
            part = encoded(rows, weighted=True, first=first)
            writer.append(part, values % 2, sample_weights=values + 1.0, groups=-values, times=values * 10**12)
        dataset = writer.finish()
    values = np.arange(11)
    assert (11, 3, 1000) == (len(dataset), dataset.slots, dataset.table_rows)
    np.testing.assert_array_equal(np.repeat(values[:, None], 3, axis=1), dataset.ids)
    np.testing.assert_array_equal(np.full((11, 3), 0.5, np.float32), dataset.weights)
    np.testing.assert_array_equal(values % 2, dataset.labels)
    np.testing.assert_array_equal(values + 1.0, dataset.sample_weights)
    np.testing.assert_array_equal(-values, dataset.groups)
    np.testing.assert_array_equal(values * 10**12, dataset.times)


def test_the_files_are_plain_npy(tmp_path: Path) -> None:
    write(tmp_path / "d", 1234)
    ids = np.load(tmp_path / "d" / "ids.npy", allow_pickle=False)
    assert (np.dtype("<i4"), (1234, 3)) == (ids.dtype, ids.shape)
    assert ["dataset.json", "ids.npy", "labels.npy"] == sorted(path.name for path in (tmp_path / "d").iterdir())


def test_columns_that_were_not_announced_are_absent(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", 4)
    assert (None, None, None, None) == (dataset.weights, dataset.sample_weights, dataset.groups, dataset.times)


def test_nothing_is_left_of_a_writer_that_did_not_finish(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", layout()) as writer:
        writer.append(encoded(4), np.zeros(4))
    assert [] == list(tmp_path.iterdir())


def test_the_target_does_not_exist_before_finish(tmp_path: Path) -> None:
    with DatasetWriter(tmp_path / "d", layout()) as writer:
        writer.append(encoded(4), np.zeros(4))
        assert not (tmp_path / "d").exists()
        writer.finish()
    assert ["d"] == [path.name for path in tmp_path.iterdir()]


def test_no_rows_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"), DatasetWriter(tmp_path / "d", layout()) as writer:
        writer.finish()


def test_an_occupied_folder_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", 4)
    with pytest.raises(DataError, match="exists already"):
        DatasetWriter(tmp_path / "d", layout())


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": np.zeros(3)}, r"labels of shape \(3,\), expected \(4,\)"),
        (
            {"labels": np.zeros(4), "groups": np.zeros(4, np.int64)},
            "labels, groups, expected ids, labels",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, columns: dict[str, np.ndarray], message: str) -> None:
    with DatasetWriter(tmp_path / "d", layout()) as writer, pytest.raises(DataError, match=message):
        writer.append(encoded(4), **columns)


def test_a_folder_without_a_dataset_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset\.json: No such file"):
        EncodedDataset.open(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 1, "columns": ["ids", "../x"]}'])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=r"dataset\.json: "):
        EncodedDataset.open(tmp_path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", 4)
    path = tmp_path / "d" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 2}))
    with pytest.raises(DataError, match="format 2, expected 1"):
        EncodedDataset.open(tmp_path / "d")


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "d", 4)
    path = tmp_path / "d" / "labels.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"labels\.npy: 143 bytes, expected 144"):
        EncodedDataset.open(tmp_path / "d")


def test_a_closed_dataset_holds_no_map(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc")
    folder = tmp_path / "d"
    with write(folder, 4) as dataset:
        assert str(folder) in maps.read_text()
    assert str(folder) not in maps.read_text()
    with pytest.raises(ValueError, match="closed"):
        dataset.batches(2, seed=None).__next__()


def test_batches_in_order_are_the_file(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", 10)
    batches = list(dataset.batches(4))
    assert [4, 4, 2] == [len(batch.labels) for batch in batches]
    np.testing.assert_array_equal(dataset.ids, np.concatenate([batch.ids for batch in batches]))


def test_a_single_last_row_joins_the_batch_before(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", 9)
    assert [4, 5] == [len(batch.labels) for batch in dataset.batches(4)]
    assert [4, 5] == [len(batch.labels) for batch in dataset.batches(4, seed=1)]
    assert [9] == [len(batch.labels) for batch in dataset.batches(10)]


def test_batches_may_be_written_to_and_leave_the_file_alone(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", 10)
    for seed in (None, 1):
        next(dataset.batches(4, seed=seed)).ids[:] = -1
    assert dataset.ids.min() == 0


def test_a_shuffle_gives_every_row_once_and_is_repeatable(tmp_path: Path) -> None:
    dataset = write(tmp_path / "d", 1000)
    first, again, other = ([b.ids[:, 0] for b in dataset.batches(64, seed=seed)] for seed in (1, 1, 2))
    assert list(range(1000)) == sorted(np.concatenate(first))
    np.testing.assert_array_equal(np.concatenate(first), np.concatenate(again))
    assert not np.array_equal(np.concatenate(first), np.concatenate(other))


class Source:
    """Rows 0..N in one column, remembering what was read."""

    def __init__(self, rows: int) -> None:
        self.values = np.arange(rows, dtype=np.int32)
        self.reads: list[slice] = []

    def read(self, rows: slice) -> Batch:
        self.reads.append(rows)
        part = self.values[rows].copy()
        return Batch(part[:, None], None, part.astype(np.float32), part.astype(np.float32))


def test_more_rows_than_a_window_are_read_in_long_runs_and_still_mixed() -> None:
    source = Source(10_001)
    row_bytes = CHUNK_BYTES // 10  # 10 rows a chunk, 2,560 rows a window
    batches = list(shuffled_batches(source.read, 10_001, 128, row_bytes=row_bytes, seed=3))
    values = np.concatenate([batch.ids[:, 0] for batch in batches])
    assert list(range(10_001)) == sorted(values)
    assert [128] * 78 + [17] == [len(batch.labels) for batch in batches]
    assert [10] * 1001 == [part.stop - part.start for part in source.reads if part.stop]
    for batch in batches:
        np.testing.assert_array_equal(batch.ids[:, 0], batch.labels)
        np.testing.assert_array_equal(batch.ids[:, 0], batch.sample_weights)
    means = [batch.labels.mean() for batch in batches[:-1]]
    assert max(abs(np.array(means) - 5000)) < 5 * 2887 / np.sqrt(128) * np.sqrt(2)
    neighbours = np.abs(np.diff(values)) == 1
    assert neighbours.mean() < 0.01
