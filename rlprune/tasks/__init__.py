"""Tasks: how a model is called, trained and scored, by name."""

from rlprune.tasks import classification  # noqa: F401 - importing registers it
from rlprune.tasks.base import TASKS, Batch, Task, get_task, list_tasks
from rlprune.tasks.score import Score, wilson

__all__ = ["TASKS", "Batch", "Score", "Task", "get_task", "list_tasks", "wilson"]
