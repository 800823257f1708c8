"""One training run of the insights: its losses, and what is measured on the way."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from polargrad.experiments.insights.measures import UpdateProbe, layer_curvature
from polargrad.experiments.insights.protocol import (
    BETA2,
    FAMILIES,
    InsightRun,
    InsightsProtocol,
)
from polargrad.experiments.trace import BUDGET, DIVERGED, ENDED
from polargrad.language import Input, build_optimizer, open_input
from polargrad.language.evaluation import language_model_loss, validation_loss
from polargrad.language.presets import build_model
from polargrad.language.schedules import WARMUP_STEPS, linear
from polargrad.optim import param_groups

# A worker takes many runs on the same text.
cached_input = functools.lru_cache(maxsize=1)(open_input)


def hidden_matrices(model: torch.nn.Module) -> dict[str, Tensor]:
    """Return the matrices that Muon and PolarGrad step by their own rule, by name."""
    return {
        name: parameter
        for group in param_groups(model)
        if group["rule"] == "matrix"
        for name, parameter in group["params"]
    }


def without_warmup(step: int, steps: int) -> float:
    """Return the factor of the learning rate at full size from the first step on.

    Example:
        >>> [without_warmup(step, 100) for step in (0, 19, 60)]
        [1.0, 1.0, 1.0]
    """
    return linear(max(step, WARMUP_STEPS - 1), steps)


class Training:
    """A run while it goes on.

    Args:
        run: which.
        protocol: how long, and what is looked at.
        data: the text, None for the standard library's source.
        seed: of the initial parameters, of the batches and of Lanczos' vectors.
    """

    def __init__(
        self, run: InsightRun, protocol: InsightsProtocol, data: Path | None, seed: int
    ) -> None:
        self.run = run
        self.protocol = protocol
        self.seed = seed
        self.data: Input = cached_input(protocol.preset, data)
        self.batches = self.data.batches(protocol.preset, seed)
        self.model = build_model(protocol.preset, seed)
        self.hidden = hidden_matrices(self.model)
        family = FAMILIES[run.family]
        self.optimizer = build_optimizer(
            self.model,
            family.optimizer,
            lr=run.lr,
            vector_lr=family.vector_lr,
            beta2=BETA2,
            weight_decay=0.0,
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, [self._factor(group) for group in self.optimizer.param_groups]
        )

    def _factor(self, group: dict[str, Any]) -> Any:
        """The schedule of a group: warmup is left out where it holds a hidden matrix."""
        hidden = {id(parameter) for parameter in self.hidden.values()}
        steps = self.protocol.steps
        if not self.run.warmup and any(id(p) in hidden for p in group["params"]):
            return lambda step: without_warmup(step, steps)
        return lambda step: linear(step, steps)

    def records(self) -> Iterator[dict[str, Any]]:
        """Take all steps and yield a record of each, of each look at the curvature, and of the end.

        The last record says in ``ended`` whether the steps were taken or the loss was lost, and
        in ``seconds`` how long all of it took, measurements included.
        """
        began = time.perf_counter()
        yield {"layers": list(self.hidden)}
        for step in range(self.protocol.steps):
            if self._looks_at_curvature(step):
                yield self._curvature(step)
            record = self._step(step)
            yield record
            if not math.isfinite(record["loss"]):
                yield {"step": step, "seconds": time.perf_counter() - began, ENDED: DIVERGED}
                return
        if self._looks_at_curvature(self.protocol.steps):
            yield self._curvature(self.protocol.steps)
        loss = validation_loss(self.model, self.data.data.validation, self.protocol.preset)
        ended = BUDGET if math.isfinite(loss) else DIVERGED
        yield {
            "step": self.protocol.steps,
            "validation_loss": loss,
            "seconds": time.perf_counter() - began,
            ENDED: ended,
        }

    def _step(self, step: int) -> dict[str, Any]:
        """Take the update after ``step`` others, unless the loss is lost, and return its record."""
        windows = self.batches[step]
        loss = language_model_loss(self.model, windows)
        record: dict[str, Any] = {"step": step, "loss": loss.item()}
        if not math.isfinite(record["loss"]):
            return record
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        probe = None
        if self.protocol.samples(step):
            probe = UpdateProbe(self.hidden, list(self.model.parameters()))
        self.optimizer.step()
        self.schedule.step()
        if probe is not None:
            with torch.no_grad():
                again = language_model_loss(self.model, windows).item()
            record |= probe.record(self.optimizer, record["loss"], again)
        return record

    def _looks_at_curvature(self, step: int) -> bool:
        return self.run.curvature and step in self.protocol.curvature_at

    def _curvature(self, step: int) -> dict[str, Any]:
        """The Hessians of single layers after ``step`` updates, on the first windows to come."""
        protocol = self.protocol
        windows = self.batches[step][: protocol.curvature_windows]
        generator = torch.Generator().manual_seed(self.seed)
        return {
            "step": step,
            "curvature": {
                name: layer_curvature(
                    lambda: language_model_loss(self.model, windows),
                    matrix,
                    products=protocol.products,
                    probes=protocol.probes,
                    generator=generator,
                )
                for name, matrix in list(self.hidden.items())[:: protocol.curvature_stride]
            },
        }
