"""``polargrad insights``: help, errors, exit codes, and what a second call says."""

import pytest
from insight_runs import protocol

from polargrad.cli import insights as command
from polargrad.cli import main
from polargrad.experiments.insights.protocol import ADAMW, MUON, all_runs


def test_help_is_text(capsys):
    assert main(["insights", "--help"]) == 0
    printed = capsys.readouterr().out
    for option in ("--out PATH", "--quick", "--seeds INT...", "--workers INT", "--overwrite"):
        assert option in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1", "1"], "seeds must be at least one, each once, got [1, 1]"),
        (["--seeds", "-1"], "seeds must be from 0 to 4294967295, got -1"),
        (["--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["insights", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_runs_once_and_says_so(capsys, tmp_path, monkeypatch):
    families = (ADAMW, MUON)
    runs = all_runs(families, middle_alone=True)
    small = protocol(families, runs=runs, steps=32, version="quick")
    monkeypatch.setattr(command, "QUICK", small)
    monkeypatch.chdir(tmp_path)
    words = ["insights", "--quick", "--workers", "1"]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "4 runs done, 0 were finished before" in printed
    assert "warmup: Adam needs learning-rate warmup" in printed
    assert "not tested" in printed  # one rate and one seed have no rank correlation
    assert (tmp_path / "runs" / "insights-quick" / "verdicts.json").exists()
    assert main(words) == 0
    assert "nothing to do: all 4 runs are finished" in capsys.readouterr().out
    assert main([*words, "--seeds", "1"]) == 0
    assert "4 runs done" in capsys.readouterr().out
    assert main([*words, "--overwrite"]) == 0
    assert "4 runs done, 0 were finished before" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "insights-quick" / "seed-1").exists()
