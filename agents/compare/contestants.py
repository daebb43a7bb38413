"""How each kind of controller plays a cell: in one round or many, at a budget or at a tolerance.

A schedule that decides everything in one round meets a budget by construction, and a tolerance by bisection over
budgets. One that goes round by round ends at the budget, or at the tolerance, by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rlprune.agents.runs.finishing import Finisher, better
from rlprune.agents.runs.repairing import RepairUntil

from rlprune.agents.controllers.base import AGENT, RULES, Controller, make_controller, run_episode, shown_to
from rlprune.agents.controllers.pfec import Pfec
from rlprune.agents.controllers.prc import PRC
from rlprune.criteria import get_criterion
from rlprune.envs import FilterPruningEnv, Rules
from rlprune.errors import unknown_name
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import TrainSettings, make_recovery
from rlprune.registry import Registry
from rlprune.tasks import score_drop

if TYPE_CHECKING:
    from rlprune.agents.compare.settings import Goal, PlaySettings

BISECTIONS = 7
OWN_CRITERION = {"fpsl": "fpsl", "slimming": "bn_scale"}
"""Methods whose ranking is part of the method."""


@dataclass
class Played:
    """What came of a cell.

    Attributes:
        network: The network handed back.
        history: The environment's record of every round.
        stopped: Why it ended.
        score: The network's control score.
    """

    network: Network
    history: list[dict[str, Any]]
    stopped: str
    score: float


@dataclass(frozen=True)
class Arena:
    """Where a controller plays.

    Attributes:
        problem: The network and its data.
        settings: The rules.
        controller: Its name, or `agent:FILE`.
        seed: Of everything random.
        evaluations: Networks a search may score in one go.
        scanned: What a sensitivity scan found, once there was one.
    """

    problem: PruningProblem
    settings: PlaySettings
    controller: str
    seed: int
    evaluations: int
    scanned: dict[str, float] = field(default_factory=dict)

    @property
    def options(self) -> dict[str, Any]:
        """The controller's own settings."""
        return {key: value for key, value in self._given.items() if key != "criterion"}

    @property
    def criterion(self) -> str:
        """The ranking it plays with: its own where it has one, else everybody's."""
        return str(self._given.get("criterion", OWN_CRITERION.get(self.controller, self.settings.criterion)))

    @property
    def _given(self) -> Mapping[str, Any]:
        return self.settings.options.get(self.controller, {})

    def one_round(self, budget: float, tolerance: float = 1.0) -> FilterPruningEnv:
        """An environment of a single round that ends at `budget`, whatever the drop; agents are told `tolerance`."""
        rules = Rules(
            criterion=self.criterion,
            tolerance=1.0,
            reward="accuracy",
            budget=budget,
            max_rate=self.settings.max_rate,
            one_shot=True,
            skip=self.settings.skip,
            seed=self.seed,
            **shown_to(make_controller(self.controller, self.options), tolerance),
        )
        return FilterPruningEnv.from_problem(self.problem, rules, recovery=self.settings.recovery)

    def many_rounds(self, budget: float | None, tolerance: float) -> FilterPruningEnv:
        """An environment that goes on until the budget or the tolerance is reached."""
        rules = Rules(
            criterion=self.criterion,
            tolerance=tolerance,
            budget=budget,
            max_rate=self.settings.round_rate,
            rounds=self.settings.rounds,
            skip=self.settings.skip,
            seed=self.seed,
        )
        recovery = make_recovery(self.settings.recovery, TrainSettings())
        if self.settings.repair_epochs > 0 and budget is None:
            return FilterPruningEnv.from_problem(
                self.problem,
                rules,
                recovery=RepairUntil(recovery, TrainSettings(), tolerance, self.settings.repair_epochs),
            )
        return FilterPruningEnv.from_problem(self.problem, rules, recovery=recovery)


OneRound = Callable[[Arena, FilterPruningEnv], Controller]
Player = Callable[[Arena, "Goal"], Played]


def check_contestant(controller: str, options: Mapping[str, Any]) -> None:
    """Raise UserError if there is no such controller, or it has not these options."""
    options = dict(options)
    get_criterion(options.pop("criterion", "l1"))
    if not controller.startswith(AGENT) and controller not in RULES.names():
        raise unknown_name("controller", controller, [*RULES.names(), f"{AGENT}FILE"])
    make_controller(controller, options)


def play(arena: Arena, goal: Goal) -> Played:
    """Play one cell."""
    name = "agent" if arena.controller.startswith(AGENT) else arena.controller
    if name in ONE_ROUND.names() and goal.kind == "budget":
        return _at_budget(arena, ONE_ROUND.get(name), goal.value, 1.0)
    if name in ONE_ROUND.names() and name not in MANY_ROUNDS.names():
        return _at_tolerance(arena, ONE_ROUND.get(name), goal.value)
    return MANY_ROUNDS.get(name if name in MANY_ROUNDS.names() else "rule")(arena, goal)


# Schedules of one round ---------------------------------------------------------------------------------------------

ONE_ROUND: Registry[OneRound] = Registry("schedule of one round")
"""Makes the controller that plays the single round, whatever it must try out for it before."""


@ONE_ROUND.register("uniform")
def _uniform(arena: Arena, env: FilterPruningEnv) -> Controller:
    """Action 0 is the uniform rate that spends the budget."""
    return make_controller("uniform", {key: value for key, value in arena.options.items() if key != "rate"})


@ONE_ROUND.register("random")
def _random(arena: Arena, env: FilterPruningEnv) -> Controller:
    return make_controller("random", {"episodes": arena.evaluations, **arena.options})


