"""A user's mistake gives one line that names the value, the bound and the remedy, exit status 2, and loses nothing."""

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
import torch

from rlprune.cli import main
from rlprune.files import read_json, write_json
from rlprune.models import create_model

QUICK = ["--controller", "uniform", "--rounds", "1", "--epochs", "0"]


@pytest.fixture
def complaint(capsys, tmp_path, monkeypatch):
    """Run the command line in an empty folder; returns its one line of complaint."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        try:
            status = main(argv)
        except SystemExit as stop:  # argparse's own way out
            status = stop.code
        captured = capsys.readouterr()
        assert status == 2, captured
        lines = captured.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("rlprune"), captured.err
        assert captured.out == ""
        assert not list(tmp_path.glob("runs/*/record.json")), "nothing half-written"
        return lines[0]

    return run


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["prune", "--data", "nowhere.npz"], ["nowhere.npz"]),
        (["prune", "--weights", "nowhere.pt"], ["nowhere.pt"]),
        (["prune", "--model", "nowhere.py:build"], ["nowhere.py"]),
        (["replay", "nowhere"], ["nowhere", "record.json"]),
        (["export", "nowhere", "--format", "pt2"], ["nowhere"]),
    ],
)
def test_missing_files_are_named(complaint, argv, says):
    line = complaint(*argv)
    assert all(word in line for word in says), line


@pytest.mark.parametrize(
    ("argv", "closest"),
    [
        (["prune", "--model", "lenet"], "lenet5"),
        (["prune", "--criterion", "L1"], "l1"),
        (["prune", "--controller", "prcc"], "prc"),
        (["prune", "--recovery", "lsq+bnn"], "bn"),
        (["prune", "--data", "digit"], "digits"),
    ],
)
def test_unknown_names_suggest_the_closest(complaint, argv, closest):
    assert f"'{closest}'" in complaint(*argv)


@pytest.mark.parametrize(
    ("option", "bound"),
    [("--tolerance", ">= 0"), ("--target-macs", "(0, 1]"), ("--max-rate", "[0, 1]"), ("--prc.alpha", "(0, 1]")],
)
@pytest.mark.parametrize("value", ["1.5", "-0.1", "nan"])
def test_rates_outside_their_interval(complaint, option, bound, value):
    if (option, value) != ("--tolerance", "1.5"):  # which a score of another range may have
        line = complaint("prune", f"{option}={value}")
        assert value in line and bound in line


def test_numbers_that_are_none(complaint):
    assert "much" in complaint("prune", "--tolerance", "much")


def test_unknown_device(complaint):
    line = complaint("prune", "--device", "abacus")
    assert "'abacus'" in line and "cpu" in line


def save_lenet(path, change):
    state = create_model("lenet5").state_dict()
    change(state)
    torch.save(state, path)


def test_nan_weights(complaint, tmp_path):
    save_lenet(tmp_path / "w.pt", lambda state: state["conv2.weight"].view(-1)[3].fill_(float("nan")))
    line = complaint("prune", "--weights", "w.pt")
    assert "conv2.weight" in line and "NaN" in line


def test_weights_of_the_wrong_shape(complaint, tmp_path):
    save_lenet(tmp_path / "w.pt", lambda state: state.update({"conv2.weight": torch.zeros(7, 20, 5, 5)}))
    line = complaint("prune", "--weights", "w.pt")
    assert "conv2.weight" in line and "7" in line and "50" in line


def test_weights_that_are_damaged(complaint, tmp_path):
    (tmp_path / "w.pt").write_bytes(b"PK\x03\x04 not really")
    assert "w.pt" in complaint("prune", "--weights", "w.pt")


def test_weights_that_would_run_code_are_not_unpickled(complaint, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "owned"), "w"))

    torch.save({"conv1.weight": Evil()}, tmp_path / "w.pt")
    complaint("prune", "--weights", "w.pt")
    assert not (tmp_path / "owned").exists()


def test_images_that_do_not_fit_the_model(complaint, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "train": rng.integers(0, 255, (80, 8, 8), dtype=np.uint8),
        "train_labels": rng.integers(0, 10, 80),
        "test": rng.integers(0, 255, (40, 8, 8), dtype=np.uint8),
        "test_labels": rng.integers(0, 10, 40),
    }
    np.savez(tmp_path / "tiny.npz", **arrays)
    save_lenet(tmp_path / "w.pt", lambda state: None)
    assert "8" in complaint("prune", "--data", "tiny.npz", "--weights", "w.pt")


def test_arrays_without_labels(complaint, tmp_path):
    np.savez(tmp_path / "bare.npz", train=np.zeros((4, 8, 8), np.uint8))
    assert "train_labels" in complaint("prune", "--data", "bare.npz")


def test_a_model_that_cannot_be_traced(complaint, tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Broken(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv = torch.nn.Conv2d(1, 4, 3)\n"
        "    def forward(self, x):\n"
        "        raise RuntimeError('no such luck')\n"
        "def build(**_):\n"
        "    return Broken()\n"
    )
    torch.save({"conv.weight": torch.zeros(4, 1, 3, 3), "conv.bias": torch.zeros(4)}, tmp_path / "w.pt")
    line = complaint("prune", "--model", "mine.py:build", "--weights", "w.pt")
    assert "no such luck" in line


def test_a_tolerance_that_cannot_be_met(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["prune", "--method", "uniform", "--published", "--tolerance", "0", "--target-macs", "0.05"]
    status = main([*argv, "--recovery", "none", "--finish.epochs", "0", "--attempts", "1", "--quiet"])
    line = capsys.readouterr().err.strip()
    assert status == 2
    assert "tolerance 0.0 cannot be met" in line and "raise --tolerance" in line and "\n" not in line


def test_a_folder_that_holds_a_run_is_left_alone(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["prune", *QUICK, "--out", "here", "--quiet"]
    assert main(argv) == 0
    before = (tmp_path / "here" / "record.json").read_bytes()
    assert main(argv) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*argv, "--resume", "--tolerance", "0.5"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert (tmp_path / "here" / "record.json").read_bytes() == before


def test_a_damaged_checkpoint_or_record_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["prune", *QUICK, "--out", "here", "--quiet"]
    assert main(argv) == 0
    record = tmp_path / "here" / "record.json"
    text = record.read_text()
    write_json(record, {**read_json(record), "status": "running"})
    (tmp_path / "here" / "checkpoint.pt").write_bytes(b"garbage")
    assert main([*argv, "--resume"]) == 2
    assert "checkpoint.pt" in capsys.readouterr().err
    record.write_text(text[:100])
    assert main([*argv, "--resume"]) == 2
    assert "record.json" in capsys.readouterr().err
    record.write_text(text)
    model = tmp_path / "here" / "model.pt"
    model.write_bytes(model.read_bytes()[:-300])
    assert main(["replay", "here"]) == 2
    assert "model.pt" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["prune", "train", "sensitivity", "compare", "train-agent"])
def test_an_empty_out_and_a_seed_below_zero(complaint, command):
    assert "--out is empty" in complaint(command, "--out", "")
    if command != "compare":
        assert "seed is -1" in complaint(command, "--seed", "-1")


def test_code_that_ends_the_process_or_prints(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "import sys\n"
        "from rlprune.models.lenet import lenet5\n"
        "print('imported')\n"
        "def build(num_classes=10, in_channels=1):\n"
        "    print('built')\n"
        "    return lenet5(num_classes, in_channels)\n"
        "def leaves():\n"
        "    sys.exit()\n"
        "def later(num_classes=10, in_channels=1):\n"
        "    model = build()\n"
        "    model.forward = lambda x: sys.exit(0)\n"
        "    return model\n"
        "def chatty(num_classes=10, in_channels=1):\n"
        "    model = build()\n"
        "    model.conv1.register_forward_hook(lambda *_: print('called'))\n"
        "    return model\n"
    )
    for name, says in (("leaves", "SystemExit"), ("later", "sys.exit")):
        assert main(["inspect", "--model", f"mine.py:{name}"]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert says in lines[-1] and "Traceback" not in "".join(lines)
    assert main(["inspect", "--model", "mine.py:build", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["groups"] and "built" in captured.err
    assert main(["inspect", "--model", "mine.py:chatty", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["groups"] and "called" in captured.err


def test_names_with_brackets_are_printed_as_they_are(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.add_module('a[/red]$_{', nn.Conv2d(1, 8, 5, stride=4))\n"
        "        self.fc = nn.Linear(8, 10)\n"
        "    def forward(self, x):\n"
        "        return self.fc(getattr(self, 'a[/red]$_{')(x).relu().mean((2, 3)))\n"
        "def build():\n"
        "    return Net()\n"
    )
    base = ["--model", "mine.py:build", "--control-size", "60", "--calibration-size", "40"]
    assert main(["train", *base, "--epochs", "1", "--out", "base", "--quiet"]) == 0
    network = [*base, "--weights", "base/model.pt"]
    quick = ["--tolerance", "1", *QUICK]
    for argv in (["inspect", *network], ["prune", *network, *quick, "--out", "run"], ["report", "run"],
                 ["sensitivity", *network, "--rates", "0.5", "--out", "scan"]):  # fmt: skip
        assert main(argv) == 0
        assert argv[0] == "report" or "a[/red]$_{" in capsys.readouterr().out


def test_a_full_disk(tmp_path):
    """Files may not grow beyond 20 kB: the network cannot be saved, and nothing of it is left behind."""

    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    main(["evaluate"])  # the default network is trained and cached before the disk fills up
    run = subprocess.run(
        [sys.executable, "-m", "rlprune.cli", "prune", *QUICK, "--out", "here", "--quiet"],
        cwd=tmp_path,
        preexec_fn=small_files,
        capture_output=True,
        text=True,
    )
    lines = run.stderr.strip().splitlines()
    assert run.returncode == 2 and len(lines) == 1 and "cannot write" in lines[0], run.stderr
    assert not list(tmp_path.glob("**/*.pt")) and not list(tmp_path.glob("**/.*.part"))
