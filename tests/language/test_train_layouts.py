"""Four processes (gloo) train a model in many layouts as one process does, to rounding."""

import json
import shutil
from pathlib import Path

import launches
import layout_runs as runs
import pytest
import torch
from training_runs import assert_same_run, last_checkpoint, records

from polargrad.language import TrainSettings, dry_run, train
from polargrad.records import read_records

WORKER = Path(__file__).with_name("layouts_worker.py")
# What is recorded of matrices and losses in float32, after four steps.
LOSS, SPECTRUM = 1e-5, 1e-2


def launched(kind, folder, watchdog):
    """The folder in which the worker has left its runs."""
    (folder / "text.txt").write_text("".join(f"{n} + {n} = {2 * n}\n" for n in range(700)))
    launches.torchrun(4, WORKER, kind, folder, watchdog=watchdog)
    return folder


@pytest.fixture(scope="module")
def fast(tmp_path_factory):
    return launched("fast", tmp_path_factory.mktemp("fast"), 240)


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    return launched("slow", tmp_path_factory.mktemp("slow"), 1200)


@pytest.fixture(scope="module")
def report(fast):
    """What each rank reports."""
    return json.loads((fast / "report.json").read_text())


def assert_equal_to_rounding(one, other):
    """The same records; losses, norms, parameters and state to float32's rounding."""
    for a, b in zip(records(one), records(other), strict=True):
        for name in ("loss", "validation_loss", "gradient_norm"):
            assert a.pop(name, 0.0) == pytest.approx(b.pop(name, 0.0), rel=LOSS), name
        assert a == b
    contents = [last_checkpoint(out) for out in (one, other)]
    parameters, others = (c["model"] for c in contents)
    assert parameters.keys() == others.keys()
    for name, value in parameters.items():
        torch.testing.assert_close(value, others[name], rtol=1e-3, atol=1e-4, msg=name)
    assert contents[0]["identity"] == contents[1]["identity"]


def check(folder, tmp_path, name, mesh, changes):
    """A run of the worker is that of one process."""
    train(runs.alone(folder, tmp_path / "one", mesh, changes))
    assert_equal_to_rounding(folder / name, tmp_path / "one")
    assert (folder / name / "settings.json").read_text() == (
        tmp_path / "one" / "settings.json"
    ).read_text()
    (session,) = json.loads((folder / name / "provenance.json").read_text())
    assert (session["ranks"], session["mesh"]) == (4, mesh)


