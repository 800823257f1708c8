"""PolarGrad without a learning rate, on the paper's matrix problems and on random quadratics.

    python benchmarks/found_steps.py [--seeds 42 142 242] [--part paper|quadratics]
        [--way directions|gradients]

One setting for all: averages of polar factors that say themselves how long steps should be (the
default), or no momentum and the gradients (``--way gradients``); float64 and a converged factor for
6.1, what the experiments use elsewhere. The first step is the default (0.05 of the root mean square
of the singular values) or the number given, in the spectral norm. Printed are medians over the
seeds, and the worst. Random quadratics, and columns of 24: steps to a relative gap of
1e-12, at most 3000.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

import polargrad as pg
from polargrad.experiments import completion, logistic, quadratic
from polargrad.experiments.experiment import PUBLISHED_SEEDS, Experiment
from polargrad.experiments.task import Task
from polargrad.records import provenance

# Experiment, dtype, and the steps whose metric is printed.
PAPER: tuple[tuple[Callable[[], Experiment], torch.dtype, tuple[int, ...]], ...] = (
    (quadratic, torch.float64, (100, 200, 300)),
    (logistic, torch.float32, (100, 300, 1500)),
    (completion, torch.float32, (50, 100, 150)),
)
WAYS: dict[str, dict[str, Any]] = {
    "directions": {"momentum": 0.932, "order": "polar-first", "nesterov": 0.035},
    "gradients": {"momentum": 0.0},
}
STARTS = (None, 1e-4, 1e-2, 1.0, 10.0, 1e2)
CONDITIONS = (1.0, 10.0, 1e2, 1e3, 1e4, 1e5, 1e6, 1e8)
MOST = 3000
QUADRATICS = (
    *(("Kronecker", (16, 16)), ("Kronecker", (24, 12)), ("Kronecker", (64, 16))),
    *(("general", (24, 6)), ("general", (24, 1))),
)


def begun(
    experiment: Experiment, seed: int, dtype: torch.dtype
) -> tuple[Task, list[Parameter], float | None]:
    """The task of an experiment in a dtype, its unknowns, and the tolerance of polar factors."""
    task = experiment.build(seed, experiment.era)
    if dtype == torch.float64:
        task.problem = task.seen = task.problem.to(dtype)
    unknowns = [Parameter(X.detach().to(dtype, copy=True)) for X in task.start]
    return task, unknowns, None if dtype == torch.float64 else 0.11


def curve(
    experiment: Experiment,
    seed: int,
    dtype: torch.dtype,
    first: float | None,
    at: Sequence[int],
    way: str,
) -> list[float]:
    """The metric of an experiment after some steps."""
    task, unknowns, tol = begun(experiment, seed, dtype)
    optimizer = pg.PolarGrad(unknowns, tol=tol, first_step=first, **WAYS[way])
    found = []
    for step in range(max(at)):
        task.advance()
        values = [X.detach() for X in unknowns]
        for X, G in zip(unknowns, task.gradients(values), strict=True):
            X.grad = G
        optimizer.step()
        if step + 1 in at:
            found.append(task.measure([X.detach() for X in unknowns])[experiment.metric])
    return found


def orthogonal(n: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix."""
    q: Tensor = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    return q


def hessian(
    kind: str, shape: tuple[int, int], condition: float, seed: int
) -> Callable[..., Tensor]:
    """A linear map of matrices with this condition number: one of each side, or a full one."""
    generator = torch.Generator().manual_seed(seed)
    m, n = shape
    if kind == "Kronecker":
        sides = []
        for size in shape:
            q = orthogonal(size, generator)
            values = torch.logspace(0, -0.5 * math.log10(condition), size, dtype=torch.float64)
            sides.append((q * values) @ q.T)
        return lambda X: sides[0] @ X @ sides[1]
    q = orthogonal(m * n, generator)
    values = torch.logspace(0, -math.log10(condition), m * n, dtype=torch.float64)
    full = (q * values) @ q.T
    return lambda X: (full @ X.flatten()).view(m, n)


def steps_to_converge(
    kind: str, shape: tuple[int, int], condition: float, seed: int, way: str
) -> float:
    """Steps to a relative gap of 1e-12 from a random start; infinity beyond the budget."""
    apply = hessian(kind, shape, condition, seed)
    start = torch.randn(
        shape, generator=torch.Generator().manual_seed(seed + 1), dtype=torch.float64
    )
    X = Parameter(start.clone())
    optimizer = pg.PolarGrad([X], tol=None, **WAYS[way])
    bound = 1e-12 * float((start * apply(start)).sum())
    for step in range(MOST):
        X.grad = apply(X.detach())
        optimizer.step()
        if float((X.detach() * apply(X.detach())).sum()) <= bound:
            return step + 1
    return math.inf


def paper(seeds: Sequence[int], way: str) -> None:
    """A table of the paper's three problems."""
    print("| problem | first step | after steps | metric, median | worst |\n|---|---|---|---|---|")
    for make, dtype, at in PAPER:
        experiment = make()
        for first in STARTS:
            curves = [curve(experiment, seed, dtype, first, at, way) for seed in seeds]
            columns = list(zip(*curves, strict=True))
            steps = ", ".join(map(str, at))
            medians = ", ".join(f"{statistics.median(c):.3g}" for c in columns)
            worst = ", ".join(f"{max(c):.3g}" for c in columns)
            start = "default" if first is None else f"{first:g}"
            print(f"| {experiment.section} | {start} | {steps} | {medians} | {worst} |", flush=True)


def quadratics(seeds: Sequence[int], way: str) -> None:
    """A table of random quadratics."""
    heads = " | ".join(f"κ = {condition:g}" for condition in CONDITIONS)
    print(f"| Hessian | shape | {heads} |\n|---|---|{'---|' * len(CONDITIONS)}")
    for kind, shape in QUADRATICS:
        cells = []
        for condition in CONDITIONS:
            steps = [steps_to_converge(kind, shape, condition, seed, way) for seed in seeds]
            median = statistics.median(steps)
            cells.append(f"{median:.0f}" if median <= MOST else f"more than {MOST}")
        print(f"| {kind} | {shape[0]} × {shape[1]} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(PUBLISHED_SEEDS))
    parser.add_argument("--part", choices=("paper", "quadratics"))
    parser.add_argument("--way", choices=tuple(WAYS), default="directions")
    options = parser.parse_args()
    if options.part != "quadratics":
        paper(options.seeds, options.way)
        print()
    if options.part != "paper":
        quadratics(options.seeds, options.way)
    where = provenance()
    print(f"\ntorch {where['torch']}, {where['threads']} threads, {where['processor']}")


if __name__ == "__main__":
    main()
