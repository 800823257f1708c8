"""The sweeps of learning rate and oracle as data: what is swept, how far and how densely."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from polargrad.experiments.completion import completion
from polargrad.experiments.experiment import BASELINE, Experiment, Run
from polargrad.experiments.logistic import logistic
from polargrad.experiments.oracles import oracle_options
from polargrad.experiments.published import RESOLUTION
from polargrad.experiments.quadratic import quadratic
from polargrad.experiments.sensitivity.grid import POINTS_PER_DECADE, Grid, rate
from polargrad.experiments.sensitivity.tasks import (
    completion_task,
    logistic_task,
    quadratic_task,
)
from polargrad.experiments.theory.oracles import ORACLES as KNOWN_ORACLES
from polargrad.experiments.theory.oracles import Oracle
from polargrad.linalg import method
from polargrad.linalg.methods import plain

# A run is ended when its metric is this many times its start's: f - f* and squared errors, so a
# thousand times as far away. With a falling learning rate runs come back even from 1e16 times, but
# nobody would wait for it; without, none does from there.
BOUND = 1e6
ORACLES: dict[str, Oracle] = {
    oracle.name: oracle
    for oracle in (
        *KNOWN_ORACLES,
        Oracle("qdwh-4", "QDWH, 4 steps", oracle_options("published", steps=4)),
    )
}
PUBLISHED_ORACLE = "qdwh-2"
# From the roughest to the exact one.
ALL = ("qdwh-1", "newton-schulz", "qdwh-2", "training", "qdwh-3", "qdwh-4", "exact")
SOME = ("qdwh-1", "newton-schulz", "qdwh-2", "training", "exact")
FEW = ("newton-schulz", "qdwh-2", "exact")
TWO = ("qdwh-2", "exact")
ONE = ("qdwh-2",)
POLAR = ("polargrad", "muon")
# Seconds of a step, measured with one thread, and full runs of a line, counted: for the
# estimate that is printed and for the order of the lines alone.
STEP_SECONDS = {
    "quadratic": {"polargrad": 6e-3, "muon": 6e-3, "adam": 4e-3, "gradient-descent": 3e-3},
    "logistic": {"polargrad": 17e-3, "muon": 17e-3, "adam": 12e-3, "gradient-descent": 10e-3},
    "completion": {"polargrad": 1.4e-3, "muon": 1.4e-3, "adam": 0.7e-3, "gradient-descent": 0.5e-3},
}
FULL_RUNS = {"quadratic": 15, "logistic": 22, "completion": 25}

GRADIENT_DESCENT = "gradient-descent"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One optimizer with one oracle: a row of a heat map.

    Args:
        run: its settings; of the learning rate only the published value is kept here.
        oracle: a key of :data:`ORACLES`, None for methods without a polar factor.
        window: first point of the lattice, and one that is not exceeded.
        probed: whether limits of a single step are measured along a run of it: where a step is
            proportional to the gradient and without memory.
    """

    run: Run
    oracle: str | None
    window: tuple[int, int]
    probed: bool

    @property
    def name(self) -> str:
        """A word for file names."""
        return self.run.name if self.oracle is None else f"{self.run.name}.{self.oracle}"

    @property
    def label(self) -> str:
        """What tables call it."""
        words = [self.run.label]
        return ", ".join(words if self.oracle is None else [*words, ORACLES[self.oracle].label])

    def at(self, index: int) -> Run:
        """Return the run at a point of the lattice."""
        return replace(self.run, lr=rate(index))


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """The lines of an experiment, and what they share.

    Args:
        experiment: steps, samples, metric and data; it has no runs and no figures of its own.
        lines: what is swept.
        grid: how densely.
        floor: metrics below it count as equal to it.
    """

    experiment: Experiment
    lines: tuple[Line, ...]
    grid: Grid
    floor: float

    def as_data(self, seed: int) -> dict[str, Any]:
        """Return the sweep as plain data, as ``settings.json`` keeps it."""
        data = self.experiment.as_data()
        del data["runs"], data["oracle"]
        return {
            **data,
            "kind": "sensitivity",
            "seed": seed,
            "bound": BOUND,
            "floor": self.floor,
            "grid": asdict(self.grid),
            "lines": [
                {
                    "name": line.name,
                    "label": line.run.label,
                    "oracle_label": None if line.oracle is None else ORACLES[line.oracle].label,
                    **asdict(line),
                }
                for line in self.lines
            ],
        }

    def seconds(self, line: Line) -> float:
        """Return about how long a line takes on one thread."""
        costs = STEP_SECONDS[self.experiment.name]
        step = costs.get(line.run.solver, costs[GRADIENT_DESCENT])
        return FULL_RUNS[self.experiment.name] * self.experiment.steps * step


