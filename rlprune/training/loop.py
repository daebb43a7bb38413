"""Training and fine-tuning: one loop for AFP's penalised epochs, for recovery, and for whole runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from rlprune.data.splits import Split
from rlprune.errors import UserError, guarding
from rlprune.heap import keeping_activations
from rlprune.scoring.evaluation import Ledger
from rlprune.scoring.pace import Pace
from rlprune.tasks.base import Batch, Task, own_work
from rlprune.training.checkpoint import Run
from rlprune.training.distributed import World
from rlprune.training.imitation import Teacher, imitation
from rlprune.training.optimizers import make_optimizer
from rlprune.training.pacing import choose_pace, lay_out
from rlprune.training.penalties import Orthogonality
from rlprune.training.report import TrainReport
from rlprune.training.settings import TrainSettings, learning_rate

Penalty = Callable[[nn.Module], Tensor]
OnStep = Callable[[float], None]
Monitor = Callable[[nn.Module], float]
CHECK_EVERY = 20  # steps between looks at the loss where looking means waiting for an accelerator


def train(
    model: nn.Module,
    task: Task,
    split: Split,
    settings: TrainSettings,
    *,
    seed: int,
    penalties: Sequence[Penalty] = (),
    teacher: nn.Module | Teacher | None = None,
    monitor: Monitor | None = None,
    start: float | None = None,
    enough: float = math.inf,
    hopeless: Callable[[TrainReport], bool] | None = None,
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
        teacher: What `settings.distillation` imitates; it is called in eval mode. A `Teacher` remembers what it said,
            and has a say in order and augmentation.
        monitor: Score of a network, higher is better, taken after every epoch; the best epoch's weights come out.
        start: The monitor's score of `model` as it is. If no epoch beats it, the weights come out as they went in.
        enough: End with the first epoch that the monitor scores this high.
        hopeless: Asked after every epoch, with the report so far; True ends the run.
        checkpoint: File that holds the state after every epoch. If it exists, training goes on from it, to the same
            bits as without the break.
        on_step: Told after every step what share of the run is done.
        device: Where to compute.
        ledger: Where the images are counted.

    Raises:
        UserError: if the loss becomes NaN or infinite, or the settings do not fit the task.
    """
    trainer = _Trainer(model, task, split, settings, seed, penalties, teacher, torch.device(device))
    trainer.on_step, trainer.ledger = on_step, ledger
    with keeping_activations(), trainer:
        return trainer.go(monitor, start, enough, hopeless, checkpoint)


_MEND = "the network must run in training mode on every batch of training: give other batches, or fit=function"


