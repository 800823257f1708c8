"""``polargrad train`` as it is typed: options, messages, Ctrl-C."""

import dataclasses
import json
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
import torch

from polargrad.cli import main
from polargrad.cli.train import Train
from polargrad.language import DEFAULTS, PRESETS, TrainSettings, rate_in_words
from polargrad.records import read_records


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("".join(f"{n} times {n} is {n * n}\n" for n in range(300)))
    return path


def test_the_options_are_the_settings():
    """Same names, same defaults; what the command line must not ask for has a default there."""
    options = {field.name: field.default for field in dataclasses.fields(Train)}
    assert options.pop("dry_run") is False
    settings = {field.name: field.default for field in dataclasses.fields(TrainSettings)}
    assert options.keys() == settings.keys()
    given = {"optimizer": "polargrad", "steps": 400}
    assert options == {**settings, **given}


def test_help_explains_every_option(capsys):
    assert main(["train", "--help"]) == 0
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for field in dataclasses.fields(Train):
        assert "--" + field.name.replace("_", "-") in shown
    for name in [*DEFAULTS, *PRESETS]:
        assert name in shown
    for defaults in DEFAULTS.values():
        assert rate_in_words(defaults.lr) in shown


def test_trains_and_says_what_came_of_it(text, tmp_path, capsys):
    out = tmp_path / "out"
    words = f"train --out {out} --data {text} --optimizer adamw --lr 2e-3 --steps 2".split()
    assert main(words) == 0
    loss = list(read_records(out / "records.jsonl"))[-1]["validation_loss"]
    said = capsys.readouterr().out
    assert f"validation loss {loss:.4f} nats per byte, 2 of 2 steps" in said
    assert str(out) in said
    assert main(words) == 2  # the same once more
    assert "already holds this run" in capsys.readouterr().err
    assert main([*words, "--resume"]) == 0
    assert main([*words, "--lr", "1e-3", "--resume"]) == 2
    assert "lr: 0.002 there, 0.001 here" in capsys.readouterr().err


def test_a_session_may_end_before_the_run(text, tmp_path, capsys):
    words = f"train --out {tmp_path / 'out'} --data {text} --optimizer adamw --steps 3".split()
    assert main([*words, "--stop-after", "2"]) == 0
    printed, said = capsys.readouterr()
    assert "2 of 3 steps" in printed
    (command,) = re.findall(r"to continue: polargrad (.*)\n", said)
    assert "--stop-after" not in command
    assert main(shlex.split(command)) == 0
    printed, said = capsys.readouterr()
    assert "3 of 3 steps" in printed
    assert "to continue" not in said


def test_the_command_that_continues_starts_as_many_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    command = Train(out=tmp_path, accumulate=2, mesh="fsdp=4", stop_after=3).resume_command()
    assert command == (
        f"torchrun --nproc-per-node 4 -m polargrad train --out {tmp_path} --accumulate 2 "
        "--mesh fsdp=4 --resume"
    )


