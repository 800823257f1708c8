"""``polargrad sweep`` as it is typed: options, the plan, what it leaves, what it says."""

import dataclasses
import inspect
import json
import random
import shlex
import subprocess
import sys
import time

import pytest
from pretraining_runs import FakeTraining

from polargrad.cli import main
from polargrad.cli.sweep import OF_SEARCH, OF_TRAINING, Sweep
from polargrad.experiments.pretraining import report as report_module
from polargrad.experiments.pretraining import run as run_module
from polargrad.experiments.pretraining.protocol import SweepProtocol
from polargrad.language import RECIPES, TrainSettings

SHORT = "sweep --preset tiny --steps 40 --eval-every 5 --seeds 1 --points 3 --optimizers adamw muon"


@pytest.fixture
def fake(monkeypatch):
    """Training and figures are replaced."""
    training = FakeTraining()
    monkeypatch.setattr(run_module.gc, "collect", lambda: 0)
    monkeypatch.setattr(run_module, "train", lambda settings: training(settings))
    for name in ("draw_rates", "draw_pretraining"):
        monkeypatch.setattr(report_module, name, lambda *arguments, **options: [])
    return training


def test_options_have_the_defaults_of_what_they_set():
    options = {field.name: field.default for field in dataclasses.fields(Sweep)}
    settings = {field.name: field.default for field in dataclasses.fields(TrainSettings)}
    given = {"preset": "small"}
    assert {n: options[n] for n in OF_TRAINING} == {n: settings[n] for n in OF_TRAINING} | given
    of_protocol = inspect.signature(SweepProtocol).parameters
    for name in set(OF_SEARCH) - {"optimizers", "steps"}:
        assert options[name] == of_protocol[name].default, name


