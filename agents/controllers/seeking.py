"""The law of every schedule: how far it goes inside a tolerance, with training, in one budget of epochs.

It brackets the share of the MACs between one that is inside the tolerance after training and one that is not. A step is
a factor on the MACs, taken from the last accepted network; it grows after a success and shrinks after a setback, and it
never goes past what training has been seen not to heal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rlprune.agents.controllers.law import Aim, Standing

SMALLEST = 0.02  # a removal of less than two per cent of the MACs is not worth a cycle
GIVE_UP = 3  # setbacks in a row
HEALING_STEPS = 40.0  # of training, after which half of what can be healed is
TRIALS = 6  # cheap scores for a step
Place = tuple[float, float]  # minus the logarithm of a share, and the drop after training
MOST = 0.7  # share of the last epochs that one cycle takes
FURTHER = 0.92  # share of a drop that one cycle more leaves, at the same size


def cycles(epochs: float) -> float:
    """How many training cycles a budget is cut into: few long ones heal better than many short ones.

    >>> [round(cycles(epochs), 2) for epochs in (6, 12, 30, 60, 200)]
    [1.25, 1.25, 3.0, 6.0, 10.0]
    """
    return min(10.0, max(1.25, epochs / 10.0))


def over(now: Standing) -> bool:
    """Whether the training budget is spent."""
    return now.epochs > 0 and now.left < 0.05


def smallest(now: Standing) -> float:
    """The share after the smallest removal that is worth a round."""
    return now.share * math.exp(-SMALLEST)


def cycle_length(now: Standing) -> float:
    """Epochs of the next cycle: a third of what is left, since easy rounds end early.

    Towards the end it is most of what is left: the rest is for more training where it ends just outside, or for one
    removal more. At last it is all of it.
    """
    usual = now.epochs / cycles(now.epochs)
    length = max(usual, now.left / 3.0)
    if now.left < 0.5 * usual:
        return now.left
    return MOST * now.left if now.left < 1.5 * length else length


def rest(now: Standing) -> Aim | None:
    """Training alone: where the target is met, or after setbacks, when slack that it wins may allow one removal more.

    None if too little is left.
    """
    if now.epochs <= 0 or now.left < 0.1 * now.epochs:
        return None
    whole = now.met or now.left < 0.25 * now.epochs
    return Aim(now.share, now.left if whole else now.left / 2.0, "rest")


def enough(now: Standing, bound: str) -> float:
    """The drop at which a round has cost nothing and may stop training: as before, or a quarter of the tolerance.

    Where nothing was trained before a cut that goes as far as the tolerance reaches, training heals the drop before it,
    too, and only the quarter will do.
    """
    healed = now.trained or bound != "tolerance"
    return max(now.drop if healed else 0.0, 0.25 * now.tolerance)


def stays(now: Standing) -> float:
    """The part of the present drop that no training will heal: what training has left, where it is more than noise."""
    return min(max(now.drop - now.noise, 0.0), now.tolerance) if now.trained else 0.0


def first_step(now: Standing, floor: float) -> Aim | None:
    """What goes without any training: the network to fall back on. None once something is gone, or if nothing can."""
    if now.share < 1.0 - 1e-9 or now.epochs <= 0:
        return None
    found = furthest(now, now.slack, floor)
    return None if found is None else Aim(found[0], 0.0, found[1], now.tolerance)


@dataclass
class Healing:
    """What training heals: the share of an immediate drop that is left after a cycle, learnt from a run's own rounds.

    Drops of a few images are mostly noise: rounds count by the size of their drop, against one that is worth as much as
    a drop of `weight` and says what was expected before anything was seen.

    Attributes:
        expected: The share expected at first of the longest training; short ones heal less (`HEALING_STEPS`).
        weight: In the score's own units; the tolerance is a good one.
        harm, left: Sums over the rounds: immediate drops, and what was left of them. Older rounds count less.
    """

    expected: float = 0.08
    weight: float = 0.01
    harm: float = 0.0
    left: float = 0.0

    def predicted(self, steps: float) -> float:
        """The share expected of a training of so many steps, in [0.03, 2]."""
        prior = self.expected + (1.0 - self.expected) / (1.0 + steps / HEALING_STEPS)
        whole = self.harm + self.weight
        return min(2.0, max(0.03, (self.left + prior * self.weight) / whole if whole > 0 else prior))

    def allows(self, now: Standing, epochs: float, scale: float = 1.0) -> tuple[float, float]:
        """The immediate drop that so many epochs are trusted with, and the share h of it that they should leave.

        Of a network that was not trained it is ε / h in all, since training heals the drop there is as well. What
        training has left of a drop stays, as far as it is more than noise: then it is (ε - what stays) / h. Where
        there is no training, it is the slack T.
        """
        if now.epochs <= 0:
            return scale * now.slack, 1.0
        share = self.predicted(epochs * now.steps)
        if not now.trained:
            return scale * (now.tolerance / share - now.drop), share
        return scale * (now.tolerance - stays(now)) / share, share

    def learn(self, harm: float, left: float, most: float | None = None) -> float | None:
        """Take in a round: immediate drop, and what was left of it. Returns the share, None where it tells nothing.

        Where training was stopped early, at a drop that was small enough, more may have been possible: then the share
        counts as `most` at most.
        """
        self.harm = 0.7 * self.harm + max(harm, 0.0)
        self.left = 0.7 * self.left + max(min(left, math.inf if most is None else most * harm), 0.0)
        return left / harm if harm > 1e-9 else None


def furthest(now: Standing, allowed: float, floor: float, trials: int = TRIALS) -> tuple[float, str] | None:
    """The least share whose immediate drop is `allowed`, by bisection over the logarithm of the share.

    Args:
        now: Where the run stands; its `harm` is asked `trials` times at most.
        allowed: Immediate drop that training is trusted to heal.
        floor: Least share that may be tried.
        trials: Most scores to ask for.

    Returns:
        The share and what bound it (`tolerance`, or `window` where the floor itself is harmless); None if not even the
        smallest removal is allowed.
    """
    low, high = floor, now.share
    found: float | None = None
    for trial in range(trials):
        middle = low if trial == 0 else (low * high) ** 0.5
        harm = now.harm(middle)
        if harm is None or harm > allowed:
            low = middle
        else:
            high = found = middle
        if found == floor or math.log(high / low) < SMALLEST / 2:
            break
    if found is None:
        return None
    return found, "window" if found == floor else "tolerance"


def safely_inside(now: Standing) -> float:
    """The drop to aim at where it is known: half a standard error inside the tolerance, or half of that."""
    return max(now.tolerance - 0.5 * now.noise, 0.5 * now.tolerance)


def foreseen(now: Standing) -> float:
    """The share at which the drop gets as far as is safe, if it grows on as the square of the share's logarithm.

    So it did in the last cuts of ResNet-20, in the mean. 0 where nothing is known of that: without any training, or
    without a drop; the present share where the drop is there already.
    """
    if not now.trained or now.drop <= 0:
        return 0.0
    return math.pow(now.share, max(1.0, math.sqrt(safely_inside(now) / now.drop)))


class TrustRegion:
    """The law of every schedule: how far the next step goes and what training is trusted with, learnt from its rounds.

    Args:
        first: Logarithm of the factor by which the first removal may shrink the MACs, and the bound of later ones.
        growth: What it is multiplied by after a success; a setback halves what was taken.
        healing: What training heals.
    """

    def __init__(self, first: float = 1.0, growth: float = 1.3, healing: Healing | None = None) -> None:
        self.step, self.largest, self.growth, self.healing = first, first, growth, healing or Healing()
        self.setbacks = 0
        self.proven = False  # whether a training ended inside
        self.outside: Place | None = None  # the last that did not

    def window(self, now: Standing) -> tuple[float, float]:
        """Epochs of the next cycle, and the share that its removal may reach.

        The last cycle may go as far as it can, unless there was a setback: nothing is learnt for a later round.
        """
        epochs = cycle_length(now)
        last = epochs >= now.left and not self.setbacks
        return epochs, now.least if last else now.reach(self.step, self.setbacks)

    def aim(self, now: Standing, scale: float = 1.0) -> Aim | None:
        """The next round: as far as step, floor, target and the healing seen so far allow; None to end.

        Where training leaves the share h of a drop, the immediate drop may be `scale` times ε / h.
        """
        if over(now):
            return None
        if now.met or self.setbacks >= GIVE_UP:
            return rest(now)
        back = self.grown_back(now)
        if back is not None:
            return Aim(back, cycle_length(now), "setback", enough(now, "setback"))
        epochs, window = self.window(now)
        floor = max(now.least, window, now.target or 0.0)
        if smallest(now) < floor:
            return None if now.least >= floor or now.target else rest(now)
        free = first_step(now, floor)
        if free is not None:
            return free
        allowed, healing = self.healing.allows(now, epochs, scale)
        share, bound = furthest(now, allowed, floor) or (smallest(now), "tolerance")
        if epochs >= now.left and share < (furthest_safe := foreseen(now)):
            share, bound = min(furthest_safe, smallest(now)), "tolerance"
        if bound == "window":
            bound = {now.least: "floor", now.target: "target"}.get(floor, bound)
        return Aim(share, epochs, bound, enough(now, bound), healing)

    def grown_back(self, now: Standing) -> float | None:
        """The share to go back to where the first long training ended outside, and with it most of the budget is gone.

        What the smaller network has learnt is not lost: it grows back, and heals a little further. The drop after
        training grows with the logarithm of the share, and faster, so that no more is given back than in proportion;
        nothing where it was outside by less than the next training heals. None if there was no such setback: beside a
        network that was trained, a smaller cut of that one heals better.
        """
        if self.outside is None or self.proven:
            return None
        wanted, expected = safely_inside(now), FURTHER * self.outside[1]
        place, accepted = self.outside[0] * min(1.0, wanted / expected), -math.log(now.share)
        return math.exp(-place) if place >= accepted + SMALLEST else None

    def learn(self, aim: Aim, now: Standing, line: Mapping[str, Any]) -> float | None:
        """Learn what training heals. Inside: reach further. Outside: half as far. Returns the healing seen."""
        taken = math.log(now.share / max(line["share"], 1e-9))
        trained, reached = line.get("epochs", aim.epochs), (-math.log(max(line["share"], 1e-9)), line["drop"])
        if aim.bound_by == "rest":
            self.setbacks = 0 if line["drop"] < now.drop else self.setbacks
            return None
        if line["accepted"]:
            self.setbacks, self.step = 0, min(self.largest, max(self.step, taken) * self.growth)
            self.proven, self.outside = self.proven or trained > 0, None
        else:
            self.setbacks, self.step = self.setbacks + 1, max(SMALLEST, taken / 2)
            self.outside = reached if trained > 0 else None
        self.healing.weight = now.tolerance
        if line.get("regrown") or (now.epochs > 0 and trained <= 0):
            return None  # neither a start that was trained before nor a harmless removal says how much training heals
        early = line["accepted"] and trained < aim.epochs - 1e-6  # it stopped once the drop was small enough
        harm, left = line["harm"] - stays(now), line["drop"] - stays(now)
        return self.healing.learn(harm, left, aim.healing if early else None)

    def state_dict(self) -> dict[str, Any]:
        """What it has learnt."""
        known = {"proven": self.proven, "outside": self.outside, "healing": asdict(self.healing)}
        return {"step": self.step, "setbacks": self.setbacks, **known}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        self.step, self.setbacks, self.healing = state["step"], state["setbacks"], Healing(**state["healing"])
        self.proven, self.outside = state["proven"], state["outside"] and tuple(state["outside"])
