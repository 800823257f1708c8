"""How few steps any sizes of the steps allow on Kronecker quadratics, where X ← X − s·U.

    python benchmarks/found_steps_limits.py [--seeds 42 142 242] [--most 30000]

Quadratics X ↦ AXB of 16 × 16 with sides of condition √κ each, from a random start. U is the polar
factor of the gradient itself, or an average of such factors, and the sizes are chosen with
hindsight: the best of a grid of geometric schedules s = s₀·10^(−k/h), or of multiples of the exact
line search s = ⟨G, U⟩ / ⟨U, AUB⟩. Counted are the steps to a relative gap of 1e-12, beside those of
the sizes that the run finds; printed are medians over the seeds.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
from collections.abc import Callable
from functools import partial

import torch
from found_steps import WAYS
from torch import Tensor
from torch.nn import Parameter

import polargrad as pg
from polargrad.linalg import polar
from polargrad.records import provenance

SIZE = 16
CONDITIONS = (10.0, 1e3, 1e4, 1e5, 1e6)
FIRST = tuple(10.0 ** (k / 2) for k in range(-6, 3))
STEPS_A_DECADE = tuple(round(10 * 2 ** (k / 2)) for k in range(2, 19))
FACTORS = (0.5, 1.0, 1.2, 1.5, 1.8, 1.9)
GAP = 1e-12


class Quadratic:
    """½⟨X, AXB⟩ in the frame of the eigenvectors, where A and B are diagonal; N copies of X."""

    def __init__(self, condition: float, seed: int, copies: int) -> None:
        side = torch.logspace(0, -0.5 * math.log10(condition), SIZE, dtype=torch.float64)
        self.weights = side[:, None] * side
        generator = torch.Generator().manual_seed(seed)
        start = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
        self.X = start.expand(copies, SIZE, SIZE).clone()
        self.bound = GAP * self.gap()

    def gap(self) -> Tensor:
        """⟨X, AXB⟩ of each copy."""
        return (self.weights * self.X.square()).sum((1, 2))

    def gradient(self) -> Tensor:
        """AXB of each copy."""
        return self.weights * self.X

    def done(self) -> bool:
        """Whether a copy has arrived."""
        return bool((self.gap() <= self.bound).any())


def counted(problem: Quadratic, advance: Callable[[int], None], most: int) -> float:
    """Steps until a copy has arrived; infinity beyond ``most``."""
    for step in range(most):
        advance(step)
        if problem.done():
            return step + 1
    return math.inf


def of_schedules(
    condition: float, seed: int, most: int, momentum: float = 0.0, share: float = 0.0
) -> float:
    """The steps of the best geometric schedule, along averages of polar factors."""
    grid = torch.tensor(list(itertools.product(FIRST, STEPS_A_DECADE)), dtype=torch.float64)
    problem = Quadratic(condition, seed, len(grid))
    average = torch.zeros_like(problem.X)

    def advance(step: int) -> None:
        sizes = grid[:, 0] * 10.0 ** (-step / grid[:, 1])
        U = polar(problem.gradient(), method="svd").U
        average.lerp_(U, 1.0 - momentum)
        problem.X -= sizes[:, None, None] * torch.lerp(average, U, share)

    return counted(problem, advance, most)


def of_line_searches(condition: float, seed: int, most: int) -> float:
    """The steps of the best multiple of the exact line search."""
    factors = torch.tensor(FACTORS, dtype=torch.float64)
    problem = Quadratic(condition, seed, len(factors))

    def advance(_: int) -> None:
        G = problem.gradient()
        U = polar(G, method="svd").U
        best = (G * U).sum((1, 2)) / (problem.weights * U.square()).sum((1, 2))
        problem.X -= (factors * best)[:, None, None] * U

    return counted(problem, advance, most)


def of_the_run(condition: float, seed: int, most: int, way: str = "gradients") -> float:
    """The steps of sizes that the run finds."""
    problem = Quadratic(condition, seed, 1)
    X = Parameter(problem.X[0])
    optimizer = pg.PolarGrad([X], tol=None, **WAYS[way])

    def advance(_: int) -> None:
        X.grad = problem.weights * X.detach()
        optimizer.step()
        problem.X = X.detach()[None]

    return counted(problem, advance, most)


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 142, 242])
    parser.add_argument("--most", type=int, default=30_000, help="steps after which to give up")
    options = parser.parse_args()
    heads = " | ".join(f"κ = {condition:g}" for condition in CONDITIONS)
    print(f"| sizes | {heads} |\n|---|{'---|' * len(CONDITIONS)}")
    rules = {
        "the best geometric schedule": of_schedules,
        "the best multiple of the exact line search": of_line_searches,
        "found by the run": of_the_run,
        "the best geometric schedule, averages": partial(
            of_schedules,
            momentum=WAYS["directions"]["momentum"],
            share=WAYS["directions"]["nesterov"],
        ),
        "found by the run, averages": partial(of_the_run, way="directions"),
    }
    for name, rule in rules.items():
        cells = []
        for condition in CONDITIONS:
            steps = [rule(condition, seed, options.most) for seed in options.seeds]
            median = statistics.median(steps)
            cells.append(f"{median:.0f}" if median <= options.most else f"> {options.most}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    where = provenance()
    print(f"\ntorch {where['torch']}, {where['threads']} threads, {where['processor']}")


if __name__ == "__main__":
    main()
