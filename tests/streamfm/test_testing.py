import io
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather
import pytest

from streamfm.errors import DataError, MissingColumnsError
from streamfm.evaluation.metrics import auc
from streamfm.testing import OPENING, AppStore, simulate_events

TEXTS = pa.list_(pa.string())
SCHEMA = pa.schema(
    {
        "event_id": pa.string(),
        "ts": pa.timestamp("us"),
        "user_id": pa.string(),
        "device": pa.string(),
        "os_version": pa.string(),
        "country": pa.string(),
        "installed_categories": TEXTS,
        "app_id": pa.string(),
        "category": pa.string(),
        "developer": pa.string(),
        "genres": TEXTS,
        "price": pa.float64(),
        "rating": pa.float64(),
        "position": pa.int32(),
        "session_seconds": pa.float64(),
        "clicked": pa.int8(),
        "true_probability": pa.float64(),
    }
)


@pytest.fixture(scope="module")
def store() -> AppStore:
    return AppStore(seed=11, users=2_000, apps=240)


@pytest.fixture(scope="module")
def events(store: AppStore) -> pa.Table:
    return store.events(100_000, random=np.random.default_rng(12))


def as_bytes(table: pa.Table) -> bytes:
    file = io.BytesIO()
    feather.write_feather(table, file, compression="uncompressed")
    return file.getvalue()


def logits(probabilities: np.ndarray) -> np.ndarray:
    return np.log(probabilities / (1 - probabilities))


def test_the_same_seed_gives_the_same_bytes_and_another_gives_others() -> None:
    first = simulate_events(2_000, seed=5, users=300, apps=60)
    assert as_bytes(first) == as_bytes(simulate_events(2_000, seed=5, users=300, apps=60))
    other = simulate_events(2_000, seed=6, users=300, apps=60)
    for name in ("user_id", "app_id", "ts", "clicked", "true_probability"):
        assert not first[name].equals(other[name])


def test_a_period_is_drawn_by_its_generator_in_the_world_of_the_seed(store: AppStore) -> None:
    again = AppStore(seed=11, users=2_000, apps=240)
    expected = store.events(500, random=np.random.default_rng(1))
    assert expected.equals(again.events(500, random=np.random.default_rng(1)))
    assert not expected["user_id"].equals(again.events(500, random=np.random.default_rng(2))["user_id"])


@pytest.mark.parametrize("rows", [0, 1, 1_000])
def test_columns_and_types_are_fixed(store: AppStore, rows: int) -> None:
    found = store.events(rows, random=np.random.default_rng(0))
    assert found.schema == SCHEMA
    assert found.num_rows == rows


def test_the_click_rate_is_that_of_the_true_probabilities(events: pa.Table) -> None:
    clicked, probability = events["clicked"].to_numpy(), events["true_probability"].to_numpy()
    standard_error = np.sqrt((probability * (1 - probability)).mean() / len(clicked))
    assert abs(clicked.mean() - probability.mean()) < 4 * standard_error
    assert set(np.unique(clicked)) == {0, 1}