class _Trainer:
    """One call of `train`."""

    on_step: OnStep | None = None
    ledger: Ledger | None = None

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        split: Split,
        settings: TrainSettings,
        seed: int,
        penalties: Sequence[Penalty],
        teacher: nn.Module | Teacher | None,
        device: torch.device,
    ) -> None:
        if settings.distillation and teacher is None:
            raise UserError(f"distillation is {settings.distillation} but there is no teacher; give one or set it to 0")
        self.penalties = list(penalties)
        if settings.orthogonality:
            self.penalties.append(Orthogonality(settings.orthogonality))
        if not task.distillable and (settings.distillation or settings.label_smoothing):
            raise UserError(
                f"task {task.name!r} gives no logits to imitate or smooth; set distillation and label_smoothing to 0"
            )
        self.task, self.split, self.settings, self.seed = task, split, settings, seed
        self.teacher = Teacher(teacher) if isinstance(teacher, nn.Module) else teacher
        self.device = device
        self.world = World.current()
        self.pace, self.called = Pace(), model
        self.batch_size = settings.images_a_step(len(split))
        self.steps_per_epoch = split.steps(self.batch_size)
        self.steps = round(settings.epochs * self.steps_per_epoch)
        if settings.epochs > 0:
            self.steps = max(self.steps, 1)
        average = _averaged(model, settings.ema) if settings.ema else None
        self.run = Run(model, make_optimizer(model, settings), average, None, TrainReport())
        self.result = model if average is None else average.module
        self._returned: list[Any] = []
        self._put_back: Callable[[], None] | None = None

    def __enter__(self) -> None:
        networks = [self.run.model] if self.teacher is None else [self.run.model, self.teacher.network]
        self._modes = [(module, module.training) for network in networks for module in network.modules()]
        self._hooks = []
        if self.settings.label_smoothing or self.settings.distillation:
            returned = self._returned

            def keep(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:  # no method: networks get copied
                returned[:] = [output]

            self._hooks.append(self.run.model.register_forward_hook(keep))
        if self.teacher is not None:
            self.teacher.network.eval()

    def __exit__(self, *_: object) -> None:
        for module, training in self._modes:
            module.training = training
        for hook in self._hooks:
            hook.remove()
        if self._put_back is not None:
            self._put_back()
        self._returned.clear()

    def go(
        self,
        monitor: Monitor | None,
        start: float | None,
        enough: float,
        hopeless: Callable[[TrainReport], bool] | None,
        checkpoint: Path | None,
    ) -> TrainReport:
        """Train from the checkpoint, or from the start, to the end."""
        run = self.run
        if start is not None:
            run.best = _copied(run.model)
        if checkpoint is not None and checkpoint.is_file():
            run.load(checkpoint)
            self.world.barrier()  # no process may overwrite the file before all have read it
        while run.report.steps < self.steps and not run.report.stopped_early:
            self._epoch(len(run.report.losses))
            self._judge(monitor, start, enough)
            if hopeless is not None and hopeless(run.report):
                run.report.stopped_early = True
            if checkpoint is not None and self.world.first:
                run.save(checkpoint)
        if run.best is not None:
            run.model.load_state_dict(run.best)
        elif self.result is not run.model:
            run.model.load_state_dict(self.result.state_dict())
        self.world.share_buffers(run.model)
        return run.report

    def _judge(self, monitor: Monitor | None, start: float | None, enough: float) -> None:
        """Score the epoch that was, and keep its weights if they are the best."""
        report = self.run.report
        epoch = len(report.losses) - 1
        if monitor is None:
            report.best_epoch = epoch
            return
        score = self.world.same(monitor(self.result))
        best = report.scores[report.best_epoch] if report.best_epoch >= 0 else start
        if best is None or score > best:
            report.best_epoch, self.run.best = epoch, _copied(self.result)
        report.scores.append(score)
        tired = bool(self.settings.patience) and epoch - report.best_epoch >= self.settings.patience
        report.stopped_early = tired or score >= enough

    def _epoch(self, epoch: int) -> None:
        settings, report, optimizer = self.settings, self.run.report, self.run.optimizer
        self.run.model.train()
        every = 1 if self.device.type == "cpu" else CHECK_EVERY
        total, count, rate = torch.zeros((), device=self.device), 0, settings.lr
        seed, look = (self.seed, epoch) if self.teacher is None else self.teacher.view(self.seed, epoch)
        how: dict[str, Any] = {"seed": seed, "epoch": look, "augment": settings.augment, "device": self.device}
        for batch in self.split.batches(self.batch_size, **how):
            if self._put_back is None:
                self._set_pace(batch)
            rate = learning_rate(settings, report.steps, self.steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            share, images, weight = self.world.share(self.pace.arranged(batch), self.task)
            with guarding("a step of training failed", _MEND), self.pace.precision(self.device):
                loss = self._loss(self.called, share)
            if weight != 1.0:
                loss = loss * weight
            loss.backward()  # type: ignore[no-untyped-call]
            if settings.clip_norm:
                torch.nn.utils.clip_grad_norm_(self.run.model.parameters(), settings.clip_norm)
            optimizer.step()
            if isinstance(self.run.average, AveragedModel):
                self.run.average.update_parameters(self.run.model)
            report.steps += 1
            report.images += images
            total += loss.detach()
            count += 1
            if self.ledger is not None:
                self.ledger.images_trained += images
            if report.steps % every == 0:
                self._look(loss, epoch, rate)
            if self.on_step is not None:
                self.on_step(report.steps / self.steps)
            if report.steps == self.steps:
                break
        if count == 0:
            raise UserError("the training data gave no batch; it must have at least one image in every pass")
        report.losses.append(self._look(self.world.mean(total) / count, epoch, rate))

    def _set_pace(self, batch: Batch) -> None:
        """Layout and precision: those of the run that goes on here, or those that suit the first batch."""
        report, model = self.run.report, self.run.model
        if not report.layout:
            steps = self.steps - report.steps
            chosen = choose_pace(model, self.task, batch, self.settings, self.device, steps=steps, loss=self._loss)
            report.layout, report.amp = self.world.same((chosen.layout, chosen.amp))
        self.pace = Pace(report.layout, report.amp)
        teacher = None if self.teacher is None else self.teacher.network
        self._put_back = lay_out([model, self.run.average, teacher], self.pace)
        self.called = self.world.parallel(model)

    def _loss(self, model: nn.Module, batch: Batch) -> Tensor:
        settings = self.settings
        with own_work(self.task, "training"):
            loss = self.task.loss(model, batch)
        if settings.label_smoothing:
            # (1 - s) CE(target) + s CE(uniform), from the logits of the same forward pass.
            uniform = -F.log_softmax(self._rows(batch).float(), dim=1).mean()
            loss = (1 - settings.label_smoothing) * loss + settings.label_smoothing * uniform
        if settings.distillation and self.teacher is not None:
            wanted = self.teacher.rows(self.task, batch, self.pace)
            imitated = imitation(self._rows(batch), wanted, settings.temperature)
            loss = (1 - settings.distillation) * loss + settings.distillation * imitated
        for penalty in self.penalties:
            loss = loss + penalty(self.run.model if model is self.called else model)
        return loss

    def _rows(self, batch: Batch) -> Tensor:
        assert self._returned, "the task's loss did not call the network"
        return self.task.rows(self._returned[0], batch)

    def _look(self, loss: Tensor, epoch: int, rate: float) -> float:
        value = float(loss.detach())
        if not math.isfinite(value):
            raise UserError(
                f"the training loss became {value} in epoch {epoch + 1} at learning rate {rate:.3g}; "
                "lower the learning rate (lr), or clip the gradient (clip_norm=1)"
            )
        return value


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _averaged(model: nn.Module, decay: float) -> AveragedModel:
    """A moving average of weights and buffers; early on it follows faster, so that it forgets where it started."""

    def follow(means: Any, values: Any, count: Any) -> None:
        if means[0].is_floating_point():
            torch._foreach_lerp_(means, values, 1 - min(decay, float(count) / (9 + float(count))))
        else:
            torch._foreach_copy_(means, values)

    average = AveragedModel(model, multi_avg_fn=follow, use_buffers=True).eval().requires_grad_(False)
    average.update_parameters(model)  # the first time it copies; it counts as the state before the first step
    return average
