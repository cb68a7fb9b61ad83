"""The registry: numbered versions of models in a folder, and aliases that move between them.

A reference is `models/ctr@champion` (an alias), `models/ctr/3` (a version), or a bundle's folder. An alias is the only
thing in the whole system that ever changes.
"""

from streamfm.registry.aliases import Move
from streamfm.registry.leases import Holder, Lease
from streamfm.registry.models import CHAMPION, Surroundings
from streamfm.registry.pruning import Pruned
from streamfm.registry.references import Reference, parse_reference
from streamfm.registry.resolving import Hold, Resolved, current, hold, resolve
from streamfm.registry.store import ModelInfo, Registry, Verification, VersionInfo

__all__ = [
    "CHAMPION",
    "Hold",
    "Holder",
    "Lease",
    "ModelInfo",
    "Move",
    "Pruned",
    "Reference",
    "Registry",
    "Resolved",
    "Surroundings",
    "Verification",
    "VersionInfo",
    "current",
    "hold",
    "parse_reference",
    "resolve",
]
