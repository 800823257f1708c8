"""Checks that the three experiments share: their runs fit their tasks, and versions differ as said.

The learning rates of the paper's tables stand in each experiment's own test.
"""

import dataclasses

from small_experiments import traced

from polargrad.experiments.experiment import BASELINE
from polargrad.experiments.reproduce import choose
from polargrad.linalg import QDWH, NewtonSchulz, Zolotarev
from polargrad.linalg.methods import plain

PUBLISHED, FIVE = plain(QDWH.reference(2)), plain(QDWH.reference(5))
QUINTIC, RATIONAL = plain(NewtonSchulz()), plain(Zolotarev())


def published_runs(name, era):
    """What the paper's tables state of each run that is not a baseline."""
    (experiment,) = choose([name], era=era)
    return {
        run.name: (
            run.solver,
            run.lr,
            run.decay,
            run.options.get("method"),
            run.options.get("momentum"),
            run.options.get("order"),
        )
        for run in experiment.runs
        if run.group != BASELINE
    }


def check_all_runs_can_be_taken(name, small_task):
    """Two steps of each on a small problem, in both eras, with each oracle: none stands still."""
    for era in ("reference", "paper"):
        for oracle in ("published", "exact", "tolerance"):
            (experiment,) = choose([name], era=era, oracle=oracle)
            for run in experiment.runs:
                short = dataclasses.replace(
                    experiment,
                    runs=(dataclasses.replace(run, steps=2),),
                    every=1,
                    build=lambda seed, era: small_task(seed),
                )
                records = traced(short, run.name)
                assert [record["step"] for record in records] == [0, 1, 2], run.name
                assert records[-1][experiment.metric] != records[0][experiment.metric], run.name


def check_the_quick_version_changes_nothing_but_length(name):
    (full,), (quick,) = choose([name]), choose([name], quick=True)
    by_name = {run.name: run for run in full.runs}
    assert quick.steps < full.steps
    assert 0 < len(quick.runs) < len(full.runs)
    for run in quick.runs:
        assert run == by_name[run.name]
    changed = {key for key, value in full.as_data().items() if quick.as_data()[key] != value}
    assert changed <= {"version", "runs", "steps", "every"}


def check_the_oracle_changes_the_runs_with_qdwh_alone(name):
    (published,) = choose([name])
    for oracle, tol in (("exact", None), ("tolerance", 0.11)):
        (other,) = choose([name], oracle=oracle)
        for ours, theirs in zip(published.runs, other.runs, strict=True):
            if ours.options.get("method") in (PUBLISHED, FIVE):
                assert (theirs.options["method"], theirs.options["tol"]) == ("auto", tol)
                kept = {k: v for k, v in ours.options.items() if k != "method"}
                assert kept.items() <= theirs.options.items()
                assert (ours.lr, ours.decay) == (theirs.lr, theirs.decay)
            else:
                assert ours == theirs
