"""Random CNNs: an instruction list, drawn by hypothesis, becomes a network of every structure the engine knows.

An instruction is four integers: which operation, which earlier tensors it reads, and a detail. Every list is valid:
numbers are taken modulo what is possible, so hypothesis can shrink a failing network instruction by instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from channel_structures import FrozenNorm, Positive, Standardised, parametrized, shuffle
from torch import Tensor, nn

Instruction = tuple[int, int, int, int]
Step = Callable[[list[Tensor]], Tensor]
Builder = Callable[["RandomNet", int, int, int], Step]
OPERATIONS: dict[str, Builder] = {}


class Part:
    """A module of whichever network runs: steps are plain functions, which a deep copy shares."""

    running: RandomNet

    def __init__(self, index: int) -> None:
        self.index = index

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return Part.running.parts[self.index](*args, **kwargs)

    def __getitem__(self, name: str) -> Tensor:
        return Part.running.parts[self.index][name]


def operation(function: Builder) -> Builder:
    OPERATIONS[function.__name__] = function
    return function


class RandomNet(nn.Module):
    """Runs its steps over a growing pool of tensors; heads read the last ones."""

    def __init__(self, instructions: list[Instruction], size: int = 8) -> None:
        super().__init__()
        Part.running = self
        self.parts = nn.ModuleList()
        self.shapes: list[torch.Size] = []
        self.steps: list[Step] = []
        self.convs: list[tuple[int, int]] = []  # (module index, input channels), for reuse
        torch.manual_seed(0)
        x = torch.randn(2, 3, size, size)
        pool: list[Tensor] = []
        names = list(OPERATIONS)
        with torch.no_grad():
            self.append(pool, x, self.conv_step(3, 8, 3))
            self.log = ["stem"]
            for kind, a, b, c in instructions:
                name = names[kind % len(names)]
                step = self.attempt(pool, name, a, b, c)
                if step is not None:
                    self.append(pool, x, step)
                    self.log.append(f"{name}({a % len(pool[:-1])}, {b % len(pool[:-1])}, {c})")
        self.readers = [len(pool) - 1, *range(max(0, len(pool) - 3), len(pool) - 1)]
        self.heads = nn.ModuleList()
        for number, reader in enumerate(self.readers):
            channels = pool[reader].shape[1]
            self.heads.append(nn.Conv2d(channels, 3, 1) if number % 2 else nn.Linear(channels, 4))
        self.eval()

    def add(self, module: nn.Module) -> Part:
        self.parts.append(module)
        return Part(len(self.parts) - 1)

    def conv_step(self, i: int, o: int, k: int, source: int | None = None, **kwargs: Any) -> Step:
        part = self.add(nn.Conv2d(i, o, k, padding=k // 2, **kwargs))
        if source is not None and not kwargs.get("groups"):
            self.convs.append((part.index, i))
        return lambda pool: part(pool[-1 if source is None else source])

    def append(self, pool: list[Tensor], x: Tensor, step: Step) -> None:
        value = step(pool or [x])
        pool.append(value)
        self.shapes.append(value.shape)
        self.steps.append(step)

    def attempt(self, pool: list[Tensor], name: str, a: int, b: int, c: int) -> Step | None:
        """A step if the operation applies to these tensors and its result is small, else None."""
        kept = len(self.parts)
        convs = list(self.convs)
        a, b = len(pool) - 1 - a % len(pool), len(pool) - 1 - b % len(pool)
        try:
            step = OPERATIONS[name](self, a, b, c)
            value = step(pool)
        except Inapplicable:
            value = None
        if value is None or value.ndim != 4 or value.shape[1] > 48 or not 2 <= value.shape[2] <= 16:
            del self.parts[kept:]
            self.convs = convs
            return None
        return step

    def forward(self, x: Tensor) -> dict[str, Any]:
        Part.running = self
        pool: list[Tensor] = []
        for step in self.steps:
            pool.append(step(pool or [x]))
        outputs = []
        for number, reader in enumerate(self.readers):
            value = pool[reader]
            outputs.append(self.heads[number](value if number % 2 else value.mean((2, 3))))
        return {"first": outputs[0], "rest": outputs[1:]}


class Inapplicable(Exception):
    pass


def need(condition: bool) -> None:
    if not condition:
        raise Inapplicable


WIDTHS = (4, 6, 8, 9, 12, 16)


@operation
def conv(net: RandomNet, a: int, b: int, c: int) -> Step:
    return net.conv_step(net.shapes[a][1], WIDTHS[c % 6], 3 if c % 2 else 1, a, bias=c % 3 == 0)


@operation
def conv_bn_relu(net: RandomNet, a: int, b: int, c: int) -> Step:
    first = net.conv_step(net.shapes[a][1], WIDTHS[c % 6], 3, a, bias=False)
    norm = net.add(nn.BatchNorm2d(WIDTHS[c % 6]))
    return lambda pool: F.relu(norm(first(pool)), inplace=c % 2 == 0)


@operation
def residual(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    first, norm = net.conv_step(width, width, 3, a, bias=False), net.add(nn.BatchNorm2d(width))
    if c % 3 == 0:
        return lambda pool: torch.relu(norm(first(pool)) + pool[a])
    if c % 3 == 1:
        return lambda pool: norm(first(pool)).add_(pool[a])
    return lambda pool: pool[a] - 0.5 * norm(first(pool))


@operation
def meet(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a] == net.shapes[b])
    functions = (torch.add, torch.mul, torch.maximum, lambda x, y: torch.where(x > 0, x, y), torch.sub)
    return lambda pool: functions[c % 5](pool[a], pool[b])


@operation
def project_and_add(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a][2:] == net.shapes[b][2:])
    project = net.conv_step(net.shapes[a][1], net.shapes[b][1], 1, a)
    return lambda pool: project(pool) + pool[b]


@operation
def padded_shortcut(net: RandomNet, a: int, b: int, c: int) -> Step:
    width, more = net.shapes[a][1], (c % 3) * 2
    before, after = ((0, 4), (4, 0), (2, more))[c % 3]
    main = net.conv_step(width, width + before + after, 3, a, stride=2 if c % 2 else 1)
    step = 2 if c % 2 else 1
    return lambda pool: main(pool) + F.pad(pool[a][:, :, ::step, ::step], (0, 0, 0, 0, before, after))


@operation
def concatenate(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a][2:] == net.shapes[b][2:])
    return lambda pool: torch.cat([pool[a], pool[b], *([pool[a]] if c % 4 == 0 else [])], 1)


@operation
def concatenate_in_space(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a] == net.shapes[b])
    return lambda pool: torch.cat([pool[a], pool[b]], 2 + c % 2)


@operation
def stack_and_sum(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a] == net.shapes[b])
    return lambda pool: torch.stack([pool[a], pool[b]], (0, 1, 4)[c % 3]).sum((0, 1, 4)[c % 3])


@operation
def grouped(net: RandomNet, a: int, b: int, c: int) -> Step:
    width, groups = net.shapes[a][1], (2, 3, 4)[c % 3]
    need(width % groups == 0)
    return net.conv_step(width, groups * (1 + c % 4), 3, a, groups=groups)


@operation
def depthwise(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    return net.conv_step(width, width * (1 + c % 2), 3, a, groups=width)


@operation
def transposed(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    groups = (1, 2, width)[c % 3]
    need(width % groups == 0)
    out = width * (1 + c % 2) if groups == width else 4 * groups
    up = net.add(nn.ConvTranspose2d(width, out, 2, stride=2 if c % 5 else 1, groups=groups))
    return lambda pool: up(pool[a])


@operation
def chunked(net: RandomNet, a: int, b: int, c: int) -> Step:
    parts = 2 + c % 2
    need(net.shapes[a][1] % parts == 0)

    def step(pool: list[Tensor]) -> Tensor:
        pieces = pool[a].chunk(parts, 1)
        return (pieces[0] * torch.sigmoid(pieces[1]), pieces[1], torch.cat(pieces[::-1], 1))[c % 3]

    return step


@operation
def split_statically(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    need(width > 1)
    cut = width // 2 if c % 2 else 1 + c % (width - 1)
    return lambda pool: pool[a].split([cut, width - cut], 1)[c % 2]


@operation
def sliced(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    need(width >= 4)
    functions = (
        lambda x: x[:, : x.shape[1] // 2],
        lambda x: x[:, x.shape[1] // 2 :],
        lambda x: x[:, 1:3],
        lambda x: x[:, ::2],
        lambda x: x[:, [0, 2, 1]],
        lambda x: x[:, 1][:, None].expand_as(x),
        lambda x: x[:, : width // 2],
    )
    return lambda pool: functions[c % 7](pool[a])


@operation
def c2f(net: RandomNet, a: int, b: int, c: int) -> Step:
    half = 3 + c % 3
    first = net.add(nn.Conv2d(net.shapes[a][1], 2 * half, 1))
    inner = net.add(nn.Conv2d(half, half, 3, padding=1))
    last = net.add(nn.Conv2d(3 * half, 8, 1))

    def step(pool: list[Tensor]) -> Tensor:
        y = list(first(pool[a]).chunk(2, 1))
        y.append(F.silu(inner(y[-1])))
        return last(torch.cat(y, 1))

    return step


@operation
def unbound(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a][1] % 2 == 0)

    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a].contiguous()
        n, width, h, w = x.shape
        first, second = (x.view(n, 2, -1, h, w) if c % 2 else x.view(n, 2, width // 2, h, w)).unbind(1)
        return first + torch.tanh(second)

    return step


@operation
def shuffled(net: RandomNet, a: int, b: int, c: int) -> Step:
    groups = 2 + c % 3
    need(net.shapes[a][1] % groups == 0)
    if c % 2:
        return lambda pool: F.channel_shuffle(pool[a], groups)
    return lambda pool: shuffle(pool[a], groups)


@operation
def pixels(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    if c % 2:
        need(net.shapes[a][2] % 2 == 0 and net.shapes[a][3] % 2 == 0)
        return lambda pool: F.pixel_unshuffle(pool[a], 2)
    need(width % 4 == 0)
    return lambda pool: F.pixel_shuffle(pool[a], 2)


@operation
def squeeze_excite(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    if c % 2:
        down, up = net.add(nn.Conv2d(width, 4, 1)), net.add(nn.Conv2d(4, width, 1))
        return lambda pool: pool[a] * F.hardsigmoid(up(F.relu(down(F.adaptive_avg_pool2d(pool[a], 1)))))
    gate = net.add(nn.Linear(width, width))
    return lambda pool: pool[a] * torch.sigmoid(gate(pool[a].mean((2, 3))))[:, :, None, None]


@operation
def channel_attention(net: RandomNet, a: int, b: int, c: int) -> Step:
    gate = net.add(nn.Conv2d(2, 1, 3, padding=1))

    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a]
        mean, top = x.mean(1, keepdim=True), x.max(1, keepdim=True)[0]
        return (
            x * (torch.sigmoid(gate(torch.cat([mean, top], 1))), mean, top, x.std(1, keepdim=True, correction=0))[c % 4]
        )

    return step


@operation
def gate_of_one_channel(net: RandomNet, a: int, b: int, c: int) -> Step:
    gate = net.add(nn.Conv2d(net.shapes[a][1], 1, 1))
    return lambda pool: pool[a] * torch.sigmoid(gate(pool[a]))


@operation
def through_linear(net: RandomNet, a: int, b: int, c: int) -> Step:
    width, (h, w) = net.shapes[a][1], net.shapes[a][2:]
    need(h * w <= 64)
    down, up = net.add(nn.Linear(width * h * w, 6)), net.add(nn.Linear(6, 4 * h * w))

    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a].contiguous()
        flat = (x.flatten(1), x.view(len(x), -1), x.reshape(-1, width * h * w))[c % 3]
        return up(F.relu(down(flat))).view(len(x), -1, h, w)

    return step


@operation
def functional(net: RandomNet, a: int, b: int, c: int) -> Step:
    holder = net.add(nn.ParameterDict({"w": torch.randn(6, net.shapes[a][1], 3, 3) * 0.2, "b": torch.randn(6)}))
    return lambda pool: F.conv2d(pool[a], holder["w"], holder["b"] if c % 2 else None, padding=1)


@operation
def computed_weight(net: RandomNet, a: int, b: int, c: int) -> Step:
    width, norms = net.shapes[a][1], nn.utils.parametrizations
    layer = net.add(
        (
            lambda: norms.weight_norm(nn.Conv2d(width, 6, 3, padding=1)),
            lambda: norms.spectral_norm(nn.Conv2d(width, 6, 1)),
            lambda: Standardised(width, 6, 3),
            lambda: parametrized(nn.Conv2d(width, 6, 1), Positive()),
            lambda: norms.weight_norm(nn.ConvTranspose2d(width, 6, 1), dim=1),
        )[c % 5]()
    )
    return lambda pool: layer(pool[a])


@operation
def module_again(net: RandomNet, a: int, b: int, c: int) -> Step:
    fitting = [index for index, channels in net.convs if channels == net.shapes[a][1]]
    need(bool(fitting))
    part = Part(fitting[c % len(fitting)])
    return lambda pool: part(pool[a])


@operation
def tied(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    modules = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
    modules[1].weight = modules[0].weight
    first, second = (net.add(module) for module in modules)
    return lambda pool: second(F.relu(first(pool[a])))


@operation
def normalised(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    norm = net.add(
        (
            lambda: nn.BatchNorm2d(width),
            lambda: FrozenNorm(width),
            lambda: nn.InstanceNorm2d(width, affine=True),
            lambda: nn.GroupNorm(1, width),
            lambda: nn.LayerNorm(width),
            lambda: nn.PReLU(width),
            lambda: nn.InstanceNorm2d(width, track_running_stats=True),
            lambda: nn.BatchNorm2d(width, affine=False),
        )[c % 8]()
    )
    if c % 8 == 4:
        return lambda pool: norm(pool[a].permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return lambda pool: norm(pool[a])


@operation
def next_block(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    up, down = net.add(nn.Linear(width, 10)), net.add(nn.Linear(10, width))
    scale = net.add(nn.ParameterDict({"s": torch.rand(width, 1, 1) if c % 2 else torch.rand(1, width, 1, 1)}))
    return lambda pool: pool[a] + scale["s"] * down(F.gelu(up(pool[a].permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)


@operation
def attention(net: RandomNet, a: int, b: int, c: int) -> Step:
    width, (h, w) = net.shapes[a][1], net.shapes[a][2:]
    if c % 2:
        need(width % 2 == 0)
        block = net.add(nn.MultiheadAttention(width, 2, batch_first=True))

        def step(pool: list[Tensor]) -> Tensor:
            x = pool[a].flatten(2).transpose(1, 2)
            return block(x, x, x, need_weights=c % 4 == 1)[0].transpose(1, 2).unflatten(2, (h, w))

        return step
    q, k = net.add(nn.Conv2d(width, 4, 1)), net.add(nn.Conv2d(width, 4, 1))
    v = net.add(nn.Conv2d(width, 6, 1))

    def by_hand(pool: list[Tensor]) -> Tensor:
        x = pool[a]
        scores = (q(x).flatten(2).transpose(1, 2) @ k(x).flatten(2)).softmax(-1)
        return (v(x).flatten(2) @ scores.transpose(1, 2)).view(len(x), -1, h, w)

    return by_hand


@operation
def pooled(net: RandomNet, a: int, b: int, c: int) -> Step:
    functions = (
        lambda x: F.max_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 1, 1),
        lambda x: F.adaptive_max_pool2d(x, 4),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, size=(5, 6), mode="bilinear"),
        lambda x: F.pad(x, (1, 0, 1, 0), mode="reflect"),
        lambda x: F.pad(x, (1, 1, 0, 0)),
        lambda x: x - x.mean((2, 3), keepdim=True),
    )
    return lambda pool: functions[c % 8](pool[a])


@operation
def activated(net: RandomNet, a: int, b: int, c: int) -> Step:
    functions: tuple[Callable[[Tensor], Tensor], ...] = (
        torch.sigmoid, F.gelu, F.hardswish, F.softplus, torch.cos, lambda x: x.clamp(-0.5, 0.7), lambda x: 1 - x,
        lambda x: x / (1 + x.abs()), lambda x: x.clone().mul_(2).relu_(), lambda x: F.dropout(x, 0.5, training=False),
    )  # fmt: skip
    return lambda pool: functions[c % 10](pool[a])


@operation
def over_channels(net: RandomNet, a: int, b: int, c: int) -> Step:
    functions = (
        lambda x: x.softmax(1), F.normalize, lambda x: F.local_response_norm(x, 3), lambda x: x.cumsum(1),
        lambda x: x.roll(1, 1), lambda x: x.flip(1), lambda x: x / x.shape[1], lambda x: x.sort(1)[0],
        lambda x: x.repeat(1, 2, 1, 1), lambda x: x.repeat_interleave(2, 1), lambda x: x - x.mean(1, keepdim=True),
    )  # fmt: skip
    return lambda pool: functions[c % 11](pool[a])


@operation
def written_in_place(net: RandomNet, a: int, b: int, c: int) -> Step:
    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a]
        out = torch.zeros_like(x) if c % 2 else x.new_zeros(x.shape)
        if c % 3 == 0:
            out[:, : x.shape[1] // 2] = x[:, : x.shape[1] // 2]
        elif c % 3 == 1:
            out += x
        else:
            out[:, :, ::2] = x[:, :, ::2]
        return out

    return step


class Widths(nn.Module):
    """Splits by numbers of its own: halves, or a quarter and the rest, alone or in a list."""

    def __init__(self, width: int, kind: int) -> None:
        super().__init__()
        self.kind, self.half, self.c, self.rest = kind, width // 2, width // 4, width - width // 4
        self.sizes = [width // 4, width - width // 4]
        self.inner = nn.Conv2d(width // 4, width // 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == 0:
            return torch.maximum(*x.split(self.half, 1))
        a, b = x.split([self.c, self.rest] if self.kind == 1 else self.sizes, 1)
        return torch.cat([self.inner(a), b], 1)


@operation
def widths_in_attributes(net: RandomNet, a: int, b: int, c: int) -> Step:
    need(net.shapes[a][1] % 4 == 0)
    part = net.add(Widths(net.shapes[a][1], c % 3))
    return lambda pool: part(pool[a])


@operation
def norm_groups(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]
    groups = (1, 2, 3, 4, width)[c % 5]
    need(width % groups == 0)
    norm = net.add(nn.GroupNorm(groups, width))
    return lambda pool: F.silu(norm(pool[a]))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, fused: bool) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.scale, self.fused = heads, 2, 0.7, fused
        self.qkv, self.proj = nn.Linear(width, 3 * heads * 2), nn.Linear(heads * 2, width)

    def forward(self, x: Tensor) -> Tensor:
        n, width, h, w = x.shape
        qkv = self.qkv(x.flatten(2).transpose(1, 2)).reshape(n, h * w, 3, self.num_heads, self.head_dim)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, h * w, -1)).transpose(1, 2).reshape(n, width, h, w)


@operation
def heads(net: RandomNet, a: int, b: int, c: int) -> Step:
    attention = net.add(Attention(net.shapes[a][1], 2 + c % 4, c % 2 == 0))
    return lambda pool: pool[a] + attention(pool[a]) if c % 3 else attention(pool[a])


@operation
def recurrent(net: RandomNet, a: int, b: int, c: int) -> Step:
    width, kind = net.shapes[a][1], (nn.GRU, nn.LSTM, nn.RNN)[c % 3]
    need(net.shapes[a][2] <= 8)
    reader = net.add(kind(width, 3, batch_first=True, bidirectional=c % 2 == 0))

    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a].mean(2).transpose(1, 2)
        return reader(x)[0].transpose(1, 2)[:, :, None].expand(-1, -1, pool[a].shape[2], -1)

    return step


@operation
def random_numbers(net: RandomNet, a: int, b: int, c: int) -> Step:
    functions = (
        lambda x: F.dropout2d(x, 0.3, training=True), lambda x: x + torch.randn_like(x),
        lambda x: x * torch.rand(x.shape[1], 1, 1), lambda x: x * torch.empty_like(x).uniform_(0.5, 2.0),
    )  # fmt: skip
    return lambda pool: functions[c % 4](pool[a])


@operation
def in_training_only(net: RandomNet, a: int, b: int, c: int) -> Step:
    width = net.shapes[a][1]

    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a]
        if not Part.running.training:
            return x * 2.0
        return x * torch.linspace(1, 2, width).view(-1, 1, 1) if c % 2 else x * torch.ones(x.shape[1], 1, 1)

    return step


@operation
def fixed_filter(net: RandomNet, a: int, b: int, c: int) -> Step:
    kernel = torch.ones(1, 1, 3, 3) / 9

    def step(pool: list[Tensor]) -> Tensor:
        x = pool[a]
        n, width, h, w = x.shape
        if c % 2:
            return F.conv2d(x, kernel.to(x).expand(width, 1, 3, 3), padding=1, groups=width)
        return F.conv2d(x.reshape(n * width, 1, h, w), kernel.to(x), padding=1).view(n, width, h, w)

    return step
