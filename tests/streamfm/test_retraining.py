"""Rounds of retraining on a simulated app store: what is published, what is refused, and where the next one begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from shops import LABELS, LENIENT, SETTINGS, Shop, clicks_of, events_of

from streamfm.bundle import annotate, read_manifest
from streamfm.errors import BundleError, RegistryError, SpecError, StreamFMError
from streamfm.finetuning import FineTuneSettings
from streamfm.gate import Evidence
from streamfm.locking import FolderLock
from streamfm.registry import CHAMPION
from streamfm.retraining import Relations, Retrainer
from streamfm.retraining.rounds import LOCK_NAME
from streamfm.scoring import load


def test_a_round_publishes_what_it_has_learnt_and_says_from_what(shop: Shop) -> None:
    report = shop.round()

    assert report.outcome == "published", report.message
    assert (report.parent, report.version, shop.champion()) == (1, 2, 2)
    manifest = read_manifest(shop.registry.root / "ctr" / "2")
    facts: Any = manifest.training
    assert manifest.parent == "ctr/1"
    assert report.position is not None
    assert facts["position"] == report.position.to_json()
    assert facts["verdict"]["passed"]
    assert facts["verdict"]["rows"] == report.rows["window"]
    assert facts["round"]["rows"] == dict(report.rows)
    # The newest fifth judges.
    assert 0.15 < report.rows["window"] / (report.rows["window"] + report.rows["learnt"]) < 0.25
    assert np.isfinite(load(shop.registry.root / "ctr" / "2").score(shop.events[0])).all()


def test_what_was_judged_on_is_learnt_in_the_next_round_and_nothing_twice(shop: Shop) -> None:
    learnt, window = 0, 0
    for day in (8, 9, 10):
        shop.log(events_of(1, 700, start_day=day, first=10_000 * day))
        report = shop.round(LENIENT)
        assert report.outcome == "published", report.message
        learnt += report.rows["learnt"]
        window = report.rows["window"]

    shown, clicks = pa.concat_tables(shop.events), pa.concat_tables(map(clicks_of, shop.events))
    watermark = min(pc.max(shown["ts"]).as_py(), pc.max(clicks["ts"]).as_py())
    closed = pc.sum(pc.less(shown["ts"], pa.scalar(watermark - timedelta(minutes=30), pa.timestamp("us")))).as_py()
    assert learnt + window == closed


def priced(events: pa.Table, rows: int) -> pa.Table:
    """The same events, the first of them at a price that no model can learn from."""
    price = [float("inf")] * rows + events["price"].to_pylist()[rows:]
    return events.set_column(events.column_names.index("price"), "price", pa.array(price, pa.float64()))


def test_a_row_that_cannot_be_learnt_from_is_left_out_and_told_and_holds_nothing_up(shop: Shop) -> None:
    events = priced(events_of(1, 900, start_day=8, first=10_000), 1)
    shop.log(events)
    report = shop.round()
    assert report.outcome == "published", report.message
    assert 1 == sum(left_out.rows for left_out in report.left_out)
    assert events["event_id"][0].as_py() == report.left_out[0].event_id
    assert "column 'price' is inf" in str(report.left_out[0])
    assert shop.facts(2)["round"]["left_out"] == report.to_dict()["left_out"]
    assert report.rows["learnt"] + report.rows["window"] == report.counts["labelled"] - 1

    # Replay may draw it, and training anew takes everything.
    shop.log(events_of(1, 900, start_day=9, first=20_000))
    assert shop.round(LENIENT).left_out == ()
    assert "published" == shop.round(LENIENT, full=True).outcome


def test_where_many_rows_cannot_be_learnt_from_the_round_is_held(shop: Shop) -> None:
    shop.log(priced(events_of(1, 900, start_day=8, first=10_000), 300))
    report = shop.round()
    assert ("held", 1) == (report.outcome, shop.champion())
    assert "300 of " in report.message
    assert "column 'price' is inf" in report.message


def test_without_news_nothing_happens(shop: Shop) -> None:
    shop.round()

    # The window of the first round is left, and is too little.
    again = shop.round(replace(SETTINGS, least_rows=500))

    assert again.outcome == "nothing"
    assert "wait" in again.message
    assert shop.champion() == 2


def test_a_dry_run_changes_nothing(shop: Shop) -> None:
    before = sorted(path.name for path in shop.registry.root.rglob("*"))

    report = shop.round(dry_run=True)

    assert report.outcome == "passed", report.message
    assert report.verdict is not None
    assert report.version is None
    assert sorted(path.name for path in shop.registry.root.rglob("*") if path.name != "retraining.lock") == before


def test_training_anew_takes_everything_that_is_closed(shop: Shop) -> None:
    report = shop.round(full=True)

    assert report.verdict is not None
    assert report.rows["replayed"] == 0
    assert shop.facts(2)["round"]["kind"] == "full"
    assert shop.facts(2)["position"]["closed_until"] > "2026-01-12"


def test_a_candidate_that_has_unlearnt_everything_is_refused_and_nothing_moves(shop: Shop) -> None:
    wild = replace(SETTINGS, tuning=FineTuneSettings(learning_rate=0.5, passes=3, threads=1))

    report = shop.round(wild)

    assert report.outcome == "refused"
    assert report.verdict is not None
    assert report.verdict.reasons
    assert shop.champion() == 1
    assert report.version == 2
    assert not shop.facts(2)["verdict"]["passed"]
    # The next round begins with the parent's rows again.
    assert shop.round().rows["learnt"] == report.rows["learnt"]


def test_stalled_clicks_hold_the_round(shop: Shop) -> None:
    shop.log(events_of(1, 700, start_day=9, first=90_000))
    (shop.folder / "clicks" / "1.parquet").unlink()

    report = shop.round(replace(SETTINGS, labels=replace(LABELS, stalled_s=3600.0)))

    assert report.outcome == "held"
    assert "click" in report.message
    assert report.hint
    assert shop.champion() == 1
    assert shop.registry.model("ctr").versions == (1,)


def test_two_at_once_cannot_both_retrain(shop: Shop) -> None:
    held = FolderLock(shop.registry.root / "ctr" / LOCK_NAME, "a test")
    with held, pytest.raises(StreamFMError, match=r"retraining ctr: process \d+ on .* has it"):
        shop.round()
    assert shop.round().outcome == "published"


def test_an_alias_that_moves_meanwhile_stays_where_it_was_moved(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shop.registry.publish(shop.registry.root / "ctr" / "1", "ctr", keep_source=True).version
    publish = shop.registry.publish

    def meanwhile(*arguments: Any, **named: Any) -> Any:
        shop.registry.promote("ctr", other)
        return publish(*arguments, **named)

    monkeypatch.setattr(shop.registry, "publish", meanwhile)

    with pytest.raises(RegistryError, match="expected 1"):
        shop.round()

    assert shop.champion() == other


def test_the_same_rows_and_seed_give_the_same_version(first_shop: Path, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "other"):
        shop = Shop.copied(first_shop, tmp_path / name)
        shop.round()
        manifest = read_manifest(shop.registry.root / "ctr" / "2")
        digests.append({file: entry.sha256 for file, entry in manifest.files.items()})
    assert digests[0] == digests[1]


def test_a_version_that_was_rolled_back_from_is_left(shop: Shop) -> None:
    shop.round()
    shop.registry.rollback("ctr")

    report = shop.round()

    assert report.parent == 1
    assert report.version == 3
    assert read_manifest(shop.registry.root / "ctr" / "3").parent == "ctr/1"


def test_what_a_killed_round_has_left_is_removed(shop: Shop) -> None:
    others = ("ctr-retraining-1f", ".other.retraining-1f", ".ctr.retraining-x.retraining-1f")
    for name in (".ctr.retraining-1f", "..ctr.retraining-2f.ab.partial", *others):
        (shop.registry.root / name).mkdir()

    shop.round()

    assert sorted(path.name for path in shop.registry.root.iterdir()) == sorted(["ctr", *others])


def test_old_versions_are_pruned_and_the_anchor_is_not(shop: Shop) -> None:
    for day in (8, 9, 10, 11):
        shop.log(events_of(1, 700, start_day=day, first=10_000 * day))
        shop.round(replace(SETTINGS, keep=1))

    found = shop.registry.model("ctr")
    assert found.aliases["anchor"] in found.versions
    assert len(found.versions) <= 4


@pytest.mark.parametrize("others", [0, 3])
def test_the_anchor_of_another_model_is_none_of_a_copy(shop: Shop, tmp_path: Path, others: int) -> None:
    copy = Path(shutil.copytree(shop.registry.root / "ctr" / "1", tmp_path / "copy"))
    for name, count in (("ctr", 2), ("prod", others)):
        for _ in range(count):
            shop.registry.publish(copy, name, keep_source=True)
    annotate(copy, metrics={}, training={**shop.facts(1), "gate": Evidence(anchor="ctr/3", debt=0.0002).to_json()})
    parent = shop.registry.publish(copy, "prod", alias=CHAMPION).version

    with shop.retrainer(name="prod") as retrainer:
        report = retrainer.round()

    assert (report.outcome, report.version) == ("published", parent + 1), report.message
    assert report.verdict is not None
    assert report.verdict.evidence == Evidence(anchor=f"prod/{parent}", debt=0.0002)
    assert shop.registry.model("prod").aliases == {"anchor": parent, CHAMPION: parent + 1}


def test_slices_are_judged(shop: Shop) -> None:
    report = shop.round(replace(SETTINGS, slices=("app_id",)))

    assert report.verdict is not None
    names = [check.name for check in report.verdict.checks]
    assert any("app_id: new" in name for name in names)
    with pytest.raises(SpecError, match="no feature 'app'"):
        shop.round(replace(SETTINGS, slices=("app",)))


def test_a_parent_that_does_not_tell_its_time_needs_to_be_told(shop: Shop, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(shop.registry.root / "ctr" / "1", tmp_path / "copy"))
    annotate(copy, metrics={}, training={"model": shop.facts(1)["model"]})
    shop.registry.publish(copy, "ctr", alias=CHAMPION)

    with pytest.raises(BundleError, match="up to when") as failure:
        shop.round()

    assert "--since" in str(failure.value.hint)
    with shop.retrainer(since=datetime(2026, 1, 12, tzinfo=UTC)) as retrainer:
        assert retrainer.round().rows["learnt"] > 0


Change = Callable[[pa.Table], pa.Table]


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.append_column("campaign", pa.array(["x"] * table.num_rows)),
        lambda table: table.drop_columns(["price"]),
    ],
    ids=["new", "missing"],
)
def test_a_column_comes_or_goes(shop: Shop, change: Change) -> None:
    shop.log(events_of(1, 700, start_day=8, first=80_000))
    path = shop.folder / "shown" / "1.parquet"
    pq.write_table(change(pq.read_table(path)), path)

    report = shop.round()

    assert report.outcome in ("published", "refused")
    assert report.rows["learnt"] > 1_000


def test_a_share_of_the_negatives_leaves_probabilities_and_verdicts_as_they_are(
    first_shop: Path, tmp_path: Path
) -> None:
    events, calibrations = events_of(1, 900, start_day=7, first=4_000), []
    for share in (1.0, 0.3):
        shop = Shop.copied(first_shop, tmp_path / str(share))
        report = shop.round(replace(SETTINGS, labels=replace(LABELS, negative_share=share)))
        assert report.verdict is not None
        assert report.outcome == "published", report.message
        assert (report.counts["sampled_out"] > 0) == (share < 1)
        scores = load(shop.registry.root / "ctr" / "2").score(events)
        calibrations.append(float(scores.sum()) / pc.sum(events["clicked"]).as_py())
    assert calibrations[1] == pytest.approx(calibrations[0], rel=0.15)
    assert shop.facts(2)["logit_shift"] == pytest.approx(np.log(0.3), abs=0.3)


def test_rows_that_come_late_do_not_set_the_position_back(first_shop: Path, tmp_path: Path) -> None:
    from connectors.parquet_log import EventLog

    shop, log = Shop.copied(first_shop, tmp_path / "shop"), EventLog(tmp_path / "log")
    days = {day: events_of(1, 700, start_day=day, first=10_000 * day) for day in (7, 8, 9, 10)}

    def arrive(day: int, partition: int) -> None:
        shown = days[day].drop_columns(["clicked", "true_probability"])
        log.append("impressions", shown, partition=partition)
        log.append("clicks", clicks_of(days[day]), kind="clicks", partition=partition)

    class LogFeed:
        @contextmanager
        def relations(self) -> Iterator[Relations]:
            with log.snapshot() as snapshot:
                yield Relations(snapshot.relation("impressions"), snapshot.relation("clicks"))

    learnt, before = 0, datetime(2026, 1, 1, tzinfo=UTC)
    with Retrainer(shop.registry, "ctr", LogFeed(), LENIENT) as retrainer:
        # The second partition is a day late, and its rows are nearly all that is new in the third round.
        for day, partition in ((7, 0), (9, 0), (8, 1), (10, 0)):
            arrive(day, partition)
            report = retrainer.round()
            if report.position is not None:
                assert report.outcome == "published", report.message
                assert report.position.closed_until >= before
                before, learnt = report.position.closed_until, learnt + report.rows["learnt"]
    times = pa.concat_tables(list(days.values()))["ts"].to_numpy()
    assert learnt == (times < np.datetime64(before.replace(tzinfo=None))).sum()


def test_what_training_anew_validated_on_is_learnt_too(shop: Shop) -> None:
    report = shop.round(full=True)

    times = shop.events[0]["ts"].to_numpy()
    assert report.position is not None
    assert report.rows["learnt"] == (times < np.datetime64(report.position.closed_until.replace(tzinfo=None))).sum()
    training, *after = shop.facts(2)["round"]["learning"]
    assert training["rows"] + sum(chunk["rows"] for chunk in after) == report.rows["learnt"]


def test_bounds_that_are_none_are_written_down(shop: Shop) -> None:
    report = shop.round(replace(SETTINGS, labels=replace(LABELS, ctr_bounds=(0.0, float("inf")))))

    assert report.outcome == "published"
    assert shop.facts(2)["round"]["settings"]["labels"]["ctr_bounds"] == [0.0, None]
