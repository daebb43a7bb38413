"""Network states as tensors and plain values, so that an episode can stop and go on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlprune.channels import PruningPlan
from rlprune.envs.episode.transitions import NetworkState
from rlprune.envs.rules import EnvSettings
from rlprune.errors import UserError
from rlprune.problem import PruningProblem
from rlprune.tasks import Score


def pack(state: NetworkState, score: Score) -> dict[str, Any]:
    """A state and its score. The weights are copies."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in state.network.model.state_dict().items()}
    return {"plan": state.plan.to_json(), "key": state.key, "weights": weights, "score": score.to_json()}


def unpack(saved: Mapping[str, Any], base: NetworkState, problem: PruningProblem) -> tuple[NetworkState, Score]:
    """The state and score that `pack` was given; the unpruned state itself where it was that."""
    score = Score(**saved["score"])
    if saved["key"] == base.key:
        return base, score
    plan = PruningPlan.from_json(saved["plan"])
    network = problem.base().remove(plan, problem.groups)
    network.model.load_state_dict(saved["weights"])
    return NetworkState(saved["key"], plan, lambda: network), score


def check(state: Mapping[str, Any], settings: EnvSettings, base: NetworkState) -> None:
    """Raise UserError unless a saved episode is one of these rules and this network."""
    rules, saved = settings.to_json(), state["rules"]
    for name, value in rules.items():
        if saved.get(name) != value:
            raise UserError(
                f"the saved episode had {name} {saved.get(name)!r}, this environment has {value!r}; make it as it was"
            )
    if state["base"] != base.key:
        raise UserError("the saved episode pruned another network or data set; make the environment as it was")
