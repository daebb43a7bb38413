"""Regression, several labels, images and several heads: scores by their definitions, whatever the batches."""

from __future__ import annotations

import collections
import dataclasses
import re
import textwrap
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import rlprune.tasks
from rlprune.errors import UserError
from rlprune.spec import ProblemSpec
from rlprune.tasks import Batch, Score, Task, as_task, get_task, overlooked
from rlprune.tasks.multilabel import average_precision


class Gives(nn.Module):
    """Returns what it was given, else its inputs."""

    def __init__(self, outputs: Any = None) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Any) -> Any:
        return x if self.outputs is None else self.outputs


def score(task: Task, outputs: Any, targets: Any) -> Score:
    return task.score(Gives(outputs), [(torch.zeros(1), targets)])


def in_parts(task: Task, outputs: torch.Tensor, targets: torch.Tensor, size: int) -> Score:
    return task.score(Gives(), list(zip(outputs.split(size), targets.split(size), strict=True)))  # type: ignore[no-untyped-call]


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(40, 3, generator=generator)
    return targets + 0.3 * torch.randn(40, 3, generator=generator), targets


def test_r2_is_scikit_learns(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    from sklearn.metrics import r2_score

    task, (outputs, targets) = get_task("regression"), pair
    found = score(task, outputs, targets)
    assert found.value == pytest.approx(r2_score(targets, outputs, multioutput="variance_weighted"))
    assert found.value == pytest.approx(in_parts(task, outputs, targets, 7).value)
    one = score(task, outputs[:, :1], targets[:, 0])
    assert one.value == pytest.approx(r2_score(targets[:, 0], outputs[:, 0]))
    assert (
        not found.percent
        and found.metric == "r2"
        and found.loss == pytest.approx(float((outputs - targets).square().mean()))
    )
    low, high = found.interval() or (0.0, 0.0)
    assert low < found.value < high
    assert score(task, -5 * outputs, targets).value < 0


def test_negative_errors_are_higher_for_better_networks(pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = pair
    for metric, wanted in (("mse", -(outputs - targets).square().mean()), ("mae", -(outputs - targets).abs().mean())):
        assert score(get_task(f"regression:metric={metric}"), outputs, targets).value == pytest.approx(float(wanted))
    loss = get_task("regression:objective=l1").loss(Gives(), (outputs, targets))
    assert float(loss) == pytest.approx(float((outputs - targets).abs().mean()))
    with pytest.raises(UserError, match=r"output of shape \(40, 2\) for targets of shape \(40, 3\)"):
        score(get_task("regression"), outputs[:, :2], targets)
    with pytest.raises(UserError, match="no class logits"):
        get_task("regression").rows(outputs, (outputs, targets))


def test_average_precision_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    labels = torch.from_numpy((generator.random((60, 4)) < 0.3).astype(np.float32))
    labels[:, 3] = 0
    logits = labels + torch.from_numpy(generator.normal(0, 1, (60, 4)).astype(np.float32))
    found = in_parts(get_task("multilabel"), logits, labels, 13)
    each = [average_precision_score(labels[:, k], logits[:, k]) for k in range(3)]
    assert found.value == pytest.approx(np.mean(each)) and found.percent
    exact = score(get_task("multilabel:metric=exact"), logits - 0.5, labels)
    assert exact.value == pytest.approx(float((((logits - 0.5) > 0) == (labels > 0.5)).all(1).float().mean()))


def test_psnr_is_in_decibels() -> None:
    target = torch.zeros(2, 1, 4, 4)
    output = torch.stack((torch.full((1, 4, 4), 0.1), torch.full((1, 4, 4), 0.01)))
    assert score(get_task("image"), output, target).value == pytest.approx(30.0)  # the mean of 20 and 40
    assert score(get_task("image:peak=255.0"), target, target).value == pytest.approx(100.0)
    assert not get_task("image").percent  # type: ignore[attr-defined]


def test_ssim_is_torchmetrics() -> None:
    pytest.importorskip("torchmetrics")
    image = torch.rand(3, 3, 32, 32)
    assert score(get_task("image:metric=ssim"), image, image).value == pytest.approx(1.0)
    assert score(get_task("image:metric=ssim"), torch.rand(3, 3, 32, 32), image).value < 0.5


def heads(drop: int = 0) -> tuple[Any, Any]:
    """Twenty examples, two heads that are right on all of them but for `drop` of the second."""
    labels = torch.arange(20) % 2
    first = nn.functional.one_hot(labels, 2).float()
    second = first.clone()
    second[:drop] = second[:drop].flip(1)
    return (first, second), (labels, labels)


def test_the_tolerance_is_kept_on_the_head_that_drops_most() -> None:
    task = get_task("heads:0=classification;1=classification")
    base = task.prepared(lambda t: score(t, *heads(2)))
    assert score(base, *heads(2)).value == pytest.approx(0.9)
    worse = score(base, *heads(5))
    assert worse.value == pytest.approx(0.9 - 0.15), "the second head lost 15 points, the first none"
    assert worse.details == {"accuracy (0)": 1.0, "accuracy (1)": 0.75} and worse.percent
    assert worse.interval() is not None
    weighted = get_task("heads:0=classification;1=classification;score=weighted;weights=3,1")
    assert score(weighted, *heads(5)).value == pytest.approx((3 * 1.0 + 0.75) / 4)


def test_heads_take_dicts_columns_and_tasks_of_their_own() -> None:
    (first, second), (labels, _) = heads(5)
    outputs = {"kind": first, "age": second[:, :1]}
    task = get_task("heads:kind=classification;age=regression:metric=mae;weights=1,0.5")
    found = score(task, outputs, {"kind": labels, "age": second[:, 0]})
    assert found.details == {"accuracy (kind)": 1.0, "mae (age)": 0.0} and not found.percent
    loss = task.loss(Gives(outputs), (torch.zeros(1), {"kind": labels, "age": second[:, 0] + 2}))
    assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(first, labels)) + 0.5 * 4)
    both = get_task("heads:0=classification;1=classification")
    assert score(both, (first, second), torch.stack((labels, labels), 1)).details["accuracy (0)"] == 1.0


