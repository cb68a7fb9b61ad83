"""How what was served came out: log loss, AUC, calibration, stability, by version and hour; from labelled rows."""

from streamfm.monitoring.comparing import Comparison, compare
from streamfm.monitoring.monitoring import MonitorReport, monitor
from streamfm.monitoring.quality import Quality
from streamfm.monitoring.rolling_back import parent_of, refuse_strangers, roll_back
from streamfm.monitoring.served_rows import ServedRows
from streamfm.monitoring.settings import MonitorSettings
from streamfm.monitoring.stability import Stability

__all__ = [
    "Comparison",
    "MonitorReport",
    "MonitorSettings",
    "Quality",
    "ServedRows",
    "Stability",
    "compare",
    "monitor",
    "parent_of",
    "refuse_strangers",
    "roll_back",
]
