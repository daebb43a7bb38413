"""Tasks: how a model is called, trained and scored, by name.

A task of your own is a class in a file, `--task mytask.py:Task` or `task=Task()`. Ten lines are enough:

    from rlprune.tasks import OutputTask

    class Task(OutputTask):
        metric, percent = "negative angle", False           # not a fraction: scores and tolerance in its own units

        def loss_of(self, output, targets):                 # what training minimises, a scalar
            return 1 - cosine_similarity(output, targets).mean()

        def examples(self, output, targets):                # a number for each example; their mean is the score
            return -cosine_similarity(output, targets).acos()

`output(returned, targets)` chooses among what the model returns, `measure(table)` makes a score that is no mean.
A class that is no `OutputTask` may have the methods `size`, `inputs`, `loss` and `score` of `Task` instead.
"""

from rlprune.drops import score_drop
from rlprune.tasks import (  # noqa: F401 - importing registers them
    classification,
    detection,
    embedding,
    heads,
    image,
    keypoints,
    multilabel,
    regression,
    segmentation,
)
from rlprune.tasks.base import TASKS, Batch, OutputTask, Task, as_task, get_task, list_tasks
from rlprune.tasks.overlooking import overlooked
from rlprune.tasks.score import Score, wilson

__all__ = [
    "TASKS",
    "Batch",
    "OutputTask",
    "Score",
    "Task",
    "as_task",
    "get_task",
    "list_tasks",
    "overlooked",
    "score_drop",
    "wilson",
]
