"""Factors of covariances that a few images may have left singular."""

from __future__ import annotations

import torch
from torch import Tensor

from rlprune.errors import UserError

TRIES = 24  # from a ridge of a billionth of the diagonal to far beyond it


def ridge_factor(matrix: Tensor, ridge: float) -> tuple[Tensor, float]:
    """The Cholesky factor of a symmetric matrix plus a ridge on its diagonal, tenfold until there is one.

    Args:
        matrix: Overwritten.
        ridge: What is tried first, >= 0.

    Returns:
        The lower factor and the ridge that it took.

    Raises:
        UserError: no ridge helps; the matrix holds NaN, infinity or numbers too far apart.
    """
    diagonal = matrix.diagonal()
    size, added = float(diagonal.mean()), 0.0
    for _ in range(TRIES):
        diagonal += ridge - added
        added = ridge
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0:
            return factor, ridge
        ridge = max(10 * ridge, 1e-9 * size)
    raise UserError(
        f"the covariance of a layer's inputs cannot be factored, its mean variance is {size:.3g}; "
        "some weights are too large or not finite: check them, or recover with 'bn-delta' alone"
    )


def ridge_solve(a: Tensor, b: Tensor, prior: Tensor, ridge: float) -> Tensor:
    """Solve ``(a + r) x = b + r prior`` for symmetric `a`, r being `ridge` times its mean diagonal, or more if it must.

    Raises:
        UserError: `a` cannot be factored.
    """
    size = float(a.diagonal().mean())
    if size <= 0.0:  # dead inputs: nothing to fit
        return prior
    factor, r = ridge_factor(a, ridge * size)
    return torch.cholesky_solve(b + r * prior, factor)
