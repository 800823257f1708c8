"""Step sizes that the run finds, stack by stack: what a step reads, computes and keeps for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from polargrad.linalg.products import inner
from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry, numbers_of
from polargrad.optim.routing.views import Region, View, regions
from polargrad.optim.step_size import (
    LAST,
    RATE,
    SEARCH,
    SIZE,
    followed,
    start_step_size,
    step_size,
    turn,
)

__all__ = ["FoundSteps", "Look"]


class Look(NamedTuple):
    """What is seen of a stack of gradients before their directions are found.

    Attributes:
        slopes: ⟨G, D⟩ with the last direction D, (B,).
        sizes: ‖G‖_F, (B,).
    """

    slopes: Tensor
    sizes: Tensor


class FoundSteps:
    """The step sizes of a group, one a logical matrix, in one step of it.

    Args:
        group: with its ``step_rate`` η and ``first_step``.
        params: the parameters that are stepped.
        views: of each.
        state: of the optimizer; what is missing in it is begun.
        dtypes: of the last directions, one a parameter.
        gate: as for :func:`polargrad.optim.matrix.matrix_update`.
    """

    def __init__(
        self,
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        views: Sequence[View],
        state: Mapping[Tensor, dict[str, Any]],
        dtypes: Sequence[torch.dtype],
        gate: Tensor | None,
    ) -> None:
        self.group, self.gate = group, gate
        self.last: list[Region] = []
        for p, view, dtype in zip(params, views, dtypes, strict=True):
            start_step_size(group, p, view, state[p], dtype)
            self.last += regions(view, state[p][LAST]) if p.numel() else []

    def look(self, positions: Sequence[int], gradient: Tensor) -> Look:
        """Look at the gradients of a stack, (B, m, n), in the positions of its matrices."""
        last = torch.stack([self.last[i].matrix() for i in positions]).to(gradient.dtype)
        return Look(inner(gradient, last), torch.linalg.vector_norm(gradient, dim=(-2, -1)))

    def follow(
        self,
        entries: Sequence[Entry],
        owners: Sequence[dict[str, Any]],
        look: Look,
        dual: Tensor,
        signal: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        r"""Return the new step sizes of a stack, and the state of their search.

        Of a gradient that is not the signal itself the dual norm is not known, and would take a
        direction of its own. It is taken to be as far above the Frobenius norm as that of the
        signal is: :math:`\|G\|_* \approx \|G\|_F\, \|S\|_* / \|S\|_F`.

        Args:
            entries, owners: the matrices, and the states of their parameters.
            look: of their gradients.
            dual: ‖S‖_*, (B,).
            signal: S; None where it is the gradient.
        """
        if signal is not None:
            dual = look.sizes * (dual / torch.linalg.vector_norm(signal, dim=(-2, -1)))
        sizes, search = (torch.stack(numbers_of(key, entries, owners)) for key in (SIZE, SEARCH))
        rate = self.group["step_rate"]
        h = turn(look.slopes, dual)
        whole = step_size(self.group) >= 1.0
        return followed(sizes, search, h, RATE if rate is None else rate, whole=whole)

    def keep(
        self,
        positions: Sequence[int],
        entries: Sequence[Entry],
        owners: Sequence[dict[str, Any]],
        direction: Tensor,
        sizes: Tensor,
        search: Tensor,
    ) -> Tensor:
        r"""Keep the state of a stack; return its direction with decay, :math:`D + \lambda X`.

        What is kept of the direction is as long as the multiplier of a schedule, at most 1: where
        a warmup holds steps back, or a decay does, their sizes do not grow against it.
        """
        decay = self.group["weight_decay"]
        if isinstance(decay, Tensor) or decay:
            matrices = torch.stack([e.target.matrix() for e in entries]).to(direction.dtype)
            direction = direction + decay * matrices
        multiplier = step_size(self.group)
        share = (
            multiplier.clamp(max=1.0) if isinstance(multiplier, Tensor) else min(multiplier, 1.0)
        )
        kept = direction if isinstance(share, float) and share == 1.0 else share * direction
        regions = [self.last[i] for i in positions]
        shaped = [d.reshape(r.tensor.shape) for d, r in zip(kept.unbind(0), regions, strict=True)]
        store([region.tensor for region in regions], shaped, self.gate)
        for key, values in ((SIZE, sizes), (SEARCH, search)):
            store(numbers_of(key, entries, owners), list(values.unbind(0)), self.gate)
        return direction
