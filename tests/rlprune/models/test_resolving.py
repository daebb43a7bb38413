from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import nn

from rlprune.errors import UserError
from rlprune.models import brings_weights, resolve_model

GOOD = """
from torch import nn
from helper import WIDTH

class Net(nn.Sequential):
    pass

def net(num_classes, in_channels=3):
    return Net(nn.Conv2d(in_channels, WIDTH, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(WIDTH, num_classes))

def plain():
    return nn.Conv2d(1, 1, 1)

def number():
    return 3

def broken(num_classes):
    raise RuntimeError("no good")
"""


@pytest.fixture
def script(tmp_path: Path) -> Path:
    (tmp_path / "helper.py").write_text("WIDTH = 5\n")
    path = tmp_path / "mine.py"
    path.write_text(GOOD)
    return path


def test_a_function_in_a_file_gets_what_it_asks_for(script: Path) -> None:
    model = resolve_model(f"{script}:net", num_classes=4, in_channels=1)
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 4)
    assert isinstance(resolve_model(f"{script}:plain", num_classes=4, in_channels=1), nn.Conv2d)
    assert type(pickle.loads(pickle.dumps(copy.deepcopy(model)))) is type(model)


def test_a_function_in_an_installed_package() -> None:
    model = resolve_model("torchvision.models:squeezenet1_1", num_classes=1000, in_channels=3)
    assert isinstance(model, nn.Module)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nett", "did you mean 'net'"),
        ("number", "returned a int; it must return a torch.nn.Module"),
        ("broken", "no good"),
        ("no-identifier", "is not understood"),
    ],
)
def test_functions_that_do_not_do(script: Path, function: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        resolve_model(f"{script}:{function}", num_classes=4, in_channels=1)
    assert "\n" not in str(caught.value)


def test_files_and_packages_that_do_not_import(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        resolve_model(f"{tmp_path}/none.py:net", num_classes=2, in_channels=1)
    (tmp_path / "bad.py").write_text("import does_not_exist_anywhere\n")
    with pytest.raises(UserError, match=r"cannot import .*does_not_exist_anywhere"):
        resolve_model(f"{tmp_path}/bad.py:net", num_classes=2, in_channels=1)
    (tmp_path / "worse.py").write_text("def (:\n")
    with pytest.raises(UserError, match="SyntaxError"):
        resolve_model(f"{tmp_path}/worse.py:net", num_classes=2, in_channels=1)
    with pytest.raises(UserError, match="cannot import no_such_package"):
        resolve_model("no_such_package.models:net", num_classes=2, in_channels=1)


def test_torchvision_models_by_name() -> None:
    model = resolve_model("torchvision:mobilenet_v3_small", num_classes=7, in_channels=3).eval()
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 7)
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        resolve_model("torchvision:resnet19", num_classes=7, in_channels=3)
    with pytest.raises(UserError, match="colour images"):
        resolve_model("torchvision:resnet18", num_classes=7, in_channels=1)


def test_unknown_zoo_name_and_options() -> None:
    with pytest.raises(UserError, match="did you mean 'torchvision:vgg19'"):
        resolve_model("vgg19", num_classes=7, in_channels=1)
    with pytest.raises(UserError, match="option of vgg16 'depth'"):
        resolve_model("vgg16:depth=3", num_classes=7, in_channels=1)


def test_a_file_alone_lists_what_is_in_it(script: Path) -> None:
    with pytest.raises(UserError, match=f"give {script}:Net or {script}:net or") as caught:
        resolve_model(str(script), num_classes=4, in_channels=1)
    assert "WIDTH" not in str(caught.value) and "nn" not in str(caught.value).split("give")[1].split(":")[0]


def test_a_module_in_a_file_comes_with_its_weights_and_as_a_copy(script: Path) -> None:
    script.write_text(GOOD + "\nready = nn.Conv2d(1, 3, 3)\n")
    first, second = (resolve_model(f"{script}:ready", num_classes=4, in_channels=1) for _ in range(2))
    assert first is not second and torch.equal(first.weight, second.weight)
    assert brings_weights(f"{script}:ready") and not brings_weights(f"{script}:net") and not brings_weights("lenet5")


def test_timm_models_by_name() -> None:
    pytest.importorskip("timm")
    model = resolve_model("timm:resnet10t", num_classes=7, in_channels=1).eval()
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 7)
    with pytest.raises(UserError, match="did you mean 'resnet18'"):
        resolve_model("timm:resnet188", num_classes=7, in_channels=3)


def test_a_folder_of_hugging_faces(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="there is no"):
        resolve_model(f"hf:{tmp_path}", num_classes=3, in_channels=3)
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=3)
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    capsys.readouterr()
    model = resolve_model(f"hf:{tmp_path}", num_classes=3, in_channels=3).eval()
    assert not capsys.readouterr().err, "no bar for what takes a moment"
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 3)
    assert brings_weights(f"hf:{tmp_path}")
    (tmp_path / "config.json").write_text('{"model_type": "no such"}')
    with pytest.raises(UserError, match="is no image classifier"):
        resolve_model(f"hf:{tmp_path}", num_classes=3, in_channels=3)
