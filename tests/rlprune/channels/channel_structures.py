"""Small networks, one for every structure the engine must know. Each maps (n, 3, 16, 16) to something."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

STRUCTURES: dict[str, Callable[[], nn.Module]] = {}
LOCKED: dict[str, str] = {}  # structure -> what some lock must name
INPUTS: dict[str, Callable[[], tuple[Any, ...]]] = {}


def structure(name: str, locked: str | None = None, inputs: Callable[[], tuple[Any, ...]] | None = None) -> Any:
    def enter(factory: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        STRUCTURES[name] = factory
        if locked is not None:
            LOCKED[name] = locked
        if inputs is not None:
            INPUTS[name] = inputs
        return factory

    return enter


def inputs_of(name: str) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(0)
    return INPUTS[name]() if name in INPUTS else (torch.randn(2, 3, 16, 16, generator=generator),)


class Net(nn.Module):
    """Modules by name, and a forward function."""

    def __init__(self, forward: Callable[..., Any], **modules: Any) -> None:
        super().__init__()
        self.function = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(self, *args, **kwargs)


def conv(i: int, o: int, k: int = 3, **kwargs: Any) -> nn.Conv2d:
    return nn.Conv2d(i, o, k, padding=k // 2, **kwargs)


def bn_relu(i: int, o: int, k: int = 3, **kwargs: Any) -> nn.Sequential:
    return nn.Sequential(conv(i, o, k, bias=False, **kwargs), nn.BatchNorm2d(o), nn.ReLU())


def net(forward: Callable[..., Any], **modules: Any) -> Callable[[], nn.Module]:
    return lambda: Net(forward, **{name: make() for name, make in modules.items()})


def c(*args: Any, **kwargs: Any) -> Callable[[], nn.Module]:
    return lambda: conv(*args, **kwargs)


def m(cls: Any, *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: cls(*args, **kwargs)


structure("residual")(net(lambda s, x: s.out(F.relu(s.a(x) + s.b(F.relu(s.a(x))))), a=c(3, 8), b=c(8, 8), out=c(8, 4)))
structure("shared shortcut")(
    net(
        lambda s, x: s.out(torch.relu(s.b(s.a(x)) + s.down(s.a(x))) + s.d(torch.relu(s.down(s.a(x))))),
        a=c(3, 6), b=c(6, 8), down=c(6, 8, 1), d=c(8, 8), out=c(8, 4),
    )
)  # fmt: skip
structure("option A", locked="constant_pad_nd")(
    net(
        lambda s, x: s.out(s.b(F.relu(s.a(x))) + F.pad(s.a(x)[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4))),
        a=c(3, 8), b=c(8, 16, stride=2), out=c(16, 4),
    )
)  # fmt: skip
structure("option A, one side", locked="constant_pad_nd")(
    net(lambda s, x: s.out(s.b(s.a(x)) + F.pad(s.a(x), (0, 0, 0, 0, 0, 4))), a=c(3, 8), b=c(8, 12), out=c(12, 4))
)
structure("option A by cat", locked="cat")(
    net(
        lambda s, x: s.out(s.b(s.a(x)) + torch.cat([s.a(x), x.new_zeros(2, 4, 16, 16)], 1)),
        a=c(3, 8), b=c(8, 12), out=c(12, 4),
    )
)  # fmt: skip


@structure("concatenation of concatenations, into conv and flatten")
class Cats(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = bn_relu(3, 4), bn_relu(4, 6), bn_relu(10, 5)
        self.d, self.fc = bn_relu(15, 4, stride=4), nn.Linear(15 * 16 + 4 * 16, 7)

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        ab = torch.cat([a, self.b(a)], 1)
        abc = torch.cat([ab, self.c(ab)], 1)
        small = F.adaptive_avg_pool2d(abc, 4).flatten(1)
        return self.fc(torch.cat([small, self.d(abc).flatten(1)], 1))


structure("grouped")(net(lambda s, x: s.c(s.b(s.a(x))), a=c(3, 12), b=c(12, 18, groups=3), c=c(18, 4)))
structure("grouped, reads a concatenation")(
    net(lambda s, x: s.c(s.b(torch.cat([s.a(x), s.d(x)], 1))), a=c(3, 8), d=c(3, 4), b=c(12, 18, groups=3), c=c(18, 4))
)
structure("grouped, one filter a group")(
    net(lambda s, x: s.c(s.b(s.a(x))), a=c(3, 12), b=c(12, 6, groups=6), c=c(6, 4))
)
structure("depthwise")(net(lambda s, x: s.c(F.relu(s.b(s.a(x)))), a=c(3, 8), b=c(8, 8, groups=8), c=c(8, 4)))
structure("depthwise, multiplier 2")(net(lambda s, x: s.c(s.b(s.a(x))), a=c(3, 8), b=c(8, 16, groups=8), c=c(16, 4)))
structure("depthwise on the input", locked="the model's input")(
    net(lambda s, x: s.c(s.b(x)), b=c(3, 6, groups=3), c=c(6, 4))
)
structure("transposed")(
    net(lambda s, x: s.c(s.b(s.a(x))), a=c(3, 8), b=m(nn.ConvTranspose2d, 8, 6, 2, stride=2), c=c(6, 4))
)
structure("transposed, grouped")(
    net(lambda s, x: s.c(s.b(s.a(x))), a=c(3, 8), b=m(nn.ConvTranspose2d, 8, 12, 2, stride=2, groups=2), c=c(12, 4))
)
structure("transposed, depthwise")(
    net(lambda s, x: s.c(s.b(s.a(x))), a=c(3, 8), b=m(nn.ConvTranspose2d, 8, 16, 2, stride=2, groups=8), c=c(16, 4))
)
structure("chunk")(
    net(lambda s, x: s.c(torch.mul(*s.a(x).chunk(2, 1))) + s.d(s.a(x)), a=c(3, 12), c=c(6, 4), d=c(12, 4))
)
structure("split with sizes", locked="sizes are constants")(
    net(lambda s, x: s.c(s.a(x).split([6, 6], 1)[1]), a=c(3, 12), c=c(6, 4))
)
structure("uneven split", locked="split_with_sizes")(
    net(lambda s, x: s.c(s.a(x).split([5, 7], 1)[1]), a=c(3, 12), c=c(7, 4))
)
structure("slice by share of the channels")(
    net(lambda s, x: s.c(s.a(x)[:, s.a(x).shape[1] // 3 :]), a=c(3, 12), c=c(8, 4))
)
structure("slice by constants", locked="slice")(net(lambda s, x: s.c(s.a(x)[:, 1:6]), a=c(3, 12), c=c(5, 4)))
structure("picked channel", locked="select|slice")(
    net(lambda s, x: s.c(s.a(x)[:, :1] * s.a(x)[:, 2, None]), a=c(3, 9), c=c(1, 4))
)
structure("indexed channels", locked="index")(net(lambda s, x: s.c(s.a(x)[:, [1, 3, 2]]), a=c(3, 9), c=c(3, 4)))


@structure("C2f")
class C2f(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.first, self.last = bn_relu(3, 6), bn_relu(6, 12, 1), bn_relu(24, 8, 1)
        self.steps = nn.ModuleList([bn_relu(6, 6), bn_relu(6, 6)])
        self.out = conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = list(self.first(self.stem(x)).chunk(2, 1))
        y.extend(step(y[-1]) for step in self.steps)
        return self.out(self.last(torch.cat(y, 1)))


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, channels, h, w = x.shape
    return x.contiguous().view(n, groups, channels // groups, h, w).transpose(1, 2).reshape(n, channels, h, w)


structure("channel shuffle")(
    net(lambda s, x: s.c(shuffle(s.b(shuffle(s.a(x), 3)), 3)), a=c(3, 36), b=c(36, 36, groups=3), c=c(36, 4))
)
structure("channel shuffle module")(
    net(lambda s, x: s.c(F.channel_shuffle(s.b(s.a(x)), 3)), a=c(3, 12), b=c(12, 12, groups=3), c=c(12, 4))
)
structure("unbind")(
    net(
        lambda s, x: s.c(torch.add(*s.a(x).view(x.shape[0], 2, -1, 16, 16).unbind(1))),
        a=c(3, 12), c=c(6, 4),
    )
)  # fmt: skip
structure("unbind channels", locked="unbind")(
    net(lambda s, x: s.c(torch.stack(s.a(x).unbind(1), 1)), a=c(3, 6), c=c(6, 4))
)
structure("pixel shuffle")(net(lambda s, x: s.c(F.pixel_shuffle(s.a(x), 2)), a=c(3, 24), c=c(6, 4)))
structure("pixel shuffle by hand")(
    net(
        lambda s, x: s.c(s.a(x).view(2, -1, 2, 2, 16, 16).permute(0, 1, 4, 2, 5, 3).reshape(2, -1, 32, 32)),
        a=c(3, 24), c=c(6, 4),
    )
)  # fmt: skip
structure("pixel unshuffle")(net(lambda s, x: s.c(F.pixel_unshuffle(s.a(x), 2)), a=c(3, 6), c=c(24, 4)))
structure("unfold", locked=None)(
    net(lambda s, x: s.c(F.unfold(s.a(x), 2, stride=2).view(2, -1, 8, 8)), a=c(3, 6), c=c(24, 4))
)


@structure("squeeze and excite")
class Excite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.down, self.up, self.out = bn_relu(3, 8), conv(8, 4, 1), conv(4, 8, 1), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        return self.out(x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True))))))


structure("squeeze and excite by linear")(
    net(
        lambda s, x: s.c(s.a(x) * torch.sigmoid(s.f(s.a(x).mean((2, 3))))[:, :, None, None]),
        a=c(3, 8), f=m(nn.Linear, 8, 8), c=c(8, 4),
    )
)  # fmt: skip
structure("channel attention by max", locked="amax")(
    net(lambda s, x: s.c(s.a(x) * torch.sigmoid(s.a(x).amax(1, keepdim=True))), a=c(3, 8), c=c(8, 4))
)
structure("channel attention by mean", locked="mean")(
    net(lambda s, x: s.c(s.a(x) * torch.sigmoid(s.a(x).mean(1, keepdim=True))), a=c(3, 8), c=c(8, 4))
)
structure("attention map of one channel", locked="only channel")(
    net(lambda s, x: s.c(s.a(x) * torch.sigmoid(s.b(s.a(x)))), a=c(3, 8), b=c(8, 1), c=c(8, 4))
)
structure("softmax over channels", locked="_softmax")(net(lambda s, x: s.c(s.a(x).softmax(1)), a=c(3, 8), c=c(8, 4)))
structure("normalised over channels")(net(lambda s, x: s.c(F.normalize(s.a(x))), a=c(3, 8), c=c(8, 4)))
structure("scaled by the number of channels", locked="changes more than that channel")(
    net(lambda s, x: s.c(s.a(x) / s.a(x).shape[1]), a=c(3, 8), c=c(8, 4))
)
structure("local response norm", locked="avg_pool3d")(
    net(lambda s, x: s.c(F.local_response_norm(s.a(x), 3)), a=c(3, 8), c=c(8, 4))
)
structure("flatten")(net(lambda s, x: s.f(s.a(x).flatten(1)), a=c(3, 8, stride=4), f=m(nn.Linear, 128, 5)))
structure("dynamic view")(net(lambda s, x: s.f(s.a(x).view(len(x), -1)), a=c(3, 8, stride=4), f=m(nn.Linear, 128, 5)))
structure("static view", locked="sizes are constants")(
    net(lambda s, x: s.f(s.a(x).view(-1, 128)), a=c(3, 8, stride=4), f=m(nn.Linear, 128, 5))
)
structure("flatten and back")(
    net(lambda s, x: s.b(s.a(x).flatten(1).view(len(x), -1, 4, 4)), a=c(3, 8, stride=4), b=c(8, 5))
)


@structure("functional")
class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 3, 3, 3)), nn.Parameter(torch.randn(8))
        self.w2 = nn.Parameter(torch.randn(5, 8))
        self.slope = nn.Parameter(torch.rand(8))

    def forward(self, x: Tensor) -> Tensor:
        x = F.prelu(F.conv2d(x, self.w1, self.b1), self.slope)
        return F.linear(x.mean((2, 3)), self.w2)


structure("module used twice")(
    net(lambda s, x: s.out(s.b(s.a(x)) + s.b(F.relu(s.b(s.a(x))))), a=c(3, 8), b=c(8, 8), out=c(8, 4))
)
structure("shared head")(
    net(
        lambda s, x: [s.head(s.a(x)), s.head(s.b(F.max_pool2d(s.a(x), 2)))], a=c(3, 8), b=c(8, 8), head=c(8, 4)
    )
)  # fmt: skip


@structure("tied weights")
class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.out = conv(3, 8), conv(8, 8), conv(8, 8), conv(8, 4)
        self.c.weight = self.b.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.relu(self.c(F.relu(self.b(F.relu(self.a(x)))))))


class FrozenNorm(nn.Module):
    def __init__(self, n: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(n) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        w, b, rv, rm = (t.reshape(1, -1, 1, 1) for t in (self.weight, self.bias, self.running_var, self.running_mean))
        scale = w * (rv + 1e-5).rsqrt()
        return x * scale + (b - rm * scale)


structure("frozen batch norm")(net(lambda s, x: s.c(F.relu(s.n(s.a(x)))), a=c(3, 8), n=m(FrozenNorm, 8), c=c(8, 4)))
structure("instance norm")(
    net(lambda s, x: s.c(s.n(s.a(x))), a=c(3, 8), n=m(nn.InstanceNorm2d, 8, affine=True), c=c(8, 4))
)
structure("instance norm with statistics")(
    net(lambda s, x: s.c(s.n(s.a(x))), a=c(3, 8), n=m(nn.InstanceNorm2d, 8, track_running_stats=True), c=c(8, 4))
)
structure("group norm")(net(lambda s, x: s.c(s.n(s.a(x))), a=c(3, 8), n=m(nn.GroupNorm, 2, 8), c=c(8, 4)))
structure("layer norm", locked="native_layer_norm")(
    net(
        lambda s, x: s.c(s.n(s.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=c(3, 8),
        n=m(nn.LayerNorm, 8),
        c=c(8, 4),
    )
)
structure("layer norm over space")(net(lambda s, x: s.c(s.n(s.a(x))), a=c(3, 8), n=m(nn.LayerNorm, 16), c=c(8, 4)))
structure("prelu")(net(lambda s, x: s.c(s.p(s.a(x))), a=c(3, 8), p=m(nn.PReLU, 8), c=c(8, 4)))
structure("activations that are not zero at zero")(
    net(lambda s, x: s.c(torch.sigmoid(s.a(x)).exp() + 1), a=c(3, 8), c=c(8, 4))
)


@structure("layer scale and permutes")
class Next(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = conv(3, 8), conv(8, 8, groups=8)
        self.up, self.down, self.scale = nn.Linear(8, 16), nn.Linear(16, 8), nn.Parameter(torch.rand(8, 1, 1))
        self.out = conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.down(F.gelu(self.up(self.depthwise(x).permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
        return self.out(x + self.scale * y)


@structure("multi-head attention", locked="operator|bmm|layer norm")
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.patch = conv(3, 6), nn.Conv2d(6, 8, 4, stride=4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.position = nn.Parameter(torch.randn(1, 16, 8))
        self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(F.relu(self.stem(x))).flatten(2).transpose(1, 2) + self.position
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return (x + self.down(F.gelu(self.up(x)))).mean(1)


structure("attention by hand", locked="bmm")(
    net(
        lambda s, x: s.c((s.q(x).flatten(2).transpose(1, 2) @ s.k(x).flatten(2)).softmax(-1)[:, None] * 1.0),
        q=c(3, 8), k=c(3, 8), c=c(1, 4),
    )
)  # fmt: skip
structure("scaled dot product", locked="scaled_dot_product|bmm")(
    net(
        lambda s, x: s.o(
            F.scaled_dot_product_attention(
                *(t.view(len(x), 2, -1, 256).transpose(2, 3) for t in s.qkv(s.a(x)).chunk(3, 1))
            ).transpose(2, 3).reshape(len(x), -1, 16, 16)
        ),
        a=c(3, 6), qkv=c(6, 24), o=c(8, 4),
    )
)  # fmt: skip
structure("conv1d", inputs=lambda: (torch.randn(2, 3, 20),))(
    lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(8, 4, 3))
)
structure("conv3d", inputs=lambda: (torch.randn(1, 2, 6, 6, 6),))(
    lambda: nn.Sequential(nn.Conv3d(2, 8, 3), nn.BatchNorm3d(8), nn.ReLU(), nn.AvgPool3d(2), nn.Conv3d(8, 4, 1))
)
structure("unbatched", inputs=lambda: (torch.randn(3, 16, 16),))(
    lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3))
)
structure("input joins", locked="the model's input")(net(lambda s, x: s.c(s.a(x) + x), a=c(3, 3), c=c(3, 4)))
structure("cat with the input")(net(lambda s, x: s.c(torch.cat([x, s.a(x)], 1)), a=c(3, 8), c=c(11, 4)))
structure("two networks that only meet in a product", locked="crosswise")(
    net(
        lambda s, x: s.c(s.a(x).mean((2, 3))[:, :, None] * s.b(x).mean((2, 3))[:, None]),
        a=c(3, 8),
        b=c(3, 5),
        c=m(nn.Conv1d, 8, 4, 1),
    )
)
structure("gated linear unit")(net(lambda s, x: s.c(F.glu(s.a(x), 1)), a=c(3, 12), c=c(6, 4)))
structure("resizing and padding")(
    net(
        lambda s, x: s.c(F.pad(F.interpolate(s.a(x), scale_factor=2, mode="bilinear"), (1, 2, 3, 1), mode="reflect")),
        a=c(3, 8), c=c(8, 4),
    )
)  # fmt: skip
structure("channels as batch")(
    net(
        lambda s, x: s.o(s.c(s.a(x).flatten(0, 1)[:, None]).view(len(x), -1, 16, 16)),
        a=c(3, 8), c=c(1, 4), o=c(32, 4),
    )
)  # fmt: skip
structure("einsum")(
    net(lambda s, x: torch.einsum("nchw,oc->nohw", s.a(x), s.f.weight), a=c(3, 8), f=m(nn.Linear, 8, 5))
)
structure("matmul with a 1x1 kernel")(
    net(
        lambda s, x: s.c((s.f.weight.flatten(1) @ s.a(x).flatten(2)).view(len(x), -1, 16, 16)),
        a=c(3, 8),
        f=c(8, 6, 1),
        c=c(6, 4),
    )
)
structure("written in place")(net(lambda s, x: s.c(_fill(s.a(x), s.b(x))), a=c(3, 4), b=c(3, 5), c=c(9, 4)))


def _fill(a: Tensor, b: Tensor) -> Tensor:
    out = a.new_zeros(a.shape[0], a.shape[1] + b.shape[1], *a.shape[2:])
    out[:, : a.shape[1]] = a
    out[:, a.shape[1] :] = b
    return out


structure("rolled channels", locked="roll")(net(lambda s, x: s.c(s.a(x).roll(1, 1)), a=c(3, 8), c=c(8, 4)))
structure("flipped channels")(net(lambda s, x: s.c(s.a(x).flip(1)), a=c(3, 8), c=c(8, 4)))
structure("repeated channels")(net(lambda s, x: s.c(s.a(x).repeat(1, 2, 1, 1)), a=c(3, 8), c=c(16, 4)))
structure("repeat interleave")(net(lambda s, x: s.c(s.a(x).repeat_interleave(2, 1)), a=c(3, 8), c=c(16, 4)))
structure("cumulative sum", locked="cumsum")(net(lambda s, x: s.c(s.a(x).cumsum(1)), a=c(3, 8), c=c(8, 4)))
structure("sorted channels", locked="sort")(net(lambda s, x: s.c(s.a(x).sort(1)[0]), a=c(3, 8), c=c(8, 4)))


@structure("buffer of channel length")
class Buffered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c = conv(3, 8), conv(8, 4)
        self.register_buffer("gain", torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * self.gain)


@structure("constant of channel length", locked="neither parameter nor buffer")
class Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.c, self.gain = conv(3, 8), conv(8, 4), torch.rand(1, 8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) * self.gain)


def around(layer: nn.Module) -> nn.Module:
    """A layer of 8 to 6 channels between two plain ones, with another two that it must not hold back."""
    return nn.Sequential(conv(3, 5), nn.ReLU(), conv(5, 8), nn.ReLU(), layer, nn.ReLU(), conv(6, 7), conv(7, 4))


class Standardised(nn.Conv2d):
    """Weight standardisation."""

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight / weight.std((1, 2, 3), keepdim=True), self.bias, padding=1)


class Factored(nn.Module):
    """A kernel that is a product of two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Parameter(torch.randn(6, 2)), nn.Parameter(torch.randn(2, 72))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, (self.left @ self.right).view(6, 8, 3, 3), padding=1)