# Of the published runs: name, oracles, and how far below the published learning rate the coarse
# points begin, and end at the latest, in decades.
Plan = Sequence[tuple[str, Sequence[str], float, float]]

_PLANS: dict[str, Plan] = {
    "quadratic": (
        ("polargrad", ALL, 0.8, 1.0),
        ("polargrad-decay", SOME, 0.8, 1.0),
        ("polargrad-momentum-first", SOME, 0.8, 1.0),
        ("polargrad-polar-first", SOME, 0.8, 1.0),
        ("muon-qdwh", FEW, 1.0, 3.0),
        ("muon-qdwh-decay", TWO, 0.6, 3.0),
        ("adam", (), 1.0, 3.0),
        ("adam-decay", (), 1.0, 3.0),
        (GRADIENT_DESCENT, (), 1.0, 1.0),
    ),
    "logistic": (
        ("polargrad", SOME, 0.6, 3.0),
        ("polargrad-decay", TWO, 0.8, 3.0),
        ("polargrad-momentum-first", ONE, 0.6, 3.0),
        ("polargrad-polar-first", ONE, 0.6, 3.0),
        ("muon-qdwh", ONE, 0.4, 3.0),
        ("muon-qdwh-decay", ONE, 0.4, 3.0),
        ("adam", (), 0.4, 3.0),
        ("adam-decay", (), 0.4, 3.0),
        (GRADIENT_DESCENT, (), 1.0, 3.0),
    ),
    "completion": (
        ("polargrad", ALL, 1.6, 1.0),
        ("polargrad-decay", SOME, 1.6, 1.0),
        ("polargrad-momentum-first", SOME, 1.6, 1.0),
        ("polargrad-polar-first", SOME, 1.6, 1.0),
        ("muon-qdwh", FEW, 1.6, 3.0),
        ("muon-qdwh-decay", TWO, 1.6, 3.0),
        ("adam", (), 1.6, 3.0),
        ("adam-decay", (), 1.6, 3.0),
        ("alternating-gradient", (), 1.6, 1.6),
        (GRADIENT_DESCENT, (), 1.6, 1.6),
    ),
}
_QUICK: dict[str, Plan] = {
    "quadratic": (
        ("polargrad", TWO, 0.4, 1.0),
        ("adam", (), 0.2, 1.0),
        (GRADIENT_DESCENT, (), 0.4, 1.0),
    ),
    "logistic": (("polargrad", ONE, 0.0, 1.0), ("adam", (), 0.0, 1.0)),
    "completion": (
        ("polargrad", TWO, 0.8, 1.0),
        ("polargrad-momentum-first", ONE, 0.8, 1.0),
        ("adam", (), 0.4, 1.0),
        (GRADIENT_DESCENT, (), 0.8, 1.6),
    ),
}
# steps, and steps between two samples
_STEPS = {"quadratic": (1000, 10), "logistic": (500, 100), "completion": (300, 10)}
_QUICK_STEPS = {"quadratic": (60, 10), "logistic": (20, 10), "completion": (60, 10)}
QUICK_GRID = Grid(coarse=40, fine=8, finest=4, near=8, beyond=80)
# Where the published scripts have none: near 2/L in 6.1 and 6.2, AltGD's in 6.3.
_GRADIENT_DESCENT_RATES = {"quadratic": 1e-6, "logistic": 1e-6, "completion": 50.0}


