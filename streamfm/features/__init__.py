"""The specification: inputs, features, and the TOML file that holds them."""

from streamfm.features.checks import hint_at
from streamfm.features.inputs import Input, normalise_type
from streamfm.features.spec import KEYS_OF_KIND, Feature, FeatureSpec, Kind, Pooling, Task, Transform

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
