"""The scan gives what scoring every removed network gives, with less work."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from rlprune.channels import PruningPlan
from rlprune.criteria import lowest
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.models import create_model
from rlprune.problem import PruningProblem
from rlprune.scoring.prefix import PrefixCache
from rlprune.scoring.sensitivity import Sensitivity, _Scorer, _sliced, _touched, scan


class Block(nn.Module):
    """Residual, with operators that work in place."""

    def __init__(self, width):
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(width, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.norm2 = nn.Conv2d(6, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        out += x
        return self.relu(out)


class Skipping(nn.Module):
    """In-place glue between modules, a skip over the middle, a module used twice, a container."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(1, 8, 5, stride=4)
        self.blocks = nn.ModuleList([Block(8), Block(8), Block(8)])
        self.shared = nn.Conv2d(8, 8, 1)
        self.late = nn.Conv2d(16, 6, 3)
        self.head = nn.Linear(6, 10)

    def forward(self, x):
        x = self.stem(x).relu_()
        early = self.shared(x)
        for block in self.blocks:
            x = block(x)
            x *= 0.9
        x = torch.cat([self.shared(x), early], 1)
        return self.head(self.late(x).relu_().mean((2, 3)))


@pytest.fixture(scope="module")
def problem():
    return PruningProblem(Skipping(), load_data("digits"))


def by_hand(problem, criterion, rates):
    base = problem.base()
    ranking = problem.scores(criterion, base)
    found = {}
    for group in base.groups.prunable:
        found[group.name] = []
        for rate in rates:
            count = group.allowed(int(rate * group.size))
            plan = PruningPlan({group.name: lowest(ranking[group.name], count)})
            model = base.remove(plan, problem.groups).model if plan else base.model
            found[group.name].append(problem.evaluator.score(model, "control").value)
    return found


RATES = (0.25, 0.5, 0.75)


def test_scores_are_those_of_the_removed_networks(problem):
    before = problem.ledger.evaluations
    found = scan(problem, rates=RATES)
    assert found.scores == by_hand(problem, "l1", RATES)
    assert set(found.scores) == {g.name for g in problem.groups.prunable}
    assert problem.ledger.evaluations - before >= 3 * len(found.scores)


def test_earlier_modules_are_not_computed_again(problem):
    base = problem.base()
    calls = []
    for name, module in base.model.named_modules():
        if isinstance(module, nn.Conv2d):
            forward = module.forward
            module.forward = lambda x, f=forward, n=name: (calls.append(n), f(x))[1]
    batch = (problem.example_inputs[0].repeat(4, 1, 1, 1),)
    cache = PrefixCache(base.model, problem.example_inputs, lambda: [batch, batch])
    for changed, modules in (
        ("blocks.1.conv1", {"stem", "blocks.0"}),
        ("blocks.2.conv2", {"stem", "blocks.0", "blocks.1", "blocks.2.conv1", "blocks.2.norm1"}),
        ("late", {"stem", "blocks.0", "blocks.1", "blocks.2", "shared"}),
    ):
        cache.advance({changed})
        assert set(cache.modules) == modules
        wanted = base.model(*batch)
        calls.clear()
        with cache.attached(base.model) as select, torch.inference_mode():
            for number in (0, 1, 0):
                select(number)
                assert torch.equal(base.model(*batch), wanted)
        ran = set(calls)
        assert changed in ran and not ran & {"stem", "blocks.0.conv1"}
    assert ran == {"late"}
    calls.clear()
    base.model(*batch)
    assert "stem" in calls
    with pytest.raises(ValueError, match="forwards only"):
        cache.advance({"blocks.1.conv1"})


def test_only_what_is_read_later_is_kept(problem):
    model = problem.base().model
    batch = (problem.example_inputs[0].repeat(64, 1, 1, 1),)
    cache = PrefixCache(model, problem.example_inputs, lambda: [batch])
    cache.advance({"blocks.2.conv1"})
    side = model.stem(*batch).shape[-1]
    one = 64 * 8 * side * side * 4
    # blocks.1's output; for the later skip the stem's; and blocks.0's, since the network writes into it.
    assert cache.bytes <= 3 * one + 1000


@pytest.mark.parametrize("inplace", [False, True])
def test_only_outputs_that_are_written_to_are_copied(inplace):
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=inplace), nn.Conv2d(4, 4, 3)).eval()
    images = torch.randn(2, 1, 8, 8)
    cache = PrefixCache(model, (images[:1],), lambda: [(images,)])
    cache.advance({"1", "2"})
    given = []
    with torch.inference_mode(), cache.attached(model) as select:
        wanted = model(images)
        model[1].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
        for _ in range(2):
            select(0)
            assert torch.equal(model(images), wanted)
    assert cache.modules == ("0",)
    assert (given[0] is given[1]) == (not inplace)


