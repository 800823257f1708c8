"""``polargrad sensitivity``: help, errors, and that a second call does nothing."""

from dataclasses import replace

import pytest

from polargrad.cli import main
from polargrad.cli import sensitivity as command
from polargrad.experiments.sensitivity.protocol import sweep


def shorter(name, *, quick):
    whole = sweep("completion", quick=quick)
    experiment = replace(whole.experiment, steps=5, every=5)
    return replace(whole, experiment=experiment, lines=whole.lines[:1])


def test_help_is_text(capsys):
    assert main(["sensitivity", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("{quadratic,logistic,completion,all}", "--quick", "--seed INT", "--workers INT"):
        assert word in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cubic"], "one of quadratic, logistic, completion, got 'cubic'"),
        (["completion", "--seed", "-1"], "seeds must be from 0 to 4294967295, got -1"),
        (["completion", "--workers", "0"], "workers must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["sensitivity", *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_second_call_says_that_there_is_nothing_to_do(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(command, "sweep", shorter)
    monkeypatch.chdir(tmp_path)
    words = ["sensitivity", "completion", "--quick", "--workers", "1"]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "PolarGrad, QDWH, 2 steps" in first
    assert "nothing to do" not in first
    assert (tmp_path / "runs" / "sensitivity-quick" / "completion" / "optimizers.png").exists()
    assert main(words) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main([*words, "--seed", "1"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main([*words, "--seed", "1", "--overwrite"]) == 0
