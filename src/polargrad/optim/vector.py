"""What is not a matrix: torch's own functional AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw


def adamw_update(
    group: dict[str, Any], params: list[Tensor], state: Any, gate: Tensor | None
) -> None:
    r"""One AdamW step of the parameters in ``params``, which all have gradients.

    .. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \quad
              v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad x \leftarrow (1-\gamma\lambda) x
              - \gamma\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}

    ``gate`` is None, or a tensor that is true where the step counts; it needs the fused kernel,
    which reads it on the device.

    Source: I. Loshchilov, F. Hutter, arXiv 1711.05101; torch.optim.AdamW.
    """
    for p in params:
        if not state[p]:
            state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            state[p]["exp_avg"] = torch.zeros_like(p)
            state[p]["exp_avg_sq"] = torch.zeros_like(p)
    beta1, beta2 = group["betas"]
    adamw(
        params,
        [p.grad for p in params if p.grad is not None],
        [state[p]["exp_avg"] for p in params],
        [state[p]["exp_avg_sq"] for p in params],
        [],
        [state[p]["step"] for p in params],
        # The fused kernel reads a gate, and on a GPU its step counter, without a word to the host.
        fused=gate is not None or params[0].device.type != "cpu",
        found_inf=None if gate is None else gate.logical_not().float(),
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
