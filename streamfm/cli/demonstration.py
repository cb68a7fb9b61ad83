"""`streamfm demo`: an app store is simulated, a model learns its clicks, SQL and a stream ask it, and it goes on."""

from __future__ import annotations

import math
import shlex
import time
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.rule import Rule
from rich.syntax import Syntax

from streamfm.cli.commands import Command, option
from streamfm.cli.console import output, print_table
from streamfm.cli.evaluating import print_evaluation
from streamfm.cli.progress import TrainingProgress

if TYPE_CHECKING:
    import duckdb
    import numpy as np

    from streamfm.evaluation import Evaluation
    from streamfm.scoring import Scorer
    from streamfm.testing import AppStore

SEED = 7
NAME, EPOCHS = "apps", 12
DAYS, TEST_DAYS = 28.0, 2.0
NEWCOMER_SHARE = 0.2
# The development broker keeps no more than a few megabytes.
MOST_AN_HOUR = 10_000

LEFT_OUT = ("category", "developer", "genres")

TOP_APPS = """
-- Apps for one user, tonight: every app is put in the place of the one that was shown.
WITH apps AS (SELECT DISTINCT ON (app_id) app_id, price, rating FROM '{folder}/events.parquet')
SELECT apps.app_id, deepfm_score(
         user_id := u.user_id, device := u.device, os_version := u.os_version, country := u.country,
         installed_categories := u.installed_categories, session_seconds := u.session_seconds, position := 1,
         ts := TIMESTAMP '2026-02-03 20:00:00', app_id := apps.app_id, price := apps.price, rating := apps.rating) AS p
FROM apps, (FROM '{folder}/events.parquet' WHERE user_id = '{user}' LIMIT 1) u ORDER BY p DESC LIMIT 5"""
BY_HOUR = """
-- A whole row at once: inputs by name, other columns ignored. hour(ts) in the model is derived inside, in UTC.
SELECT hour(ts) AS hour, count(*) AS events, round(avg(deepfm_score(e)), 4) AS predicted,
       round(avg(clicked), 4) AS clicked
FROM '{folder}/tomorrow.parquet' e GROUP BY ALL ORDER BY ALL"""
EXPLANATION = """
-- What each feature adds to the logit of the first event of tomorrow: the shares add up.
SELECT x.feature, round(x.first_order, 4) AS first_order, round(x.pairs, 4) AS pairs, round(x.deep, 4) AS deep,
       round(x.total, 4) AS total
FROM (SELECT unnest(deepfm_explain(e)) AS x FROM (FROM '{folder}/tomorrow.parquet' LIMIT 1) e)
ORDER BY abs(x.total) DESC LIMIT 6"""
NEIGHBOURS = """
-- Apps near one app, by what the model has learnt of them (it never saw the names' meaning).
WITH apps AS (SELECT DISTINCT app_id, deepfm_embedding('app_id', app_id) AS v FROM '{folder}/events.parquet')
SELECT o.app_id, array_cosine_similarity(o.v, a.v) AS similarity FROM apps o, apps a
WHERE a.app_id = '{app}' AND o.app_id <> a.app_id ORDER BY similarity DESC LIMIT 5"""


@click.command(cls=Command, short_help="See everything work on a simulated app store.")
@option(
    "--folder",
    default="demo",
    show_default=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Where everything goes; it is made.",
)
@option("--events", default=250_000, show_default=True, type=click.IntRange(10_000), help="How many to learn from.")
@option("--hours", default=14, show_default=True, type=click.IntRange(1), help="How long the store then goes on.")
def demo(folder: Path, events: int, hours: int) -> None:
    """Simulate an app store's log, train, compare with the true click probabilities, let SQL answer, close the loop.

    The loop: the store goes on and changes, a stream scores its events, clicks come back, and after each hour the model
    learns from them, proves to be no worse, and takes over. A table and a plot (loop.png) show it beside its first
    version, frozen, and beside the true probabilities.

    Everything lies in one folder afterwards, to go on with; the commands that do the same are printed.

    \b
    Examples:
      streamfm demo
      streamfm demo --folder /tmp/store --events 50000 --hours 4
    """
    from streamfm.testing import AppStore

    began = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    store = AppStore(
        seed=SEED,
        users=2_000,
        apps=100,
        drift_per_day=math.pi,
        newcomer_share=NEWCOMER_SHARE,
        growth_days=hours / 24,
        still_days=DAYS + TEST_DAYS,
    )
    truth = _simulate(folder, store, events)
    reference, version = _train(folder)
    _compare(folder, reference, truth)
    _ask(folder, reference)
    _say("6. The loop: events are scored as they happen, clicks come back, every hour the model learns and takes over")
    if all(map(find_spec, ("confluent_kafka", "kafka", "msgspec"))):
        _live(folder, store, version, events + len(truth), hours)
    else:
        output.print("needs more than is installed: pip install 'streamfm[stream,confluent]'")
    _say(f"Done in {time.monotonic() - began:.0f} s. To go on:")
    for line in (
        f"streamfm sql {reference}",
        f"streamfm evaluate {folder}/models/{NAME}/{version} {folder}/tomorrow.parquet",
        f"streamfm models show {reference}",
        f"streamfm monitor {folder}/models/{NAME} --log {folder}/log --impressions scores --window 15m",
        f"streamfm score {reference} {folder}/tomorrow.parquet -o {folder}/scored.parquet",
    ):
        output.print(f"  .venv/bin/{line}")


