"""A training run: what it leaves, that it resumes to the bit, how it ends before its time."""

import errno
import importlib
import itertools
import json
import math
import platform
import signal
import sys
import threading

import pytest
import torch

from polargrad.errors import DataError, MissingExtraError, NonFiniteError, RunFolderError
from polargrad.language import DEFAULTS, open_input, train
from polargrad.language import checkpoint as checkpoint_module
from polargrad.language import stepper as stepper_module
from polargrad.language import train as train_function
from polargrad.language.checkpoint import Checkpoints
from polargrad.language.data import TrainingBatches
from polargrad.language.models import ConfigPreset, TokenPreset
from polargrad.records import RecordWriter, exclusive, read_records

train_module = sys.modules[train_function.__module__]

FILES = ["checkpoints", "loss.png", "provenance.json", "records.jsonl", "settings.json"]
MEASURED = {"seconds", "optimizer_seconds", "tokens_per_second", "peak_memory"}


def records(out):
    """The records of a run without what differs between two equal runs."""
    found = read_records(out / "records.jsonl")
    return [{k: v for k, v in record.items() if k not in MEASURED} for record in found]


def last_checkpoint(out):
    """The contents of the last checkpoint."""
    checkpoints = Checkpoints(out / "checkpoints", keep=1)
    return torch.load(checkpoints.path(checkpoints.steps[-1]), weights_only=True)


def flat(data, name=""):
    """All leaves of nested dicts and lists by their path."""
    if isinstance(data, dict):
        return {k: v for key in data for k, v in flat(data[key], f"{name}/{key}").items()}
    if isinstance(data, list | tuple):
        return {k: v for n, item in enumerate(data) for k, v in flat(item, f"{name}/{n}").items()}
    return {name: data}


def assert_same_run(one, other):
    """Parameters, optimizer state, schedule and records are equal to the bit."""
    assert records(one) == records(other)
    states = [flat(last_checkpoint(out)) for out in (one, other)]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
        assert equal(value, states[1][name]), name


