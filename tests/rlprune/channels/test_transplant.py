"""A removed network trains on exactly as the masked one would."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from channel_helpers import random_plan
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rlprune.channels import ChannelGroups, PruningPlan, mask_channels, remove_channels, trace_channels, transplant
from rlprune.errors import UserError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5),
}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 1), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 64, 10), nn.ReLU(),
        nn.Linear(10, 4),
    ).double()  # fmt: skip


def steps(model: nn.Module, optimizer: torch.optim.Optimizer, count: int, seed: int, silence: Callable[[], None]):
    generator = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(count):
        x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(4, (6,), generator=generator)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        silence()
        optimizer.step()


def silencer(model: nn.Module, groups: ChannelGroups, plan: PruningPlan) -> Callable[[], None]:
    """Keeps what a plan removes at zero: no gradient there, whatever the activation of zero is."""
    tensors = dict(model.named_parameters())

    def silence() -> None:
        for name, units in plan.removed.items():
            for slot in groups[name].slots:
                if slot.tensor in tensors and tensors[slot.tensor].grad is not None:
                    where = torch.from_numpy(slot.index[list(units)].ravel())
                    tensors[slot.tensor].grad.index_fill_(slot.dim, where, 0)

    return silence


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_goes_on_as_if_masked(name: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[name](model.parameters())
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    steps(model, optimizer, 3, 0, lambda: None)
    groups = trace_channels(model, torch.randn(1, 3, 8, 8).double())
    plan = random_plan(groups, 0.4)

    masked = mask_channels(model, groups, plan)
    mask_optimizer = OPTIMIZERS[name](masked.parameters())
    mask_optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    tensors = dict(masked.named_parameters())
    for group, units in plan.removed.items():  # the masked network's momentum must be silent, too
        for slot in groups[group].slots:
            for value in mask_optimizer.state.get(tensors.get(slot.tensor), {}).values():
                if value.ndim:
                    value.index_fill_(slot.dim, torch.from_numpy(slot.index[list(units)].ravel()), 0)
    removed = remove_channels(model, groups, plan)
    assert transplant(optimizer, model, removed, groups, plan) is optimizer
    assert transplant(scheduler, model, removed, groups, plan) is scheduler
    assert [id(p) for g in optimizer.param_groups for p in g["params"]] == [id(p) for p in removed.parameters()]

    steps(masked, mask_optimizer, 5, 1, silencer(masked, groups, plan))
    steps(removed, optimizer, 5, 1, lambda: None)
    smaller = remove_channels(masked, groups, plan)
    for (key, a), b in zip(smaller.state_dict().items(), removed.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10, msg=key)
    scheduler.step()
    assert scheduler.optimizer is optimizer


def test_ema_copies_are_cut_alike() -> None:
    model = network()
    groups = trace_channels(model, torch.randn(1, 3, 8, 8).double())
    plan = random_plan(groups, 0.4)
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    steps(model, OPTIMIZERS["sgd"](model.parameters()), 2, 0, lambda: None)
    ema.update_parameters(model)
    removed = remove_channels(model, groups, plan)
    smaller = transplant(ema, model, removed, groups, plan)
    expected = remove_channels(ema.module, groups, plan)
    for a, b in zip(smaller.module.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    assert int(smaller.n_averaged) == 1
    smaller.update_parameters(removed)
    assert int(smaller.n_averaged) == 2 and int(ema.n_averaged) == 1

    shadow = {name: p.detach().clone() for name, p in model.named_parameters()}
    cut = transplant(shadow, model, removed, groups, plan)
    for name, parameter in removed.named_parameters():
        assert torch.equal(cut[name], parameter)
    plain = transplant(copy.deepcopy(model), model, removed, groups, plan)
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), removed.parameters(), strict=True))


def test_a_schedule_goes_on_where_it_was() -> None:
    model = network()
    optimizer = OPTIMIZERS["sgd"](model.parameters())
    make = torch.optim.lr_scheduler.CosineAnnealingLR
    scheduler = make(optimizer, 8)
    other = OPTIMIZERS["sgd"](network().parameters())
    expected = make(other, 8)
    groups = trace_channels(model, torch.randn(1, 3, 8, 8).double())
    plan = random_plan(groups, 0.4)
    for step in range(6):
        if step == 3:
            removed = remove_channels(model, groups, plan)
            transplant(optimizer, model, removed, groups, plan)
            scheduler, model = transplant(scheduler, model, removed, groups, plan), removed
        for one, its in ((optimizer, scheduler), (other, expected)):
            one.step()
            its.step()
        assert optimizer.param_groups[0]["lr"] == other.param_groups[0]["lr"] == expected.get_last_lr()[0]
    before = [p.detach().clone() for p in model.parameters()]
    steps(model, optimizer, 1, 0, lambda: None)
    assert all(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_gradient_scaler_goes_on_with_its_scale() -> None:
    """Scaled training after a removal moves the parameters as unscaled training does; an overflow is skipped."""

    def prepare(scaler: torch.amp.GradScaler | None) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = network()
        optimizer = OPTIMIZERS["sgd"](model.parameters())
        scaled(model, optimizer, scaler, 2, 0)
        groups = trace_channels(model, torch.randn(1, 3, 8, 8).double())
        plan = random_plan(groups, 0.4)
        removed = remove_channels(model, groups, plan)
        transplant(optimizer, model, removed, groups, plan)
        if scaler is not None:
            assert transplant(scaler, model, removed, groups, plan) is scaler
        scaled(removed, optimizer, scaler, 3, 1)
        return removed, optimizer

    def scaled(model, optimizer, scaler, count: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(count):
            x = torch.randn(6, 3, 8, 8, generator=generator, dtype=torch.float64)
            optimizer.zero_grad()
            loss = model(x).square().mean()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()

    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=3)
    model, optimizer = prepare(scaler)
    plain, _ = prepare(None)
    assert scaler.get_scale() == 512.0  # grew after three good steps, one of them before the removal's end
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    before = [p.detach().clone() for p in model.parameters()]
    optimizer.zero_grad()
    scaler.scale(model(torch.full((2, 3, 8, 8), torch.inf, dtype=torch.float64)).sum()).backward()
    scaler.step(optimizer)
    scaler.update()
    assert scaler.get_scale() == 256.0
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_scalers_go_on_and_strangers_are_refused() -> None:
    model = network()
    groups = trace_channels(model, torch.randn(1, 3, 8, 8).double())
    plan = random_plan(groups, 0.4)
    removed = remove_channels(model, groups, plan)
    scaler = torch.amp.GradScaler("cpu")
    assert transplant(scaler, model, removed, groups, plan) is scaler
    with pytest.raises(UserError, match="cannot transplant a list"):
        transplant([1], model, removed, groups, plan)
    with pytest.raises(UserError, match="not in the old model"):
        transplant(OPTIMIZERS["sgd"](network().parameters()), model, removed, groups, plan)
    with pytest.raises(UserError, match="only state of the parameter's shape"):
        odd = OPTIMIZERS["sgd"](model.parameters())
        odd.state[model[0].weight]["row"] = torch.zeros(8)
        transplant(odd, model, removed, groups, plan)
