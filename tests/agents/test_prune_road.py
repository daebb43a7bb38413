"""`rlprune.prune` and environments for a model and data at hand, whatever they look like."""

from __future__ import annotations

import copy
import pickle
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import rlprune
from rlprune.agents import get_recipe, list_recipes, make_controller, run_episode
from rlprune.errors import UserError

Data = tuple[Tensor, Tensor]


class Net(nn.Module):
    """Two convolutions with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        x = nn.functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 2)
        x = self.bn2(self.conv2(x)).relu().mean((2, 3))
        return self.fc(x) if scale is None else self.fc(x) * scale.view(-1, 1)


class ToDict(nn.Module):
    """Two outputs by name."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"first": x.mean((2, 3)), "second": x.amax((2, 3))}


def drawn(n: int, seed: int) -> Data:
    """Images (n, 1, 8, 8) of noise with a bright quarter, which is the class (n,)."""
    generator = torch.Generator().manual_seed(seed)
    images, labels = torch.rand(n, 1, 8, 8, generator=generator), torch.arange(n) % 4
    for place, label in enumerate(labels.tolist()):
        row, column = 4 * (label // 2), 4 * (label % 2)
        images[place, :, row : row + 4, column : column + 4] += (label + 1) * 0.7
    return images, labels


TRAIN, CONTROL, TEST = drawn(256, 0), drawn(96, 1), drawn(64, 2)


@pytest.fixture(scope="module")
def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net()
        optimizer = torch.optim.Adam(model.parameters(), 0.02)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(TRAIN[0]), TRAIN[1]).backward()
            optimizer.step()
    return model.eval()


def accuracy(model: nn.Module) -> float:
    with torch.no_grad():
        return float((model(CONTROL[0]).argmax(1) == CONTROL[1]).float().mean())


QUICK: dict[str, Any] = {"tolerance": 0.05, "epochs": 1, "progress": False}


def batches(data: Data, size: int = 32) -> list[Any]:
    return list(zip(data[0].split(size), data[1].split(size), strict=True))


def test_a_smaller_network_inside_the_tolerance(net: nn.Module) -> None:
    result = rlprune.prune(net, control=CONTROL, train=TRAIN, test=TEST, **QUICK)
    assert accuracy(net) == pytest.approx(result.baseline) and result.baseline > 0.9
    assert accuracy(result.model) == pytest.approx(result.score)
    assert result.drop == pytest.approx(result.baseline - result.score) and result.drop <= 0.05
    assert result.macs == rlprune.count_macs(result.model, CONTROL[0][:1]) < rlprune.count_macs(net, CONTROL[0][:1])
    assert result.parameters == rlprune.count_parameters(result.model) < rlprune.count_parameters(net)
    assert result.history and {"macs", "drop", "accepted"} <= set(result.history[0])
    assert "test_score" in result.record["pruned"] and result.groups.prunable and result.plan


def test_any_kind_of_loader_gives_the_same(net: nn.Module) -> None:
    loaders = {
        "tensors": CONTROL,
        "list": batches(CONTROL),
        "DataLoader": DataLoader(TensorDataset(*CONTROL), batch_size=32),
        "dict": [{"x": images, "y": labels, "id": 7} for images, labels in batches(CONTROL)],
        "arrays": (CONTROL[0].numpy(), CONTROL[1].numpy()),
        "batches of arrays": [(images.numpy(), labels.numpy()) for images, labels in batches(CONTROL)],
        "data set": TensorDataset(*CONTROL),
        "labels of 32 bits": (CONTROL[0], CONTROL[1].int()),
        "list of labels": (CONTROL[0].numpy(), CONTROL[1].tolist()),
        "lists of labels": [(images, labels.tolist()) for images, labels in batches(CONTROL)],
        "image, label": [{"image": images, "label": labels} for images, labels in batches(CONTROL)],
        "targets": [{"targets": labels, "pixel_values": images} for images, labels in batches(CONTROL)],
    }
    found = {}
    for name, loader in loaders.items():
        how = {"batch": lambda item: (item["x"], item["y"])} if name == "dict" else {}
        found[name] = rlprune.prune(net, control=loader, recipe="uniform", recovery="none", **how, **QUICK)
    assert len({repr(result) for result in found.values()}) == 1
    assert len({str(result.plan.to_json()) for result in found.values()}) == 1


