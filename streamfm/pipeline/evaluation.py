"""What a bundle is worth on rows with labels: the measures of its scores, and what it knows of each feature."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm.data.dataset import DatasetWriter, EncodedDataset
from streamfm.data.labelled_rows import NO_GROUP, LabelledRows, open_labelled
from streamfm.data.sources import SourceLike
from streamfm.evaluation import Evaluation, FeatureCoverage, feature_coverage
from streamfm.evaluation import evaluate as measure
from streamfm.features import FeatureSpec
from streamfm.pipeline.progress import NoProgress, PipelineProgress
from streamfm.scoring import Scorer, load


@dataclass(frozen=True, kw_only=True)
class BundleEvaluation:
    """What a bundle is worth on some rows.

    Attributes:
        evaluation: The measures.
        features: How much of each feature there was, and how much of that the model knows.
    """

    evaluation: Evaluation
    features: tuple[FeatureCoverage, ...]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON types."""
        return self.evaluation.to_dict() | {"features": [asdict(feature) for feature in self.features]}


def evaluate(
    model: Scorer | str | Path, rows: SourceLike, *, progress: PipelineProgress | None = None
) -> BundleEvaluation:
    """What a bundle is worth on rows with labels.

    Args:
        model: A scorer, or a reference: ``models/ctr@champion``, ``models/ctr/3``, a bundle's folder.
        rows: See `SourceLike`; they need the inputs and the label of the model's specification.
        progress: Told how far it is.

    Raises:
        DataError: The rows cannot be used; names the file, column and row, or the feature.
        BundleError: The model cannot be opened.
        RegistryError: There is no such model.
    """
    scorer = model if isinstance(model, Scorer) else load(model)
    with tempfile.TemporaryDirectory(prefix="streamfm-") as folder, open_labelled(rows, scorer.spec) as labelled:
        scores = np.empty(labelled.source.rows, np.float32)
        with _scored(labelled, scorer, Path(folder), scores, progress or NoProgress()) as encoded:
            features = feature_coverage(encoded.ids, scorer.encoder.layout)
            return BundleEvaluation(evaluation=measured(scorer.spec, encoded, scores), features=features)


def measured(spec: FeatureSpec, rows: EncodedDataset, predictions: NDArray[np.float32]) -> Evaluation:
    """The measures of float32 [N] predictions for encoded rows; rows without a group are in none."""
    groups: NDArray[Any] | None = rows.groups
    if groups is not None and (groups == NO_GROUP).any():
        codes = np.unique(groups, return_inverse=True)[1].astype(np.float64)
        groups = np.where(groups == NO_GROUP, np.nan, codes)
    return measure(rows.labels, predictions, weights=rows.sample_weights, groups=groups, task=spec.task)


@contextmanager
def _scored(
    rows: LabelledRows, scorer: Scorer, folder: Path, scores: NDArray[np.float32], progress: PipelineProgress
) -> Iterator[EncodedDataset]:
    """The rows, encoded; their scores are filled in."""
    spec, done = scorer.spec, 0
    options = {"sample_weights": bool(spec.weight), "groups": bool(spec.group), "times": bool(spec.event_time)}
    with DatasetWriter(folder / "rows", scorer.encoder.layout, **options) as writer:
        for batch in rows.batches():
            writer.append(scorer.encoder.encode(batch.columns, batch.rows), batch.labels, **batch.optional())
            scores[done : done + batch.rows] = scorer.score_columns(batch.columns, batch.rows)
            done += batch.rows
            progress.stage("scoring", done, len(scores))
        with writer.finish() as encoded:
            yield encoded
