"""A candidate: exported, proven, judged on the window, with its verdict in the manifest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamfm import files
from streamfm.bundle import annotate, open_bundle
from streamfm.data.labelled_rows import LabelledBatch, concatenated
from streamfm.encoder import Encoded, Encoder
from streamfm.evaluation import evaluate
from streamfm.export import ExportSettings, Provenance, Sample, export_bundle
from streamfm.finetuning import FineTuner
from streamfm.gate import Evidence, Figure, GateSettings, Verdict, Window, judge
from streamfm.pipeline.running import PROOF_ROWS
from streamfm.retraining.served import Served
from streamfm.retraining.slices import slice_masks
from streamfm.scoring import Scorer

LATENCY_LIMIT = 2.0
"""How many times as long as its parent a candidate may take."""

_LATENCY_TRIES = 20
_LATENCY_ROWS = 2_048


class WindowRows:
    """New rows in memory (B rows)."""

    def __init__(self, batches: Iterable[LabelledBatch], *, negative_share: float = 1.0) -> None:
        """Take the rows of these batches, of which there is at least one.

        Args:
            batches: The rows.
            negative_share: Of the rows without a click, what share is among them; each then stands for more.
        """
        self._batches = [batch for batch in batches if batch.rows]
        self.rows = sum(batch.rows for batch in self._batches)
        self.labels: NDArray[np.float32] = np.concatenate([batch.labels for batch in self._batches])
        weights = concatenated([batch.sample_weights for batch in self._batches])
        if negative_share < 1:
            stands_for = np.where(self.labels > 0, 1.0, 1 / negative_share)
            weights = stands_for if weights is None else weights * stands_for
        self.sample_weights = weights
        self.groups = concatenated([batch.groups for batch in self._batches])

    def logits(self, scorer: Scorer) -> NDArray[np.float32]:
        """[B] as a version serves them."""
        return np.concatenate([scorer.logit_columns(batch.columns, batch.rows) for batch in self._batches])

    def timed(self, scorer: Scorer, rows: int) -> float:
        """Seconds that a version takes for the first rows, up to so many."""
        batch = self._batches[0]
        count = min(rows, batch.rows)
        columns = {name: column.slice(0, count) for name, column in batch.columns.items()}
        began = time.perf_counter()
        scorer.logit_columns(columns, count)
        return time.perf_counter() - began

    def encoded(self, encoder: Encoder) -> Encoded:
        """As a model sees them."""
        return joined([encoder.encode(batch.columns, batch.rows) for batch in self._batches])


@dataclass(frozen=True, kw_only=True, slots=True)
class Opponents:
    """Whom a candidate is compared with.

    Attributes:
        parent: Serves now.
        anchor: Served some rounds back; None where it is the parent, or gone.
        evidence: What the rounds before have shown; without an anchor that is there, none.
    """

    parent: Served
    anchor: Scorer | None
    evidence: Evidence


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """A candidate on the disk, beside the registry's models.

    Attributes:
        path: Its bundle.
        scorer: Answers as it would serve.
        verdict: The gate's.
    """

    path: Path
    scorer: Scorer
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A model that has learnt.

    Attributes:
        tuner: The model.
        window: What it is judged on.
        learnt: The newest of the rows that it has learnt from, on which its lineage is judged: over all rounds each
            row counts once.
        calibration: Of these, encoded: they set int8's scales.
        name: The model's.
        training: What the manifest shall tell; position and verdict are among it.
    """

    tuner: FineTuner
    window: WindowRows
    learnt: WindowRows
    calibration: Encoded
    name: str
    training: Mapping[str, Any]

    def judged(
        self,
        path: Path,
        opponents: Opponents,
        settings: GateSettings,
        *,
        int8: bool,
        slices: Sequence[str],
        now: datetime,
    ) -> Judged:
        """Export it to `path` and judge it there; a logit shift that the gate found is in what is exported.

        Raises:
            ParityError: The exported network does not answer as the model.
            BundleError: The bundle cannot be written.
        """
        scorer = self._exported(path, opponents, int8=int8, now=now)
        verdict = self._verdict(scorer, opponents, settings, slices)
        if verdict.passed and verdict.logit_shift:
            self.tuner.logit_shift += verdict.logit_shift
            files.remove_tree(path)
            scorer = self._exported(path, opponents, int8=int8, now=now)
        logits = self.window.logits(scorer)
        measures = evaluate(
            self.window.labels,
            1 / (1 + np.exp(-logits.astype(np.float64))),
            weights=self.window.sample_weights,
        )
        training: dict[str, Any] = {**self.training, "gate": verdict.evidence.to_json(), "verdict": verdict.to_json()}
        training["logit_shift"] = self.tuner.logit_shift
        metrics: dict[str, Any] = {"window": measures.to_dict()}
        annotate(path, metrics=metrics, training=training)
        return Judged(path=path, scorer=Scorer(open_bundle(path, verify=False)), verdict=verdict)

    def _exported(self, path: Path, opponents: Opponents, *, int8: bool, now: datetime) -> Scorer:
        encoded = self.window.encoded(self.tuner.encoder).part(0, PROOF_ROWS)
        weights = self.window.sample_weights
        proof = Sample(
            rows=encoded,
            labels=self.window.labels[:PROOF_ROWS],
            sample_weights=None if weights is None else weights[:PROOF_ROWS],
        )
        trained = self.tuner.trained(proof, self.calibration)
        provenance = Provenance(name=self.name, created_at=now, parent=opponents.parent.reference)
        return Scorer(export_bundle(path, trained, provenance, ExportSettings(int8=int8)))

    def _verdict(self, scorer: Scorer, opponents: Opponents, settings: GateSettings, slices: Sequence[str]) -> Verdict:
        parent, window = opponents.parent, self.window
        seen = parent.scorer.encoder
        judged = Window(
            labels=window.labels,
            candidate=window.logits(scorer),
            parent=window.logits(parent.scorer),
            anchor=None if opponents.anchor is None else window.logits(opponents.anchor),
            parent_version=parent.reference,
            sample_weights=window.sample_weights,
            groups=window.groups,
            slices=slice_masks(window.encoded(seen).ids, seen, slices) if slices else {},
        )
        figures = _figures(scorer, parent.scorer, window)
        return judge(judged, settings, opponents.evidence, figures, lineage=self._lineage(opponents))

    def _lineage(self, opponents: Opponents) -> Window | None:
        """What the parent was worth beside the anchor on rows new to both; None where it is its own anchor."""
        if opponents.anchor is None:
            return None
        parent = self.learnt.logits(opponents.parent.scorer)
        return Window(
            labels=self.learnt.labels,
            candidate=parent,
            parent=parent,
            anchor=self.learnt.logits(opponents.anchor),
            parent_version=opponents.parent.reference,
            sample_weights=self.learnt.sample_weights,
            groups=self.learnt.groups,
        )


def joined(parts: Sequence[Encoded]) -> Encoded:
    """All of them, one after the other."""
    weights = [part.weights for part in parts if part.weights is not None]
    return Encoded(np.concatenate([part.ids for part in parts]), np.concatenate(weights) if weights else None)


def _figures(candidate: Scorer, parent: Scorer, window: WindowRows) -> list[Figure]:
    """What the gate cannot measure itself: parity was proven at export, with its own limit."""
    parity: Any = candidate.bundle.manifest.parity
    limit = ExportSettings().parity_limit
    times = [[window.timed(scorer, _LATENCY_ROWS) for scorer in (candidate, parent)] for _ in range(_LATENCY_TRIES)]
    # In turn, and the shortest of each: what else the machine does meets both.
    ratio = min(mine for mine, _ in times) / min(other for _, other in times)
    return [
        Figure(name="onnx parity", value=parity["fp32"]["max_abs_diff"], limit=limit, note="largest |ONNX - torch|"),
        Figure(name="latency", value=ratio, limit=LATENCY_LIMIT, note="of the parent's"),
    ]