def sweep(name: str, *, quick: bool = False) -> Sweep:
    """Return the sweep of an experiment.

    Args:
        name: ``"quadratic"``, ``"logistic"`` or ``"completion"``.
        quick: few lines, few steps, a coarser grid.

    Raises:
        ValueError: if the name is another.

    Example:
        >>> sweep("quadratic", quick=True).lines[0].name
        'polargrad.qdwh-2'
    """
    if name not in _PLANS:
        raise ValueError(f"experiment must be one of {', '.join(_PLANS)}, got {name!r}")
    published, build, metric, title = {
        "quadratic": (quadratic, quadratic_task, "gap", "f(X) − f*"),
        "logistic": (logistic, logistic_task, "gap_per_entry", "(f(X) − f*) per entry, all data"),
        "completion": (
            completion,
            completion_task,
            "observed_error",
            "mean square error on observed entries",
        ),
    }[name]
    whole = published()
    steps, every = (_QUICK_STEPS if quick else _STEPS)[name]
    grid = QUICK_GRID if quick else Grid()
    runs = {run.name: run for run in whole.runs if run.lr is not None}
    runs[GRADIENT_DESCENT] = Run(
        name=GRADIENT_DESCENT,
        label="gradient descent",
        solver=GRADIENT_DESCENT,
        group=BASELINE,
        lr=_GRADIENT_DESCENT_RATES[name],
    )
    return Sweep(
        experiment=replace(
            whole,
            version="quick" if quick else "full",
            runs=(),
            figures=(),
            steps=steps,
            every=every,
            also=(5, 25) if name == "logistic" else (),
            metric=metric,
            metric_title=title,
            build=build,
        ),
        lines=_lines((_QUICK if quick else _PLANS)[name], runs, grid),
        grid=grid,
        floor=RESOLUTION[name],
    )


def _lines(plan: Plan, runs: Mapping[str, Run], grid: Grid) -> tuple[Line, ...]:
    """The lines of a plan, each optimizer's from the roughest oracle to the exact one."""
    return tuple(
        _line(runs[name], oracle, _window(runs[name], down, up, grid))
        for name, oracles, down, up in plan
        for oracle in (oracles or (None,))
    )


def _line(run: Run, oracle: str | None, window: tuple[int, int]) -> Line:
    options = dict(run.options)
    if oracle is not None:
        options |= plain_options(ORACLES[oracle])
    linear = run.decay == 1.0 and not options.get("momentum")
    return Line(
        run=replace(run, options=options, steps=None),
        oracle=oracle,
        window=window,
        probed=linear and run.solver in ("polargrad", GRADIENT_DESCENT),
    )


def plain_options(oracle: Oracle) -> dict[str, Any]:
    """Return the options of an optimizer that uses this oracle, as plain data.

    Example:
        >>> plain_options(ORACLES["training"])
        {'method': 'auto', 'tol': 0.11}
    """
    chosen = oracle.options.get("method", "auto")
    if chosen != "auto":
        chosen = plain(method(chosen))
    return {"method": chosen, "tol": oracle.options.get("tol")}


def _window(run: Run, down: float, up: float, grid: Grid) -> tuple[int, int]:
    """The window about the published learning rate, on coarse points."""
    assert run.lr is not None
    centre = POINTS_PER_DECADE * math.log10(run.lr)
    low = centre - down * POINTS_PER_DECADE
    return (
        math.floor(low / grid.coarse) * grid.coarse,
        math.ceil((centre + up * POINTS_PER_DECADE) / grid.coarse) * grid.coarse,
    )
