"""Training: passes over encoded rows, by torch."""

from streamfm.settings import EpochReport, Silence, TrainReport, TrainSettings
from streamfm.training.fitting import Plateau, fit

__all__ = ["EpochReport", "Plateau", "Silence", "TrainReport", "TrainSettings", "fit"]