def test_a_head_has_a_task_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "class Gap:\n    percent = False\n"
        "    def loss_of(self, output, targets): return (output - targets).abs().mean()\n"
        "    def examples(self, output, targets): return -(output - targets).abs()[:, 0]\n"
        "class Whole:\n    def score(self, model, batches): return 0.5\n"
    )
    spec = "heads:0=classification;1=own.py:Gap;weights=1,2"
    (first, second), (labels, _) = heads(5)
    found = score(get_task(spec), (first, second), (labels, second + 0.5))
    assert found.details == {"accuracy (0)": 1.0, "score (1)": pytest.approx(-0.5)} and not found.percent
    loss = get_task(spec).loss(Gives((first, second)), (torch.zeros(1), (labels, second + 0.5)))
    assert float(loss) == pytest.approx(float(nn.functional.cross_entropy(first, labels)) + 2 * 0.5)
    with pytest.raises(UserError, match="needs the methods loss_of and examples"):
        get_task("heads:0=classification;1=own.py:Whole")
    with pytest.raises(UserError, match=r"own\.py is a file; say what of it is the task: own\.py:Gap or own\.py:Whole"):
        get_task("heads:0=own.py;1=classification")
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir("runs")
    located = ProblemSpec(task=spec).located(tmp_path).task
    assert located == spec.replace("own.py", str(tmp_path / "own.py"))
    with pytest.raises(UserError, match=r"no such file: own\.py"):
        ProblemSpec(task=spec).check_files()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("heads:", "two outputs or more"),
        ("heads:0=classification", "two outputs or more"),
        ("heads:0=classification;1=klassification", "did you mean 'classification'"),
        ("heads:0=classification;1=detection", "must look at one output"),
        ("heads:0=classification;1=classification;weights=1", "give 2 numbers"),
        ("heads:0=classification;1=classification;weights=a,b", "must be numbers"),
        ("heads:0=classification;1=classification;score=best", "unknown score of heads"),
        ("heads:classification", "must be like"),
        ("regression:metric=r22", "did you mean 'r2'"),
        ("image:peak=0.0", "above 0"),
        ("multilabel:metric=mapp", "did you mean 'map'"),
        ("nofile.py:Task", "no such file"),
    ],
)
def test_tasks_that_cannot_be_are_refused_in_one_line(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        get_task(spec)
    assert "\n" not in str(caught.value)


def test_a_head_that_is_not_there_is_named() -> None:
    (first, second), targets = heads()
    with pytest.raises(UserError, match="no head '2' among the outputs"):
        score(get_task("heads:0=classification;2=classification"), (first, second), targets)


def test_outputs_that_nobody_looks_at_are_named() -> None:
    task = get_task("classification")
    warning = overlooked(task, (torch.zeros(1, 3), torch.zeros(1, 2)))
    assert warning is not None and "2 outputs" in warning and "heads:0=classification;1=TASK" in warning
    assert overlooked(task, {"a": torch.zeros(1), "b": torch.zeros(1)}) is not None
    for fine in (torch.zeros(1), (torch.zeros(1), None), {"out": torch.zeros(1), "aux": torch.zeros(1)}):
        assert overlooked(task, fine) is None
    assert overlooked(get_task("heads:0=classification;1=classification"), (torch.zeros(1), torch.zeros(1))) is None


def test_the_ten_lines_of_the_documentation_are_a_task(tmp_path: Path) -> None:
    lines = re.search(
        r"    from rlprune.tasks import OutputTask\n.*?acos\(\)\n", rlprune.tasks.__doc__ or "", re.DOTALL
    )
    assert lines is not None
    code = "from torch.nn.functional import cosine_similarity\n" + textwrap.dedent(lines[0])
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "mytask.py").write_text(code)
    task = get_task(f"{tmp_path}/mytask.py:Task")
    outputs, targets = torch.eye(3), torch.eye(3).roll(1, 0)
    found = score(task, outputs, targets)
    assert found.value == pytest.approx(-np.pi / 2) and not found.percent and found.n == 3
    assert float(task.loss(Gives(), (outputs, targets))) == pytest.approx(1.0)
    with pytest.raises(UserError, match="did you mean 'Task'"):
        get_task(f"{tmp_path}/mytask.py:Tassk")


