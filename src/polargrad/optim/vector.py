"""What is not a matrix: torch's own functional AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from polargrad.linalg.precision import working_dtype
from polargrad.optim.elementwise import batches, store

STATE = ("exp_avg", "exp_avg_sq")


def adamw_update(
    group: dict[str, Any], params: list[Tensor], state: Any, gate: Tensor | None
) -> None:
    r"""One AdamW step of the parameters in ``params``, which all have gradients.

    .. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \quad
              v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad x \leftarrow (1-\gamma\lambda) x
              - \gamma\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}

    The moments of half-precision parameters are kept in float32, and so is the arithmetic: in
    float16 the square of a gradient of 1e-4 is zero. torch's fused kernel does it in one pass over
    memory; it takes wrong entries, silently, where the strides of its tensors differ or leave gaps,
    and is given contiguous ones. ``foreach=True`` and ``False`` in the group choose torch's other
    forms. ``gate`` is None, or a tensor that is true where the step counts, for the fused kernel.

    Source: I. Loshchilov, F. Hutter, arXiv 1711.05101; torch.optim.AdamW.
    """
    for p in params:
        if not state[p]:
            state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for key in STATE:
                state[p][key] = torch.zeros_like(
                    p, dtype=working_dtype(p.dtype), memory_format=torch.contiguous_format
                )
    direct: dict[torch.dtype, list[Tensor]] = {}
    others: dict[torch.dtype, list[Tensor]] = {}
    for p in params:
        plain = p.dtype == working_dtype(p.dtype) and p.is_contiguous()
        (direct if plain else others).setdefault(p.dtype, []).append(p)
    for some in direct.values():
        _step(group, some, some, state, gate)
    for (some,) in (batch for members in others.values() for batch in batches(members)):
        wide = [p.to(working_dtype(p.dtype), copy=True).contiguous() for p in some]
        _step(group, some, wide, state, gate)
        store(some, wide, gate)


def _step(
    group: dict[str, Any],
    params: list[Tensor],
    values: list[Tensor],
    state: Any,
    gate: Tensor | None,
) -> None:
    """Step the values, which are the parameters themselves or a copy of them."""
    beta1, beta2 = group["betas"]
    gradients = [p.grad for p in params if p.grad is not None]
    fused = gate is not None or group["foreach"] is None
    adamw(
        values,
        [g.to(v.dtype).contiguous() for g, v in zip(gradients, values, strict=True)],
        [state[p]["exp_avg"] for p in params],
        [state[p]["exp_avg_sq"] for p in params],
        [],
        [state[p]["step"] for p in params],
        fused=fused,
        foreach=None if fused else group["foreach"],
        # Read on the device: nothing waits for the verdict.
        found_inf=None if gate is None else gate.logical_not().float(),
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"] * group["lr_scale"],
        weight_decay=group["weight_decay"],
        # With 0 a zero gradient would be 0/0; the smallest number changes nothing else.
        eps=max(group["eps"], torch.finfo(values[0].dtype).tiny),
        maximize=group["maximize"],
    )
