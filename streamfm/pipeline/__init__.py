"""From rows to a bundle in one call, and what a bundle is worth on other rows."""

from streamfm.pipeline.evaluation import BundleEvaluation, evaluate
from streamfm.pipeline.running import PipelineSettings, TrainedBundle, train

__all__ = ["BundleEvaluation", "PipelineSettings", "TrainedBundle", "evaluate", "train"]
