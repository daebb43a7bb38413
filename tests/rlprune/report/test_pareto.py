"""The archive holds what no other network beats, and finds everything that was finished."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlprune.errors import UserError
from rlprune.report.pareto import archive, choose, find_networks, non_dominated

points = st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=25)


@given(points)
def test_nobody_beats_the_best_and_somebody_beats_the_rest(costs):
    best = non_dominated(costs)
    array = np.array(costs)

    def beaten(point):
        return bool(((array <= point).all(1) & (array < point).any(1)).any())

    assert [not beaten(point) for point in array] == best.tolist()
    assert best.any()


@given(points, st.randoms())
def test_the_order_of_the_points_does_not_matter(costs, random):
    best = dict(zip(costs, non_dominated(costs), strict=True))
    random.shuffle(costs)
    assert best == dict(zip(costs, non_dominated(costs), strict=True))


@pytest.fixture
def runs(tmp_path, record, comparison):
    """Two runs, one of them unfinished, one beaten by nobody; and a comparison of two cells."""
    for name, changes in {"good": {}, "unfinished": {"status": "running"}}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "record.json").write_text(json.dumps({**record, **changes}))
    for cell in (comparison["cells"][0], comparison["cells"][-1]):
        folder = tmp_path / "compared" / "cells" / cell["id"]
        folder.mkdir(parents=True)
        (folder / "cell.json").write_text(json.dumps(cell))
        for stage, result in cell["stages"].items():
            (folder / f"{stage}.json").write_text(json.dumps(result))
            (folder / f"{stage}.pt").touch()
    return tmp_path


def test_it_finds_finished_runs_and_every_stage_of_finished_cells(runs):
    found = find_networks(runs)
    assert {network.kind for network in found} == {"run", "cell"}
    assert [network.id for network in found if network.kind == "run"] == ["good"]
    assert {network.stage for network in found if network.kind == "cell"} == {"prune", "finetune", "scratch"}
    assert len({network.id for network in found}) == len(found) == 4


def test_the_archive_depends_on_what_counts(runs):
    networks = find_networks(runs)
    by_all, by_score = archive(networks), archive(networks, ["score"])
    assert {network.id for network in by_score} <= {network.id for network in by_all}
    assert max(n.control_score for n in networks) == by_score[0].control_score
    with pytest.raises(UserError, match="did you mean 'macs'"):
        archive(networks, ["mac"])


def test_a_network_is_chosen_by_the_end_of_its_id(runs):
    networks = find_networks(runs)
    assert choose(networks, "good").kind == "run"
    assert choose(networks, ":finetune").stage == "finetune"
    with pytest.raises(UserError, match="unknown network"):
        choose(networks, "goof")
    with pytest.raises(UserError, match="whole id"):
        choose(networks, "e")
    with pytest.raises(UserError, match="no such folder"):
        find_networks(runs / "nowhere")
