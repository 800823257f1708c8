"""Many runs: which are left, side by side in processes of one thread each, resumable."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from polargrad.experiments.experiment import Experiment, Run
from polargrad.experiments.trace import is_finished, run_to_file
from polargrad.records import require

# Set in a worker before torch is imported there: two busy pools of threads slow each other down.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class Work(Protocol):
    """What can be executed in a process of its own: it is pickled to get there."""

    @property
    def title(self) -> str:
        """What is shown when it is done."""

    def execute(self) -> None:
        """Do what is left of it."""


@dataclass(frozen=True)
class Job:
    """A run of an experiment on one seed, and the file of its records."""

    experiment: Experiment
    seed: int
    run: Run
    records: Path

    @property
    def title(self) -> str:
        """Experiment, seed and run."""
        return f"{self.experiment.name}, seed {self.seed}: {self.run.label}"

    def execute(self) -> None:
        """Run to the end, or on from where it was killed."""
        self.records.parent.mkdir(parents=True, exist_ok=True)
        run_to_file(self.experiment, self.seed, self.run, self.records)


def records_of(folder: Path, seed: int, run: str) -> Path:
    """Return the file of the records of a run in the folder of its experiment."""
    return folder / f"seed-{seed}" / f"{run}.jsonl"


def jobs_left(experiment: Experiment, folder: Path, seeds: Sequence[int]) -> list[Job]:
    """Return the jobs of the experiment that are not finished in ``folder``."""
    return [
        Job(experiment, seed, run, path)
        for seed in seeds
        for run in experiment.runs
        if not is_finished(path := records_of(folder, seed, run.name))
    ]


def execute_all(jobs: Sequence[Work], *, workers: int) -> None:
    """Execute the jobs, ``workers`` at a time, and show how far they are.

    Each runs with one thread, so that results do not depend on the number of workers.

    Raises:
        ValueError: if ``workers`` is below 1.
    """
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    tqdm = require("tqdm", extra="experiments").tqdm
    # Without a terminal (disable=None) there is no bar, and a line for each run instead.
    with tqdm(total=len(jobs), disable=None, unit="run", file=sys.stderr) as bar:
        for done, job in enumerate(_executed(jobs, workers), start=1):
            bar.set_description(job.title)
            bar.update()
            if bar.disable:
                print(f"{done}/{len(jobs)} {job.title}", file=sys.stderr, flush=True)


def _executed(jobs: Sequence[Work], workers: int) -> Iterator[Work]:
    """Yield each job when it is done."""
    if workers == 1 or len(jobs) < 2:
        with one_thread():
            for job in jobs:
                job.execute()
                yield job
        return
    others = set(multiprocessing.active_children())
    with _environment(ONE_THREAD):
        pool = concurrent.futures.ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_prepare_worker
        )
        try:
            waiting = {pool.submit(job.execute): job for job in jobs}
            for finished in concurrent.futures.as_completed(waiting):
                finished.result()
                yield waiting[finished]
        except BaseException:
            # An error or Ctrl-C: the pool alone would go on to the end of what it has begun.
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_worker() -> None:
    """One thread; Ctrl-C, which the whole group of processes gets, is for the parent to handle."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End when the parent is killed: whoever starts again must not find another at its files."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread, as the workers do."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """Set variables for the processes that are started within."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
