r"""The matrix rule: signal → direction → magnitude → step, for every matrix of a group.

.. math:: s = \text{signal}(g), \quad d = \text{direction}(s),\; \|d\| \le 1, \quad
          a = \text{magnitude}(s, d), \quad X \leftarrow \delta X - \gamma\,a\,u

u is d itself (momentum-first), a momentum of directions (polar-first), or γ·a·u one of whole steps
(Polyak). Elementwise work is done on lists of matrices; directions are found a stack of equal
matrices at a time, and a stack is used up before the next is made.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from polargrad.distributed import LocalExecutor, Sharing, Source
from polargrad.distributed.local import StackFunction
from polargrad.distributed.shared import DeliverPatches
from polargrad.geometry import Ascent, Geometry, Spectral, State
from polargrad.linalg.precision import COMPUTE_DTYPES, HALF, working_dtype
from polargrad.optim.approximate import approximated, kept_directions, step_approximately
from polargrad.optim.buffers import buffer_of, last_of
from polargrad.optim.early_looks import Look
from polargrad.optim.elementwise import add_product_to, average, shrink, store, subtract
from polargrad.optim.entries import Entry, count_of, entries_of, numbers_of, parts_of, pieces
from polargrad.optim.found_step import FoundSteps
from polargrad.optim.geometry_state import (
    accumulated,
    bytes_beside,
    gathered,
    key_of,
    scatter,
    start_geometry,
)
from polargrad.optim.gram_step import step_by_gram
from polargrad.optim.group_members import named_parameters
from polargrad.optim.resolve import resolve
from polargrad.optim.rounding import ATTEMPTS, round_stochastically
from polargrad.optim.routing.views import Region, View
from polargrad.optim.shared_step import reads_of, step_shared
from polargrad.optim.signal import as_read, as_used, beta_of, is_averaged
from polargrad.optim.stages import stage
from polargrad.optim.step_size import is_found, step_length, takes_dual_norm

__all__ = ["STEP", "Update", "matrix_update"]

STEP = "step"


def matrix_update(
    group: dict[str, Any],
    number: int,
    form: Geometry,
    params: list[Tensor],
    views: list[View],
    state: Any,
    gate: Tensor | None,
    decay: Tensor | float | None,
    sharing: Sharing | None = None,
    looks: Mapping[Tensor, Look] | None = None,
) -> None:
    """Step the parameters in ``params``, which all have gradients, with the options of ``group``.

    ``number`` is the position of the group, ``form`` what its geometry describes, ``decay`` the
    factor that decay leaves of a parameter, ``sharing`` knows who holds which parts of what;
    ``looks`` are of :func:`polargrad.optim.early_looks.early_looks`.
    ``gate`` is None, or a tensor that is true where the step counts; otherwise parameters and state
    keep every bit, and nothing waits for the device to tell.
    """
    for p in params:
        state.setdefault(p, {})  # without momentum too: torch.distributed.checkpoint asks for it
    Update(group, number, form, params, views, state, gate, decay, sharing, looks or {}).run()


class Update:
    """One step of one group."""

    def __init__(
        self,
        group: dict[str, Any],
        number: int,
        form: Geometry,
        params: list[Tensor],
        views: list[View],
        state: Any,
        gate: Tensor | None,
        decay: Tensor | float | None,
        sharing: Sharing | None,
        looks: Mapping[Tensor, Look],
    ) -> None:
        self.group, self.number, self.params, self.state = group, number, params, state
        self.geometry, self.gate, self.decay, self.sharing = form, gate, decay, sharing
        self.beta = beta_of(group)
        self.averaged, self.reads = is_averaged(group), reads_of(group, form)
        self.first = group["order"] == "momentum-first"
        self.corrected = group["bias_correction"] and self.averaged
        self.foreach = group["foreach"] is not False
        buffers = [buffer_of(group, p, state[p]) for p in params] if self.averaged else None
        lasts = [last_of(p, state[p]) for p in params] if is_found(group) else None
        kept = kept_directions(group, params, state)
        self.entries = entries_of(params, views, buffers, lasts, sharing, kept)
        self.approximate = approximated(self, number, params, views, state, gate)
        self.found: FoundSteps | None = None
        if lasts is not None:
            self.found = FoundSteps(group, params, self.entries, state, gate, looks)
        if not (form.accumulates or self.corrected):
            return
        for p, view in zip(params, views, strict=True):
            start_geometry(form, p, view, state[p])
            if self.corrected and STEP not in state[p]:
                state[p][STEP] = torch.zeros(count_of(p, view), device=p.device)

    def run(self) -> None:
        """Average what is averaged before the direction, then take it a stack at a time."""
        self.begun = self._begun()
        if self.found is not None:
            with stage("step size"):
                self.found.find()
        if self.averaged and self.first:
            with stage("momentum"):
                self._average(
                    [e for e, begun in zip(self.entries, self.begun, strict=True) if begun]
                )
        if self.approximate is None:
            self._step_exactly(range(len(self.entries)))
        else:
            step_approximately(self, self.approximate)
            self._step_exactly(self.approximate.exact)
            self.approximate.close()
            self.approximate = None  # it knows this step: nothing is left to the garbage collector
        if self.found is not None:
            self.found.keep()

    def _step_exactly(self, positions: Sequence[int]) -> None:
        """Step matrices whose directions are those of whole signals."""
        left = self._step_alone(positions) if self._may_split() else positions
        left = step_by_gram(self, left) if self.sharing is not None else left
        self.each(left, self._direction, self._update, self._update_parts)

    def each(
        self,
        positions: Sequence[int],
        function: StackFunction,
        deliver: Callable[[list[int], tuple[Tensor, ...]], None],
        deliver_parts: DeliverPatches,
    ) -> None:
        """Map a function of whole signals, as the executors do, over some of the matrices."""
        alone = [i for i in positions if self.entries[i].shared is None]
        if alone:
            LocalExecutor().map(
                lambda some, *stacks: function([alone[i] for i in some], *stacks),
                [self._source(self.entries[i]) for i in alone],
                lambda some, results: deliver([alone[i] for i in some], results),
            )
        if self.sharing is not None:
            step_shared(
                self.group,
                self.geometry,
                self.sharing,
                self.names,
                self.entries,
                positions,
                self.reads,
                self.corrected,
                function,
                deliver_parts,
            )

    @property
    def names(self) -> list[str]:
        """Of the parameters of the step."""
        kept = {id(p) for p in self.params}
        return [name for name, p in named_parameters(self.group) if id(p) in kept]

    def _may_split(self) -> bool:
        """Whether a direction may be a product that is added to its matrix in one call.

        Gradients have been looked at on the host already, so signals may be.
        """
        form = self.geometry
        plain = isinstance(form, Spectral) and form.uses_polar and not form.correct
        signal_as_it_is = not (self.corrected or (self.averaged and self.group["nesterov"]))
        known = self.gate is None and self.found is None and self.approximate is None
        return plain and known and signal_as_it_is and (self.first or not self.averaged)

    def _step_alone(self, positions: Sequence[int]) -> list[int]:
        """Step the small matrices that no other shares a shape with; return which are left."""
        alone = [i for i in positions if self.entries[i].shared is None]
        counts = Counter([self.entries[i].target.shape for i in alone])
        single = [i for i in alone if counts[self.entries[i].target.shape] == 1]
        stepped = {i for i in single if self._stepped(self.entries[i])}
        return [i for i in positions if i not in stepped]

    def _stepped(self, entry: Entry) -> bool:
        """Step one matrix by a product that is added to it, if that is a way for it."""
        assert isinstance(self.geometry, Spectral)
        region = entry.buffer if entry.buffer is not None else entry.gradient
        signal, target = region.matrix(), entry.target.tensor
        if target.dtype != signal.dtype or target.ndim != 2 or signal.dtype in HALF:
            return False
        with stage("direction"):
            method = resolve(self.group, signal)
            dtype = COMPUTE_DTYPES.get(self.group["compute_dtype"])
            found = self.geometry.split_on_host(signal, method, dtype)
        if found is None:
            return False
        with stage("update"):
            length = step_length(self.group, found.inner, signal.dtype, *signal.shape)
            length = float(length) * found.scale
            # Momentum has the sign of the ascent in it.
            ascend = self.group["maximize"] and entry.buffer is None
            kept = 1.0 if self.decay is None else float(self.decay)
            add_product_to(target, found.left, found.right, kept, length if ascend else -length)
        return True

    def _begun(self) -> list[bool]:
        """Whether the gradient of a matrix is a signal, and not the first one of SOAP's."""
        if not self.geometry.begins_with_first:
            return [True] * len(self.entries)
        counts: dict[tuple[int, int], list[int]] = {}
        for e in self.entries:
            if (e.parameter, e.block) not in counts:
                kept = self.state[self.params[e.parameter]][key_of("count", e.block)]
                counts[e.parameter, e.block] = kept.tolist()
        return [counts[e.parameter, e.block][e.place] > 0 for e in self.entries]

    def _average(self, entries: list[Entry]) -> None:
        """The momentum of gradients, one step further."""
        parts = list(parts_of(entries))
        average(
            [e.buffer.tensor for e in parts if e.buffer is not None],
            [e.gradient.tensor for e in parts],
            self.beta,
            form=self.group["momentum_form"],
            gate=self.gate,
            foreach=self.foreach,
            negate=self.group["maximize"],
        )

    def _source(self, entry: Entry) -> Source:
        """The signal of a matrix, and beside it the gradient where something needs it."""
        read: list[Region] = [getattr(entry, key) for key in self.reads]
        signal = read[0]
        tensor, dtype = signal.tensor, working_dtype(signal.tensor.dtype)
        key = (signal.shape, tensor.dtype, entry.gradient.tensor.dtype, tensor.device)
        size = tensor.numel() * dtype.itemsize + bytes_beside(self.geometry, signal.shape, dtype)
        return Source(key, size, lambda: tuple(region.matrix() for region in read))

    def _direction(self, positions: list[int], *stacks: Tensor) -> tuple[Tensor, ...]:
        with stage("direction"):
            return self._ascend(positions, *stacks)

    def _update(self, positions: list[int], results: tuple[Tensor, ...]) -> None:
        with stage("update"):
            self._apply(positions, results)

    def _ascend(self, positions: list[int], *stacks: Tensor) -> tuple[Tensor, ...]:
        """Unit directions of a stack, how far to go along each; what is counted, found, kept."""
        entries, owners = self._chosen(positions)
        averaged = self.averaged and self.first
        signal, gradient = as_read(stacks, averaged=averaged, maximize=self.group["maximize"])
        counts = self._counts(positions, gradient) if self.corrected else None
        signal = as_used(self.group, signal, gradient, counts) if averaged else signal
        state = None
        if self.geometry.accumulates:
            past = gathered(self.geometry, entries, owners)
            state = accumulated(self.geometry, past, gradient)
            del past
        del gradient  # of half precision it is a wider copy
        direction, dual = self.ascent_of(signal, state)
        more = [] if counts is None else [counts]
        scale = self.lengths(positions, dual, signal.shape[-2:])
        return direction, scale, *more, *(() if state is None else state.values())

    def ascent_of(self, signal: Tensor, state: State | None) -> Ascent:
        """Unit directions and dual norms of a stack of signals."""
        found = self.geometry
        if found.uses_polar:
            method = resolve(self.group, signal)
            dtype = COMPUTE_DTYPES.get(self.group["compute_dtype"])
            if self.gate is None and isinstance(found, Spectral):
                # Gradients have been looked at on the host already, so signals may be.
                quick = found.ascent_on_host(
                    signal, method, dtype, norm=takes_dual_norm(self.group)
                )
                if quick is not None:
                    return quick
            found = found.with_polar(method, dtype)
        return found.ascent(signal, state)

    def lengths(self, positions: list[int], dual: Tensor, shape: Sequence[int]) -> Tensor:
        """How far to go along each direction of a stack of matrices of this shape, (B,)."""
        scale = step_length(self.group, dual, dual.dtype, *shape)
        assert isinstance(scale, Tensor)  # as the dual norms are
        if self.found is not None:
            scale = scale * self.found.sizes(positions).to(scale.dtype)
        return scale

    def _chosen(self, positions: list[int]) -> tuple[list[Entry], list[dict[str, Any]]]:
        """The matrices at some positions, and the states of their parameters."""
        entries = [self.entries[i] for i in positions]
        return entries, [self.state[self.params[e.parameter]] for e in entries]

    def _counts(self, positions: list[int], gradient: Tensor) -> Tensor:
        """How many gradients are in each momentum; a zero one at zero state does not count."""
        entries, owners = self._chosen(positions)
        counts = torch.stack(numbers_of(STEP, entries, owners))
        counted = (gradient != 0).flatten(1).any(1) | (counts > 0)
        if self.geometry.begins_with_first:
            begun = [self.begun[i] for i in positions]
            counted = counted & torch.tensor(begun, device=counts.device)
        return counts + counted

    def _apply(self, positions: list[int], results: tuple[Tensor, ...]) -> None:
        """Take the steps of a stack, and keep its new state."""
        direction, scale, *more = results
        counts = self._keep(positions, more)
        self.take(positions, self._chosen(positions)[0], direction, scale, counts)

    def _update_parts(
        self, position: int, patches: list[Tensor], rest: list[Tensor | None]
    ) -> None:
        """Take the step of one matrix in the parts that are here, and keep its new state."""
        with stage("update"):
            scale, *more = rest
            counts = self._keep([position], [value for value in more if value is not None])
            shared = self.entries[position].shared
            assert shared is not None  # or it would not be in parts
            for part, patch in zip(shared.parts, patches, strict=True):
                assert scale is not None  # as it is sent to all who hold a part
                direction = patch.reshape(1, *part.target.shape)
                self.take([position], [part], direction, scale, counts)

    def _keep(self, positions: list[int], more: list[Tensor]) -> Tensor | None:
        """Keep what is known of a stack from now on; return the counts of its gradients."""
        if not more:
            return None
        entries, owners = self._chosen(positions)
        counts, *state = more if self.corrected else (None, *more)
        if counts is not None:
            store(numbers_of(STEP, entries, owners), list(counts.unbind(0)), self.gate)
        kept = [value for value in state if value is not None]
        if kept:
            scatter(self.geometry, entries, owners, kept, self.gate)
        return counts

    def take(
        self,
        positions: list[int],
        entries: list[Entry],
        direction: Tensor,
        scale: Tensor,
        counts: Tensor | None,
    ) -> None:
        """Take the steps of a stack of matrices, or of parts of equal shape."""
        if self.approximate is not None:
            self.approximate.keep(positions, entries, direction)
        if self.averaged and self.group["order"] == "polyak":
            self._move(positions, entries, self._summed(entries, direction, scale))
            return
        if self.averaged and not self.first:
            direction = self._smoothed(entries, direction, counts)
        if self.found is not None:
            direction = self.found.decayed(positions, entries, direction)
        self._move(positions, entries, direction.mul_(scale.view(-1, 1, 1)))

    def _move(self, positions: list[int], entries: list[Entry], deltas: Tensor) -> None:
        """X ← δX − step, for the matrices of a stack."""
        targets = [e.target.tensor for e in entries]
        steps = pieces(deltas, targets)
        whole = all(t.dtype == d.dtype for t, d in zip(targets, steps, strict=True))
        if self.gate is None and whole:
            if self.decay is not None:
                shrink(targets, self.decay, self.foreach)
            subtract(targets, steps, self.foreach)
            return
        starts = [e.start for e in entries]
        for position, start, target, step in zip(positions, starts, targets, steps, strict=True):
            wide = target.to(step.dtype)
            value = (wide if self.decay is None else wide * self.decay) - step
            store([target], [self._rounded(value, target, position, start)], self.gate)

    def _rounded(self, value: Tensor, target: Tensor, position: int, start: int) -> Tensor:
        """The value in the dtype of its target, rounded as the group says."""
        if self.group["rounding"] == "stochastic" and target.dtype == torch.bfloat16:
            steps = self.group.get(ATTEMPTS, 0)
            key = (self.group["rounding_seed"], steps, self.number, position)
            # Parts of a matrix draw bits of their own, and copies of a part the same.
            return round_stochastically(value, (*key, start) if start else key)
        return value.to(target.dtype)

    def _smoothed(self, entries: list[Entry], direction: Tensor, counts: Tensor | None) -> Tensor:
        """A momentum of directions (polar-first)."""
        smooth = self._averaged(entries, direction, self.group["momentum_form"])
        return as_used(self.group, smooth, direction, counts)

    def _summed(self, entries: list[Entry], direction: Tensor, scale: Tensor) -> Tensor:
        """A momentum of steps (Polyak)."""
        return self._averaged(entries, direction * scale[:, None, None], "heavy-ball")

    def _averaged(self, entries: list[Entry], new: Tensor, form: str) -> Tensor:
        """The momentum of a stack after what is new, as a stack."""
        buffers = [e.buffer for e in entries if e.buffer is not None]
        targets = [buffer.tensor for buffer in buffers]
        inputs = pieces(new, targets)
        average(targets, inputs, self.beta, form=form, gate=self.gate, foreach=self.foreach)
        return torch.stack([buffer.matrix() for buffer in buffers]).to(new.dtype)
