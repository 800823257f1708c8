"""What a training run would take, before it is begun: nothing is allocated, nothing is written."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from polargrad.language.flops import Flops, flops_per_token
from polargrad.language.input import token_kind
from polargrad.language.optimizers import optimizer_for
from polargrad.language.presets import meta_model
from polargrad.language.ranks import training_device
from polargrad.language.settings import TrainSettings
from polargrad.language.tensor_plan import require_plan
from polargrad.language.units import bytes_in_words, count_in_words
from polargrad.linalg import NewtonSchulz, plain
from polargrad.optim.memory import step_bytes
from polargrad.optim.planned_methods import choose_methods
from polargrad.optim.routing import Explanation, explain
from polargrad.optim.routing.condense import condense
from polargrad.records import require


@dataclass(frozen=True)
class DryRun:
    """What a run would take; as text, the report of ``polargrad train --dry-run``.

    Args:
        name: of the preset.
        optimizer: its name.
        parameters: how many numbers the model has, one that is used twice counted once.
        routing: who steps which parameter, with one row for what repeats from layer to layer.
        parameter_bytes: of the parameters.
        gradient_bytes: of their gradients.
        state_bytes: of the optimizer's state after a step.
        step_bytes: what a step of the matrix rule holds beside these, at most.
        tokens: in a step on one rank, or one group of tensor parallelism.
        windows: the windows of it, in words.
        mesh: the mesh of processes in words, None without one.
        schedule: the course of the learning rate, in words.
        data: what will be read, in words.
        flops: for each token.
        attention_known: whether the operations of attention are counted in them.
    """

    name: str
    optimizer: str
    parameters: int
    routing: Explanation
    parameter_bytes: int
    gradient_bytes: int
    state_bytes: int
    step_bytes: int
    tokens: int
    windows: str
    mesh: str | None
    schedule: str
    data: str
    flops: Flops
    attention_known: bool

    @property
    def total_bytes(self) -> int:
        """All that is counted here; activations come on top."""
        return self.parameter_bytes + self.gradient_bytes + self.state_bytes + self.step_bytes

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.name}: {self.parameters:,} parameters, {self.optimizer}",
                "",
                str(self.routing),
                "",
                *self._memory(),
                "",
                *self._operations(),
                "",
                *self._course(),
            ]
        )

    def _course(self) -> list[str]:
        """The lines on what is read, and how the learning rate runs."""
        facts = {"data": self.data, "a step": self.windows, "learning rate": self.schedule}
        if self.mesh is not None:
            facts["mesh"] = f"{self.mesh}; the memory above is that of one alone"
        return ["run", *(f"  {name:<16}{fact}" for name, fact in facts.items())]

    def _memory(self) -> list[str]:
        """The lines on memory."""
        sizes = {
            "parameters": self.parameter_bytes,
            "gradients": self.gradient_bytes,
            "optimizer state": self.state_bytes,
            "a step beside these, at most": self.step_bytes,
            "together, without activations": self.total_bytes,
        }
        if not self.step_bytes:  # torch's AdamW, of which we count nothing
            del sizes["a step beside these, at most"]
        return [
            "memory",
            *(f"  {name:<31}{bytes_in_words(size):>11}" for name, size in sizes.items()),
        ]

    def _operations(self) -> list[str]:
        """The lines on floating-point operations."""
        flops = self.flops
        of_attention = "" if self.attention_known else ", attention (sizes unknown) left out"
        return [
            f"FLOPs per token{of_attention}",
            f"  {'forward':<31}{count_in_words(flops.forward):>11}",
            f"  {'training':<31}{count_in_words(flops.training):>11}",
            f"  {f'a step of {self.tokens:,} tokens':<31}"
            f"{count_in_words(flops.training * self.tokens):>11}",
        ]


def dry_run(settings: TrainSettings) -> DryRun:
    """Return what the run of these settings would take, computed without any of its numbers.

    Model, gradients and optimizer are built on the meta device, where a step is taken whose state
    is counted. The text is not read, ``out`` is not touched.

    Args:
        settings: of the run; ``out`` may be None.

    Raises:
        ValueError: if the optimizer refuses its settings, or the model its mesh.
        MissingExtraError: if transformers is missing.

    Example:
        >>> plan = dry_run(TrainSettings(optimizer="adamw", steps=100))
        >>> plan.parameters, plan.parameter_bytes, plan.state_bytes > 2 * plan.parameter_bytes
        (1116800, 4467200, True)
    """
    require("transformers", extra="language")
    preset, mesh = settings.model_preset, settings.mesh_sizes
    require_plan(preset, mesh)
    model = meta_model(preset)
    optimizer = optimizer_for(model, settings)
    choose_methods(optimizer, training_device().type)
    routing = condense(_routing(model, optimizer))
    held = step_bytes(optimizer)
    parameters = list(model.parameters())
    _step(optimizer, parameters)
    state = (value for entry in optimizer.state.values() for value in entry.values())
    return DryRun(
        name=preset.name,
        optimizer=settings.optimizer,
        parameters=sum(parameter.numel() for parameter in parameters),
        routing=routing,
        parameter_bytes=_bytes(parameters),
        gradient_bytes=_bytes(p.grad for p in parameters),
        state_bytes=_bytes(state),
        step_bytes=held,
        tokens=preset.batch * settings.accumulate * preset.context,
        windows=(
            f"{preset.batch} windows of {preset.context} tokens × {settings.accumulate} "
            f"micro-batch{'es' * (settings.accumulate > 1)}, on each "
            + ("rank" if mesh is None or mesh.tp == 1 else f"group of {mesh.tp} ranks")
        ),
        mesh=None if mesh is None else f"{mesh}, {mesh.ranks} processes",
        schedule=_schedule_in_words(settings),
        data=_data_in_words(settings),
        flops=flops_per_token(preset, model),
        attention_known=preset.attention_width is not None,
    )


def _schedule_in_words(settings: TrainSettings) -> str:
    """The schedule of a run, with its factor at a few steps."""
    factor, steps = settings.schedule_factor, settings.steps
    places = sorted({0, steps // 4, steps // 2, 3 * steps // 4, steps - 1})
    values = ", ".join(f"{factor(place):.3g} at step {place + 1}" for place in places)
    return f"{settings.schedule}, {steps} steps: times {values}"


def _data_in_words(settings: TrainSettings) -> str:
    """What a run will read, and as which tokens."""
    data = "the standard library's source" if settings.data is None else str(settings.data)
    return f"{data}, as {token_kind(settings.model_preset, settings.data, settings.tokenizer)}"


def _step(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    """Take a step of zero gradients, which makes the state.

    Its polar factors are computed by products alone: other methods look at values, which there are
    none of, and the state does not depend on the method.
    """
    for group in optimizer.param_groups:
        if group.get("rule") == "matrix":
            group["method"] = plain(NewtonSchulz())
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()


def _routing(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Explanation:
    """The table of an optimizer; of torch's AdamW, which has no rule for matrices, AdamW's."""
    if not isinstance(optimizer, torch.optim.AdamW):
        return replace(explain(optimizer), memory=None)
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    rows = []
    for row in explain(model).rows:
        group, shape = groups[id(named[row.name])], named[row.name].shape
        rows.append(
            replace(
                row,
                matrices="×".join(map(str, shape)) or "scalar",
                rule="AdamW",
                lr=float(group["lr"]),
                weight_decay=float(group["weight_decay"]),
            )
        )
    return Explanation(tuple(rows))


def _bytes(values: Iterable[object]) -> int:
    """The bytes of the tensors among these."""
    return sum(v.numel() * v.itemsize for v in values if isinstance(v, Tensor))
