"""`python runs/left_out.py AGENT.zip [MODEL=WEIGHTS ...]`: an agent on networks that it was not trained on.

Plays it beside the rule `error`, the one that advises it, and uniform rates, one deterministic episode each without any
training of the network, by the rules of its card, on the networks that its card says were left out, or on those given;
scores test images, and prints a line of JSON for each network and budget: accuracies in %, and the agent's gains in
points with 95 % intervals (paired over the images). `alone` is the agent without the fading outside of what it knows.

BUDGETS="0.5 0.3" and IMAGES=10000, of the test images, unless the variables say otherwise.
"""

import json
import os
import sys
from dataclasses import replace

import numpy as np

from rlprune.agents import TrainedAgent, load_agent, make_controller, run_episode
from rlprune.envs import FilterPruningEnv
from rlprune.errors import UserError
from rlprune.scoring.evaluation import Evaluator
from rlprune.scoring.paired import drawn_drops


def main(file: str, models: list[str]) -> None:
    """Play, score, print."""
    agent = load_agent(file)
    alone = TrainedAgent(agent.model, {name: value for name, value in agent.card.items() if name != "support"})
    rules_of = dict.fromkeys(["error", "uniform", agent.card["training"].get("advice", "error")])
    players = {"agent": agent, "alone": alone, **{name: make_controller(name) for name in rules_of}}
    kwargs = agent.card["env"]["kwargs"]
    rules = {**kwargs["common"], "max_rate": kwargs["max_rate"], "one_shot": True, "reward": "accuracy"}
    given = [dict(zip(("model", "weights"), model.split("=", 1), strict=True)) for model in models]
    for problem in given or agent.card["training"]["left_out"]:
        env = FilterPruningEnv(**{**rules, **problem, "cache": None})
        data = env.problem.data
        images = data.test.first(int(os.environ.get("IMAGES", "10000")))
        evaluator = Evaluator(env.problem.task, replace(data, test=images))
        for budget in map(float, os.environ.get("BUDGETS", "0.5 0.3").split()):
            scores = {}
            try:
                for name, player in players.items():
                    run_episode(env, player, options={"budget": budget})
                    scores[name] = evaluator.score(env.network.model, "test")
            except UserError as error:  # a budget that this network cannot meet
                print(f"{problem['model']}: {error}", file=sys.stderr)
                continue
            line = {"model": problem["model"], "budget": budget, "images": len(images)}
            line |= {name: round(100 * score.value, 2) for name, score in scores.items()}
            for name, other in (*(("agent", rule) for rule in rules_of), ("alone", "error")):
                gains = -100 * drawn_drops(scores[other], scores[name])
                gain = 100 * (scores[name].value - scores[other].value)
                line[f"{name} over {other}"] = [round(float(x), 2) for x in (gain, *np.quantile(gains, (0.025, 0.975)))]
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
