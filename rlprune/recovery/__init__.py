"""What repairs a pruned network: batch-norm recalibration, least squares from Gram matrices, training."""

from rlprune.measuring.grams import GramStore, LayerGram
from rlprune.measuring.norms import recalibrate_bn
from rlprune.measuring.store import Bench, Measured
from rlprune.recovery.least_squares import least_squares
from rlprune.recovery.refitting import refit
from rlprune.recovery.steps import RECOVERY, Recovery, Repair, list_recoveries, make_recovery
from rlprune.training.loop import train
from rlprune.training.penalties import FilterL1, Orthogonality
from rlprune.training.report import TrainReport
from rlprune.training.settings import TrainSettings

__all__ = [
    "RECOVERY",
    "Bench",
    "FilterL1",
    "GramStore",
    "LayerGram",
    "Measured",
    "Orthogonality",
    "Recovery",
    "Repair",
    "TrainReport",
    "TrainSettings",
    "least_squares",
    "list_recoveries",
    "make_recovery",
    "recalibrate_bn",
    "refit",
    "train",
]