def test_beyond_its_limit_the_cache_computes(problem):
    model = problem.base().model
    batches = [(torch.randn(8, 1, 32, 32),) for _ in range(3)]
    cache = PrefixCache(model, problem.example_inputs, lambda: batches, limit=1)
    for changed in ("blocks.1.conv1", "late"):
        cache.advance({changed})
        with torch.inference_mode():
            wanted = [model(*batch) for batch in batches]
            with cache.attached(model) as select:
                for number, batch in enumerate(batches):
                    select(number)
                    assert torch.equal(model(*batch), wanted[number])


def test_a_scan_goes_on_where_it_was_stopped(problem, tmp_path, Killed):
    file = tmp_path / "scan.json"
    whole = scan(problem, rates=RATES, limit=100)

    def die(name, done):
        if done >= 0.5:
            raise Killed

    with pytest.raises(Killed):
        scan(problem, rates=RATES, limit=100, path=file, on_step=die)
    assert 0 < len(json.loads(file.read_text())["scores"]) < len(whole.scores)
    before = problem.ledger.evaluations
    assert scan(problem, rates=RATES, limit=100, path=file) == whole
    assert 0 < problem.ledger.evaluations - before < 3 * len(whole.scores)
    again = problem.ledger.evaluations
    assert scan(problem, rates=RATES, limit=100, path=file).scores == whole.scores
    assert problem.ledger.evaluations == again
    with pytest.raises(UserError, match="another scan"):
        scan(problem, rates=RATES, limit=50, path=file)
    file.write_text("{}")
    with pytest.raises(UserError, match="no sensitivity scan"):
        scan(problem, rates=RATES, limit=100, path=file)


@pytest.mark.parametrize("recovery", ["lsq", "lsq+bn"])
def test_with_recovery(problem, recovery):
    names = [g.name for g in problem.groups.prunable][:2]
    found = scan(problem, rates=(0.5,), limit=100, groups=names, recovery=recovery)
    assert set(found.scores) == set(names)


def test_bad_input(problem):
    with pytest.raises(UserError, match="percentage"):
        scan(problem, rates=(50,))
    with pytest.raises(UserError, match="did you mean"):
        scan(problem, groups=["stemm"])


def test_what_controllers_ask():
    found = Sensitivity({}, 0.9, (0.2, 0.4, 0.6), {"a": [0.9, 0.85, 0.9], "b": [0.5, 0.4, 0.1]}, {"a": [1, 2, 3]})
    assert found.drops("a") == pytest.approx([0.0, 0.05, 0.0])
    assert found.largest_rate("a", 0.01) == 0.2 and found.largest_rate("a", 0.1) == 0.6
    assert found.largest_rate("b", 0.1) == 0.0 and found.order() == ["b", "a"]
    assert Sensitivity.from_json(json.loads(json.dumps(found.to_json()))) == found
    with pytest.raises(UserError, match="did you mean"):
        found.drops("aa")


@pytest.mark.parametrize("name", ["lenet5", "resnet20", "mobilenet_v2", "skipping"])
def test_cached_outputs_are_the_removed_network_s(name):
    torch.manual_seed(0)
    model = Skipping() if name == "skipping" else create_model(name, num_classes=10, in_channels=1)
    problem = PruningProblem(model, load_data("digits"))
    scorer = _Scorer(problem, problem.base(), "none", limit=48, seed=0)
    groups = scorer.in_order(list(problem.groups.prunable))
    for group in groups if len(groups) < 12 else groups[:: len(groups) // 6]:
        plan = PruningPlan({group.name: range(0, group.max_removable, 2)})
        with torch.inference_mode():
            scorer._cache.advance(_touched(group), _sliced(problem.model, group))
            after = scorer.network.remove(plan, problem.groups).model
            wanted = [after(*call) for call in scorer._calls()]
            with scorer._cache.attached(after, scorer._kept(group, plan)) as select:
                for number, call in enumerate(scorer._calls()):
                    select(number)
                    torch.testing.assert_close(after(*call), wanted[number], rtol=1e-5, atol=1e-6)
    assert scorer._cache.modules


def test_in_bfloat16_scores_agree_to_a_few_images_and_are_of_another_scan(problem, tmp_path):
    exact = scan(problem, rates=(0.3, 0.6), path=tmp_path / "scan.json")
    near = scan(problem, rates=(0.3, 0.6), amp=True)
    images = len(problem.data.control)
    assert abs(near.baseline - exact.baseline) * images <= 8
    for name, scores in exact.scores.items():
        assert near.scores[name] == pytest.approx(scores, abs=8 / images)
    with pytest.raises(UserError, match="another scan"):
        scan(problem, rates=(0.3, 0.6), amp=True, path=tmp_path / "scan.json")
