"""``polargrad reproduce`` and ``polargrad demo``: help, errors and exit codes."""

import pytest

from polargrad.cli import main
from polargrad.cli import reproduce as command
from polargrad.experiments.protocol import Protocol
from polargrad.experiments.quadratic import RUNS


@pytest.mark.parametrize("words", [["reproduce", "--help"], ["demo", "--help"]])
def test_help_is_text(words, capsys):
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "--out PATH" in printed
    assert "--seed INT" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "cubic"], "one of quadratic, got 'cubic'"),
        (["reproduce", "quadratic", "--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
        (["demo", "--steps", "0"], "steps must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_reproduces_into_a_folder_and_says_where(capsys, tmp_path, monkeypatch):
    short = Protocol(version="quick", runs=RUNS[:1], steps=10, every=10)
    monkeypatch.setattr(command, "QUICK", short)
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "quadratic", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "PolarGrad" in printed
    assert "published code 1.802e+06" in printed
    assert (tmp_path / "runs" / "quadratic" / "gap.png").exists()
    assert main(["reproduce", "quadratic", "--quick"]) == 2
    assert "already holds this run" in capsys.readouterr().err
    assert main(["reproduce", "quadratic", "--quick", "--overwrite"]) == 0
