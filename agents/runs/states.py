"""Networks in checkpoints: plans and weights, without anything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlprune.channels import PruningPlan
from rlprune.network import Network
from rlprune.problem import PruningProblem


def pack_network(network: Network | None) -> dict[str, Any] | None:
    """A network's plan and weights."""
    if network is None:
        return None
    weights = {name: tensor.detach().cpu().clone() for name, tensor in network.model.state_dict().items()}
    return {"plan": network.plan.to_json(), "weights": weights}


def unpack_network(saved: Mapping[str, Any] | None, problem: PruningProblem) -> Network | None:
    """The network that `pack_network` was given."""
    if saved is None:
        return None
    network = problem.base().remove(PruningPlan.from_json(saved["plan"]), problem.groups)
    network.model.load_state_dict(saved["weights"])
    return network
