"""How to train: settings and the learning-rate schedule. Nothing here needs torch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from rlprune.errors import UserError, check_count, check_known, check_number, check_rate, unknown_name
from rlprune.registry import Registry
from rlprune.typed import check_fields

OPTIMIZERS = ("sgd", "adamw")
LAYOUTS = ("auto", "contiguous", "channels_last")


@dataclass(frozen=True)
class TrainSettings:
    """Settings of one training run.

    Attributes:
        epochs: Passes over the data; may be a fraction, 0 does nothing.
        lr: Learning rate at the top of the schedule, > 0.
        momentum: Of SGD, in [0, 1).
        weight_decay: L2 penalty (SGD) or decoupled decay (AdamW), >= 0.
        batch_size: Images a step, over all processes; None takes 128, or down to 32 for 28 steps an epoch.
        optimizer: "sgd" or "adamw".
        nesterov: Nesterov momentum (SGD).
        schedule: "cosine" to 0, "restarts" (a cosine every epoch), "step" (times `gamma` at each of `milestones`), or
            "constant".
        milestones: Epochs at which "step" steps.
        gamma: Its factor.
        warmup_epochs: Linear rise from 0 to `lr` at the start; may be a fraction.
        augment: Random shifts and mirror images, as the data allow.
        label_smoothing: Share of the target spread over all classes, in [0, 1]; classification and segmentation.
        orthogonality: Weight of the orthogonality penalty (see `Orthogonality`), >= 0.
        clip_norm: Largest norm of the whole gradient; 0 does not clip.
        ema: Decay of an exponential moving average of the weights, which is what comes out, in [0, 1); 0 for none.
        distillation: Share of the loss that imitates the teacher, in [0, 1]; needs a teacher.
        temperature: Of the imitation (Hinton et al. 2015).
        amp: Mixed precision (bfloat16): "on" or True, "off" or False, or "auto": where a few steps of this network
            are clearly faster so on this machine. Runs too short for such a trial go without.
        layout: Memory layout: "contiguous", "channels_last", or "auto": the faster one, by the same trial; short runs
            take channels last on a CPU.
        patience: Stop after this many epochs without a better score on the control split; 0 never stops early. Needs
            a monitor, see `train`.
    """

    epochs: float = 10.0
    lr: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    batch_size: int | None = None
    optimizer: str = "sgd"
    nesterov: bool = False
    schedule: str = "cosine"
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    augment: bool = True
    label_smoothing: float = 0.0
    orthogonality: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    distillation: float = 0.0
    temperature: float = 4.0
    amp: bool | str = "auto"
    layout: str = "auto"
    patience: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("epochs", "weight_decay", "warmup_epochs", "orthogonality", "clip_norm", "gamma", "patience"):
            check_number(name, getattr(self, name))
        for name in ("lr", "temperature"):
            check_number(name, getattr(self, name), above_zero=True)
        for name in ("label_smoothing", "distillation"):
            check_rate(name, getattr(self, name))
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must lie in [0, 1)")
        check_count("batch_size", self.batch_size)
        if self.nesterov and self.momentum == 0:
            raise UserError("nesterov needs a momentum > 0; it is 0")
        SCHEDULES.get(self.schedule)
        if self.milestones and self.schedule != "step":
            raise UserError(f"milestones are of the schedule 'step', and it is {self.schedule!r}; give --schedule step")
        object.__setattr__(self, "amp", {"on": True, "off": False}.get(str(self.amp), self.amp))
        if self.amp not in (True, False, "auto"):
            raise unknown_name("amp", str(self.amp), ("auto", "on", "off"))
        check_known("layout", self.layout, LAYOUTS)
        check_known("optimizer", self.optimizer, OPTIMIZERS)

    def images_a_step(self, images: int) -> int:
        """The batch size for so many training images: small data in small batches, since it is steps that train.

        >>> [TrainSettings().images_a_step(images) for images in (300, 1800, 50000)]
        [32, 64, 128]
        """
        return self.batch_size or min(128, max(32, 2 ** (images // 28).bit_length() // 2))


SCHEDULES: Registry[Callable[[TrainSettings, float], float]] = Registry("schedule")
"""Factor on the learning rate, given the settings and the epochs done so far (a fraction within an epoch)."""


SCHEDULES.register("constant")(lambda settings, epoch: 1.0)
SCHEDULES.register("step")(lambda settings, epoch: settings.gamma ** sum(epoch >= at for at in settings.milestones))


@SCHEDULES.register("cosine")
def _cosine(settings: TrainSettings, epoch: float) -> float:
    length = settings.epochs - settings.warmup_epochs
    done = (epoch - settings.warmup_epochs) / length if length > 0 else 1.0
    return 0.5 * (1.0 + math.cos(math.pi * min(max(done, 0.0), 1.0)))


@SCHEDULES.register("restarts")
def _restarts(settings: TrainSettings, epoch: float) -> float:
    done, begun = math.modf(epoch)
    return 0.5 * (1.0 + math.cos(math.pi * done / min(1.0, settings.epochs - begun)))


def learning_rate(settings: TrainSettings, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step (from 0): the schedule, times a linear warm-up.

    >>> [round(learning_rate(TrainSettings(epochs=2, lr=1.0), s, 2), 2) for s in range(4)]
    [1.0, 0.85, 0.5, 0.15]
    """
    epoch = step / steps_per_epoch
    rate = settings.lr * SCHEDULES.get(settings.schedule)(settings, epoch)
    warmup = settings.warmup_epochs * steps_per_epoch
    return rate * min(1.0, (step + 1) / warmup) if warmup > 0 else rate
