"""``polargrad reproduce`` and ``polargrad demo``: help, errors, exit codes, and a second call."""

import os
from dataclasses import replace
from functools import partial

import pytest
from small_experiments import SMALL, contents, small

from polargrad.cli import main
from polargrad.experiments import runner
from polargrad.experiments.paper_report import TITLE
from polargrad.experiments.quadratic import build, quadratic
from polargrad.experiments.reproduce import EXPERIMENTS
from polargrad.experiments.trace import run_to_file

QUICK = ["reproduce", "quadratic", "--quick", "--workers", "1"]


def tiny(experiment, *, quick=False, era="reference", oracle="published"):
    version = "quick" if quick else "full"
    return replace(experiment, version=version, era=era, oracle=oracle)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory, and a small experiment in the place of 6.1."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "quadratic", partial(tiny, SMALL))
    return tmp_path


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (
            "reproduce",
            [
                "--seeds INT...",
                "--oracle {published,exact,tolerance}",
                "--era {reference,paper}",
                "{quadratic,logistic,completion,all}",
            ],
        ),
        ("demo", ["--seed INT"]),
    ],
)
def test_help_is_text(command, options, capsys):
    assert main([command, "--help"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    for option in ["--out PATH", *options]:
        assert option in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reproduce", "cubic"], "one of quadratic, logistic, completion, got 'cubic'"),
        (["reproduce", "all", "--seeds", "-1"], "seeds must be from 0 to 4294967295, got -1"),
        (["reproduce", "all", "--seeds", "3", "3"], "each once, got [3, 3]"),
        (["reproduce", "all", "--era", "now"], "era must be one of reference, paper, got 'now'"),
        (["reproduce", "all", "--oracle", "svd"], "oracle must be one of published, exact"),
        (["reproduce", "quadratic", "--workers", "0"], "workers must be at least 1, got 0"),
        (["demo", "--steps", "0"], "steps must be at least 1, got 0"),
    ],
)
def test_errors_are_one_line(words, message, capsys, here):
    assert main(words) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(here.iterdir()) == []


def test_a_second_call_does_nothing_and_says_so(capsys, here):
    assert main(QUICK) == 0
    printed = capsys.readouterr().out
    assert "quadratic: f(X) − f*, seeds [42]" in printed
    assert "PolarGrad" in printed
    assert "nothing to do" not in printed
    assert "report: runs/reproduce-quick/report.html" in printed
    folder = here / "runs" / "reproduce-quick"
    assert {path.name for path in folder.iterdir()} == {"quadratic", "report.html", "report.md"}
    before = contents(here)

    assert main(QUICK) == 0
    printed = capsys.readouterr().out
    assert "PolarGrad" in printed
    assert "nothing to do: all runs are finished" in printed
    assert contents(here) == before


def test_a_seed_that_is_added_comes_into_the_report(capsys, here):
    assert main(QUICK) == 0
    assert main([*QUICK, "--seeds", "42", "7"]) == 0
    assert "seeds [7, 42]" in capsys.readouterr().out
    text = (here / "runs/reproduce-quick/report.md").read_text(encoding="utf-8")
    assert "seeds 7, 42" in text


def test_a_report_that_was_not_written_is_written_later(capsys, here):
    """As after a kill between the experiments' last file and the report's."""
    assert main(QUICK) == 0
    folder = here / "runs" / "reproduce-quick"
    old = (folder / "report.html").read_bytes()
    (folder / "report.html").write_text(f"{TITLE}, of an earlier session")
    os.utime(folder / "report.html", (0, 0))
    assert main(QUICK) == 0
    assert (folder / "report.html").read_bytes() == old
    assert "nothing to do" in capsys.readouterr().out


def test_a_foreign_report_is_refused_before_anything_runs(capsys, here):
    page = here / "out" / "report.html"
    page.parent.mkdir()
    page.write_text("<title>Annual report</title>")
    before = contents(here)
    assert main([*QUICK, "--out", "out"]) == 2
    assert "'out/report.html' is not a report of this command: move it" in capsys.readouterr().err
    assert contents(here) == before


def test_what_is_made_again_is_said(capsys, here):
    assert main(QUICK) == 0
    timing = here / "runs" / "reproduce-quick" / "quadratic" / "timing.json"
    timing.unlink()
    capsys.readouterr()
    assert main(QUICK) == 0
    printed = capsys.readouterr().out
    assert "all runs were finished; made again: what follows from them" in printed
    assert "nothing to do" not in printed
    assert timing.exists()


def test_the_folder_says_which_options_made_it(capsys, here):
    words = ["--workers", "1", "--seeds", "1"]
    assert main(["reproduce", "quadratic", "--era", "paper", "--oracle", "exact", *words]) == 0
    assert (here / "runs" / "reproduce-paper-exact" / "quadratic").is_dir()


def test_other_settings_are_refused_and_overwrite_begins_again(capsys, here, monkeypatch):
    assert main([*QUICK, "--out", "a"]) == 0
    before = contents(here)
    monkeypatch.setitem(EXPERIMENTS, "quadratic", partial(tiny, small(steps=4)))
    capsys.readouterr()
    assert main([*QUICK, "--out", "a"]) == 2
    error = capsys.readouterr().err
    assert "steps: 6 there, 4 here" in error
    assert error.count("\n") == 1
    assert contents(here) == before
    assert main([*QUICK, "--out", "a", "--overwrite"]) == 0
    assert "at step 4" in capsys.readouterr().out


def test_the_published_values_are_compared(capsys, here, monkeypatch):
    """Ten steps of the published problem."""
    (run,) = (run for run in quadratic().runs if run.name == "polargrad")
    short = replace(SMALL, runs=(run,), figures=(), build=build, steps=10, every=10)
    monkeypatch.setitem(EXPERIMENTS, "quadratic", partial(tiny, short))
    assert main(QUICK) == 0
    assert "published code, seed 42: 2 of 2 values agree" in capsys.readouterr().out


def test_a_file_in_the_place_of_the_folder_is_left_alone(capsys, here):
    (here / "thesis.tex").write_text("mine")
    assert main([*QUICK, "--out", "thesis.tex"]) == 2
    error = capsys.readouterr().err
    assert "thesis.tex" in error
    assert error.count("\n") == 1
    assert (here / "thesis.tex").read_text() == "mine"
    assert [path.name for path in here.iterdir()] == ["thesis.tex"]


def test_ctrl_c_leaves_what_is_finished(capsys, here, monkeypatch):
    """Between two runs; within one, see the tests of the runner."""

    def interrupted(experiment, seed, run, records):
        if run.name == "gradient-descent":
            raise KeyboardInterrupt
        run_to_file(experiment, seed, run, records)

    with monkeypatch.context() as patched:
        patched.setattr(runner, "run_to_file", interrupted)
        assert main(QUICK) == 130
    assert "error: interrupted" in capsys.readouterr().err
    seed = here / "runs" / "reproduce-quick" / "quadratic" / "seed-42"
    assert [path.name for path in seed.iterdir()] == ["polargrad.jsonl"]
    before = contents(seed)
    assert main(QUICK) == 0
    assert contents(seed).items() >= before.items()
