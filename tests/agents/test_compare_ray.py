"""On a Ray cluster a comparison gives what it gives on one machine, also when a node dies on the way."""

import pytest

from rlprune.agents.compare.comparison import compare
from rlprune.agents.compare.settings import CompareSettings
from rlprune.errors import UserError
from rlprune.seals import comparable

ray = pytest.importorskip("ray", reason="needs the extra rlprune[ray]")
pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own

SETTINGS = CompareSettings(
    methods=("uniform", "cem"),
    seeds=(0, 1, 2),
    budgets=(0.25,),
    epochs=0.5,
    scratch=True,
    changes={"cem": {"episodes": 6}},
)


@pytest.fixture
def cluster():
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_killed_in_mid_run_loses_nothing_and_doubles_nothing(cluster, tmp_path):
    doomed = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    ended = []

    def watch(comparison, job, result):
        ended.append(job.cell.id)
        if len(ended) == 2:  # both nodes have been at work, and are
            assert sum(node["Alive"] for node in ray.nodes()) == 2
            cluster.remove_node(doomed, allow_graceful=False)

    content = compare(SETTINGS, tmp_path / "ray", ray=cluster.address, watcher=watch)
    assert content["status"] == "finished"
    assert {cell["status"] for cell in content["cells"]} == {"finished"}
    assert len(ended) == len(set(ended)) == 6
    here = compare(SETTINGS, tmp_path / "here", workers=2)
    assert comparable(here) == comparable(content)


@pytest.mark.parametrize(
    ("address", "message"), [("localhost:1", "cannot be reached"), ("somewhere", "must be auto"), ("a:b", "cannot be")]
)
def test_a_cluster_that_is_not_there_is_said_in_one_line(tmp_path, address, message):
    with pytest.raises(UserError, match=message) as error:
        compare(SETTINGS, tmp_path / "out", ray=address)
    assert "\n" not in str(error.value)
