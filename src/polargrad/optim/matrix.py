r"""The matrix rule: signal → direction → magnitude → step, for every matrix of a group.

.. math:: s = \text{signal}(g), \quad d = \text{direction}(s),\; \|d\| \le 1, \quad
          a = \text{magnitude}(s, d), \quad X \leftarrow \delta X - \gamma\,a\,u

u is d itself (momentum-first), a momentum of directions (polar-first), or γ·a·u one of whole steps
(Polyak). Elementwise work is done on lists of parameters; directions are found a stack of equal
matrices at a time, and a stack is used up before the next is made.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.profiler import record_function

from polargrad.distributed import LocalExecutor, Source
from polargrad.geometry import Geometry, State, magnitude
from polargrad.linalg.precision import COMPUTE_DTYPES, working_dtype
from polargrad.optim.elementwise import average, shrink, store, subtract
from polargrad.optim.resolve import resolve
from polargrad.optim.rounding import round_stochastically
from polargrad.optim.routing.views import Region, View, logical_shapes, regions

__all__ = ["BUFFER", "STEP", "matrix_update", "start_geometry"]

BUFFER = "momentum_buffer"
STEP = "step"


class Entry(NamedTuple):
    """One logical matrix of a step.

    Attributes:
        parameter: the position of its parameter.
        block: which of the shapes among the logical matrices of the parameter it has.
        place: its position among those of that shape.
        target: the matrix in the parameter.
        gradient: the matrix in the gradient.
        buffer: the matrix in the momentum, None without one.
    """

    parameter: int
    block: int
    place: int
    target: Region
    gradient: Region
    buffer: Region | None


def matrix_update(
    group: dict[str, Any],
    form: Geometry,
    params: list[Tensor],
    views: list[View],
    state: Any,
    gate: Tensor | None,
    decay: Tensor | float | None,
) -> None:
    """Step the parameters in ``params``, which all have gradients, with the options of ``group``.

    ``form`` is what the geometry of the group describes.
    ``decay`` is the factor that decay leaves of a parameter (:func:`decay_factor`).
    ``gate`` is None, or a tensor that is true where the step counts; otherwise parameters and state
    keep every bit, and nothing waits for the device to tell.
    """
    for p in params:
        state.setdefault(p, {})  # without momentum too: torch.distributed.checkpoint asks for it
    _Update(group, form, params, views, state, gate, decay).run()


class _Update:
    """One step of one group."""

    def __init__(
        self,
        group: dict[str, Any],
        form: Geometry,
        params: list[Tensor],
        views: list[View],
        state: Any,
        gate: Tensor | None,
        decay: Tensor | float | None,
    ) -> None:
        self.group, self.params, self.state = group, params, state
        self.gate, self.decay = gate, decay
        self.beta: float | Tensor = group["momentum"]
        self.form = group["momentum_form"]
        self.foreach = group["foreach"] is not False
        self.averaged = isinstance(self.beta, Tensor) or self.beta > 0
        self.first = group["order"] == "momentum-first"
        self.corrected = group["bias_correction"] and self.averaged
        self.geometry = form
        self.buffers = [self._buffer(p) for p in params] if self.averaged else None
        self.entries = self._entries(views)
        if self.corrected:
            for p in params:
                zero = torch.zeros((), dtype=torch.float32, device=p.device)
                state[p].setdefault(STEP, zero)
        if self.geometry.accumulates:
            for p, view in zip(params, views, strict=True):
                start_geometry(self.geometry, p, view, state[p])

    def run(self) -> None:
        """Average what is averaged before the direction, then take it a stack at a time."""
        begun = [i for i, p in enumerate(self.params) if self._begun(p)]
        if self.corrected:
            for i in begun:
                self._count(self.params[i])
        if self.buffers is not None and self.first:
            with record_function("polargrad::momentum"):
                gradients = [_gradient(self.params[i]) for i in begun]
                self._average([self.buffers[i] for i in begun], gradients, self.form, True)
        if self.group["rounding"] == "stochastic":
            self.group["attempts"] = self.group.get("attempts", 0) + 1
        sources = [self._source(e) for e in self.entries]
        LocalExecutor().map(self._direction, sources, self._update)

    def _begun(self, p: Tensor) -> bool:
        """Whether a gradient of this parameter is a signal, and not the first of a SOAP."""
        return not self.geometry.begins_with_first or any(
            bool(value.any()) for key, value in self.state[p].items() if key.startswith("count")
        )

    def _entries(self, views: list[View]) -> list[Entry]:
        """The logical matrices of all parameters; what is empty has none."""
        entries = []
        for index, (p, view) in enumerate(zip(self.params, views, strict=True)):
            if not p.numel():
                continue
            targets, gradients = regions(view, p), regions(view, _gradient(p))
            buffers = regions(view, self.buffers[index]) if self.buffers else [None] * len(targets)
            places: dict[tuple[int, int], list[int]] = {}
            for target, gradient, buffer in zip(targets, gradients, buffers, strict=True):
                block = places.setdefault(target.shape, [len(places), 0])
                entries.append(Entry(index, block[0], block[1], target, gradient, buffer))
                block[1] += 1
        return entries

    def _source(self, entry: Entry) -> Source:
        """The signal of a matrix, and beside it the gradient where something needs it."""
        # With momentum before the direction the signal is the momentum, else the gradient.
        averaged = entry.buffer is not None and self.first
        signal = entry.buffer if averaged and entry.buffer is not None else entry.gradient
        beside = self.geometry.accumulates or (averaged and self.group["nesterov"])
        read = (signal, entry.gradient) if beside else (signal,)
        tensor = signal.tensor
        dtype = working_dtype(tensor.dtype)
        key = (signal.shape, tensor.dtype, entry.gradient.tensor.dtype, tensor.device)
        size = tensor.numel() * dtype.itemsize
        return Source(key, size, lambda: tuple(region.matrix() for region in read))

    def _direction(self, positions: list[int], *stacks: Tensor) -> tuple[Tensor, ...]:
        with record_function("polargrad::direction"):
            return self._ascend(positions, *stacks)

    def _update(self, positions: list[int], results: tuple[Tensor, ...]) -> None:
        with record_function("polargrad::update"):
            self._apply(positions, results)

    def _ascend(self, positions: list[int], *stacks: Tensor) -> tuple[Tensor, ...]:
        """Unit directions of a stack, how far to go along each, and the new geometry state."""
        signal = self._signal(positions, *stacks)
        entries = [self.entries[i] for i in positions]
        past = new = None
        if self.geometry.accumulates:
            past = self._gathered(entries)
            new = self._accumulated(past, self._signed(stacks[-1].to(signal.dtype)))
        found = self.geometry
        if found.uses_polar:
            found = found.with_polar(
                resolve(self.group, signal), COMPUTE_DTYPES.get(self.group["compute_dtype"])
            )
        direction, dual = found.ascent(signal, new)
        if self.group["max_dual_norm"] is not None:
            dual = dual.clamp(max=self.group["max_dual_norm"])
        kind, (m, n) = self.group["magnitude"], signal.shape[-2:]
        size = magnitude(kind, dual, m, n, exponent=self.group["exponent"])
        size = size if isinstance(size, Tensor) else torch.full_like(dual, size)
        scale = size * step_size(self.group)
        return direction, scale, *(() if new is None else new.values())

    def _signal(self, positions: list[int], *stacks: Tensor) -> Tensor:
        """The signal of a stack in at least float32; may be the very momentum or gradient."""
        signal = stacks[0].to(working_dtype(stacks[0].dtype))
        if not self.averaged or not self.first:
            return self._signed(signal)
        correction = self._corrections(positions) if self.corrected else None
        if not self.group["nesterov"]:
            return signal if correction is None else signal / correction[0]
        gradient = self._signed(stacks[1].to(signal.dtype))
        if self.form == "heavy-ball":
            return gradient + self.beta * signal
        if correction is None:
            return torch.lerp(gradient, signal, self.beta)
        now, ahead = correction
        return self.beta * signal / ahead + (1.0 - self.beta) * gradient / now

    def _signed(self, gradient: Tensor) -> Tensor:
        return -gradient if self.group["maximize"] else gradient

    def _corrections(self, positions: list[int]) -> tuple[Tensor, Tensor]:
        """1 − βᵗ and 1 − βᵗ⁺¹, (B, 1, 1): what a momentum that began at zero still lacks."""
        counts = [self.state[self.params[self.entries[i].parameter]][STEP] for i in positions]
        t = torch.stack(counts).to(torch.float64).clamp(min=1.0)[:, None, None]
        double = any(p.dtype == torch.float64 for p in self.params)
        dtype = torch.float64 if double else torch.float32
        return (1.0 - self.beta**t).to(dtype), (1.0 - self.beta ** (t + 1)).to(dtype)

    def _count(self, p: Tensor) -> None:
        """One step more, if it counts: a zero gradient at zero state changes nothing."""
        own = self.state[p]
        counts = (_gradient(p) != 0).any() | (own[STEP] > 0)
        if self.gate is not None:
            counts = counts & self.gate.to(p.device)
        own[STEP] += counts

    def _apply(self, positions: list[int], results: tuple[Tensor, ...]) -> None:
        """Take the steps of a stack, and keep its new state."""
        direction, scale, *new = results
        entries = [self.entries[i] for i in positions]
        if new:
            self._scatter(entries, new)
        if self.first or not self.averaged:
            deltas = direction.mul_(scale[:, None, None])
        else:
            deltas = self._smoothed(positions, entries, direction, scale)
        targets = [e.target.tensor for e in entries]
        pieces = _pieces(deltas, targets)
        whole = [t.dtype == d.dtype for t, d in zip(targets, pieces, strict=True)]
        if self.gate is None and all(whole):
            if self.decay is not None:
                shrink(targets, self.decay, self.foreach)
            subtract(targets, pieces, self.foreach)
            return
        for position, entry, delta in zip(positions, entries, pieces, strict=True):
            target = entry.target.tensor
            wide = target.to(delta.dtype)
            value = (wide if self.decay is None else wide * self.decay) - delta
            store([target], [self._rounded(value, target, position)], self.gate)

    def _rounded(self, value: Tensor, target: Tensor, position: int) -> Tensor:
        """The value in the dtype of its target, rounded as the group says."""
        if self.group["rounding"] == "stochastic" and target.dtype == torch.bfloat16:
            key = (self.group["rounding_seed"], self.group["attempts"], position)
            return round_stochastically(value, key)
        return value.to(target.dtype)

    def _smoothed(
        self, positions: list[int], entries: list[Entry], direction: Tensor, scale: Tensor
    ) -> Tensor:
        """A momentum of directions, scaled (polar-first); or a momentum of steps (Polyak)."""
        targets = [e.buffer.tensor for e in entries if e.buffer is not None]
        polyak = self.group["order"] == "polyak"
        inputs = direction * scale[:, None, None] if polyak else direction
        form = "heavy-ball" if polyak else self.form
        self._average(targets, _pieces(inputs, targets), form, False)
        matrices = [e.buffer.matrix() for e in entries if e.buffer is not None]
        smooth = torch.stack(matrices).to(direction.dtype)
        if polyak:
            return smooth
        if self.group["nesterov"]:
            smooth = (
                torch.lerp(direction, smooth, self.beta)
                if self.form == "ema"
                else direction + self.beta * smooth
            )
        if self.corrected:
            smooth = smooth / self._corrections(positions)[0]
        return smooth * scale[:, None, None]

    def _average(
        self, targets: list[Tensor], inputs: list[Tensor], form: str, gradients: bool
    ) -> None:
        average(
            targets,
            inputs,
            self.beta,
            form=form,
            gate=self.gate,
            foreach=self.foreach,
            negate=gradients and self.group["maximize"],
        )

    def _buffer(self, p: Tensor) -> Tensor:
        """The momentum of a parameter, zero before the first step."""
        if BUFFER not in self.state[p]:
            self.state[p][BUFFER] = torch.zeros_like(
                p, dtype=buffer_dtype(self.group, p), memory_format=torch.preserve_format
            )
        buffer: Tensor = self.state[p][BUFFER]
        return buffer

    def _gathered(self, entries: list[Entry]) -> State:
        """The geometry state of a stack."""
        own = [self.state[self.params[e.parameter]] for e in entries]
        return {
            key: torch.stack(
                [s[_key(key, e.block)][e.place] for s, e in zip(own, entries, strict=True)]
            )
            for key in _names(self.geometry)
        }

    def _accumulated(self, past: State, gradient: Tensor) -> State:
        """The state after a gradient; a zero gradient at zero state changes nothing."""
        new = self.geometry.accumulate(past, gradient)
        begun = (gradient != 0).flatten(1).any(1)
        for value in past.values():
            begun = begun | (value != 0).reshape(len(begun), -1).any(1)
        return {
            key: torch.where(begun.view(-1, *[1] * (value.ndim - 1)), value, past[key])
            for key, value in new.items()
        }

    def _scatter(self, entries: list[Entry], new: list[Tensor]) -> None:
        """Keep the new geometry state of a stack."""
        for key, value in zip(_names(self.geometry), new, strict=True):
            targets = [
                self.state[self.params[e.parameter]][_key(key, e.block)][e.place] for e in entries
            ]
            store(targets, list(value.unbind(0)), self.gate)


def start_geometry(form: Geometry, p: Tensor, view: View, own: dict[str, Any]) -> None:
    """Give a parameter the zero state of an explicit preconditioner, where it has none yet."""
    for key, value in geometry_state(form, p, view).items():
        if key not in own:
            own[key] = value.to(p.device) if not value.is_meta else torch.zeros_like(value)


def geometry_state(form: Geometry, p: Tensor, view: View) -> dict[str, Tensor]:
    """The zero state of a parameter: a tensor for each key and each shape of its matrices."""
    counts: dict[tuple[int, int], int] = {}
    for shape in logical_shapes(view, tuple(p.shape)) if p.numel() else []:
        counts[shape] = counts.get(shape, 0) + 1
    return {
        _key(key, block): value
        for block, (shape, count) in enumerate(counts.items())
        for key, value in form.start(
            torch.empty(count, *shape, dtype=working_dtype(p.dtype), device=p.device)
        ).items()
    }


def buffer_dtype(group: dict[str, Any], p: Tensor) -> torch.dtype:
    """The dtype of a momentum: as asked for, else at least float32."""
    return COMPUTE_DTYPES.get(group["state_dtype"], working_dtype(p.dtype))


def _names(form: Geometry) -> list[str]:
    """The keys of the state of a geometry, in their order."""
    return list(form.start(torch.empty(1, 1, 1)))


def _key(key: str, block: int) -> str:
    return key if block == 0 else f"{key}.{block}"


def _gradient(p: Tensor) -> Tensor:
    assert p.grad is not None
    return p.grad


def _pieces(stack: Tensor, targets: list[Tensor]) -> list[Tensor]:
    """The matrices of a stack, each in the shape of the place it goes to."""
    return [
        matrix.reshape(target.shape)
        for matrix, target in zip(stack.unbind(0), targets, strict=True)
    ]


def step_size(group: dict[str, Any]) -> Tensor | float:
    """γ: the learning rate of a group, with the ratio that ``shared_lr`` keeps beside it."""
    size: Tensor | float = group["lr"] * group["lr_scale"]
    return size.reshape(()) if isinstance(size, Tensor) else size


def decay_factor(group: dict[str, Any]) -> Tensor | float | None:
    """Return the factor (1 − γλ)(1 − λ'γ/γ₀) that decay leaves of a matrix, None for no decay.

    Raises:
        ValueError: if a schedule has raised lr so far that λ'γ/γ₀ is 1 or more, which would turn
            the sign of every entry. (A tensor lr is not looked at: that would wait for its device.)
    """
    if not group["weight_decay"] and not group["decay_per_step"]:
        return None
    lr = group["lr"].reshape(()) if isinstance(group["lr"], Tensor) else group["lr"]
    factor: Tensor | float = 1.0 - step_size(group) * group["weight_decay"]
    if group["decay_per_step"]:
        shrinking = group["decay_per_step"] * lr / group["base_lr"]
        if not isinstance(shrinking, Tensor) and shrinking >= 1.0:
            raise ValueError(
                f"decay_per_step={group['decay_per_step']} with lr={lr}, raised from "
                f"{group['base_lr']}, would shrink matrices by the factor 1 − {shrinking:.3g}: "
                "give a smaller decay_per_step, or the schedule's largest lr at construction"
            )
        factor = factor * (1.0 - shrinking)
    return factor
