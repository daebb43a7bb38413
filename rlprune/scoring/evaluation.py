"""Scoring a network on a role of the data, and counting what that cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from rlprune.data.splits import DataSplits, Split
from rlprune.errors import UserError, calling, first_line
from rlprune.heap import keeping_activations
from rlprune.scoring.pace import Pace
from rlprune.tasks.base import Batch, Task, own_work
from rlprune.tasks.score import Score

# Pixels in a batch. On a CPU activations should stay in the cache: 32 images of 32x32 are two to four times faster than
# 500 for MobileNets and never slower by 5 %; larger images get fewer, down to one.
# In bfloat16 the convolutions are so fast that the calls around them show: four times as many are 1.4 times faster.
CPU_PIXELS, CPU_MOST = 2**18, 32
GPU_PIXELS, GPU_MOST = 2**23, 512
AMP_MORE = 4


def batch_within(pixels: int, most: int, shape: tuple[int, ...]) -> int:
    """How many examples, the channels first, make a batch of at most `pixels`: one to `most`."""
    return min(most, max(1, pixels // math.prod(shape[1:])))


@dataclass
class Ledger:
    """What has been spent so far.

    Attributes:
        evaluations: Networks scored, whatever the split.
        images_evaluated: Images in all those scorings.
        images_trained: Images seen by training, counted once an epoch.
        test_evaluations: Scorings on the test split: one, at the end, if all is well.
    """

    evaluations: int = 0
    images_evaluated: int = 0
    images_trained: int = 0
    test_evaluations: int = 0

    def state_dict(self) -> dict[str, int]:
        """The counters in plain values."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on counting from what `state_dict` gave."""
        for name in asdict(self):
            setattr(self, name, int(state[name]))


class Evaluator:
    """Scores networks on fixed images in fixed order.

    Args:
        task: What the networks do.
        data: What they do it on.
        device: Where.
        batch_size: Images at a time; None chooses by device and precision.
        ledger: Kept up to date with every score.
        amp: Score in mixed precision (bfloat16).
    """

    def __init__(
        self,
        task: Task,
        data: DataSplits,
        *,
        device: str = "cpu",
        batch_size: int | None = None,
        ledger: Ledger | None = None,
        amp: bool = False,
    ) -> None:
        self.task = task
        self.data = data
        self.device = torch.device(device)
        pixels, most = (GPU_PIXELS, GPU_MOST) if self.device.type == "cuda" else (CPU_PIXELS, CPU_MOST)
        more = AMP_MORE if amp else 1
        self.pace, self._settled = Pace.usual(self.device, amp=amp), False
        self.batch_size = batch_size or batch_within(more * pixels, more * most, data.input_shape)
        self.ledger = ledger if ledger is not None else Ledger()
        self._limited: dict[tuple[str, int], Split] = {}

    def score(self, model: nn.Module, role: str = "control", limit: int | None = None) -> Score:
        """Score `model` on a role's images, or on the first `limit` of them.

        The model is put into eval mode and handed back in the modes it came in.

        Raises:
            UserError: Unknown role, a model that does not fit the images, or an output with NaN or infinity.
        """
        if limit is None:
            return self.score_split(model, self.data.split(role))
        if (role, limit) not in self._limited:  # kept, so that its images are prepared once
            self._limited[role, limit] = self.data.split(role).first(limit)
        return self.score_split(model, self._limited[role, limit])

    def score_split(self, model: nn.Module, split: Split) -> Score:
        """Score `model` on any split."""
        (score,) = self.score_parts(model, [split])
        return score

    def score_parts(self, model: nn.Module, parts: Sequence[Split]) -> Iterator[Score]:
        """Score `model` on one split after the other, as far as somebody asks: one evaluation, whatever that is."""
        for number, split in enumerate(parts):
            score = self._computed(model, split)
            self.ledger.evaluations += number == 0
            self.ledger.images_evaluated += score.n
            self.ledger.test_evaluations += split.role in ("test", "whole_test")
            yield score

    def _computed(self, model: nn.Module, split: Split) -> Score:
        with (
            keeping_activations(),
            evaluating(model),
            torch.inference_mode(),
            self.precision(),
            own_work(self.task, "scoring"),
        ):
            score = self._score(model, split)
        if not math.isfinite(score.value):
            raise UserError(f"the task {self.task.name} gave a score of {score.value}; it must give a finite number")
        return score

    def _score(self, model: nn.Module, split: Split) -> Score:
        try:
            score = self.task.score(model, self.batches(split))
            self._settled = True
            return score
        except RuntimeError:
            if self.pace.layout == "contiguous":
                check_fits(model, self.data, self.task, self.device)  # says it in the user's words if that was it
                raise
        self.pace = Pace("contiguous", self.pace.amp)  # a model that calls `view` behind a convolution
        return self._score(model, split)

    def settled(self, model: nn.Module) -> Pace:
        """How `model` and its like are computed, for whoever runs them without `score`; tried once, on two images."""
        if not self._settled:
            with evaluating(model), torch.inference_mode(), self.precision():
                self._score(model, self.data.split("control").first(2))
        return self.pace

    def precision(self) -> AbstractContextManager[Any]:
        """What networks are scored in; for callers that use `batches` without `score`."""
        return self.pace.precision(self.device)

    def batches(self, split: Split) -> Iterator[Batch]:
        """A split as it is scored: in batches that suit the device."""
        return (self.pace.arranged(batch) for batch in split.batches(self.batch_size, device=self.device))


