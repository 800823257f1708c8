"""Muon: the polar factor of the momentum, without its nuclear norm."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from polargrad.linalg import NewtonSchulz
from polargrad.optim.common_options import EngineOptions, point
from polargrad.optim.engine import MatrixOptimizer

__all__ = ["Muon"]

ADJUSTMENTS = {
    None: "original",
    "original": "original",
    "match_rms_adamw": "match_rms_adamw",
    "spectral_unclamped": "spectral_unclamped",
}


class Muon(MatrixOptimizer):
    r"""Muon, with the arguments and the formula of ``torch.optim.Muon``, in float32.

    .. math::
       \begin{aligned}
         B_k &= \mu B_{k-1} + (1-\mu) G_k, \qquad
         \tilde B_k = \mu B_k + (1-\mu) G_k \;\text{(Nesterov), or } B_k, \\
         O_k &= \mathrm{NS}_5(\tilde B_k), \qquad
         X_{k+1} = (1-\gamma\lambda) X_k - \gamma\, a\, O_k
       \end{aligned}

    with :math:`a = \sqrt{\max(1, m/n)}` (``"original"``), :math:`0.2\sqrt{\max(m, n)}`
    (``"match_rms_adamw"``, Moonlight's) or :math:`\sqrt{m/n}` (``"spectral_unclamped"``) for an
    m × n matrix. NS is five steps of a quintic in the Gram matrix, whose singular values end
    anywhere in [0.68, 1.14].

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
        adjust_lr_fn: None or ``"original"``, ``"match_rms_adamw"`` or ``"spectral_unclamped"``.
        method: None for the quintic, or any other way to the polar factor, such as ``"auto"``
            with ``tol``, which costs less on a CPU (:func:`polargrad.polar`).
        tol: of ``method="auto"``.
        momentum_form: ``"ema"``, or ``"heavy-ball"`` as Moonlight's: the same steps.
        compute_dtype: of the products; None for float32 at least.
        **options: what every optimizer here takes (:class:`polargrad.MatrixOptimizer`).

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
        lr: float | Tensor | None = 1e-3,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        nesterov: bool | float = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315),
        eps: float | None = None,
        ns_steps: int = 5,
        adjust_lr_fn: str | None = None,
        *,
        method: Any = None,
        tol: float | None = None,
        momentum_form: str = "ema",
        compute_dtype: torch.dtype | str | None = None,
        **options: Unpack[EngineOptions],
    ) -> None:
        if adjust_lr_fn not in ADJUSTMENTS:
            allowed = ", ".join(map(str, ADJUSTMENTS))
            raise ValueError(f"adjust_lr_fn must be one of {allowed}, got {adjust_lr_fn!r}")
        quintic = NewtonSchulz(coefficients=ns_coefficients, steps=ns_steps, eps=eps)
        super().__init__(
            params,
            lr,
            **point(
                self,
                EngineOptions,
                options,
                momentum=momentum,
                momentum_form=momentum_form,
                nesterov=nesterov,
                magnitude=ADJUSTMENTS[adjust_lr_fn],
                weight_decay=weight_decay,
                method=quintic if method is None else method,
                tol=tol,
                compute_dtype=compute_dtype,
            ),
        )
