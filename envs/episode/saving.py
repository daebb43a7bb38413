"""An episode as tensors and plain values, so that it can stop and go on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rlprune.channels import PruningPlan
from rlprune.envs.episode.state import EpisodeState
from rlprune.envs.episode.transitions import NetworkState
from rlprune.errors import UserError
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.tasks import Score


def state_dict(episode: EpisodeState) -> dict[str, Any]:
    """Everything that an environment made with the same arguments needs to go on from here, bit-equal.

    Raises UserError in the middle of a round.
    """
    current, keeper = episode.current, episode.keeper
    if episode.stopped is None and (current.visit or current.trained):
        raise UserError("the state can be saved only at the start of a round, before anything is visited or trained")
    same = keeper.accepted is episode.state
    return {
        "rules": episode.rules.to_json(),
        "base": episode.base.key,
        "goal": {"budget": episode.budget, "counted": episode.scope.counted, "tolerance": keeper.allowed},
        "aim": episode.goal,
        "stopped": episode.stopped,
        "round": episode.round,
        "idle": episode.idle,
        "cap": episode.cap,
        "failed": list(episode.failed),
        "history": list(episode.history),
        "current": _pack(episode.state, episode.score),
        "accepted": None if same else _pack(keeper.accepted, keeper.score),
    }


def load_state_dict(episode: EpisodeState, state: Mapping[str, Any]) -> None:
    """Go on from `state_dict`'s result; raises UserError if it is not of these rules and this network."""
    for name, value in episode.rules.to_json().items():
        if state["rules"].get(name) != value:
            raise UserError(
                f"the saved episode had {name} {state['rules'].get(name)!r}, this environment has {value!r}; "
                "make it as it was"
            )
    if state["base"] != episode.base.key:
        raise UserError("the saved episode pruned another network or data set; make the environment as it was")
    current = _unpack(episode, state["current"])
    accepted = current if state["accepted"] is None else _unpack(episode, state["accepted"])
    episode.restart(replace(episode.rules, **state["goal"]))
    episode.round, episode.idle, episode.cap = int(state["round"]), int(state["idle"]), float(state["cap"])
    episode.history, episode.failed = list(state["history"]), list(state["failed"])
    episode.resume(current, accepted, state["aim"], state["stopped"])


def _pack(state: NetworkState, score: Score) -> dict[str, Any]:
    """A state and its score. The weights are copies."""
    return {**pack_network(state.network), "key": state.key, "score": score.to_json()}


def _unpack(episode: EpisodeState, saved: Mapping[str, Any]) -> tuple[NetworkState, Score]:
    """The state and score that `_pack` was given; the unpruned state itself where it was that."""
    score = Score(**saved["score"])
    if saved["key"] == episode.base.key:
        return episode.base, score
    network = unpack_network(saved, episode.transitions.problem)
    return NetworkState(saved["key"], network.plan, lambda: network), score


def pack_network(network: Network) -> dict[str, Any]:
    """A network's plan and weights, which are copies."""
    weights = {name: tensor.detach().cpu().clone() for name, tensor in network.model.state_dict().items()}
    return {"plan": network.plan.to_json(), "weights": weights}


def unpack_network(saved: Mapping[str, Any], problem: PruningProblem) -> Network:
    """The network that `pack_network` was given."""
    network = problem.base().remove(PruningPlan.from_json(saved["plan"]), problem.groups)
    network.model.load_state_dict(saved["weights"])
    return network
