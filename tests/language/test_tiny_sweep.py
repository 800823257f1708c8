"""The script behind the results of the tiny preset: what it runs, what it refuses to conclude."""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from polargrad.errors import NonFiniteError

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "tiny_sweep.py"
DIGEST = "d" * 64
RATES = {"adamw": [1, 2, 3], "muon": [1, 2, 3], "polargrad": [1, 2, 3]}


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """``sweep(*options)`` runs the script with training replaced by a parabola in the rate.

    Its best rate is 2 for every optimizer, and AdamW is better with the larger beta2. The runs are
    listed in ``sweep.runs``, exit code and output come back.
    """
    spec = importlib.util.spec_from_file_location("tiny_sweep", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tiny_sweep", script)
    spec.loader.exec_module(script)
    runs = []

    def train(settings):
        runs.append(settings)
        if settings.lr == 9:
            raise NonFiniteError("the loss became nan")
        loss = 1 + (settings.lr - 2) ** 2 - settings.beta2 / 10 + settings.seed / 1000
        loss += abs((settings.vector_lr or 20) - 20)
        return SimpleNamespace(validation_loss=loss, seconds=1.0, interrupted=sweep.signal)

    monkeypatch.setattr(script, "train", train)
    data = SimpleNamespace(data=SimpleNamespace(digest=DIGEST))
    monkeypatch.setattr(script, "open_input", lambda preset: data)
    vector_rates = {"adamw": [None], "muon": [None], "polargrad": [10, 20, 30]}
    grid = {
        (name, beta2, vector_lr): RATES[name]
        for name, vector_lrs in vector_rates.items()
        for beta2 in ((0.95, 0.999) if name == "adamw" else (0.95,))
        for vector_lr in vector_lrs
    }
    monkeypatch.setattr(script, "GRID", grid)

    def sweep(*options):
        words = ["tiny_sweep.py", "--out", str(tmp_path / "out"), "--steps", "7", *options]
        monkeypatch.setattr(sys, "argv", words)
        return script.main()

    sweep.runs, sweep.signal = runs, None
    return sweep


def test_each_point_is_run_once_and_then_the_best_on_the_seeds(sweep, capsys):
    assert sweep() == 0
    assert len(sweep.runs) == 18
    assert {(run.seed, run.steps) for run in sweep.runs} == {(0, 7)}
    assert sweep() == 0
    assert len(sweep.runs) == 18
    assert sweep("--stage", "seeds") == 0
    chosen = [(r.optimizer, r.beta2, r.vector_lr, r.lr, r.seed) for r in sweep.runs[18:]]
    best = [("adamw", 0.999, None, 2), ("muon", 0.95, None, 2), ("polargrad", 0.95, 20, 2)]
    assert chosen == [(*point, seed) for point in best for seed in (1, 2, 3)]
    assert "| muon | 0.95 | lr | 2 | 0.9060 | 0.9070 | 0.9080 | 0.9070 | 0.0010 |" in (
        capsys.readouterr().out
    )


def test_a_best_point_on_the_edge_is_not_taken(sweep, capsys):
    sweep("--grid", "adamw=1,2,3", "--grid", "muon=2,3", "--grid", "polargrad=1,2,3")
    ran = len(sweep.runs)
    assert sweep("--stage", "seeds") == 1
    assert "best lr of muon, 2, lies on the edge" in capsys.readouterr().err
    assert len(sweep.runs) == ran
    assert sweep("--grid", "muon=1") == 0  # the wider grid counts what was run before
    assert len(sweep.runs) == ran + 1
    assert sweep("--stage", "seeds") == 0


def test_a_best_vector_lr_on_the_edge_is_not_taken(sweep, capsys, monkeypatch):
    script = sys.modules["tiny_sweep"]
    grid = {row: rates for row, rates in script.GRID.items() if row[2] != 30}
    monkeypatch.setattr(script, "GRID", grid)
    sweep()
    assert sweep("--stage", "seeds") == 1
    assert "best vector_lr of polargrad, 20, lies on the edge of its grid [10, 20]" in (
        capsys.readouterr().err
    )


def test_an_edge_can_be_accepted(sweep):
    sweep("--grid", "adamw=2", "--grid", "muon=2", "--grid", "polargrad=2")
    assert sweep("--stage", "seeds", "--accept-edges") == 0


def test_seeds_need_a_sweep_of_the_same_steps(sweep, capsys):
    sweep()
    assert sweep("--stage", "seeds", "--steps", "8") == 1
    assert "no sweep of adamw, muon, polargrad with 8 steps" in capsys.readouterr().err


def test_a_run_that_diverges_is_a_result(sweep, tmp_path, capsys):
    assert sweep("--grid", "muon=1,2,3,9") == 0
    assert (
        "| muon | 0.95 | lr | 1: 1.905, **2: 0.905**, 3: 1.905, 9: inf |" in capsys.readouterr().out
    )
    assert sweep("--grid", "muon=9") == 0
    assert len(sweep.runs) == 4
    last = json.loads((tmp_path / "out" / "results.jsonl").read_text().splitlines()[-1])
    assert last["error"] == "the loss became nan"


def test_an_interrupted_run_is_no_result(sweep, tmp_path, capsys):
    sweep.signal = 2
    assert sweep() == 1
    assert len(sweep.runs) == 1
    assert "interrupted" in capsys.readouterr().err
    assert not (tmp_path / "out" / "results.jsonl").exists()


def test_results_on_another_text_are_not_mixed_in(sweep, tmp_path, capsys):
    sweep("--grid", "muon=2")
    path = tmp_path / "out" / "results.jsonl"
    path.write_text(path.read_text().replace(DIGEST, "0" * 64))
    assert sweep() == 1
    assert "holds results on another text" in capsys.readouterr().err
