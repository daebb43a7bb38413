"""`python runs/departures.py POPULATION DATA SCORES.sqlite`: does leaving the rule `error` do the same in all families?

Takes every schedule that trainings scored on the population's networks (`train-agent --cache SCORES.sqlite`), and fits
the score over the rule's by ridge regression: each group's departure from the advised rate times what the observation
says of the group, and its square. Prints how much of the variance that explains on schedules held out at random, and on
families held out.
"""

import sys
from itertools import product

import numpy as np

from rlprune.agents import make_controller, run_episode
from rlprune.agents.runs.population import read_population
from rlprune.envs import FilterPruningEnv, ScoreCache
from rlprune.envs.observations import FEATURES
from rlprune.errors import UserError

RULES = {"one_shot": True, "max_rate": 0.9, "reward": "accuracy", "recovery": "lsq+bn", "skip": ["residual"]}
GOALS = [{"counted": kind, "budget": budget} for kind, budget in product(("macs", "parameters"), (0.3, 0.5, 0.7))]
NAMES = ("width", "extent", "kernel", "expansion", "depth", "is_first", "is_last", "macs_share", "parameters_share",
         "is_depthwise", "producers", "consumers", "score_q10", "score_gini", "uniform", "share_lost_uniform",
         "error_advised", "advised", "advised_departure")  # fmt: skip
COLUMNS = [FEATURES.index(name) for name in NAMES]
SQUARED = [0, *(1 + NAMES.index(name) for name in ("macs_share", "error_advised"))]  # behind a column of ones
NEAR, FLOOR, RIDGE = 0.02, 0.15, (1.0, 10.0, 30.0, 100.0, 300.0)


class Seen:
    """The rule, and what it sees."""

    def __init__(self) -> None:
        self.rule, self.rows = make_controller("error"), []

    def bind(self, env):
        """As the rule's."""
        self.rule.bind(env)

    def predict(self, observation, *_):
        """The rule's action."""
        self.rows.append(np.array(observation))
        return self.rule.predict(observation)


def schedules(model: str, weights: str, data: str, scores: ScoreCache):
    """Of every schedule scored on a network the regressors and the gain over the rule, in units of the rule's drop."""
    env = FilterPruningEnv(model=model, weights=weights, data=data, tolerance=1.0, cache=str(scores.path), **RULES)
    known = []
    for goal in GOALS:
        try:
            env.reset(options=goal)
        except UserError:  # out of reach of this network
            continue
        names, advised, seen = [env.scope.names[place] for place in env.visited], env.advised_rates(), Seen()
        seen.bind(env)
        rule = run_episode(env, seen, options=goal).info["final_score"]
        known.append((goal, names, advised, np.array(seen.rows)[:, COLUMNS], rule))
    env.reset()
    sizes = dict(zip(env.scope.names, env.scope.sizes, strict=True))
    for _, removed, score in scores.children(env.state_key):
        counts = np.array([removed.get(name, 0) for name in env.scope.names])
        costs = {"macs": env.scope.macs, "parameters": env.scope.parameters}
        left = {kind: cost(counts) / cost(0 * counts) for kind, cost in costs.items()}
        under = [(goal["budget"] - left[goal["counted"]], n) for n, (goal, *_) in enumerate(known)]
        gap, place = min(((gap, n) for gap, n in under if gap >= 0), default=(1.0, 0))
        _, names, advised, seen, rule = known[place]
        departures = np.array([removed.get(name, 0) / sizes[name] for name in names]) - advised
        if gap > NEAR or np.abs(departures).max() < 1e-9:
            continue
        told = np.hstack([np.ones((len(seen), 1)), seen])
        squares = (
            departures[:, None] ** 2 * told[:, [0, *(1 + NAMES.index(n) for n in ("macs_share", "error_advised"))]]
        )
        gain = (score.value - rule) / max(FLOOR, env.baseline.value - rule)
        yield np.concatenate([departures @ told, squares.sum(0)]), gain
    env.close()


def explained(x: np.ndarray, y: np.ndarray, parts: np.ndarray, ridge: float) -> float:
    """1 - the error's share of the variance (R²), each part predicted from the others."""
    guess = np.empty_like(y)
    for part in np.unique(parts):
        out = parts == part
        mean, spread = x[~out].mean(0), x[~out].std(0) + 1e-9
        z, rest = (x - mean) / spread, y[~out] - y[~out].mean()
        weights = np.linalg.solve(z[~out].T @ z[~out] + ridge * np.eye(x.shape[1]), z[~out].T @ rest)
        guess[out] = y[~out].mean() + z[out] @ weights
    return float(1.0 - ((y - guess) ** 2).sum() / ((y - y.mean()) ** 2).sum())


def main(population: str, data: str, file: str) -> None:
    """Collect, fit, print."""
    scores, found, families = ScoreCache(file), [], []
    for member in read_population(population):
        found += schedules(member.model, member.weights, data, scores)
        families += [member.family] * (len(found) - len(families))
    x, y, parts = np.array([row for row, _ in found]), np.array([gain for _, gain in found]), np.array(families)
    print(f"{len(y)} schedules of {len({*families})} families: gain {y.mean():+.3f} (spread {y.std():.3f})")
    drawn = np.random.default_rng(0).integers(0, 10, len(y))
    for ridge in RIDGE:
        shares = explained(x, y, drawn, ridge), explained(x, y, parts, ridge)
        print("ridge {:3.0f}: explained {:+.3f} at random, {:+.3f} of families held out".format(ridge, *shares))


if __name__ == "__main__":
    main(*sys.argv[1:4])
