"""The paper's experiments from nothing to tables and figures, as much of it as is not there yet."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from polargrad.errors import RunFolderError
from polargrad.experiments.completion import completion
from polargrad.experiments.experiment import ERAS, PUBLISHED_SEEDS, Experiment
from polargrad.experiments.figures import draw_all, figure_file
from polargrad.experiments.folders import add_session, at_work_in, check_seeds, number_of_workers
from polargrad.experiments.logistic import logistic
from polargrad.experiments.oracles import ORACLES
from polargrad.experiments.quadratic import quadratic
from polargrad.experiments.results import CONSTANTS, SUMMARY, TIMING, Results
from polargrad.experiments.runner import execute_all, jobs_left
from polargrad.experiments.timing import time_steps
from polargrad.records import read_json, write_json

EXPERIMENTS: dict[str, Callable[..., Experiment]] = {
    "quadratic": quadratic,
    "logistic": logistic,
    "completion": completion,
}


@dataclass(frozen=True)
class Reproduction:
    """What a call of :func:`reproduce` did.

    Args:
        runs: how many runs it executed; 0 if all were finished.
        concluded: whether it timed steps, or wrote a summary or a figure.
        folders: of each experiment.
    """

    runs: int
    concluded: bool
    folders: dict[str, Path]


def choose(
    names: Sequence[str], *, quick: bool = False, era: str = "reference", oracle: str = "published"
) -> list[Experiment]:
    """Return the experiments of these names and settings.

    Raises:
        ValueError: if a name, the era or the oracle is unknown.
    """
    for name in names:
        if name not in EXPERIMENTS:
            raise ValueError(f"experiment must be one of {', '.join(EXPERIMENTS)}, got {name!r}")
    for what, value, allowed in (("era", era, ERAS), ("oracle", oracle, ORACLES)):
        if value not in allowed:
            raise ValueError(f"{what} must be one of {', '.join(allowed)}, got {value!r}")
    return [EXPERIMENTS[name](quick=quick, era=era, oracle=oracle) for name in names]


def reproduce(
    out: Path,
    experiments: Sequence[Experiment],
    *,
    seeds: Sequence[int] = PUBLISHED_SEEDS,
    workers: int | None = None,
    overwrite: bool = False,
) -> Reproduction:
    """Execute what is not finished of the experiments, each in its folder below ``out``.

    A folder receives ``settings.json``, ``provenance.json``, one file of records a run and seed,
    ``timing.json``, ``summary.json`` and the figures. A finished run is not run again, a killed one
    continues from its last checkpoint; a call that finds all finished does nothing.

    Args:
        out: the folder of the folders.
        experiments: what to run.
        seeds: of data and start, as the published code seeds them.
        workers: processes side by side, each with one thread; None for one a core.
        overwrite: delete first what the folders of these experiments hold.

    Raises:
        ValueError: if a seed is not in 0 … 2³² − 1 or given twice, or there is none.
        RunFolderError: if a folder holds something else, or another process is at work in it;
            nothing is changed then.
    """
    check_seeds(seeds)
    workers = number_of_workers(workers)
    folders = {e.name: out / e.name for e in experiments}
    settings = {folders[e.name]: e.as_data() for e in experiments}
    with at_work_in(settings, overwrite=overwrite):
        return _reproduce(experiments, folders, seeds, workers)


def _reproduce(
    experiments: Sequence[Experiment],
    folders: dict[str, Path],
    seeds: Sequence[int],
    workers: int,
) -> Reproduction:
    """The work of :func:`reproduce`, with no other process in the folders."""
    jobs = [job for e in experiments for job in jobs_left(e, folders[e.name], seeds)]
    if jobs:
        for name in {job.experiment.name for job in jobs}:
            add_session(folders[name])
        execute_all(jobs, workers=workers)
    concluded = False
    for experiment in experiments:
        ran = any(job.experiment is experiment for job in jobs)
        concluded |= _conclude(experiment, folders[experiment.name], seeds, again=ran)
    return Reproduction(len(jobs), concluded, folders)


def _conclude(experiment: Experiment, folder: Path, seeds: Sequence[int], *, again: bool) -> bool:
    """Time the steps, and write summary and figures, unless they are there and nothing changed.

    Returns:
        Whether anything was done.
    """
    if not (folder / TIMING).exists():
        timing = time_steps(experiment, experiment.runs, seed=seeds[0])
        write_json(folder / TIMING, timing)
        again = True
    _add_constants(experiment, folder, seeds)
    results = Results.read(folder)
    pictures = [
        folder / figure_file(figure.name, seed)
        for figure in experiment.figures
        for seed in results.seeds
    ]
    again = again or not (folder / SUMMARY).exists() or not all(p.exists() for p in pictures)
    if again:
        print(f"{experiment.name}: summary and figures", file=sys.stderr, flush=True)
        write_json(folder / SUMMARY, {"rows": results.summary()})
        draw_all(experiment, results, folder)
    return again


def _add_constants(experiment: Experiment, folder: Path, seeds: Sequence[int]) -> None:
    """Write what is known of the problem of each seed beforehand, where it is not there yet."""
    path = folder / CONSTANTS
    known = read_json(path) if path.exists() else {}
    missing = [seed for seed in seeds if str(seed) not in known]
    if missing:
        found = {str(seed): experiment.build(seed, experiment.era).constants() for seed in missing}
        write_json(path, known | found)


def finished_experiments(out: Path) -> dict[str, Results]:
    """Return what can be read of the experiments below ``out``."""
    found = {}
    for name in EXPERIMENTS:
        try:
            found[name] = Results.read(out / name)
        except RunFolderError:
            continue
    return found
