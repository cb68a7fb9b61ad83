"""Evaluation of predictions against labels. The measures themselves are in metrics.py and calibration.py."""

from __future__ import annotations

from streamfm.metrics import auc, group_auc, log_loss, normalised_entropy

__all__ = ["auc", "group_auc", "log_loss", "normalised_entropy"]