class OwnEvaluator(Evaluator):
    """Scores by a function of the user's.

    Args:
        evaluate: Score of a network, higher is better, any range.
        *arguments: As of `Evaluator`; the test split, where there is one, is scored by the task.
        **options: Likewise.
    """

    def __init__(self, evaluate: Callable[[nn.Module], float], *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._own = evaluate
        self.pace = Pace()  # as the user's own function hands inputs over, whatever they are

    def settled(self, model: nn.Module) -> Pace:
        """Nothing is tried: only the user's function knows what to make of outputs."""
        return self.pace

    def score(self, model: nn.Module, role: str = "control", limit: int | None = None) -> Score:
        """The user's score on control; the model comes back in the modes it came in."""
        if role != "control":
            return super().score(model, role, limit)
        with evaluating(model), torch.no_grad(), calling("evaluate="):
            value = self._own(model)
        alone = isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.numel() == 1)
        if not alone or not math.isfinite(float(value)):
            raise UserError(f"evaluate gave {value!r}; it must give a finite number, higher for a better network")
        self.ledger.evaluations += 1
        return Score(float(value), 0, "score", percent=False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, and every module's own mode again afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def check_loss(model: nn.Module, split: Split, task: Task) -> None:
    """Try a task's loss, if it has one, on two examples before any work; raises UserError if that fails."""
    if not task.trains:
        return
    device = next((part.device for part in model.parameters()), torch.device("cpu"))
    with evaluating(model), torch.no_grad(), own_work(task, "training"):
        task.loss(model, next(iter(split.first(2).batches(2, device=device))))


def check_runs(model: nn.Module, split: Any, task: Task, device: str | torch.device = "cpu") -> None:
    """Run one example of a user's loader through a model; raises UserError naming the argument if that fails."""
    batch = next(iter(split.first(1).batches(1, device=device)))
    if batch[1] is None and split.role in ("control", "train"):
        raise UserError(f"{split.role}= gives inputs alone; give pairs (inputs, targets)")
    try:
        with evaluating(model), torch.no_grad():
            model(*task.inputs(batch))
    except Exception as error:  # whatever a user's forward raises on a user's data
        given = ", ".join(
            f"{part.dtype} {tuple(part.shape)}" for part in tree_leaves(batch[0]) if hasattr(part, "shape")
        )
        raise UserError(
            f"the model cannot take what {split.role}= gives ({given}: {type(error).__name__}: {first_line(error)}); "
            "give batch=function that makes it into what the model takes"
        ) from error


def check_fits(model: nn.Module, data: DataSplits, task: Task, device: str | torch.device = "cpu") -> None:
    """Run one image through a model and raise UserError if they do not fit each other."""
    batch = next(iter(data.calibration.first(1).batches(1, device=device)))
    channels = data.input_shape[0]
    try:
        with evaluating(model), torch.no_grad():
            model(*task.inputs(batch))
    except Exception as error:  # whatever a user's forward raises
        wanted = input_channels(model.modules())
        if wanted is not None and wanted != channels:
            raise UserError(
                f"the model takes images of {wanted} channels and those of {data.name!r} have {channels}; "
                "take other data or another model"
            ) from None
        size, reason = "x".join(map(str, data.input_shape)), first_line(error)
        raise UserError(
            f"the model cannot take the {size} images of {data.name!r} ({reason}); take other data or another model"
        ) from error


def input_channels(modules: Iterable[nn.Module]) -> int | None:
    """Channels that a model's first convolution reads; None without a convolution."""
    for module in modules:
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            return module.in_channels
    return None
