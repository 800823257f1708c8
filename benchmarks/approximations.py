"""What approximate directions cost in accuracy and save in work: on a convex problem, and training.

    python benchmarks/approximations.py [--part convex|language] [--steps 150] [--seed 0]

Convex: PolarGrad without momentum on matrix logistic regression, X of 120 × 40, the gap to the
optimum after 60 steps in shares of the first. Once with the learning rate that is best for exact
directions, and once with the best of its own, of the same grid. Language: the tiny language model,
hidden matrices by Muon (lr 0.01) or PolarGrad (0.06) with momentum 0.95 and Nesterov, AdamW for the
rest, linear decay, one seed. Factors by polar_express, which is products alone.

"Distance" and "cosine" are of directions to exact ones of the same signals, means over all matrices
of every eleventh step. "Products" are the operations of the optimizer's matrix products, counted by
torch, in shares of those of exact directions. Numbers that a step sends are counted by the formulas
of docs/distributed.md, for eight shards, in shares of those of exact directions.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import Parameter
from torch.utils.flop_counter import FlopCounterMode

import polargrad as pg
from polargrad.language import open_input
from polargrad.language.evaluation import language_model_loss, validation_loss
from polargrad.language.presets import build_model, preset_of
from polargrad.language.schedules import linear
from polargrad.optim import MatrixOptimizer, approximation_error
from polargrad.problems import MatrixLogisticRegression
from polargrad.records import provenance

METHOD = "polar_express"
EVERY = (1, 2, 4, 8)
# As shares of the smaller side.
RANKS = (1.0, 0.5, 0.25, 0.125)
# Has no divisor in common with the rounds.
MEASURED_EVERY = 11
SHARDS = 8
SIZES = (120, 40, 600, 80)
CONVEX_STEPS = 60
GRID = [2.0**k for k in range(-23, -13)]
VECTOR_LR, BETAS = 3e-2, (0.9, 0.95)
RATES = {"Muon": 1e-2, "PolarGrad": 6e-2}

Approximation = dict[str, Any] | None


class Measured(NamedTuple):
    """What came of some steps.

    Attributes:
        loss: at the end.
        flops: of the optimizer's matrix products.
        errors: distances and cosines.
    """

    loss: float
    flops: int
    errors: list[tuple[float, float]]


class Watched:
    """Counts the work of an optimizer's steps, and measures some of its directions."""

    def __init__(self, optimizer: MatrixOptimizer, measures: bool) -> None:
        self.optimizer, self.measures, self.steps, self.flops = optimizer, measures, 0, 0
        self.errors: list[tuple[float, float]] = []

    def step(self) -> None:
        """Take a step; the gradients are still those that it took it by."""
        with FlopCounterMode(display=False) as counter:
            self.optimizer.step()
        self.flops += counter.get_total_flops()
        self.steps += 1
        if self.measures and self.steps % MEASURED_EVERY == 0:
            self.errors += [(e.distance, e.cosine) for e in approximation_error(self.optimizer)]


def approximations(smallest: int) -> list[Approximation]:
    """Those of a table, for matrices whose smaller side is this."""
    rounds: list[Approximation] = [{"name": "rounds", "every": k} for k in EVERY]
    sketches: list[Approximation] = [
        {"name": "sketch", "rank": round(share * smallest)} for share in RANKS
    ]
    return [None, *rounds, *sketches]


def approximates(given: Approximation) -> bool:
    """Whether there are directions that are not exact."""
    return given is not None and given.get("every") != 1


def convex(problem: MatrixLogisticRegression, given: Approximation, lr: float) -> Measured:
    """The gap after the steps of one run."""
    X = Parameter(torch.zeros(*SIZES[:2], dtype=torch.float64))
    optimizer = pg.PolarGrad([X], lr, momentum=0.0, method=METHOD, approximation=given)
    watched = Watched(optimizer, approximates(given))
    for _ in range(CONVEX_STEPS):
        X.grad = problem.gradient(X.detach())
        watched.step()
    return Measured(problem.gap(X.detach()), watched.flops, watched.errors)


