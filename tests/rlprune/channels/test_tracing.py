"""How models may be called, and what the options of the trace do."""

from __future__ import annotations

import copy
import dataclasses
import gc
import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from channel_helpers import difference, random_plan
from channel_structures import STRUCTURES, Net, conv, inputs_of
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from rlprune.channels import remove_channels, trace_channels
from rlprune.channels.attributes import choices
from rlprune.channels.checking import Checker
from rlprune.channels.forward import Forward
from rlprune.channels.trace import Trace
from rlprune.errors import UserError

X = torch.randn(2, 3, 12, 12)


def test_keyword_inputs() -> None:
    model = Net(lambda s, x, scale=None, **more: s.c(F.relu(s.a(x)) * scale["by"]), a=conv(3, 8), c=conv(8, 4))
    kwargs = {"scale": {"by": torch.tensor(2.0)}, "flag": True, "name": "x"}
    groups = trace_channels(model, X, kwargs=kwargs)
    assert [g.name for g in groups.prunable] == ["a"]
    assert difference(model, groups, random_plan(groups, 0.5), X, kwargs=kwargs) < 1e-9


@dataclasses.dataclass
class Sample:
    image: Tensor
    rest: dict[str, list[Tensor]]


def test_dataclass_inputs_and_several_of_them() -> None:
    model = Net(
        lambda s, sample, scale: s.c(F.relu(s.a(sample.image) + s.b(sample.rest["more"][0])) * scale),
        a=conv(3, 8), b=conv(3, 8), c=conv(8, 4),
    )  # fmt: skip
    inputs = Sample(X, {"more": [X.flip(0)]}), torch.tensor(2.0)
    groups = trace_channels(model, *inputs)
    assert [(g.name, g.producers, g.consumers) for g in groups.prunable] == [("a", ("a", "b"), ("c",))]
    assert difference(model, groups, random_plan(groups, 0.5), *inputs) < 1e-9
    inner = Net(lambda s, sample: s.c(s.a(sample.image) + sample.rest["more"][0]), a=conv(3, 3), c=conv(3, 4))
    assert "the model's input" in str(trace_channels(inner, inputs[0])["a"].locked)


def test_a_model_that_only_runs_in_evaluation_mode_and_keeps_state() -> None:
    class Stateful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = conv(3, 8), conv(8, 4)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise RuntimeError("evaluation only")
            self.calls += 1
            self.last = x
            return self.c(self.a(x))

    model = Stateful()
    groups = trace_channels(model, X)
    assert groups["a"].locked is None and model.training and float(model.calls) == 0 and not hasattr(model, "last")


def test_heads_that_only_run_in_training_are_cut_too() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.norm, self.c, self.head = conv(3, 8), nn.BatchNorm2d(8), conv(8, 4), conv(8, 2)

        def forward(self, x: Tensor) -> Any:
            x = self.norm(self.a(x))
            return (self.c(x), self.head(x)) if self.training else self.c(x)

    model = Auxiliary()
    groups = trace_channels(model, X)
    assert groups["a"].consumers == ("c", "head") and groups["head"].locked
    pruned = remove_channels(model, groups, random_plan(groups, 0.5)).train()
    assert pruned(X)[1].shape[1] == 2
    assert groups.layers["head"].extent == 0


def test_double_precision() -> None:
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(), conv(8, 4)).double()
    assert [g.name for g in trace_channels(model, X.double()).prunable] == ["0"]


def test_strict_raises_and_off_trusts() -> None:
    model, inputs = STRUCTURES["static view"](), inputs_of("static view")
    with pytest.raises(UserError, match=r"1 channel groups fail the self-check \(a: sizes are constants"):
        trace_channels(model, *inputs, check="strict")
    assert trace_channels(model, *inputs, check="off")["a"].locked is None
    assert trace_channels(model, *inputs, check="on")["a"].locked
    kept = trace_channels(model, *inputs, check="strict", keep=["a"])
    assert "'a'" in str(kept["a"].locked)
    with pytest.raises(UserError, match="must be one of on, strict, off"):
        trace_channels(model, *inputs, check="never")


def test_a_model_that_cannot_be_copied_is_a_user_error() -> None:
    model = nn.Sequential(conv(3, 4))
    model.handles = [model[0].weight * 2]
    with pytest.raises(UserError, match="cannot be deep-copied"):
        trace_channels(model, X)


