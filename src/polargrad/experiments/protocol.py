"""An experiment as data: the runs of a table, and the loop that they all go through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from polargrad.optim import MatrixOptimizer, PolarGrad

# StepLR of the published scripts: the learning rate is multiplied by `decay` this often.
DECAY_EVERY = 25

# "gradient" is X ← X − γ G: Newton's method, where G is the preconditioned gradient.
OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "polargrad": PolarGrad,
    "muon": MatrixOptimizer,
    "adam": torch.optim.Adam,
    "newton": torch.optim.SGD,
}


def records_name(run: str) -> str:
    """Return the name of the file that keeps the records of the run of this name."""
    return f"records-{run}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of a figure: an optimizer, its settings, its learning rate.

    Args:
        name: a word for file names.
        label: what figures and tables call it.
        optimizer: a key of :data:`OPTIMIZERS`.
        lr: the learning rate.
        options: further arguments of the optimizer, as plain data.
        decay: the factor of the learning rate every 25 steps; 1 leaves it constant.

    Raises:
        ValueError: if the optimizer is unknown.
    """

    name: str
    label: str
    optimizer: str
    lr: float
    options: Mapping[str, Any] = field(default_factory=dict)
    decay: float = 1.0

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ValueError(
                f"optimizer must be one of {', '.join(OPTIMIZERS)}, got {self.optimizer!r}"
            )

    @property
    def records(self) -> str:
        """The name of the file with the records of this run."""
        return records_name(self.name)

    def build(
        self, parameter: torch.nn.Parameter
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return the optimizer for ``parameter`` and the schedule of its learning rate."""
        optimizer = OPTIMIZERS[self.optimizer]([parameter], lr=self.lr, **self.options)
        schedule = torch.optim.lr_scheduler.StepLR(optimizer, DECAY_EVERY, gamma=self.decay)
        return optimizer, schedule


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Which runs, how long, and how often they are looked at.

    Args:
        version: "full" as published, or the name of a shorter version.
        runs: the runs, each from the same start.
        steps: updates of each run.
        every: steps between two samples; step 0 and the last step are always sampled.
    """

    version: str
    runs: tuple[Run, ...]
    steps: int
    every: int

    def as_data(self) -> dict[str, Any]:
        """Return the protocol as plain data, as ``settings.json`` keeps it."""
        return asdict(self)


def descend(
    run: Run,
    start: Tensor,
    *,
    gradient: Callable[[Tensor], Tensor],
    measure: Callable[[Tensor], Mapping[str, float]],
    steps: int,
    every: int,
) -> Iterator[dict[str, Any]]:
    """Take the steps of a run from ``start`` and yield a record of each sampled one.

    A record of step k holds the measurements before the k-th update and the seconds that the
    gradients and updates before it took; the time of the measurements is not in them. A run whose
    gradient is no longer finite ends with a record in which ``diverged`` is true.

    Args:
        run: the optimizer and its settings.
        start: X₀; it is not changed.
        gradient: from X to what the optimizer is given as the gradient.
        measure: from X to the numbers of a record.
        steps: the number of updates.
        every: steps between two samples.
    """
    parameter = torch.nn.Parameter(start.clone())
    optimizer, schedule = run.build(parameter)
    seconds = 0.0
    for step in range(steps + 1):
        X = parameter.detach()
        began = time.perf_counter()
        G = gradient(X)
        seconds_of_gradient = time.perf_counter() - began
        diverged = not bool(G.isfinite().all())
        if diverged or step % every == 0 or step == steps:
            yield {
                "run": run.name,
                "step": step,
                **measure(X),
                "seconds": seconds,
                "diverged": diverged,
            }
        if diverged or step == steps:
            return
        parameter.grad = G
        began = time.perf_counter()
        optimizer.step()
        schedule.step()
        seconds += seconds_of_gradient + time.perf_counter() - began