def convex_rows(seed: int) -> list[list[str]]:
    """The rows of the convex problem."""
    generator = torch.Generator().manual_seed(seed)
    problem = MatrixLogisticRegression.random(*SIZES, generator, dtype=torch.float64)
    start = problem.gap(torch.zeros(*SIZES[:2], dtype=torch.float64))
    of_exact = {lr: convex(problem, None, lr) for lr in GRID}
    best = min(GRID, key=lambda lr: of_exact[lr].loss)
    exact, rows = of_exact[best], []
    for given in approximations(SIZES[1]):
        found = {lr: convex(problem, given, lr) for lr in GRID}
        own = min(GRID, key=lambda lr: found[lr].loss)
        losses = [f"{found[lr].loss / start:.2e}" for lr in (best, own)]
        row = common(given, found[best], exact, [SIZES[:2]])
        rows.append([*row, losses[0], f"{losses[1]} ({own / best:g})"])
    return rows


def trained(preset_name: str, given: Approximation, steps: int, seed: int) -> Measured:
    """The validation loss of a run of the tiny language model."""
    preset = preset_of("tiny")
    model, data = build_model(preset, seed), open_input(preset)
    make: Callable[..., MatrixOptimizer] = getattr(pg, preset_name)
    # AdamW beside it, so that what is counted is the matrices'.
    groups = pg.param_groups(model, vector_lr=VECTOR_LR, vector_betas=BETAS)
    lr = RATES[preset_name]
    optimizer = make(
        groups, lr, nesterov=True, weight_decay=0.0, method=METHOD, approximation=given
    )
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    watched = Watched(optimizer, approximates(given))
    batches = data.batches(preset, seed)
    for step in range(steps):
        loss = language_model_loss(model, batches[step])
        optimizer.zero_grad()
        loss.backward()
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * linear(step, steps)
        watched.step()
    end = validation_loss(model, data.data.validation, preset)
    return Measured(end, watched.flops, watched.errors)


def language_rows(preset_name: str, steps: int, seed: int) -> list[list[str]]:
    """The rows of one optimizer on the tiny language model."""
    preset = preset_of("tiny")
    model = build_model(preset, seed)
    shapes = [
        tuple(p.shape)
        for group in pg.param_groups(model)
        if group["rule"] == "matrix"
        for _, p in group["params"]
    ]
    smallest = min(min(shape) for shape in shapes)
    rows: list[list[str]] = []
    exact: Measured | None = None
    for given in approximations(smallest):
        if given is not None and not approximates(given):
            continue  # tested to be the same to the bit
        found = trained(preset_name, given, steps, seed)
        exact = found if exact is None else exact
        rows.append([*common(given, found, exact, shapes), f"{found.loss:.4f}"])
        print_row(rows[-1])
    return rows


def common(
    given: Approximation, found: Measured, exact: Measured, shapes: Sequence[tuple[int, ...]]
) -> list[str]:
    """Name, error, work and what is sent."""
    distances, cosines = ([pair[k] for pair in found.errors] for k in range(2))
    means = [f"{statistics.fmean(values):.3f}" if values else "" for values in (distances, cosines)]
    return [
        in_words(given),
        *means,
        f"{found.flops / exact.flops:.3f}",
        f"{numbers_sent(given, shapes) / numbers_sent(None, shapes):.3f}",
    ]


def in_words(given: Approximation) -> str:
    """The name in a table."""
    if given is None:
        return "exact"
    return f"rounds, k = {given['every']}" if "every" in given else f"sketch, r = {given['rank']}"


def numbers_sent(given: Approximation, shapes: Sequence[tuple[int, ...]]) -> float:
    """What all of some shards send in a step, as a mean over steps, with sums by rings."""
    others = SHARDS - 1
    if given is None or "every" in given:
        every = 1 if given is None else given["every"]
        whole = sum(2 * m * n * others / SHARDS for m, n in shapes) / every
        return whole + (len(shapes) * 2 * others * (1 - 1 / every))
    return sum(2 * others * min(given["rank"], m, n) * (m + n) for m, n in shapes)


def print_row(cells: Sequence[str]) -> None:
    """A line of a Markdown table."""
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=("convex", "language"))
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    heads = ["directions", "distance", "cosine", "products", "sent"]
    if options.part != "language":
        print_row([*heads, "gap", "gap at its own lr (of that)"])
        print_row(["---"] * 7)
        for row in convex_rows(options.seed):
            print_row(row)
        print()
    for name in RATES if options.part != "convex" else ():
        print_row([*heads, f"validation loss, {name}"])
        print_row(["---"] * 6)
        language_rows(name, options.steps, options.seed)
        print()
    where = provenance()
    print(f"torch {where['torch']}, {where['threads']} threads, {where['processor']}")


if __name__ == "__main__":
    main()
