"""``polargrad theory``: help, errors, a run and a second one."""

import pytest

from polargrad.cli import main
from polargrad.cli import theory as command
from polargrad.experiments.theory import run as theory
from polargrad.experiments.theory.checks_descent import one_step_limit
from polargrad.experiments.theory.form import Extent

TINY = Extent(version="tiny", sizes=(12, 4, 24, 10), share=0.01)


def test_help_is_text(capsys):
    assert main(["theory", "--help"]) == 0
    printed = capsys.readouterr().out
    for word in ("--out PATH", "--seed INT", "--quick", "--overwrite"):
        assert word in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["theory", "--seed", "-1"], "seed must be from 0 to 4294967293, got -1"),
        (["theory", "--steps", "5"], "--steps"),
    ],
)
def test_wrong_requests_write_nothing(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_and_a_second_one(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "QUICK", TINY)
    monkeypatch.setattr(theory, "CHECKS", {"one-step-limit": one_step_limit})
    assert main(["theory", "--quick"]) == 0
    out, err = capsys.readouterr()
    assert "one-step-limit: holds" in out
    assert "f₊ < f just below the limit" in out
    assert "1/1 one-step-limit" in err
    assert (tmp_path / "runs" / "theory-quick" / "verdicts.md").exists()
    assert main(["theory", "--quick"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("nothing to do: all 1 checks are finished")
    assert err == ""
    assert main(["theory", "--quick", "--seed", "1"]) == 2
    assert "seed: 42 there, 1 here" in capsys.readouterr().err
