"""The quadratic experiment against traces of the published code, and what its folder holds."""

import json

import pytest
import torch

from polargrad.errors import RunFolderError
from polargrad.experiments import FULL, Results, reproduce_quadratic
from polargrad.experiments.protocol import Protocol, descend
from polargrad.experiments.quadratic import RUNS
from polargrad.experiments.quadratic_figures import positive, smoothed
from polargrad.experiments.quadratic_published import PUBLISHED, Comparison, comparisons
from polargrad.problems import MatrixQuadraticRegression

TINY = Protocol(version="tiny", runs=RUNS[:2] + RUNS[5:6], steps=4, every=2)


def test_published_trajectory_of_polargrad():
    """Seed 42, the two-step oracle, lr 4e-8: within 2 % to step 100, within 5 % at step 1000."""
    problem, start = MatrixQuadraticRegression.published(42)
    (run,) = (run for run in FULL.runs if run.name == "polargrad")
    records = descend(
        run,
        start,
        gradient=problem.gradient,
        measure=lambda X: {"gap": problem.gap(X)},
        steps=1000,
        every=10,
    )
    gaps = {record["step"]: record["gap"] for record in records}
    assert gaps[0] == pytest.approx(2.142e9, rel=0.0005)
    assert gaps[10] == pytest.approx(1.80e6, rel=0.02)
    assert gaps[100] == pytest.approx(7.67e3, rel=0.02)
    assert gaps[1000] == pytest.approx(24.5, rel=0.05)


@pytest.mark.parametrize("name", ["muon-qdwh", "muon-qdwh-decay", "adam"])
def test_published_beginnings_of_the_others(name):
    """Where no rounding decides yet: 100 steps within 2 %."""
    problem, start = MatrixQuadraticRegression.published(42)
    (run,) = (run for run in FULL.runs if run.name == name)
    records = descend(
        run,
        start,
        gradient=problem.gradient,
        measure=lambda X: {"gap": problem.gap(X)},
        steps=100,
        every=10,
    )
    gaps = {record["step"]: record["gap"] for record in records}
    for step in (10, 100):
        assert gaps[step] == pytest.approx(PUBLISHED[name][step], rel=0.02)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("quadratic") / "run"
    reproduce_quadratic(out, protocol=TINY, seed=7)
    return out


def test_the_folder_holds_what_is_promised(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "settings.json",
        "provenance.json",
        "summary.json",
        "gap.png",
        "nuclear_norm.png",
        *(f"records-{run.name}.jsonl" for run in TINY.runs),
    }
    assert (folder / "gap.png").read_bytes().startswith(b"\x89PNG")
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["seed"] == 7
    assert settings["steps"] == 4


def test_all_runs_begin_at_the_same_point(folder):
    results = Results.read(folder)
    assert len({results.gap(run.name, 0) for run in TINY.runs}) == 1
    assert results.gap("polargrad", 3) is None
    for row, run in zip(results.summary(), TINY.runs, strict=True):
        assert (row["name"], row["lr"], row["step"]) == (run.name, run.lr, 4)
        assert row["gap"] == results.gap(run.name, 4)
        assert row["seconds_per_step"] > 0


def test_results_are_the_same_again(folder, tmp_path):
    again = reproduce_quadratic(tmp_path / "again", protocol=TINY, seed=7)
    first = Results.read(folder)
    for name, curve in again.curves.items():
        assert [r["gap"] for r in curve] == [r["gap"] for r in first.curves[name]]


def test_the_global_generator_is_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    reproduce_quadratic(tmp_path / "run", protocol=TINY, seed=1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_only_seed_42_is_compared(folder):
    assert comparisons(Results.read(folder)) == []


def test_comparison_is_relative():
    assert Comparison("a", 1, published=4.0, ours=5.0).deviation == pytest.approx(0.25)


def test_a_taken_folder_is_refused_and_left_as_it_was(folder):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(RunFolderError, match="seed: 7 there, 8 here"):
        reproduce_quadratic(folder, protocol=TINY, seed=8)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_bad_seeds_are_refused_before_anything_is_written(tmp_path, seed):
    with pytest.raises(ValueError, match=f"seed must be from 0 to 4294967295, got {seed}"):
        reproduce_quadratic(tmp_path / "run", protocol=TINY, seed=seed)
    assert not (tmp_path / "run").exists()


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"settings\.json' is missing"):
        Results.read(tmp_path)
    (tmp_path / "settings.json").write_text('{"experiment": "other"}')
    with pytest.raises(RunFolderError, match="does not hold the experiment 'quadratic'"):
        Results.read(tmp_path)


def test_smoothing_and_logarithms():
    assert smoothed([4.0, 0.0], weight=0.5) == [4.0, 2.0]
    assert smoothed([], weight=0.5) == []
    kept = positive([1.0, 0.0, -1.0, float("inf"), float("nan")])
    assert kept[0] == 1.0
    assert all(value != value for value in kept[1:])


@pytest.mark.slow
def test_published_end_of_polargrad_and_muon():
    """4000 steps: PolarGrad goes on to 5.5e-3, Muon stays at its plateau of 7.5e4."""
    problem, start = MatrixQuadraticRegression.published(42)
    for name, tolerance in (("polargrad", 0.05), ("muon-qdwh", 0.15)):
        (run,) = (run for run in FULL.runs if run.name == name)
        *_, last = descend(
            run,
            start,
            gradient=problem.gradient,
            measure=lambda X: {"gap": problem.gap(X)},
            steps=4000,
            every=4000,
        )
        assert last["gap"] == pytest.approx(PUBLISHED[name][4000], rel=tolerance)
