"""Two processes under torchrun (gloo) train as one with twice the micro-batches."""

import json
from pathlib import Path

import launches
import pytest
import torch
from light_language import LightPreset
from training_runs import records

from polargrad.language import TrainSettings, train
from polargrad.records import read_records

WORKER = Path(__file__).with_name("two_ranks_worker.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the worker left behind."""
    folder = tmp_path_factory.mktemp("ranks")
    (folder / "text.txt").write_text("".join(f"{n} + {n} = {2 * n}\n" for n in range(700)))
    launches.torchrun(2, WORKER, folder)
    return folder


@pytest.fixture(scope="module")
def report(folder):
    """What each rank reports."""
    return json.loads((folder / "report.json").read_text())


def alone(folder, out, **changes):
    """Train in this process what the worker trains in two."""
    given = {
        "preset": LightPreset(),
        "optimizer": "polargrad",
        "lr": 0.05,
        "steps": 8,
        "data": folder / "text.txt",
        "eval_every": 3,
        "checkpoint_every": 3,
        "accumulate": 2,
        "cache": folder / "cache",
    }
    return train(TrainSettings(**{**given, **changes}, out=out))


def assert_equal_to_rounding(one, other):
    """The same records; losses and norms to float32's rounding."""
    for a, b in zip(records(one), records(other), strict=True):
        for name in ("loss", "validation_loss", "gradient_norm"):
            assert a.pop(name, 0.0) == pytest.approx(b.pop(name, 0.0), rel=1e-5)
        assert a == b


@pytest.mark.parametrize(
    ("name", "changes"), [("two", {}), ("clipped", {"clip": 0.5, "accumulate": 4})]
)
def test_two_ranks_are_twice_the_micro_batches(folder, tmp_path, name, changes):
    alone(folder, tmp_path / "one", **changes)
    assert_equal_to_rounding(folder / name, tmp_path / "one")
    assert (folder / name / "settings.json").read_text() == (
        tmp_path / "one" / "settings.json"
    ).read_text()


def test_inner_micro_batches_are_not_synchronized(report):
    """Of 12 backward passes the last of each of 4 steps."""
    assert report[0]["synchronizations"] == 4


def test_a_run_of_two_ranks_goes_on_in_one_to_rounding_and_says_so(folder, tmp_path, capsys):
    alone(folder, tmp_path / "whole")
    alone(folder, folder / "half", resume=True)
    assert "the checkpoint is of 2 ranks, this session of 1 rank: the run goes on to rounding" in (
        capsys.readouterr().err
    )
    assert_equal_to_rounding(folder / "half", tmp_path / "whole")


def test_another_batch_is_refused(report):
    for rank in report:
        assert "windows_per_step: 8 there, 16 here" in rank["other batch"]


def test_two_ranks_resume_to_the_bit_with_dropout(folder):
    """Each rank has random numbers of its own, and takes them up again."""
    whole, parts = (folder / name for name in ("dropout whole", "dropout parts"))
    assert records(whole) == records(parts)
    checkpoint = torch.load(whole / "checkpoints" / "step_00000008.pt", weights_only=True)
    states = [state["cpu"] for state in checkpoint["random_states"]]
    assert len(states) == 2
    assert not torch.equal(*states)


def test_a_signal_on_one_rank_stops_both_after_the_same_step(folder, report):
    assert [rank["stopped"] for rank in report] == [[5, "SIGTERM"]] * 2
    assert records(folder / "stopped") == records(folder / "two")


def test_a_loss_that_is_not_finite_on_one_rank_stops_both(folder, report):
    for rank in report:
        assert "the loss became nan at step 5" in rank["poisoned"]
    assert [record["step"] for record in records(folder / "poisoned")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("what", "message"), [("no data", "does not exist"), ("occupied", "already holds this run")]
)
def test_what_is_refused_is_refused_on_all_ranks(report, what, message):
    for rank in report:
        assert message in rank[what]


def test_only_rank_0_writes(folder):
    for out in ("two", "clipped", "stopped"):
        steps = [record["step"] for record in read_records(folder / out / "records.jsonl")]
        assert steps == list(range(9))
        sessions = json.loads((folder / out / "provenance.json").read_text())
        assert {session["ranks"] for session in sessions} == {2}
