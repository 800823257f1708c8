"""What the polynomial methods share: normalise, then products and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from polargrad.linalg.coefficients import Triple

Bound = Literal["frobenius", "schatten4"]
BOUNDS: tuple[Bound, ...] = ("frobenius", "schatten4")


def check_steps(steps: int) -> None:
    """Raise unless ``steps`` is a whole number of at least 1."""
    if isinstance(steps, bool) or not isinstance(steps, int):
        raise TypeError(f"steps must be an int, got {steps!r}")
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")


def iterate(
    x: Tensor,
    polynomials: Sequence[Triple],
    *,
    bound: Bound = "frobenius",
    safety: float = 1.0,
    eps: float | None = None,
) -> Tensor:
    r"""Apply odd polynomials to the singular values of a tall stack ``x`` (m, n) or (B, m, n).

    .. math:: X \leftarrow X / (s\,\beta), \qquad
              X \leftarrow a X + X (b G + c G^2), \quad G = X^{\mathsf H}X

    where :math:`\beta \ge \sigma_1` is the Frobenius norm, or the Schatten-4 norm
    :math:`\|X^{\mathsf H}X\|_F^{1/2}`, which is up to :math:`n^{1/4}` times smaller and comes free
    with the first Gram matrix. ``safety`` is s; ``eps`` is a peer's floor under the norm.

    Cost: 4 m n² flops a step for a cubic, 2 n³ more for a quintic. A zero matrix stays zero.
    """
    gram = x.mH @ x if bound == "schatten4" else None
    if gram is None:
        norm = torch.linalg.matrix_norm(x, keepdim=True)
    else:
        norm = torch.linalg.matrix_norm(gram, keepdim=True).sqrt()
    norm = torch.where(norm > 0, norm, torch.ones_like(norm)) if eps is None else norm.clamp(eps)
    norm = safety * norm
    x = x / norm
    for index, (a, b, c) in enumerate(polynomials):
        gram = gram / norm.square() if index == 0 and gram is not None else x.mH @ x
        # b G + c G² on the small side, then one product with x.
        weight = _add_product(gram, gram, gram, beta=b, alpha=c) if c != 0.0 else b * gram
        x = _add_product(x, x, weight, beta=a)
    return x


def _add_product(y: Tensor, a: Tensor, b: Tensor, *, beta: float, alpha: float = 1.0) -> Tensor:
    """beta·y + alpha·a b, in one call: for one matrix the plain product is the faster one."""
    fused = torch.addmm if y.ndim == 2 else torch.baddbmm
    return fused(y, a, b, beta=beta, alpha=alpha)
