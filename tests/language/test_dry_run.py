"""What a dry run says is what the run then takes."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import polargrad as pg
from polargrad.language import DEFAULTS, PRESETS, TrainSettings, dry_run
from polargrad.language.evaluation import language_model_loss
from polargrad.language.models import ConfigPreset
from polargrad.language.optimizers import optimizer_for
from polargrad.language.presets import build_model
from polargrad.language.recipes import POLAR_METHODS
from polargrad.optim.memory import step_bytes


def stepped(preset, settings):
    """Model and optimizer of the run after one real step."""
    model = build_model(preset, seed=0)
    optimizer = optimizer_for(model, settings)
    language_model_loss(model, torch.zeros(1, 5, dtype=torch.int64)).backward()
    optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("name", DEFAULTS)
def test_memory_is_what_the_run_then_holds(kind, name):
    settings = TrainSettings(preset=kind, optimizer=name, steps=1)
    plan = dry_run(settings)
    model, optimizer = stepped(kind, settings)
    assert plan.parameters == sum(p.numel() for p in model.parameters())
    assert plan.parameter_bytes == plan.gradient_bytes == 4 * plan.parameters
    state = [v for entry in optimizer.state.values() for v in entry.values()]
    assert plan.state_bytes == sum(v.nbytes for v in state if torch.is_tensor(v))
    assert plan.step_bytes == step_bytes(optimizer)
    assert plan.total_bytes == (
        plan.parameter_bytes + plan.gradient_bytes + plan.state_bytes + plan.step_bytes
    )


@pytest.mark.parametrize("method", POLAR_METHODS)
def test_a_method_that_looks_at_values_is_planned_too(small, method):
    settings = TrainSettings(preset=small, optimizer="polarmuon", method=method, steps=1)
    plan = dry_run(settings)
    _, optimizer = stepped(small, settings)
    assert plan.step_bytes == step_bytes(optimizer)
    real = {row.rule for row in pg.explain(optimizer).rows}
    assert {row.rule for row in plan.routing.rows} == real


@pytest.mark.parametrize("name", ["polargrad", "muon", "muon-polarsgdm", "symmetric"])
def test_the_methods_are_those_of_the_run_and_not_of_the_meta_device(kind, name):
    settings = TrainSettings(preset=kind, optimizer=name, steps=1)
    _, optimizer = stepped(kind, settings)
    real = {row.rule for row in pg.explain(optimizer).rows}
    assert {row.rule for row in dry_run(settings).routing.rows} == real


def test_the_table_has_every_parameter_once():
    for name, preset in PRESETS.items():
        plan = dry_run(TrainSettings(preset=preset, optimizer="polargrad", steps=1))
        assert sum(row.numel for row in plan.routing.rows) == plan.parameters
        assert len(plan.routing.rows) < 25, name


def test_the_table_of_adamw_says_adamw_and_its_rates():
    settings = TrainSettings(optimizer="adamw", lr=0.5, vector_lr=0.25, weight_decay=0.1, steps=1)
    rows = {row.name: row for row in dry_run(settings).routing.rows}
    assert {row.rule for row in rows.values()} == {"AdamW"}
    assert {row.weight_decay for row in rows.values()} == {0.1}
    assert rows["lm_head.weight"].lr == 0.25
    assert rows["model.layers.{0–3}.mlp.up_proj.weight"].lr == 0.5
    one_rate = dry_run(TrainSettings(optimizer="adamw", lr=0.5, steps=1))
    assert {row.lr for row in one_rate.routing.rows} == {0.5}


def test_the_report_says_its_numbers():
    plan = dry_run(TrainSettings(preset="qwen2.5", optimizer="muon", steps=1))
    lines = [" ".join(line.split()) for line in str(plan).splitlines()]
    assert lines[0] == "qwen2.5: 540,865,536 parameters, muon"
    assert f"parameters {plan.parameter_bytes / 2**30:.2f} GiB" in lines
    assert f"optimizer state {plan.state_bytes / 2**30:.2f} GiB" in lines
    assert f"a step beside these, at most {plan.step_bytes / 2**20:.2f} MiB" in lines
    assert f"training {plan.flops.training / 1e9:.3g} G" in lines
    assert f"a step of 8,192 tokens {8192 * plan.flops.training / 1e12:.3g} T" in lines


def test_what_is_not_known_is_said():
    configuration = {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 1}
    preset = ConfigPreset({**configuration, "vocab_size": 256}, context=16, batch=2)
    report = str(dry_run(TrainSettings(preset=preset, optimizer="adamw", steps=1)))
    assert "FLOPs per token, attention (sizes unknown) left out" in report
    assert "a step beside these" not in report


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux")
def test_nothing_is_allocated():
    """A run of 8 GiB is planned by a process whose memory never grows by half a GiB."""
    program = (
        "import re, pathlib, torch, transformers\n"
        "from polargrad.language import TrainSettings, dry_run\n"
        "def peak():\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(re.search(r'VmHWM:\\s+(\\d+)', status)[1]) * 1024\n"
        "dry_run(TrainSettings(optimizer='muon', steps=1))\n"
        "before = peak()\n"
        "plan = dry_run(TrainSettings(preset='qwen2.5', optimizer='muon', steps=1))\n"
        "print(peak() - before, plan.total_bytes)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    grown, planned = map(int, done.stdout.split())
    assert planned > 7 * 2**30
    assert grown < 2**29


def test_nothing_is_written_or_asked_for(tmp_path, monkeypatch):
    """And the caller's random numbers and device are left alone."""

    def refuse(*arguments):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.chdir(tmp_path)
    before = torch.get_rng_state()
    dry_run(TrainSettings(preset="qwen2.5", optimizer="adamw", steps=1, out=tmp_path / "out"))
    assert torch.equal(before, torch.get_rng_state())
    assert list(tmp_path.iterdir()) == []
    assert torch.empty(()).device.type == "cpu"


def test_it_says_what_will_be_read_and_how_the_rate_runs():
    settings = TrainSettings(
        optimizer="adamw", preset="small", steps=100, schedule="cosine", batch=4, accumulate=3
    )
    plan = dry_run(settings)
    assert plan.tokens == 4 * 3 * 256
    assert str(plan).splitlines()[-4:] == [
        "run",
        "  data            the standard library's source, as a byte-level BPE of 4,096 tokens",
        "  a step          4 windows of 256 tokens × 3 micro-batches, on each rank",
        "  learning rate   cosine, 100 steps: times 0.05 at step 1, 0.99 at step 26, "
        "0.691 at step 51, 0.222 at step 76, 0.000385 at step 100",
    ]
