"""Operators that are seldom met: what they leave apart is pruned, what they mix is locked, and the values are right."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from channel_helpers import difference, random_plan
from torch import Tensor, nn

from rlprune.channels import ChannelGroups, mask_channels, remove_channels, trace_channels

X = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions with something between them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.h = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)

    def between(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.h(F.relu(self.b(self.between(F.relu(self.a(x))))).mean((2, 3)))


def pruned(model: nn.Module, *free: str) -> ChannelGroups:
    """Groups whose removal equals their masking, of which some must not be locked."""
    groups = trace_channels(model.eval(), X)
    assert all(groups[name].locked is None for name in free), groups.report()
    for seed, rate in enumerate((0.3, 0.6)):
        assert difference(model, groups, random_plan(groups, rate, seed), X) < 1e-9
    return groups


class Spectral(Net):
    """A filter over frequencies, one for each channel or one for all (global filter networks, FNet)."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(8 if own else 1, 16, 9) + 0.5)

    def between(self, x: Tensor) -> Tensor:
        return torch.fft.irfft2(torch.fft.rfft2(x, norm="ortho") * self.scale, s=x.shape[2:], norm="ortho")


@pytest.mark.parametrize("own", [False, True])
def test_fourier_transforms_over_space_leave_channels_apart(own: bool) -> None:
    model = Spectral(own)
    groups = pruned(model, "a", "b")
    small = remove_channels(model, groups, random_plan(groups, 0.5))
    assert small.scale.shape[0] == (4 if own else 1)


