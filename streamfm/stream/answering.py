"""Records to answers: decoded, scored, written down; nothing is read, sent or waited for here.

An answer is a JSON object:

    the event id           under its own name, if one is asked for
    the fields to keep     as the event has them; null where it does not
    score                  the click probability
    logit                  before the sigmoid, on request
    scored_at              ISO 8601 in UTC, with milliseconds
    model, version         which model answered; a bundle outside a registry has no version: null
    shadow_score           what a second model says, null where it says nothing
    shadow_model, shadow_version

and the header `streamfm.model` (its name and version, as `ctr/3`) and, with a second model, `streamfm.shadow`.
"""

from __future__ import annotations

import datetime as dt
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import compress, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamfm.errors import StreamError
from streamfm.scoring import Scorer
from streamfm.stream.batch_scoring import BatchScorer, BatchScores, Clock
from streamfm.stream.decoding import MAX_MESSAGE, Decoded, Decoder, JsonDecoder, MakeDecoder
from streamfm.stream.ports import Answers, DeadLetter, Header, Record
from streamfm.stream.settings import StreamSettings

logger = logging.getLogger(__name__)

_OWN = ("score", "logit", "scored_at", "model", "version", "shadow_score", "shadow_model", "shadow_version")
_SHADOW_SHARE = 2.0
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class Shadowed(NamedTuple):
    """What the second model did with a batch.

    Attributes:
        scored: Events that it scored.
        failed: Events that it could not score, or not in time.
        skipped: Events that it was not asked about, since it had been too slow before.
        error: The last error, empty without one.
        seconds: How long it took.
    """

    scored: int = 0
    failed: int = 0
    skipped: int = 0
    error: str = ""
    seconds: float = 0.0


class Answered(NamedTuple):
    """A batch's answers (B events that were scored), and how they came about.

    Attributes:
        answers: What to send.
        scores: float32 [B].
        unknown: By feature, in how many events it has a value that training did not see.
        decode_s: Seconds from bytes to columns.
        score_s: Seconds of encoder and network, and of SQL features; without the second model's.
        encode_s: Seconds from scores to bytes.
        shadow: What the second model did.
    """

    answers: Answers
    scores: NDArray[np.float32]
    unknown: Mapping[str, int]
    decode_s: float
    score_s: float
    encode_s: float
    shadow: Shadowed


class Answering:
    """One model's answers, and maybe a second one's beside them. One batch at a time.

    Attributes:
        scorer: The model that answers.
        shadow: The second one, or None.
    """

    def __init__(
        self,
        scorer: Scorer,
        settings: StreamSettings,
        *,
        shadow: Scorer | None = None,
        decoder: MakeDecoder = JsonDecoder,
        clock: Clock = time.monotonic,
    ) -> None:
        """Make what reads and writes; nothing is asked yet.

        Raises:
            StreamError: A field to keep has the name of one that the answer has of its own, or the event id is an
                input that can name nothing.
        """
        if settings.keep_inputs:
            inputs = (item.name for item in scorer.spec.inputs)
            settings = replace(settings, keep=(*settings.keep, *inputs), keep_inputs=False)
        kept = [name for name in (settings.event_id, *settings.keep) if name in _OWN]
        if kept:
            raise StreamError(
                f"the answer is to repeat {kept[0]!r}, but has a field of that name itself",
                hint=f"its own fields: {', '.join(_OWN)}",
            )
        self.scorer, self.shadow = scorer, shadow
        self._clock = clock
        self._decoder = decoder(scorer.spec, settings)
        self._scoring = BatchScorer(scorer, clock, with_logit=settings.with_logit)
        self._shadowing: _Shadow | None = None
        if shadow is not None:
            own = decoder(shadow.spec, replace(settings, event_id="", keep=()))
            # With other inputs than the first model's, it reads the events for itself.
            self._shadowing = _Shadow(shadow, None if own.inputs == self._decoder.inputs else own, settings, clock)
        self._writer = _Writer(scorer, shadow, settings)

    def answer(self, records: Sequence[Record], scored_at_ms: int) -> Answered:
        """The answers to the records, in their order; what cannot be answered is a dead letter, never an exception.

        Args:
            records: Events.
            scored_at_ms: The time that the answers tell, in milliseconds since 1970.
        """
        began = self._clock()
        decoded = self._decoder.decode(records)
        read = self._clock()
        found = self._scoring.score(decoded.values, len(decoded.records))
        if found.failures:
            decoded, found = _scored_only(decoded, found)
        scored = self._clock()
        shadow_scores, shadowed = self._ask_shadow(decoded, scored - began)
        shadow_asked = self._clock()
        values = self._writer.write(decoded.kept, found, shadow_scores, scored_at_ms)
        return Answered(
            answers=Answers(decoded.records, values, self._writer.headers, decoded.dead_letters),
            scores=found.scores,
            unknown=dict(zip((f.name for f in self.scorer.spec.features), found.unknown.tolist(), strict=True)),
            decode_s=read - began + found.columns_s,
            score_s=scored - read - found.columns_s,
            encode_s=self._clock() - shadow_asked,
            shadow=shadowed,
        )

    def _ask_shadow(self, decoded: Decoded, first_s: float) -> tuple[Sequence[float | None], Shadowed]:
        if self._shadowing is None or not decoded.records:
            return [None] * len(decoded.records), Shadowed()
        return self._shadowing.ask(decoded, first_s)