class Reversed(nn.Module):
    """A parametrization of one's own that moves channels."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.sum(0, keepdim=True)


class Positive(nn.Module):
    """A parametrization of one's own that leaves channels apart."""

    def forward(self, weight: Tensor) -> Tensor:
        return weight.abs()


def parametrized(layer: nn.Module, by: nn.Module) -> nn.Module:
    nn.utils.parametrize.register_parametrization(layer, "weight", by)
    return layer


def _old_weight_norm() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return around(nn.utils.weight_norm(conv(8, 6)))


norms = nn.utils.parametrizations
structure("weight norm", locked="^its weight is computed by the parametrization _WeightNorm.*convolution")(
    lambda: around(norms.weight_norm(conv(8, 6)))
)
structure("spectral norm", locked="^its weight is computed by the parametrization _SpectralNorm.*convolution")(
    lambda: around(norms.spectral_norm(conv(8, 6)))
)
structure("orthogonal", locked="^its weight is computed by the parametrization _Orthogonal.*convolution")(
    lambda: around(norms.orthogonal(conv(8, 6)))
)
structure(
    "parametrization of one's own", locked="^its weight is computed by the parametrization Reversed.*convolution"
)(lambda: around(parametrized(conv(8, 6), Reversed())))
structure("transposed with weight norm", locked="^its weight is computed by the parametrization _WeightNorm")(
    lambda: around(norms.weight_norm(nn.ConvTranspose2d(8, 6, 2), dim=1))
)
structure("weight norm by hook", locked="^its weight is computed by the hook WeightNorm.*convolution")(_old_weight_norm)
structure("spectral norm by hook", locked="^its weight is computed by the hook SpectralNorm.*convolution")(
    lambda: around(nn.utils.spectral_norm(conv(8, 6)))
)
structure("weight standardisation", locked="^its weight is computed from 4.weight .convolution")(
    lambda: around(Standardised(8, 6, 3))
)
structure("factored kernel", locked="^its weight is computed from 4.left, 4.right .convolution")(
    lambda: around(Factored())
)
structure("linear with weight norm", locked="^its weight is computed by the parametrization _WeightNorm.*addmm")(
    lambda: nn.Sequential(
        conv(3, 5), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 8), norms.weight_norm(nn.Linear(8, 6)),
        nn.ReLU(), nn.Linear(6, 7), nn.Linear(7, 4),
    )
)  # fmt: skip
structure("parametrization that leaves channels apart")(
    lambda: around(nn.Sequential(parametrized(conv(8, 8, groups=8), Positive()), parametrized(conv(8, 6), Positive())))
)
structure("kernel from activations", locked="neither a parameter nor computed from parameters alone .convolution")(
    net(
        lambda s, x: s.c(F.conv2d(s.a(x), s.f(x.mean((0, 2, 3))).view(6, 8, 1, 1))),
        a=c(3, 8), f=m(nn.Linear, 3, 48), c=c(6, 4),
    )
)  # fmt: skip


