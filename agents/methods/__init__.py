"""Published methods as recipes: a criterion, a controller, a recovery and a schedule, with the papers' constants.

A module each, with its source; `METHODS` holds them by name, and `rlprune prune --method NAME` runs them.
"""

from rlprune.agents.methods import simple
from rlprune.agents.methods.base import METHODS, Recipe
from rlprune.agents.methods.fpsl import GlobalThreshold
from rlprune.agents.methods.importance import GateThreshold
from rlprune.agents.methods.msvfp import LeastLoss
from rlprune.agents.methods.pfec import Pfec
from rlprune.agents.methods.slimming import Slimming

__all__ = ["METHODS", "GateThreshold", "GlobalThreshold", "LeastLoss", "Pfec", "Recipe", "Slimming", "simple"]
