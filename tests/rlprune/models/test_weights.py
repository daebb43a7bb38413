from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rlprune.cli import main
from rlprune.data import load_data
from rlprune.errors import UserError
from rlprune.files import cache_folder
from rlprune.models import create_model, default_weights, load_weights, weights_normalisation
from rlprune.scoring.evaluation import Evaluator
from rlprune.tasks import get_task


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return create_model("resnet20").state_dict()


def saved(content: object, path: Path) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "ema_state_dict", "module.", "no counters"])
def test_state_dicts_load_in_their_usual_wrappings(wrap: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    content: object = state
    if wrap == "state_dict":
        content = {"state_dict": state, "meta": {"trained_on": "somewhere"}}
    elif wrap == "ema_state_dict":
        content = {"ema_state_dict": state, "optimizer_state_dict": {"state": {}}, "epoch": 3}
    elif wrap == "module.":
        content = {f"module.{name}": value for name, value in state.items()}
    elif wrap == "no counters":
        content = {name: value for name, value in state.items() if "num_batches" not in name}
    model = create_model("resnet20")
    meta = load_weights(model, saved(content, tmp_path / "w.pt"))
    assert meta == ({"trained_on": "somewhere"} if wrap == "state_dict" else {})
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_the_auxiliary_head_of_torchvisions_segmentation_weights_is_left_out(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    load_weights(
        create_model("resnet20"), saved({**state, "aux_classifier.0.weight": torch.zeros(1)}, tmp_path / "w.pt")
    )


class NotPlain:
    pass


def test_files_that_do_not_fit_are_refused_in_one_line(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def refused(content: object, message: str, model: str = "resnet20") -> None:
        with pytest.raises(UserError, match=message) as caught:
            load_weights(create_model(model), saved(content, tmp_path / "w.pt"))
        assert "\n" not in str(caught.value)

    refused({**state, "conv1.weight": torch.zeros(8, 3, 3, 3)}, r"'conv1.weight' has shape \(8, 3, 3, 3\)")
    refused({**state, "conv1.weight": torch.full((16, 3, 3, 3), float("nan"))}, "'conv1.weight' holds NaN")
    refused({k: v for k, v in state.items() if k != "linear.bias"}, "lacks 1 of the model's .* 'linear.bias'")
    refused({**state, "more": torch.zeros(1)}, "1 tensors that the model has not, 'more'")
    refused(state, "belong to another model", model="lenet5")
    refused({"epoch": 3}, "'epoch' is a int")
    refused({}, "holds no tensors")
    refused(NotPlain(), "cannot read")
    refused(torch.zeros(3), "holds a Tensor")
    with pytest.raises(UserError, match="no such file"):
        load_weights(create_model("lenet5"), tmp_path / "none.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:100])
    with pytest.raises(UserError, match="damaged"):
        load_weights(create_model("lenet5"), tmp_path / "cut.pt")
    with pytest.raises(UserError, match="torchvision has no weights"):
        load_weights(create_model("lenet5"), "torchvision:None_Weights.DEFAULT")


def test_lenet_on_digits_is_trained_once_cached_and_made_again_when_damaged() -> None:
    data = load_data("digits")
    models = [create_model("lenet5") for _ in range(3)]
    meta = default_weights(models[0], "lenet5", data)
    assert meta["roles"] == ["train"]
    assert meta["train_fingerprint"] == data.train.fingerprint()
    (cached,) = (path for path in (cache_folder() / "weights").iterdir() if data.train.fingerprint() in path.name)
    default_weights(models[1], "lenet5", data)
    cached.write_bytes(cached.read_bytes()[:1000])
    default_weights(models[2], "lenet5", data)
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name])
        assert torch.allclose(value, models[2].state_dict()[name])  # made again from the same seeds
    load_weights(models[1], cached)
    evaluator = Evaluator(get_task("classification"), data)
    assert evaluator.score(models[0], "test").value >= 0.98
    assert evaluator.score(models[0], "control").value >= 0.97


def test_no_weights_come_with_other_pairs() -> None:
    with pytest.raises(UserError, match="give --weights FILE"):
        default_weights(create_model("resnet20"), "resnet20", load_data("digits"))


# METHODS: measured by the maintainers on the published test set
PUBLISHED = {"resnet20": 9173, "resnet32": 9263, "resnet44": 9311, "resnet56": 9339}


@pytest.mark.parametrize(
    "name", [name if name == "resnet20" else pytest.param(name, marks=pytest.mark.slow) for name in PUBLISHED]
)
def test_pretrained_resnets_score_what_they_should_on_all_of_cifar10(name: str, real_data: Path) -> None:
    data = load_data(str(real_data / "cifar10.npz"), control_from="test")
    model = create_model(name)
    load_weights(model, real_data / "weights" / f"cifar10_{name}.pt")
    score = Evaluator(get_task("classification"), data).score(model, "whole_test")
    assert score.n == 10_000
    assert round(score.value * score.n) == PUBLISHED[name]


def test_pretrained_lenet_on_mnist(real_data: Path) -> None:
    data = load_data(str(real_data / "mnist.npz"), control_from="test")
    model = create_model("lenet5")
    load_weights(model, real_data / "weights" / "mnist_lenet.pt")
    assert Evaluator(get_task("classification"), data).score(model, "whole_test").value >= 0.989


def loads(content: object, state: dict[str, torch.Tensor], path: Path) -> None:
    model = create_model("resnet20")
    if path.suffix == ".safetensors":
        pytest.importorskip("safetensors.torch").save_file(content, path)
    else:
        torch.save(content, path)
    load_weights(model, path)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def prefixed(state: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.", "_orig_mod.", "module._orig_mod.", "a.b.backbone."])
def test_any_common_prefix_goes(prefix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    loads({"state_dict": prefixed(state, prefix), "epoch": 3, "callbacks": {}}, state, tmp_path / "lit.ckpt")
    if prefix == "_orig_mod.":
        return  # compiled alone: what else is there is not of this model
    more = {**prefixed(state, prefix), "criterion.weight": torch.ones(10)}
    loads({"state_dict": more}, state, tmp_path / "lit.ckpt")


def test_averaged_weights_are_taken_and_a_namespace_is_left_alone(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    arguments = argparse.Namespace(lr=0.1, opt="sgd")
    timm = {"arch": "resnet20", "args": arguments, "state_dict": zeros, "state_dict_ema": state}
    loads(timm, state, tmp_path / "last.pth.tar")
    loads({"args": arguments, "path": tmp_path, "odd": NotPlain(), "model": state}, state, tmp_path / "odd.pt")


def test_compiled_parts_and_safetensors_load(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    compiled = {name.replace("conv1.", "conv1._orig_mod."): value for name, value in state.items()}
    loads(compiled, state, tmp_path / "w.pt")
    loads(state, state, tmp_path / "model.safetensors")


class Spy:
    """Would write a file if anybody called what it was pickled with."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


def test_what_is_no_state_dict_is_named_in_one_clean_line(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            load_weights(create_model("resnet20"), path)
        assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)

    refused(saved(create_model("resnet20"), tmp_path / "whole.pt"), r"pickled whole model.*save model.state_dict\(\)")
    refused(saved({"model": create_model("lenet5"), "epoch": 1}, tmp_path / "yolo.pt"), "whole model under 'model'")
    spy = saved(Spy(tmp_path / "touched"), tmp_path / "spy.pt")
    refused(spy, "cannot")
    assert not (tmp_path / "touched").exists(), "nothing pickled may run"
    (tmp_path / "net.h5").write_bytes(b"\x89HDF")
    refused(tmp_path / "net.h5", "is a Keras file")
    (tmp_path / "hf").mkdir()
    refused(tmp_path / "hf", "is a folder; it holds no weights")
    (tmp_path / "hf" / "pytorch_model.bin").touch()
    refused(tmp_path / "hf", "give .*pytorch_model.bin")
    (tmp_path / "hf" / "model.safetensors").write_bytes(b"no tensors")
    refused(tmp_path / "hf", "give .*model.safetensors")
    pytest.importorskip("safetensors")
    refused(tmp_path / "hf" / "model.safetensors", "as safetensors")


def test_weights_say_how_images_are_normalised(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    imagenet = "0.485,0.456,0.406:0.229,0.224,0.225"
    assert weights_normalisation("resnet50", "torchvision:ResNet50_Weights.DEFAULT") == imagenet
    path = saved({"state_dict": state, "meta": {"normalise": "0.5:0.25"}}, tmp_path / "w.pt")
    assert weights_normalisation("resnet20", str(path)) == "0.5:0.25"
    silent = saved(state, tmp_path / "v.pt")
    with pytest.raises(UserError, match="says nothing of how images are normalised"):
        weights_normalisation("resnet20", str(silent))
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5], "image_std": [0.25]}')
    assert weights_normalisation("resnet20", str(silent)) == "0.5:0.25"


def test_what_lies_beside_timm_weights_goes_before_what_timm_has_of_that_name(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    name, path = "timm:mobilenetv3_large_100", saved(state, tmp_path / "w.pt")
    assert weights_normalisation(name, str(path)) == "0.485,0.456,0.406:0.229,0.224,0.225"
    assert weights_normalisation(f"{name}.miil_in21k_ft_in1k", str(path)) == "0,0,0:1,1,1"
    beside = {"architecture": "mobilenetv3_large_100", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.25] * 3}}
    (tmp_path / "config.json").write_text(json.dumps(beside))
    assert weights_normalisation(name, str(path)) == "0.5,0.5,0.5:0.25,0.25,0.25"


def test_the_command_line_says_it_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    lenet = create_model("lenet5")
    torch.save(lenet, "whole.pt")
    torch.save({"state_dict": prefixed(lenet.state_dict(), "model."), "epoch": 3}, "lit.ckpt")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "model.safetensors").touch()
    (tmp_path / "net.py").write_text("def build(): ...\n")
    for arguments, message in (
        (["--weights", "whole.pt"], "pickled whole model"),
        (["--weights", "hf"], "hf is a folder; give hf/model.safetensors"),
        (["--weights", "none.pt"], "no such file: none.pt"),
        (["--model", "net.py"], "give net.py:build"),
    ):
        assert main(["evaluate", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
    assert main(["evaluate", "--weights", "lit.ckpt"]) == 0
    out, err = capsys.readouterr()
    assert "accuracy on 359 examples" in out and ("near chance" in err or not err)


def test_of_two_sets_of_weights_the_averaged_are_taken_or_the_user_is_asked(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    zeros = {name: torch.zeros_like(value) for name, value in state.items()}
    loads({"state_dict": {**prefixed(zeros, "model."), **prefixed(state, "ema_model.")}}, state, tmp_path / "lit.ckpt")
    loads({"params": zeros, "params_ema": state}, state, tmp_path / "sr.pth")
    with pytest.raises(UserError, match=r"'critic\.' and 'schema\.'.*names without 'critic\.'"):
        loads({**prefixed(state, "schema."), **prefixed(zeros, "critic.")}, state, tmp_path / "two.pt")
    with pytest.raises(UserError, match=r"'student' and 'teacher'; save .*checkpoint\['student'\]"):
        loads({"student": state, "teacher": zeros}, state, tmp_path / "two.pt")


def test_wrappings_inside_wrappings_load(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    sharded = {f"_fsdp_wrapped_module.{name.replace('conv1.', 'conv1._checkpoint_wrapped_module.')}": value
               for name, value in state.items()}  # fmt: skip
    loads({"model": {"state_dict": sharded}, "optimizer": {"state": {}, "param_groups": []}}, state, tmp_path / "w.pt")


def test_wrappings_of_any_name_and_counts_of_profilers(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    loads({"checkpoint": {"model": state, "epoch": 3}, "best": 0.9}, state, tmp_path / "w.pt")
    counted = {**state, "total_ops": torch.zeros(1), "conv1.total_params": torch.zeros(1)}
    loads(counted, state, tmp_path / "w.pt")


def test_weights_of_a_part_load_where_it_is_all_that_has_weights(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    torch.save(state, tmp_path / "w.pt")
    inner = create_model("resnet20")
    model = nn.Sequential(nn.Sequential(inner))
    load_weights(model, tmp_path / "w.pt")
    assert all(torch.equal(value, state[name]) for name, value in inner.state_dict().items())
    with pytest.raises(UserError, match="lacks 99 of"):
        load_weights(nn.Sequential(inner, nn.Linear(10, 10)), tmp_path / "w.pt")


def test_a_file_of_weights_in_a_folder_below_is_named(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    torch.save(state, tmp_path / "run" / "checkpoints" / "epoch=3.ckpt")
    with pytest.raises(UserError, match=r"run is a folder; give .*run/checkpoints/epoch=3.ckpt"):
        load_weights(create_model("resnet20"), tmp_path / "run")


@pytest.mark.parametrize("content", ["<!DOCTYPE html>", "{}", "\x1f\x8b"])
def test_what_torch_never_wrote_is_said_to_be_something_else(content: str, tmp_path: Path) -> None:
    (tmp_path / "w.pt").write_text(content)
    with pytest.raises(UserError, match=r"cannot read .* as tensors; it is damaged or something else"):
        load_weights(create_model("lenet5"), tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_weights_in_parts_load(suffix: str, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    names, save = list(state), pytest.importorskip("safetensors.torch").save_file
    half = {name: f"part-{number % 2}{suffix}" for number, name in enumerate(names)}
    for file in set(half.values()):
        part = {name: state[name] for name in names if half[name] == file}
        save(part, tmp_path / file) if suffix == ".safetensors" else torch.save(part, tmp_path / file)
    index = tmp_path / f"model{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": half}))
    for given in (tmp_path, index):
        model = create_model("resnet20")
        load_weights(model, given)
        assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    (tmp_path / f"part-1{suffix}").unlink()
    with pytest.raises(UserError, match=f"part-1{suffix}"):
        load_weights(model, tmp_path)
