"""Export: a trained model becomes a bundle, after a proof that its network answers as torch does.

1. Batch norm is folded, and the float32 and int8 networks are written. 2. Both are asked for the proof's rows, in
batches of several sizes; float32 must agree with torch, what int8 costs is measured. 3. The bundle gets its place on
the disk. 4. It is opened and answers, as it will when it serves. Whatever fails, no bundle is left.
"""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from streamfm import files
from streamfm.bundle import Bundle, BundleWriter, LayoutFacts, Manifest, open_bundle
from streamfm.encoder import Encoded
from streamfm.encoder.vocabulary import Vocabularies
from streamfm.errors import DataError, SpecError
from streamfm.export.freezing import freeze
from streamfm.export.graph import build_graph, build_int8_graph, calibrate
from streamfm.export.network import Network
from streamfm.export.parity import BATCH_SIZES, Proof, measure_int8, prove_fp32
from streamfm.export.weights import write_weights
from streamfm.features import FeatureSpec
from streamfm.model import DeepFM
from streamfm.scoring import MODEL_FILES, Precision, Scorer

LIBRARIES = ("streamfm", "torch", "onnx", "onnxruntime", "numpy", "pyarrow", "numba", "duckdb", "safetensors")

log = logging.getLogger(__name__)

# A larger loss of AUC than any network of several units should have; it is published, since float32 is there, too.
_NOTABLE_AUC_LOSS = 1e-3


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportSettings:
    """How a model is exported; saved in the bundle's manifest.

    Attributes:
        int8: Whether the bundle has an int8 network, too: about 2.7 times as fast as float32 with a 400-400-400 deep
            part, and a second copy of the table on the disk.
        parity_limit: What a float32 score may differ from torch's.
    """

    int8: bool = True
    parity_limit: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse a limit that proves nothing.

        Raises:
            SpecError: The limit is not between 0 and 0.01.
        """
        if not 0 < self.parity_limit <= 0.01:
            raise SpecError(f"parity_limit is {self.parity_limit}, expected 0 < parity_limit <= 0.01")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Encoded rows with their labels (B rows).

    Attributes:
        rows: Ids and weights.
        labels: [B].
        sample_weights: [B], or None.
    """

    rows: Encoded
    labels: NDArray[Any]
    sample_weights: NDArray[Any] | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Trained:
    """A trained model with all that belongs to it.

    Attributes:
        model: Has the weights to be served.
        spec: The features.
        vocabularies: What training saw.
        proof: Rows that training did not see, some thousands of them: the proof of parity, and int8's quality.
        calibration: Rows that training saw, some thousands of them: they set int8's scales.
        state: `TrainReport.state`, for fine-tuning to go on from; None to leave it out.
    """

    model: DeepFM
    spec: FeatureSpec
    vocabularies: Vocabularies
    proof: Sample
    calibration: Encoded
    state: Mapping[str, NDArray[Any]] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """What the manifest tells of a bundle besides what is in it.

    Attributes:
        name: The model's name.
        created_at: When; with an offset from UTC.
        parent: The version that it was trained on from, `ctr/3`, or None.
        metrics: The evaluation, as JSON.
        training: Settings, data, log offsets, as JSON.
    """

    name: str
    created_at: datetime
    parent: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)


def export_bundle(
    target: str | Path, trained: Trained, provenance: Provenance, settings: ExportSettings | None = None
) -> Bundle:
    """Write a bundle, and give it opened: proven, on the disk, warmed up.

    Args:
        target: Its folder, which must not be there yet.
        trained: The model.
        provenance: What the manifest is to tell.
        settings: None for the usual ones.

    Raises:
        ParityError: A network does not answer as the trained model, or the model's answers are no numbers.
        BundleError: The folder is there, cannot be written, or the table is too large.
        DataError: No rows for the proof or for int8's scales.
    """
    settings = settings or ExportSettings()
    spec, model = trained.spec, trained.model
    network = freeze(model, spec.task)
    proof = Proof(
        task=spec.task,
        layout=model.layout,
        rows=trained.proof.rows,
        logits=model.predict_logits(trained.proof.rows.ids, trained.proof.rows.weights),
        labels=trained.proof.labels,
        sample_weights=trained.proof.sample_weights,
    )
    with BundleWriter(target) as writer:
        writer.path("features.toml").write_text(spec.to_toml(), encoding="utf-8")
        trained.vocabularies.save(writer.path("vocabulary"))
        write_weights(writer.path("weights.safetensors"), model, trained.state)
        parity = _write_networks(writer, network, proof, trained.calibration, settings)
        writer.commit(_manifest(trained, provenance, parity))
    bundle = _warmed_up(Path(target), ("fp32", "int8") if settings.int8 else ("fp32",))
    _log(bundle)
    return bundle


def _write_networks(
    writer: BundleWriter, network: Network, proof: Proof, calibration: Encoded, settings: ExportSettings
) -> dict[str, Any]:
    """The manifest's parity facts of the networks that are now in the bundle."""
    path = writer.path(MODEL_FILES["fp32"])
    _write_model(path, build_graph(network))
    facts: dict[str, Any] = {"rows": len(proof.labels), "batch_sizes": list(BATCH_SIZES)}
    facts["fp32"] = prove_fp32(path, proof, limit=settings.parity_limit)
    if settings.int8:
        if len(calibration.ids) == 0:
            raise DataError("no rows to set int8's scales by", hint="the training rows are empty")
        path = writer.path(MODEL_FILES["int8"])
        _write_model(path, build_int8_graph(network, calibrate(network, calibration)))
        facts["int8"] = measure_int8(path, proof) | {"calibration_rows": len(calibration.ids)}
    return facts


def _write_model(path: Path, model: onnx.ModelProto) -> None:
    path.write_bytes(model.SerializeToString(deterministic=True))


def _manifest(trained: Trained, provenance: Provenance, parity: Mapping[str, Any]) -> Manifest:
    layout, settings = trained.model.layout, trained.model.settings
    return Manifest(
        name=provenance.name,
        parent=provenance.parent,
        created_at=provenance.created_at.isoformat(),
        spec_fingerprint=trained.spec.fingerprint,
        task=trained.spec.task,
        layout=LayoutFacts(
            slots=layout.slots,
            rows=layout.rows,
            factors=settings.factors,
            hidden=settings.hidden,
            weighted=layout.weighted,
        ),
        metrics=provenance.metrics,
        parity=parity,
        training=provenance.training,
        libraries=_versions(),
    )


def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in LIBRARIES} | {"python": platform.python_version()}


def _warmed_up(path: Path, precisions: tuple[Precision, ...]) -> Bundle:
    """The bundle opened, every network having answered as it will serve; removed if one does not."""
    try:
        bundle = open_bundle(path, verify=False)
        for precision in precisions:
            Scorer(bundle, precision=precision)
    except BaseException:
        files.remove_tree(path)
        raise
    return bundle


def _log(bundle: Bundle) -> None:
    parity: Any = bundle.manifest.parity
    log.info("%s: exported; float32 within %.1e of torch", bundle.path, parity["fp32"]["max_abs_diff"])
    loss = parity.get("int8", {}).get("auc_loss")
    if loss is not None and loss > _NOTABLE_AUC_LOSS:
        log.warning("%s: int8 loses %.4f of AUC on %d rows; float32 is there", bundle.path, loss, parity["rows"])
