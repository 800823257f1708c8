"""An experiment as data: its runs, how long they are, what is looked at and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from polargrad.experiments.task import Task

# The published code as it is today, and as it was when the paper was written.
ERAS = ("reference", "paper")

# Those of the published benchmark script.
PUBLISHED_SEEDS = (42, 142, 242)

MAIN, MOMENTUM, BASELINE = "main", "momentum", "baseline"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line of a figure: an algorithm, its settings, its learning rate.

    Args:
        name: a word for file names.
        label: what figures and tables call it.
        solver: a key of :data:`polargrad.experiments.solvers.SOLVERS`.
        group: ``"main"`` and ``"momentum"`` for runs of the paper's two scripts, ``"baseline"`` for
            what a user would pick instead.
        lr: the learning rate; None where the algorithm has none, or takes it from theory.
        options: further arguments of the solver, as plain data.
        decay: the factor of the learning rate every 25 steps; 1 leaves it constant.
        steps: updates, where they are not those of the experiment.
        full_batch: work on all data where the task would draw a batch for each step.
    """

    name: str
    label: str
    solver: str
    group: str = MAIN
    lr: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    decay: float = 1.0
    steps: int | None = None
    full_batch: bool = False


def with_decay(run: Run, *, lr: float | None, decay: float) -> tuple[Run, ...]:
    """Return a run at a constant rate, and beside it the one whose rate begins at ``lr`` and falls.

    Args:
        run: the one at a constant rate.
        lr: where the other one begins; None if the published scripts have none.
        decay: the factor of its rate every 25 steps.
    """
    if lr is None:
        return (run,)
    name, label = f"{run.name}-decay", f"{run.label}, lr ↓"
    return run, replace(run, name=name, label=label, lr=lr, decay=decay)


def names_of(runs: Sequence[Run], group: str, *others: str) -> tuple[str, ...]:
    """Return the names of the runs of a group and of the others named, in the order of the runs."""
    return tuple(run.name for run in runs if run.group == group or run.name in others)


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One set of axes: a quantity of the records against the step.

    Args:
        quantity: its key in a record.
        title: above the axes.
        smooth: draw the running average, as the paper does with condition numbers.
        logarithmic: the vertical axis.
        until: the last step that is drawn; None for all.
    """

    quantity: str
    title: str
    smooth: bool = False
    logarithmic: bool = True
    until: int | None = None


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Panels side by side that show the same runs.

    Args:
        name: of the file, without its seed and ending.
        runs: names of the runs that are drawn.
        panels: from left to right.
        caption: what to see in it.
    """

    name: str
    runs: tuple[str, ...]
    panels: tuple[Panel, ...]
    caption: str


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A section of the paper as data.

    Args:
        name: a word for commands and folders.
        section: of the paper.
        title: of tables and pages.
        formula: the problem and its sizes, in a line.
        version: ``"full"`` as published, or the name of a shorter version.
        era: ``"reference"`` or ``"paper"``.
        oracle: what computes the polar factor in the published runs that used QDWH.
        runs: each from the same start.
        steps: updates of a run that does not say otherwise.
        every: steps between two samples; the first and the last step are always sampled.
        also: further steps that are sampled.
        metric: key of a record that says how far a run has come; smaller is better.
        metric_title: what it is.
        smoothing: the weight w of the running average s ← w s + (1 − w) x of a step.
        figures: what is drawn.
        build: makes the task of a seed and an era.
    """

    name: str
    section: str
    title: str
    formula: str
    version: str
    era: str
    oracle: str
    runs: tuple[Run, ...]
    steps: int
    every: int
    also: tuple[int, ...] = ()
    metric: str
    metric_title: str
    smoothing: float
    figures: tuple[Figure, ...]
    build: Callable[[int, str], Task]

    def as_data(self) -> dict[str, Any]:
        """Return the experiment as plain data, as ``settings.json`` keeps it."""
        data = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name not in ("runs", "figures", "build")
        }
        return {
            **data,
            "experiment": data.pop("name"),
            "runs": [asdict(run) for run in self.runs],
        }

    def task(self, seed: int, run: Run) -> Task:
        """Return a fresh task of this seed for ``run``."""
        task = self.build(seed, self.era)
        return task.without_batches() if run.full_batch else task

    def steps_of(self, run: Run) -> int:
        """Return the number of updates of ``run``."""
        return self.steps if run.steps is None else run.steps

    def samples(self, step: int) -> bool:
        """Return whether a run is looked at before its update of this step."""
        return step % self.every == 0 or step in self.also
