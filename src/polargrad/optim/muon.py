"""Muon: the polar factor of the momentum, without its nuclear norm."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.linalg import NewtonSchulz
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["Muon"]

ADJUSTMENTS = {None: "original", "original": "original", "match_rms_adamw": "match_rms_adamw"}


class Muon(MatrixOptimizer):
    r"""Muon, with the arguments and the formula of ``torch.optim.Muon``, in float32.

    .. math::
       \begin{aligned}
         B_k &= \mu B_{k-1} + (1-\mu) G_k, \qquad
         \tilde B_k = \mu B_k + (1-\mu) G_k \;\text{(Nesterov), or } B_k, \\
         O_k &= \mathrm{NS}_5(\tilde B_k), \qquad
         X_{k+1} = (1-\gamma\lambda) X_k - \gamma\, a\, O_k
       \end{aligned}

    with :math:`a = \sqrt{\max(1, m/n)}` (``"original"``) or :math:`0.2\sqrt{\max(m, n)}`
    (``"match_rms_adamw"``) for an m × n matrix. NS is five steps of a quintic in the Gram matrix,
    whose singular values end anywhere in [0.68, 1.14].

    It differs from ``torch.optim.Muon`` in what that gets wrong: the arithmetic is float32 unless
    bfloat16 is asked for, a tiny gradient is not divided by a floor, momentum of bfloat16
    parameters is kept in float32, and vectors, embeddings and heads go to AdamW in the same object.
    ``compute_dtype=torch.bfloat16, eps=1e-7`` gives torch's own numbers.

    Args:
        params: parameters or groups, best from :func:`polargrad.param_groups`.
        lr: γ.
        weight_decay: λ, decoupled, times the unadjusted γ.
        momentum: μ in [0, 1).
        nesterov: see above.
        ns_coefficients: (a, b, c) of the quintic.
        eps: a floor under the Frobenius norm; None, the default, has none.
        ns_steps: steps of the quintic, at least 1.
        adjust_lr_fn: None or ``"original"``, or ``"match_rms_adamw"``.
        compute_dtype: of the products; None for float32 at least.
        nonfinite: ``"skip"`` or ``"raise"``.
        vector_lr, vector_betas, vector_eps, vector_weight_decay: AdamW for what is not a matrix.

    Raises:
        ValueError, TypeError, NonFiniteError: as :class:`polargrad.optim.MatrixOptimizer`.

    Example:
        >>> X = torch.nn.Parameter(torch.eye(4))
        >>> optimizer = Muon([X], lr=0.1, weight_decay=0.0)
        >>> X.sum().backward()
        >>> optimizer.step()
        >>> bool((X.detach() < torch.eye(4)).all())
        True

    Source: K. Jordan, https://kellerjordan.github.io/posts/muon/; torch.optim.Muon.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float | None = None,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        compute_dtype: torch.dtype | str | None = None,
        nonfinite: str = "skip",
        vector_lr: float | Tensor | None = None,
        vector_betas: tuple[float, float] = (0.9, 0.999),
        vector_eps: float = 1e-8,
        vector_weight_decay: float = 0.0,
    ) -> None:
        if adjust_lr_fn not in ADJUSTMENTS:
            allowed = ", ".join(map(str, ADJUSTMENTS))
            raise ValueError(f"adjust_lr_fn must be one of {allowed}, got {adjust_lr_fn!r}")
        super().__init__(
            params,
            lr,
            momentum=momentum,
            nesterov=nesterov,
            magnitude=ADJUSTMENTS[adjust_lr_fn],
            weight_decay=weight_decay,
            method=NewtonSchulz(coefficients=ns_coefficients, steps=ns_steps, eps=eps),
            tol=None,
            compute_dtype=compute_dtype,
            nonfinite=nonfinite,
            vector_lr=vector_lr,
            vector_betas=vector_betas,
            vector_eps=vector_eps,
            vector_weight_decay=vector_weight_decay,
        )
