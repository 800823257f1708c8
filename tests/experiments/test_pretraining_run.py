"""A sweep that is executed: in sessions, resumable, never twice; training itself is replaced."""

import json
import math
import signal

import pytest
from pretraining_runs import FakeTraining, losses

from polargrad.errors import RunFolderError
from polargrad.experiments.pretraining import run as run_module
from polargrad.experiments.pretraining.halving import next_session
from polargrad.experiments.pretraining.protocol import SweepProtocol
from polargrad.experiments.pretraining.results import SweepResults
from polargrad.experiments.pretraining.run import run_sweep
from polargrad.records import read_records


def protocol(**changes):
    given = {"optimizers": ("adamw", "muon"), "steps": 40, "eval_every": 5, "seeds": (1, 2)}
    return SweepProtocol(**{"points": 3, "training": {"preset": "tiny"}, **given, **changes})


@pytest.fixture(autouse=True)
def no_collection(monkeypatch):
    """There is no model whose memory would have to be given back, and a look at all is slow."""
    monkeypatch.setattr(run_module.gc, "collect", lambda: 0)


@pytest.fixture
def sweep(monkeypatch, tmp_path):
    """``sweep(**options)`` runs a sweep into one folder and returns its fake training."""

    def run(fake=None, folder="out", changes=(), **options):
        fake = FakeTraining() if fake is None else fake
        monkeypatch.setattr(run_module, "train", fake)
        run_sweep(tmp_path / folder, protocol(**dict(changes)), **options)
        return fake

    return run


def results(folder):
    """What a sweep came to, without its times."""
    lines = list(read_records(folder / "results.jsonl"))
    return [{key: line[key] for key in ("run", "step", "validation_loss")} for line in lines]


def test_every_session_is_a_part_of_one_run_and_none_is_run_twice(sweep, tmp_path):
    fake = sweep()
    asked = [(call.out.name, call.stop_after) for call in fake.calls]
    assert len(set(asked)) == len(asked)
    for call in fake.calls:
        assert call.steps == 40
        assert call.resume == _begun(call, fake)
    records = list(read_records(tmp_path / "out" / "runs" / asked[0][0] / "records.jsonl"))
    assert [record["step"] for record in records] == list(range(len(records)))
    sessions = (tmp_path / "out" / "provenance.json").read_text()
    assert sweep().calls == []  # nothing is left
    assert (tmp_path / "out" / "provenance.json").read_text() == sessions


def _begun(call, fake):
    """Whether the same run had a session before this call."""
    before = fake.calls[: next(i for i, other in enumerate(fake.calls) if other is call)]
    return any(other.out == call.out for other in before)


def test_it_finds_the_best_rates_and_runs_the_seeds_there(sweep, tmp_path):
    sweep()
    last = results(tmp_path / "out")[-4:]
    rates = {(line["run"]["entrant"], line["run"]["rates"][0][1]) for line in last}
    assert rates == {("adamw", 0.002), ("muon", 0.02)}
    assert [line["run"]["seed"] for line in last] == [1, 1, 2, 2]


@pytest.mark.parametrize("at", [1, 2, 5, 9, 14, 20])
def test_a_sweep_that_was_interrupted_or_killed_comes_to_the_same(sweep, tmp_path, at):
    sweep(folder="straight")
    with pytest.raises(KeyboardInterrupt):  # as if the process had died within a session
        sweep(FakeTraining(kill_at=at))
    sweep(FakeTraining(interrupt_at=3))
    sweep()
    assert results(tmp_path / "out") == results(tmp_path / "straight")


def test_an_interrupted_session_is_no_result(monkeypatch, tmp_path):
    monkeypatch.setattr(run_module, "train", FakeTraining(interrupt_at=2))
    done = run_sweep(tmp_path / "out", protocol())
    assert (done.sessions, done.finished, done.interrupted) == (1, False, signal.SIGINT)
    assert len(results(tmp_path / "out")) == 1


