"""One run from its start, or from where it was killed, to its end: records and checkpoints."""

from __future__ import annotations

import collections
import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from polargrad.experiments.experiment import Experiment, Run
from polargrad.experiments.solvers import Solver, make_solver
from polargrad.experiments.task import Task
from polargrad.records import RecordWriter, read_records, rewind_records, write_atomically

# How a run ends, in the last of its records: its steps are taken, or a gradient is not finite.
ENDED = "ended"
BUDGET, DIVERGED = "budget", "diverged"

# A killed run loses at most about this much of its time.
SECONDS_BETWEEN_CHECKPOINTS = 5.0


@dataclass
class Position:
    """How far a run has come.

    Args:
        solver: with its task.
        step: updates done.
        seconds: time they took, with whatever else ran on the machine.
    """

    solver: Solver
    step: int = 0
    seconds: float = 0.0


def begin(experiment: Experiment, seed: int, run: Run) -> Position:
    """Return the start of a run."""
    return Position(make_solver(experiment.task(seed, run), run))


def trace(
    experiment: Experiment, position: Position, *, bound: float | None = None
) -> Iterator[dict[str, Any]]:
    """Take the steps that are left and yield a record of each sampled one.

    A record of step k holds the measurements before the k-th update, on that update's batch. The
    last record of a run says in ``ended`` why it is the last.

    Args:
        experiment: how many steps, and which are sampled.
        position: where the run is; it moves.
        bound: end a run as diverged when its metric is larger than this at a sample.
    """
    solver = position.solver
    task, run = solver.task, solver.run
    steps = experiment.steps_of(run)
    task.advance()
    while True:
        began = time.perf_counter()
        finite = solver.evaluate()
        evaluated = time.perf_counter() - began
        last = position.step == steps
        if last or not finite or experiment.samples(position.step):
            measured = _measure(task, solver)
            record: dict[str, Any] = {"run": run.name, "step": position.step, **measured}
            beyond = bound is not None and not measured[experiment.metric] <= bound
            lost = not finite or beyond
            if lost or last:
                yield {**record, "seconds": position.seconds, ENDED: DIVERGED if lost else BUDGET}
                return
            yield {**record, "seconds": position.seconds}
        began = time.perf_counter()
        solver.update()
        position.seconds += evaluated + time.perf_counter() - began
        position.step += 1
        task.advance()


def _measure(task: Task, solver: Solver) -> dict[str, float]:
    """The measurements at the current point."""
    return task.measure([X.detach() for X in solver.unknowns])


def is_finished(records: Path) -> bool:
    """Return whether the file holds a run to its end."""
    if not records.exists():
        return False
    found = collections.deque(read_records(records), maxlen=1)
    return bool(found) and ENDED in found[0]


def run_to_file(experiment: Experiment, seed: int, run: Run, records: Path) -> None:
    """Run to the end, with a record a sample in ``records`` and checkpoints beside it.

    A run that was killed continues from its last checkpoint, to the bit.
    """
    checkpoint = records.with_suffix(".checkpoint")
    position = begin(experiment, seed, run)
    if checkpoint.exists() and not (records.exists() and _restore(position, checkpoint)):
        checkpoint.unlink()
        position = begin(experiment, seed, run)  # half of the old one may have been restored
    rewind_records(records, last_step=position.step - 1)
    saved = time.monotonic()
    with RecordWriter(records) as writer:
        for record in trace(experiment, position):
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS and ENDED not in record:
                writer.sync()
                _save(position, checkpoint)
                saved = time.monotonic()
            writer.write(record)
        writer.sync()
    checkpoint.unlink(missing_ok=True)


def _save(position: Position, path: Path) -> None:
    """Write the state before the update of ``position.step``."""
    contents = {
        "step": position.step,
        "seconds": position.seconds,
        "solver": position.solver.state_dict(),
        "task": position.solver.task.state_dict(),
    }
    write_atomically(path, lambda file: torch.save(contents, file))


def _restore(position: Position, path: Path) -> bool:
    """Go to the checkpoint and return True, if it is whole and of this run."""
    try:
        contents = torch.load(path, weights_only=True)
        position.step, position.seconds = contents["step"], contents["seconds"]
        position.solver.load_state_dict(contents["solver"])
        position.solver.task.load_state_dict(contents["task"])
    except (RuntimeError, OSError, pickle.UnpicklingError, EOFError, KeyError, ValueError):
        return False
    return True
