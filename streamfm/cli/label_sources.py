"""Options of the commands that join impressions with clicks: where both come from, and how they are joined."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from streamfm.cli.commands import option
from streamfm.cli.durations import DURATION

if TYPE_CHECKING:
    from streamfm.labels import LabelSettings
    from streamfm.retraining import Feed, Relations

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]

SOURCE, JOIN = "Impressions and clicks", "Labels"
_JOINED = (
    *("window", "lateness", "lookback", "stalled", "ctr_bounds", "click_id", "click_time", "click_kind", "positives"),
    *("late_positives", "negative_share"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelSource:
    """What the options say of the data.

    Attributes:
        log: The folder of an event log, or None.
        impressions: Its topic, empty for the only one that holds impressions; without a log, files or SQL.
        clicks: The same for clicks.
        skip_damaged: Whether to go on without segments of the log that are damaged or missing.
    """

    log: Path | None
    impressions: str
    clicks: str
    skip_damaged: bool

    def feed(self) -> Feed:
        """Where the rows are read."""
        from streamfm.retraining import Tables

        if self.log is None:
            return Tables(self.impressions, self.clicks)
        return _LogFeed(self.log, self.impressions, self.clicks, skip_damaged=self.skip_damaged)


class _LogFeed:
    """A `Feed` of an event log."""

    def __init__(self, log: Path, impressions: str, clicks: str, *, skip_damaged: bool) -> None:
        self._log, self._impressions, self._clicks, self._skip = log, impressions, clicks, skip_damaged

    @contextmanager
    def relations(self) -> Iterator[Relations]:
        from connectors.parquet_log import EventLog
        from streamfm.retraining import Relations

        log = EventLog(self._log)
        shown = self._impressions or log.topic_of("impressions", option="--impressions")
        clicked = self._clicks or log.topic_of("clicks", option="--clicks")
        with log.snapshot(shown, clicked, damaged="skip" if self._skip else "refuse") as snapshot:
            yield Relations(snapshot.relation(shown), snapshot.relation(clicked), finished=snapshot.finished(clicked))


def label_source(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that become one argument, `source: LabelSource`."""

    @functools.wraps(function)
    def call(*, log: Path | None, impressions: str | None, clicks: str | None, skip_damaged: bool, **rest: Any) -> Any:
        if log is None and not (impressions and clicks):
            raise click.UsageError("name a log: --log LOG, or two tables: --impressions DATA --clicks DATA")
        source = LabelSource(log=log, impressions=impressions or "", clicks=clicks or "", skip_damaged=skip_damaged)
        return function(source=source, **rest)

    decorated: Callable[..., Any] = call
    for decorate in (
        option(
            "--skip-damaged",
            is_flag=True,
            heading=SOURCE,
            help="Go on without segments of the log that are damaged or missing; they are named.",
        ),
        option(
            "--clicks",
            heading=SOURCE,
            help="The log's topic of clicks, if it has several; without --log, files or SQL.",
        ),
        option(
            "--impressions",
            heading=SOURCE,
            help="The log's topic of impressions, if it has several; without --log, files or SQL.",
        ),
        option(
            "--log",
            type=click.Path(file_okay=False, path_type=Path),
            heading=SOURCE,
            help="The event log that `streamfm collect` writes.",
        ),
    ):
        decorated = decorate(decorated)
    return decorated


def label_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options that become one argument, `labels: LabelSettings`, without the names that follow a specification."""

    @functools.wraps(function)
    def call(**values: Any) -> Any:
        given = {name: values.pop(name) for name in _JOINED}
        return function(labels=_settings(given), **values)

    decorated: Callable[..., Any] = call
    for decorate in _label_options():
        decorated = decorate(decorated)
    return decorated


def _label_options() -> Iterator[Decorator]:
    def one(*names: str, **attributes: Any) -> Decorator:
        return option(*names, heading=JOIN, show_default=True, **attributes)

    yield one(
        "--negative-share",
        default=1.0,
        type=click.FloatRange(0, 1, min_open=True),
        help="Keep this share of the impressions without a click; the logit is corrected for it at export.",
    )
    yield one("--late-positives", is_flag=True, help="Learn from clicks that came after the window, too, corrected.")
    yield one(
        "--positive",
        "positives",
        multiple=True,
        metavar="KIND=WEIGHT",
        help="A kind of positive and its sample weight, such as install=5; again for others.",
    )
    yield one(
        "--ctr-bounds",
        type=(float, float),
        default=(0.5, 2.0),
        metavar="LOW HIGH",
        help="The click rate, in units of that before, that is believed; 0 inf believes any.",
    )
    yield one("--stalled", type=DURATION, default="1h", help="How far clicks may be behind before labels are held.")
    yield one("--lookback", type=DURATION, default="1d", help="How long copies and late clicks are recognised.")
    yield one("--click-kind", default="", help="The clicks' column of their kind; without, all are one kind.")
    yield one("--click-time", default="ts", help="The clicks' column of their time.")
    yield one("--click-id", default="event_id", help="The clicks' column that names the impression.")
    yield one("--lateness", type=DURATION, default="0s", help="How far behind the newest event others may still come.")
    yield one("--window", type=DURATION, default="30m", help="How long after its impression a click may come.")


def _settings(values: dict[str, Any]) -> LabelSettings:
    from streamfm.errors import SpecError
    from streamfm.labels import LabelSettings

    positives = dict(_positive(text) for text in values["positives"]) or {"click": 1.0}
    try:
        return LabelSettings(
            window_s=values["window"],
            lateness_s=values["lateness"],
            lookback_s=values["lookback"],
            stalled_s=values["stalled"],
            ctr_bounds=values["ctr_bounds"],
            click_id=values["click_id"],
            click_time=values["click_time"],
            click_kind=values["click_kind"],
            positives=positives,
            late_positives=values["late_positives"],
            negative_share=values["negative_share"],
            # Whoever joins puts the specification's own in its place.
            weight="sample_weight",
        )
    except SpecError as error:
        raise click.UsageError(str(error)) from error


def _positive(text: str) -> tuple[str, float]:
    kind, _, weight = text.partition("=")
    try:
        return kind, float(weight or 1)
    except ValueError:
        raise click.BadParameter(f"{text!r}: expected KIND=WEIGHT, such as install=5") from None
