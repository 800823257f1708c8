"""What a run refuses, and what it leaves alone when it does."""

import importlib
import itertools

import pytest
import torch
from training_runs import contents, last_checkpoint, records, run_until_killed

from polargrad.errors import DataError, MissingExtraError, NonFiniteError, RunFolderError
from polargrad.language import stepper as stepper_module
from polargrad.language import train
from polargrad.language.checkpoint import Checkpoints
from polargrad.language.models import TokenPreset
from polargrad.records import exclusive


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


def test_a_changed_text_is_refused_at_the_resume(settings, text):
    train(settings())
    text.write_text(text.read_text() + "more\n")
    with pytest.raises(RunFolderError, match=r"corpus: '.*' there, '.*' here"):
        train(settings(resume=True))


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
