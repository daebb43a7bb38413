"""After the pruning: fine-tune, keep the better network, and describe what is handed back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from rlprune.agents.runs.settings import PruneSettings
from rlprune.channels import PruningPlan
from rlprune.cost import measure_latency
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.recovery import train
from rlprune.seeding import derive

Scored = tuple[Network, float]
"""A network and its control score."""


@runtime_checkable
class Finisher(Protocol):
    """A controller that has a last touch for the pruned network."""

    def finish(self, network: Network) -> Network:
        """The network with the last touch, a copy; it is kept if it scores no worse."""
        ...


@dataclass(frozen=True)
class Tuned:
    """What a fine-tuning came to.

    Attributes:
        epochs: Epochs trained.
        before, after: Control scores before it and after it.
        kept: Whether the trained network was kept.
        losses: Mean loss of every epoch.
    """

    epochs: int
    before: float
    after: float
    kept: bool
    losses: list[float]


def finetune(
    problem: PruningProblem,
    network: Network,
    before: float,
    settings: PruneSettings,
    checkpoint: Path,
    attempt: int,
    before_epochs: float,
    progress: Callable[[str, float, float], None],
) -> tuple[Network, float, Tuned | None]:
    """Train a copy of `network` as `settings.finetune` says, and return the better of the two on the control split.

    With patience the epoch of the best control score is what comes out of the training, else the last one.

    Args:
        problem: Data, task and device; its ledger is charged the same whether or not the training was interrupted.
        network: What was pruned.
        before: Its control score.
        settings: Of the run.
        checkpoint: File from which an interrupted training goes on, to the same bits on a CPU.
        attempt: Number of the run's attempt, for a random stream of its own.
        before_epochs: Epochs that this attempt has trained between removals.
        progress: Told what goes on, with what is done and what there is to do.

    Returns:
        The network, its control score, and the report; no report if there was nothing to train.
    """
    how, spent = settings.finetuning(before_epochs), problem.ledger.state_dict()
    if how.epochs <= 0:
        return network, before, None
    trained = network.copy()

    def monitor(model: torch.nn.Module) -> float:
        return problem.evaluator.score(model, "control").value

    report = train(
        trained.model,
        problem.task,
        problem.data.train,
        how,
        seed=derive(settings.seed, "finetune", attempt),
        teacher=problem.model if how.distillation else None,
        monitor=monitor if how.patience else None,
        checkpoint=checkpoint,
        on_step=lambda done: progress(f"fine-tuning, {how.epochs:g} epochs", done, 1.0),
        device=problem.device,
    )
    looks, control = len(report.scores), len(problem.data.control)
    spent["evaluations"] += looks
    spent["images_evaluated"] += looks * control
    spent["images_trained"] += report.images
    problem.ledger.load_state_dict(spent)
    score = problem.evaluator.score(trained.model, "control").value
    tuned = Tuned(len(report.losses), before, score, score >= before, report.losses)
    return (trained, score, tuned) if tuned.kept else (network, before, tuned)


def better(problem: PruningProblem, first: Scored, second: Network) -> Scored:
    """The second network if its control score is no worse than the first one's, else the first."""
    score = problem.evaluator.score(second.model, "control").value
    return (second, score) if score >= first[1] else first


def pack_network(network: Network | None) -> dict[str, Any] | None:
    """A network's plan and weights, for a checkpoint."""
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


def describe(problem: PruningProblem, network: Network) -> dict[str, Any]:
    """Scores with 95 % intervals on control and test, and cost, in plain values."""
    found: dict[str, Any] = {}
    for role in ("control", "test"):
        found |= problem.evaluator.score(network.model, role).figures(role)
    return {**found, "macs": problem.macs(network), "parameters": problem.parameters(network)}


def latency(problem: PruningProblem, base: Network, network: Network) -> dict[str, Any]:
    """Median and interquartile range of one forward pass on one image, before and after, in seconds."""
    measured = {
        key: measure_latency(candidate.model, *problem.example_inputs)
        for key, candidate in (("baseline", base), ("pruned", network))
    }
    return {
        "batch": 1,
        "threads": torch.get_num_threads(),
        **{key: {"median_s": value.median_s, "iqr_s": value.iqr_s} for key, value in measured.items()},
    }
