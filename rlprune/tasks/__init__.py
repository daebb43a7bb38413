"""Tasks: how a model is called, trained and scored, by name."""

from rlprune.drops import score_drop
from rlprune.tasks import classification, detection, segmentation  # noqa: F401 - importing registers them
from rlprune.tasks.base import TASKS, Batch, Task, get_task, list_tasks
from rlprune.tasks.score import Score, wilson

__all__ = ["TASKS", "Batch", "Score", "Task", "get_task", "list_tasks", "score_drop", "wilson"]
