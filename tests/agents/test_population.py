"""Networks from the grammar, and populations of them, trained by command into a folder that can be gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from rlprune.agents.runs.population import expanded, read_population
from rlprune.channels import PruningPlan, mask_channels, remove_channels, trace_channels
from rlprune.cli import main
from rlprune.cost import count_macs
from rlprune.models import FAMILIES, family_of, resolve_model
from rlprune.models.drawn import LAYERS, MACS, WIDTHS
from rlprune.seals import KEY

SMALL = ["--epochs", "0.2", "--lr", "0.05", "--control-size", "100", "--calibration-size", "64", "--quiet"]
FAMILIES_TAKEN = ["--families", "plain", "separable"]


@pytest.mark.parametrize("family", FAMILIES.names())
def test_a_drawn_network_has_the_size_of_its_kind_and_prunes_exactly(family: str) -> None:
    model, example = resolve_model(f"drawn:{family}-1", num_classes=10, in_channels=3).eval(), torch.randn(1, 3, 32, 32)
    widths = [layer.out_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    assert LAYERS[0] <= len(widths) <= LAYERS[1] and WIDTHS[0] <= min(widths) <= max(widths) <= WIDTHS[1]
    assert MACS[0] <= count_macs(model, example) <= MACS[1]
    groups = trace_channels(model, example)
    plan = PruningPlan({group.name: tuple(range(0, group.size // 2, 2)) for group in groups.prunable})
    with torch.no_grad():
        smaller, masked = remove_channels(model, groups, plan)(example), mask_channels(model, groups, plan)(example)
    assert torch.allclose(smaller, masked, atol=1e-4)
    assert len(groups.prunable) >= 5


def test_a_name_stands_for_one_network() -> None:
    shapes = [
        [tuple(p.shape) for p in resolve_model(f"drawn:plain-{seed}", num_classes=10, in_channels=3).parameters()]
        for seed in (0, 0, 1)
    ]
    assert shapes[0] == shapes[1] != shapes[2]
    assert family_of("drawn:dense-12") == ("dense", 12)


@pytest.fixture(scope="module")
def population(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two networks of two families, trained a little on digits."""
    out = tmp_path_factory.mktemp("populations") / "two"
    assert main(["train-population", "--networks", "2", *FAMILIES_TAKEN, *SMALL, "--out", str(out)]) == 0
    return out


def test_it_says_what_it_holds_and_goes_on(population: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(population, tmp_path / "more"))
    before = json.loads((folder / "population.json").read_text())
    assert before["status"] == "finished" and before["settings"]["problem"]["control_size"] == 100
    assert [member.family for member in read_population(folder)] == ["plain", "separable"]
    for member, (family, seed) in zip(read_population(folder), [("plain", 0), ("separable", 0)], strict=True):
        assert (member.model, member.seed) == (f"drawn:{family}-{seed}", seed) and 0 <= member.control_score <= 1
        record = json.loads((Path(member.weights).parent / "record.json").read_text())
        assert record["data"]["roles"]["control"] != record["data"]["roles"]["train"]
    weights = (folder / "plain-0" / "model.pt").read_bytes()
    assert main(["train-population", "--resume", "--networks", "3", "--out", str(folder), "--quiet"]) == 0
    assert [member.model for member in read_population(folder)][2:] == ["drawn:plain-1"]
    assert (folder / "plain-0" / "model.pt").read_bytes() == weights, "what is trained is left alone"


def test_its_networks_keep_the_control_images_of_their_training(population: Path) -> None:
    from rlprune.spec import ProblemSpec

    member = read_population(population)[0]
    data = ProblemSpec(model=member.model, weights=member.weights).splits()
    assert (len(data.control), len(data.calibration)) == (100, 64)
    seen = {*data.train.positions.tolist(), *data.calibration.positions.tolist()}
    assert not seen & set(data.control.positions.tolist())


def test_it_stands_for_its_networks(population: Path) -> None:
    found = expanded(["lenet5", f"population:{population}"])
    assert found == (
        "lenet5",
        f"drawn:plain-0={population}/plain-0/model.pt",
        f"drawn:separable-0={population}/separable-0/model.pt",
    )


def test_a_folder_is_not_written_over(population: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["train-population", "--networks", "2", *FAMILIES_TAKEN, *SMALL, "--out", str(population)]
    assert main(argv) == 2 and "add --resume" in capsys.readouterr().err
    assert main([*argv, "--resume", "--epochs", "0.3"]) == 2 and "other settings" in capsys.readouterr().err


def test_a_damaged_population_is_one_line_where_it_is_to_go_on(
    population: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(population, tmp_path / "damaged"))
    content = json.loads((folder / "population.json").read_text())
    content["members"][0]["macs"] = "many"
    (folder / "population.json").write_text(json.dumps({k: v for k, v in content.items() if k != KEY}))
    argv = ["train-population", "--resume", *FAMILIES_TAKEN, *SMALL, "--networks", "2", "--out", str(folder)]
    assert main(argv) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and "macs is 'many'; it must be a whole number" in lines[0]
