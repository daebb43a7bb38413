"""No silent error: on random networks masked equals removed, or a lock says which operator stands against it."""

from __future__ import annotations

import re

import pytest
import torch
from channel_helpers import difference, flop_macs, random_plan
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import OPERATIONS, Instruction, RandomNet

from rlprune.channels import remove_channels, trace_channels
from rlprune.cost import CostModel

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
    r"|^it is an output of the model$|^it is a layer's only channel$|^all its channels are tied together"
)
quiet = settings(deadline=None, suppress_health_check=list(HealthCheck), database=None, derandomize=True)


def examine(program: list[Instruction]) -> None:
    net = RandomNet(program)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    groups = trace_channels(net, torch.randn(2, 3, 8, 8))
    for seed, rate in enumerate((0.2, 0.5, None)):
        plan = random_plan(groups, rate, seed)
        assert difference(net, groups, plan, x) < 1e-4, (net.log, plan)
    if "attention" not in str(net.log):  # products of activations are flops without a weight
        pruned = remove_channels(net, groups, plan)
        assert CostModel(groups).macs(plan.counts) == flop_macs(pruned, x), net.log
    for group in groups:
        assert group.locked is None or NAMED.search(group.locked), group.locked


@settings(quiet, max_examples=50)
@given(instructions)
def test_fifty_random_networks(program: list[Instruction]) -> None:
    examine(program)


@pytest.mark.slow
@settings(quiet, max_examples=500, derandomize=False)
@given(instructions)
def test_five_hundred_random_networks(program: list[Instruction]) -> None:
    examine(program)


@pytest.mark.parametrize("name", sorted(OPERATIONS))
def test_every_operation_alone_and_in_pairs(name: str) -> None:
    """Each operation with several details, between two convolutions, so that none is only met by chance."""
    names = list(OPERATIONS)
    number, plain = names.index(name), names.index("conv_bn_relu")
    for detail in range(0, 12, 3):
        examine([(plain, 0, 0, 4), (number, 0, 0, detail), (number, 0, 1, detail + 1), (plain, 0, 0, 1)])
