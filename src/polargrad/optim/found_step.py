"""Step sizes that the run finds: what a step looks at, finds and keeps for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry, numbers_of
from polargrad.optim.hypergradient import OWN_WEIGHT, RATE, cosine, followed
from polargrad.optim.inner_products import products, products_on_host
from polargrad.optim.routing.views import Region, View, regions
from polargrad.optim.step_size import EVIDENCE, LAST, REACH, SIZE, start_step_size, step_size

__all__ = ["FoundSteps"]


class FoundSteps:
    """The step sizes of a group, one a logical matrix, in one step of it.

    What the matrices on a device say is put together before the first of them is stepped.

    Args:
        group: with its ``step_rate`` η and ``first_step``.
        params: the parameters that are stepped.
        views: of each.
        entries: their logical matrices.
        state: of the optimizer; what is missing in it is begun.
        gate: as for :func:`polargrad.optim.matrix.matrix_update`.
    """

    def __init__(
        self,
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        views: Sequence[View],
        entries: Sequence[Entry],
        state: Mapping[Tensor, dict[str, Any]],
        gate: Tensor | None,
    ) -> None:
        self.group, self.entries, self.gate = group, entries, gate
        self.last: list[Region] = []
        for p, view in zip(params, views, strict=True):
            start_step_size(group, p, view, state[p])
            self.last += regions(view, state[p][LAST]) if p.numel() else []
        self.owners = [state[params[e.parameter]] for e in entries]
        multiplier = step_size(group)
        # How much of its size a step is taken at: what is above 1 tells no more.
        self.share: Tensor | float = (
            multiplier.clamp(max=1.0) if isinstance(multiplier, Tensor) else min(multiplier, 1.0)
        )
        self.taken: dict[int, Tensor] = {}
        self.after: list[tuple[list[Tensor], list[Tensor]]] = []

    def find(self) -> None:
        """Look at all gradients, and find the sizes of this step."""
        places: dict[torch.device, list[int]] = {}
        for position, entry in enumerate(self.entries):
            places.setdefault(entry.target.tensor.device, []).append(position)
        for positions in places.values():
            self._find(positions)

    def _find(self, positions: list[int]) -> None:
        """Find the sizes of the matrices on one device."""
        entries = [self.entries[i] for i in positions]
        owners = [self.owners[i] for i in positions]
        kept = {key: numbers_of(key, entries, owners) for key in (SIZE, EVIDENCE)}
        sizes, evidence = torch.stack(kept[SIZE]), torch.stack(kept[EVIDENCE])
        reach = torch.stack(numbers_of(REACH, entries, owners))
        looks = zip(*map(self._look, positions), strict=True)
        cosines = cosine(*(torch.stack(found) for found in looks))
        cosines = -cosines if self.group["maximize"] else cosines
        rate = self.group["step_rate"]
        share = self.share.to(sizes) if isinstance(self.share, Tensor) else self.share
        rate = RATE if rate is None else rate
        sizes, evidence = followed(sizes, evidence, cosines, reach, rate, share)
        for key, values in ((SIZE, sizes), (EVIDENCE, evidence)):
            self.after.append((kept[key], list(values.unbind(0))))
        first = self.group["first_step"]
        if first is not None:
            sizes = torch.where(evidence[:, OWN_WEIGHT] == 0, first, sizes)
        self.taken |= dict(zip(positions, sizes.unbind(0), strict=True))

    def _look(self, position: int) -> tuple[Tensor, Tensor, Tensor]:
        """⟨G, D⟩, ‖G‖_F and ‖D‖_F of one matrix, in float64."""
        gradient, last = self.entries[position].gradient.matrix(), self.last[position].matrix()
        on_host = self.gate is None and gradient.device.type == "cpu"
        return products_on_host(gradient, last) if on_host else products(gradient, last)

    def sizes(self, positions: Sequence[int]) -> Tensor:
        """The sizes of the steps of a stack, (B,)."""
        return torch.stack([self.taken[i] for i in positions])

    def decayed(self, positions: Sequence[int], direction: Tensor) -> Tensor:
        r"""Return :math:`D + \lambda X` of a stack of directions, and keep it."""
        decay = self.group["weight_decay"]
        if isinstance(decay, Tensor) or decay:
            matrices = torch.stack([self.entries[i].target.matrix() for i in positions])
            direction = direction + decay * matrices.to(direction.dtype)
        targets = [self.last[i].tensor for i in positions]
        taken = direction
        if isinstance(self.share, Tensor) or not self.share:
            taken = direction * (self.share > 0)  # what was not taken says nothing of its size
        shaped = [d.reshape(t.shape) for d, t in zip(taken.unbind(0), targets, strict=True)]
        store(targets, shaped, self.gate)
        return direction

    def keep(self) -> None:
        """Keep what was found, once all matrices have been stepped."""
        for targets, values in self.after:
            store(targets, values, self.gate)
