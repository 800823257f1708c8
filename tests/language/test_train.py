"""A training run: what it leaves, that it learns, that it is the same twice."""

import json
import math
import platform
import threading

import pytest
import torch
from training_runs import assert_same_run, records

from polargrad.language import DEFAULTS, open_input, train
from polargrad.language.data import evaluation_batches
from polargrad.language.evaluation import language_model_loss
from polargrad.language.models import ConfigPreset
from polargrad.language.presets import build_model
from polargrad.records import read_records

FILES = ["checkpoints", "loss.png", "provenance.json", "records.jsonl", "settings.json"]


def test_a_run_leaves_its_records(settings, small, text):
    result = train(settings())
    digest = open_input(small, text).data.digest
    assert sorted(path.name for path in result.out.iterdir()) == FILES
    found = list(read_records(result.out / "records.jsonl"))
    assert [record["step"] for record in found] == list(range(9))
    for record in found:
        assert record["corpus"] == digest
        assert record["python"] == platform.python_version()
    assert [r["step"] for r in found if "validation_loss" in r] == [0, 3, 6, 8]
    assert all(r["loss"] > 0 and r["gradient_norm"] > 0 for r in found[1:])
    assert result.validation_loss == found[-1]["validation_loss"]
    assert result.seconds == pytest.approx(sum(r["seconds"] for r in found[1:]))
    assert all(0 < r["optimizer_seconds"] < r["seconds"] for r in found[1:])
    assert [r["tokens"] for r in found[1:]] == [64 * step for step in range(1, 9)]
    assert [r["step"] for r in found if r.get("peak_memory", 0) > 1e7] == [3, 6, 8]
    assert (result.steps, result.interrupted) == (8, None)
    assert (result.tokens, result.unit) == (512, "byte")
    (session,) = json.loads((result.out / "provenance.json").read_text())
    assert (session["from_step"], session["data"]) == (0, str(text))


@pytest.mark.parametrize("windows", [1, 5])
def test_the_validation_loss_is_of_as_many_windows_as_asked(settings, small, text, windows):
    """Before the first step, against the model as it was drawn, over those windows."""
    first, *_ = records(train(settings(steps=1, eval_windows=windows)).out)
    model = build_model(small, 0)
    held_out = open_input(small, text).data.validation
    batches = evaluation_batches(held_out, batch=1, context=small.context, windows=windows)
    with torch.no_grad():
        losses = [language_model_loss(model, batch).item() for batch in batches]
    assert len(losses) == windows
    assert first["validation_loss"] == pytest.approx(sum(losses) / windows, rel=1e-6)


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_optimizer_learns(settings, name):
    """A hundred steps on sums: far below log 256, the loss of guessing."""
    lr = {"polargrad": 0.03, "muon": 0.02, "adamw": 0.01}.get(name)
    vector_lr = None if name == "adamw" else 0.01
    result = train(settings(optimizer=name, lr=lr, vector_lr=vector_lr, steps=100, eval_every=50))
    assert result.validation_loss < 3.0 < math.log(256)


def test_the_records_are_of_the_loss_before_the_step(settings, small):
    """The loss at step k + 1 is that of the parameters after k steps, on a batch we can draw."""
    from polargrad.language.presets import build_model

    run = settings(steps=4, checkpoint_every=4)
    model = build_model(small, run.seed)
    batches = open_input(small, run.data).batches(small, run.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0)
    expected = []
    for step in range(4):
        optimizer.param_groups[0]["lr"] = 1e-3 * min((step + 1) / 20, (4 - step) / 1.6)
        windows = batches[step]
        optimizer.zero_grad()
        loss = model(input_ids=windows, labels=windows).loss
        loss.backward()
        optimizer.step()
        expected.append(loss.item())
    train(run)
    found = [record["loss"] for record in records(run.out)[1:]]
    assert found == pytest.approx(expected, rel=1e-5)


def test_two_runs_of_the_same_seed_are_equal_and_others_are_not(settings, tmp_path):
    torch.manual_seed(1)
    first = train(settings(out=tmp_path / "a"))
    torch.manual_seed(2)
    second = train(settings(out=tmp_path / "b"))
    assert_same_run(first.out, second.out)
    other = train(settings(out=tmp_path / "c", seed=1))
    assert records(other.out) != records(first.out)


def test_the_callers_generator_is_left_alone(settings):
    before = torch.get_rng_state()
    train(settings())
    assert torch.equal(before, torch.get_rng_state())


def test_training_outside_the_main_thread_works(settings):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(settings())))
    thread.start()
    thread.join()
    assert found[0].steps == 8


def test_a_model_with_dropout_is_measured_without_and_trained_with_it(settings, tmp_path):
    """The measurement draws nothing: how often it is made changes no step; resuming neither."""
    configuration = {
        "model_type": "gpt2",
        "n_embd": 16,
        "n_layer": 1,
        "n_head": 2,
        "vocab_size": 256,
        "resid_pdrop": 0.5,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    preset = ConfigPreset(configuration, context=16, batch=4)
    without = ConfigPreset({**configuration, "resid_pdrop": 0.0}, context=16, batch=4)
    losses = {}
    for name, given in (
        ("seldom", {"preset": preset, "eval_every": 8}),
        ("often", {"preset": preset, "eval_every": 1}),
        ("without", {"preset": without}),
    ):
        found = records(train(settings(**given, out=tmp_path / name)).out)
        assert len(found) == 9
        losses[name] = [record["loss"] for record in found[1:]]
    assert losses["seldom"] == losses["often"] != losses["without"]


def test_overwrite_starts_again(settings):
    train(settings())
    result = train(settings(seed=1, overwrite=True))
    assert [record["step"] for record in records(result.out)] == list(range(9))
    assert json.loads((result.out / "settings.json").read_text())["seed"] == 1


def test_what_is_left_out_of_the_text_is_said(settings, tmp_path, capsys):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("text\n" * 500)
    (folder / "b.png").write_bytes(b"\xff" * 10)
    train(settings(data=folder))
    assert (
        "2,250 bytes to train on, 250 to validate (the last tokens), documents: 1, 1 files that "
        "are not text left out" in capsys.readouterr().err
    )
