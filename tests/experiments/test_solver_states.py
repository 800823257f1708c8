"""n steps, save, load and m steps equal n + m steps to the bit, for each solver and task."""

import io

import pytest
import torch
from small_experiments import (
    SMALL,
    build_completion,
    build_logistic,
    build_quadratic,
    small,
    without_times,
)

from polargrad.experiments.experiment import Run
from polargrad.experiments.oracles import (
    MUON_NEWTON_SCHULZ,
    MUON_ZOLOTAREV,
    muon_options,
    polargrad_options,
)
from polargrad.experiments.solvers import SOLVERS
from polargrad.experiments.trace import begin, trace

BUILDS = {
    "quadratic": (build_quadratic, "gap"),
    "logistic": (build_logistic, "loss_per_entry"),
    "completion": (build_completion, "observed_error"),
}
EVERYWHERE = ("quadratic", "logistic", "completion")
# Solver, settings, and the tasks that it works on; all schedules fall within the steps taken.
CASES = [
    ("polargrad", {"lr": 1e-3, "options": polargrad_options("published")}, EVERYWHERE),
    ("polargrad", {"lr": 1e-3, "options": polargrad_options("exact", 0.9)}, EVERYWHERE),
    (
        "polargrad",
        {"lr": 1e-3, "options": polargrad_options("tolerance", 0.9, "polar-first")},
        EVERYWHERE,
    ),
    ("muon", {"lr": 0.1, "options": muon_options("published")}, EVERYWHERE),
    ("muon", {"lr": 0.1, "options": MUON_NEWTON_SCHULZ}, EVERYWHERE),
    ("muon", {"lr": 0.1, "options": MUON_ZOLOTAREV}, ("quadratic",)),
    ("adam", {"lr": 0.05}, EVERYWHERE),
    ("newton", {"lr": 0.25}, ("quadratic",)),
    ("gradient-descent", {}, ("quadratic", "logistic")),
    ("nesterov", {}, ("quadratic", "logistic")),
    ("conjugate-gradients", {}, ("quadratic",)),
    ("l-bfgs", {}, ("quadratic", "completion")),
    ("l-bfgs", {"full_batch": True}, ("logistic",)),
    ("direct", {}, ("quadratic",)),
    ("alternating-gradient", {"lr": 1.0}, ("completion",)),
    ("scaled-gradient", {"lr": 0.5}, ("completion",)),
    ("alternating-least-squares", {}, ("completion",)),
    ("soft-impute", {"options": {"factor": 0.9}}, ("completion",)),
]
SAVED_AT, STEPS = 24, 29


def experiment(kind, run):
    build, metric = BUILDS[kind]
    return small(build=build, metric=metric, steps=STEPS, every=1, runs=(run,), figures=())


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    ("solver", "settings", "kind"),
    [(solver, settings, kind) for solver, settings, kinds in CASES for kind in kinds],
)
def test_a_saved_run_continues_to_the_bit(solver, settings, kind):
    run = Run(name="a", label="a", solver=solver, decay=0.5, **settings)
    whole = experiment(kind, run)
    uninterrupted = begin(whole, 3, run)
    expected = list(trace(whole, uninterrupted))

    first = begin(whole, 3, run)
    records = trace(whole, first)
    for _ in range(SAVED_AT + 1):
        next(records)
    assert first.step == SAVED_AT
    state = through_a_file([first.solver.state_dict(), first.solver.task.state_dict()])

    second = begin(whole, 3, run)
    second.step = SAVED_AT
    second.solver.load_state_dict(state[0])
    second.solver.task.load_state_dict(state[1])
    found = list(trace(whole, second))
    assert without_times(found) == without_times(expected)[SAVED_AT:]
    assert all(map(torch.equal, second.solver.unknowns, uninterrupted.solver.unknowns))


def test_every_solver_is_here():
    assert {solver for solver, _, _ in CASES} == SOLVERS.keys()
    assert SMALL.steps < SAVED_AT < 25 < STEPS  # a schedule's step lies between
