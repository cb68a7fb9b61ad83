"""A DeepFM click model that answers where the data is.

Trained once, exported to ONNX, and then the same bundle scores events in DuckDB SQL, on a stream and from Python:

    scorer = streamfm.load("models/ctr@champion")
    scorer.score({"user_id": "u1", "app_id": "a7"})

Names are imported when they are first used, so that serving loads neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamfm.errors import StreamFMError
    from streamfm.features import FeatureSpec
    from streamfm.pipeline import evaluate, train
    from streamfm.proposal import propose
    from streamfm.registry import Registry
    from streamfm.scoring import Scorer, load

__all__ = ["FeatureSpec", "Registry", "Scorer", "StreamFMError", "evaluate", "load", "propose", "train"]

_HOMES = {
    "FeatureSpec": "features",
    "Registry": "registry",
    "Scorer": "scoring",
    "StreamFMError": "errors",
    "evaluate": "pipeline",
    "load": "scoring",
    "propose": "proposal",
    "train": "pipeline",
}


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'streamfm' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"streamfm.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names."""
    return sorted([*globals(), *__all__])
