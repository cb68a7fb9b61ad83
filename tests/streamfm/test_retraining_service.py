"""Rounds again and again: warm, at their pace, and after errors."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
from shops import Shop, events_of

from streamfm.bundle import read_manifest
from streamfm.errors import StreamFMError
from streamfm.retraining import Pace, RoundReport, serve


def test_a_warm_service_makes_the_same_versions_as_rounds_one_by_one(first_shop: Path, tmp_path: Path) -> None:
    digests = []
    for warm in (True, False):
        shop = Shop.copied(first_shop, tmp_path / str(warm))
        with shop.retrainer() as kept:
            for day in (8, 9):
                assert (kept.round() if warm else shop.round()).outcome == "published"
                shop.log(events_of(1, 700, start_day=day, first=10_000 * day))
            report = kept.round() if warm else shop.round()
        manifest = read_manifest(shop.registry.root / "ctr" / str(report.version))
        digests.append({file: entry.sha256 for file, entry in manifest.files.items()})
    assert digests[0] == digests[1]


def test_the_service_goes_on_after_an_error_and_ends_when_asked(shop: Shop) -> None:
    told: list[RoundReport | StreamFMError] = []
    waits: list[float] = []

    def wait(seconds: float) -> bool:
        waits.append(seconds)
        # The second round finds its clicks again.
        (shop.folder / "elsewhere").rename(shop.folder / "clicks") if len(waits) == 1 else None
        return len(waits) == 2

    (shop.folder / "clicks").rename(shop.folder / "elsewhere")
    now = iter(range(100))
    with shop.retrainer() as retrainer:
        serve(retrainer, Pace(every_s=60.0), told=told.append, wait=wait, clock=lambda: float(next(now)))

    assert isinstance(told[0], StreamFMError)
    assert isinstance(told[1], RoundReport)
    assert told[1].outcome == "published"
    assert waits == [119.0, 59.0]


@pytest.mark.parametrize(
    # Room for nothing, not even the lock's text; and for everything but a network.
    ("room_bytes", "says"),
    [(0, "File too large"), (1_000, "the disk is full")],
)
def test_the_service_goes_on_once_a_full_disk_has_room(
    shop: Shop, file_size_limit: Callable[[int], AbstractContextManager[None]], room_bytes: int, says: str
) -> None:
    told: list[RoundReport | StreamFMError | OSError] = []
    with shop.retrainer() as retrainer, ExitStack() as full_disk:

        def wait(_: float) -> bool:
            full_disk.close()
            return len(told) == 2

        full_disk.enter_context(file_size_limit(room_bytes))
        serve(retrainer, Pace(every_s=60.0), told=told.append, wait=wait)

    full, after = told
    assert says in str(full)
    assert isinstance(after, RoundReport), after
    assert (after.outcome, after.version, shop.champion()) == ("published", 2, 2)


@pytest.mark.parametrize(("errors", "took", "expected"), [(0, 20, 40), (0, 90, 0), (1, 0, 120), (9, 0, 600)])
def test_rounds_keep_their_pace(errors: int, took: float, expected: float) -> None:
    assert Pace(every_s=60.0).wait_s(took, errors) == expected
