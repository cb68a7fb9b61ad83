"""From rows to what training reads: vocabularies by GROUP BY, and encoded rows on disk.

Both are made by DuckDB out of any source, in one pass for each table and one for the rows, in memory that does not grow
with them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from streamfm.data.checks import check_labels_differ
from streamfm.data.dataset import DatasetWriter, EncodedDataset
from streamfm.data.full_disk import full_disk_told
from streamfm.data.labelled_rows import LabelledRows, open_labelled
from streamfm.data.scaling import numeric_statistics
from streamfm.data.sources import SourceLike
from streamfm.encoder import Encoder
from streamfm.encoder.category import as_declared, category_texts
from streamfm.encoder.kernels import FIRST_VALUE_ROW
from streamfm.encoder.vocabulary import NumericStatistics, Vocabularies, VocabularyWriter
from streamfm.errors import DataError
from streamfm.features import Feature, FeatureSpec

Progress = Callable[[int, int], None]
"""Told how many rows are done, and of how many."""

_NUMBER_ROWS = FIRST_VALUE_ROW + 1
_NOTHING_COUNTED = "SELECT CAST(NULL AS VARCHAR) AS value, CAST(NULL AS BIGINT) AS count WHERE false"


def fit_vocabularies(rows: SourceLike | LabelledRows, spec: FeatureSpec, folder: str | Path) -> Vocabularies:
    """What the encoder needs to know of the rows of training, written into a new folder.

    A value gets a row when it is there `min_count` times, counted over all features of its table and all spellings of
    the same category; of a list only the values that the encoder keeps count. The commonest comes first.

    Raises:
        DataError: The folder exists, all labels are equal, a feature's values cannot be categories, the disk is full,
            or as `open_labelled`; names the file, column and row, the feature, or the folder.
    """
    with open_labelled(rows, spec) as labelled:
        check_labels_differ(labelled.source, spec)
        statistics = numeric_statistics(labelled.source, labelled.values, spec.features)
        try:
            writer = VocabularyWriter(folder)
        except FileExistsError as error:
            raise DataError(f"{folder}: exists already, expected a new folder for vocabularies") from error
        try:
            with full_disk_told(Path(folder)):
                _add_tables(writer, labelled, statistics)
                return writer.finish(statistics)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


def encode_dataset(
    rows: SourceLike | LabelledRows, encoder: Encoder, folder: str | Path, *, progress: Progress | None = None
) -> EncodedDataset:
    """The rows, encoded, in a new folder; nothing is left there when it fails.

    Raises:
        DataError: The folder exists and is not empty, a value that its feature cannot use, the disk is full, or as
            `open_labelled`; names the file, column and row, the feature, or the folder.
    """
    spec = encoder.spec
    options = {"sample_weights": bool(spec.weight), "groups": bool(spec.group), "times": bool(spec.event_time)}
    with open_labelled(rows, spec) as labelled, DatasetWriter(folder, encoder.layout, **options) as writer:
        done, total = 0, labelled.source.rows
        for batch in labelled.batches():
            encoded = encoder.encode(batch.columns, batch.rows)
            writer.append(encoded, batch.labels, **batch.optional())
            done += batch.rows
            if progress is not None:
                progress(done, total)
        return writer.finish()


def _add_tables(writer: VocabularyWriter, rows: LabelledRows, statistics: Mapping[str, NumericStatistics]) -> None:
    tables: dict[str, list[Feature]] = {}
    for feature in rows.spec.features:
        tables.setdefault(feature.table, []).append(feature)
    for table, features in tables.items():
        first = features[0]
        if first.is_numeric_slot:
            writer.add_rows(table, "number", _NUMBER_ROWS)
        elif first.kind == "numeric":
            buckets = len(statistics[first.name].boundaries) + 1
            writer.add_rows(table, "quantile", FIRST_VALUE_ROW + buckets)
        elif first.hash_buckets:
            writer.add_rows(table, "hashed", FIRST_VALUE_ROW + first.hash_buckets)
        else:
            _add_counted(writer, rows, table, features)


def _add_counted(writer: VocabularyWriter, rows: LabelledRows, table: str, features: list[Feature]) -> None:
    """Count a table's values and add them, the commonest first."""
    source = rows.source
    # A cursor of its own writes while the connection streams.
    with source.table("counted", _NOTHING_COUNTED), source.connection.cursor() as cursor:
        for feature in features:
            for values, counts in _counted_values(rows, feature):
                cursor.register("batch", pa.table([values, counts], ["value", "count"]))
                cursor.execute("INSERT INTO counted SELECT value, count FROM batch WHERE value IS NOT NULL")
                cursor.unregister("batch")
        kept = f"""
            SELECT value, sum(count)::BIGINT AS count FROM counted GROUP BY value
            HAVING sum(count) >= {features[0].min_count} ORDER BY count DESC, value"""
        with source.table("kept", kept):
            distinct = source.execute("SELECT count(*) FROM kept")[0][0]
            writer.add_values(table, distinct, source.batches("SELECT value, count FROM kept"))


def _counted_values(rows: LabelledRows, feature: Feature) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Canonical texts of a feature's values, and how often each is there; the same text may come again."""
    value = rows.values[feature.name]
    if feature.kind == "multivalued":
        value = f"unnest({value}[1:{feature.max_length}])"
    declared = "" if feature.sql else rows.spec.input(feature.input).type.removesuffix("[]")
    grouped = f"SELECT value, count(*) AS count FROM ({rows.source.select(f'{value} AS value')}) GROUP BY value"
    try:
        with rows.source.table("grouped", grouped):
            for batch in rows.source.batches("SELECT value, count FROM grouped"):
                yield category_texts(as_declared(batch.column(0), declared)), batch.column(1)
    except DataError as error:
        raise DataError(f"feature {feature.name!r}: {error.message}", hint=error.hint) from error
