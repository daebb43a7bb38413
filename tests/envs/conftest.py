"""Environments on the embedded data, small enough to be made often."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import pytest
import torch

import rlprune  # noqa: F401 (registers the environments)
from rlprune.envs.registration import ITERATIVE, LAYERWISE

SMALL = {"control_size": 200, "calibration_size": 128}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def iterative() -> Callable[..., gymnasium.Env[Any, Any]]:
    return lambda **kwargs: gymnasium.make(ITERATIVE, **{**SMALL, **kwargs})


@pytest.fixture
def layerwise() -> Callable[..., gymnasium.Env[Any, Any]]:
    return lambda **kwargs: gymnasium.make(LAYERWISE, **{**SMALL, **kwargs})
