"""A round that is killed at any change of a file is made again, whether it reads tables or an event log."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pytest
from killed_rounds import SETTINGS, feed
from shops import Shop, clicks_of, events_of

from connectors.parquet_log import EventLog
from streamfm.retraining import Retrainer

PROGRAM = Path(__file__).parent.parent / "support" / "killed_rounds.py"


class Killed(NamedTuple):
    """What became of the rounds of a source.

    Attributes:
        stride: Which changes were killed at, beside the alias's move.
        times: Of all impressions that are there.
        learnt: Of these, by the parent, which began with what was there when it did.
        head: What a round makes that is not killed.
        kills: Each kill, and the round after it.
    """

    stride: int
    times: Any
    learnt: int
    head: Any
    kills: list[Any]


def logged(folder: Path, first: Path) -> tuple[Any, int]:
    """A shop whose parent has learnt from a log in which half of the rows came late; times of all, and rows learnt."""
    shop, log = Shop.copied(first, folder), EventLog(folder / "log")
    days = [events_of(1, 1_400, start_day=day, first=10_000 * day) for day in (7, 8)]

    def arrive(events: pa.Table, partition: int) -> None:
        half = events.take(np.arange(partition, events.num_rows, 2))
        log.append("impressions", half.drop_columns(["clicked", "true_probability"]), partition=partition)
        log.append("clicks", clicks_of(half), kind="clicks", partition=partition)

    arrive(days[0], 0)
    with Retrainer(shop.registry, "ctr", feed(folder), SETTINGS) as retrainer:
        report = retrainer.round()
    assert report.outcome == "published", report.message
    # By their times, the parent has learnt most of these.
    arrive(days[0], 1)
    arrive(days[1], 0)
    arrive(days[1], 1)
    return pa.concat_tables(days)["ts"].to_numpy(), report.rows["learnt"]


@pytest.fixture(scope="module", params=[45, pytest.param(1, marks=pytest.mark.faults)])
def rounds(
    request: pytest.FixtureRequest, first_shop: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Killed]:
    """By source. One program kills all of them: most of its time is that of its imports."""
    folder, stride = tmp_path_factory.mktemp("killed"), request.param
    shop = Shop.copied(first_shop, folder / "tables")
    before = {"tables": (shop.events[0]["ts"].to_numpy(), 0), "log": logged(folder / "log", first_shop)}
    command = [sys.executable, PROGRAM, str(stride), *(folder / source for source in before)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    found = {}
    for source, (times, learnt) in before.items():
        head, *kills = [line for line in lines if line["source"] == source]
        found[source] = Killed(stride, times, learnt, head, kills)
    return found


@pytest.mark.parametrize("source", ["tables", "log"])
def test_a_round_that_is_killed_at_any_change_of_a_file_is_made_again(rounds: dict[str, Killed], source: str) -> None:
    stride, times, learnt, head, kills = rounds[source]
    expected = head["expected"]
    assert expected["parent"] == ("ctr/2" if source == "log" else "ctr/1")
    # None left out, none twice.
    until = np.datetime64(expected["position"]["closed_until"].removesuffix("Z").removesuffix("+00:00"))
    assert expected["rows"]["learnt"] + learnt == (times < until).sum()
    ends = {shard: end for shard, end in expected["position"]["offsets"].items() if shard.startswith("impressions")}
    assert list(ends.values()) == ([1_400, 1_400] if source == "log" else [])
    assert {head["moved"], head["moved"] + 1} <= {kill["at"] for kill in kills}
    assert len(kills) >= head["changes"] // stride > 0
    for kill in kills:
        assert kill["code"] == 9, kill
        # At every moment something whole serves: the parent, or the version that a round without a kill makes.
        assert kill["after"]["broken"] == [], kill
        whole = expected if kill["at"] > head["moved"] else head["parent"]
        assert kill["after"]["weights"] == whole["weights"], kill
        assert kill["found"] == expected, kill
        assert kill["left"] == ["ctr"], kill
