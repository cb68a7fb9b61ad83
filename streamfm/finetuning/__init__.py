"""Fine-tuning: a published model goes on learning from new rows, by torch."""

from streamfm.finetuning.report import LearnReport, NumericDrift
from streamfm.finetuning.settings import FineTuneSettings
from streamfm.finetuning.tuner import FineTuner

__all__ = ["FineTuneSettings", "FineTuner", "LearnReport", "NumericDrift"]