@pytest.mark.parametrize(
    "pack",
    [lambda x: {"x": x}, lambda x: {"scale": torch.ones(len(x)), "x": x}, lambda x: (x, torch.ones(len(x)))],
)
def test_inputs_of_any_form(pack: Callable[[Tensor], Any], net: nn.Module) -> None:
    control, train = ([(pack(images), labels) for images, labels in batches(data)] for data in (CONTROL, TRAIN))
    result = rlprune.prune(net, control=control, train=train, **QUICK)
    assert result.drop <= 0.05 and result.baseline == pytest.approx(accuracy(net))


class Named(Net):
    """Takes its input by keyword alone."""

    def forward(self, *, pixel_values: Tensor, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(pixel_values, scale)


class Kept(Net):
    """Takes whatever keywords there are."""

    def forward(self, **inputs: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(inputs["pixel_values"], inputs.get("scale"))


class Half(Net):
    """Takes one input by position and one by keyword alone."""

    def forward(self, pixel_values: Tensor, *, scale: Tensor | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(pixel_values, scale)


@pytest.mark.parametrize("kind", [Named, Kept, Half])
def test_inputs_that_go_by_keyword_alone(kind: type[Net], net: nn.Module) -> None:
    model = kind()
    model.load_state_dict(net.state_dict())
    control, train = (
        [{"scale": torch.ones(len(x)), "pixel_values": x, "labels": y} for x, y in batches(data)]
        for data in (CONTROL, TRAIN)
    )
    result = rlprune.prune(model, control=control, train=train, **QUICK)
    assert result.baseline == pytest.approx(accuracy(net)) and result.drop <= 0.05 and result.plan
    small = pickle.loads(pickle.dumps(result.model))  # nothing of what ran it is left in it, nor in the model
    for back in (model, small):
        assert not back._forward_pre_hooks
    with torch.no_grad():
        right = small(pixel_values=CONTROL[0]).argmax(1) == CONTROL[1]
    assert float(right.float().mean()) == pytest.approx(result.score)
    own = {"evaluate": lambda m: -float(m(pixel_values=CONTROL[0]).abs().mean()), "tolerance": None, "budget": 0.8}
    given = {"example_inputs": {"pixel_values": CONTROL[0][:1]}, "recipe": "uniform", "recovery": "none", "epochs": 0}
    assert rlprune.prune(model, progress=False, **own, **given).macs < result.record["baseline"]["macs"]


def test_keywords_that_do_not_fit_are_named() -> None:
    for control, says in (
        ([({"pixels": x}, y) for x, y in batches(CONTROL)], "cannot be called with pixels"),
        ([({}, CONTROL[1])], "missing a required"),
    ):
        with pytest.raises(UserError, match=says):
            rlprune.prune(Named(), control=control, calibration=control, **QUICK)
    uneven = [({"pixel_values": x, **({"scale": torch.ones(len(x))} if i else {})}, y)
              for i, (x, y) in enumerate(batches(CONTROL))][::-1]  # fmt: skip
    with pytest.raises(UserError, match="a batch lacks scale"):
        rlprune.prune(Kept(), control=[*uneven, ({"mask": None, "pixel_values": CONTROL[0]}, CONTROL[1])], **QUICK)


def test_a_score_of_ones_own_in_its_own_units(net: nn.Module, capsys: Any) -> None:
    def error(model: nn.Module) -> float:
        with torch.no_grad():
            return -10.0 * float(nn.functional.cross_entropy(model(CONTROL[0]), CONTROL[1]))

    result = rlprune.prune(net, evaluate=error, train=TRAIN, tolerance=3.0, epochs=1)
    assert result.baseline == pytest.approx(error(net)) and result.score == pytest.approx(error(result.model))
    assert result.baseline < 0 and result.baseline - result.score <= 3.0
    said = capsys.readouterr().err
    assert "of 3 " in said and "of 300" not in said, "not in percent"


def test_a_training_of_ones_own(net: nn.Module) -> None:
    asked: list[int] = []

    def fit(model: nn.Module, epochs: int) -> None:
        asked.append(epochs)
        optimizer = torch.optim.SGD(model.train().parameters(), 0.02)
        for images, labels in batches(TRAIN) * epochs:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()

    result = rlprune.prune(net, control=CONTROL, fit=fit, recovery="none", **{**QUICK, "epochs": 4})
    assert result.drop <= 0.05 and sum(asked) <= 8
    assert asked or all(line["drop"] <= 0 for line in result.history)


def test_without_training_data_nothing_is_trained(net: nn.Module) -> None:
    result = rlprune.prune(net, control=CONTROL, calibration=TRAIN, tolerance=0.05, progress=False)
    assert result.record["epochs"] == 0 and result.drop <= 0.05


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "control=loader"),
        ({"control": CONTROL}, "calibration=loader"),
        ({"control": iter(batches(CONTROL))}, "control="),
        ({"control": [1, 2]}, "batch="),
        ({"control": batches(CONTROL), "task": "clasification"}, "did you mean 'classification'"),
        ({"evaluate": lambda model: 1.0, "recovery": "none"}, "example_inputs"),
        ({"control": CONTROL, "recipe": "prcc"}, "did you mean 'prc'"),
        ({"control": CONTROL, "alpa": 0.1}, "did you mean 'alpha'"),
        ({"control": CONTROL, "tolerance": -0.1}, "tolerance is -0.1"),
        ({"control": CONTROL, "tolerance": "1%"}, "tolerance is '1%'; it must be a number"),
        ({"control": CONTROL, "tolerance": None}, "so is the budget"),
        ({"control": CONTROL, "epochs": "3"}, "epochs is '3'"),
        ({"control": CONTROL, "lr": "0.1"}, "lr is '0.1'"),
        ({"control": []}, "control= gives no batch"),
        ({"control": (CONTROL[0], nn.functional.one_hot(CONTROL[1]))}, "of one-hot targets the argmax"),
        ({"control": (CONTROL[0], CONTROL[1].float())}, "the targets are float32"),
        ({"control": (CONTROL[0], CONTROL[1] - 1)}, "label -1 does not fit"),
        ({"control": ((CONTROL[0] * 100).byte(), CONTROL[1])}, "control= gives .torch.uint8 .1, 1, 8, 8."),
        ({"control": CONTROL, "train": (TRAIN[0].expand(-1, 3, -1, -1), TRAIN[1])}, "train= gives"),
        ({"control": CONTROL, "calibration": TRAIN[0], "min_channels": 64}, "lower min_channels"),
    ],
)
def test_what_is_missing_is_said_with_its_argument(arguments: dict[str, Any], says: str, net: nn.Module) -> None:
    with pytest.raises(UserError, match=says) as caught:
        rlprune.prune(net, **{**QUICK, **arguments})
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:the model returns 2 outputs")
@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(4)), "call the model on an example first"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), r"1: it is an output of the model"),
        (nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), ToDict()), "heads:first=TASK;second=TASK"),
    ],
)
def test_networks_that_cannot_be_pruned_are_told_why(model: nn.Module, says: str) -> None:
    with pytest.raises(UserError, match=says):
        rlprune.prune(model, control=CONTROL, calibration=TRAIN[0], **QUICK)


