"""Rebuild what a run made, from its record, and check that the record tells the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rlprune.artifact import fingerprint, load_pruned
from rlprune.channels import PruningPlan
from rlprune.drops import score_drop
from rlprune.errors import UserError, reading
from rlprune.models import resolve_model
from rlprune.network import Network
from rlprune.problem import PruningProblem
from rlprune.record import RunFolder
from rlprune.spec import ProblemSpec
from rlprune.tasks import get_task
from rlprune.trust import check_code


def rebuild(folder: Path, *, model: str | None = None, trust: bool = False) -> tuple[PruningProblem, Network]:
    """The problem of a finished run, built afresh, and the pruned network: the record's plan with the saved weights.

    Files that the record names are looked for from the working directory and from the run's folder upwards.

    Args:
        folder: Of the run.
        model: The unpruned network, in place of what the record names.
        trust: Run the Python code that the record names.

    Raises:
        UserError: If the run is not finished, its files are missing or damaged or do not fit together, or its network
            is built by code that there was no word of.
    """
    run, record, source = _finished(folder)
    problem = trusted(run.record_file, source, model, trust).build()
    return problem, saved_network(run.model_file, record, problem)


def without_data(folder: Path, *, model: str | None = None, trust: bool = False) -> tuple[nn.Module, tuple[Any, ...]]:
    """The pruned network of a finished run, and two examples of noise to call it with; needs its model.pt alone.

    Raises:
        UserError: As `rebuild`.
    """
    run, record, source = _finished(folder)
    spec = trusted(run.record_file, {**source, "data": "digits", "root": None, "weights": None}, model, trust)
    with reading(folder, "the folder of a run"):
        about = record["data"]
        shape = tuple(about["input_shape"])
        whole = resolve_model(spec.model, num_classes=len(about["classes"]), in_channels=shape[0])
    network = load_pruned(run.model_file, whole).eval()
    _check_recorded(run.model_file, network, record)
    return network, get_task(spec.task or about["task"]).inputs((torch.rand(2, *shape), None))


def _finished(folder: Path) -> tuple[RunFolder, dict[str, Any], dict[str, Any]]:
    """A finished run's folder, its record, and its problem as it was given."""
    run = RunFolder(folder)
    record = run.read()
    if record["status"] != "finished":
        raise UserError(
            f"the run in {folder} is {record['status']}; finish it with `rlprune prune --out {folder} --resume`"
        )
    source = record["settings"].get("problem")
    if source is None:
        raise UserError(
            f"the run in {folder} pruned a live network, which its record cannot build; load {run.model_file} into it"
        )
    return run, record, source


def trusted(file: Path, problem: Mapping[str, Any], model: str | None, trust: bool) -> ProblemSpec:
    """The problem that a file describes, if nothing runs that its reader does not know of.

    Raises:
        UserError: If its network is built by somebody's code, unless that is trusted or the network given by hand.
    """
    with reading(file, "the record of a run"):
        spec = ProblemSpec.from_json(problem)
    spec = (spec if model is None else replace(spec, model=model)).located(file.parent)
    check_code(file, [spec], trust=trust, argv=["--model", spec.model] if model is not None else [])
    return spec


def saved_network(file: Path, record: Mapping[str, Any], problem: PruningProblem) -> Network:
    """The pruned network in a file: the record's plan with the saved weights, of the record's checksum.

    Raises:
        UserError: If its files are missing or damaged or do not fit together.
    """
    with reading(file.parent, "the folder of a run"):
        network = problem.base().remove(PruningPlan.from_json(record["plan"]), problem.groups)
    planned = {name: tensor.shape for name, tensor in network.model.state_dict().items()}
    network.model = load_pruned(file, problem.base().model).to(problem.device).eval()
    saved = network.model.state_dict()
    for name, shape in planned.items():
        if saved[name].shape != shape:
            raise UserError(
                f"{file} does not fit its record: {name} has shape {tuple(saved[name].shape)}, "
                f"the plan says {tuple(shape)}"
            )
    _check_recorded(file, network.model, record)
    return network


def _check_recorded(file: Path, network: nn.Module, record: Mapping[str, Any]) -> None:
    if fingerprint(network.state_dict()) != record["sha256"]:
        raise UserError(f"{file} is not the network of its record: checksums differ")


def replay(folder: Path, *, model: str | None = None, trust: bool = False) -> dict[str, Any]:
    """Rebuild a run's network and compare its scores and cost with the record, and its drop with the tolerance.

    Args:
        folder: Of the run.
        model: As of `rebuild`.
        trust: As of `rebuild`.

    Returns:
        `checks`: dicts with `name`, `recorded`, `replayed`.

    Raises:
        UserError: Naming the first figure that differs.
    """
    problem, network = rebuild(folder, model=model, trust=trust)
    record = RunFolder(folder).read()
    control = problem.evaluator.score(network.model, "control").value
    replayed = {
        "macs": problem.macs(network),
        "parameters": problem.parameters(network),
        "control_score": control,
        "test_score": problem.evaluator.score(network.model, "test").value,
    }
    for name, value in replayed.items():
        if value != record["pruned"].get(name):
            raise UserError(
                f"the record in {folder} does not hold: {name} is {value}, recorded {record['pruned'].get(name)}"
            )
    drop = score_drop(problem.baseline.value, control)
    if drop > record["tolerance"]:
        raise UserError(
            f"the record in {folder} does not hold: the drop is {drop}, its tolerance {record['tolerance']}"
        )
    return {
        "checks": [{"name": name, "recorded": record["pruned"][name], "replayed": v} for name, v in replayed.items()]
    }
