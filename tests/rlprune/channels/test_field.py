"""What networks in the field do to the engine: each case stands for a kind, and states what is right."""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from channel_helpers import difference, random_plan
from channel_structures import Net
from torch import Tensor, nn

from rlprune.artifact import load_pruned, save_pruned
from rlprune.channels import ChannelGroups, PruningPlan, mask_channels, remove_channels, trace_channels, transplant
from rlprune.cost import CostModel, count_macs
from rlprune.errors import UserError

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def cb(i: int, o: int, s: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(i, o, 3, s, 1, bias=False), nn.BatchNorm2d(o), nn.ReLU())


def head(c: int) -> tuple[nn.Module, ...]:
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5)


def half(groups: ChannelGroups) -> PruningPlan:
    return PruningPlan({g.name: range(g.allowed(g.size // 2)) for g in groups.prunable})


def share(groups: ChannelGroups) -> float:
    names = {p for g in groups.prunable for p in g.producers}
    return sum(groups.layers[p].macs for p in names) / CostModel(groups).macs()


def check(model: nn.Module, x: Tensor = X, least: float = 0.99, **options: Any) -> ChannelGroups:
    """Trace, and hold removal to masking, cost to counting."""
    groups = trace_channels(model, x, **options)
    assert share(groups) >= least, groups.report()
    for seed, rate in enumerate((0.3, 0.6)):
        plan = random_plan(groups, rate, seed)
        assert difference(model, groups, plan, x) < 1e-9
        pruned = remove_channels(model, groups, plan)
        assert count_macs(pruned, x) == CostModel(groups).macs(plan.counts) == CostModel(groups.after(plan)).macs()
    return groups


@pytest.mark.parametrize("how", ["compiled", "function", "method", "partial", "hook", "list", "dict"])
def test_functions_that_close_over_the_model_are_bound_to_its_copies(how: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), *head(4)).eval()
    old = model.forward
    if how == "compiled":
        model.forward = torch.compile(old, backend="eager")
    elif how == "function":
        model.forward = lambda x: old(x) * 2
    elif how == "method":
        model.forward = types.MethodType(lambda self, x: old(x) * 2, model)
    elif how == "partial":
        model.forward = torch.autocast("cpu", enabled=False)(old)
    elif how in ("list", "dict"):
        parts: Any = list(model) if how == "list" else dict(model.named_children())
        model.forward = lambda x: functools.reduce(lambda y, m: m(y), parts if how == "list" else parts.values(), x)
    else:
        model[3].register_forward_hook(lambda module, args, out: out * model[1].weight.sum())
    groups = trace_channels(model, X)
    plan = half(groups)
    small = remove_channels(model, groups, plan)
    assert count_macs(small, X) == CostModel(groups).macs(plan.counts) < count_macs(model, X)
    small(X).sum().backward()
    assert all(p.grad is not None for p in small.parameters()) and all(p.grad is None for p in model.parameters())


def test_a_model_that_keeps_itself_elsewhere_is_refused() -> None:
    class Elsewhere(nn.Module):
        kept: ClassVar[list[nn.Module]] = []

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 8, 3)
            self.kept[:] = [self.a]

        def forward(self, x: Tensor) -> Tensor:
            return self.kept[0](x).mean((2, 3))

    with pytest.raises(UserError, match=r"runs on the original's 'a.weight'.*plain module"):
        trace_channels(Elsewhere(), X)


def test_graph_modules_come_back_in_their_mode() -> None:
    models = pytest.importorskip("torchvision.models")
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = extraction.create_feature_extractor(models.resnet18(num_classes=5), {"layer3": "f", "fc": "y"}).eval()
    x = torch.rand(1, 3, 64, 64)
    groups = trace_channels(model, x)
    small = remove_channels(model, groups, half(groups))
    before = small.bn1.running_mean.clone()
    small(x)
    assert not any(m.training for m in small.modules()) and torch.equal(before, small.bn1.running_mean)
    assert difference(model, groups, random_plan(groups, 0.4), x) < 1e-9
    trained = small.train()
    trained(x.repeat(2, 1, 1, 1))["y"].sum().backward()
    assert trained.training and not model.training


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_wrappers_are_looked_through(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(cb(3, 8), cb(8, 8), *head(8)).eval()
    groups = trace_channels(wrap(model), X)
    assert groups.names == trace_channels(model, X).names
    assert type(remove_channels(wrap(model), groups, half(groups))) is nn.Sequential


@pytest.mark.filterwarnings("ignore")  # torch.jit's own
def test_scripted_models_are_refused_in_one_line() -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    traced = torch.jit.trace(Plain(), X)
    with pytest.raises(UserError, match="scripted models cannot be pruned"):
        trace_channels(traced, X)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, lambda: torch.autocast("cpu", torch.bfloat16)])
def test_counts_and_groups_do_not_depend_on_the_callers_mode(mode: Callable[[], Any]) -> None:
    model = nn.Sequential(cb(3, 8), cb(8, 8), *head(8)).eval()
    outside, macs = trace_channels(model, X), count_macs(model, X)
    with mode():
        x = X.clone()
        inside = trace_channels(model, x)
        assert count_macs(model, x) == macs
        small = remove_channels(model, outside, half(outside))
    assert inside.to_json() == outside.to_json()
    small.train()(X.repeat(2, 1, 1, 1)).sum().backward()


@pytest.mark.parametrize("how", ["decorator", "block"])
def test_a_forward_that_enters_inference_mode_is_seen_and_counted(how: str) -> None:
    class Inference(nn.Sequential):
        @torch.inference_mode(how == "decorator")
        def forward(self, x: Tensor) -> Tensor:
            with torch.inference_mode():
                return super().forward(x)

    layers = cb(3, 8), cb(8, 8), *head(8)
    groups, plain = (trace_channels(kind(*layers).eval(), X) for kind in (Inference, nn.Sequential))
    assert groups.to_json() == plain.to_json()
    assert count_macs(Inference(*layers), X) == count_macs(nn.Sequential(*layers), X) > 0
    with torch.inference_mode():
        assert torch.is_inference_mode_enabled()  # as ever


def test_exported_programs_are_refused_in_one_line() -> None:
    program = torch.export.export(nn.Sequential(cb(3, 8), *head(8)).eval(), (X,)).module()
    for model in (program, nn.Sequential(program)):
        with pytest.raises(UserError, match=r"^exported programs cannot be pruned, and .* before torch.export$"):
            trace_channels(model, X)


def test_sharded_and_unused_models_are_refused_in_one_line() -> None:
    class FullyShardedDataParallel(nn.Module):
        """Stands for torch's, which needs a process group."""

    with pytest.raises(UserError, match="prune first, and shard what is left"):
        trace_channels(FullyShardedDataParallel(), X)
    with pytest.raises(UserError, match=r"'0' is a LazyConv2d.*call the model on an example"):
        trace_channels(nn.Sequential(nn.LazyConv2d(8, 3)), X)


def test_channels_last_changes_nothing() -> None:
    model = nn.Sequential(cb(3, 8), cb(8, 8), *head(8)).to(memory_format=torch.channels_last).eval()
    check(model, X.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_a_recurrent_layer_reads_fewer_channels(kind: type[nn.RNNBase]) -> None:
    class Crnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cnn = nn.Sequential(cb(3, 8), nn.Conv2d(8, 12, (16, 3), padding=(0, 1)), nn.ReLU())
            self.rnn, self.fc = kind(12, 6, num_layers=2, bidirectional=True), nn.Linear(12, 7)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(self.rnn(self.cnn(x).squeeze(2).permute(2, 0, 1))[0])

    model = Crnn().eval()
    groups = check(model, least=0.5)
    assert groups["cnn.1"].locked is None
    gates = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1}[kind]
    recurrent = 16 * 2 * gates * 6 * ((12 + 6) + (12 + 6))
    assert count_macs(model, X) == count_macs(model.cnn, X) + recurrent + 16 * 12 * 7
    small = remove_channels(model, groups, half(groups))
    assert small.rnn.input_size == 6 and small.rnn.weight_ih_l0.shape[1] == 6
    small.train()(X).sum().backward()


def test_the_fast_path_of_attention_is_not_taken() -> None:
    class Hybrid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = cb(3, 16, 2)
            layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
            self.t, self.h = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.h(self.t(self.stem(x).flatten(2).transpose(1, 2)).mean(1))

    model = Hybrid().eval()
    places = 64
    assert count_macs(model, X) == 3 * 16 * 9 * places + places * 16 * (3 * 16 + 16 + 2 * 24) + 16 * 5
    assert trace_channels(model, X)["t.layers.0.linear1"].locked is None


@pytest.mark.parametrize("how", ["circular", "slices", "two halves"])
def test_writes_into_slices_of_a_fresh_tensor(how: str) -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = cb(3, 8), cb(3, 8), cb(16 if how == "two halves" else 8, 8)

        def forward(self, x: Tensor) -> Tensor:
            a = self.a(x)
            if how == "circular":
                y = F.pad(a, (1, 1, 1, 1), mode="circular")
            elif how == "slices":
                y = a.new_zeros(1, a.shape[1], 17, 17)
                y[:, :, 1:, 1:] = a
            else:
                b = self.b(x)
                y = a.new_zeros(1, a.shape[1] + b.shape[1], 16, 16)
                y[:, : a.shape[1]] = a
                y[:, a.shape[1] :] = b
            return self.c(y).mean((2, 3))

    groups = check(nn.Sequential(Writing(), nn.Linear(8, 5)).eval())
    assert groups["0.a.0"].locked is None


class MFM(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.o, self.f = o, nn.Conv2d(i, 2 * o, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.max(*torch.split(self.f(x), self.o, 1))


class PConv(nn.Module):
    def __init__(self, c: int, several: bool) -> None:
        super().__init__()
        self.c, self.u, self.sizes = c // 4, c - c // 4, [c // 4, c - c // 4] if several else None
        self.conv = nn.Conv2d(c // 4, c // 4, 3, padding=1)
        self.mlp = nn.Sequential(nn.Conv2d(c, 2 * c, 1), nn.ReLU(), nn.Conv2d(2 * c, c, 1))

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.split(x, self.sizes or [self.c, self.u], 1)
        return x + self.mlp(torch.cat([self.conv(a), b], 1))


class Blur(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.channels = c
        self.register_buffer("filt", torch.ones(c, 1, 3, 3) / 9)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.filt, stride=2, padding=1, groups=self.channels)


class Heads(nn.Module):
    """Attention whose width follows its number of heads."""

    def __init__(self, c: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale = heads, 4, 0.5
        self.qkv, self.proj = nn.Linear(c, 3 * heads * 4), nn.Linear(heads * 4, c)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).reshape(n, h * w, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        y = self.proj(y.transpose(1, 2).reshape(n, h * w, -1))
        return x + y.transpose(1, 2).reshape(n, c, h, w)


class View(nn.Module):
    def __init__(self, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.sizes = torch.Size(sizes)

    def forward(self, x: Tensor) -> Tensor:
        return x.view(-1, *self.sizes)


WIDTHS: dict[str, Callable[[], nn.Module]] = {
    "halves": lambda: nn.Sequential(MFM(3, 8), MFM(8, 16), *head(16)),
    "quarters": lambda: nn.Sequential(cb(3, 16), PConv(16, False), cb(16, 16), *head(16)),
    "list of sizes": lambda: nn.Sequential(cb(3, 16), PConv(16, True), cb(16, 16), *head(16)),
    "blur": lambda: nn.Sequential(cb(3, 8), cb(8, 16), Blur(16), cb(16, 16), *head(16)),
    "size": lambda: nn.Sequential(cb(3, 8), View((8, 16, 16)), cb(8, 8), *head(8)),
    "heads": lambda: nn.Sequential(cb(3, 8), Heads(8, 6), cb(8, 8), *head(8)),
    "unflatten": lambda: nn.Sequential(
        cb(3, 8), nn.Flatten(), nn.Linear(2048, 72), nn.Unflatten(1, (8, 3, 3)), cb(8, 8), *head(8)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDTHS)
def test_widths_in_attributes_follow_and_are_saved(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = WIDTHS[name]().eval()
    groups = check(model, least=0.9)
    assert groups.attributes
    plan = half(groups)
    small = remove_channels(model, groups, plan)
    assert groups.attributes_after(plan) and ChannelGroups.from_json(groups.to_json()).attributes == groups.attributes
    again = remove_channels(small, groups.after(plan), half(groups.after(plan)))
    for number, net in enumerate((small, again)):
        path = tmp_path / f"{number}.pt"
        save_pruned(path, model, net, {})
        assert torch.equal(load_pruned(path, WIDTHS[name]().eval())(X), net(X))
    small.train()(X.repeat(2, 1, 1, 1)).sum().backward()


def test_a_number_that_is_a_width_by_chance_stays() -> None:
    class Chance(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.steps, self.size = cb(3, 8), 8, 16
            self.b = cb(8, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x) * (1.0 / self.steps))
            return F.adaptive_avg_pool2d(y, self.size).mean((2, 3))

    model = nn.Sequential(Chance(), nn.Linear(16, 5)).eval()
    groups = check(model)
    small = remove_channels(model, groups, half(groups))
    assert small[0].steps == 8 and small[0].size == 16


def test_the_reason_names_the_attribute_that_stands_in_the_way() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = 8

        def forward(self, x: Tensor) -> Tensor:
            return x.view(1, self.wide, -1) + torch.arange(8.0).view(1, 8, 1)

    model = nn.Sequential(nn.Conv2d(3, 8, 3), Fixed(), nn.Flatten(), nn.Linear(8 * 196, 4)).eval()
    assert "constant" in str(trace_channels(model, X)["0"].locked)


class Ones(nn.Module):
    """Code that makes a tensor as wide as a number says."""

    width = 16

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        if how == "list":
            self.shape = (16, 16, 16)
        elif how == "dict":
            self.settings = {"stem": {"width": 16}}
        elif how == "dataclass":
            self.settings = Settings()

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "list":
            return x.view(-1, *self.shape)
        kept = (
            self.settings["stem"]["width"] if self.how == "dict" else self.settings.width if self.how != "class" else 0
        )
        return x * torch.ones(kept or self.width)[:, None, None]


@dataclasses.dataclass(frozen=True)
class Settings:
    width: int = 16


@pytest.mark.parametrize("how", ["class", "list"])
def test_a_number_of_the_class_or_one_of_equal_ones_follows(how: str, tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(cb(3, 16), Ones(how), cb(16, 8), *head(8)).eval()

    model = build()
    groups = check(model)
    small = remove_channels(model, groups, half(groups))
    assert (small[1].width, model[1].width) == (8, 16) if how == "class" else small[1].shape == (8, 16, 16)
    save_pruned(tmp_path / "model.pt", model, small, {})
    assert torch.equal(load_pruned(tmp_path / "model.pt", build())(X), small(X))


@pytest.mark.parametrize(("how", "named"), [("dict", "1.settings.stem.width = 16"), ("dataclass", "1.settings.width")])
def test_the_reason_names_a_number_that_lies_deeper(how: str, named: str) -> None:
    groups = trace_channels(nn.Sequential(cb(3, 16), Ones(how), cb(16, 8), *head(8)).eval(), X)
    assert f"if they are made plain attributes of the module: {named}" in str(groups["0.0"].locked)


def test_a_block_can_be_fused_after_pruning() -> None:
    class Rep(nn.Module):
        def __init__(self, i: int, o: int) -> None:
            super().__init__()
            self.in_channels, self.out_channels = i, o
            self.dense, self.skip = nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(i) if i == o else None
            self.fused: nn.Conv2d | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.fused is not None:
                return F.relu(self.fused(x))
            return F.relu(self.dense(x) + (0 if self.skip is None else self.skip(x)))

        def fuse(self) -> None:
            kernel, bias = self.dense.weight.detach().clone(), self.dense.bias.detach().clone()
            if self.skip is not None:
                scale = self.skip.weight / (self.skip.running_var + self.skip.eps).sqrt()
                for c in range(self.in_channels):
                    kernel[c, c, 1, 1] += scale[c]
                bias += self.skip.bias - self.skip.running_mean * scale
            self.fused = nn.Conv2d(self.in_channels, self.out_channels, 3, padding=1)
            self.fused.weight.data, self.fused.bias.data = kernel, bias

    model = nn.Sequential(Rep(3, 8), Rep(8, 8), Rep(8, 12), *head(12)).eval()
    groups = check(model)
    small = remove_channels(model, groups, half(groups)).eval()
    expected = small(X)
    for module in small[:3]:
        module.fuse()
    assert torch.allclose(small(X), expected, atol=1e-5)
    assert [(m.in_channels, m.out_channels) for m in small[:3]] == [(3, 4), (4, 4), (4, 6)]


def test_what_fills_at_run_time_is_not_saved_as_pruning(tmp_path: Path) -> None:
    class Grid(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.shape, self.side, self.grid = nn.Conv2d(8, 4, 1), None, 0, torch.empty(0)

        def forward(self, x: Tensor) -> Tensor:
            x = self.out(x)
            if self.shape != x.shape[2:] or self.side != x.shape[3]:
                self.shape, self.side = x.shape[2:], x.shape[3]
                self.grid = torch.arange(x[0, 0].numel()).view(1, 1, *self.shape).float()
            return x + self.grid

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(cb(3, 8), cb(8, 8, 2), Grid()).eval()

    base = build()
    groups = trace_channels(base, X)
    assert base[2].shape is None  # tracing leaves no cache behind
    small = remove_channels(base, groups, half(groups))
    expected = small(X)
    save_pruned(tmp_path / "model.pt", base, small, {})
    assert torch.equal(load_pruned(tmp_path / "model.pt", build())(X), expected)
    assert "2" not in [
        k for k, v in torch.load(tmp_path / "model.pt")["attributes"].items() if "shape" in v or "side" in v
    ]


def test_buffers_that_are_made_at_run_time_are_loaded(tmp_path: Path) -> None:
    class Lazy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            if not hasattr(self, "window"):
                self.register_buffer("window", torch.linspace(0, 1, x.shape[-1]))
            return x * self.window

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(cb(3, 8), Lazy(), *head(8)).eval()

    base = build()
    groups = trace_channels(base, X)
    small = remove_channels(base, groups, half(groups))
    expected = small(X)
    save_pruned(tmp_path / "model.pt", base, small, {})
    loaded = load_pruned(tmp_path / "model.pt", build())
    assert torch.equal(loaded(X), expected)
    assert loaded.state_dict().keys() == small.state_dict().keys()
    with pytest.raises(UserError, match="another network"):
        load_pruned(tmp_path / "model.pt", nn.Sequential(cb(3, 8), Lazy(), *head(8), nn.Linear(5, 5)))


def test_a_width_that_only_training_reads_follows(tmp_path: Path) -> None:
    class Noise(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.count = count

        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.rand(len(x), self.count, 1, 1) > 0.1) if self.training else x

    def build() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(cb(3, 8), Noise(8), cb(8, 8), *head(8)).eval()

    groups = check(build())
    small = remove_channels(build(), groups, half(groups))
    assert small[1].count == 4
    small.train()(X.repeat(2, 1, 1, 1)).sum().backward()
    save_pruned(tmp_path / "model.pt", build(), small, {})
    assert load_pruned(tmp_path / "model.pt", build())[1].count == 4


@pytest.mark.parametrize("how", ["mask", "feature", "gradient"])
def test_constant_widths_in_training_lock(how: str) -> None:
    class Wide(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 1.0

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * torch.ones(1, 8, 1, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = cb(3, 8), cb(8, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Any:
            y = self.a(x)
            if how == "gradient":
                y = Wide.apply(y)
            if self.training and how == "mask":
                y = y * (torch.rand(len(y), 8, 1, 1) > 0.1)
            f = self.b(y).mean((2, 3))
            return (self.h(f), f) if self.training and how == "feature" else self.h(f)

    model = Net().eval()
    groups = trace_channels(model, X)
    locked = groups["b.0" if how == "feature" else "a.0"].locked
    assert locked is not None and "in training mode" in locked
    small = remove_channels(model, groups, half(groups)).train()
    out = small(X.repeat(2, 1, 1, 1))
    (out[0] if how == "feature" else out).sum().backward()
    assert how != "feature" or out[1].shape[1] == 12


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_whole_groups_of_a_group_normalisation_go(count: int) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(count, 8), nn.ReLU(), nn.Conv2d(8, 5, 3)).eval()
    if count <= 1:
        assert "group normalisation" in str(trace_channels(model, X)["0"].locked)
        return
    groups = check(model, least=0.3)
    assert groups["0"].size == count
    if count > 2:
        small = remove_channels(model, groups, PruningPlan({"0": [1]}))
        assert small[1].num_groups == count - 1 and small[1].num_channels == 8 - 8 // count


def test_group_norms_over_a_concatenation() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.n, self.c = (
                nn.Conv2d(3, 16, 3),
                nn.Conv2d(3, 8, 3),
                nn.GroupNorm(4, 24),
                nn.Conv2d(24, 5, 3),
            )
            self.na = nn.GroupNorm(4, 16)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(F.silu(self.n(torch.cat([self.na(self.a(x)), self.b(x)], 1))))

    model = Skip().eval()
    groups = trace_channels(model, X, min_channels=1)
    assert difference(model, groups, random_plan(groups, 0.5), X) < 1e-9


@pytest.mark.parametrize("how", ["expand", "repeat", "fold"])
def test_a_fixed_filter_leaves_channels_apart(how: str) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = cb(3, 8), cb(8, 12), nn.Linear(12, 5)
            self.register_buffer("k", torch.ones(1, 1, 3, 3) / 9)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            n, c, h, w = x.shape
            if how == "fold":
                x = F.conv2d(x.reshape(n * c, 1, h, w), self.k, padding=1).view(n, c, h, w)
            else:
                kernel = self.k.expand(c, 1, 3, 3) if how == "expand" else self.k.repeat(c, 1, 1, 1)
                x = F.conv2d(x, kernel, padding=1, groups=c)
            return self.h(self.b(x).mean((2, 3)))

    assert check(Net().eval(), least=0.9)["a.0"].filter_macs == 9 * 256


def test_tied_kernels_of_an_autoencoder() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.f = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Linear(8, 6)

        def forward(self, x: Tensor) -> Tensor:
            up = {"stride": 2, "padding": 1, "output_padding": 1}
            h = F.relu(self.b(F.relu(self.a(x))))
            h = h + (F.relu(h.transpose(1, 3) @ self.f.weight.t()) @ self.f.weight).transpose(1, 3)
            return F.conv_transpose2d(F.relu(F.conv_transpose2d(h, self.b.weight, **up)), self.a.weight, **up)

    assert not trace_channels(Tied().eval(), X)["a"].locked
    check(Tied().eval(), least=0.9)


@pytest.mark.parametrize("draw", ["dropout", "noise", "gate"])
def test_random_numbers_are_the_same_for_both(draw: str) -> None:
    class Random(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = cb(3, 8), cb(8, 12), nn.Linear(12, 5)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            if draw == "dropout":
                y = F.dropout2d(y, 0.2, training=True)
            elif draw == "noise":
                y = y * (1 + torch.randn_like(y)) * torch.empty_like(y).uniform_(0.5, 1.5)
            else:
                y = y * (torch.rand(1, y.shape[1], 1, 1) > 0.3)
            return self.h(F.dropout(self.b(y).mean((2, 3)), 0.3, training=True))

    groups = trace_channels(Random().eval(), X)
    assert [g.name for g in groups if g.locked] == ["h"]


@pytest.mark.parametrize("draw", ["python", "numpy", "skip", "rrelu"])
def test_draws_of_python_and_numpy_and_slopes_are_the_same_for_both(draw: str) -> None:
    def forward(net: Net, x: Tensor) -> Tensor:
        y = net.a(x)
        if draw == "python":
            y = y * random.uniform(0.5, 1.5)
        elif draw == "numpy":
            y = y + float(np.random.rand())
        elif draw == "rrelu":
            y = F.rrelu(y - 0.2, training=net.training)
        elif net.training and random.random() < 0.5:
            y = y * 0.5
        return net.h(net.b(y).mean((2, 3)))

    states = random.getstate(), np.random.get_state()[2]
    for _ in range(3):
        net = Net(forward, a=cb(3, 8), b=cb(8, 12), h=nn.Linear(12, 5)).eval()
        assert [g.name for g in trace_channels(net, X) if g.locked] == ["h"]
    assert (random.getstate(), np.random.get_state()[2]) == states


def test_transplant_keeps_strangers_and_reads_prefixes() -> None:
    old = nn.Sequential(cb(3, 8), cb(8, 8), *head(8))
    groups = trace_channels(old, X)
    plan, centres = half(groups), nn.Parameter(torch.randn(5, 5))
    optimizer = torch.optim.SGD([{"params": old.parameters()}, {"params": [centres], "lr": 0.5}], 0.1, momentum=0.9)
    (old(X.repeat(2, 1, 1, 1)) @ centres).square().mean().backward()
    optimizer.step()
    momentum = optimizer.state[centres]["momentum_buffer"]
    new = remove_channels(old, groups, plan)
    transplant(optimizer, old, new, groups, plan)
    assert optimizer.param_groups[1]["params"] == [centres]
    assert optimizer.state[centres]["momentum_buffer"] is momentum
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "model.", "ema.module."):
        ema = transplant({prefix + k: v for k, v in old.state_dict().items()}, old, new, groups, plan)
        assert ema[prefix + "0.0.weight"].shape == new[0][0].weight.shape
    several = {prefix + k: v for k, v in old.state_dict().items() for prefix in ("student.", "teacher.")}
    cut = transplant(several, old, new, groups, plan)
    for name, tensor in new.state_dict().items():
        assert cut[f"student.{name}"].shape == cut[f"teacher.{name}"].shape == tensor.shape

    class Averaged(nn.Module):  # as timm's and others' are
        def __init__(self, model: nn.Module) -> None:
            super().__init__()
            self.decay, self.module = 0.9, copy.deepcopy(model)

    averaged = Averaged(old)
    smaller = transplant(averaged, old, new, groups, plan)
    assert torch.equal(smaller.module.eval()(X), remove_channels(old, groups, plan).eval()(X))
    assert smaller.decay == 0.9
    assert averaged.module[0][0].out_channels == 8
    with pytest.raises(UserError, match="none of the names"):
        transplant({"encoder.weight": torch.ones(3)}, old, new, groups, plan)


def test_chosen_outputs_are_the_ones_that_stay() -> None:
    class Features(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = cb(3, 8), nn.Conv2d(8, 4, 3)

        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            f = self.a(x)
            return self.b(f), [f]

    model = Features().eval()
    assert trace_channels(model, X)["a.0"].locked == "it is an output of the model"
    groups = trace_channels(model, X, outputs=lambda result: result[0])
    assert groups["a.0"].locked is None and groups["b"].locked == "it is an output of the model"


APPROXIMATE: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: nn.Sequential(nn.Linear(16, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 5)),
    "group norm in part": lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(1, 8), nn.ReLU(), nn.Conv2d(8, 4, 3)),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_groups_are_a_choice_and_say_so(name: str) -> None:
    model = APPROXIMATE[name]().eval()
    assert not [g for g in trace_channels(model, X).prunable if "0" in g.name]
    groups = trace_channels(model, X, approximate=True)
    assert groups["0"].approximate and "normalisation" in groups["0"].approximate[0]
    assert ChannelGroups.from_json(groups.to_json())["0"].approximate == groups["0"].approximate
    small = remove_channels(model, groups, half(groups)).train()
    small(X).sum().backward()


def test_cosine_heads_and_unit_features() -> None:
    class Cosine(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.w = cb(3, 8), cb(8, 12), nn.Parameter(torch.randn(5, 12))

        def forward(self, x: Tensor) -> Tensor:
            f = F.normalize(F.normalize(self.b(self.a(x)), dim=1).mean((2, 3)), dim=1)
            return F.linear(f, F.normalize(self.w, dim=1)) * 10

    check(Cosine().eval())


def test_keyword_inputs_work_all_the_way() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.h = cb(3, 8), cb(1, 8), nn.Linear(8, 5)

        def forward(self, *, image: Tensor, depth: Tensor) -> dict[str, Tensor]:
            return {"y": self.h((self.a(image) + self.b(depth)).mean((2, 3)))}

    model, inputs = Named().eval(), {"image": X, "depth": X[:, :1]}
    groups = trace_channels(model, kwargs=inputs)
    plan = half(groups)
    small = remove_channels(model, groups, plan)
    assert count_macs(small, kwargs=inputs) == CostModel(groups).macs(plan.counts)
    assert difference(model, groups, plan, kwargs=inputs) < 1e-9


def test_operators_whose_macs_are_unknown_are_named() -> None:
    model = nn.Sequential(nn.Flatten(1), nn.Linear(768, 6))
    bilinear = nn.Bilinear(6, 6, 4)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.f, self.g = model, bilinear

        def forward(self, x: Tensor) -> Tensor:
            return self.g(self.f(x), self.f(x))

    with pytest.warns(UserWarning, match="not known and not counted: _trilinear"):
        assert count_macs(Net(), X) == 2 * 768 * 6
    with pytest.warns(UserWarning, match="_trilinear"):
        assert trace_channels(Net(), X).uncounted == ("_trilinear",)


def test_masking_and_removal_leave_the_callers_model_alone() -> None:
    model = WIDTHS["heads"]()
    model.train()
    before = copy.deepcopy(model.state_dict())
    groups = trace_channels(model, X)
    mask_channels(model, groups, half(groups))
    assert model.training and all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_widths_that_are_tied_by_the_code_do_not_fit_by_chance() -> None:
    """Every group loses about the same share, so equal widths would stay equal if the counts were not varied."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = cb(3, 8), nn.Linear(8, 8), cb(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            n, c, h, w = x.shape
            return self.c(self.b(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(n, c, h, w)).mean((2, 3))

    groups = trace_channels(Tied().eval(), X)
    assert {groups["a.0"].locked is None, groups["b"].locked is None} != {True}