def test_wrappers_are_looked_through_and_inputs_alone_calibrate(net: nn.Module) -> None:
    plain, wrapped = (
        rlprune.prune(model, control=CONTROL, calibration=TRAIN[0], **QUICK) for model in (net, nn.DataParallel(net))
    )
    assert plain.plan.to_json() == wrapped.plan.to_json() and isinstance(wrapped.model, Net)


def test_one_interrupt_hands_back_what_was_found_where_nothing_is_kept(net: nn.Module) -> None:
    before = signal.getsignal(signal.SIGINT)
    scored: list[float] = []
    last: list[int] = []

    def evaluate(model: nn.Module) -> float:
        scored.append(accuracy(model))
        if last and len(scored) == last[0] // 2:
            signal.raise_signal(signal.SIGINT)
        return scored[-1]

    how = {**QUICK, "epochs": 0, "tolerance": 0.3, "recipe": "random", "episodes": 3}
    whole = rlprune.prune(net, evaluate=evaluate, calibration=TRAIN, **how)
    last.append(len(scored))
    scored.clear()
    result = rlprune.prune(net, evaluate=evaluate, calibration=TRAIN, **how)
    assert len(result.history) <= len(whole.history)
    assert result.record["stopped"] == "interrupted" and result.drop <= 0.3 and result.plan
    assert signal.getsignal(signal.SIGINT) is before


def test_a_budget_alone_is_the_goal_whatever_the_drop(net: nn.Module) -> None:
    result = rlprune.prune(net, control=CONTROL, calibration=TRAIN, **{**QUICK, "tolerance": None}, budget=0.3)
    assert result.macs <= 0.3 * result.record["baseline"]["macs"]