@pytest.mark.parametrize("name", runs.fast())
def test_a_layout_trains_as_one_process_does(fast, tmp_path, name):
    check(fast, tmp_path, name, *runs.fast()[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", runs.slow())
def test_every_recipe_and_model_in_its_layouts(slow, tmp_path, name):
    check(slow, tmp_path, name, *runs.slow()[name])


@pytest.mark.parametrize("name", ["polargrad fsdp=4", "polargrad fsdp=2,tp=2"])
def test_spectra_are_those_of_whole_matrices(fast, tmp_path, name):
    mesh, changes = runs.fast()[name]
    train(runs.alone(fast, tmp_path / "one", mesh, changes))
    (here,), (there,) = (
        list(read_records(out / "spectra.jsonl")) for out in (fast / name, tmp_path / "one")
    )
    assert len(here["matrices"]) == len(there["matrices"]) == 6
    for a, b in zip(here["matrices"], there["matrices"], strict=True):
        assert a["parameter"] == b["parameter"]
        for what in {"gradient", "momentum"} & a.keys():
            assert a[what] == pytest.approx(b[what], rel=SPECTRUM)


def test_a_session_in_the_same_layout_goes_on_to_the_bit(fast):
    """With dropout, and step sizes that the run finds."""
    assert_same_run(fast / "dropout whole", fast / "dropout parts")


def test_processes_of_tensor_parallelism_drop_out_the_same(fast):
    states = [s["cpu"] for s in last_checkpoint(fast / "dropout whole")["random_states"]]
    assert torch.equal(states[0], states[1])
    assert torch.equal(states[2], states[3])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_run_goes_from_layout_to_layout_to_one_process(fast, tmp_path, capsys, name):
    """From shards to replicas of tensor parallelism; to rounding, and it is said."""
    changes = {"optimizer": name, "lr": 1e-3, "accumulate": 4}
    train(runs.settings(fast, tmp_path / "whole", **changes))
    out = tmp_path / "road"
    shutil.copytree(fast / f"road {name}", out)
    train(runs.settings(fast, out, **changes, resume=True))
    assert "the checkpoint is of 4 ranks (dp=2,tp=2), this session of 1 rank: the run goes on" in (
        capsys.readouterr().err
    )
    assert_equal_to_rounding(out, tmp_path / "whole")
    sessions = json.loads((out / "provenance.json").read_text())
    assert [s["mesh"] for s in sessions] == ["fsdp=4", "dp=2,tp=2", None]


def test_bf16_is_of_the_products_alone(fast):
    """Parameters and state stay float32; the losses are near those of float32, and not the same."""
    contents = last_checkpoint(fast / "bf16")
    kept = [*contents["model"].values()]
    kept += [x for state in contents["optimizer"]["state"].values() for x in state.values()]
    assert {x.dtype for x in kept if isinstance(x, torch.Tensor)} == {torch.float32}
    low, whole = (records(fast / name) for name in ("bf16", "polargrad fsdp=4"))
    losses, exact = ([r["loss"] for r in run[1:]] for run in (low, whole))
    assert losses == pytest.approx(exact, rel=1e-2)
    assert losses != pytest.approx(exact, rel=1e-6)


def test_copies_of_a_mesh_give_each_other_their_steps(report):
    """Each matrix is worked on by one process; AdamW's are stepped where they are."""
    for rank in report:
        given = rank["broadcasts"]["polargrad dp=4"]
        assert given
        assert set(given) == {4}
        assert not rank["broadcasts"]["adamw dp=2,tp=2"]


def test_nothing_stays_gathered_after_an_evaluation(report):
    assert all(rank["in parts"] and all(rank["in parts"]) for rank in report)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("product", "mesh must have as many processes as there are, 4, got dp=3,fsdp=2 with 6"),
        ("no plan", "mesh: tp must be 1, for light names no plan of tensor parallelism"),
        ("size", "mesh: tp must divide the weight of blocks.0.up, (30, 15), in dimension 0"),
    ],
)
def test_what_is_refused_is_refused_on_all_ranks_before_anything_is_written(
    fast, report, what, message
):
    assert all(message in rank[what] for rank in report)
    assert not (fast / "none").exists()


def test_a_mesh_without_its_processes_says_how_to_start_them(fast):
    with pytest.raises(ValueError, match=r"1, got fsdp=2 with 2: start it with torchrun --nproc"):
        train(runs.settings(fast, "none", mesh="fsdp=2"))


@pytest.mark.parametrize("mesh", ["pp=2", "fsdp", "fsdp=0", "fsdp=2,fsdp=2"])
def test_a_mesh_is_sizes_of_its_dimensions(mesh):
    with pytest.raises(ValueError, match="mesh"):
        TrainSettings(optimizer="muon", steps=1, mesh=mesh)


def test_a_dry_run_says_what_a_mesh_shares_and_refuses_what_cannot_be_cut():
    given = {"optimizer": "muon", "steps": 1}
    said = str(dry_run(TrainSettings(**given, mesh="fsdp=2,tp=2")))
    assert "fsdp=2,tp=2, 4 processes; the memory above is that of one alone" in said
    assert "on each group of 2 ranks" in said
    with pytest.raises(ValueError, match="tp must divide the num_attention_heads of tiny, 4"):
        dry_run(TrainSettings(**given, mesh="tp=3"))
    with pytest.raises(ValueError, match="tp must be 1, for gpt2-small names no plan"):
        dry_run(TrainSettings(**given, preset="gpt2-small", mesh="tp=2"))
    with pytest.raises(ValueError, match=r"the plan of moe has '\w+' for .* alone are known"):
        dry_run(TrainSettings(**given, preset="moe", mesh="tp=2"))
