"""A round of retraining: labels, a candidate, the gate; and the alias moves, or stays.

1. Open the version that the alias names, the parent. 2. Label what is closed since. 3. Learn, from all of it but the
newest rows, the window. 4. Export the candidate beside the registry's models, and judge it on the window; its manifest
tells the verdict. 5. Publish it as the next version. 6. Move the alias, if it has passed and the alias is where it was.
7. Prune.

What a version has been trained on stands in its own manifest, as a `Position`, and nowhere else. A crash before 5
leaves a folder that the next round removes; one between 5 and 6 leaves a version that nobody serves. Either way the
next round begins with the same parent, and so with the same rows: none is learnt twice, none is left out.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from streamfm import files
from streamfm.features import FeatureSpec
from streamfm.gate import Verdict
from streamfm.labels import Labels, Position, closed_labels, fitted
from streamfm.locking import FolderLock
from streamfm.pipeline.progress import NoProgress, PipelineProgress
from streamfm.registry import CHAMPION, Registry
from streamfm.retraining.anchors import Anchors
from streamfm.retraining.candidates import Candidate, Judged, Opponents
from streamfm.retraining.feeds import Feed, Relations
from streamfm.retraining.learning import LEAST_FRESH_ROWS, Learnt, fresh_rows, learn_anew, learn_on
from streamfm.retraining.reports import Outcome, RoundReport
from streamfm.retraining.served import Served, open_served
from streamfm.retraining.settings import RetrainSettings
from streamfm.retraining.slices import check_slices
from streamfm.retraining.stages import Stages
from streamfm.scoring import load

LOCK_NAME = "retraining.lock"

_CARRIED = ("model", "report")
"""What a first training wrote into its manifest, and every version after it repeats."""


class Retrainer:
    """Retrains one model, round by round. Between rounds it keeps the version that serves warm; a context manager."""

    def __init__(
        self,
        registry: Registry,
        name: str,
        feed: Feed,
        settings: RetrainSettings,
        *,
        alias: str = CHAMPION,
        since: datetime | None = None,
        progress: PipelineProgress | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open nothing yet.

        Args:
            registry: Where the model is.
            name: The model.
            feed: Impressions and clicks.
            settings: How.
            alias: Names the version that serves, and moves.
            since: Take the version that serves at first as trained on everything before that time, whatever its
                manifest says.
            progress: Told how far a round is.
            clock: Seconds since 1970: what is later has not happened yet.
        """
        self._registry, self._name, self._alias = registry, name, alias
        self._feed, self._settings, self._since = feed, settings, since
        self._progress, self._clock = progress or NoProgress(), clock
        self._served: Served | None = None
        self._first: int | None = None
        self._anchors = Anchors(registry, name)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of the models."""
        self._served = None
        self._anchors.let_go()

    def round(self, *, full: bool = False, dry_run: bool = False) -> RoundReport:
        """One round.

        Args:
            full: Train anew on everything that is closed, instead of learning on.
            dry_run: Everything up to the verdict; nothing is published, and nothing moves.

        Raises:
            RegistryError: There is no such model or alias, another process retrains it, or moved the alias meanwhile.
            DataError: The impressions or clicks cannot be read or used.
            BundleError: The parent cannot be learnt on from, or the disk is full; nothing is published.
            SpecError: The specification lacks what labels need.
        """
        self._registry.model(self._name)
        with FolderLock(self._registry.root / self._name / LOCK_NAME, f"retraining {self._name}"):
            self._clear_workplaces()
            parent = self._open_parent()
            stages = Stages()
            with self._feed.relations() as relations:
                labelled = partial(self._labels, relations, parent.scorer.spec)
                with labelled(since=parent.position) as labels:
                    stages.seconds["labels"] = stages.since_start()
                    if refused := self._refused(labels, parent):
                        self._served = parent
                        return replace(refused, seconds=stages.seconds)
                    with stages("learning"):
                        learnt = self._learn(labels, labelled, parent, full=full)
            with self._workplace() as place:
                with stages("judging"):
                    judged = self._judge(learnt, labels, parent, place, full=full)
                with stages("publishing"):
                    version = None if dry_run else self._publish(judged, learnt, parent)
            if self._served is None:
                # A copy of it has learnt.
                self._served = parent
            return self._report(learnt, labels, parent, judged.verdict, version, stages.seconds)

    def _open_parent(self) -> Served:
        """What serves, warm where this process published it last."""
        version = self._registry.current(self._name, self._alias)
        served, self._served = self._served, None
        if served is None or served.version != version:
            # What is published later tells its position itself.
            self._first = version if self._first is None else self._first
            since = self._since if version == self._first else None
            served = open_served(self._registry, self._name, version, self._settings.tuning, since=since)
            check_slices(served.scorer.encoder, self._settings.slices)
        return served

    @contextmanager
    def _labels(
        self, relations: Relations, spec: FeatureSpec, *, since: Position | None, until: datetime | None = None
    ) -> Iterator[Labels]:
        """The closed rows since a position, labelled."""
        settings = self._settings
        with closed_labels(
            relations.impressions,
            relations.clicks,
            fitted(settings.labels, spec),
            finished=relations.finished,
            since=since,
            until=until,
            now=datetime.fromtimestamp(self._clock(), UTC),
            inputs=spec.inputs,
            memory_limit=settings.memory_limit,
            folder=settings.folder,
        ) as found:
            yield found.sound(spec)

    def _learn(self, labels: Labels, labelled: Callable[..., Any], parent: Served, *, full: bool) -> Learnt:
        if not full:
            return learn_on(labels, parent, self._settings, self._progress)

        def everything(until: datetime) -> AbstractContextManager[Labels]:
            return labelled(since=None, until=until)  # type: ignore[no-any-return]

        return learn_anew(labels, everything, parent, self._settings, self._progress)

    def _refused(self, labels: Labels, parent: Served) -> RoundReport | None:
        """The report of a round that ends here: no labels, or too few."""
        counts = labels.counts.to_json()
        if labels.refusal is not None:
            reason, message, hint = labels.refusal
            outcome: Outcome = "nothing" if reason == "nothing_new" else "held"
            return RoundReport(outcome=outcome, message=message, hint=hint, parent=parent.version, counts=counts)
        rows, fresh = labels.source.rows, fresh_rows(labels, parent).rows
        message = ""
        if rows < self._settings.least_rows:
            message = f"{rows:,} new rows, and a round takes {self._settings.least_rows:,}: they wait"
        elif fresh < LEAST_FRESH_ROWS:
            message = (
                f"{rows - fresh:,} of {rows:,} new rows came late, and there is nothing newer to judge on: they wait"
            )
        if not message:
            return None
        return RoundReport(
            outcome="nothing", message=message, parent=parent.version, counts=counts, left_out=labels.left_out
        )

    def _judge(self, learnt: Learnt, labels: Labels, parent: Served, place: Path, *, full: bool) -> Judged:
        training = {
            **{key: value for key, value in parent.manifest.training.items() if key in _CARRIED},
            "position": learnt.position.to_json(),
            "round": {
                "kind": "full" if full else "incremental",
                "since": parent.position.to_json(),
                "labels": labels.counts.to_json(),
                "left_out": [one.to_json() for one in labels.left_out],
                "rows": dict(learnt.rows),
                "learning": learnt.reports,
                "settings": asdict(self._settings) | {"labels": self._settings.labels.to_json()},
            },
        }
        candidate = Candidate(
            tuner=learnt.tuner,
            window=learnt.window,
            learnt=learnt.newest,
            calibration=learnt.calibration,
            name=self._name,
            training=training,
        )
        self._progress.stage("judging", 0, learnt.window.rows)
        return candidate.judged(
            place,
            Opponents(parent=parent, anchor=self._anchors.of(parent), evidence=parent.evidence),
            self._settings.gate,
            int8=self._settings.int8,
            slices=self._settings.slices,
            now=datetime.fromtimestamp(self._clock(), UTC),
        )

    def _publish(self, judged: Judged, learnt: Learnt, parent: Served) -> int:
        """The candidate's version; the alias names it, if it has passed."""
        registry, name = self._registry, self._name
        version = registry.publish(judged.path, name).version
        if judged.verdict.passed:
            self._anchors.protect(judged.verdict.evidence)
            registry.promote(name, version, self._alias, expected=parent.version)
            self._served = Served(
                version=version,
                reference=f"{name}/{version}",
                scorer=load(registry.root / name / str(version)),
                tuner=learnt.tuner,
                position=learnt.position,
                evidence=judged.verdict.evidence,
            )
        if self._settings.keep:
            registry.prune(name, keep=self._settings.keep)
        return version

    def _report(
        self,
        learnt: Learnt,
        labels: Labels,
        parent: Served,
        verdict: Verdict,
        version: int | None,
        seconds: Mapping[str, float],
    ) -> RoundReport:
        name, rows = self._name, f"{learnt.rows['learnt']:,} rows learnt, judged on {learnt.rows['window']:,}"
        if not verdict.passed:
            message = f"{rows}: refused: {'; '.join(verdict.reasons)}"
        elif version is None:
            message = f"{rows}: passed; nothing was published, as asked"
        else:
            message = f"{rows}: {name}/{version} serves as @{self._alias}"
        outcome: Outcome = "refused" if not verdict.passed else "passed" if version is None else "published"
        hint = None
        if verdict.roll_back_to is not None:
            hint = f"streamfm models promote {self._registry.root / verdict.roll_back_to}"
        return RoundReport(
            outcome=outcome,
            message=message,
            hint=hint,
            parent=parent.version,
            version=version,
            counts=labels.counts.to_json(),
            position=learnt.position,
            rows=learnt.rows,
            left_out=labels.left_out,
            verdict=verdict,
            seconds=seconds,
        )

    @contextmanager
    def _workplace(self) -> Iterator[Path]:
        """Where the candidate is written: beside the models, so that publishing it is a renaming."""
        place = self._registry.root / f".{self._name}.retraining-{files.token()}"
        try:
            yield place
        finally:
            files.remove_tree(place)

    def _clear_workplaces(self) -> None:
        """Remove what rounds that were killed have left; the lock is held, so none is at work."""
        # No model's name begins with a dot; `BundleWriter` puts another one before it while it writes.
        left = re.compile(rf"\.?\.{re.escape(self._name)}\.retraining-[0-9a-f]+(\.[0-9a-f]+\.partial)?")
        for place in self._registry.root.iterdir():
            if left.fullmatch(place.name):
                files.remove_tree(place)