def test_the_model_is_left_alone_and_no_file_is_written(net: nn.Module, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    mine = copy.deepcopy(net).train()
    mine.bn1.eval()
    called: list[int] = []
    mine.conv1.register_forward_hook(lambda *_: called.append(1))
    before = {name: value.clone() for name, value in mine.state_dict().items()}
    modes = [module.training for module in mine.modules()]
    hooks, draws = len(mine.conv1._forward_hooks), torch.get_rng_state()
    rlprune.prune(mine, control=CONTROL, train=TRAIN, **QUICK)
    assert all(torch.equal(value, before[name]) for name, value in mine.state_dict().items())
    assert [module.training for module in mine.modules()] == modes
    assert len(mine.conv1._forward_hooks) == hooks and all(p.grad is None or True for p in mine.parameters())
    assert torch.equal(torch.get_rng_state(), draws) and not list(tmp_path.iterdir())


def test_silent_without_progress(net: nn.Module, capsys: Any) -> None:
    rlprune.prune(net, control=CONTROL, calibration=TRAIN, **QUICK)
    assert capsys.readouterr() == ("", "")


def test_a_budget_is_where_it_ends(net: nn.Module) -> None:
    result = rlprune.prune(net, control=CONTROL, calibration=TRAIN, budget=0.6, **{**QUICK, "tolerance": 1.0})
    share = result.macs / result.record["baseline"]["macs"]
    assert 0.45 <= share <= 0.62


@pytest.mark.parametrize("name", list_recipes())
def test_every_recipe_by_name(name: str, net: nn.Module) -> None:
    quick = {"cem": {"episodes": 6}, "sensitivity": {"limit": 32}, "msvfp": {"images": 32}}
    quick |= {"random": {"episodes": 4}, "eagleeye": {"episodes": 4}, "amc-rules": {"episodes": 6}}
    result = rlprune.prune(net, control=CONTROL, train=TRAIN, recipe=name, **QUICK, **quick.get(name, {}))
    assert result.drop <= 0.05 and result.record["method"] == name
    assert result.macs < result.record["baseline"]["macs"]


def test_equal_seeds_give_equal_networks(net: nn.Module) -> None:
    one, two = (rlprune.prune(net, control=CONTROL, train=batches(TRAIN), amp=False, **QUICK) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.model.parameters(), two.model.parameters(), strict=True))


def test_a_result_is_saved_and_reported(net: nn.Module, tmp_path: Path) -> None:
    recipe = get_recipe("uniform").change(tolerance=0.1, epochs=0, recovery="none")
    result = rlprune.prune(net, control=CONTROL, recipe=recipe, tolerance=0.1, out=tmp_path / "run", progress=False)
    result.save(tmp_path / "small.pt")
    saved = torch.load(tmp_path / "small.pt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, saved[name]) for name, value in result.model.state_dict().items())
    assert "svg" in result.report(tmp_path / "one.html").read_text() or (tmp_path / "one.html").stat().st_size > 1000
    assert (tmp_path / "run" / "record.json").exists()
    with pytest.raises(UserError, match="holds a run"):
        rlprune.prune(net, control=CONTROL, recipe=recipe, out=tmp_path / "run", progress=False)


def test_environments_of_a_live_problem(net: nn.Module) -> None:
    problem = rlprune.PruningProblem(net, control=CONTROL, train=TRAIN)
    one = rlprune.make_env("layerwise", problem, budget=0.5, recovery="bn")
    two = gymnasium.make("rlprune/LayerwisePruning-v0", problem=problem, budget=0.5, recovery="bn")
    plans = []
    for env in (one, two):
        env.reset(seed=0)
        while True:
            *_, terminated, truncated, info = env.step(env.action_space.high * 0)
            if terminated or truncated:
                plans.append(info["plan"])
                break
    assert plans[0] == plans[1]
    played = run_episode(problem, make_controller("uniform"), budget=0.5, recovery="bn")
    assert played.info["final_macs_share"] <= 0.5 and "groups prunable" in repr(problem)
    with pytest.raises(UserError, match="make_controller"):
        run_episode(problem, "uniform", budget=0.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="2 numbers"):
        one.reset()
        one.step(torch.zeros(2).numpy())
    with pytest.raises(UserError, match="did you mean 'layerwise'"):
        rlprune.make_env("layerwiese", problem)


def test_batches_of_transformers_need_no_function_and_their_images_are_drawn(net: nn.Module, tmp_path: Path) -> None:
    """A mapping with `labels`: the rest are the inputs, by the names of the network's arguments."""
    roles = {"train": TRAIN, "control": CONTROL, "test": TEST}
    loaders = {role: [{"labels": y[i : i + 32], "x": x[i : i + 32]} for i in range(0, len(x), 32)]
               for role, (x, y) in roles.items()}  # fmt: skip
    result = rlprune.prune(net, **loaders, epochs=0, recipe="uniform", tolerance=0.5, out=tmp_path, progress=False)
    assert result.baseline > 0.9 and (tmp_path / "pictures.png").exists()
