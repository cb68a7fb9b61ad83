"""The specification: inputs, features, and the TOML file that holds them."""

from streamfm.features.checks import hint_at
from streamfm.features.feature import KEYS_OF_KIND, Feature, Kind, Pooling, Transform
from streamfm.features.inputs import Input, normalise_type
from streamfm.features.spec import FeatureSpec, Task

__all__ = [
    "KEYS_OF_KIND",
    "Feature",
    "FeatureSpec",
    "Input",
    "Kind",
    "Pooling",
    "Task",
    "Transform",
    "hint_at",
    "normalise_type",
]
