"""The steps of a run: micro-batches, gradients, the optimizer, the schedule."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polargrad.language.evaluation import language_model_loss
from polargrad.language.input import Input
from polargrad.language.layout import Layout, lay_out
from polargrad.language.optimizers import optimizer_for
from polargrad.language.presets import build_model
from polargrad.language.ranks import Ranks
from polargrad.language.schedules import build_schedule
from polargrad.language.settings import TrainSettings
from polargrad.language.stopwatch import Stopwatch


@dataclass(frozen=True)
class Step:
    """What a step came to, the same on all ranks but for the times.

    Args:
        loss: the mean over all windows of the step, of the parameters before it.
        gradient_norm: of the gradient of that loss, over all parameters, before clipping.
        lr: the learning rate that was used, of the first group.
        seconds: how long it took.
        optimizer_seconds: how much of that the optimizer took.
    """

    loss: float
    gradient_norm: float
    lr: float
    seconds: float
    optimizer_seconds: float


class Stepper:
    r"""A model in training: each call of :meth:`take` is one step.

    A step of R ranks with A micro-batches of b windows each minimises the mean loss over the
    :math:`b A R` windows: micro-batches are summed with weight 1/A, and the ranks average their
    gradients once, with the last of them (shards after each). The ranks of a group of tensor
    parallelism see the same windows and count as one.

    Args:
        settings: of the run.
        data: what it reads.
        ranks: the processes.
        precision: "no" or "bf16".

    Attributes:
        layout: how the model lies over the ranks.
        model: the model itself, whatever wraps it for the ranks.
        optimizer: of its parameters.
        schedule: of its learning rates.

    Raises:
        ValueError: if an optimizer refuses its settings, or the model its layout.
    """

    def __init__(
        self, settings: TrainSettings, data: Input, ranks: Ranks, *, precision: str
    ) -> None:
        preset = settings.model_preset
        self._ranks = ranks
        self._accumulate = settings.accumulate
        self._clip = settings.clip
        self.model = build_model(preset, settings.seed)
        self.layout: Layout = lay_out(
            self.model, preset.name, ranks, accumulate=settings.accumulate, precision=precision
        )
        self.optimizer: Any = optimizer_for(
            self.model, settings, process_group=self.layout.process_group
        )
        self.schedule = build_schedule(self.optimizer, settings.schedule_factor)
        self._parameters = list(self.model.parameters())
        parts = settings.accumulate * ranks.parts
        first = settings.accumulate * ranks.part
        self._batches = [
            data.batches(preset, settings.seed, part=part, parts=parts)
            for part in range(first, first + settings.accumulate)
        ]

    @property
    def lr(self) -> float:
        """The learning rate of the first group, as the next step will use it."""
        return float(self.optimizer.param_groups[0]["lr"])

    def take(self, step: int) -> Step:
        """Take the step after ``step`` others."""
        began = time.perf_counter()
        lr = self.lr
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._backward(step)
        norm = self.layout.norm(self._parameters)
        if self._clip is not None:
            self.layout.clip(self._parameters, self._clip, norm)
        with Stopwatch(self._ranks.device) as watch:
            self.optimizer.step()
        self.schedule.step()
        # Read once, at the end: until here nothing waits for the device.
        mean, length = self._ranks.mean(torch.stack([loss, norm.to(loss.dtype)]))
        return Step(mean, length, lr, time.perf_counter() - began, watch.seconds)

    def rehearse(self) -> None:
        """Average a gradient that nobody uses, before a state is restored.

        ``DistributedDataParallel`` arranges gradients anew after the first that it has averaged,
        and sums of three ranks and more depend on the arrangement in the last bit: without this
        the first step of a session would differ from the same one of a run that was never stopped.
        """
        if self._ranks.count > 1 and not self._ranks.sharded:
            windows = self._batches[0][0].to(self._ranks.device)
            self.layout.backward(language_model_loss(self.layout.called, windows))

    def _backward(self, step: int) -> Tensor:
        """Sum up the gradients of the micro-batches of this rank and return their mean loss."""
        losses = []
        for index, batches in enumerate(self._batches):
            windows = batches[step].to(self._ranks.device, non_blocking=True)
            with self.layout.micro_batch(last=index + 1 == self._accumulate):
                loss = language_model_loss(self.layout.called, windows)
                self.layout.backward(loss)
            losses.append(loss.detach())
        return losses[0] if self._accumulate == 1 else torch.stack(losses).mean()
