"""What repairs a pruned network: batch-norm recalibration, least squares from Gram matrices, training."""

from rlprune.recovery.batchnorm import recalibrate_bn
from rlprune.recovery.grams import GramStore, LayerGram
from rlprune.recovery.least_squares import least_squares
from rlprune.recovery.refitting import refit
from rlprune.recovery.repair import RepairUntil
from rlprune.recovery.steps import RECOVERY, Recovery, Repair, clear_grams, grams_of, list_recoveries, make_recovery
from rlprune.training.loop import TrainReport, train
from rlprune.training.penalties import FilterL1, Orthogonality
from rlprune.training.settings import TrainSettings

__all__ = [
    "RECOVERY",
    "FilterL1",
    "GramStore",
    "LayerGram",
    "Orthogonality",
    "Recovery",
    "Repair",
    "RepairUntil",
    "TrainReport",
    "TrainSettings",
    "clear_grams",
    "grams_of",
    "least_squares",
    "list_recoveries",
    "make_recovery",
    "recalibrate_bn",
    "refit",
    "train",
]
