"""The Frappe_x1 files beside the repository, and streamfm's specification of them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from streamfm.features import FeatureSpec

FEATURES = (
    "user_id", "app_id", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country", "city",
)  # fmt: skip

FOLDER = Path(__file__).resolve().parents[2] / "shared" / "data" / "frappe"

PUBLISHED: dict[str, Any] = {
    "average": False, "keep_by": "auc", "plateau_patience": 1, "unknown_share": 0, "null_share": 0,
}  # fmt: skip
"""Where training as published (BARS, DeepFM on Frappe_x1) differs from `TrainSettings`' defaults."""


def frappe_spec(*, city: str = "INTEGER") -> FeatureSpec:
    """Label and ten categorical features, of texts but for the city, whose SQL type is given."""
    inputs = "".join(f'{name} = "VARCHAR"\n' for name in FEATURES[:-1]) + f'city = "{city}"\n'
    features = "".join(f'[features.{name}]\nkind = "categorical"\n' for name in FEATURES)
    return FeatureSpec.from_toml(f'format = 1\nlabel = "label"\n[inputs]\n{inputs}{features}')


def parser(description: str | None) -> argparse.ArgumentParser:
    """An argument parser that asks where the files are."""
    arguments = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--data", type=Path, default=FOLDER, help="folder of {train,valid,test}.parquet")
    arguments.add_argument("--threads", type=int, default=2)
    return arguments


def frappe_files(folder: Path) -> dict[str, str]:
    """Paths of train, valid and test; leaves the program with a word where they are not."""
    files = {part: folder / f"{part}.parquet" for part in ("train", "valid", "test")}
    if not all(file.exists() for file in files.values()):
        print(f"{folder}: no Frappe files here, nothing measured; --data names another folder", file=sys.stderr)
        raise SystemExit(0)
    return {part: str(file) for part, file in files.items()}
