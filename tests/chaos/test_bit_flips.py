"""One bit of any file of state flips: the run says so in a line, or ends as if nothing had happened."""

from __future__ import annotations

import random
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from rlprune.agents.compare.comparison import Comparison, rebuild_cell
from rlprune.agents.compare.settings import CompareSettings
from rlprune.agents.rl.settings import AgentSettings
from rlprune.agents.rl.training import train
from rlprune.agents.runs.basesettings import BaseSettings
from rlprune.agents.runs.basetraining import train_base
from rlprune.agents.runs.prune import prune_problem
from rlprune.agents.runs.recipes import get_recipe
from rlprune.agents.runs.replaying import rebuild
from rlprune.agents.runs.watching import Silent
from rlprune.artifact import fingerprint
from rlprune.envs import FilterPruningEnv
from rlprune.envs.registration import TOY
from rlprune.errors import Notice, UserError
from rlprune.files import read_json
from rlprune.record import RunFolder
from rlprune.scoring.sensitivity import scan
from rlprune.seals import comparable
from rlprune.spec import ProblemSpec
from rlprune.training.settings import TrainSettings

SIZES = {"control_size": 60, "calibration_size": 40}
SPEC = ProblemSpec(**SIZES)
STATE = {".pt", ".json", ".zip", ".npz", ".sqlite"}
LONGEST_S = 60


class Stop(BaseException):
    """A run is killed."""


class Stopper(Silent):
    """Kills a run at its n-th sign of life."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, *_: object) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stop

    work = round = __call__  # type: ignore[assignment]


class Kind(NamedTuple):
    """A kind of state: what leaves it behind, and what goes on from it and gives all that counts of the end."""

    begin: Callable[[Path], object]
    go_on: Callable[[Path], object]


def prune(folder: Path, after: int = 10**9) -> Any:
    recipe = get_recipe("uniform").change(tolerance=0.05, epochs=1.0, rounds=3, skip=[])
    problem = SPEC.build()
    result = prune_problem(problem, recipe, folder=RunFolder(folder), resume=True, watcher=Stopper(after))
    return comparable(result.record), fingerprint(result.model.state_dict())


def train_network(folder: Path, after: int = 10**9) -> Any:
    settings = BaseSettings(**vars(SPEC), training=TrainSettings(epochs=2.0, lr=0.05))
    record = train_base(settings, RunFolder(folder), resume=True, on_step=Stopper(after))
    return comparable(record), fingerprint(rebuilt_weights(folder / "model.pt"))


def rebuilt_weights(file: Path) -> Any:
    from rlprune.models.reading import read_weights

    return read_weights(file)[0]


def train_agent(folder: Path, after: int = 10**9) -> Any:
    quick = {"learning_starts": 20, "batch_size": 16}
    settings = AgentSettings(algorithm="dqn", env=TOY, episodes=12, segment=32, hyperparameters=quick)
    agent = train(settings, folder, resume=True, on_episode=Stopper(after))
    return comparable(dict(agent.card)), fingerprint(dict(agent.model.policy.state_dict()))


def scan_network(folder: Path, after: int = 10**9) -> Any:
    return scan(SPEC.build(), rates=(0.25, 0.5), path=folder / "scan.json", on_step=Stopper(after)).to_json()


def compare(folder: Path) -> Any:
    grid = CompareSettings(methods=("uniform",), seeds=(0,), budgets=(0.5,), epochs=0.0, problem=SPEC)
    comparison = Comparison(grid, folder)
    comparison.load()
    for job in comparison.jobs():
        comparison.take(job, job.run())
    content = comparable(comparison.write())
    (cell,) = comparison.cells
    _, network = rebuild_cell(folder / "cells" / cell.id, "prune")
    return content, fingerprint(network.model.state_dict())


def rebuild_run(folder: Path) -> Any:
    _, network = rebuild(folder)
    return comparable(read_json(folder / "record.json")), fingerprint(network.model.state_dict())


def play(folder: Path) -> Any:
    env = FilterPruningEnv(cache=str(folder / "scores.sqlite"), one_shot=True, budget=0.5, **SIZES)
    try:
        env.reset(seed=0)
        steps = [env.step(env.action_for(0)) for _ in env.scope.names]
        return [(observation.tolist(), reward, info.get("final_score")) for observation, reward, _, _, info in steps]
    finally:
        env.close()


KINDS = {
    "prune": Kind(lambda folder: prune(folder, 60), prune),
    "train": Kind(lambda folder: train_network(folder, 40), train_network),
    "train-agent": Kind(lambda folder: train_agent(folder, 9), train_agent),
    "scan": Kind(lambda folder: scan_network(folder, 5), scan_network),
    "compare": Kind(compare, compare),
    "finished": Kind(prune, rebuild_run),
    "cache": Kind(play, play),
}


def state_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in STATE)


@pytest.fixture(scope="module", params=KINDS)
def state(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A kind of state, the folder that it is in, and what comes of it undamaged."""
    kind, folder = KINDS[request.param], tmp_path_factory.mktemp("state") / request.param
    folder.mkdir()
    try:
        kind.begin(folder)
    except Stop:
        assert request.param in ("prune", "train", "train-agent", "scan")
    assert state_files(folder)
    whole = tmp_path_factory.mktemp("whole") / request.param
    shutil.copytree(folder, whole)
    yield kind, folder, kind.go_on(whole)


def flip(folder: Path, chance: random.Random) -> str:
    """Flip a bit of one of the files of state; what was done."""
    file = chance.choice(state_files(folder))
    content = bytearray(file.read_bytes())
    bit = chance.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    file.write_bytes(content)
    return f"bit {bit} of {file}"


def check_flips(state: Any, tmp_path: Path, count: int, seed: int) -> int:
    """How many of `count` flips were refused; the others changed nothing."""
    kind, folder, expected = state
    chance, refused = random.Random(seed), 0

    def too_long(*_: object) -> None:
        raise TimeoutError(what)

    before = [signal.signal(number, too_long) for number in (signal.SIGALRM, signal.SIGPROF)]
    try:
        for _ in range(count):
            damaged = tmp_path / "damaged"
            shutil.copytree(folder, damaged)
            what = flip(damaged, chance)
            signal.alarm(10 * LONGEST_S)  # where it waits for what never comes
            signal.setitimer(signal.ITIMER_PROF, LONGEST_S)  # of processor time: other work beside it does not count
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", Notice)  # a damaged cell of a comparison is done again
                    assert kind.go_on(damaged) == expected, what
            except UserError as error:
                assert str(damaged) in str(error) and "\n" not in str(error), what
                refused += 1
            finally:
                signal.alarm(0)
                signal.setitimer(signal.ITIMER_PROF, 0)
                shutil.rmtree(damaged)
    finally:
        for number, handler in zip((signal.SIGALRM, signal.SIGPROF), before, strict=True):
            signal.signal(number, handler)
    return refused


def test_a_flipped_bit_changes_nothing_silently(state: Any, tmp_path: Path) -> None:
    check_flips(state, tmp_path, 6, seed=0)


@pytest.mark.slow
def test_many_flipped_bits_change_nothing_silently(state: Any, tmp_path: Path) -> None:
    check_flips(state, tmp_path, 75, seed=1)