def contents(folder):
    """All files below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


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


@pytest.mark.parametrize("name", DEFAULTS)
def test_each_optimizer_learns(settings, name):
    """A hundred steps on sums: far below log 256, the loss of guessing."""
    lr = {"polargrad": 0.03, "muon": 0.02, "adamw": 0.01}[name]
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


class Killed(BaseException):
    """The end of a process, as far as the run can tell."""


def run_until_killed(settings, monkeypatch, step):
    """Start a run that ends without notice before its step ``step + 1``."""
    read = TrainingBatches.__getitem__

    def read_or_die(batches, at):
        if at == step:
            raise Killed
        return read(batches, at)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingBatches, "__getitem__", read_or_die)
        with pytest.raises(Killed):
            train(settings)


@pytest.mark.parametrize("name", DEFAULTS)
def test_a_killed_run_resumes_to_the_bit(settings, tmp_path, monkeypatch, name):
    whole = train(settings(optimizer=name, out=tmp_path / "whole"))
    run_until_killed(settings(optimizer=name), monkeypatch, step=5)
    assert records(tmp_path / "out")[-1]["step"] == 5  # beyond the checkpoint, at step 3
    resumed = train(settings(optimizer=name, resume=True))
    assert_same_run(whole.out, resumed.out)
    assert resumed.validation_loss == whole.validation_loss
    sessions = json.loads((resumed.out / "provenance.json").read_text())
    assert [session["from_step"] for session in sessions] == [0, 3]


def test_a_run_killed_before_its_first_checkpoint_begins_again(settings, tmp_path, monkeypatch):
    whole = train(settings(out=tmp_path / "whole"))
    run_until_killed(settings(), monkeypatch, step=2)
    assert not (tmp_path / "out" / "checkpoints").exists()
    assert_same_run(whole.out, train(settings(resume=True)).out)


def test_a_record_that_was_being_written_is_written_again(settings, tmp_path, monkeypatch):
    whole = train(settings(out=tmp_path / "whole"))
    run_until_killed(settings(), monkeypatch, step=4)
    with (tmp_path / "out" / "records.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert_same_run(whole.out, train(settings(resume=True)).out)


def test_resuming_a_finished_run_only_reports_it(settings):
    first = train(settings())
    before = contents(first.out)
    second = train(settings(resume=True))
    assert second == first
    after = contents(first.out)
    different = {name for name in before if after[name] != before[name]}
    assert after.keys() == before.keys()
    assert different <= {"provenance.json", "loss.png"}


@pytest.mark.parametrize("stop", [2, 3, 7])
def test_a_run_in_sessions_is_the_run_in_one(settings, tmp_path, stop):
    """The schedule is that of the whole run, and a session ends with a checkpoint."""
    whole = train(settings(out=tmp_path / "whole"))
    first = train(settings(stop_after=stop))
    assert (first.steps, first.interrupted) == (stop, None)
    assert last_checkpoint(first.out)["step"] == stop
    again = train(settings(stop_after=stop, resume=True))
    assert again.steps == stop
    assert train(settings(stop_after=100, resume=True)).steps == 8
    assert_same_run(whole.out, tmp_path / "out")


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_after_the_step(settings, tmp_path, monkeypatch, kind):
    before = {s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGINT, kind)}
    try:
        whole = train(settings(out=tmp_path / "whole"))
        read = TrainingBatches.__getitem__

        def read_and_signal(batches, at):
            if at == 4:
                signal.raise_signal(kind)
            return read(batches, at)

        with monkeypatch.context() as patch:
            patch.setattr(TrainingBatches, "__getitem__", read_and_signal)
            result = train(settings())
        assert (result.interrupted, result.steps) == (kind, 5)
        assert last_checkpoint(result.out)["step"] == 5
        assert sorted(path.name for path in result.out.iterdir()) == FILES
        assert signal.getsignal(kind) is signal.default_int_handler
        assert_same_run(whole.out, train(settings(resume=True)).out)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_before_the_first_step_leaves_a_run_that_can_be_resumed(
    settings, tmp_path, monkeypatch
):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        whole = train(settings(out=tmp_path / "whole"))
        build = stepper_module.build_model

        def build_and_signal(*arguments):
            signal.raise_signal(signal.SIGINT)
            return build(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(stepper_module, "build_model", build_and_signal)
            assert train(settings()).steps == 0
        assert sorted(path.name for path in whole.out.iterdir()) == FILES
        assert_same_run(whole.out, train(settings(resume=True)).out)
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_missing_package_is_noticed_before_anything_is_written(settings, tmp_path, monkeypatch):
    """Not after hours of training, when the figure is to be drawn."""
    find = importlib.import_module

    def find_all_but_one(name, *arguments):
        if name == "matplotlib":
            raise ModuleNotFoundError("No module named 'matplotlib'", name="matplotlib")
        return find(name, *arguments)

    monkeypatch.setattr(importlib, "import_module", find_all_but_one)
    with pytest.raises(MissingExtraError, match=r"'matplotlib'.*polargrad\[language\]"):
        train(settings())
    assert not (tmp_path / "out").exists()


def test_training_outside_the_main_thread_works(settings):
    found = []
    thread = threading.Thread(target=lambda: found.append(train(settings())))
    thread.start()
    thread.join()
    assert found[0].steps == 8


def test_a_model_of_each_kind_trains_and_resumes_to_the_bit(settings, tmp_path, monkeypatch, kind):
    whole = train(settings(preset=kind, optimizer="muon", out=tmp_path / "whole"))
    run_until_killed(settings(preset=kind, optimizer="muon"), monkeypatch, step=5)
    resumed = train(settings(preset=kind, optimizer="muon", resume=True))
    assert_same_run(whole.out, resumed.out)
    with pytest.raises(RunFolderError, match="preset"):
        train(settings(optimizer="muon", resume=True))


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


def test_a_text_beyond_the_vocabulary_is_refused(settings, tmp_path):
    sizes = {"layers": 1, "width": 16, "feed_forward": 32, "heads": 2, "context": 16, "batch": 4}
    with pytest.raises(DataError, match=r"256 tokens, the model's vocabulary 122"):
        train(settings(preset=TokenPreset("a", **sizes, vocabulary=122)))
    assert not (tmp_path / "out").exists()


def test_a_run_without_a_folder_is_refused(settings):
    with pytest.raises(ValueError, match="out must be the folder of the run, got None"):
        train(settings(out=None))


def test_a_loss_that_is_not_finite_stops_the_run(settings, tmp_path, monkeypatch):
    """The fifth training loss is made undefined."""
    losses = itertools.count(1)

    def poisoned(model, windows):
        return loss(model, windows) * (float("nan") if next(losses) == 5 else 1.0)

    loss = stepper_module.language_model_loss
    monkeypatch.setattr(stepper_module, "language_model_loss", poisoned)
    with pytest.raises(NonFiniteError, match=r"loss became nan at step 5, where lr was .*lr=0.001"):
        train(settings())
    out = tmp_path / "out"
    assert last_checkpoint(out)["step"] == 3
    assert [record["step"] for record in records(out)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_broken_model_never_replaces_a_good_checkpoint(settings, tmp_path, monkeypatch, value):
    """The fifth step breaks one parameter; no loss has been computed with it yet."""
    step = torch.optim.AdamW.step
    steps = itertools.count(1)

    def step_and_break(optimizer, *arguments):
        step(optimizer, *arguments)
        if next(steps) == 5:
            with torch.no_grad():
                optimizer.param_groups[0]["params"][7].view(-1)[3] = value

    monkeypatch.setattr(torch.optim.AdamW, "step", step_and_break)
    with pytest.raises(NonFiniteError, match=rf"largest parameter became {value} at step 5"):
        train(settings(checkpoint_every=1, eval_every=100))
    contents = last_checkpoint(tmp_path / "out")
    assert contents["step"] == 4
    assert all(parameter.isfinite().all() for parameter in contents["model"].values())


def test_a_learning_rate_that_is_far_too_large_is_named(settings):
    with pytest.raises(NonFiniteError, match=r"at step \d, where lr was .*lr=1e\+38.*smaller lr"):
        train(settings(lr=1e38))


def test_a_folder_with_another_run_is_refused_and_left_alone(settings):
    train(settings())
    before = contents(settings().out)
    with pytest.raises(RunFolderError, match="already holds this run"):
        train(settings())
    for resume in (False, True):
        with pytest.raises(RunFolderError, match="seed: 0 there, 1 here"):
            train(settings(seed=1, resume=resume))
    assert contents(settings().out) == before


def test_no_two_processes_work_in_a_folder(settings, tmp_path):
    train(settings(stop_after=4))
    before = contents(tmp_path / "out")
    with (
        exclusive(tmp_path / "out"),
        pytest.raises(RunFolderError, match="another process is at work"),
    ):
        train(settings(resume=True))
    assert contents(tmp_path / "out") == before
    assert train(settings(resume=True)).steps == 8


def test_overwrite_starts_again(settings):
    train(settings())
    result = train(settings(seed=1, overwrite=True))
    assert [record["step"] for record in records(result.out)] == list(range(9))
    assert json.loads((result.out / "settings.json").read_text())["seed"] == 1


def test_a_changed_text_is_refused_at_the_resume(settings, text):
    train(settings())
    text.write_text(text.read_text() + "more\n")
    with pytest.raises(RunFolderError, match=r"corpus: '.*' there, '.*' here"):
        train(settings(resume=True))


def test_the_same_text_at_another_place_is_the_same_run(settings, text, tmp_path, monkeypatch):
    run_until_killed(settings(), monkeypatch, step=5)
    (tmp_path / "moved").mkdir()
    moved = text.rename(tmp_path / "moved" / text.name)
    assert train(settings(data=moved, resume=True)).steps == 8


def other_checkpoint(out, settings):
    """The checkpoint of a wider model in the place of this run's."""
    wide = type(settings().preset)(**{**settings().preset.as_data(), "width": 32})
    other = train(settings(preset=wide, out=out.parent / "wide"))
    found = Checkpoints(other.out / "checkpoints", keep=1)
    (path,) = out.glob("checkpoints/*.pt")
    path.write_bytes(found.path(8).read_bytes())


