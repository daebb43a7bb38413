"""Training and fine-tuning: one loop for AFP's penalised epochs, for recovery, and for whole runs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rlprune.errors import UserError
from rlprune.scoring.evaluation import Ledger, precision
from rlprune.training.checkpoint import Checkpoint
from rlprune.training.distributed import World
from rlprune.training.penalties import Orthogonality
from rlprune.training.settings import TrainSettings, learning_rate, make_optimizer

if TYPE_CHECKING:
    from rlprune.data import Split
    from rlprune.tasks import Batch, Task

Penalty = Callable[[nn.Module], Tensor]
OnStep = Callable[[float], None]
CHECK_EVERY = 20  # steps between looks at the loss where looking means waiting for an accelerator


@dataclass
class TrainReport:
    """What a training run did.

    Attributes:
        losses: Mean loss of every epoch.
        scores: The monitor's value after every epoch, if there is a monitor.
        best_epoch: The epoch (from 0) whose weights came out, if the monitor chose; else the last.
        steps: Optimizer steps.
        images: Images seen.
        stopped_early: Whether patience ran out, or the score was enough.
    """

    losses: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    best_epoch: int = -1
    steps: int = 0
    images: int = 0
    stopped_early: bool = False


def train(
    model: nn.Module,
    task: Task,
    split: Split,
    settings: TrainSettings,
    *,
    seed: int,
    penalties: Sequence[Penalty] = (),
    teacher: nn.Module | None = None,
    monitor: Callable[[nn.Module], float] | None = None,
    enough: float = math.inf,
    checkpoint: Path | None = None,
    on_step: OnStep | None = None,
    device: str | torch.device = "cpu",
    ledger: Ledger | None = None,
) -> TrainReport:
    """Train `model` in place; it comes back in the mode (train or eval) it came in.

    On a CPU equal arguments give equal bits. Under `torchrun` every process calls this with the same arguments; the
    batch is shared out among them, and the result is that of one process, batch-norm statistics aside (those are
    taken per process, the first one's are kept).

    Args:
        model: Any network the task can call, on `device`.
        task: Gives the loss.
        split: The training images.
        settings: See `TrainSettings`.
        seed: Of order and augmentation.
        penalties: Added to the loss at every step.
        teacher: What `settings.distillation` imitates; it is called in eval mode.
        monitor: Score of a network, higher is better, taken after every epoch; the best epoch's weights come out.
        enough: End with the first epoch that the monitor scores this high.
        checkpoint: File that holds the state after every epoch. If it exists, training goes on from it, to the same
            bits as without the break.
        on_step: Told after every step what share of the run is done.
        device: Where to compute.
        ledger: Where the images are counted.

    Raises:
        UserError: if the loss becomes NaN or infinite, or the settings do not fit the task.
    """
    run = _Run(model, task, split, settings, seed, list(penalties), teacher, torch.device(device))
    with run:
        return run.go(monitor, enough, Checkpoint(checkpoint) if checkpoint is not None else None, on_step, ledger)


class _Run:
    """One call of `train`."""

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        split: Split,
        settings: TrainSettings,
        seed: int,
        penalties: list[Penalty],
        teacher: nn.Module | None,
        device: torch.device,
    ) -> None:
        if settings.distillation and teacher is None:
            raise UserError(f"distillation is {settings.distillation} but there is no teacher; give one or set it to 0")
        if settings.amp and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise UserError("amp needs a device with bfloat16, which this one has not; leave amp off")
        if settings.orthogonality:
            penalties = [*penalties, Orthogonality(settings.orthogonality)]
        self.model, self.task, self.split, self.settings, self.seed = model, task, split, settings, seed
        self.penalties, self.teacher, self.device = penalties, teacher, device
        self.world = World.current()
        self.world.share_parameters(model)
        self.steps_per_epoch = _steps(len(split), settings.batch_size)
        self.steps = round(settings.epochs * self.steps_per_epoch)
        if settings.epochs > 0:
            self.steps = max(self.steps, 1)
        self.optimizer = make_optimizer(model, settings)
        self.average = copy.deepcopy(model).eval().requires_grad_(False) if settings.ema else None
        self._followed: list[tuple[Tensor, Tensor]] = []
        if self.average is not None:
            pairs = zip(self.average.state_dict().values(), model.state_dict().values(), strict=True)
            self._followed = list(pairs)
        self.report = TrainReport()
        self._returned: Any = None

    def __enter__(self) -> None:
        networks = [self.model, self.teacher] if self.teacher is not None else [self.model]
        self._modes = [(module, module.training) for network in networks for module in network.modules()]
        self._hook = self.model.register_forward_hook(self._keep)
        if self.teacher is not None:
            self.teacher.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self._modes:
            module.training = training
        self._hook.remove()
        self._returned = None

    def _keep(self, _: nn.Module, __: tuple[Any, ...], output: Any) -> None:
        if self.settings.label_smoothing or self.settings.distillation:
            self._returned = output

    def go(
        self,
        monitor: Callable[[nn.Module], float] | None,
        enough: float,
        checkpoint: Checkpoint | None,
        on_step: OnStep | None,
        ledger: Ledger | None,
    ) -> TrainReport:
        """Train from the checkpoint, or from the start, to the end."""
        best: dict[str, Tensor] | None = None
        if checkpoint is not None and checkpoint.exists():
            best = checkpoint.restore(self.model, self.optimizer, self.average, self.report, self.world.barrier)
        while self.report.steps < self.steps and not self.report.stopped_early:
            epoch = len(self.report.losses)
            self._epoch(epoch, on_step, ledger)
            if monitor is not None:
                score = self.world.same(monitor(self.average or self.model))
                if not self.report.scores or score > self.report.scores[self.report.best_epoch]:
                    self.report.best_epoch = epoch
                    best = {k: v.detach().clone() for k, v in (self.average or self.model).state_dict().items()}
                self.report.scores.append(score)
                waited = epoch - self.report.best_epoch
                tired = bool(self.settings.patience) and waited >= self.settings.patience
                self.report.stopped_early = tired or score >= enough
            else:
                self.report.best_epoch = epoch
            if checkpoint is not None and self.world.first:
                checkpoint.save(self.model, self.optimizer, self.average, best, self.report)
        if best is not None:
            self.model.load_state_dict(best)
        elif self.average is not None:
            self.model.load_state_dict(self.average.state_dict())
        self.world.share_buffers(self.model)
        return self.report

    def _epoch(self, epoch: int, on_step: OnStep | None, ledger: Ledger | None) -> None:
        settings, report = self.settings, self.report
        self.model.train()
        trained = [p for group in self.optimizer.param_groups for p in group["params"]]
        every = 1 if self.device.type == "cpu" else CHECK_EVERY
        total, count, rate = torch.zeros((), device=self.device), 0, settings.lr
        for batch in self._batches(epoch):
            rate = learning_rate(settings, report.steps, self.steps_per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.zero_grad(set_to_none=True)
            share, images = self.world.share(batch, self.task)
            with precision(self.device, amp=self.settings.amp):
                loss = self._loss(share)
            loss = loss * self.world.weight(share, images, self.task)
            loss.backward()  # type: ignore[no-untyped-call]
            self.world.sum_gradients(trained)
            if settings.clip_norm:
                torch.nn.utils.clip_grad_norm_(trained, settings.clip_norm)
            self.optimizer.step()
            if self.average is not None:
                self._follow(report.steps)
            report.steps += 1
            report.images += images
            total += loss.detach()
            count += 1
            if ledger is not None:
                ledger.images_trained += images
            if report.steps % every == 0:
                self._look(loss, epoch, rate)
            if on_step is not None:
                on_step(report.steps / self.steps)
            if report.steps == self.steps:
                break
        report.losses.append(self._look(self.world.sum(total) / max(count, 1), epoch, rate))

    def _batches(self, epoch: int) -> Iterator[Batch]:
        return self.split.batches(
            self.settings.batch_size,
            seed=self.seed,
            epoch=epoch,
            augment=self.settings.augment,
            device=self.device,
        )

    def _loss(self, batch: Batch) -> Tensor:
        settings = self.settings
        loss = self.task.loss(self.model, batch)
        if settings.label_smoothing:
            # (1 - s) CE(target) + s CE(uniform), from the logits of the same forward pass.
            uniform = -F.log_softmax(self._rows(batch).float(), dim=1).mean()
            loss = (1 - settings.label_smoothing) * loss + settings.label_smoothing * uniform
        if settings.distillation and self.teacher is not None:
            with torch.no_grad():
                wanted = self.task.rows(self.teacher(*self.task.inputs(batch)), batch)
            loss = (1 - settings.distillation) * loss + settings.distillation * _imitation(
                self._rows(batch), wanted, settings.temperature
            )
        for penalty in self.penalties:
            loss = loss + penalty(self.model)
        return loss

    def _rows(self, batch: Batch) -> Tensor:
        assert self._returned is not None, "the task's loss did not call the network"
        return self.task.rows(self._returned, batch)

    def _follow(self, step: int) -> None:
        """Move the average; early on it follows faster, so that it forgets where it started."""
        decay = min(self.settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, value in self._followed:
                if mean.is_floating_point():
                    mean.lerp_(value, 1 - decay)
                else:
                    mean.copy_(value)

    def _look(self, loss: Tensor, epoch: int, rate: float) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"the training loss became {value} in epoch {epoch + 1} at learning rate {rate:.3g}; "
                "lower the learning rate (lr), or clip the gradient (clip_norm=1)"
            )
        return value


def _steps(images: int, batch_size: int) -> int:
    """Steps in an epoch of shuffled batches: a last batch of one image is left out (see `Split.batches`)."""
    steps = -(-images // batch_size)
    return steps - 1 if steps > 1 and images % batch_size == 1 else steps


def _imitation(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher / T || student / T) over axis 1 (Hinton et al. 2015, *Distilling the knowledge*, section 2)."""
    wanted = F.log_softmax(teacher.float() / temperature, dim=1)
    got = F.log_softmax(student.float() / temperature, dim=1)
    divergence = (wanted.exp() * (wanted - got)).sum(1)
    return divergence.mean() * temperature**2