class Four:
    """A task that knows nothing of this package."""

    def size(self, batch: Batch) -> int:
        return len(batch[1])

    def inputs(self, batch: Batch) -> tuple[Any, ...]:
        return (batch[0],)

    def loss(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    def score(self, model: nn.Module, batches: Any) -> float:
        return -max(float((model(x) - y).abs().max()) for x, y in batches)


def test_a_class_with_four_methods_is_completed() -> None:
    task = as_task(Four())
    found = task.score(Gives(), [(torch.ones(3), torch.zeros(3)), (torch.ones(2), torch.zeros(2))])
    assert (found.value, found.n, found.percent, found.interval()) == (-1.0, 5, False, None)
    assert not task.distillable and task.prepared(lambda _: found) is task
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert overlooked(task, (torch.zeros(1), torch.zeros(1))) is None, "it calls the model by itself"


@dataclasses.dataclass
class Found:
    cls: torch.Tensor
    box: torch.Tensor


Pair = collections.namedtuple("Pair", "cls box")


@pytest.mark.parametrize("nest", [lambda a, b: {"cls": a, "box": b}, Found, Pair, lambda a, b: (a, b)])
def test_heads_are_found_however_outputs_are_held(nest: Any) -> None:
    (first, second), (labels, _) = heads(5)
    outputs, targets = nest(first, second), nest(labels, labels)
    one, two = ("0", "1") if isinstance(outputs, tuple) else ("cls", "box")
    flat = get_task(f"heads:{one}=classification;{two}=classification")
    assert list(score(flat, outputs, targets).details.values()) == [1.0, 0.75]
    inside = get_task(f"heads:1.{one}=classification;1.{two}=classification")
    assert list(score(inside, (0.5, outputs), (None, targets)).details.values()) == [1.0, 0.75]


def test_targets_without_names_go_by_the_order_of_the_heads() -> None:
    (first, second), targets = heads(5)
    task = get_task("heads:kind=classification;age=classification")
    assert list(score(task, {"age": second, "kind": first}, targets).details.values()) == [1.0, 0.75]


def test_the_one_tensor_of_a_nest_is_the_output() -> None:
    (first, _), (labels, _) = heads()
    for alone in ({"pred": first}, [[first]], {"a": {"b": first}}, types.SimpleNamespace(logits=first)):
        assert score(get_task("classification"), alone, labels).value == 1.0
    with pytest.raises(UserError, match=r"heads:a=TASK;b\.0=TASK"):
        score(get_task("classification"), {"a": first, "b": [first]}, labels)


@pytest.mark.parametrize("nest", [lambda a, b: (a, {"box": b}), lambda a, b: {"logits": a, "more": [b]}, Pair])
def test_an_output_inside_another_is_not_ignored_in_silence(nest: Any) -> None:
    warning = overlooked(get_task("classification"), nest(torch.zeros(1, 3), torch.zeros(1, 2)))
    assert warning is not None and "2 outputs" in warning
    hidden = {"logits": torch.zeros(1), "hidden_states": [torch.zeros(1)]}
    assert overlooked(get_task("classification"), hidden) is None


@pytest.mark.parametrize("metric", ["r2", "mse", "mae"])
def test_numbers_that_nobody_knows_count_nowhere(metric: str, pair: tuple[torch.Tensor, torch.Tensor]) -> None:
    outputs, targets = pair
    task = get_task(f"regression:metric={metric}")
    unknown = targets.clone()
    unknown[10:, 1] = torch.nan
    far = outputs.clone()
    far[10:, 1] = 1000.0
    assert score(task, far, unknown).value == pytest.approx(score(task, outputs, unknown).value)
    assert score(task, outputs + 1, unknown).value < score(task, outputs, unknown).value
    loss = float(task.loss(Gives(), (far, unknown)))
    kept = ~unknown.isnan()
    assert loss == pytest.approx(float((outputs - targets)[kept].square().mean()))
    gone = torch.full_like(targets, torch.nan)
    assert float(task.loss(Gives(), (outputs, gone))) == 0.0


def test_labels_that_nobody_knows_count_nowhere() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, torch.nan], [0.0, 1.0]])
    logits = torch.tensor([[2.0, -1.0], [-1.0, 1.0], [3.0, 99.0], [-2.0, 2.0]])
    for metric in ("map", "exact"):
        assert score(get_task(f"multilabel:metric={metric}"), logits, labels).value == 1.0
    assert np.isfinite(float(get_task("multilabel").loss(Gives(), (logits, labels))))
    with pytest.raises(UserError, match="NaN for not known"):
        score(get_task("multilabel"), logits, labels.nan_to_num(-1.0))


