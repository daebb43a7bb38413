"""No silent error: on random networks masked equals removed, or a lock says which operator stands against it."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import pytest
import torch
from channel_helpers import difference, flop_macs, random_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import OPERATIONS, Instruction, RandomNet

from rlprune.artifact import load_pruned, save_pruned
from rlprune.channels import remove_channels, trace_channels
from rlprune.channels.forward import tensors_in, training_paths
from rlprune.cost import CostModel, count_macs

instructions = st.lists(
    st.tuples(
        st.integers(0, len(OPERATIONS) - 1), st.sampled_from([0, 0, 0, 1, 2, 5]), st.integers(0, 4), st.integers(0, 59)
    ),
    min_size=1,
    max_size=30,
)
# the operator in brackets or in the sentence, the layer at which the self-check saw it, or a reason without operator
NAMED = re.compile(
    r"\(\w+\)|operator \w+|axis that \w+ (slides|mixes|keeps|does)|layer [\w.]+ (sees|gets)|does not run \(.+\)"
    r"|^it is an output of the model$|^the hidden state of a recurrent layer keeps its size$|in training mode"
    r"|^it meets channels that are folded into the batch|^it is a layer's only channel$"
    r"|^all its channels are tied together|^channels of a fixed tensor join it"
)
quiet = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


BY_CHANCE = ("attention", "heads", "recurrent")  # products without a weight, and fused ones


def examine(program: list[Instruction]) -> None:
    net = RandomNet(program)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    groups = trace_channels(net, torch.randn(2, 3, 8, 8))
    for seed, rate in enumerate((0.2, 0.5, None)):
        plan = random_plan(groups, rate, seed)
        assert "random_numbers" in str(net.log) or difference(net, groups, plan, x) < 1e-4, (net.log, plan)
    pruned = remove_channels(net, groups, plan)
    if not any(name in str(net.log) for name in BY_CHANCE):
        assert CostModel(groups).macs(plan.counts) == flop_macs(pruned, x), net.log
    assert CostModel(groups).macs(plan.counts) == count_macs(pruned, x), net.log
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.pt")
        save_pruned(path, net, pruned, {})
        loaded = load_pruned(path, RandomNet(program))
        results = [tensors_in(seeded(model, x)) for model in (pruned, loaded)]
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True)), net.log
    training_paths(pruned)
    sum(t.sum() for t in tensors_in(pruned(x))).backward()
    for group in groups:
        assert group.locked is None or NAMED.search(group.locked), group.locked


def seeded(model: RandomNet, x: torch.Tensor) -> object:
    torch.manual_seed(0)
    return model(x)


@settings(quiet, max_examples=50)
@given(instructions)
def test_fifty_random_networks(program: list[Instruction]) -> None:
    examine(program)


@pytest.mark.slow
@settings(quiet, max_examples=1000, derandomize=False)
@given(instructions)
def test_a_thousand_random_networks(program: list[Instruction]) -> None:
    examine(program)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_alone_and_in_pairs(name: str) -> None:
    """Each operation with several details, between two convolutions, so that none is only met by chance."""
    names = list(OPERATIONS)
    number, plain = names.index(name), names.index("conv_bn_relu")
    for detail in range(0, 12, 3):
        examine([(plain, 0, 0, 4), (number, 0, 0, detail), (number, 0, 1, detail + 1), (plain, 0, 0, 1)])


@pytest.mark.parametrize("between", ["conv", "grouped"])
def test_a_number_that_two_groups_might_change_is_not_taken_for_their_width(between: str) -> None:
    """`readers[0]` is 9 = 2 * 3 + 3, and the tensor 6 is the mean of the tensor 9: found among a thousand networks."""
    names = list(OPERATIONS)
    steps = [
        ("in_training_only", 0, 0, 0),
        ("through_linear", 0, 0, 56),
        ("norm_groups", 0, 0, 4),
        ("norm_groups", 0, 0, 4),
    ]
    steps += [
        ("c2f", 0, 0, 0),
        ("conv", 0, 0, 0),
        (between, 0, 0, 0),
        ("conv", 0, 0, 0),
        ("concatenate_in_space", 2, 2, 0),
    ]
    examine([(names.index(name), a, b, c) for name, a, b, c in steps])


@pytest.mark.parametrize("pooled", [0, 2])
def test_a_number_without_which_the_smaller_network_is_right_stays(pooled: int) -> None:
    """`readers[1]` is 12, as wide as a layer, and tensors before the one that it names hold the same values."""
    steps = [("attention", 0, 0, 0), ("conv", 1, 0, 22), ("functional", 0, 0, 36), ("chunked", 0, 0, 0)]
    steps += [("squeeze_excite", 0, 0, 30), ("pooled", pooled, 0, 0), ("fixed_filter", 0, 0, 0), ("conv", 0, 0, 0)]
    steps += [("module_again", 0, 0, 0), ("conv", 0, 0, 0), ("stack_and_sum", 0, 4, 0), ("module_again", 1, 0, 0)]
    steps += [("conv", 0, 0, 0), ("meet", 2, 1, 33)]
    steps += [("conv", 0, 0, 0), ("conv", 0, 0, 0)]
    names = list(OPERATIONS)
    examine([(names.index(name), a, b, c) for name, a, b, c in steps])


def test_groups_of_one_size_that_are_not_neighbours_lose_different_numbers() -> None:
    examine([(0, 0, 0, 0), (36, 0, 0, 0)])  # what attention returns is as wide as what it reads, two groups before


def test_a_group_is_not_checked_with_the_same_number_twice() -> None:
    """Of 4 channels 2 can go, since two images then fill one row; the reshape fails for 1 and 3."""
    names = list(OPERATIONS)
    examine([(names.index("conv"), 0, 0, 0), (names.index("through_linear"), 0, 0, 0)])


def test_numbers_follow_the_right_one_of_three_groups_that_can_only_lose_one_or_two() -> None:
    """`half` is 4, and so are three tensors: two of them lose as many units in both checks, by need."""
    examine(
        [
            (36, 0, 0, 1),
            (0, 0, 0, 1),
            (18, 0, 0, 0),
            (0, 0, 0, 1),
            (2, 2, 0, 0),
            (0, 0, 0, 0),
            (0, 0, 0, 0),
            (34, 2, 0, 0),
        ]
    )


def test_channels_that_meet_memory_which_was_never_written_say_so() -> None:
    """The reason names no operator, for none did it: found among a thousand networks."""
    program = [
        (0, 0, 0, 43), (20, 0, 0, 26), (20, 0, 0, 49), (21, 0, 0, 0), (16, 0, 0, 16), (0, 0, 0, 48), (40, 0, 0, 0),
        (24, 0, 4, 29), (5, 0, 1, 45), (0, 2, 2, 42), (21, 5, 0, 41), (9, 2, 2, 20), (36, 2, 1, 45), (29, 0, 1, 6),
        (13, 0, 0, 21), (25, 0, 0, 5), (27, 0, 1, 46), (21, 1, 3, 54), (17, 0, 4, 46), (4, 1, 4, 17), (27, 0, 2, 1),
        (7, 0, 4, 50), (16, 2, 4, 48), (4, 2, 0, 2), (28, 0, 1, 26), (33, 0, 1, 24), (26, 0, 2, 43),
    ]  # fmt: skip
    examine(program)
