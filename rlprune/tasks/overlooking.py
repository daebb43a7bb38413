"""Outputs of a network that a task does not look at."""

from __future__ import annotations

from typing import Any

from rlprune.tasks.base import OutputTask, Task
from rlprune.tasks.parts import tensors

# Outputs that training or looking into a network needs
_SILENT = {"aux", "loss", "hidden_states", "attentions", "past_key_values"}


def overlooked(task: Task, returned: Any) -> str | None:
    """A warning if a task looks at one of several outputs, so that the tolerance is not kept on the others; else None.

    Args:
        task: The task.
        returned: What the model returned for one batch in eval mode.
    """
    plain = type(task).output is OutputTask.output and type(task).loss is OutputTask.loss  # nobody chose an output
    if not (task.single or plain):
        return None
    names = [name for name, _ in tensors(returned) if not _SILENT & {*name.split(".")}]
    if len(names) < 2:
        return None
    heads = ";".join(f"{name}={task.name if not i else 'TASK'}" for i, name in enumerate(names))
    return (
        f"the model returns {len(names)} outputs and the task {task.name} looks at one alone: the tolerance is not "
        f"kept on the others; give task 'heads:{heads}' to keep it on all"
    )
