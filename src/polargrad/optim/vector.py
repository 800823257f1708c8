"""What is not a matrix: torch's own functional AdamW."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from polargrad.distributed import Sharing, is_distributed, local_part
from polargrad.distributed.ranks import Ranks
from polargrad.linalg.precision import working_dtype
from polargrad.optim.elementwise import batches, store
from polargrad.optim.entries import gradient_of

STATE = ("exp_avg", "exp_avg_sq")


def adamw_update(
    group: dict[str, Any],
    params: list[Tensor],
    state: Any,
    gate: Tensor | None,
    sharing: Sharing | None = None,
) -> None:
    r"""One AdamW step of the parameters in ``params``, which all have gradients.

    .. math:: m \leftarrow \beta_1 m + (1-\beta_1) g, \quad
              v \leftarrow \beta_2 v + (1-\beta_2) g^2, \quad x \leftarrow (1-\gamma\lambda) x
              - \gamma\,\frac{m/(1-\beta_1^t)}{\sqrt{v/(1-\beta_2^t)} + \epsilon}

    The moments of half-precision parameters are kept in float32, and so is the arithmetic: in
    float16 the square of a gradient of 1e-4 is zero. torch's fused kernel does it in one pass over
    memory; it takes wrong entries, silently, where the strides of its tensors differ or leave gaps,
    and is given contiguous ones. ``foreach=True`` and ``False`` in the group choose torch's other
    forms. ``gate`` is None, or a tensor that is true where the step counts: the fused kernel reads
    it on the device. torch.compile cannot look into that kernel, and gets the loop. Of a DTensor
    each process steps what it holds; ``sharing`` knows with whom.

    Source: I. Loshchilov, F. Hutter, arXiv 1711.05101; torch.optim.AdamW.
    """
    fresh = []
    for p in params:
        if not state[p]:
            fresh.append(p)
            state[p]["step"] = torch.zeros((), dtype=torch.float32, device=p.device)
            for key in STATE:
                state[p][key] = torch.zeros_like(
                    p, dtype=working_dtype(p.dtype), memory_format=torch.contiguous_format
                )
    direct: dict[torch.dtype, list[Tensor]] = {}
    others: dict[torch.dtype, list[Tensor]] = {}
    for p in params:
        plain = p.dtype == working_dtype(p.dtype) and local_part(p).is_contiguous()
        (direct if plain else others).setdefault(p.dtype, []).append(p)
    for some in direct.values():
        if torch.compiler.is_compiling():
            _traced_step(group, some, state, gate)
        else:
            _step(group, some, list(map(local_part, some)), state, gate)
    for (some,) in (batch for members in others.values() for batch in batches(members)):
        if torch.compiler.is_compiling():
            _traced_step(group, some, state, gate)
            continue
        held = list(map(local_part, some))
        wide = [x.to(working_dtype(x.dtype), copy=True).contiguous() for x in held]
        _step(group, some, wide, state, gate)
        store(held, wide, gate)
    # A zero first gradient does not count: so torch.distributed.checkpoint makes a state.
    for p, begun in zip(fresh, _begun(fresh, sharing), strict=True):
        state[p]["step"].mul_(begun)


def _begun(params: list[Tensor], sharing: Sharing | None) -> list[Tensor]:
    """Whether the gradient of each parameter is not zero, as 0 or 1, the same on all processes."""
    begun = [(local_part(gradient_of(p)) != 0).any().float() for p in params]
    shared: dict[Ranks, list[int]] = {}
    for position, p in enumerate(params):
        ranks = sharing.ranks_of(p) if sharing is not None and is_distributed(p) else None
        if ranks is not None:
            shared.setdefault(ranks, []).append(position)
    for ranks, positions in shared.items():
        mine = torch.stack([begun[i] for i in positions])
        found = ranks.largest(mine, "which vectors have a gradient")
        for position, value in zip(positions, found.unbind(0), strict=True):
            begun[position] = value
    return begun


def _traced_step(
    group: dict[str, Any], params: list[Tensor], state: Any, gate: Tensor | None
) -> None:
    """The step under torch.compile, which makes one kernel of it: on copies, then stored."""
    kept = [[local_part(state[p][key]) for p in params] for key in (*STATE, "step")]
    new = [[x.clone() for x in held] for held in kept]
    held = list(map(local_part, params))
    values = [x.to(working_dtype(x.dtype), copy=True).contiguous() for x in held]
    _adamw(group, params, values, *new, fused=False, foreach=False)
    for targets, value in zip((held, *kept), (values, *new), strict=True):
        store(targets, value, gate)


def _step(
    group: dict[str, Any],
    params: list[Tensor],
    values: list[Tensor],
    state: Any,
    gate: Tensor | None,
) -> None:
    """Step the values, which are the parameters themselves or a copy of them."""
    fused = gate is not None or group["foreach"] is None
    # torch's lists take no lr in a tensor.
    lists = bool(group["foreach"]) and not isinstance(group["lr"], Tensor)
    _adamw(
        group,
        params,
        values,
        *([local_part(state[p][key]) for p in params] for key in (*STATE, "step")),
        fused=fused,
        foreach=False if fused else lists,
        # Read on the device: nothing waits for the verdict.
        found_inf=None if gate is None else gate.logical_not().float(),
    )


def _adamw(
    group: dict[str, Any],
    params: list[Tensor],
    values: list[Tensor],
    averages: list[Tensor],
    squares: list[Tensor],
    steps: list[Tensor],
    **form: Any,
) -> None:
    """Call torch's functional AdamW with the options of a group."""
    beta1, beta2 = group["betas"]
    gradients = [local_part(gradient_of(p)) for p in params]
    adamw(
        values,
        [g.to(v.dtype).contiguous() for g, v in zip(gradients, values, strict=True)],
        averages,
        squares,
        [],
        steps,
        **form,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"] * group["lr_scale"],
        weight_decay=group["weight_decay"],
        # Under the root of a square that is zero to rounding: with an eps of 0 a zero gradient
        # would be 0/0, and one of 1e-22 a step of 1e15.
        eps=max(group["eps"], torch.finfo(values[0].dtype).tiny ** 0.5),
        maximize=group["maximize"],
    )
