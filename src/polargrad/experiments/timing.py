"""How long the steps of an experiment's runs take, measured apart from its traces."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from polargrad.experiments.experiment import Experiment, Run
from polargrad.experiments.trace import Position, begin
from polargrad.records import provenance, require

WARM_UP = 3
ROUNDS = 5
STEPS_A_ROUND = 8


@dataclass
class _Timed:
    """A run being timed: milliseconds of its gradients and of its updates."""

    position: Position
    gradient: list[float] = field(default_factory=list)
    update: list[float] = field(default_factory=list)

    def take(self, steps: int, *, kept: bool) -> None:
        """Take steps with nothing measured but the clock."""
        solver = self.position.solver
        for _ in range(steps):
            solver.task.advance()
            began = time.perf_counter()
            solver.evaluate()
            middle = time.perf_counter()
            solver.update()
            end = time.perf_counter()
            if kept:
                self.gradient.append(1e3 * (middle - began))
                self.update.append(1e3 * (end - middle))


def time_steps(experiment: Experiment, runs: Sequence[Run], *, seed: int) -> dict[str, Any]:
    """Return the median milliseconds of gradient and update of a step, run by run.

    All runs take turns, a few steps at a time, so that a slow moment of the machine falls on all of
    them; with torch's own number of threads, and with no diagnostics. Runs of one step are timed
    whole. Nothing else should run on the machine meanwhile.
    """
    tqdm = require("tqdm", extra="experiments").tqdm
    timed = {run.name: _Timed(begin(experiment, seed, run)) for run in runs}
    single = {run.name for run in runs if experiment.steps_of(run) == 1}
    label = f"{experiment.name}: time of a step"
    with tqdm(total=ROUNDS, disable=None, unit="round", file=sys.stderr, desc=label) as bar:
        for entry in timed.values():
            entry.take(WARM_UP, kept=False)
        for _ in range(ROUNDS):
            for name, entry in timed.items():
                entry.take(1 if name in single else STEPS_A_ROUND, kept=True)
            bar.update()
    return {
        "runs": {
            name: {
                "gradient_ms": statistics.median(entry.gradient),
                "update_ms": statistics.median(entry.update),
            }
            for name, entry in timed.items()
        },
        "seed": seed,
        "steps": ROUNDS * STEPS_A_ROUND,
        "provenance": provenance(),
    }
