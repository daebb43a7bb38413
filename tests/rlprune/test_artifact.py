"""A pruned network comes back from its file as it was, in every form, and a damaged file is noticed."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rlprune.artifact import export, fingerprint, load_pruned, save_pruned
from rlprune.channels import PruningPlan, remove_channels, trace_channels
from rlprune.errors import UserError
from rlprune.models import create_model

IMAGE = torch.rand(2, 3, 32, 32)


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    base = create_model("mobilenet_v1").eval()
    groups = trace_channels(base, IMAGE)
    plan = PruningPlan({group.name: range(group.size // 2) for group in groups.prunable})
    return base, remove_channels(base, groups, plan).eval()


def test_a_saved_network_comes_back(pair, tmp_path):
    base, pruned = pair
    digest = save_pruned(tmp_path / "model.pt", base, pruned, {})
    loaded = load_pruned(tmp_path / "model.pt", create_model("mobilenet_v1")).eval()
    assert digest == fingerprint(loaded.state_dict())
    assert torch.equal(loaded(IMAGE), pruned(IMAGE))
    assert loaded.train()(IMAGE).shape == (2, 10)  # statistics and counters are there to train on


@pytest.mark.parametrize("form", ["pt2", "onnx"])
def test_exports_compute_the_same(pair, tmp_path, form):
    if form == "onnx":
        pytest.importorskip("onnxruntime")
    path = tmp_path / f"model.{form}"
    assert export(pair[1], (IMAGE,), path, form) <= 1e-4
    assert path.stat().st_size > 0


def test_an_unknown_form_is_refused(pair, tmp_path):
    with pytest.raises(UserError, match="did you mean 'onnx'"):
        export(pair[1], (IMAGE,), tmp_path / "x", "onxx")


def test_a_network_that_cannot_be_exported_is_said_so(tmp_path):
    class Moody(torch.nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(UserError, match="cannot trace this network"):
        export(Moody(), (IMAGE,), tmp_path / "x.pt2", "pt2")
    assert not (tmp_path / "x.pt2").exists()


def test_changed_tensors_are_noticed(pair, tmp_path):
    path = tmp_path / "model.pt"
    save_pruned(path, *pair, {})
    saved = torch.load(path, weights_only=True)
    next(iter(saved["state_dict"].values())).view(-1)[0] += 1
    torch.save(saved, path)
    with pytest.raises(UserError, match="checksum"):
        load_pruned(path, create_model("mobilenet_v1"))


def test_another_network_is_refused(pair, tmp_path):
    save_pruned(tmp_path / "model.pt", *pair, {})
    with pytest.raises(UserError, match="another network"):
        load_pruned(tmp_path / "model.pt", create_model("lenet5"))


def test_an_export_to_a_full_disk_is_a_line_and_leaves_nothing(tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; import torch\n"
        "from rlprune.artifact import export; from rlprune.models import create_model\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        "try: export(create_model('lenet5'), (torch.zeros(2, 1, 32, 32),), Path(sys.argv[1]), 'pt2')\n"
        "except ValueError as error: print(error)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path / "m.pt2")], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.startswith("cannot write"), run.stderr
    assert not list(tmp_path.iterdir())