@pytest.mark.parametrize("click_rate", [0.02, 0.15, 0.5])
def test_the_mean_probability_is_the_click_rate_that_was_asked_for(click_rate: float) -> None:
    found = simulate_events(30_000, seed=3, users=500, apps=100, click_rate=click_rate)
    assert pc.mean(found["true_probability"]).as_py() == pytest.approx(click_rate, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_the_truth_ranks_about_as_well_as_in_real_logs(seed: int) -> None:
    found = simulate_events(50_000, seed=seed)
    assert 0.78 < auc(found["clicked"].to_numpy(), found["true_probability"].to_numpy()) < 0.84


def test_nothing_but_the_true_probability_tells_of_the_click(events: pa.Table) -> None:
    clicked, probability = events["clicked"].to_numpy(), events["true_probability"].to_numpy()
    events = (
        events.append_column("hour", pc.hour(events["ts"]))
        .append_column("installed", pc.list_value_length(events["installed_categories"]))
        .append_column("last_digit", pc.utf8_slice_codeunits(events["event_id"], -1))
        .append_column("long_session", pc.greater(events["session_seconds"], 240))
        .append_column("tenth", pa.array(np.arange(len(clicked)) // (len(clicked) // 10)))
    )
    listed = {"genres", "installed_categories"}
    for name in (
        set(events.column_names) - listed - {"event_id", "ts", "session_seconds", "clicked", "true_probability"}
    ):
        codes = events[name].combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()
        surplus = np.bincount(codes, clicked - probability)
        variance = np.bincount(codes, probability * (1 - probability))
        deviations = surplus[variance > 5] / np.sqrt(variance[variance > 5])
        assert np.abs(deviations).max() < 5, name
        assert deviations.std() < 1.5, name


def test_nulls_are_where_a_real_log_has_them(events: pa.Table) -> None:
    shares = {name: events[name].null_count / events.num_rows for name in events.column_names}
    expected = {"price": 0.03, "device": 0.02, "country": 0.01, "installed_categories": 0.04}
    for name, share in expected.items():
        assert shares.pop(name) == pytest.approx(share, rel=0.2)
    assert 0.01 < shares.pop("rating") < 0.15
    assert set(shares.values()) == {0.0}
    empty = pc.equal(pc.list_value_length(events["installed_categories"]), 0)
    assert 0.02 < pc.mean(empty.cast(pa.int8())).as_py() < 0.1


def test_an_app_has_one_category_in_its_name_and_one_price(events: pa.Table) -> None:
    apps = events.select(["app_id", "category", "developer", "price"]).group_by(["app_id", "category", "developer"])
    prices = apps.aggregate([("price", "count_distinct"), ("price", "max")])
    assert prices.num_rows == len(events["app_id"].unique())
    assert set(prices["price_count_distinct"].to_pylist()) == {1}
    for app, category, developer in zip(
        *(prices[name].to_pylist() for name in ("app_id", "category", "developer")), strict=True
    ):
        assert app.rsplit("-", 1)[0] == category
        assert developer.startswith(f"{category}-studio-")
    assert len(prices["category"].unique()) == 12
    assert 0.0 in prices["price_max"].to_pylist()


def test_few_users_and_apps_make_many_of_the_impressions(events: pa.Table) -> None:
    for name, population in (("user_id", 2_000), ("app_id", 240)):
        counts = np.sort(events[name].value_counts().field("counts").to_numpy())[::-1]
        assert 0.25 < counts[: population // 10].sum() / events.num_rows < 0.6
        assert len(counts) > 0.95 * population


def test_events_are_numbered_and_sorted_within_their_period(store: AppStore) -> None:
    start = datetime(2026, 2, 1, 13, 30, tzinfo=UTC)
    found = store.events(5_000, random=np.random.default_rng(3), start=start, days=1.5, first_event=70)
    assert found["event_id"].to_pylist()[:2] == ["e000000070", "e000000071"]
    assert len(found["event_id"].unique()) == 5_000
    times = found["ts"].to_numpy()
    assert (np.diff(times) >= np.timedelta64(0)).all()
    begin = np.datetime64("2026-02-01T13:30")
    assert begin <= times[0] < begin + np.timedelta64(30, "m")
    assert begin + np.timedelta64(35, "h") < times[-1] < begin + np.timedelta64(36, "h")
    assert (times.astype("datetime64[us]").astype(np.int64) % 1_000 == 0).all()  # whole milliseconds, as JSON has them


@pytest.mark.parametrize("start", [OPENING, OPENING + timedelta(hours=7.25)])
def test_impressions_follow_the_hours_of_the_day(store: AppStore, start: datetime) -> None:
    found = store.events(40_000, random=np.random.default_rng(4), start=start, days=4)
    counts = np.bincount(pc.hour(found["ts"]).to_numpy(), minlength=24)
    assert counts.argmax() in (19, 20, 21)
    assert counts.argmin() in (3, 4, 5, 6)
    assert counts.max() > 3 * counts.min()


def test_the_probability_of_any_impression_can_be_asked(store: AppStore, events: pa.Table) -> None:
    np.testing.assert_allclose(store.click_probability(events), events["true_probability"].to_numpy(), rtol=1e-12)
    columns = events.slice(0, 1_000)
    place = columns.column_names.index("position")
    by_position = [
        store.click_probability(columns.set_column(place, "position", pa.array(np.full(1_000, position))))
        for position in (1, 5, 10)
    ]
    assert (by_position[0] > by_position[1]).all()
    assert (by_position[1] > by_position[2]).all()


def grid(store: AppStore, users: list[str], apps: list[str]) -> np.ndarray:
    """Logits [users, apps] of impressions that are otherwise alike."""
    rows = len(users) * len(apps)
    shown = {
        "user_id": np.repeat(users, len(apps)),
        "app_id": np.tile(apps, len(users)),
        "position": np.ones(rows, dtype=np.int32),
        "session_seconds": np.full(rows, 240.0),
        "ts": np.full(rows, np.datetime64("2026-01-07T12:00", "us")),
    }
    return logits(store.click_probability(pa.table(shown))).reshape(len(users), len(apps))


def test_apps_that_the_same_users_like_are_of_the_same_category(store: AppStore, events: pa.Table) -> None:
    users, apps = sorted(set(events["user_id"].to_pylist())), sorted(set(events["app_id"].to_pylist()))
    found = grid(store, users[:400], apps)
    pairs = found - found.mean(axis=0) - found.mean(axis=1, keepdims=True) + found.mean()
    assert pairs.std() > 0.5  # tastes differ: no sum of a user's and an app's number explains them
    alike = np.corrcoef(pairs.T)
    np.fill_diagonal(alike, -1)
    categories = np.array([app.rsplit("-", 1)[0] for app in apps])
    assert (categories[alike.argmax(axis=1)] == categories).mean() > 0.9


def test_users_like_the_categories_that_they_have_installed(events: pa.Table) -> None:
    rows = events.filter(pc.is_valid(events["installed_categories"])).slice(0, 20_000)
    likes = [
        category in installed
        for category, installed in zip(
            rows["category"].to_pylist(), rows["installed_categories"].to_pylist(), strict=True
        )
    ]
    probability = rows["true_probability"].to_numpy()
    assert probability[likes].mean() > 1.5 * probability[np.logical_not(likes)].mean()


def test_a_world_without_drift_stands_still_and_one_with_it_turns() -> None:
    for drift_per_day, moved in ((0.0, False), (0.03, True)):
        store = AppStore(seed=2, users=300, apps=60, drift_per_day=drift_per_day)
        now = store.events(3_000, random=np.random.default_rng(5), days=1)
        later_ts = pc.add(now["ts"], pa.scalar(timedelta(days=40), pa.duration("us")))
        later = now.set_column(now.column_names.index("ts"), "ts", later_ts)
        before, after = logits(store.click_probability(now)), logits(store.click_probability(later))
        assert (np.corrcoef(before, after)[0, 1] < 0.8) == moved
        assert np.allclose(before, after, atol=1e-9) != moved


def test_newcomers_arrive_evenly_and_never_early() -> None:
    store = AppStore(seed=2, users=400, apps=100, newcomer_share=0.5, growth_days=10)
    periods = [
        store.events(20_000, random=np.random.default_rng(20 + day), start=OPENING + timedelta(days=day), days=1)
        for day in (-1, 0, 5, 10)
    ]
    for name, population in (("user_id", 400), ("app_id", 100)):
        seen = [set(period[name].to_pylist()) for period in periods]
        assert len(seen[0]) <= population // 2
        assert len(seen[2]) == pytest.approx(0.78 * population, rel=0.08)
        assert len(seen[3]) > 0.95 * population
        everyone_early = {f"user-{number:05d}" for number in range(220)}
        assert name != "user_id" or seen[1] <= everyone_early


def test_the_still_days_are_those_of_a_world_that_neither_drifts_nor_grows() -> None:
    still = AppStore(seed=2, users=400, apps=100, newcomer_share=0.5, still_days=99)
    moving = replace(still, drift_per_day=0.5, growth_days=2, still_days=28)
    first = [
        store.events(5_000, random=np.random.default_rng(5), start=OPENING - timedelta(days=1), days=1)
        for store in (still, moving)
    ]
    assert first[0].equals(first[1])
    days = [
        moving.events(20_000, random=np.random.default_rng(day), start=OPENING + timedelta(days=day), days=1)
        for day in (27, 28, 30)
    ]
    users = [len(set(day["user_id"].to_pylist())) for day in days]
    assert users[0] <= 200 < 250 < users[1] <= 300 < 380 < users[2]
    turned = [np.abs(logits(moving.click_probability(day)) - logits(still.click_probability(day))) for day in days]
    assert 0 == turned[0].max()
    assert 0.1 < turned[1].mean() < turned[2].mean()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"seed": -1}, "seed is -1, expected 0 or more"),
        ({"users": 0}, "users is 0, expected 1 or more"),
        ({"apps": 0}, "apps is 0, expected 1 or more"),
        ({"click_rate": 1.0}, "click_rate is 1.0, expected between 0 and 1"),
        ({"newcomer_share": 1.0}, "newcomer_share is 1.0, expected 0 to below 1"),
        ({"growth_days": 0}, "growth_days is 0, expected above 0"),
        ({"still_days": -1}, "still_days is -1, expected 0 or more"),
    ],
)
def test_a_world_that_cannot_be_is_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AppStore(**{"seed": 1, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": -1}, "rows is -1, expected 0 or more"),
        ({"rows": 1, "days": 0}, "days is 0, expected above 0"),
        ({"rows": 1, "first_event": -1}, "first_event is -1, expected 0 or more"),
        ({"rows": 1, "start": datetime(2026, 1, 5)}, "start is 2026-01-05 00:00:00 without a time zone"),
    ],
)
def test_a_period_that_cannot_be_is_refused(store: AppStore, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        store.events(**arguments, random=np.random.default_rng(0))  # type: ignore[arg-type]


def test_impressions_of_another_world_are_refused(store: AppStore, events: pa.Table) -> None:
    few = events.slice(0, 10)
    with pytest.raises(MissingColumnsError, match="events: column 'position', 'ts' not found"):
        store.click_probability(few.drop_columns(["position", "ts"]))
    stranger = few.set_column(few.column_names.index("user_id"), "user_id", pa.array(["nobody"] * 10))
    with pytest.raises(DataError, match="'nobody' is not of this world"):
        store.click_probability(stranger)
    lost = few.set_column(few.column_names.index("app_id"), "app_id", pa.nulls(10, pa.string()))
    with pytest.raises(DataError, match="column 'app_id' has NULLs"):
        store.click_probability(lost)


def test_a_world_of_one_user_and_one_app_works() -> None:
    found = simulate_events(100, seed=1, users=1, apps=1)
    assert set(found["user_id"].to_pylist()) == {"user-00000"}
    assert len(found["app_id"].unique()) == 1
