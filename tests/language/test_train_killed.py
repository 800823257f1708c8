"""Runs that are killed without notice, at random moments and within every write, resume to the bit.

The moments are drawn from a seed; what has to come out does not depend on them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training_runs import records

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")

WORKER = Path(__file__).with_name("killed_runs_worker.py")
SUPPORT = Path(__file__).parents[1] / "support"
INTERVAL = 3


def killed_runs(folder, *, seed, count):
    """Let the worker do it; return its report."""
    (folder / "text.txt").write_text("".join(f"{n} + {n} = {2 * n}\n" for n in range(700)))
    paths = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, str(WORKER), str(folder), str(seed), str(count)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=60 + 60 * count,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "report.json").read_text())


def parameters(out):
    (path,) = out.glob("checkpoints/step_00000040.pt")
    return torch.load(path, weights_only=True)["model"]


def check(folder, runs):
    """Every run was killed, lost at most an interval, and came out as the one that was not."""
    expected = parameters(folder / "whole")
    for run in runs:
        out = folder / run["out"]
        assert run["kills"]
        assert run["kills"][-1]["recorded"] - run["resumed"] <= INTERVAL
        for name in ("records.jsonl", "spectra.jsonl"):
            assert records(out, name) == records(folder / "whole", name)
        found = parameters(out)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert not list(out.rglob(".*.part"))
    assert len(records(folder / "whole")) == 41


def test_two_killed_runs(tmp_path):
    runs = killed_runs(tmp_path, seed=1, count=2)
    check(tmp_path, runs)
    where = {kill["where"] for run in runs for kill in run["kills"]}
    assert {"at a random moment", "within a checkpoint"} <= where


@pytest.mark.slow
def test_twenty_killed_runs(tmp_path):
    runs = killed_runs(tmp_path, seed=2, count=20)
    check(tmp_path, runs)
    assert len({kill["where"] for run in runs for kill in run["kills"]}) == 5
