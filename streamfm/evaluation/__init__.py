"""What predictions are worth: measures, intervals, calibration; numpy only."""

from streamfm.evaluation.metrics import auc, log_loss
from streamfm.evaluation.report import Evaluation, FeatureCoverage, Measure, evaluate, feature_coverage

__all__ = ["Evaluation", "FeatureCoverage", "Measure", "auc", "evaluate", "feature_coverage", "log_loss"]
