"""A step of PolarGrad in the paper's experiments against the published algorithm as published.

    python benchmarks/matrix_steps.py [--rounds 41] [--calls 20] [--threads 1]

times the optimizer's step alone, no gradient and no diagnostics, for the parameters of sections 6.1
(500 × 100), 6.2 (1000 × 100) and 6.3 (500 × 5 and 250 × 5, two parameters). The published algorithm
is a loop over parameters in Python that computes two steps of QDWH by Householder QR factorizations
of the stacked matrix, one matrix at a time, and adds γ⟨M, U⟩U; it is written anew here from its
description. Beside it stand our PolarGrad with its defaults (training accuracy), with the published
oracle and with an exact one.

The gradients are those of the experiments, seed 42, at the start and after 20 and 100 steps of the
published method. Candidates take turns; a ratio is formed in each round, and the median is shown
with the quartiles. Accuracy is the largest |σ − 1| of a factor over the singular values that count,
σ ≥ 1e-3·‖AᵀA‖_F^½, and the error of the nuclear norm, against a float64 SVD.

One thread is what ``polargrad reproduce`` gives each of its runs.

Targets: at least 2.5 times faster in 6.1, 4 times in 6.2, not slower in 6.3.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter

import polargrad as pg
from polargrad.experiments import completion, logistic, quadratic
from polargrad.experiments.bench.peers import published_qdwh
from polargrad.experiments.experiment import Experiment
from polargrad.experiments.oracles import polargrad_options
from polargrad.experiments.trace import begin
from polargrad.records import provenance

SEED = 42
AT = (0, 20, 100)
TARGETS = {"quadratic": 2.5, "logistic": 4.0, "completion": 1.0}
PUBLISHED = "published"


class PublishedPolarGrad(torch.optim.Optimizer):
    """PolarGrad without momentum, one parameter after the other, as the published code does it."""

    def __init__(self, params: Sequence[Parameter], lr: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": 0.0})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """M ← βM + (1 − β)G, X ← X − γ⟨M, U⟩U, with a buffer also for β = 0."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter.grad)
                buffer = state["momentum"].lerp_(parameter.grad, 1.0 - group["momentum"])
                factor = published_qdwh(buffer, steps=2)
                norm = (buffer * factor).sum()
                parameter.add_(factor * norm, alpha=-group["lr"])


Maker = Callable[[list[Parameter]], torch.optim.Optimizer]
CANDIDATES: dict[str, Maker] = {
    PUBLISHED: lambda parameters: PublishedPolarGrad(parameters, lr=1e-12),
    "ours, default": lambda parameters: pg.PolarGrad(parameters, lr=1e-12, momentum=0.0),
    "ours, published oracle": lambda parameters: pg.PolarGrad(
        parameters, lr=1e-12, **polargrad_options("published")
    ),
    "ours, exact oracle": lambda parameters: pg.PolarGrad(
        parameters, lr=1e-12, **polargrad_options("exact")
    ),
}


def gradients_of(experiment: Experiment) -> list[tuple[Tensor, ...]]:
    """The gradients that the published run meets at some of its steps."""
    run = next(run for run in experiment.runs if run.name == "polargrad")
    position = begin(experiment, SEED, run)
    found = []
    for step in range(max(AT) + 1):
        position.solver.task.advance()
        position.solver.evaluate()
        if step in AT:
            found.append(tuple(G.clone() for G in position.solver.gradients))
        position.solver.update()
    return found


def milliseconds(optimizers: Sequence[torch.optim.Optimizer], calls: int) -> float:
    """The time of a step: each optimizer holds the gradients of one moment."""
    began = time.perf_counter()
    for _ in range(calls):
        for optimizer in optimizers:
            optimizer.step()
    return 1e3 * (time.perf_counter() - began) / (calls * len(optimizers))


def step_taken(maker: Maker, gradients: Sequence[Tensor]) -> list[Tensor]:
    """γ⁻¹ times the step that an optimizer takes from zero."""
    parameters = [Parameter(torch.zeros_like(G)) for G in gradients]
    optimizer = maker(parameters)
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    for parameter, G in zip(parameters, gradients, strict=True):
        parameter.grad = G.clone()
    optimizer.step()
    return [-parameter.detach() for parameter in parameters]


def errors(step: Tensor, G: Tensor) -> tuple[float, float]:
    """The largest |σ − 1| of the factor in a step ν U, and the relative error of ν.

    ν is not seen alone: U's singular values lie in both. ‖νU‖_* = ν Σσ(U) and ⟨G, νU⟩ = ν² give it.
    """
    U, values, Vh = torch.linalg.svd(G.double(), full_matrices=False)
    norm = (G.double() * step.double()).sum().clamp_min(0).sqrt()
    factor = torch.linalg.svdvals(step.double() / norm)
    bound = 1e-3 * values.pow(4).sum().pow(0.25)
    diagonal = (U.mT @ (step.double() / norm) @ Vh.mT).diagonal()[values >= bound]
    del factor
    return float((diagonal - 1).abs().max()), float((norm / values.sum() - 1).abs())


def main() -> None:
    """Measure and print three tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--calls", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| experiment | candidate | ms | times faster than published | |σ − 1| | error of ν |")
    print("|---|---|---|---|---|---|")
    for experiment in (quadratic(), logistic(), completion()):
        moments = gradients_of(experiment)
        made: dict[str, list[torch.optim.Optimizer]] = {}
        for name, maker in CANDIDATES.items():
            made[name] = []
            for gradients in moments:
                parameters = [Parameter(torch.zeros_like(G)) for G in gradients]
                for parameter, G in zip(parameters, gradients, strict=True):
                    parameter.grad = G.clone()
                made[name].append(maker(parameters))
        times: dict[str, list[float]] = {name: [] for name in made}
        for optimizers in made.values():
            milliseconds(optimizers, 3)
        for _ in range(options.rounds):
            for name, optimizers in made.items():
                times[name].append(milliseconds(optimizers, options.calls))
        for name, maker in CANDIDATES.items():
            ratios = [p / t for p, t in zip(times[PUBLISHED], times[name], strict=True)]
            lower, median, upper = statistics.quantiles(ratios, n=4)
            worst = [
                errors(step, G)
                for gradients in moments
                for step, G in zip(step_taken(maker, gradients), gradients, strict=True)
            ]
            sigma, norm = (max(column) for column in zip(*worst, strict=True))
            target = TARGETS[experiment.name] if name == "ours, default" else None
            wanted = f" (target {target:g})" if target else ""
            print(
                f"| {experiment.section} | {name} | {statistics.median(times[name]):.3f} "
                f"| {median:.2f} [{lower:.2f}, {upper:.2f}]{wanted} | {sigma:.2g} | {norm:.2g} |",
                flush=True,
            )
    where = provenance()
    print(f"\ntorch {where['torch']}, {where['threads']} threads, {where['processor']}")


if __name__ == "__main__":
    main()
