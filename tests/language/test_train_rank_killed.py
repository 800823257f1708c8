"""One of the ranks of a run is killed: the others end with an error, and the run is resumed."""

import time
from pathlib import Path

import launches
import pytest
from training_runs import assert_same_run

from polargrad.language.checkpoint import Checkpoints

WORKER = Path(__file__).with_name("killed_rank_worker.py")
# For how long the others may wait for the one that is dead, in seconds; here it takes one or two.
LIMIT = 30.0
# In a run of eight steps with a checkpoint after every third.
LAST_STEP, LAST_CHECKPOINT = 5, 3


def finished(ranks):
    """The exit codes of the ranks; after the time limit from the first end those left are killed.

    Of a rank that had to be killed the code is None.
    """
    try:
        until = time.monotonic() + launches.WATCHDOG
        while time.monotonic() < until and all(rank.poll() is None for rank in ranks):
            time.sleep(0.05)
        until = time.monotonic() + LIMIT
        while time.monotonic() < until and any(rank.poll() is None for rank in ranks):
            time.sleep(0.05)
        return [rank.poll() for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def check(folder, mesh, count, victim):
    """All end in time, and after a resume the run is that which was never stopped, to the bit."""
    (folder / "text.txt").write_text("".join(f"{n} + {n} = {2 * n}\n" for n in range(700)))
    codes = finished(launches.processes(count, WORKER, folder, mesh, victim))
    assert codes == [-9 if rank == victim else 1 for rank in range(count)]
    for rank in set(range(count)) - {victim}:
        said = (folder / f"ended-{rank}").read_text()
        assert said.startswith("CollectiveError: the run in ")
        assert f"cannot go on after step {LAST_STEP}: another rank has probably ended" in said
        assert f"the checkpoint of step {LAST_CHECKPOINT} is whole: resume" in said
    assert Checkpoints(folder / "killed" / "checkpoints", keep=2).steps == [LAST_CHECKPOINT]
    launches.torchrun(count, WORKER, folder, mesh, "none")
    assert_same_run(folder / "whole", folder / "killed")


@pytest.mark.slow
def test_a_rank_of_a_sharded_run(tmp_path):
    check(tmp_path, "fsdp=2", 2, victim=1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "victim"), [("none", 3), ("dp=4", 0), ("dp=2,fsdp=2", 0), ("fsdp=2,tp=2", 2)]
)
def test_a_rank_of_four(tmp_path, mesh, victim):
    check(tmp_path, mesh, 4, victim)