@pytest.mark.parametrize("name", ["residual", "C2f", "frozen batch norm", "transposed, grouped"])
def test_a_healthy_network_takes_three_forward_passes(name: str) -> None:
    model, inputs = STRUCTURES[name]().eval(), inputs_of(name)
    groups = trace_channels(model, *inputs, check="off")
    checker = Checker(model, groups, Forward(inputs))
    assert checker.failures() == {} and checker.passes == 3


def test_the_check_sees_a_mean_over_many_channels() -> None:
    """One of 2048 channels changes a mean over them by a two-thousandth; the comparison layer by layer sees it."""
    model = Net(lambda s, x: s.c(s.a(x) / s.a(x).shape[1] ** 0.5), a=conv(3, 2048, 1), c=conv(2048, 4, 1))
    groups = trace_channels(model, X[:1, :, :4, :4])
    assert "layer c sees other values" in str(groups["a"].locked)


def test_bisection_finds_the_culprit_among_many() -> None:
    def forward(s: Any, x: Tensor) -> Tensor:
        for i in range(6):
            x = F.relu(getattr(s, f"c{i}")(x))
            if i == 3:
                x = x.reshape(-1, 8, 12, 12)  # a constant in the code
        return s.out(x)

    model = Net(forward, c0=conv(3, 8), **{f"c{i}": conv(8, 8) for i in range(1, 6)}, out=conv(8, 4))
    groups = trace_channels(model, X)
    assert [g.name for g in groups.prunable] == ["c0", "c1", "c2", "c4", "c5"]


