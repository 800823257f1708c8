"""``polargrad bench``: help, errors and small runs."""

import json

import pytest

from polargrad.cli import main
from polargrad.experiments.bench import step_shapes as bench_step_shapes
from polargrad.experiments.bench.step_candidates import CANDIDATES
from polargrad.experiments.bench.step_shapes import Block, ModelShapes


def test_help_names_both_subjects(capsys):
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    assert "{polar,step}" in printed
    assert "take turns" in printed


def test_help_of_polar_reads_well(capsys):
    assert main(["bench", "polar", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("--shapes", "--spectra", "--tolerances", "--calibrate", "--out PATH"):
        assert word in printed
    assert "--layers" not in printed


def test_help_of_step_reads_well(capsys):
    assert main(["bench", "step", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("--models", "--scopes", "--layers INT", "--candidates", "--out PATH"):
        assert word in printed
    assert "--spectra" not in printed
    for name in (*bench_step_shapes.MODELS, *CANDIDATES):
        assert name in printed


@pytest.mark.parametrize("words", [["bench"], ["bench", "qr"], ["bench", "step", "--shapes", "5"]])
def test_what_there_is_to_measure_is_said(words, capsys):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "polar" in error
    assert "bench --help" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "polar", "--shapes", "5"], "shape"),
        (["bench", "polar", "--methods", "magic"], "got 'magic'"),
        (["bench", "step", "--models", "magic"], "got 'magic'"),
        (["bench", "step", "--layers", "0"], "layers must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_small_run_of_polar(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("polargrad.experiments.bench.polar.missing", lambda label: "is away")
    words = ["bench", "polar", "--shapes", "6x4", "--spectra", "flat", "--tolerances", "0.2"]
    words += ["--methods", "auto", "svd", "--repetitions", "2", "--calibrate"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "torch.linalg.svd" in printed
    assert "accuracy_time.png" in printed
    found = json.loads((tmp_path / "runs" / "bench-polar" / "calibration.json").read_text())
    assert found["format"] == 1
    assert main(words) == 2
    assert "already holds" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0


def test_a_small_run_of_step(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    toy = ModelShapes("toy", (Block(((6, 4),), ((6,),), 2), Block((), ((9, 4),))))
    monkeypatch.setitem(bench_step_shapes.MODELS, "toy", toy)
    words = ["bench", "step", "--models", "toy", "--repetitions", "2", "--budget", "1", "--quick"]
    words += ["--candidates", "polargrad", "adamw"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert "toy matrices (ratio: time relative to quintic by hand, float32)" in out
    assert "PolarGrad *" in out
    assert "step_time.png" in out
    assert err.splitlines() == ["1/2 toy matrices", "2/2 toy vectors"]
    kept = json.loads((tmp_path / "runs" / "bench-step" / "settings.json").read_text())
    assert kept["experiment"] == "bench step"
    assert kept["layers"] == 1
    assert main(words) == 2
    assert "already holds" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
