"""One run: what it records and when, how it ends, and how a killed one continues to the bit."""

import itertools
import json
import math

import pytest
import torch
from small_experiments import (
    ADAM,
    DESCENT,
    DIVERGING,
    DOUBLE,
    POLARGRAD,
    build_completion,
    build_logistic,
    build_quadratic,
    generator,
    logistic_task,
    quadratic_task,
    small,
    traced,
    without_times,
)

from polargrad.experiments import trace as module
from polargrad.experiments.experiment import Run
from polargrad.experiments.trace import begin, is_finished, run_to_file, trace
from polargrad.problems import RowBatches
from polargrad.records import read_records

GD = Run(name="gd", label="GD", solver="newton", lr=1e-3)


def build_double_logistic(seed, era):
    return logistic_task(seed, dtype=DOUBLE)


def test_records_are_taken_before_the_update():
    """X ← X − γ ∇f(X) by hand gives the recorded gaps."""
    records = traced(small(runs=(DESCENT,), every=1), "gradient-descent", seed=0)
    problem, (X,) = quadratic_task().problem, quadratic_task().start
    lr = 2 / (problem.smoothness + problem.strong_convexity)
    for record in records:
        assert record["gap"] == pytest.approx(problem.gap(X), rel=1e-5)
        X = X - lr * problem.gradient(X)
    assert [record["step"] for record in records] == [0, 1, 2, 3, 4]


def test_a_record_is_on_the_batch_of_its_update():
    """The published stream of batches: the k-th record and the k-th update share theirs."""
    run = Run(name="a", label="a", solver="polargrad", lr=1e-2, options=POLARGRAD.options)
    experiment = small(
        build=build_double_logistic, metric="loss_per_entry", runs=(run,), every=3, steps=6
    )
    records = traced(experiment, "a", seed=0)
    task = logistic_task(dtype=DOUBLE)
    stream, (X,), expected = RowBatches(generator(1), 40, 8), task.start, []
    for step in range(7):
        batch = task.problem.batch(next(stream))
        G = batch.gradient(X)
        U, values, Vh = torch.linalg.svd(G, full_matrices=False)
        if step % 3 == 0:
            expected.append(
                (
                    step,
                    float(batch.objective(X)),
                    float(values.sum()),
                    task.problem.loss_per_entry(X),
                )
            )
        X = X - 1e-2 * values.sum() * U @ Vh
    found = [
        [r[k] for k in ("step", "batch_loss", "nuclear_norm", "loss_per_entry")] for r in records
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"steps": 7, "every": 3}, [0, 3, 6, 7]),
        ({"steps": 6, "every": 3}, [0, 3, 6]),
        ({"steps": 7, "every": 5, "also": (1, 2)}, [0, 1, 2, 5, 7]),
        ({"steps": 2, "every": 100}, [0, 2]),
    ],
)
def test_first_and_last_step_are_always_sampled(changes, steps):
    records = traced(small(runs=(GD,), **changes), "gd")
    assert [record["step"] for record in records] == steps
    assert [record.get("ended") for record in records] == [None] * (len(steps) - 1) + ["budget"]


def test_a_run_may_be_shorter_than_its_experiment():
    records = traced(small(), "gradient-descent")
    assert [record["step"] for record in records] == [0, 2, 4]


def test_a_run_on_all_data_draws_no_batch():
    batched = Run(name="a", label="a", solver="adam", lr=0.1)
    whole = Run(name="b", label="b", solver="adam", lr=0.1, full_batch=True)
    experiment = small(build=build_logistic, metric="loss_per_entry", runs=(batched, whole))
    for name, full in (("a", False), ("b", True)):
        for record in traced(experiment, name):
            per_entry = record["batch_loss"] / (40 * 6)
            assert math.isclose(per_entry, record["loss_per_entry"], rel_tol=1e-5) is full


def test_seconds_grow():
    seconds = [record["seconds"] for record in traced(small(), "polargrad")]
    assert seconds[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(seconds))


def test_a_run_that_diverges_ends_and_says_so():
    """At the step where a gradient is not finite, sampled or not."""
    experiment = small(runs=(DIVERGING,), steps=500, every=100)
    *before, last = traced(experiment, "newton")
    assert last["ended"] == "diverged"
    assert 0 < last["step"] < 100
    assert not any("ended" in record for record in before)


def test_a_bound_ends_a_run_at_the_sample_that_exceeds_it():
    run = Run(name="growing", label="growing", solver="newton", lr=3.0)  # the gap grows fourfold
    experiment = small(runs=(run,), steps=20, every=2)
    whole = traced(experiment, "growing")
    assert whole[-1]["ended"] == "budget"
    bound = 10 * whole[0]["gap"]
    records = traced(experiment, "growing", bound=bound)
    assert [r["step"] for r in records] == [0, 2]
    assert records[-1]["ended"] == "diverged"
    assert records[0]["gap"] < bound < records[-1]["gap"]


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    for build, metric in ((build_logistic, "loss_per_entry"), (build_completion, "observed_error")):
        traced(small(build=build, metric=metric, runs=(POLARGRAD,)), "polargrad")
    assert torch.equal(state, torch.random.get_rng_state())


