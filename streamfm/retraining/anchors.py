"""The version that the gate compares a model's lineage with: opened, and kept from being pruned."""

from __future__ import annotations

import logging

from streamfm.errors import BundleError, RegistryError
from streamfm.gate import Evidence
from streamfm.registry import Registry
from streamfm.retraining.served import Served
from streamfm.scoring import Scorer, load

log = logging.getLogger(__name__)

ANCHOR = "anchor"
"""The alias of the version that the gate compares the lineage with; it keeps it from being pruned."""


class Anchors:
    """The anchor of one model, kept open between rounds."""

    def __init__(self, registry: Registry, name: str) -> None:
        """Open nothing yet."""
        self._registry, self._name = registry, name
        self._open: tuple[str, Scorer] | None = None

    def of(self, parent: Served) -> Scorer | None:
        """The version that its lineage is compared with; None where it is the parent, or gone."""
        reference = parent.evidence.anchor
        if reference in ("", parent.reference):
            return None
        if reference.rpartition("/")[0] != self._name:
            # The parent was copied from another model, whose versions are not pruned, nor rolled back to, by this one.
            log.warning("%s, the gate's anchor, is no version of %s: %s is", reference, self._name, parent.reference)
            return None
        if self._open is None or self._open[0] != reference:
            try:
                self._open = (reference, load(self._registry.root / reference))
            except (RegistryError, BundleError) as error:
                log.warning("%s, the gate's anchor, is gone: %s", reference, error.message)
                return None
        return self._open[1]

    def protect(self, evidence: Evidence) -> None:
        """Keep the anchor from being pruned."""
        number = evidence.anchor.rpartition("/")[2]
        if number:
            self._registry.promote(self._name, int(number), ANCHOR)

    def let_go(self) -> None:
        """Of the version that is open."""
        self._open = None