@ONE_ROUND.register("cem")
def _cem(arena: Arena, env: FilterPruningEnv) -> Controller:
    """Six generations or more, whatever the evaluations, up to the population the rule has by default."""
    population = max(4, min(24, arena.evaluations // 6))
    return make_controller("cem", {"episodes": arena.evaluations, "population": population, **arena.options})


@ONE_ROUND.register("pfec")
def _pfec(arena: Arena, env: FilterPruningEnv) -> Controller:
    """PFEC's rates, scaled by one factor to the budget: of the table asked for, else from a sensitivity scan."""
    return ScannedOnce(**arena.options, memory=arena.scanned)


@ONE_ROUND.register("error")
def _error(arena: Arena, env: FilterPruningEnv) -> Controller:
    """The least sum of reconstruction errors."""
    return make_controller("error", arena.options)


@ONE_ROUND.register("sensitivity")
def _sensitivity(arena: Arena, env: FilterPruningEnv) -> Controller:
    """One level of harm for all groups, the one that meets the budget. At a tolerance it goes round by round."""
    return make_controller("sensitivity", arena.options)


@ONE_ROUND.register("agent")
def _agent(arena: Arena, env: FilterPruningEnv) -> Controller:
    """A trained agent, as it is."""
    return make_controller(arena.controller)


@dataclass
class ScannedOnce(Pfec):
    """PFEC that scans once for all the budgets it is tried at, and is charged for it once.

    Attributes:
        memory: What the scan found.
    """

    memory: dict[str, float] = field(default_factory=dict)

    def _scanned(self) -> dict[str, float]:
        if not self.memory:
            self.memory.update(super()._scanned())
        return dict(self.memory)


def _at_budget(arena: Arena, make: OneRound, budget: float, tolerance: float) -> Played:
    env = arena.one_round(budget, tolerance)
    controller = make(arena, env)
    episode = run_episode(env, controller, seed=arena.seed)
    return Played(env.network, list(env.history), episode.info["stopped"], episode.info["final_score"])


def _at_tolerance(arena: Arena, make: OneRound, tolerance: float) -> Played:
    """Bisection over budgets: the fewest MACs found at which the drop is inside the tolerance.

    A search spends its evaluations over all of the budgets tried.
    """
    problem = arena.problem
    shared = replace(arena, evaluations=max(1, arena.evaluations // BISECTIONS))
    best = Played(problem.base(), [], "no budget tried keeps the tolerance", problem.baseline.value)
    low, high = _least_share(arena), 1.0
    history: list[dict[str, Any]] = []
    for number in range(1, BISECTIONS + 1):
        # Halving the logarithm: from 1 to a quarter is as far as from a quarter to a sixteenth.
        budget = (low * high) ** 0.5
        tried = _at_budget(shared, make, budget, tolerance)
        drop = score_drop(problem.baseline.value, tried.score)
        inside = drop <= tolerance
        history += [{**line, "round": number, "accepted": inside} for line in tried.history]
        if inside:
            high, best = budget, tried
        else:
            low = budget
    return replace(best, history=history, stopped=f"bisection over {BISECTIONS} budgets")


def _least_share(arena: Arena) -> float:
    """The fraction of the MACs that stay when every group gives what `max_rate` allows, and a little more."""
    env = arena.one_round(1.0)
    return min(1.0, env.budget.least_cost / arena.problem.cost.macs() + 1e-3)


# Schedules of many rounds -------------------------------------------------------------------------------------------

MANY_ROUNDS: Registry[Player] = Registry("schedule of many rounds")


@MANY_ROUNDS.register("sensitivity")
@MANY_ROUNDS.register("rule")
def _rule(arena: Arena, goal: Goal) -> Played:
    """Any rule: to the budget whatever the drop, or to the tolerance whatever the MACs."""
    env = arena.many_rounds(goal.value, 1.0) if goal.kind == "budget" else arena.many_rounds(None, goal.value)
    controller = make_controller(arena.controller, arena.options)
    played = _accepted(env, run_episode(env, controller, seed=arena.seed).info)
    if isinstance(controller, Finisher) and played.network.plan:
        last = better(arena.problem, (played.network, played.score), controller.finish(played.network))
        played = replace(played, network=last[0], score=last[1])
    return played


@MANY_ROUNDS.register("prc")
def _prc(arena: Arena, goal: Goal) -> Played:
    """PRC plays against a tolerance; at a budget it starts at 0.01 and doubles whenever the game ends too early."""
    if goal.kind == "tolerance":
        return _rule(arena, goal)
    env = arena.many_rounds(goal.value, 0.01)
    controller = make_controller(arena.controller, arena.options)
    assert isinstance(controller, PRC)
    controller.bind(env)
    observation, _ = env.reset(seed=arena.seed)
    while True:
        action, _ = controller.predict(observation)
        observation, _, terminated, truncated, info = env.step(action)
        if not (terminated or truncated):
            continue
        if info["stopped"] == "budget" or truncated or env.tolerance >= 1.0:
            return _accepted(env, info)
        state = env.state_dict()
        state["goal"]["tolerance"] = min(1.0, 2 * env.tolerance)
        state |= {"stopped": None, "idle": 0, "cap": arena.settings.round_rate}
        observation = env.load_state_dict(state)
        controller.load_state_dict({**controller.state_dict(), "idle": 0})  # the wider tolerance may let more go


def _accepted(env: FilterPruningEnv, info: Mapping[str, Any]) -> Played:
    return Played(env.accepted, list(env.history), info["stopped"], info["final_score"])
