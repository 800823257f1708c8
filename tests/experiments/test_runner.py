"""Many runs: what is left, side by side, errors, Ctrl-C, and a kill without warning."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_experiments import (
    ADAM,
    DESCENT,
    POLARGRAD,
    build_failing_at_13,
    build_logistic,
    build_sleepy,
    small,
    without_times,
)

from polargrad.experiments.runner import execute_all, jobs_left, one_thread, records_of
from polargrad.experiments.trace import is_finished
from polargrad.records import read_records

SUPPORT = Path(__file__).parents[1] / "support"
# Longer than anybody waits, with a checkpoint at every sample.
ENDLESS = """
import sys
from pathlib import Path
sys.path.insert(0, {support!r})
from small_experiments import ADAM, DESCENT, POLARGRAD, build_sleepy, small
from polargrad.experiments.runner import execute_all, jobs_left

if __name__ == "__main__":
    endless = small(build=build_sleepy, runs=(ADAM, POLARGRAD), steps=10**6, every=1)
    try:
        execute_all(jobs_left(endless, Path(sys.argv[1]), [1, 2, 3]), workers=2)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def read(folder, seed, name):
    return without_times(read_records(records_of(folder, seed, name)))


def test_what_is_finished_is_not_left(tmp_path):
    experiment = small()
    jobs = jobs_left(experiment, tmp_path, [1, 2])
    assert [(job.seed, job.run.name) for job in jobs] == [
        (1, "polargrad"),
        (1, "gradient-descent"),
        (2, "polargrad"),
        (2, "gradient-descent"),
    ]
    execute_all(jobs[1:3], workers=1)
    left = jobs_left(experiment, tmp_path, [1, 2])
    assert [(job.seed, job.run.name) for job in left] == [(1, "polargrad"), (2, "gradient-descent")]


@pytest.mark.slow
def test_results_do_not_depend_on_the_number_of_workers(tmp_path):
    """One process with one thread, or two: the same numbers, to the bit."""
    runs = (POLARGRAD, ADAM, DESCENT)
    experiments = [
        small(runs=runs),
        small(name="logistic", build=build_logistic, metric="loss_per_entry", runs=runs),
    ]
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        jobs = [j for e in experiments for j in jobs_left(e, folder / e.name, [3])]
        before = torch.get_num_threads(), dict(os.environ)
        execute_all(jobs, workers=workers)
        assert (torch.get_num_threads(), dict(os.environ)) == before
    for experiment in experiments:
        for run in runs:
            one, two = (read(tmp_path / w / experiment.name, 3, run.name) for w in ("1", "2"))
            assert one == two
            assert "ended" in one[-1]


def test_progress_is_shown_a_line_a_run(tmp_path, capsys):
    execute_all(jobs_left(small(), tmp_path, [4]), workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["1/2 quadratic, seed 4: PolarGrad", "2/2 quadratic, seed 4: descent"]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_error_reaches_the_caller_and_leaves_what_is_finished(tmp_path, workers):
    experiment = small(build=build_failing_at_13)
    jobs = jobs_left(experiment, tmp_path, [12, 13])
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        execute_all(jobs, workers=workers)
    finished = {
        (s, r.name)
        for s in (12, 13)
        for r in experiment.runs
        if is_finished(records_of(tmp_path, s, r.name))
    }
    assert finished <= {(12, "polargrad"), (12, "gradient-descent")}
    if workers == 1:
        assert len(finished) == 2
    assert {job.seed for job in jobs_left(experiment, tmp_path, [12, 13])} >= {13}


def test_one_thread_is_given_back():
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("workers", [0, -1])
def test_there_must_be_a_worker(workers):
    with pytest.raises(ValueError, match=f"workers must be at least 1, got {workers}"):
        execute_all([], workers=workers)


def alive(process):
    """Whether a process runs; one that waits for its parent to look at it does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def children(process):
    return [
        int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def wait_until(condition, what):
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


@pytest.fixture
def endless(tmp_path):
    """A session of two workers in a group of its own, both in the middle of a run."""
    script = tmp_path / "session.py"
    script.write_text(ENDLESS.format(support=str(SUPPORT)))
    folder = tmp_path / "out"
    session = subprocess.Popen(
        [sys.executable, script, folder], start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    begun = [records_of(folder, 1, name) for name in ("adam", "polargrad")]
    wait_until(lambda: all(p.exists() and len(p.read_bytes()) > 500 for p in begun), "no record")
    yield session, folder
    if session.poll() is None:
        os.killpg(session.pid, signal.SIGKILL)
    session.wait()
    session.stderr.close()


on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@on_linux
def test_ctrl_c_ends_all_workers_and_begins_no_other_run(endless):
    """The terminal sends SIGINT to the whole group; nothing waits for the ends of the runs."""
    session, folder = endless
    workers = children(session.pid)
    os.killpg(session.pid, signal.SIGINT)
    assert session.wait(timeout=120) == 130
    wait_until(lambda: not any(map(alive, workers)), "a worker goes on")
    assert "Traceback" not in session.stderr.read()
    assert {path.name for path in folder.iterdir()} == {"seed-1"}
    for name in ("adam", "polargrad"):
        records = list(read_records(records_of(folder, 1, name)))
        assert [record["step"] for record in records] == list(range(len(records)))


@pytest.mark.slow
@on_linux
def test_workers_do_not_outlive_a_killed_session_and_their_runs_continue(endless, monkeypatch):
    """SIGKILL of the parent alone; then the same runs, cut to a few steps, as if never killed."""
    session, folder = endless
    workers = children(session.pid)
    os.kill(session.pid, signal.SIGKILL)
    wait_until(lambda: not any(map(alive, workers)), "a worker goes on")
    reached = len(list(read_records(records_of(folder, 1, "adam"))))
    longer = small(build=build_sleepy, runs=(ADAM,), steps=reached + 3, every=1)
    execute_all(jobs_left(longer, folder, [1]), workers=1)
    execute_all(jobs_left(longer, folder / "whole", [1]), workers=1)
    assert read(folder, 1, "adam") == read(folder / "whole", 1, "adam")
