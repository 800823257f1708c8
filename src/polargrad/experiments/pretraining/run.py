"""A sweep, executed: the scheduler says what to run, and each session is a training run's part."""

from __future__ import annotations

import gc
import math
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from polargrad.errors import NonFiniteError
from polargrad.experiments.folders import add_session, at_work_in
from polargrad.experiments.pretraining.halving import Standing, next_session, standing
from polargrad.experiments.pretraining.plan import duration, shares
from polargrad.experiments.pretraining.protocol import Session, SweepProtocol
from polargrad.experiments.pretraining.results import SweepResults
from polargrad.language import train
from polargrad.language.checkpoint import CHECKPOINTS
from polargrad.language.journal import records_in
from polargrad.language.ranks import training_device
from polargrad.language.stopwatch import reset_peak_memory
from polargrad.records import read_json
from polargrad.records.run_folder import SETTINGS


@dataclass(frozen=True)
class Swept:
    """What a call came to.

    Args:
        sessions: how many it ran.
        finished: whether nothing is left to run.
        interrupted: the signal that ended it, or None.
    """

    sessions: int
    finished: bool
    interrupted: signal.Signals | None


def run_sweep(
    out: Path,
    protocol: SweepProtocol,
    *,
    keep_checkpoints: bool = False,
    overwrite: bool = False,
) -> Swept:
    """Run what is left of a sweep, session by session, until it is finished or interrupted.

    What was run before is not run again, and a run that was broken off goes on from its last
    checkpoint: a sweep that is stopped anywhere, even killed, gives what it would have given. More
    optimizers, seeds or points may be asked for in the same folder later; what all runs share may
    not change.

    Args:
        out: the folder of the sweep, new, empty, or of a sweep of such runs. It receives
            ``results.jsonl``, a record a session, and in ``runs`` the folder of each run.
        protocol: of the sweep.
        keep_checkpoints: keep those of runs that no session will continue, which are deleted else.
        overwrite: delete the sweep in the folder first.

    Raises:
        RunFolderError: if the folder holds something else, another process is at work in it, or
            the data have changed.
        ValueError, DataError, MissingExtraError: as :func:`polargrad.language.train`.
    """
    ran = 0
    with at_work_in({out: shared(protocol)}, overwrite=overwrite):
        results = SweepResults(out)
        if next_session(protocol, results.losses) is not None:
            add_session(out)
        while (session := next_session(protocol, results.losses)) is not None:
            stopped = _run(session, protocol, results)
            if session in results.losses:
                ran += 1
                if not keep_checkpoints:
                    _delete_checkpoints(protocol, results)
                _say(session, protocol, results)
            if stopped is not None:
                left = next_session(protocol, results.losses)
                return Swept(ran, finished=left is None, interrupted=stopped)
    return Swept(ran, finished=True, interrupted=None)


def shared(protocol: SweepProtocol) -> dict[str, Any]:
    """Return what all runs of a sweep share, as plain data."""
    return {
        "sweep": True,
        "steps": protocol.steps,
        "eval_every": protocol.eval_every,
        "sweep_seed": protocol.sweep_seed,
        "training": dict(sorted(protocol.training.items())),
    }


def _run(session: Session, protocol: SweepProtocol, results: SweepResults) -> signal.Signals | None:
    """Run a session and, if it came to its end, write down what it came to.

    Returns:
        The signal that asked to stop, which may have come with the last step.
    """
    folder = results.folder_of(session.run)
    settings = protocol.settings(
        session.run,
        out=folder,
        stop_after=session.step,
        checkpoint_every=protocol.rung_steps[0],
        keep=1,
        resume=(folder / SETTINGS).exists(),
    )
    folder.parent.mkdir(exist_ok=True)
    gc.collect()  # the model before this one is not part of its memory
    reset_peak_memory(training_device())
    before = len(records_in(folder))
    began = time.perf_counter()
    why, stopped = "", None
    try:
        result = train(settings)
    except NonFiniteError as error:
        loss, why = math.inf, str(error)
    else:
        stopped = result.interrupted
        if result.steps < session.step:
            assert stopped is not None  # nothing else ends a session early
            return stopped
        loss = result.validation_loss
    results.add(
        session,
        loss=loss,
        steps=max(0, len(records_in(folder)) - max(1, before)),
        seconds=time.perf_counter() - began,
        data=read_json(folder / SETTINGS)["corpus"],
        why=why,
    )
    return stopped


def _delete_checkpoints(protocol: SweepProtocol, results: SweepResults) -> None:
    """Delete the checkpoints of the runs that no session will continue."""
    done = {session.run for session in results.losses if session.step == protocol.steps}
    for found in standings(protocol, results):
        done |= found.done_with(protocol.steps)
    for run in done:
        checkpoints = results.folder_of(run) / CHECKPOINTS
        if checkpoints.exists():
            shutil.rmtree(checkpoints)


def standings(protocol: SweepProtocol, results: SweepResults) -> list[Standing]:
    """Return where the search of each entrant stands."""
    return [standing(entrant, protocol, results.losses) for entrant in protocol.entrants]


def _say(session: Session, protocol: SweepProtocol, results: SweepResults) -> None:
    """Say what a session came to, and how much is left."""
    loss = results.losses[session]
    came_to = "diverged" if loss == math.inf else f"validation loss {loss:.4f}"
    left = [
        share.seconds or 0.0 for share in shares(protocol, results.losses, results.seconds_per_step)
    ]
    print(
        f"{session.run.folder}, step {session.step}: {came_to}; about {duration(sum(left))} left",
        file=sys.stderr,
        flush=True,
    )
