"""Step sizes that the run finds: what a step looks at, finds and keeps for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.linalg.precision import double_dtype
from polargrad.optim.direction_norms import DirectionNorms
from polargrad.optim.early_looks import Look
from polargrad.optim.elementwise import store
from polargrad.optim.entries import Entry, by_device, numbers_of
from polargrad.optim.hypergradient import OWN_WEIGHT, RATE, chance_cosine, cosine, followed, slope
from polargrad.optim.inner_products import (
    products,
    products_on_host,
    projection,
    projection_on_host,
)
from polargrad.optim.shared_sums import sums
from polargrad.optim.signal import beta_of, first_weight, is_averaged, newest_share
from polargrad.optim.step_size import (
    EVIDENCE,
    FOUND_KEYS,
    LOOK,
    REACH,
    SIZE,
    looks_at_directions,
    start_step_size,
    step_size,
)

__all__ = ["FoundSteps"]


class FoundSteps:
    """The step sizes of a group, one a logical matrix, in one step of it.

    What the matrices on a device say is put together before the first of them is stepped.

    Args:
        group: with its ``step_rate`` η and ``first_step``.
        params: the parameters that are stepped.
        entries: their logical matrices, with their last directions.
        state: of the optimizer; what is missing in it is begun.
        gate, looks: as for :func:`polargrad.optim.matrix.matrix_update`.
    """

    def __init__(
        self,
        group: Mapping[str, Any],
        params: Sequence[Tensor],
        entries: Sequence[Entry],
        state: Mapping[Tensor, dict[str, Any]],
        gate: Tensor | None,
        looks: Mapping[Tensor, Look],
    ) -> None:
        self.group, self.entries, self.gate = group, entries, gate
        self.looks = [looks.get(p) for p in params]
        self.averages = group["order"] != "momentum-first" and is_averaged(group)
        self.of_directions = looks_at_directions(group)
        self._start(params, state)
        self.norms = DirectionNorms(params, entries, state, gate) if self.of_directions else None
        self.owners = [state[params[e.parameter]] for e in entries]
        multiplier = step_size(group)
        # How much of its size a step is taken at: what is above 1 tells no more.
        self.share: Tensor | float = (
            multiplier.clamp(max=1.0) if isinstance(multiplier, Tensor) else min(multiplier, 1.0)
        )
        # By matrix: how its direction lies to the last, and whether its gradient is not zero.
        self.turns: dict[int, tuple[Tensor, ...]] = {}
        self.moved: dict[int, Tensor] = {}
        self.taken: dict[int, Tensor] = {}
        self.after: list[tuple[list[Tensor], list[Tensor]]] = []

    def _start(self, params: Sequence[Tensor], state: Mapping[Tensor, dict[str, Any]]) -> None:
        """Give parameters their first sizes, where they have none yet."""
        keys = (*FOUND_KEYS, LOOK) if self.of_directions else FOUND_KEYS
        missing = [any(key not in state[p] for key in keys) for p in params]
        fresh = [e for e in self.entries if missing[e.parameter]]
        lengths: list[list[Tensor]] = [[] for _ in params]
        # One exchange for all matrices on a device.
        for positions in by_device(fresh).values():
            some = [fresh[i] for i in positions]
            squares = sums(some, 1, _square_of_target, "the sizes of the parameters")
            for entry, square in zip(some, squares, strict=True):
                typical = (square[0] / min(entry.target.shape)).sqrt()
                lengths[entry.parameter].append(typical.float())
        for index, p in enumerate(params):
            if missing[index]:
                own = lengths[index]
                stacked = torch.stack(own) if own else torch.zeros(0, device=p.device)
                start_step_size(self.group, stacked, state[p])

    def find(self) -> None:
        """Look at all gradients, and find the sizes of this step."""
        for positions in by_device(self.entries).values():
            self._find(positions)

    def _find(self, positions: list[int]) -> None:
        """Find the sizes of the matrices on one device."""
        entries = [self.entries[i] for i in positions]
        owners = [self.owners[i] for i in positions]
        kept = {key: numbers_of(key, entries, owners) for key in (SIZE, EVIDENCE)}
        sizes, evidence = torch.stack(kept[SIZE]), torch.stack(kept[EVIDENCE])
        reach = torch.stack(numbers_of(REACH, entries, owners))
        cosines, slopes = self._said(entries, owners)
        rate = self.group["step_rate"]
        share = self.share.to(sizes) if isinstance(self.share, Tensor) else self.share
        rate = RATE if rate is None else rate
        norms = None if self.norms is None else self.norms.of(positions)
        sizes, evidence = followed(sizes, evidence, cosines, reach, rate, share, slopes, norms)
        for key, values in ((SIZE, sizes), (EVIDENCE, evidence)):
            self.after.append((kept[key], list(values.unbind(0))))
        first = self.group["first_step"]
        if first is not None:
            if self.averages:  # of which the first is shorter than what it averages
                first = first / first_weight(self.group, sizes)
            sizes = torch.where(self._begun(entries, owners, evidence), sizes, first)
        self.taken |= dict(zip(positions, sizes.unbind(0), strict=True))

    def _said(
        self, entries: Sequence[Entry], owners: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, Tensor | None]:
        """What sizes follow, and what else must agree."""
        looks = sums(entries, 2, self._look, "what gradients say of step sizes")
        if self.of_directions:
            self.moved |= dict(zip(map(id, entries), (looks[:, 1] > 0).unbind(0), strict=True))
        slopes = slope(looks[:, 0], looks[:, 1].sqrt())
        slopes = -slopes if self.group["maximize"] else slopes
        if not self.of_directions:
            return slopes, None
        turns = torch.stack(numbers_of(LOOK, entries, owners))
        return torch.where(turns.isfinite(), turns, 0.0), slopes

    def _begun(
        self, entries: Sequence[Entry], owners: Sequence[Mapping[str, Any]], evidence: Tensor
    ) -> Tensor:
        """Which matrices have been stepped before, (N,)."""
        if self.of_directions:
            return torch.stack(numbers_of(LOOK, entries, owners)).isfinite()
        return evidence[:, OWN_WEIGHT] != 0

    def _look(self, entry: Entry) -> Look:
        """⟨G, D⟩ and ‖G‖² of one matrix, or of a part of it, in float64."""
        known = self.looks[entry.parameter]
        if known is not None:
            return known
        assert entry.last is not None  # as entries have where sizes are found
        gradient, last = entry.gradient.matrix(), entry.last.matrix()
        on_host = self.gate is None and gradient.device.type == "cpu"
        return (projection_on_host if on_host else projection)(gradient, last)

    def sizes(self, positions: Sequence[int]) -> Tensor:
        """The sizes of the steps of a stack, (B,)."""
        return torch.stack([self.taken[i] for i in positions])

    def decayed(
        self, positions: Sequence[int], entries: Sequence[Entry], direction: Tensor
    ) -> Tensor:
        r"""Return :math:`D + \lambda X` of a stack of directions, of matrices or of parts."""
        decay = self.group["weight_decay"]
        if isinstance(decay, Tensor) or decay:
            matrices = torch.stack([entry.target.matrix() for entry in entries])
            direction = direction + decay * matrices.to(direction.dtype)
        targets = [entry.last.tensor for entry in entries if entry.last is not None]
        taken = direction
        if isinstance(self.share, Tensor) or not self.share:
            taken = direction * (self.share > 0)  # what was not taken says nothing of its size
        if self.norms is not None:
            self.norms.look(positions, entries, taken)
            for entry, one in zip(entries, taken.unbind(0), strict=True):
                self._turn(entry, one)
        shaped = [d.reshape(t.shape) for d, t in zip(taken.unbind(0), targets, strict=True)]
        store(targets, shaped, self.gate)
        return direction

    def _turn(self, entry: Entry, direction: Tensor) -> None:
        """Look at how a direction, or a part of one, lies to the last, while both are here."""
        assert entry.last is not None  # as entries have where sizes are found
        last = entry.last.matrix()
        alone = self.gate is None and last.device.type == "cpu"
        inner = products_on_host if alone else products
        self.turns[id(entry)] = inner(direction, last)

    def _look_at_directions(self) -> None:
        """What the directions of this step say of its size."""
        chance = chance_cosine(beta_of(self.group), newest_share(self.group))
        for positions in by_device(self.entries).values():
            entries = [self.entries[i] for i in positions]
            looks = sums(entries, 3, lambda e: self.turns[id(e)], "how directions turn")
            inner, of_new, of_last = looks.unbind(1)
            moved = torch.stack([self.moved[id(entry)] for entry in entries])
            turn = cosine(inner, of_new.sqrt(), of_last.sqrt())
            # A zero gradient says nothing, and neither does a first direction.
            said = moved & (of_last > 0) & (of_new > 0)
            turn = torch.where(said, turn - chance, 0.0).float()
            places = numbers_of(LOOK, entries, [self.owners[i] for i in positions])
            self.after.append((places, list(turn.unbind(0))))

    def keep(self) -> None:
        """Keep what was found, once all matrices have been stepped."""
        if self.norms is not None:
            self._look_at_directions()
            self.norms.keep()
        for targets, values in self.after:
            store(targets, values, self.gate)


def _square_of_target(entry: Entry) -> tuple[Tensor]:
    """‖X‖² of a matrix, or of a part of it."""
    x = entry.target.matrix()
    return (torch.linalg.vector_norm(x, dtype=double_dtype(x.dtype)).square(),)
