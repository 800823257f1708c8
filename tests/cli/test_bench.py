"""``polargrad bench``: help, errors and a small run."""

import json

import pytest

from polargrad.cli import main


def test_help_reads_well(capsys):
    assert main(["bench", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("--shapes", "--spectra", "--tolerances", "--calibrate", "--out PATH", "{polar}"):
        assert word in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["bench", "qr"], "subject must be one of polar, got 'qr'"),
        (["bench", "polar", "--shapes", "5"], "shape"),
        (["bench", "polar", "--methods", "magic"], "got 'magic'"),
    ],
)
def test_errors_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_small_run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("polargrad.experiments.bench_polar.missing", lambda label: "is away")
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
