"""Sweeps over learning rates and oracles, from nothing to tables and figures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from polargrad.experiments.folders import add_session, at_work_in, check_seeds, number_of_workers
from polargrad.experiments.runner import execute_all
from polargrad.experiments.sensitivity.figures import BY_OPTIMIZER, draw_sensitivity
from polargrad.experiments.sensitivity.lines import LineJob
from polargrad.experiments.sensitivity.protocol import Sweep
from polargrad.experiments.sensitivity.results import write_summary


@dataclass(frozen=True)
class Sensitivity:
    """What a call of :func:`sensitivity` did.

    Args:
        lines: how many lines it worked on; 0 if all were finished.
        folders: of each experiment.
    """

    lines: int
    folders: dict[str, Path]


def sensitivity(
    out: Path,
    sweeps: Sequence[Sweep],
    *,
    seed: int = 42,
    workers: int | None = None,
    overwrite: bool = False,
) -> Sensitivity:
    """Execute what is not finished of the sweeps, each in its folder below ``out``.

    A folder receives ``settings.json``, ``provenance.json``, one file of records a line, each
    record a run, ``summary.json``, ``table.txt`` and the heat maps. What has been tried is not
    tried again; a run that was killed begins again. A call that finds all finished does nothing.

    Args:
        out: the folder of the folders.
        sweeps: what to run, from :func:`polargrad.experiments.sensitivity.protocol.sweep`.
        seed: of data and start.
        workers: processes side by side, each with one thread; None for one a core.
        overwrite: delete first what the folders of these experiments hold.

    Raises:
        ValueError: if the seed is not in 0 … 2³² − 1, or ``workers`` is below 1.
        RunFolderError: if a folder holds something else; nothing is changed then.
    """
    check_seeds([seed])
    workers = number_of_workers(workers)
    folders = {s.experiment.name: out / s.experiment.name for s in sweeps}
    settings = {folders[s.experiment.name]: s.as_data(seed) for s in sweeps}
    with at_work_in(settings, overwrite=overwrite):
        return _sensitivity(sweeps, folders, seed, workers)


def _sensitivity(
    sweeps: Sequence[Sweep], folders: dict[str, Path], seed: int, workers: int
) -> Sensitivity:
    """The work of :func:`sensitivity`, with no other process in the folders."""
    jobs = [
        job
        for s in sweeps
        for line in s.lines
        if not (job := LineJob(s, line, seed, folders[s.experiment.name])).finished
    ]
    # Long lines first: so that no worker is left with one at the end.
    jobs.sort(key=lambda job: -job.sweep.seconds(job.line))
    if jobs:
        for name in {job.sweep.experiment.name for job in jobs}:
            add_session(folders[name])
        minutes = sum(job.sweep.seconds(job.line) for job in jobs) / 60.0 / workers
        print(
            f"{len(jobs)} lines are left, at most about {minutes:.0f} min with {workers} workers",
            file=sys.stderr,
            flush=True,
        )
        execute_all(jobs, workers=workers)
    for folder in folders.values():
        if jobs or not (folder / BY_OPTIMIZER).exists():  # what is written last
            draw_sensitivity(folder, write_summary(folder))
    return Sensitivity(len(jobs), folders)