def _say(text: str) -> None:
    output.print()
    output.print(Rule(f"[bold]{text}[/]", align="left"))


def _command(text: str) -> None:
    # What is to be copied must not be wrapped.
    output.print(f"[dim]$ {text}[/]", soft_wrap=True)


def _later(days: float) -> datetime:
    from streamfm.testing import OPENING

    return OPENING + timedelta(days=days)


def _simulate(folder: Path, store: AppStore, events: int) -> np.ndarray:
    """Write the events to learn from and those of the days after; the latter's true probabilities [B]."""
    import numpy as np
    import pyarrow.parquet as pq

    _say(f"1. An app store of {DAYS:.0f} days: {events:,} impressions, with the probability of every click known")
    random = np.random.default_rng(SEED)
    past = store.events(events, random=random, days=DAYS)
    future = store.events(events // 8, random=random, start=_later(DAYS), days=TEST_DAYS, first_event=events)
    for name, table in (("events", past), ("tomorrow", future)):
        # The truth is kept out of the files: a model must not see it.
        pq.write_table(table.drop_columns(["true_probability"]), folder / f"{name}.parquet")
    columns = ["ts", "user_id", "app_id", "category", "country", "price", "position", "clicked", "true_probability"]
    print_table(columns, [tuple(row.values()) for row in past.select(columns).slice(0, 3).to_pylist()])
    output.print(
        f"No other command does this; in Python: streamfm.testing.{store}"
        f".events({events}, random=numpy.random.default_rng({SEED}), days={DAYS})"
    )
    truth: np.ndarray = future["true_probability"].to_numpy()
    return truth


def _train(folder: Path) -> tuple[str, int]:
    """Propose the features, train, publish; the reference of the champion, and which version it is."""
    from streamfm.proposal import propose
    from streamfm.registry import CHAMPION

    _say("2. What to make of the columns: a proposal, with its reasons")
    rows = f"SELECT * EXCLUDE ({', '.join(LEFT_OUT)}) FROM '{folder}/events.parquet'"
    _command(f'streamfm init "{rows}" --label clicked --force -o {folder}/features.toml')
    text = propose(rows, "clicked").to_toml()
    (folder / "features.toml").write_text(text, encoding="utf-8")
    output.print(Syntax(_excerpt(text), "toml", background_color="default"))
    output.print(f"Without {', '.join(LEFT_OUT)}, what an app is like must be learnt from its clicks alone.")

    _say("3. Train a DeepFM, prove that its ONNX networks answer as torch does, publish")
    _command(
        f"streamfm train {folder}/events.parquet --features {folder}/features.toml --out {folder}/models/{NAME}"
        f" --promote --factors 16 --hidden 64,32 --epochs {EPOCHS} --seed {SEED}"
    )
    evaluation, version = _publish(folder)
    print_evaluation(evaluation, title="the last days of the log, held back")
    output.print(f"published as {folder}/models/{NAME}/{version}, @{CHAMPION}")
    return f"{folder}/models/{NAME}@{CHAMPION}", version


def _publish(folder: Path) -> tuple[Evaluation, int]:
    """Train on the log, and publish; the evaluation and the version."""
    from streamfm.model import ModelSettings
    from streamfm.pipeline import PipelineSettings, train
    from streamfm.registry import CHAMPION, Registry
    from streamfm.settings import TrainSettings

    registry = Registry(folder / "models")
    registry.root.mkdir(exist_ok=True)
    settings = PipelineSettings(
        model=ModelSettings(factors=16, hidden=(64, 32)),
        training=TrainSettings(max_epochs=EPOCHS, seed=SEED),
        name=NAME,
    )
    with TrainingProgress() as progress:
        made = train(
            folder / "features.toml",
            folder / "events.parquet",
            registry.root / f".new-{NAME}-{time.time_ns()}",
            settings=settings,
            progress=progress,
        )
    return made.evaluation, registry.publish(made.bundle.path, NAME, alias=CHAMPION).version


def _excerpt(toml: str) -> str:
    """The proposal's head, and its first features with the reasons."""
    lines = toml.splitlines()
    features = next(number for number, line in enumerate(lines) if line.startswith("[features"))
    return "\n".join([*lines[:10], "...", *lines[features - 2 : features + 22], "..."])


def _compare(folder: Path, reference: str, truth: np.ndarray) -> None:
    """The model beside the true probabilities, on the days after."""
    import numpy as np
    import pyarrow.parquet as pq

    from streamfm.evaluation import auc, log_loss
    from streamfm.scoring import load

    _say("4. The two days after, against the truth: no model can beat the true probability")
    events = pq.read_table(folder / "tomorrow.parquet")
    scorer: Scorer = load(reference)
    labels = events["clicked"].to_numpy()
    rows = []
    for name, scores in (
        ("the click rate", np.full(len(labels), labels.mean())),
        ("DeepFM", scorer.score(events)),
        ("true probability", truth),
    ):
        error = float(np.abs(scores - truth).mean())
        rows.append((name, f"{auc(labels, scores):.4f}", f"{log_loss(labels, scores):.4f}", f"{error:.4f}"))
    print_table(["predicted by", "AUC", "log loss", "mean distance from the truth"], rows)


def _ask(folder: Path, reference: str) -> None:
    import duckdb

    from udfs.duckdb_udf import register

    _say("5. The same model in DuckDB SQL, from raw columns")
    connection = duckdb.connect()
    register(connection, reference)
    user, app = _favourites(connection, folder)
    _command(f'streamfm sql {reference} "..."   # each of the queries below runs there as it is printed')
    for text in (TOP_APPS, BY_HOUR, EXPLANATION, NEIGHBOURS):
        says, query = text.strip().removeprefix("-- ").split("\n", 1)  # what begins with -- would be an option
        query = query.format(folder=str(folder).replace("'", "''"), user=user, app=app)
        output.print()
        output.print(says)
        output.print(Syntax(query, "sql", background_color="default", word_wrap=True))
        connection.sql(query).show(max_rows=24, max_width=output.width)


def _live(folder: Path, store: AppStore, version: int, first_event: int, hours: int) -> None:
    """The days after those: the store changes, hour by hour, and the model with it."""
    from streamfm.cli.demonstration_loop import live, retrain_command
    from streamfm.cli.demonstration_report import tell, tell_hour
    from streamfm.cli.demonstration_stream import TOPICS, collect_command, stream_command
    from streamfm.cli.demonstration_world import CLICK_DELAY_S, SimulatedHours

    model, frozen, where = f"{folder}/models/{NAME}", f"{folder}/models/{NAME}/{version}", "127.0.0.1:PORT"
    output.print(
        "From here on the store changes as fast as others do in years: within twelve hours every app turns into what"
        f" another one was (drift_per_day=pi), and {NEWCOMER_SHARE:.0%} of the users and apps arrive, evenly over"
        f" {hours} hours. Clicks come {CLICK_DELAY_S / 60:g} minutes after their impressions, in the mean. The first"
        " version, frozen, answers every event, too."
    )
    for command in (
        ["broker", "--topics", ",".join(f"{topic}:{count}" for topic, count in TOPICS.items())],
        stream_command(model, frozen, where),
        collect_command(model, folder / "log", where),
        [*retrain_command(model, folder / "log"), "--every", "1m"],
    ):
        _command(shlex.join(["streamfm", *command]))
    output.print(
        "The last one runs inside this command, each time when an hour of the store's is over, not by the clock:"
    )
    world = SimulatedHours(
        store,
        begin=_later(DAYS + TEST_DAYS),
        per_hour=min(MOST_AN_HOUR, first_event // 36),
        first_event=first_event,
        seed=SEED + 1,
    )
    lived = live(folder, NAME, version, world, hours, tell_hour)
    tell(lived, NAME, version, folder / "loop.png")


def _favourites(connection: duckdb.DuckDBPyConnection, folder: Path) -> tuple[str, str]:
    """The user and the app that the log holds most of."""
    query = "SELECT mode(user_id), mode(app_id) FROM read_parquet(?)"
    ((user, app),) = connection.execute(query, [f"{folder}/events.parquet"]).fetchall()
    return str(user), str(app)