def test_records_are_read_with_their_field_up_to_a_limit(tmp_path, capsys):
    """A JSONL file, as tokens of a model that is no byte model, in a cache of its own."""
    lines = [json.dumps({"body": f"{n} and {n * n} are {n + n * n}"}) for n in range(2000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    configuration = {"model_type": "llama", "vocab_size": 300, "hidden_size": 16}
    configuration |= {"intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    configuration |= {"num_key_value_heads": 2, "max_position_embeddings": 32}
    (tmp_path / "config.json").write_text(json.dumps(configuration))
    words = f"train --out {tmp_path / 'out'} --data {tmp_path / 'a.jsonl'} --field body".split()
    words += f"--limit 5000 --preset {tmp_path} --cache {tmp_path / 'cache'} --steps 2".split()
    assert main([*words, "--optimizer", "adamw"]) == 0
    printed, said = capsys.readouterr()
    assert "nats per token" in printed
    assert re.search(r"4,\d{3} tokens to train on, \d{3} to validate", said)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["tokenizers", "tokens"]


WRONG = {
    "--lr -1": "lr must be positive and finite, got -1.0",
    "--lr -1e-3": "lr must be positive and finite, got -0.001",
    "--lr=-1e-3": "lr must be positive and finite, got -0.001",
    "--lr nan": "lr must be positive and finite, got nan",
    "--steps 0": "steps must be at least 1, got 0",
    "--seed -1": "seed must be from 0 to 4294967295, got -1",
    "--optimizer sgd": "unknown optimizer 'sgd': choose from polargrad, muon, adamw",
    "--preset huge": "unknown preset 'huge': choose from tiny",
    "--beta2 1": "beta2 must be at least 0 and less than 1, got 1.0",
    "--data /no/such/file": "data is '/no/such/file', which does not exist",
    "--schedule step": "unknown schedule 'step': choose from linear, cosine, wsd, constant",
    "--schedule cosine --decay-share 0.1": "decay_share is of the schedules linear and wsd",
    "--precision half": "unknown precision 'half': choose from no, bf16, auto",
    "--tracker paper": "unknown tracker 'paper': choose from aim, clearml",
    "--tokenizer /no/such": "tokenizer is '/no/such', where there is no tokenizer.json",
    "--field body": "field is of records (JSONL, Parquet, hf:NAME) alone, got 'body'",
    "--resume": "nothing to resume",
    "--resume --overwrite": "resume and overwrite exclude each other",
}


@pytest.mark.parametrize("options", WRONG)
def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path, capsys, options):
    out = tmp_path / "out"
    assert main(["train", "--out", str(out), *options.split()]) == 2
    printed, said = capsys.readouterr()
    assert printed == ""
    assert said.startswith("polargrad train: error: " + WRONG[options])
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("qwen2.5", "540,865,536"),
        ("gpt2-small", "275,742,772"),
        ("gpt2-medium", "454,496,336"),
    ],
)
def test_a_dry_run_says_what_it_takes_and_does_nothing(
    tmp_path, monkeypatch, capsys, preset, expected
):
    monkeypatch.chdir(tmp_path)
    for out in ([], ["--out", "out"]):
        assert main(["train", "--preset", preset, "--dry-run", *out]) == 0
        printed, said = capsys.readouterr()
        assert printed.startswith(f"{preset}: {expected} parameters, polargrad\n")
        assert said == ""
    for part in ("embedding", "head", "matrix rule: ", "optimizer state", "FLOPs per token"):
        assert part in printed
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_checks_what_it_is_given(capsys):
    assert main(["train", "--dry-run", "--lr", "-1"]) == 2
    assert "lr must be positive and finite" in capsys.readouterr().err
    assert main(["train", "--dry-run", "--preset", "no/such"]) == 2
    assert "there is no file 'no/such'" in capsys.readouterr().err


def test_a_run_needs_a_folder(capsys):
    assert main(["train"]) == 2
    assert "error: out must be given: --out FOLDER, or --dry-run" in capsys.readouterr().err


def test_a_preset_is_given_by_the_path_of_a_configuration(text, tmp_path, capsys):
    configuration = {
        "model_type": "llama",
        "vocab_size": 256,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32,
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(configuration))
    words = f"train --out {tmp_path / 'out'} --data {text} --optimizer adamw --steps 2".split()
    assert main([*words, "--preset", str(path)]) == 0
    assert "2 of 2 steps" in capsys.readouterr().out


def test_an_output_folder_with_other_files_is_left_alone(text, tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "settings.json").write_text('{"editor": "mine"}')
    words = f"train --out {tmp_path / 'mine'} --data {text} --optimizer adamw --steps 1".split()
    assert main([*words, "--overwrite"]) == 2
    assert "is not of a run of this package" in capsys.readouterr().err
    assert (tmp_path / "mine" / "settings.json").read_text() == '{"editor": "mine"}'


def test_a_loss_that_is_not_finite_ends_with_1(text, tmp_path, capsys):
    words = f"train --out {tmp_path / 'out'} --data {text} --optimizer adamw --steps 9".split()
    assert main([*words, "--lr", "1e38"]) == 1
    said = capsys.readouterr().err
    assert re.search(r"polargrad train: error: the .* became (nan|inf) at step \d", said)
    assert "give a smaller lr" in said


@pytest.mark.parametrize(
    ("kind", "code"),
    [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 0)],
)
def test_a_signal_leaves_a_checkpoint_that_the_printed_command_resumes(text, tmp_path, kind, code):
    out = tmp_path / "a folder"
    options = ["--optimizer", "adamw", "--lr", "2e-3", "--steps", "14", "--seed", "3"]
    process = subprocess.Popen(
        [sys.executable, "-m", "polargrad", "train", "--out", out, "--data", text, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell that runs the tests in the background has Ctrl-C ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    records = out / "records.jsonl"
    while process.poll() is None and not (records.exists() and records.read_text().count("\n") > 2):
        time.sleep(0.02)
    process.send_signal(kind)
    printed, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "Traceback" not in said
    checkpoint = max(out.glob("checkpoints/*.pt"))
    stopped = torch.load(checkpoint, weights_only=True)["step"]
    assert 0 < stopped < 14
    assert f"stopped after step {stopped} of 14" in said
    assert f"{stopped} of 14 steps" in printed
    assert (out / "loss.png").exists()
    (command,) = re.findall(r"to continue: polargrad (.*)\n", said)
    assert main(shlex.split(command)) == 0
    assert [record["step"] for record in read_records(records)] == list(range(15))
