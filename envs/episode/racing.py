"""What a round would come to, known only as far as it takes to tell that another one is better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rlprune.envs.episode.rewards import Terms
from rlprune.envs.episode.state import EpisodeState
from rlprune.envs.episode.transitions import Repairs
from rlprune.envs.episode.window import Counts
from rlprune.scoring.racing import Heat
from rlprune.tasks import Score


@dataclass(frozen=True, eq=False)
class Trial:
    """A schedule that was tried in a round.

    Attributes:
        counts: By place in the round.
        score: Its control score; of one that was stopped, on the images seen.
        terms: The reward's.
        heat: How it ran; None where it was not scored part by part.
    """

    counts: Counts
    score: Score
    terms: Terms = field(default_factory=dict)
    heat: Heat | None = None

    @property
    def reward(self) -> float:
        """Of the round."""
        return float(sum(self.terms.values()))


Worth = Callable[[Trial], float]


def race(
    episode: EpisodeState, counts: Counts, rival: Trial | None, worth: Worth, recovery: Repairs | None = None
) -> Trial:
    """What this round would come to if its groups lost `counts`, or that it is beaten by `rival` with 99 %.

    Args:
        episode: Where the episode stands; it is left as it is.
        counts: (n,), of the groups of the round.
        rival: Who is in front; None scores all images.
        worth: What decides; it must not fall where the score rises.
        recovery: Another one than the environment's, such as a cheaper one.
    """
    transitions, runs = episode.transitions, episode.transitions.race
    after = episode.next(episode.current.named(counts), recovery)
    known = not counts.any() or transitions.store.get(after.key, transitions.problem.baseline) is not None
    exact = bool(episode.rules.confidence) or "latency" in episode.reward.needs
    if known or exact or runs is None:
        return Trial(counts, *episode.preview(counts, recovery))
    executed = episode.current.executed(counts)

    def trial(value: float, heat: Heat | None = None) -> Trial:
        seen = runs.images if heat is None else heat.seen
        score = replace(transitions.problem.baseline, value=value, n=seen, loss=None, details={}, resample=None)
        return Trial(counts, score, episode.terms(after, score, executed), heat)

    def beaten(value: float) -> bool:
        return rival is not None and worth(trial(value)) <= worth(rival)

    complete = rival.heat if rival is not None and rival.heat is not None and rival.heat.complete else None
    heat = runs.run(after.key, lambda: after.network.model, complete, beaten)
    return trial(heat.value, heat)
