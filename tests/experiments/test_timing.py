"""Timing: which steps are taken, and that nothing but the clock is looked at."""

import statistics

import pytest
import torch
from small_experiments import ADAM, DESCENT, POLARGRAD, small

from polargrad.experiments import timing as module
from polargrad.experiments.experiment import Run
from polargrad.experiments.quadratic import QuadraticTask
from polargrad.experiments.timing import ROUNDS, STEPS_A_ROUND, WARM_UP, time_steps

DIRECT = Run(name="direct", label="direct", solver="direct", steps=1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one second each time it is read."""
    readings = iter(range(10**6))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(readings)))


def test_median_of_gradient_and_update(clock):
    """Between three readings lie a second of gradient and a second of update."""
    found = time_steps(small(), (POLARGRAD, DESCENT), seed=1)
    assert found["runs"] == {
        name: {"gradient_ms": 1000.0, "update_ms": 1000.0}
        for name in ("polargrad", "gradient-descent")
    }
    assert (found["seed"], found["steps"]) == (1, ROUNDS * STEPS_A_ROUND)
    assert found["provenance"]["torch"] == torch.__version__


def test_runs_take_turns_without_diagnostics(monkeypatch):
    """Rounds of a few steps of each run; a run of one step is taken whole, once a round."""
    runs = (POLARGRAD, ADAM, DIRECT)
    taken, kept = [], []
    take = module._Timed.take

    def watched(self, steps, *, kept):
        taken.append((self.position.solver.run.name, steps, kept))
        take(self, steps, kept=kept)

    def measure(self, unknowns):
        raise AssertionError("diagnostics within a timing run")

    monkeypatch.setattr(module._Timed, "take", watched)
    monkeypatch.setattr(QuadraticTask, "measure", measure)
    time_steps(small(runs=runs), runs, seed=1)
    kept = [(name, steps) for name, steps, counted in taken if counted]
    warm = [(name, steps) for name, steps, counted in taken if not counted]
    assert warm == [(run.name, WARM_UP) for run in runs]
    assert kept == [("polargrad", STEPS_A_ROUND), ("adam", STEPS_A_ROUND), ("direct", 1)] * ROUNDS


def test_times_are_medians_of_what_was_kept():
    entry = module._Timed(module.begin(small(), 1, ADAM))
    entry.take(3, kept=False)
    assert entry.gradient == entry.update == []
    entry.take(5, kept=True)
    assert len(entry.gradient) == len(entry.update) == 5
    assert statistics.median(entry.update) > 0
    assert entry.position.solver.optimizer.state[entry.position.solver.parameters[0]]["step"] == 8
