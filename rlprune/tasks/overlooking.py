"""Outputs of a network that a task does not look at."""

from __future__ import annotations

from typing import Any

import torch

from rlprune.tasks.base import OutputTask, Task

_SILENT = ("aux", "loss", "hidden_states", "attentions")  # outputs that training or looking into a network needs


def overlooked(task: Task, returned: Any) -> str | None:
    """A warning if a task looks at one of several outputs, so that the tolerance is not kept on the others; else None.

    Args:
        task: The task.
        returned: What the model returned for one batch in eval mode.
    """
    if not isinstance(task, OutputTask):
        return None
    plain = type(task).output is OutputTask.output and type(task).loss is OutputTask.loss  # nobody chose an output
    if not (task.single or plain):
        return None
    if isinstance(returned, dict):
        names = [str(key) for key, value in returned.items() if isinstance(value, torch.Tensor) and key not in _SILENT]
    elif isinstance(returned, (tuple, list)):
        names = [str(place) for place, value in enumerate(returned) if isinstance(value, torch.Tensor)]
    else:
        return None
    if len(names) < 2:
        return None
    heads = ";".join(f"{name}={task.name if not i else 'TASK'}" for i, name in enumerate(names))
    return (
        f"the model returns {len(names)} outputs and the task {task.name} looks at one alone: the tolerance is not "
        f"kept on the others; give task 'heads:{heads}' to keep it on all"
    )