def test_help_explains_every_option(capsys):
    assert main(["sweep", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(Sweep):
        assert "--" + field.name.replace("_", "-") in shown
    for name in RECIPES:
        assert name in shown


def test_a_plan_says_what_is_left_and_does_nothing(tmp_path, capsys):
    out = tmp_path / "out"
    words = [*SHORT.split(), "--out", str(out), "--dry-run"]
    assert main(words) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    # 3 + 2 + 1 points and 2 + 1 + 1, in 40 steps 70 and 50 of them, and a seed; of 2,048 bytes.
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert rows[1] == ["adamw", "0 steps", "11", "160", "327,680", "not known yet"]
    assert rows[3] == [
        "to come: 22 sessions, 320 steps; the time will be known after the first session"
    ]
    assert not out.exists()


def test_a_plan_of_another_sweep_is_refused(fake, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert main([*SHORT.split(), "--out", out]) == 0
    assert main([*SHORT.split(), "--out", out, "--beta2", "0.9", "--dry-run"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err


def test_a_plan_knows_the_time_once_something_has_run(fake, tmp_path, capsys):
    out = str(tmp_path / "out")
    fake.interrupt_at = 5
    assert main([*SHORT.split(), "--out", out]) == 130
    said = capsys.readouterr().err
    assert f"to continue: polargrad sweep --out {out} --optimizers adamw muon --preset tiny" in said
    assert main([*SHORT.split(), "--out", out, "--dry-run"]) == 0
    assert "about 0 s, if no grid has to be extended" in capsys.readouterr().out


def test_it_runs_says_where_the_report_is_and_then_has_nothing_to_do(fake, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*SHORT.split(), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"
    ran = len(fake.calls)
    assert main([*SHORT.split(), "--out", str(out)]) == 0
    assert "nothing to do: all is finished" in capsys.readouterr().out
    assert len(fake.calls) == ran


def test_the_command_of_the_report_makes_the_same_sweep_anywhere(fake, tmp_path):
    out = tmp_path / "out"
    more = "--centres muon.lr=0.02 --weight-decay 0.1 --rungs 0.5 1.0 --clip 1.0 --rates lr"
    assert main([*SHORT.split(), *more.split(), "--out", str(out)]) == 0
    data = json.loads((out / "sweep.json").read_text())
    assert str(tmp_path) not in data["command"]
    again = tmp_path / "again"
    assert main([*shlex.split(data["command"])[1:], "--out", str(again)]) == 0
    assert json.loads((again / "sweep.json").read_text())["protocol"] == data["protocol"]
    assert data["protocol"]["centres"]["muon.lr"] == 0.02
    assert data["protocol"]["training"]["weight_decay"] == 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--optimizers sgd", "unknown optimizer 'sgd'"),
        ("--points 2", "points must be an odd number of at least 3, got 2"),
        ("--centres muon.lr", "centres must be given as NAME.RATE=FLOAT, got 'muon.lr'"),
        ("--preset huge", "unknown preset 'huge'"),
        ("--weight-decay -1", "weight_decay must be at least 0 and finite, got -1.0"),
        ("--seeds 1 1", "seeds must be at least one, each once, got [1, 1]"),
    ],
)
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, capsys, options, message):
    out = tmp_path / "out"
    assert main(["sweep", "--out", str(out), *options.split()]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("polargrad sweep: error: " + message)
    assert said.count("\n") == 1
    assert not out.exists()


def small_sweep(tmp_path, more=""):
    """The words of a sweep of a model that takes a step in milliseconds."""
    text = tmp_path / "text.txt"
    text.write_text("".join(f"{n} times {n} is {n * n}\n" for n in range(900)))
    model = {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 16,
    }
    (tmp_path / "config.json").write_text(json.dumps(model))
    return (
        f"sweep --preset {tmp_path / 'config.json'} --data {text} --steps 8 --rates lr --points 3 "
        f"--rungs 0.5 1 --extensions 0 --seeds 1 --optimizers muon-polarsgdm --eval-every 4 {more}"
    ).split()


def test_a_real_sweep_of_a_small_model(tmp_path):
    """End to end, with training as it is: what was stopped goes on from its checkpoint."""
    out = tmp_path / "out"
    assert main([*small_sweep(tmp_path, "--watch-every 4"), "--out", str(out)]) == 0
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| Muon + PolarSGDM |" in text
    assert "median κ₂" not in text  # Muon itself took no part
    records = [r for p in out.glob("runs/*/records.jsonl") for r in p.read_text().splitlines()]
    assert len([path for path in (out / "runs").iterdir() if path.is_dir()]) == 4
    # Three to step 4, two of them to step 8, one on the seed; and the initial loss of each run.
    assert len(records) == (3 * 4 + 2 * 4 + 8) + 4
    for name in ("loss_tokens.png", "rates_hidden.png", "spectra_tables.png"):
        assert (out / name).stat().st_size > 1000
    assert not list(out.rglob("checkpoints"))


@pytest.mark.slow
def test_a_sweep_that_is_killed_again_and_again_comes_to_the_same(tmp_path):
    """SIGKILL after a number of records drawn from a seed, in every session that gets so far."""
    words = small_sweep(tmp_path)
    assert main([*words, "--out", str(tmp_path / "straight")]) == 0
    out, generator = tmp_path / "killed", random.Random(0)
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(
            [sys.executable, "-m", "polargrad", *words, "--out", out],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        written, patience = _records(out), generator.randint(3, 12)
        while process.poll() is None and _records(out) < written + patience:
            time.sleep(0.01)
        if process.poll() is not None:
            break
        process.kill()
        process.wait()
        kills += 1
    assert process.returncode == 0
    assert kills >= 3
    assert _losses(out) == _losses(tmp_path / "straight")


def _records(folder):
    """How many steps all runs of a sweep have recorded."""
    return sum(p.read_text().count("\n") for p in folder.glob("runs/*/records.jsonl"))


def _losses(folder):
    lines = map(json.loads, (folder / "results.jsonl").read_text().splitlines())
    return [(line["run"], line["step"], line["validation_loss"]) for line in lines]