class _Shadow:
    """A second model that scores the same events and cannot hurt the first.

    A batch may take it `shadow_limit_s`, and all of them together twice as long as they take the first model.
    """

    def __init__(self, scorer: Scorer, decoder: Decoder | None, settings: StreamSettings, clock: Clock) -> None:
        self._clock = clock
        self._limit_s, self._pause_s = settings.shadow_limit_s, settings.shadow_pause_s
        self._decoder = decoder
        self._scoring = BatchScorer(scorer, clock)
        self._paused_until = float("-inf")
        self._credit_s = self._limit_s
        self._told = ""

    def ask(self, decoded: Decoded, first_s: float) -> tuple[Sequence[float | None], Shadowed]:
        """Its score of each event, None where it has none; the first model has taken so many seconds for them."""
        began, rows = self._clock(), len(decoded.records)
        nothing: list[float | None] = [None] * rows
        self._credit_s = min(self._limit_s, self._credit_s + _SHADOW_SHARE * first_s)
        if began < self._paused_until or self._credit_s < 0:
            return nothing, Shadowed(skipped=rows)
        scores, shadowed = self._ask(decoded, began)
        self._credit_s -= shadowed.seconds
        return scores, shadowed

    def _ask(self, decoded: Decoded, began: float) -> tuple[Sequence[float | None], Shadowed]:
        rows = len(decoded.records)
        try:
            scores, error = self._scores(decoded, until=began + self._limit_s)
        # Whatever it is, the first model's answers are worth more.
        except Exception as unexpected:
            # Once: it may fail on every batch from now on.
            if repr(unexpected) != self._told:
                self._told = repr(unexpected)
                logger.exception("the shadow failed on a batch")
            took_s = self._clock() - began
            return [None] * rows, Shadowed(failed=rows, error=repr(unexpected), seconds=took_s)
        took_s = self._clock() - began
        if took_s > self._limit_s:
            self._paused_until = self._clock() + self._pause_s
            error = f"took {took_s:.3f} s for a batch, expected at most {self._limit_s} s: paused for {self._pause_s} s"
            logger.warning("the shadow %s", error)
        failed = scores.count(None)
        return scores, Shadowed(scored=len(scores) - failed, failed=failed, error=error, seconds=took_s)

    def _scores(self, given: Decoded, until: float) -> tuple[list[float | None], str]:
        decoded = given if self._decoder is None else self._decoder.decode(given.records)
        found = self._scoring.score(decoded.values, len(decoded.records), until=until)
        scores: list[float | None] = found.scores.tolist()
        errors = [error.message for error in found.failures.values()]
        for place in found.failures:
            scores[place] = None
        if self._decoder is not None and decoded.dead_letters:
            errors += [letter.message for letter in decoded.dead_letters]
            refused = {id(letter.record) for letter in decoded.dead_letters}
            read = iter(scores)
            scores = [None if id(record) in refused else next(read) for record in given.records]
        return scores, errors[-1] if errors else ""


class _Writer:
    """Writes answers down."""

    def __init__(self, scorer: Scorer, shadow: Scorer | None, settings: StreamSettings) -> None:
        self._with_logit = settings.with_logit
        self._named, self._version = scorer.name, scorer.version
        self._shadow = None if shadow is None else (shadow.name, shadow.version)
        self.headers = _headers(scorer, shadow)
        kept = list(dict.fromkeys(name for name in (settings.event_id, *settings.keep) if name))
        own = [name for name in _OWN if name != "logit" or settings.with_logit]
        names = kept + (own if shadow else [name for name in own if not name.startswith("shadow")])
        fields = [(f"field_{place}", Any) for place in range(len(names))]
        rename = {field: name for (field, _), name in zip(fields, names, strict=True)}
        self._answer = msgspec.defstruct("Answer", fields, rename=rename, gc=False)
        self._encode = msgspec.json.Encoder().encode

    def write(
        self, kept: Mapping[str, Sequence[Any]], found: BatchScores, shadow: Sequence[float | None], scored_at_ms: int
    ) -> list[bytes]:
        """The values of the answers."""
        moment = (_EPOCH + dt.timedelta(milliseconds=scored_at_ms)).isoformat(timespec="milliseconds")
        fields = [*kept.values(), found.scores.tolist()]
        if self._with_logit:
            fields.append(found.logits.tolist())
        fields += map(repeat, (moment.replace("+00:00", "Z"), self._named, self._version))
        if self._shadow is not None:
            fields += [shadow, *map(repeat, self._shadow)]
        return list(map(self._encode, map(self._answer, *fields)))


def _headers(scorer: Scorer, shadow: Scorer | None) -> tuple[Header, ...]:
    """One a model: kafka-python writes each header of each record in Python."""
    models = [("streamfm.model", scorer), ("streamfm.shadow", shadow)]
    return tuple((name, _named(model).encode()) for name, model in models if model is not None)


def _named(scorer: Scorer) -> str:
    return scorer.name if scorer.version is None else f"{scorer.name}/{scorer.version}"


def _scored_only(decoded: Decoded, found: BatchScores) -> tuple[Decoded, BatchScores]:
    """What is left when the events that have no score are dead letters."""
    is_scored = [place not in found.failures for place in range(len(decoded.records))]
    letters = [
        DeadLetter(decoded.records[place], "not_scored", type(error).__name__, error.message[:MAX_MESSAGE])
        for place, error in found.failures.items()
    ]
    kept = Decoded(
        records=list(compress(decoded.records, is_scored)),
        values={name: list(compress(values, is_scored)) for name, values in decoded.values.items()},
        kept={name: list(compress(values, is_scored)) for name, values in decoded.kept.items()},
        dead_letters=[*decoded.dead_letters, *letters],
    )
    return kept, found._replace(scores=found.scores[is_scored], logits=found.logits[is_scored], failures={})