def cut_checkpoint(out, settings):
    (path,) = out.glob("checkpoints/*.pt")
    path.write_bytes(path.read_bytes()[:5000])


def no_records(out, settings):
    (out / "records.jsonl").unlink()


SPOILT = {
    "another model": (other_checkpoint, "another run .*width"),
    "damaged": (cut_checkpoint, "is not a checkpoint, or damaged"),
    "no records": (no_records, "lacks steps before the checkpoint's, 3"),
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_checkpoint_that_does_not_belong_is_refused(settings, tmp_path, monkeypatch, kind):
    spoil, message = SPOILT[kind]
    run_until_killed(settings(), monkeypatch, step=5)
    spoil(tmp_path / "out", settings)
    before = contents(tmp_path / "out")
    with pytest.raises(RunFolderError, match=message):
        train(settings(resume=True))
    assert contents(tmp_path / "out") == before


def test_of_a_damaged_checkpoint_the_one_before_is_taken(settings, tmp_path, monkeypatch):
    whole = train(settings(out=tmp_path / "whole"))
    run_until_killed(settings(), monkeypatch, step=7)
    path = tmp_path / "out" / "checkpoints" / "step_00000006.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.warns(UserWarning, match=r"step_00000006.pt.*damaged.*goes on from step 3"):
        train(settings(resume=True))
    assert_same_run(whole.out, tmp_path / "out")
    sessions = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert [session["from_step"] for session in sessions] == [0, 3]


def fills_up(calls):
    """A function that the disk refuses from the call after so many on."""
    left = iter([None] * calls)

    def refuse(function):
        def write(*arguments, **named):
            try:
                next(left)
            except StopIteration:
                raise OSError(errno.ENOSPC, "No space left on device") from None
            return function(*arguments, **named)

        return write

    return refuse


@pytest.mark.parametrize(
    ("owner", "name", "calls", "left"),
    [
        (checkpoint_module, "_save", 0, "no checkpoint is lost"),
        (checkpoint_module, "_save", 1, "the checkpoint of step 3 is whole"),
        (RecordWriter, "write", 5, "the checkpoint of step 3 is whole"),
        (RecordWriter, "sync", 1, "the checkpoint of step 3 is whole"),
    ],
)
def test_a_full_disk_is_named_and_loses_nothing(
    settings, tmp_path, monkeypatch, owner, name, calls, left
):
    whole = train(settings(out=tmp_path / "whole"))
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, fills_up(calls)(getattr(owner, name)))
        with pytest.raises(RunFolderError, match=rf"No space left on device; {left}: make room"):
            train(settings())
    train(settings(resume=True))
    assert_same_run(whole.out, tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": "missing.txt"}, DataError, "does not exist"),
        ({"data": "short.txt"}, DataError, "at least 17 are needed of each"),
        ({"optimizer": "polargrad", "lr": 1.0, "weight_decay": 0.5}, ValueError, "weight_decay"),
        ({"resume": True}, RunFolderError, "nothing to resume"),
    ],
    ids=["missing", "short", "decay", "resume"],
)
def test_what_is_refused_leaves_nothing_behind(settings, tmp_path, change, error, message):
    (tmp_path / "short.txt").write_text("a" * 100)
    if "data" in change:
        change = {"data": tmp_path / change["data"]}
    before = sorted(tmp_path.iterdir())
    with pytest.raises(error, match=message):
        train(settings(**change))
    assert sorted(tmp_path.iterdir()) == before


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