def test_a_forward_pass_that_writes_its_parameters_leaves_the_callers_alone() -> None:
    class Clipped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.c = conv(3, 8), conv(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.a.weight.data.clamp_(-0.05, 0.05)
            return self.c(F.relu(self.a(x)))

    model = Clipped()
    before = model.a.weight.detach().clone()
    groups = trace_channels(model, X)
    assert torch.equal(model.a.weight, before) and groups["a"].locked is None


def test_outputs_in_objects_with_slots_are_outputs() -> None:
    class Box:
        __slots__ = ("value",)

        def __init__(self, value: Tensor) -> None:
            self.value = value

    model = Net(lambda s, x: Box(s.a(x)), a=conv(3, 8))
    assert trace_channels(model, X)["a"].locked == "it is an output of the model"


def test_scripted_models_are_refused() -> None:
    from rlprune.channels import PruningPlan

    class Stubborn(nn.Sequential):
        def __deepcopy__(self, memo: dict) -> Stubborn:
            return Stubborn(*(conv(3, 8), conv(8, 4)))

    model = Stubborn(conv(3, 8), conv(8, 4))
    groups = trace_channels(nn.Sequential(*model), X)
    with pytest.raises(UserError, match="does not take the new"):
        remove_channels(model, groups, PruningPlan({"0": [1]}))


def test_grouped_layers_stay_grouped_when_one_channel_a_group_is_left() -> None:
    model = nn.Sequential(conv(3, 4), conv(4, 8, groups=2), conv(8, 4))
    groups = trace_channels(model, X, min_channels=1)
    first = random_plan(groups, 0.5)
    assert first.count("0") == 1
    pruned, after = remove_channels(model, groups, first), groups.after(first)
    second = random_plan(after, 0.5, seed=3)
    assert second.count("1") == 1
    twice = remove_channels(pruned, after, second)
    assert twice[1].groups == 2 and twice(X).shape[1] == 4


def test_memory_that_is_used_again_is_not_shared_memory() -> None:
    """A tensor that moved to other memory leaves an address behind, which a later tensor may get."""
    trace = Trace({})
    first, second = torch.zeros(4), torch.zeros(4)
    trace.put(first, None)
    address = first.untyped_storage()._cdata
    first.set_(torch.zeros(4).untyped_storage())
    trace.put(second, None)
    trace._storages[second.untyped_storage()._cdata] = [*trace._storages.pop(address), second]
    assert trace.sharing(second) == []
    view = second[1:]
    trace.put(view, None)
    trace.put(first, None)
    assert [id(t) for t in trace.sharing(second)] == [id(view)]


def test_trace_and_check_compute_the_products_of_two_passes() -> None:
    """Those of the labels and of the masked network: the rest is known from these, and of gradients the shapes."""
    model = Net(lambda s, x: s.c(s.b(s.a(x).relu()).relu()), a=conv(3, 16), b=conv(16, 24), c=conv(24, 4)).eval()
    with FlopCounterMode(display=False) as once, torch.no_grad():
        model(X)
    with FlopCounterMode(display=False) as counter:
        assert len(trace_channels(model, X).prunable) == 2
    assert counter.get_total_flops() <= 2 * once.get_total_flops()


def test_a_number_is_tried_where_the_network_stopped() -> None:
    """Alike blocks that fail cost a comparison of the whole network each time one is found, not each try."""

    class Block(nn.Module):
        def __init__(self, heads: int) -> None:
            super().__init__()
            self.heads, self.a, self.b = heads, nn.Linear(32, 32), nn.Linear(32, 32)

        def forward(self, x: Tensor) -> Tensor:
            n, t, c = x.shape
            y = self.a(x).view(n, t, self.heads, 32 // 4).transpose(1, 2)
            return x + self.b(y.transpose(1, 2).reshape(n, t, c))

    model = nn.Sequential(nn.Linear(16, 32), nn.LayerNorm(32), *(Block(4) for _ in range(6)), nn.Linear(32, 5)).eval()
    x = torch.randn(1, 9, 16)
    groups = trace_channels(model, x, check="off")
    checker = Checker(model, groups, Forward((x,)), choices(model, groups, {(str(i), "heads") for i in range(2, 8)}))
    reasons = checker.failures()
    assert len(reasons) == 6 and all("does not run" in reason for reason in reasons.values())
    assert sum(reason.startswith("as in 2.a, ") for reason in reasons.values()) == 5
    assert checker.passes <= 8


def test_hooks_that_the_first_call_sets_are_not_set_twice() -> None:
    """Libraries set them once and note that; a note without its hooks, or hooks without their note, break the model."""

    class Capturing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(3, 8), conv(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "hooked"):
                self.hooked = True
                self.a.register_forward_hook(lambda module, args, out: out + 1)
            return self.b(self.a(x))

    model = Capturing().eval()
    trace_channels(model, X)
    assert not hasattr(model, "hooked") and not model.a._forward_hooks
    expected = copy.deepcopy(model)(X)
    assert torch.equal(model(X), expected)


class ReadOnly(dict):
    """A configuration that nobody changes."""

    def update(self, *_):
        raise RuntimeError("you cannot use update on a ReadOnly instance")

    clear = update


class Remembering(nn.Sequential):
    """Leaves what it saw in tables of its own."""

    def __init__(self, *parts):
        super().__init__(*parts)
        self.config, self.seen, self.sizes, self.kinds = ReadOnly({"width": 8}), {"calls": 0}, [], set()

    def forward(self, x):
        self.seen["calls"] += self.config["width"]
        self.sizes.append(len(x)), self.kinds.add(x.dtype)
        return super().forward(x)


def test_tables_that_refuse_changes_are_left_alone_and_others_put_back():
    model = Remembering(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    assert trace_channels(model, torch.randn(1, 3, 9, 9)).prunable
    assert (model.seen, model.sizes, model.kinds) == ({"calls": 0}, [], set())


def test_what_cannot_train_is_not_run_at_full_size_again() -> None:
    class Inference(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                raise ValueError("no targets")
            return super().forward(x)

    model = Inference(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)).eval()
    x = torch.rand(1, 3, 8, 8)
    checker = Checker(model, trace_channels(model, x, check="off"), Forward((x,)))
    assert not checker.failures(0.3)
    checker.train()
    assert not checker.runs()
    checker.train(False)
    assert not checker.failures(0.0) and checker.passes == 4  # full and smaller, the attempt, and smaller again


def test_tensors_of_a_pass_are_let_go_before_the_check() -> None:
    passes: list[weakref.ref[Tensor]] = []
    alive: list[int] = []
    frozen: list[int] = []

    class Watched(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            alive.append(sum(ref() is not None for ref in passes))
            frozen.append(gc.get_freeze_count())
            y = self[1](self[0](x)) * 2
            passes.append(weakref.ref(y))
            return self[2](y + 1)

    before = gc.get_freeze_count()
    trace_channels(Watched(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).eval(), torch.rand(1, 3, 8, 8))
    assert len(alive) >= 4 and not any(alive)
    assert min(frozen) > 0 and gc.get_freeze_count() == before  # only new objects are searched for garbage


def test_caches_of_the_first_pass_are_known_in_the_next() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head, self.aux = nn.Conv2d(3, 8, 3), nn.Linear(8, 5), nn.Linear(8, 5)
            self.table: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            if self.table is None or self.table.shape[1] != y.shape[1]:
                self.table = torch.arange(y.shape[1]).float().view(1, -1, 1, 1) + 0 * y.detach()[:1, :, :1, :1]
            z = (y + self.table).mean((2, 3))
            return self.head(z) + self.aux(z) if self.training else self.head(z)

    groups = trace_channels(Cached().eval(), torch.rand(1, 3, 8, 8), check="off")
    assert groups["conv"].locked is None