def test_a_convolution_over_real_and_imaginary_parts() -> None:
    """Fast Fourier convolutions (Chi et al., 2020) build complex numbers of two halves of their channels."""

    class Fourier(Net):
        def __init__(self) -> None:
            super().__init__()
            self.mix = nn.Conv2d(16, 16, 1)

        def between(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(x, norm="ortho")
            real, imaginary = self.mix(torch.cat([spectrum.real, spectrum.imag], 1)).chunk(2, 1)
            return torch.fft.irfft2(torch.complex(real, imaginary), s=x.shape[2:], norm="ortho")

    pruned(Fourier(), "a", "mix", "b")


def test_a_fourier_transform_over_channels_locks() -> None:
    class Mixing(Net):
        def between(self, x: Tensor) -> Tensor:
            return torch.fft.fft(x, dim=1).real

    assert "mixes all channels" in str(pruned(Mixing(), "b")["a"].locked)


@pytest.mark.parametrize("kind", ["scale", "scale and shift"])
def test_per_channel_scales_from_an_embedding(kind: str) -> None:
    class Conditional(Net):
        """Conditional normalisation: a class says how each channel is scaled (conditional batch norm, FiLM)."""

        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(4, 8 if kind == "scale" else 16)
            self.norm = nn.BatchNorm2d(8, affine=False)

        def between(self, x: Tensor) -> Tensor:
            row = self.embed(torch.tensor([2]))
            if kind == "scale":
                return self.norm(x) * row[:, :, None, None]
            scale, shift = row.chunk(2, 1)
            return self.norm(x) * (1 + scale[:, :, None, None]) + shift[:, :, None, None]

    model = Conditional()
    groups = pruned(model, "a", "b")
    small = remove_channels(model, groups, random_plan(groups, 0.5))
    assert small.embed.weight.shape == (4, 4 if kind == "scale" else 8)
    assert small.embed.embedding_dim == small.embed.weight.shape[1]


@pytest.mark.parametrize("parts", [1, 2])
def test_deformable_convolutions(parts: int) -> None:
    ops = pytest.importorskip("torchvision.ops")

    class Deformed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.offset, self.mask = (nn.Conv2d(8, n * 9 * parts, 3, padding=1) for n in (2, 1))
            self.c = ops.DeformConv2d(8, 12, 3, padding=1)
            self.b = nn.Conv2d(12, 8, 3, padding=1)

        def between(self, x: Tensor) -> Tensor:
            return self.c(x, self.offset(x), torch.sigmoid(self.mask(x)))

    groups = pruned(Deformed(), "a", "b", "c")
    assert groups["a"].size == 8 // parts
    assert "steer another tensor" in str(groups["offset"].locked) and groups["mask"].locked


def test_rows_that_are_picked_from_a_table_stay_and_its_columns_go() -> None:
    class Table(Net):
        """Relative positions: a table of (position, channel), read by numbers and laid out over two axes."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(31, 8))
            place = torch.arange(16)
            self.register_buffer("place", place[:, None] - place[None] + 15)

        def between(self, x: Tensor) -> Tensor:
            return x + self.table[self.place.view(-1)].view(16, 16, -1).permute(2, 0, 1)

    model = Table()
    groups = pruned(model, "a", "b")
    assert remove_channels(model, groups, random_plan(groups, 0.5)).table.shape == (31, 4)


def test_scales_that_are_picked_by_number_lock() -> None:
    class Picked(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(4))

        def between(self, x: Tensor) -> Tensor:
            return x * self.scale[torch.arange(8) % 4][:, None, None]

    assert pruned(Picked(), "b")["a"].locked


def test_torchs_attention_keeps_its_width_without_being_tried() -> None:
    class Attending(Net):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def between(self, x: Tensor) -> Tensor:
            y = x.flatten(2).transpose(1, 2)
            return self.attention(y, y, y)[0].transpose(1, 2).unflatten(2, (16, 16))

    assert "as wide as its queries" in str(pruned(Attending(), "b")["a"].locked)


def test_a_row_of_a_table_scales_channels() -> None:
    class Row(Net):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.rand(3, 8) + 0.5)

        def between(self, x: Tensor) -> Tensor:
            return x * self.table[1].view(1, -1, 1, 1)

    model = Row()
    groups = pruned(model, "a", "b")
    assert remove_channels(model, groups, random_plan(groups, 0.5)).table.shape == (3, 4)


def test_the_number_of_norm_groups_in_an_attribute_follows() -> None:
    class ByHand(Net):
        def __init__(self) -> None:
            super().__init__()
            self.groups, self.w, self.z = 4, nn.Parameter(torch.rand(8)), nn.Parameter(torch.rand(8))

        def between(self, x: Tensor) -> Tensor:
            return F.group_norm(x, self.groups, self.w, self.z)

    model = ByHand()
    groups = pruned(model, "a", "b")
    assert groups["a"].size == 4
    assert remove_channels(model, groups, random_plan(groups, 0.5)).groups == 2


@pytest.mark.parametrize("draw", ["sizes", "tensors", "exponential"])
def test_draws_of_the_channels_shape(draw: str) -> None:
    class Drawing(Net):
        def __init__(self) -> None:
            super().__init__()
            self.std = nn.Conv2d(8, 8, 1)

        def between(self, x: Tensor) -> Tensor:
            if draw == "sizes":
                return x + torch.normal(0.0, 1.0, x.shape)
            if draw == "tensors":
                return torch.normal(x, F.softplus(self.std(x)))
            return x * torch.empty_like(x).exponential_()

    groups = trace_channels(Drawing().eval(), X)
    assert groups["a"].locked is None and groups["b"].locked is None


def test_a_filter_over_frequencies_that_is_kept_as_pairs_of_real_numbers() -> None:
    """Global filter networks (Rao et al., 2021): (height, width, channels, 2), seen as complex numbers."""

    class Pairs(Net):
        def __init__(self) -> None:
            super().__init__()
            self.filter = nn.Parameter(torch.randn(16, 9, 8, 2))

        def between(self, x: Tensor) -> Tensor:
            spectrum = torch.fft.rfft2(x.permute(0, 2, 3, 1), dim=(1, 2), norm="ortho")
            spectrum = spectrum * torch.view_as_complex(self.filter)
            return torch.fft.irfft2(spectrum, s=(16, 16), dim=(1, 2), norm="ortho").permute(0, 3, 1, 2)

    model = Pairs()
    groups = pruned(model, "a", "b")
    assert remove_channels(model, groups, random_plan(groups, 0.5)).filter.shape == (16, 9, 4, 2)


def test_a_parameter_of_two_channels_seen_as_complex_numbers_stays() -> None:
    class Mixed(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.randn(4, 2))

        def between(self, x: Tensor) -> Tensor:
            return x * torch.view_as_real(torch.view_as_complex(self.scale)).flatten()[:, None, None]

    assert pruned(Mixed(), "b")["a"].size < 8 or pruned(Mixed(), "b")["a"].locked


WRITES = {
    "index_copy_": lambda x, y, at: torch.zeros_like(x).index_copy_(2, at, y),
    "index_copy": lambda x, y, at: x.index_copy(2, at, y),
    "index_add": lambda x, y, at: x.index_add(2, at, y, alpha=0.5),
    "index_copy_ into new zeros": lambda x, y, at: y.new_zeros(1, y.shape[1], 16, 16).index_copy_(2, at, y),
    "slice_scatter": lambda x, y, at: torch.slice_scatter(x, y, 2, 0, 16, 2),
}


@pytest.mark.parametrize("name", WRITES)
def test_rows_of_pixels_written_into_another_tensor(name: str) -> None:
    class Written(Net):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Conv2d(8, 8, 3, stride=(2, 1), padding=1)

        def between(self, x: Tensor) -> Tensor:
            return WRITES[name](x, self.other(x), torch.arange(0, 16, 2))

    groups = pruned(Written(), "a", "b")
    assert ("other" in groups["a"].producers) == ("new zeros" not in name)


@pytest.mark.parametrize("kind", ["index_copy", "slice_scatter"])
def test_channels_written_at_fixed_places_lock(kind: str) -> None:
    class Written(Net):
        def between(self, x: Tensor) -> Tensor:
            if kind == "index_copy":
                return x.index_copy(1, torch.tensor([0, 3]), x[:, :2] * 2)
            return torch.slice_scatter(x, x[:, :2] * 2, 1, 0, 2)

    assert pruned(Written(), "b")["a"].locked


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_sums_of_rows_of_a_table_scale_channels(mode: str) -> None:
    class Bag(Net):
        def __init__(self) -> None:
            super().__init__()
            self.bag = nn.EmbeddingBag(6, 8, mode=mode)

        def between(self, x: Tensor) -> Tensor:
            return x * self.bag(torch.tensor([[1, 4, 5]]))[:, :, None, None]

    model = Bag()
    groups = pruned(model, "a", "b")
    small = remove_channels(model, groups, random_plan(groups, 0.5))
    assert small.bag.weight.shape == (6, 4) and small.bag.embedding_dim == 4


@pytest.mark.parametrize("kind", [list, dict, set])
def test_what_modules_share_their_copies_share(kind: type) -> None:
    class Writer(nn.Module):
        def __init__(self, shared: Any) -> None:
            super().__init__()
            self.shared, self.conv = shared, nn.Conv2d(8, 8, 1)

        def forward(self, x: Tensor) -> Tensor:
            self.shared.clear()
            self.shared.update({0: 0, 1: 1}) if kind is not list else self.shared.extend([0, 1])
            return self.conv(x)

    class Shared(Net):
        def __init__(self) -> None:
            super().__init__()
            self.shared = kind()
            self.writer = Writer(self.shared)

        def between(self, x: Tensor) -> Tensor:
            return self.writer(x) * len(self.shared)

    model = Shared()
    pruned(model, "a", "writer.conv", "b")
    assert not model.shared


@pytest.mark.parametrize("kind", [list, dict])
def test_functions_in_lists_and_dicts_that_close_over_the_model_are_bound_to_its_copies(kind: type) -> None:
    class Steps(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(8) + 0.5)
            steps = (lambda x: x * self.scale[:, None, None], torch.relu)
            self.steps = kind(enumerate(steps)) if kind is dict else kind(steps)

        def between(self, x: Tensor) -> Tensor:
            for step in self.steps.values() if isinstance(self.steps, dict) else self.steps:
                x = step(x)
            return x

    model = Steps()
    groups = trace_channels(model.eval(), X)
    small = remove_channels(model, groups, random_plan(groups, 0.5))
    assert groups["a"].locked is None and len(small.scale) == 4
    small(X).sum().backward()
    assert small.scale.grad is not None and model.scale.grad is None


@pytest.mark.parametrize("how", ["reference", "in a list", "method"])
def test_a_parent_that_is_known_by_a_weak_reference_is_the_copys_own(how: str) -> None:
    class Part(nn.Module):
        def __init__(self, parent: Net) -> None:
            super().__init__()
            self.conv = nn.Conv2d(8, 8, 1)
            refs = weakref.WeakMethod(parent.scaled) if how == "method" else weakref.ref(parent)
            self.parent = [refs] if how == "in a list" else refs

        def forward(self, x: Tensor) -> Tensor:
            parent = (self.parent[0] if how == "in a list" else self.parent)()
            return parent(self.conv(x)) if how == "method" else parent.scaled(self.conv(x))

    class Parent(Net):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.rand(8) + 0.5)
            self.part = Part(self)

        def scaled(self, x: Tensor) -> Tensor:
            return x * self.scale[:, None, None]

        def between(self, x: Tensor) -> Tensor:
            return self.part(x)

    model = Parent()
    groups = trace_channels(model.eval(), X)
    plan = random_plan(groups, 0.5)
    small, silent = remove_channels(model, groups, plan), mask_channels(model, groups, plan)
    assert {"a", "part.conv"} <= set(plan.removed) and len(small.scale) == 4 and len(model.scale) == 8
    assert torch.allclose(small(X), silent(X), atol=1e-6)


class SampledHeads(nn.Module):
    """Deformable attention: every head reads features at places that its own offsets from a box say."""

    def __init__(self, d_model: int = 32, n_heads: int = 4, n_points: int = 3) -> None:
        super().__init__()
        self.d_model, self.n_heads, self.n_points = d_model, n_heads, n_points
        self.offsets = nn.Linear(d_model, n_heads * n_points * 2)
        self.weights = nn.Linear(d_model, n_heads * n_points)
        self.value, self.out = nn.Linear(d_model, d_model), nn.Linear(d_model, d_model)

    def forward(self, query: Tensor, boxes: Tensor, features: Tensor) -> Tensor:
        n, q, _ = query.shape
        value = self.value(features.flatten(2).transpose(1, 2)).view(n, -1, self.n_heads, self.d_model // self.n_heads)
        value = value.permute(0, 2, 3, 1).reshape(n * value.shape[2], -1, *features.shape[2:])
        offsets = self.offsets(query).view(n, q, self.n_heads, self.n_points, 2)
        grid = boxes[:, :, None, None, :2] + offsets * boxes[:, :, None, None, 2:]
        sampled = F.grid_sample(value, (2 * grid - 1).transpose(1, 2).flatten(0, 1), align_corners=False)
        weights = self.weights(query).view(n, q, self.n_heads, self.n_points).softmax(-1).transpose(1, 2).flatten(0, 1)
        return self.out((sampled * weights[:, None]).sum(-1).view(n, -1, q).transpose(1, 2))


def test_heads_that_sample_at_places_of_their_own() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.stem, self.queries = nn.Conv2d(3, 32, 3, padding=1), nn.Parameter(torch.randn(1, 6, 32))
            self.box, self.attention, self.head = nn.Linear(32, 4), SampledHeads(), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            boxes = self.box(self.queries).sigmoid()
            return self.head(self.attention(self.queries, boxes, self.stem(x))), boxes

    model, x = Detector().eval(), torch.rand(1, 3, 8, 8)
    groups = trace_channels(model, x)
    assert set(groups.report().reasons) == {"box", "head"}, groups.report()
    assert groups["attention.value"].size == 4  # whole heads
    plan = random_plan(groups, 0.5)
    assert difference(model, groups, plan, x) < 1e-9
    small = remove_channels(model, groups, plan)
    assert small.attention.n_heads == 2 and small.attention.d_model == 16


@pytest.mark.parametrize("swap", [False, True])
def test_of_channels_that_meet_crosswise_those_along_the_first_axis_go(swap: bool) -> None:
    class Crosswise(Net):
        def __init__(self) -> None:
            super().__init__()
            self.c = nn.Linear(8, 6)
            self.b = nn.Conv2d(8, 8, 3, padding=1)

        def between(self, x: Tensor) -> Tensor:
            gates = self.c(x.mean((2, 3)))
            y = x.mean((2, 3))[:, :, None] * gates[:, None] if swap else gates[:, None] * x.mean((2, 3))[:, :, None]
            return x + y.sum(-1)[:, :, None, None]

    model, x = Crosswise().eval(), torch.rand(1, 3, 8, 8)
    groups = trace_channels(model, x)
    assert groups["a"].locked is None and "crosswise" in str(groups["c"].locked)
    assert difference(model, groups, random_plan(groups, 0.4), x) < 1e-9


@pytest.mark.parametrize("kind", ["gather", "take_along_dim", "packed", "square"])
def test_positions_and_sequences_that_are_picked_leave_channels_apart(kind: str) -> None:
    class Picks(Net):
        def __init__(self) -> None:
            super().__init__()
            self.rnn, self.wide = nn.GRU(8, 6, batch_first=True), nn.Linear(8, 2 * 2 * 2)
            self.side = nn.Conv2d(2, 5, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.b(self.a(x))
            flat = y.flatten(2)
            if kind == "square":  # as many channels as pixels a side
                return self.side(F.relu(self.wide(flat.mean(2))).view(-1, 2, 2, 2))
            if kind == "packed":
                steps, lengths = flat[..., :8].transpose(1, 2), [8] * len(x)
                packed = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True)
                return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
            best = flat.detach().sum(1, keepdim=True).topk(4, -1).indices
            if kind == "gather":
                return self.h(torch.gather(flat, 2, best.expand(-1, flat.shape[1], -1)).mean(2))
            return self.h(flat.take_along_dim(best, 2).mean(2))

    model = Picks().eval()
    groups = trace_channels(model, X)
    free = {"a", "b"} | ({"wide"} if kind == "square" else set())
    assert {group.name for group in groups.prunable} >= free, groups.report()
    for seed in range(2):
        assert difference(model, groups, random_plan(groups, 0.5, seed), X) < 1e-9