# Files.


@pytest.fixture
def stochastic():
    """A run with a state of its own, on batches, sampled in every step."""
    return small(build=build_logistic, metric="loss_per_entry", runs=(ADAM,), steps=30, every=1)


class KilledError(Exception):
    """In the place of a SIGKILL."""


def kill_before_step(step, monkeypatch):
    """Let the next run checkpoint at each sample, and die as a SIGKILL would have it."""

    def dying(experiment, position, **options):
        for record in trace(experiment, position, **options):
            if record["step"] == step:
                raise KilledError
            yield record

    monkeypatch.setattr(module, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    monkeypatch.setattr(module, "trace", dying)


@pytest.mark.parametrize(
    "damage",
    [
        "none",
        "half a line",
        "records beyond the checkpoint",
        "no checkpoint",
        "empty checkpoint",
        "truncated checkpoint",
        "another file's checkpoint",
        "an older version's checkpoint",
        "no records",
    ],
)
def test_a_killed_run_continues_to_the_bit(stochastic, tmp_path, monkeypatch, damage):
    """Or begins again where its files do not allow that: the records are the same."""
    records, whole = tmp_path / "adam.jsonl", tmp_path / "whole.jsonl"
    run_to_file(stochastic, 5, ADAM, whole)
    with monkeypatch.context() as patched:
        kill_before_step(17, patched)
        with pytest.raises(KilledError):
            run_to_file(stochastic, 5, ADAM, records)
    assert not is_finished(records)
    checkpoint = tmp_path / "adam.checkpoint"
    saved = checkpoint.read_bytes()
    again = True
    if damage in ("none", "half a line", "records beyond the checkpoint"):
        again = False
    if damage == "half a line":
        with records.open("a") as file:
            file.write('{"run": "adam", "st')
    elif damage == "records beyond the checkpoint":
        with records.open("a") as file:
            file.write(json.dumps({"run": "adam", "step": 17, "loss_per_entry": -1.0}) + "\n")
    elif damage == "no checkpoint":
        checkpoint.unlink()
    elif damage == "empty checkpoint":
        checkpoint.write_bytes(b"")
    elif damage == "truncated checkpoint":
        checkpoint.write_bytes(saved[: len(saved) // 2])
    elif damage == "another file's checkpoint":
        checkpoint.write_bytes(b"\x80\x02}q\x00.")
    elif damage == "an older version's checkpoint":
        torch.save({"step": 16, "seconds": 0.0}, checkpoint)
    elif damage == "no records":
        records.unlink()

    begun = []
    with monkeypatch.context() as patched:

        def watched(experiment, position, **options):
            begun.append(position.step)
            return trace(experiment, position, **options)

        patched.setattr(module, "trace", watched)
        run_to_file(stochastic, 5, ADAM, records)
    assert begun == [0 if again else 16]
    found, expected = (without_times(read_records(path)) for path in (records, whole))
    assert found == expected
    assert {path.name for path in tmp_path.iterdir()} == {"adam.jsonl", "whole.jsonl"}


def test_time_goes_on_where_a_killed_run_stopped(stochastic, tmp_path, monkeypatch):
    records = tmp_path / "adam.jsonl"
    with monkeypatch.context() as patched:
        kill_before_step(17, patched)
        with pytest.raises(KilledError):
            run_to_file(stochastic, 5, ADAM, records)
    before = [record["seconds"] for record in read_records(records)]
    run_to_file(stochastic, 5, ADAM, records)
    seconds = [record["seconds"] for record in read_records(records)]
    assert seconds[:16] == before[:16]
    assert all(a < b for a, b in itertools.pairwise(seconds))


def test_finished_means_that_the_last_record_says_so(tmp_path):
    path = tmp_path / "a.jsonl"
    assert not is_finished(path)
    path.write_text("")
    assert not is_finished(path)
    path.write_text('{"step": 0}\n')
    assert not is_finished(path)
    path.write_text('{"step": 0}\n{"step": 2, "ended": "budget"}')  # killed within the line
    assert not is_finished(path)
    path.write_text('{"step": 0}\n{"step": 2, "ended": "budget"}\n')
    assert is_finished(path)


def test_position_begins_at_the_start():
    position = begin(small(build=build_quadratic), 3, POLARGRAD)
    assert (position.step, position.seconds) == (0, 0.0)
    assert torch.equal(position.solver.unknowns[0], position.solver.task.start[0])
