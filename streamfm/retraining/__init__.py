"""A model that stays fresh: labels, a candidate, the gate, and the alias moves; once, or every minute."""

from streamfm.retraining.feeds import Feed, Relations, Tables
from streamfm.retraining.reports import RoundReport
from streamfm.retraining.rounds import Retrainer
from streamfm.retraining.service import Pace, serve
from streamfm.retraining.settings import RetrainSettings

__all__ = ["Feed", "Pace", "Relations", "RetrainSettings", "Retrainer", "RoundReport", "Tables", "serve"]
