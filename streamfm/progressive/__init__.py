"""Progressive validation: what a model would have been worth, shard by shard, had it learnt as its labels came."""

from streamfm.progressive.report import ModeReport, ProgressiveReport, ShardReport
from streamfm.progressive.running import progressive
from streamfm.progressive.settings import ModeName, ProgressiveSettings

__all__ = ["ModeName", "ModeReport", "ProgressiveReport", "ProgressiveSettings", "ShardReport", "progressive"]
