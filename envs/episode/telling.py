"""What an episode tells: `info` at every step, more of it at the end, and what the observation is made of."""

from __future__ import annotations

from typing import Any

from rlprune.envs.episode.rewards import Terms
from rlprune.envs.episode.state import EpisodeState
from rlprune.envs.observations import Progress


def step_info(episode: EpisodeState, name: str, rate: float, terms: Terms) -> dict[str, Any]:
    """What is told at every step; at the end of a round of the network that was made, rolled back or not."""
    current = episode.current
    told: dict[str, Any] = {
        "macs": current.macs,
        "parameters": current.parameters,
        "score": episode.score.value,
        "drop": episode.drop,
    }
    if episode.history and (current.visit == 0 or current.done):
        told = {key: episode.history[-1][key] for key in told}
    return {"group": name, "rate": rate, "round": episode.round, **told, "reward_terms": dict(terms)}


def final_info(episode: EpisodeState) -> dict[str, Any]:
    """The plan of the network that is handed back (with `one_shot`: of the one that was made) and how it fared."""
    keeper = episode.keeper
    made = episode.rules.one_shot
    state, score = (episode.state, episode.score) if made else (keeper.accepted, keeper.score)
    removed = episode.scope.removed(state.plan)
    macs = episode.scope.macs(removed)
    met = bool(removed.any()) if episode.target is None else episode.scope.cost(removed) <= episode.target
    return {
        "stopped": episode.stopped,
        "plan": state.plan.to_json(),
        "is_success": met and keeper.inside(score),
        "final_score": score.value,
        "final_drop": keeper.drop(score),
        "final_macs": macs,
        "final_macs_share": macs / episode.base_macs,
        "final_parameters": episode.scope.parameters(removed),
    }


def progress(episode: EpisodeState) -> Progress:
    """What the observation needs beside the group."""
    current, rules, share = episode.current, episode.rules, 1.0 / episode.base_cost
    damage, place = episode.damage() if rules.sees_errors else None, current.place
    now, target, aimed = current.cost, current.budget.target, episode.goal is not None
    return Progress(
        window=current.window,
        mass=current.mass[place],
        removed=1.0 - now * share,
        removed_round=(current.cost_before - now) * share,
        reachable=(now - current.walk.most.total) * share,
        to_remove=0.0 if target is None else max(0.0, (now - target) * share),
        rates=current.rates,
        departures=current.departures,
        drops=[line["drop"] for line in episode.history[-2:]],
        score=episode.score.value,
        baseline=episode.keeper.baseline.value,
        tolerance=episode.keeper.allowed if rules.shown_tolerance is None else rules.shown_tolerance,
        round=episode.round,
        rounds=rules.rounds,
        cap=episode.cap,
        budget=episode.goal if aimed else episode.budget,
        counted=episode.scope.counted,
        keeps=not (rules.one_shot or aimed),
        curve=None if damage is None or not damage.known[place] else damage.curves[place],
        advised=0.0 if damage is None else current.advised(damage),
    )