@structure("recurrent", locked="hidden state|output")
class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.r = conv(3, 5), conv(5, 8), nn.LSTM(8, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.r(self.b(self.a(x)).flatten(2).transpose(1, 2))[0]


@dataclasses.dataclass
class Result:
    scores: Tensor
    extras: dict[str, Any]


@structure(
    "nested inputs and outputs", inputs=lambda: ({"image": torch.randn(2, 3, 16, 16)}, [torch.randn(2, 3, 16, 16)])
)
class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = conv(3, 8), conv(3, 8), conv(8, 6), conv(6, 2)

    def forward(self, first: dict[str, Tensor], rest: list[Tensor]) -> Result:
        x = self.c(self.a(first["image"]) + self.b(rest[0]))
        return Result(self.d(x), {"list": [self.d(F.relu(x)), 3], "none": None})


@structure("data-dependent control flow")
class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 8), conv(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        for _ in range(int(x.sum() > 1e9) + 1):
            y = F.relu(self.b(y))
        return self.c(y)


def _by_rows(x: Tensor) -> Tensor:
    """As detectors gather regions of several levels; a single row is written without its first axis."""
    out = x.new_zeros(x.shape)
    out[torch.tensor([1])] = x[torch.tensor([1])]
    out[torch.tensor([0])] = x[torch.tensor([0])]
    return out


structure("rows written by index")(net(lambda s, x: s.c(_by_rows(s.a(x))), a=c(3, 8), c=c(8, 4)))
