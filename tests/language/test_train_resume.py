"""A run that ends before its time, in whatever way, goes on to the bit."""

import errno
import json
import signal

import pytest
from training_runs import assert_same_run, contents, last_checkpoint, records, run_until_killed

from polargrad.errors import RunFolderError
from polargrad.language import DEFAULTS, train
from polargrad.language import checkpoint as checkpoint_module
from polargrad.language import stepper as stepper_module
from polargrad.language.data import TrainingBatches
from polargrad.records import RecordWriter

FILES = ["checkpoints", "loss.png", "provenance.json", "records.jsonl", "settings.json"]


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


def test_a_model_of_each_kind_trains_and_resumes_to_the_bit(settings, tmp_path, monkeypatch, kind):
    whole = train(settings(preset=kind, optimizer="muon", out=tmp_path / "whole"))
    run_until_killed(settings(preset=kind, optimizer="muon"), monkeypatch, step=5)
    resumed = train(settings(preset=kind, optimizer="muon", resume=True))
    assert_same_run(whole.out, resumed.out)
    with pytest.raises(RunFolderError, match="preset"):
        train(settings(optimizer="muon", resume=True))


def test_the_same_text_at_another_place_is_the_same_run(settings, text, tmp_path, monkeypatch):
    run_until_killed(settings(), monkeypatch, step=5)
    (tmp_path / "moved").mkdir()
    moved = text.rename(tmp_path / "moved" / text.name)
    assert train(settings(data=moved, resume=True)).steps == 8


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
