"""The main job keeps its promises: the tolerance, the record, and going on after being killed."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from rlprune.agents import get_recipe, replay
from rlprune.agents.runs.prune import prune_problem
from rlprune.artifact import load_pruned
from rlprune.files import read_json, write_json
from rlprune.models import create_model
from rlprune.record import RunFolder
from rlprune.seals import comparable
from rlprune.spec import ProblemSpec

SHORT = ["--epochs", "3", "--control-size", "200", "--calibration-size", "128"]


def prune(folder, command="", seed=0):
    recipe = get_recipe("prc").change(epochs=2.0)
    problem = ProblemSpec(seed=seed, control_size=200, calibration_size=128).build()
    return prune_problem(problem, recipe, folder=folder, command=command).record


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "one")
    return folder, prune(folder, command="rlprune prune")


def test_the_network_keeps_the_tolerance_and_is_smaller(run):
    _, record = run
    assert record["status"] == "finished"
    assert record["drop"] <= record["tolerance"]
    assert record["drop"] == pytest.approx(record["baseline"]["control_score"] - record["pruned"]["control_score"])
    assert record["pruned"]["macs"] < record["baseline"]["macs"]


def test_the_record_has_every_promised_entry(run):
    folder, record = run
    assert folder.read() == json.loads(json.dumps(record))
    for side in ("baseline", "pruned"):
        assert {"control_score", "test_score", "macs", "parameters"} <= set(record[side])
    assert {"status", "seed", "tolerance", "plan", "rounds", "versions", "command"} <= set(record)
    names = {path.name.split(".")[0] for path in folder.path.iterdir()}
    assert {"record", "metrics", "model", "command", "widths", "events"} <= names
    assert not folder.checkpoint_file.exists()
    lines = [json.loads(line) for line in (folder.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == record["rounds"]


def test_the_network_loads_with_torch_alone(run):
    """The ten lines of the README, on the file as torch reads it."""
    folder, record = run
    saved = torch.load(folder.model_file, weights_only=True)
    model = create_model("lenet5")
    for path, attributes in saved["attributes"].items():
        for key, value in attributes.items():
            setattr(model.get_submodule(path), key, value)
    for name, tensor in saved["state_dict"].items():
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, leaf, torch.nn.Parameter(tensor) if leaf in module._parameters else tensor)
    assert sum(p.numel() for p in model.parameters()) == record["pruned"]["parameters"]
    image = torch.rand(2, 1, 32, 32)
    ours = load_pruned(folder.model_file, create_model("lenet5"))
    torch.testing.assert_close(model.eval()(image), ours.eval()(image))


def test_replay_finds_the_recorded_figures(run):
    folder, record = run
    found = {check["name"]: check["replayed"] for check in replay(folder.path)["checks"]}
    assert found["control_score"] == record["pruned"]["control_score"]
    assert found["macs"] == record["pruned"]["macs"]


def test_replay_notices_a_record_that_lies(run, tmp_path):
    folder, _ = run
    for file in folder.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lie = read_json(tmp_path / "record.json")
    lie["pruned"]["test_score"] = 1.0
    write_json(tmp_path / "record.json", lie)
    with pytest.raises(ValueError, match="test_score"):
        replay(tmp_path)


def test_equal_seeds_give_equal_records_and_others_do_not(run, tmp_path):
    _, record = run
    again = prune(RunFolder(tmp_path / "again"))
    other = prune(RunFolder(tmp_path / "other"), seed=1)
    assert comparable(again) == comparable(record)
    assert comparable(other) != comparable(record)


def test_control_and_test_share_no_image(run):
    _, record = run
    assert record["data"]["roles"]


def start(folder, *extra):
    command = [sys.executable, "-m", "rlprune.cli", "prune", "--out", str(folder.path), "--quiet", *SHORT, *extra]
    folder.path.mkdir(exist_ok=True)
    with open(folder.path / "errors.txt", "w") as errors:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)


def finish(folder, *extra):
    assert start(folder, *extra).wait() == 0, (folder.path / "errors.txt").read_text()
    return comparable(folder.read())


def test_a_run_killed_at_any_moment_goes_on_to_the_same_end(tmp_path):
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    begin = time.monotonic()
    expected = finish(whole)
    duration = time.monotonic() - begin
    moments = random.Random(0)
    for _ in range(2):  # tests/chaos kills oftener
        process = start(killed, "--resume")
        try:
            process.wait(timeout=moments.uniform(0.2, 0.9) * duration)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        if killed.exists():
            killed.read()  # never half a file
    assert finish(killed, "--resume") == expected
    assert not list(killed.path.glob(".*.part"))


def test_ctrl_c_leaves_a_run_that_can_go_on(tmp_path):
    folder = RunFolder(tmp_path / "run")
    process = start(folder)
    while not (folder.path / "metrics.jsonl").exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    errors = (folder.path / "errors.txt").read_text()
    assert "--resume" in errors and "Traceback" not in errors
    assert finish(folder, "--resume")["status"] == "finished"
