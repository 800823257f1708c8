"""Two processes are one: DistributedDataParallel, states by broadcast, ZeroRedundancyOptimizer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

WORLD = 2
WORKER = Path(__file__).with_name("data_parallel_worker.py")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """What the processes left behind."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), str(WORLD), str(folder)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(WORLD)
    ]
    try:
        outputs = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * WORLD, outputs
    return torch.load(folder / "report.pt", weights_only=True)


@pytest.mark.parametrize(
    "what", ["data parallel", "on every rank", "loaded by broadcast", "zero redundancy"]
)
def test_the_parameters_are_those_of_one_process(report, what):
    """Sums in another order aside, and those in float64."""
    given, expected = report[what]
    for p, q in zip(given, expected, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)


def test_zero_redundancy_shares_the_matrices_out(report):
    assert report["matrices kept here"] == 2


def test_zero_redundancy_of_routed_groups_is_refused(report):
    """It cuts the lists of a group short, and the views no longer fit."""
    assert "must have one entry for each of the" in report["routed groups shared out"]
