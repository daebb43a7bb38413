"""Methods that are a controller of their own already, or none: the recipes say what goes with it."""

from __future__ import annotations

from rlprune.agents.controllers import fpsl, importance, msvfp, pfec, prc, search, slimming  # noqa: F401 - importing registers
from rlprune.agents.controllers.rounds import METHODS, Recipe
from rlprune.agents.runs.settings import PruneSettings
from rlprune.recovery import TrainSettings

METHODS.register("prc")(
    Recipe(
        "AFP + PRC: the min-max game, pressure and rates set by what is left of the tolerance (Singh et al. 2020)",
        PruneSettings(on_violation="retry", orthogonality=1e-4),
    )
)

METHODS.register("uniform")(
    Recipe(
        "The same rate for every layer, at once; least squares and batch norm repair it, then fine-tuning",
        PruneSettings(
            method="uniform",
            controller="uniform",
            target_macs=0.5,
            max_rate=0.95,
            one_shot=True,
            check="end",
            skip=("residual",),
            finetune=TrainSettings(epochs=10.0, lr=0.05),
        ),
    )
)

# Li et al. 2020, *EagleEye*: candidates drawn inside the budget, ranked by their score with batch-norm statistics
# re-estimated (adaptive BN), the best one fine-tuned.
METHODS.register("eagleeye")(
    Recipe(
        "EagleEye: the best of many random schedules, judged after batch-norm recalibration, then fine-tuning",
        PruneSettings(
            method="eagleeye",
            controller="random",
            controller_options={"episodes": 100},
            recovery="bn",
            target_macs=0.5,
            max_rate=0.8,
            one_shot=True,
            check="end",
            skip=("residual",),
            finetune=TrainSettings(epochs=40.0, lr=0.01),
        ),
    )
)

# He et al. 2018, *AMC*: one visit of every layer inside a MACs budget, the reward is the accuracy after a least-squares
# refit, no training while searching. AMC's own controller is DDPG; any will do.
METHODS.register("amc-rules")(
    Recipe(
        "AMC's rules (one pass, a MACs budget, least-squares refit, accuracy as reward) with any --controller",
        PruneSettings(
            method="amc-rules",
            controller="cem",
            recovery="lsq",
            target_macs=0.5,
            max_rate=0.8,
            one_shot=True,
            check="end",
            skip=("residual",),
            finetune=TrainSettings(epochs=40.0, lr=0.01),
        ),
    )
)
