"""Who lives in the simulated app store of testing.py: users with tastes, and apps with categories and appeal.

Legend: U users, A apps, C categories, G genres, K factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
Indices: TypeAlias = NDArray[np.int64]

# Genres of every category, and how much better it does at 20:00 UTC than at 08:00, from -1 to 1.
_CATEGORIES: dict[str, tuple[tuple[str, str, str, str], float]] = {
    "puzzle": (("match-3", "word", "sudoku", "brain"), 0.5),
    "action": (("shooter", "platformer", "fighting", "survival"), 1.0),
    "strategy": (("tower-defence", "city-building", "cards", "war"), 0.8),
    "racing": (("arcade", "simulation", "bikes", "rally"), 0.7),
    "music": (("streaming", "instruments", "karaoke", "radio"), 0.2),
    "photo": (("camera", "filters", "collage", "video"), 0.0),
    "finance": (("banking", "budget", "investing", "tax"), -0.9),
    "fitness": (("running", "yoga", "diet", "sleep"), -0.6),
    "travel": (("maps", "hotels", "flights", "languages"), -0.2),
    "education": (("maths", "science", "kids", "exams"), -0.5),
    "news": (("local", "sports", "weather", "magazines"), -1.0),
    "social": (("chat", "dating", "communities", "calls"), 0.4),
}
_GENRES = tuple(genre for genres, _ in _CATEGORIES.values() for genre in genres)
_DEVICES = {
    "pixel-9": ("android-14", "android-15"),
    "galaxy-s25": ("android-15",),
    "galaxy-a16": ("android-13", "android-14"),
    "redmi-14": ("android-13", "android-14"),
    "galaxy-tab": ("android-13", "android-14"),
    "iphone-14": ("ios-17", "ios-18"),
    "iphone-16": ("ios-18",),
    "ipad-air": ("ios-17", "ios-18"),
}
_COUNTRIES = ("US", "IN", "BR", "DE", "JP", "FR", "GB", "MX", "ID", "KR", "NG", "PL", "SE", "CL", "NZ")
_PRICES, _PRICE_SHARES = (0.0, 0.99, 1.99, 2.99, 4.99, 9.99), (0.6, 0.1, 0.1, 0.1, 0.06, 0.04)
_FACTORS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Users:
    """Everyone who ever comes, in the order of arrival.

    Attributes:
        columns: U rows: user_id, device, os_version, country, installed_categories (LIST).
        activity: [U] share of the impressions.
        taste: [U, K] which appeal they like.
        readiness: [U] to click on anything, in logits.
        thrift: [U] how much a price puts them off.
    """

    columns: pa.Table
    activity: Floats
    taste: Floats
    readiness: Floats
    thrift: Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Apps:
    """Everything that is ever shown, in the order of arrival.

    Attributes:
        columns: A rows: app_id, category, developer, genres (LIST), price, rating.
        popularity: [A] share of the impressions.
        appeal: [A, K] to whom they appeal.
        quality: [A] in logits.
        evening: [A] from -1, a matter of the morning, to 1, of the evening.
        price: [A].
    """

    columns: pa.Table
    popularity: Floats
    appeal: Floats
    quality: Floats
    evening: Floats
    price: Floats


def draw_world(users: int, apps: int, random: np.random.Generator) -> tuple[Users, Apps]:
    """Users and apps whose tastes and appeals lie around the same category vectors [C, K] and genre vectors [G, K]."""
    categories = _directions(len(_CATEGORIES), random)
    genres = 0.8 * np.repeat(categories, 4, axis=0) + 0.6 * _directions(len(_GENRES), random)
    return _draw_users(users, categories, random), _draw_apps(apps, categories, genres, random)


def _draw_users(count: int, categories: Floats, random: np.random.Generator) -> Users:
    favourites = _draw_favourites(count, random)
    devices = random.choice(list(_DEVICES), size=count).tolist()
    versions = random.integers(0, 2, count).tolist()
    columns = {
        "user_id": pa.array([f"user-{number:05d}" for number in range(count)]),
        "device": pa.array(devices),
        "os_version": pa.array(
            [
                _DEVICES[device][version % len(_DEVICES[device])]
                for device, version in zip(devices, versions, strict=True)
            ]
        ),
        "country": pa.array(random.choice(_COUNTRIES, size=count, p=_zipf(len(_COUNTRIES), 1.0))),
        "installed_categories": _installed(favourites, random),
    }
    return Users(
        columns=pa.table(columns),
        activity=random.permutation(_zipf(count, 0.7)),
        taste=2.8 * favourites @ categories + 0.2 * random.normal(size=(count, _FACTORS)),
        readiness=random.normal(0, 0.4, count),
        thrift=random.gamma(4, 0.25, count),
    )


def _draw_favourites(count: int, random: np.random.Generator) -> Floats:
    """[U, C] how much each user likes each category: one to four of them, the more the less each."""
    places = random.permuted(np.tile(np.arange(len(_CATEGORIES)), (count, 1)), axis=1)
    likes = random.integers(1, 5, size=(count, 1))
    return np.where(places < likes, 1 / np.sqrt(likes), 0.0)


def _installed(favourites: Floats, random: np.random.Generator) -> pa.Array:
    """[U] lists of the favourite categories; one user in twenty has installed nothing."""
    names = list(_CATEGORIES)
    nothing = random.random(len(favourites)) < 0.05
    lists = [
        [] if none else [names[category] for category in np.flatnonzero(liked).tolist()]
        for none, liked in zip(nothing.tolist(), favourites, strict=True)
    ]
    return pa.array(lists, pa.list_(pa.string()))


def _draw_apps(count: int, categories: Floats, genres: Floats, random: np.random.Generator) -> Apps:
    category = random.permutation(np.arange(count) % len(_CATEGORIES))
    names = np.array(list(_CATEGORIES))[category].tolist()
    kinds = [_draw_genres(home, random) for home in category.tolist()]
    mean_genre = np.stack([genres[list(chosen)].mean(axis=0) for chosen in kinds])
    studios = random.geometric(0.3, count).tolist()
    quality = random.normal(0, 0.45, count)
    price = random.choice(_PRICES, size=count, p=_PRICE_SHARES)
    rating = np.round(np.clip(3.8 + 0.7 * quality + random.normal(0, 0.4, count), 1, 5), 1)
    columns = {
        "app_id": _app_names(names),
        "category": pa.array(names),
        "developer": pa.array([f"{name}-studio-{studio}" for name, studio in zip(names, studios, strict=True)]),
        "genres": pa.array([[_GENRES[kind] for kind in chosen] for chosen in kinds], pa.list_(pa.string())),
        "price": pa.array(price),
        "rating": pa.array(rating, mask=random.random(count) < 0.06),  # nobody has rated those
    }
    return Apps(
        columns=pa.table(columns),
        popularity=random.permutation(_zipf(count, 0.8)),
        appeal=0.6 * categories[category] + 0.4 * mean_genre + 0.1 * random.normal(size=(count, _FACTORS)),
        quality=quality,
        evening=np.array([evening for _, evening in _CATEGORIES.values()])[category],
        price=price,
    )


def _draw_genres(category: int, random: np.random.Generator) -> list[int]:
    """One to three genres of the category; one app in four borrows another from anywhere."""
    own = 4 * category + random.choice(4, size=random.integers(1, 4), replace=False)
    borrowed = [int(random.integers(0, len(_GENRES)))] if random.random() < 0.25 else []
    return sorted({*own.tolist(), *borrowed})


def _directions(count: int, random: np.random.Generator) -> Floats:
    """[count, K] unit vectors, evenly over the sphere."""
    vectors = random.normal(size=(count, _FACTORS))
    directions: Floats = vectors / np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return directions


def _zipf(count: int, exponent: float) -> Floats:
    """[count] shares that fall off as rank to the -exponent."""
    falling = np.arange(2.0, count + 2.0) ** -exponent
    shares: Floats = falling / falling.sum()
    return shares


def _app_names(categories: list[str]) -> pa.Array:
    """[A] like puzzle-007: the category, and the app's number in it."""
    seen = dict.fromkeys(_CATEGORIES, 0)
    names = []
    for category in categories:
        seen[category] += 1
        names.append(f"{category}-{seen[category]:03d}")
    return pa.array(names)
