"""Experiments that take milliseconds, with the solvers and tasks of the large ones.

Their ``build`` functions stand in a module, so that worker processes find them too.
"""

import time
from dataclasses import replace

import torch

from polargrad.experiments.completion import CompletionTask
from polargrad.experiments.experiment import Experiment, Figure, Panel, Run
from polargrad.experiments.logistic import LogisticTask
from polargrad.experiments.oracles import muon_options, polargrad_options
from polargrad.experiments.quadratic import QuadraticTask
from polargrad.experiments.solvers import make_solver
from polargrad.experiments.trace import begin, trace
from polargrad.problems import (
    LowRankCompletion,
    MatrixLogisticRegression,
    MatrixQuadraticRegression,
    RowBatches,
)

DOUBLE = torch.float64


def generator(seed):
    return torch.Generator().manual_seed(seed)


def quadratic_task(seed=0, dtype=torch.float32, size=(6, 4, 9, 5)):
    problem = MatrixQuadraticRegression.random(*size, generator(seed), dtype=dtype)
    return QuadraticTask(problem, (torch.ones(size[:2], dtype=dtype),))


def logistic_task(seed=0, dtype=torch.float32, labels="signs"):
    """5 × 3 unknowns, 40 rows of which a step sees 8."""
    problem = MatrixLogisticRegression.random(
        5, 3, 40, 6, generator(seed), labels=labels, dtype=dtype
    )
    start = torch.ones(5, 3, dtype=dtype)
    return LogisticTask(problem, (start,), RowBatches(generator(seed + 1), 40, 8))


def completion_task(seed=0, dtype=torch.float32, size=(12, 9, 2), fraction=0.6):
    problem = LowRankCompletion.random(*size, fraction, generator(seed), dtype=dtype)
    m, n, rank = size
    draw = generator(seed + 1)
    start = tuple(torch.rand(k, rank, generator=draw, dtype=dtype) - 0.5 for k in (m, n))
    return CompletionTask(problem, start)


def build_quadratic(seed, era):
    return quadratic_task(seed)


def build_logistic(seed, era):
    return logistic_task(seed, labels="signs" if era == "reference" else "zero-one")


def build_completion(seed, era):
    return completion_task(seed)


class SleepyTask(QuadraticTask):
    """As long as somebody needs to interrupt it."""

    def draw(self):
        time.sleep(0.02)
        return super().draw()


def build_sleepy(seed, era):
    task = quadratic_task(seed)
    return SleepyTask(task.problem, task.start)


class FailingTask(QuadraticTask):
    """Fails in its third step, if it began at seed 13."""

    steps = 0

    def draw(self):
        self.steps += 1
        if self.steps > 2:
            raise RuntimeError("the disk is on fire")
        return super().draw()


def build_failing_at_13(seed, era):
    task = quadratic_task(seed)
    return FailingTask(task.problem, task.start) if seed == 13 else task


EXACT = polargrad_options("exact")
POLARGRAD = Run(name="polargrad", label="PolarGrad", solver="polargrad", lr=1e-3, options=EXACT)
MUON = Run(
    name="muon-qdwh", label="Muon (QDWH)", solver="muon", lr=0.01, options=muon_options("exact")
)
ADAM = Run(name="adam", label="Adam", solver="adam", lr=0.05)
DESCENT = Run(
    name="gradient-descent", label="descent", solver="gradient-descent", group="baseline", steps=4
)
DIVERGING = Run(name="newton", label="Newton", solver="newton", lr=1e12)

GAP = Figure(
    name="gap",
    runs=("polargrad", "gradient-descent"),
    panels=(
        Panel(quantity="gap", title="gap"),
        Panel(quantity="nuclear_norm", title="norm", smooth=True, logarithmic=False, until=4),
    ),
    caption="What falls.",
)
SMALL = Experiment(
    name="quadratic",
    section="6.1",
    title="Matrix quadratic regression",
    formula="min ½‖A X B − C‖², X 6 × 4",
    version="small",
    era="reference",
    oracle="exact",
    runs=(POLARGRAD, DESCENT),
    steps=6,
    every=2,
    metric="gap",
    metric_title="f(X) − f*",
    smoothing=0.8,
    figures=(GAP,),
    build=build_quadratic,
)


def small(**changes):
    return replace(SMALL, **changes)


def iterates(task, run, steps):
    """The unknowns at the start and after each step, and the solver."""
    solver = make_solver(task, run)
    points = [[X.detach().clone() for X in solver.unknowns]]
    for _ in range(steps):
        task.advance()
        assert solver.evaluate()
        solver.update()
        points.append([X.detach().clone() for X in solver.unknowns])
    return points, solver


def traced(experiment, run, seed=42, **options):
    """All records of a run, by its name."""
    (found,) = (r for r in experiment.runs if r.name == run)
    return list(trace(experiment, begin(experiment, seed, found), **options))


def without_times(records):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in records]


def contents(folder):
    """Every file below a folder with its bytes and the time of its last change."""
    return {
        path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
