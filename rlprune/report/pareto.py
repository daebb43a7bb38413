"""The networks that nobody beats: non-dominated points, and the archive of all finished runs under a folder."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rlprune.errors import Notice, UserError, check_known, reading, unknown_name
from rlprune.files import read_json
from rlprune.report.tables import layout, say
from rlprune.report.units import Unit
from rlprune.typed import check_table

if TYPE_CHECKING:
    from rich.console import Console


def non_dominated(points: ArrayLike) -> NDArray[np.bool_]:
    """Which of `points` (n, k) no other point beats, when every column is better the smaller it is.

    One point beats another if it is nowhere worse and somewhere better; equal points do not beat each other.

    >>> non_dominated([[1, 3], [2, 2], [3, 1], [3, 3], [1, 3]]).tolist()
    [True, True, True, False, True]
    """
    costs = np.asarray(points, dtype=np.float64)
    if costs.ndim != 2:
        raise ValueError(f"points must be (n, k), got shape {costs.shape}")
    best = np.ones(len(costs), dtype=bool)
    for number, point in enumerate(costs):
        best[number] = not bool(((costs <= point).all(axis=1) & (costs < point).any(axis=1)).any())
    return best


@dataclass(frozen=True)
class Network:
    """A pruned network on the disk.

    Attributes:
        id: Its folder relative to where the archive was read, unique there.
        folder: The run folder, or the folder of a comparison's cell.
        kind: `run` or `cell`.
        stage: Which of a cell's networks: `prune`, `finetune` or `scratch`.
        model: Name of the unpruned network.
        data: Name of the data.
        controller: What set the rates.
        seed: Of everything random.
        control_score: Score on the control split: what networks are chosen by.
        test_score: Score on the test split, beside it.
        macs: Multiply–accumulates of a forward pass.
        parameters: How many.
        latency_s: Median seconds of a forward pass as measured at the time, or None.
        parallel: Whether other work ran beside that measurement: it is shown, and not ranked by.
        metric: What the scores measure.
        percent: Whether they are fractions.
    """

    id: str
    folder: Path
    kind: str
    stage: str
    model: str
    data: str
    controller: str
    seed: int
    control_score: float
    test_score: float
    macs: int
    parameters: int
    latency_s: float | None
    parallel: bool = False
    metric: str = "score"
    percent: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {**vars(self), "folder": str(self.folder)}


OBJECTIVES: dict[str, Callable[[Network], float]] = {
    "score": lambda network: -network.control_score,
    "macs": lambda network: network.macs,
    "parameters": lambda network: network.parameters,
    "latency": lambda network: float("inf") if network.latency_s is None or network.parallel else network.latency_s,
}
"""What a network can be better in; each is better the smaller it is."""


def find_networks(folder: Path) -> list[Network]:
    """Every finished network under a folder, of runs and of comparisons' cells, by id.

    Raises:
        UserError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise UserError(f"no such folder: {folder}; runs are written to runs/ unless --out says otherwise")
    found: list[Network] = []
    for name, networks_of in (("record.json", _of_run), ("cells/*/cell.json", _of_cell)):
        for path in sorted(folder.rglob(name)):
            try:
                with reading(path, "the record of a run or a cell"):
                    found += networks_of(path.parent, read_json(path), folder)
            except UserError as error:  # one run is no reason to lose the others
                warnings.warn(f"left out: {error}", Notice, stacklevel=2)
    return sorted(found, key=lambda network: network.id)


def archive(networks: Sequence[Network], objectives: Sequence[str] = ("score", "macs", "parameters")) -> list[Network]:
    """The networks that no other one for the same data beats, by data and then by MACs.

    Scores are those on the control split, since choosing by the test split would spend it. Measured latency is not
    among the default objectives: its noise alone would make almost every network the best at something.

    Raises:
        UserError: For an unknown objective.
    """
    for name in objectives:
        check_known("objective", name, OBJECTIVES)
    kept: list[Network] = []
    for data in sorted({network.data for network in networks}):
        rivals = [network for network in networks if network.data == data]
        best = non_dominated([[OBJECTIVES[name](network) for name in objectives] for network in rivals])
        kept += [network for network, stays in zip(rivals, best, strict=True) if stays]
    return sorted(kept, key=lambda network: (network.data, network.macs, network.id))


def choose(networks: Sequence[Network], wanted: str) -> Network:
    """The network with an id, or the only one whose id ends with it.

    Raises:
        UserError: If there is none, or more than one.
    """
    exact = [network for network in networks if network.id == wanted]
    close = exact or [network for network in networks if network.id.endswith(wanted)]
    if not close:
        raise unknown_name("network", wanted, [network.id for network in networks])
    if len(close) > 1:
        raise UserError(f"{wanted!r} fits {len(close)} networks ({close[0].id}, {close[1].id} ...); give the whole id")
    return close[0]


def print_networks(networks: Sequence[Network], front: Collection[Network], console: Console) -> None:
    """A line each, the id last and whole, so that it can be copied; those that are beaten have no star."""
    rows = []
    for network in networks:
        unit = Unit(network.metric, network.percent)
        latency = "–" if network.latency_s is None else f"{'~' * network.parallel}{1000 * network.latency_s:.2f} ms"
        scores = (unit.score(network.control_score), unit.score(network.test_score))
        cost = (f"{network.macs:,}", f"{network.parameters:,}", latency, f"{network.data}: {network.id}")
        rows.append(("*" if network in front else "", *scores, *cost))
    heads = ("", "control", "test", "MACs", "parameters", "latency", "data: network")
    say(console, layout(heads, rows, max(console.width, 200), left=("data: network",)))
    if any(network.parallel for network in networks):
        say(console, "~: measured while other work ran beside it, so it is not ranked by")


def _of_run(folder: Path, record: Any, root: Path) -> list[Network]:
    if not isinstance(record, dict) or record.get("status") != "finished" or "pruned" not in record:
        return []
    about = (record["model"], record["data"]["name"], record["settings"]["controller"], record["seed"])
    return [_network(_id(folder, root), folder, "run", "prune", about, record)]


def _of_cell(folder: Path, cell: Any, root: Path) -> list[Network]:
    found = []
    for stage in ("prune", "finetune", "scratch"):
        path = folder / f"{stage}.json"
        result = read_json(path) if path.exists() else None
        if not result or result["status"] != "finished" or not (folder / f"{stage}.pt").exists():
            continue
        about = (cell["problem"]["model"], result["data"], cell["controller"], cell["seed"])
        found.append(_network(f"{_id(folder, root)}:{stage}", folder, "cell", stage, about, result))
    return found


def _network(
    name: str, folder: Path, kind: str, stage: str, about: tuple[str, str, str, int], result: Mapping[str, Any]
) -> Network:
    pruned, latency = result["pruned"], result.get("latency") or {}
    unit = Unit.of(pruned)
    figures = (pruned["control_score"], pruned["test_score"], pruned["macs"], pruned["parameters"])
    seconds = latency.get("pruned", {}).get("median_s")
    found = Network(
        name, folder, kind, stage, *about, *figures, seconds, bool(latency.get("parallel")), unit.metric, unit.percent
    )
    check_table(Network, vars(found), "the record")
    return found


def _id(folder: Path, root: Path) -> str:
    relative = folder.relative_to(root).as_posix()
    return folder.name if relative == "." else relative
