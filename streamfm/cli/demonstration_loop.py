"""The demo's last part: events are scored, clicks come back, every hour the model learns from them, and takes over."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamfm.cli.demonstration_stream import CLICKS, SCORES, Answer, LiveStream
from streamfm.cli.demonstration_world import Expected, Hour, SimulatedHours
from streamfm.cli.durations import duration_text
from streamfm.cli.label_sources import LabelSource
from streamfm.evaluation import log_loss
from streamfm.evaluation.calibration import calibration
from streamfm.finetuning import FineTuneSettings
from streamfm.labels import LabelCounts, LabelSettings, closed_labels
from streamfm.registry import CHAMPION, Registry
from streamfm.retraining import Retrainer, RetrainSettings, RoundReport
from streamfm.scoring import Scorer, load

WINDOW_S = 900.0
"""How long after its impression a click counts."""

TUNING = FineTuneSettings(learning_rate=2e-4, batch_size=256, replay_ratio=0.0)
"""What turns so fast is not to be learnt from twice: no replay; and hourly chunks are large."""


def retrain_command(model: str, log: Path) -> list[str]:
    """The command of a round, with the same settings."""
    learning = {
        "--learning-rate": TUNING.learning_rate,
        "--batch-size": TUNING.batch_size,
        "--replay-ratio": TUNING.replay_ratio,
    }
    named = [text for name, value in learning.items() for text in (name, f"{value:g}")]
    return ["retrain", model, "--log", str(log), "--impressions", SCORES, "--window", duration_text(WINDOW_S), *named]


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """A predictor over the hours, [H] each.

    Attributes:
        log_loss: In nats.
        calibration: Sum of the probabilities over the clicks.
        mean_loss: Log loss over all hours.
        mean_calibration: The same of calibration.
    """

    log_loss: NDArray[np.float64]
    calibration: NDArray[np.float64]
    mean_loss: float
    mean_calibration: float


@dataclass(frozen=True, kw_only=True, slots=True)
class LivedHour:
    """An hour, and what came of it.

    Attributes:
        hour: What happened.
        answers: To its events, by event id.
        report: Of the retraining at its end.
    """

    hour: Hour
    answers: dict[str, Answer]
    report: RoundReport

    def probabilities(self, frozen: Scorer) -> dict[str, NDArray[np.float64]]:
        """[B] of each event, by who gave them; where the frozen model was too slow for the stream, it is asked now."""
        answers = [self.answers[name] for name in self.hour.ids]
        shadow = np.array([np.nan if answer.shadow is None else answer.shadow for answer in answers])
        if np.isnan(shadow).any():
            shadow[np.isnan(shadow)] = frozen.score(self.hour.events.filter(np.isnan(shadow)))
        served = np.array([answer.score for answer in answers])
        return {"served": served, "frozen": shadow, "truth": self.hour.truth}


@dataclass(frozen=True, kw_only=True, slots=True)
class Books:
    """Everything counted twice: as it came out, and as the simulation knows that it must be.

    Attributes:
        events: Sent to the topic.
        answers: Came out.
        dead_letters: Could not be scored.
        shadows: Answers with the frozen model's score.
        labels: What the join of the whole log counts.
        expected: What it must be.
        learnt: Rows of all versions that served, each round's.
        learnt_expected: Impressions up to where the last one was trained.
    """

    events: int
    answers: int
    dead_letters: int
    shadows: int
    labels: LabelCounts
    expected: Expected
    learnt: int
    learnt_expected: int

    def lines(self) -> list[tuple[str, bool]]:
        """What is to be equal, in words, and whether it is."""
        labels, expected = self.labels, self.expected
        return [
            (
                f"{self.events:,} events in = {self.answers:,} scores + {self.dead_letters:,} dead letters, "
                "which cannot be scored",
                self.events == self.answers + self.dead_letters,
            ),
            (
                f"{labels.labelled:,} labels = {expected.labelled:,} impressions whose window has closed; "
                f"{labels.positives:,} positives = {expected.positives:,} with a click in it",
                (labels.labelled, labels.positives) == (expected.labelled, expected.positives),
            ),
            (
                f"{labels.clicks_duplicate:,} clicks counted once = {expected.clicks_duplicate:,} that came twice",
                labels.clicks_duplicate == expected.clicks_duplicate,
            ),
            (
                f"{self.learnt:,} rows learnt in all rounds = {self.learnt_expected:,} impressions up to where the "
                "last version's manifest says: each once",
                self.learnt == self.learnt_expected,
            ),
        ]


@dataclass(frozen=True, kw_only=True, slots=True)
class Lived:
    """All hours.

    Attributes:
        hours: Each.
        curves: By who predicts: served, frozen, truth.
        books: What must be equal.
    """

    hours: list[LivedHour]
    curves: dict[str, Curve]
    books: Books

    @property
    def closed_share(self) -> float:
        """Share of the gap in log loss between the frozen model and the true probability that is closed."""
        served, frozen, truth = (self.curves[name].mean_loss for name in ("served", "frozen", "truth"))
        return (frozen - served) / (frozen - truth)


def live(
    folder: Path, name: str, frozen: int, world: SimulatedHours, hours: int, told: Callable[[LivedHour], object]
) -> Lived:
    """Let so many hours pass.

    Args:
        folder: Of the demo.
        name: The model; its champion serves, and learns on.
        frozen: The version that scores alongside and does not learn.
        world: What happens.
        hours: How many.
        told: Handed every hour when it is over.

    Raises:
        StreamError: Something does not come through in time.
        StreamFMError: As `Retrainer.round`.
    """
    registry, model = Registry(folder / "models"), f"{folder}/models/{name}"
    scorer = load(f"{model}/{frozen}")
    # Of an earlier run, whose broker is gone.
    shutil.rmtree(folder / "log", ignore_errors=True)
    source = LabelSource(log=folder / "log", impressions=SCORES, clicks=CLICKS, skip_damaged=False)
    settings = RetrainSettings(labels=LabelSettings(window_s=WINDOW_S), tuning=TUNING)
    with (
        LiveStream(folder, model, f"{model}/{frozen}") as stream,
        Retrainer(registry, name, source.feed(), settings, clock=world.clock) as retrainer,
    ):
        lived = []
        for one in _hours(stream, retrainer, world, hours, lambda: registry.current(name, CHAMPION)):
            told(one)
            lived.append(one)
        dead_letters = stream.dead_letters()
    labels = replace(settings.labels, impression_id=scorer.spec.event_id, label=scorer.spec.label)
    with (
        source.feed().relations() as both,
        closed_labels(both.impressions, both.clicks, labels, finished=both.finished) as closed,
    ):
        counts = closed.counts
    books = Books(
        events=stream.events,
        answers=stream.answered,
        dead_letters=dead_letters,
        shadows=sum(answer.shadow is not None for one in lived for answer in one.answers.values()),
        labels=counts,
        expected=world.expected(WINDOW_S),
        learnt=sum(one.report.rows["learnt"] for one in lived if one.report.outcome == "published"),
        learnt_expected=world.shown_before(_trained_until(lived)),
    )
    return Lived(hours=lived, curves=_curves(lived, scorer), books=books)


def _hours(
    stream: LiveStream, retrainer: Retrainer, world: SimulatedHours, hours: int, champion: Callable[[], int]
) -> Iterator[LivedHour]:
    """Each hour when it is over: its events scored, its clicks sent, both collected, and the model retrained."""
    following = world.hour()
    messages = following.messages()
    for left in reversed(range(hours)):
        hour, answers = following, stream.score(messages, version=champion())
        stream.click(world.clicks())
        stream.collected()
        if left:
            # Before the round, so that the next events come while the new version is loaded.
            following = world.hour()
            messages = following.messages()
        yield LivedHour(hour=hour, answers=answers, report=retrainer.round())


def _trained_until(lived: Sequence[LivedHour]) -> datetime:
    """Where the last version that served ends."""
    positions = [one.report.position for one in lived if one.report.outcome == "published"]
    return positions[-1].closed_until if positions and positions[-1] else datetime.fromtimestamp(0, UTC)


def _curves(lived: Sequence[LivedHour], frozen: Scorer) -> dict[str, Curve]:
    by_hour = [one.probabilities(frozen) for one in lived]
    clicked = [one.hour.clicked for one in lived]
    curves = {}
    for name in by_hour[0]:
        scores = [hour[name] for hour in by_hour]
        pairs = list(zip(clicked, scores, strict=True))
        curves[name] = Curve(
            log_loss=np.array([log_loss(labels, hour) for labels, hour in pairs]),
            calibration=np.array([calibration(labels, hour) for labels, hour in pairs]),
            mean_loss=log_loss(np.concatenate(clicked), np.concatenate(scores)),
            mean_calibration=calibration(np.concatenate(clicked), np.concatenate(scores)),
        )
    return curves
