"""A published model that goes on learning, in memory.

    tuner = FineTuner.from_bundle(bundle, FineTuneSettings())
    for new, replay in chunks:
        scores = tuner.predict_logits(new.columns, new.rows)
        report = tuner.learn(new, replay)
    export_bundle(target, tuner.trained(proof, calibration), provenance)    # whose training facts name the logit_shift

A chunk: 1. Its unknown values are counted, and those seen often enough get a row, a copy of the row for unknown values
with moments of zero; on request, values unseen for long lose theirs. 2. New and replayed rows, encoded anew, are
shuffled together, and cut into batches. 3. One step a batch. Statistics of numbers and hashed tables stay as they are.

The same chunks, settings and seed give the same weights, bit by bit, whether the model was exported and read again
between two chunks or not.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamfm.bundle import Bundle
from streamfm.data.batches import Batch
from streamfm.data.labelled_rows import LabelledBatch
from streamfm.encoder import Encoded, Encoder
from streamfm.encoder.growth import GrownVocabularies
from streamfm.errors import BundleError, DataError, SpecError
from streamfm.export import Sample, Trained
from streamfm.features import FeatureSpec
from streamfm.finetuning import measuring
from streamfm.finetuning.categories import Counts, Sightings, moves, values_of_rows
from streamfm.finetuning.dates import LastTimes
from streamfm.finetuning.parent import BIAS, FIRST_RATE, LAST_TIMES, WEIGHTS_FILE, read_parent, shifted_bias
from streamfm.finetuning.report import LearnReport
from streamfm.finetuning.settings import FineTuneSettings, FirstRate
from streamfm.finetuning.stepping import joined, learn_rows
from streamfm.model import DeepFM, ModelSettings
from streamfm.rows import Columns
from streamfm.training.learner import Learner, torch_threads
from streamfm.training.table_optimiser import YoungRows

MEASURED_ROWS = 8192
"""New rows of a chunk, at most, whose loss is measured before and after: the newest."""

Task = Literal["binary", "regression"]


class FineTuner:
    """A model that goes on learning; not to be shared between threads.

    Attributes:
        spec: The features.
        settings: How it learns, the learning rate that follows from the parent's filled in.
        logit_shift: Added to the logit when it is served, and to w0 at export; not to what is trained. What a sample
            of the negatives (ln of their share) and the calibration ask for.
    """

    def __init__(
        self,
        *,
        spec: FeatureSpec,
        settings: FineTuneSettings,
        vocabularies: GrownVocabularies,
        learner: Learner,
        last_times: LastTimes,
        logit_shift: float,
        first: FirstRate,
    ) -> None:
        """Use `from_bundle`."""
        self.spec, self.settings, self.logit_shift = spec, settings, logit_shift
        self._vocabularies = vocabularies
        self._encoder = Encoder(spec, vocabularies)
        self._sightings = Sightings(spec, vocabularies.pending, settings.admit_after, settings.pending_limit)
        self._learner, self._last_times, self._first = learner, last_times, first

    @classmethod
    def from_bundle(cls, bundle: Bundle, settings: FineTuneSettings | None = None) -> FineTuner:
        """The model of a bundle, ready to go on; the bundle's files are no longer needed then.

        Without a training state in it, the optimiser's moments begin at zero, which is logged.

        Raises:
            BundleError: The weights or vocabularies are not what the manifest says; names the file.
            SpecError: Settings that this model cannot heed.
        """
        settings = settings or FineTuneSettings()
        if settings.evict_unseen_s is not None and not bundle.spec.event_time:
            raise SpecError(
                f"evict_unseen_s is {settings.evict_unseen_s}, but the specification names no event_time",
                hint="name the column in features.toml and train anew, or evict by steps",
            )
        vocabularies = GrownVocabularies.of(bundle.vocabularies)
        layout = Encoder(bundle.spec, vocabularies).layout
        parent = read_parent(bundle, layout, settings)
        settings = settings.following(parent.first)
        try:
            learner = _learner(DeepFM(layout, parent.model), bundle.spec.task, settings, parent.state)
        except DataError as error:
            raise BundleError(f"{bundle.path}: {WEIGHTS_FILE}: {error.message}") from error
        return cls(
            spec=bundle.spec,
            settings=settings,
            vocabularies=vocabularies,
            learner=learner,
            last_times=LastTimes(parent.last_times),
            logit_shift=parent.logit_shift,
            first=parent.first,
        )

    def copy(self) -> FineTuner:
        """Another tuner that goes on from here on its own: try a chunk on the copy, and drop it if it is refused."""
        learner = self._learner
        model = copy.deepcopy(learner.model)
        return FineTuner(
            spec=self.spec,
            settings=self.settings,
            vocabularies=self.vocabularies,
            learner=_learner(model, self.spec.task, self.settings, learner.arrays()),
            last_times=LastTimes(self._last_times.of_rows.copy()),
            logit_shift=self.logit_shift,
            first=self._first,
        )

    def rebase(self, logit_shift: float) -> None:
        """Go on with another shift and the same answers: what it no longer adds goes into w0.

        To be called before rows come that ask for another one, such as another sample of the negatives.
        """
        moved, self.logit_shift = self.logit_shift - logit_shift, logit_shift
        for network in {id(it): it for it in (self._learner.model, self._learner.served)}.values():
            network.bias.data += moved

    @property
    def encoder(self) -> Encoder:
        """Of the vocabularies as they are now; it stays right for its own vocabularies when they grow."""
        return self._encoder

    @property
    def vocabularies(self) -> GrownVocabularies:
        """As they are now, pending values included."""
        return self._vocabularies.with_pending({name: dict(n) for name, n in self._sightings.pending.items()})

    @property
    def steps(self) -> int:
        """Steps made, those of its ancestors included."""
        return self._learner.steps

    @property
    def model_settings(self) -> ModelSettings:
        """The network's shape, with the drop-out that it is trained with."""
        return self._learner.model.settings

    def predict_logits(self, columns: Columns, rows: int) -> NDArray[np.float32]:
        """Logits float32 [B] as they would be served now, the shift included; of a regression, the numbers.

        Args:
            columns: As `Encoder.encode` takes them, those that SQL derives included.
            rows: B.

        Raises:
            DataError: As `Encoder.encode`.
        """
        logits = self._logits(self._encoder.encode(columns, rows))
        return logits + np.float32(self.logit_shift) if self.logit_shift else logits

    def learn(
        self, new: LabelledBatch, replay: LabelledBatch | None = None, *, stop: Callable[[], bool] | None = None
    ) -> LearnReport:
        """Learn a chunk of rows, and tell of it.

        Args:
            new: Rows that were never trained on, in the order of time.
            replay: Rows of the trained past, mixed in; their unknown values are not counted again.
            stop: Asked between two steps; True ends the chunk half-way, as `LearnReport.interrupted` says.

        Raises:
            DataError: Labels, sample weights or values that cannot be learnt from, or training diverged. The chunk may
                be half learnt then: drop the tuner.
        """
        began = time.perf_counter()
        binary = self.spec.task == "binary"
        for given in (new, replay):
            if given is not None:
                measuring.check_rows(given, binary=binary)
        known = self._encoder.encode(new.columns, new.rows)
        loss_before = self._measured(known, new)
        unknown_before = measuring.unknown_shares(self._encoder, known)
        admitted, evicted = self._renewed(new, known)
        encoded = self._encoder.encode(new.columns, new.rows) if admitted or evicted else known
        self._last_times.note(encoded.ids, new.times)
        rows = joined(self._batch(encoded, new), self._encoded(replay), self.settings.replay_weight)
        learnt = learn_rows(self._learner, rows, self.settings, stop)
        return LearnReport(
            rows=new.rows,
            replayed=0 if replay is None else replay.rows,
            steps=learnt.steps,
            loss_before=loss_before,
            loss_after=self._measured(encoded, new),
            train_loss=learnt.loss,
            unknown_before=unknown_before,
            unknown_after=measuring.unknown_shares(self._encoder, encoded),
            admitted=admitted,
            evicted=evicted,
            pending={name: len(values) for name, values in self._sightings.pending.items()},
            drift=measuring.numeric_drift(self._encoder, encoded),
            interrupted=learnt.interrupted,
            seconds=time.perf_counter() - began,
        )

    def evict(self, *, unseen_s: float | None = None, unseen_steps: int | None = None) -> dict[str, int]:
        """Take their rows from values unseen for long; gives their number by table. They may come back as any others.

        Args:
            unseen_s: No new row had them for so many seconds of event time before the newest row. Values that only
                the first training saw count as seen when fine-tuning began.
            unseen_steps: No row, replayed ones included, had them in the last so many steps.
        """
        seen = np.ones(self._encoder.layout.rows, np.bool_)
        if unseen_s is not None:
            seen &= self._last_times.since(unseen_s)
        if unseen_steps is not None:
            seen &= self._learner.arrays()["row_last_step"] > self.steps - unseen_steps
        return self._change({}, seen)[1]

    def trained(self, proof: Sample, calibration: Encoded) -> Trained:
        """What `streamfm.export.export_bundle` takes; to be exported before the next chunk, which changes it.

        The manifest has to tell the shift: `training["logit_shift"]` is `logit_shift`.

        Args:
            proof: Rows that it did not learn, encoded by `encoder`.
            calibration: Rows that it did.
        """
        served = self._learner.served
        # The table is most of the model, and is not copied.
        model = copy.deepcopy(served, {id(served.table): served.table})
        bias = served.bias.detach().numpy()
        model.bias.data.numpy()[:] = shifted_bias(bias, self.logit_shift)
        state = self._learner.arrays() | {
            BIAS: bias.copy(),
            LAST_TIMES: self._last_times.of_rows,
            FIRST_RATE: np.array(self._first, np.float64),
        }
        return Trained(
            model=model.eval(),
            spec=self.spec,
            vocabularies=self.vocabularies,
            proof=proof,
            calibration=calibration,
            state=state,
        )

    def _logits(self, encoded: Encoded) -> NDArray[np.float32]:
        """Without the shift."""
        with torch_threads(self.settings.threads):
            return self._learner.served.predict_logits(encoded.ids, encoded.weights)

    def _measured(self, encoded: Encoded, rows: LabelledBatch) -> float | None:
        newest = slice(max(rows.rows - MEASURED_ROWS, 0), rows.rows)
        part = Encoded(encoded.ids[newest], None if encoded.weights is None else encoded.weights[newest])
        weights = None if rows.sample_weights is None else rows.sample_weights[newest]
        return measuring.mean_loss(self._logits(part), rows.labels[newest], weights, binary=self.spec.task == "binary")

    def _renewed(self, new: LabelledBatch, known: Encoded) -> tuple[dict[str, int], dict[str, int]]:
        """How many values were admitted and evicted, by table."""
        admitted = self._sightings.admit(self._encoder.unknown_values(new.columns, known))
        seen = None
        if self.settings.evict_unseen_s is not None:
            self._last_times.note(known.ids, new.times)
            seen = self._last_times.since(self.settings.evict_unseen_s)
        return self._change(admitted, seen)

    def _change(self, added: Counts, seen: NDArray[np.bool_] | None) -> tuple[dict[str, int], dict[str, int]]:
        """Give rows to values, and take those that were not seen from others."""
        old = self._vocabularies
        kept = {} if seen is None else values_of_rows(old, seen)
        evicted = {name: int(np.count_nonzero(~mask)) for name, mask in kept.items()}
        admitted: dict[str, int] = {}
        if added or kept:
            changed = old.changed(added, kept)
            encoder = Encoder(self.spec, changed)
            sources, fresh = moves(old, changed, kept)
            self._learner.relay(encoder.layout, sources, fresh)
            self._last_times.relay(sources, fresh)
            self._vocabularies, self._encoder = changed, encoder
            rows = {name: changed.tables[name].rows - old.tables[name].rows for name in added}
            admitted = {name: count + evicted.get(name, 0) for name, count in rows.items()}
        return admitted, evicted

    def _encoded(self, rows: LabelledBatch | None) -> Batch | None:
        if rows is None or not rows.rows:
            return None
        return self._batch(self._encoder.encode(rows.columns, rows.rows), rows)

    def _batch(self, encoded: Encoded, rows: LabelledBatch) -> Batch:
        """The rows with the labels that are to be learnt."""
        labels, share = rows.labels, self.settings.distillation
        if share and rows.rows:
            logits = self._logits(encoded).astype(np.float64)
            answers = 0.5 + 0.5 * np.tanh(0.5 * logits) if self.spec.task == "binary" else logits
            # Both losses are such that this is the weighted sum of the two, but for a constant.
            labels = ((1 - share) * labels + share * answers).astype(np.float32)
        return Batch(encoded.ids, encoded.weights, labels, rows.sample_weights)


def _learner(model: DeepFM, task: Task, settings: FineTuneSettings, state: Mapping[str, NDArray[Any]]) -> Learner:
    young = YoungRows(settings.new_rows_until, settings.new_rows_rate)
    learner = Learner(model, settings.training(task), state=state, young=young)
    for network in (learner.model, learner.served):
        network.eval()
    return learner