def test_a_signal_with_the_last_step_of_a_session_ends_the_sweep_too(monkeypatch, tmp_path):
    monkeypatch.setattr(run_module, "train", FakeTraining(signal_with=2))
    done = run_sweep(tmp_path / "out", protocol())
    assert (done.sessions, done.finished, done.interrupted) == (2, False, signal.SIGINT)
    assert len(results(tmp_path / "out")) == 2


def test_a_run_that_diverges_is_a_result(sweep, tmp_path):
    def loss(settings, step):
        late = settings.lr > 0.005 and settings.optimizer == "muon" and step > 7
        return math.inf if late and step % 5 == 0 else losses(settings, step)

    sweep(FakeTraining(loss))
    found = SweepResults(tmp_path / "out").losses
    rates = {dict(s.run.rates)["lr"] for s, value in found.items() if value == math.inf}
    assert 0.01 in rates
    assert all(rate > 0.005 for rate in rates)
    best = {dict(s.run.rates)["lr"] for s in found if s.run.entrant == "muon" and s.run.seed}
    assert best == {0.005}
    lines = [line for line in read_records(tmp_path / "out" / "results.jsonl") if "error" in line]
    assert {line["error"] for line in lines} == {"the loss became inf"}


def test_checkpoints_are_deleted_as_soon_as_no_session_needs_them(sweep, tmp_path):
    sweep()
    assert not list((tmp_path / "out").rglob("checkpoints"))
    kept = sweep(folder="kept", keep_checkpoints=True)
    folders = {call.out.name for call in kept.calls}
    assert {p.parent.name for p in (tmp_path / "kept").rglob("checkpoints")} == folders


def test_more_may_be_asked_for_later(sweep, tmp_path):
    """Optimizers, seeds and points: what is there counts."""
    first = sweep()
    second = sweep(changes={"optimizers": ("adamw", "muon", "polarmuon"), "seeds": (1, 2, 3)})
    assert {call.optimizer for call in second.calls if call.seed < 3} == {"polarmuon"}
    folders = {call.out.name for call in first.calls}
    assert folders.isdisjoint({c.out.name for c in second.calls})
    assert next_session(protocol(), SweepResults(tmp_path / "out").losses) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 80}, "steps: 40 there, 80 here"),
        ({"training": {"preset": "small"}}, "training: .*tiny.* there, .*small.* here"),
    ],
)
def test_what_all_runs_share_may_not_change(sweep, changes, message):
    sweep()
    with pytest.raises(RunFolderError, match=message):
        sweep(changes=changes)
    assert sweep(changes=changes, overwrite=True).calls


def test_other_data_are_not_mixed_in(sweep):
    sweep(FakeTraining(interrupt_at=4))
    with pytest.raises(RunFolderError, match=r"holds runs on other data \(dd.*ee"):
        sweep(FakeTraining(data="e" * 64))


def test_a_folder_with_other_files_is_left_alone(sweep, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    with pytest.raises(RunFolderError, match="holds other files"):
        sweep()


def test_damaged_results_are_named(sweep, tmp_path):
    sweep(FakeTraining(interrupt_at=4))
    path = tmp_path / "out" / "results.jsonl"
    path.write_text(json.dumps({"run": {}}) + "\n")
    with pytest.raises(RunFolderError, match="does not hold results of a sweep"):
        sweep()


def test_steps_and_time_of_each_session_are_known(sweep, tmp_path):
    """A session counts the steps that it took itself, which the estimate of the rest needs."""
    sweep()
    lines = list(read_records(tmp_path / "out" / "results.jsonl"))
    reached = {}
    for line in lines:
        folder = json.dumps(line["run"])
        assert line["steps"] == line["step"] - reached.get(folder, 0)
        reached[folder] = line["step"]
        assert line["seconds"] > 0


def test_it_says_what_every_session_came_to_and_what_is_left(sweep, capsys):
    sweep(FakeTraining(interrupt_at=3))
    said = capsys.readouterr().err
    assert "adamw-lr_0.0005-vector_lr_0.03-seed_0, step 10: validation loss" in said
    assert " left\n" in said