def test_average_precision_of_ties_is_scikit_learns() -> None:
    from sklearn.metrics import average_precision_score

    generator = np.random.default_rng(0)
    for count in (2, 9, 30):
        logits, labels = generator.integers(0, 4, (count, 5)).astype(float), generator.random((count, 5)) < 0.4
        labels[0] = True
        wanted = average_precision_score(labels, logits, average=None)
        np.testing.assert_allclose(average_precision(logits, labels.astype(float)), wanted)


def test_a_task_of_a_file_is_a_class_a_function_or_an_object(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    text = (
        "class Task:\n    def examples(self, output, targets): return output\nmade = Task()\ndef make(): return made\n"
    )
    file.write_text(text)
    for name in ("Task", "made", "make"):
        assert hasattr(get_task(f"{file}:{name}"), "examples")
    with pytest.raises(UserError, match=r"say what of it is the task: .*mine.py:Task"):
        get_task(str(file))


def test_a_task_lies_in_any_folder(tmp_path: Path) -> None:
    folder = tmp_path / "my.python"
    folder.mkdir()
    (folder / "task.py").write_text(
        "class Mine:\n    def loss_of(self, output, targets): return output.mean()\n"
        "    def examples(self, output, targets): return output[:, 0]\n    def measure(self, table): return 1.0\n"
    )
    assert type(get_task(f"{folder / 'task.py'}:Mine")).__name__ == "Mine"
