"""Sweeps from settings to rows: on 6.3 with few steps, and on 6.1 where the limit is known."""

import json
import math
from dataclasses import replace

import pytest
import torch

from polargrad.errors import RunFolderError
from polargrad.experiments.reproduce import EXPERIMENTS
from polargrad.experiments.runner import one_thread
from polargrad.experiments.sensitivity.figures import Strip, _draw_panel, _scale, edges
from polargrad.experiments.sensitivity.grid import Grid, Outcome, good_region, rate
from polargrad.experiments.sensitivity.lines import (
    LineJob,
    outcome,
    read_tried,
    records_of,
    run_at,
)
from polargrad.experiments.sensitivity.protocol import (
    ALL,
    BOUND,
    QUICK_GRID,
    STEP_SECONDS,
    sweep,
)
from polargrad.experiments.sensitivity.results import read_sensitivity, rows_of, table, theory
from polargrad.experiments.sensitivity.run import sensitivity
from polargrad.experiments.sensitivity.tasks import LogisticGap, QuadraticGap
from polargrad.problems import MatrixLogisticRegression, MatrixQuadraticRegression
from polargrad.records import read_json, read_records


def short(name="completion", lines=("polargrad.qdwh-2", "polargrad.exact", "gradient-descent")):
    """A sweep with so few steps that it takes a second."""
    whole = sweep(name, quick=True)
    return replace(
        whole,
        experiment=replace(whole.experiment, steps=10, every=5),
        lines=tuple(line for line in whole.lines if line.name in lines),
    )


def small_quadratic(seed, era):
    problem = MatrixQuadraticRegression.random(8, 4, 20, 9, torch.Generator().manual_seed(seed))
    return QuadraticGap(problem, (torch.ones(8, 4),))


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sensitivity")
    done = sensitivity(folder, [short()], workers=1)
    return folder, done


def test_measured_limit_of_gradient_descent_encloses_two_over_smoothness(tmp_path):
    """On a small quadratic in float32, through the runs, the records and the grid."""
    whole = sweep("quadratic")
    problem = small_quadratic(0, "reference").problem
    line = next(line for line in whole.lines if line.name == "gradient-descent")
    line = replace(line, window=(round(100 * math.log10(0.02 / problem.smoothness)), 0))
    small = replace(
        whole,
        experiment=replace(whole.experiment, steps=1500, build=small_quadratic),
        lines=(line,),
    )
    LineJob(small, line, 0, tmp_path).execute()
    settings = {**small.as_data(0), "experiment": "quadratic"}
    (row,) = rows_of(tmp_path, settings)
    assert row.blows_up
    assert row.limit <= 2 / problem.smoothness <= row.diverges_at
    assert row.diverges_at / row.limit == pytest.approx(rate(1), rel=1e-12)
    assert row.theory_limit == pytest.approx(2 / problem.smoothness, rel=1e-12)
    assert row.limits["own"]["least"] >= row.theory_limit * (1 - 1e-6)
    assert row.published_lr is None


def test_rows_say_what_the_records_hold(swept):
    folder, _ = swept
    rows = read_sensitivity(folder)
    assert [(row.optimizer, row.oracle) for row in rows] == [
        ("polargrad", "qdwh-2"),
        ("polargrad", "exact"),
        ("gradient-descent", None),
    ]
    for row in rows:
        name = row.optimizer if row.oracle is None else f"{row.optimizer}.{row.oracle}"
        records = list(read_records(records_of(folder / "completion", name)))
        kept = [r for r in records if r["ended"] == "budget" and r["value"] <= r["start"]]
        assert row.runs == len(records)
        assert row.best_value == min(r["value"] for r in kept)
        good = [r["lr"] for r in kept if r["value"] <= 10 * row.best_value]
        assert row.good_from in good
        assert row.good_to in good
        assert row.width == pytest.approx(row.good_to / row.good_from, rel=1e-12)
        assert row.good_from <= row.best_lr <= row.good_to <= row.limit < row.diverges_at
        assert row.theory_limit > 0
        assert row.own_limit == row.limits["own"]["median"]
    text = table(rows)
    assert len(text.splitlines()) == 2 + len(rows)


def test_runs_end_at_the_bound_or_with_the_budget(swept):
    folder, _ = swept
    for record in read_records(records_of(folder / "completion", "polargrad.exact")):
        if record["ended"] == "budget":
            assert record["step"] == 10
            assert record["largest"] <= BOUND * record["start"]
        else:
            assert record["step"] <= 10
            assert not record["value"] <= BOUND * record["start"]


def test_a_second_call_does_nothing_and_an_interrupted_one_continues(swept):
    folder, done = swept
    assert done.lines == 3
    path = records_of(folder / "completion", "polargrad.exact")
    before, summary = path.read_text(), (folder / "completion" / "summary.json").read_text()
    assert sensitivity(folder, [short()], workers=1).lines == 0
    assert path.read_text() == before
    lines = before.splitlines(keepends=True)
    path.write_text("".join(lines[:4]) + lines[4][:20])  # killed while it wrote the fifth
    assert sensitivity(folder, [short()], workers=1).lines == 1
    again = [json.loads(line) for line in path.read_text().splitlines()]
    for new, old in zip(again, map(json.loads, lines), strict=True):
        del new["seconds"], old["seconds"]
        assert new == old
    assert (folder / "completion" / "summary.json").read_text() == summary


def test_a_folder_of_another_seed_is_refused(swept):
    folder, _ = swept
    with pytest.raises(RunFolderError, match="seed: 42 there, 7 here"):
        sensitivity(folder, [short()], seed=7, workers=1)


def test_a_folder_without_sweeps_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="no finished sweep"):
        read_sensitivity(tmp_path)
    (tmp_path / "quadratic").mkdir()
    (tmp_path / "quadratic" / "summary.json").write_text('{"rows": [{"gap": 1}]}')
    with pytest.raises(RunFolderError, match="does not hold sweeps"):
        read_sensitivity(tmp_path)


@pytest.mark.parametrize("workers", [0, -1])
def test_wrong_workers_change_nothing(tmp_path, workers):
    with pytest.raises(ValueError, match=f"workers must be at least 1, got {workers}"):
        sensitivity(tmp_path / "new", [short()], workers=workers)
    assert not (tmp_path / "new").exists()


def test_a_run_that_ends_above_its_start_is_lost_but_not_blown():
    record = {"ended": "budget", "start": 2.0, "value": 2.1}
    assert outcome(record, 0.0) == Outcome(2.1, lost=True)
    assert outcome({**record, "value": math.nan}, 0.0).lost
    assert outcome({**record, "ended": "diverged"}, 0.0) == Outcome(math.inf, True, True)


def test_two_values_below_the_resolution_are_equal():
    records = [{"ended": "budget", "start": 1.0, "value": v} for v in (3e-14, 9e-13, 2e-12)]
    values = [outcome(record, 1e-12).value for record in records]
    assert values == [1e-12, 1e-12, 2e-12]
    tried = {i: outcome(record, 1e-12) for i, record in enumerate(records)}
    assert good_region(tried) == (0, 2)


def test_theory_of_an_inexact_oracle_is_that_of_the_exact_one_over_its_gain():
    exact = {"exact": {"least": 2.0, "median": 3.0}, "gain": 1.0}
    own = {"gain": 0.5, "constant": 1.5}
    assert list(theory(own, exact).values()) == [6.0, 4.0, 3.0]
    assert list(theory({"gain": 0.5}, {}).values()) == [None] * 3
    assert list(theory({}, exact).values()) == [None] * 3
    assert list(theory({"gain": None, "constant": 7.0}, {}).values()) == [7.0] * 3


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_full_sweep_has_what_was_asked_for(name):
    full = sweep(name)
    lines = {line.name: line for line in full.lines}
    assert len(lines) == len(full.lines)
    optimizers = {line.run.name for line in full.lines}
    decayed = {"polargrad-decay", "muon-qdwh-decay", "adam-decay"}
    plain = {"polargrad", "polargrad-momentum-first", "polargrad-polar-first", "muon-qdwh", "adam"}
    assert optimizers >= decayed | plain | {"gradient-descent"}
    assert 100 / full.grid.fine >= 25
    assert full.experiment.steps <= {"quadratic": 1000, "logistic": 500, "completion": 300}[name]
    for line in full.lines:
        assert rate(line.window[0]) < line.run.lr < rate(line.window[1])
        assert full.experiment.steps_of(line.at(0)) == full.experiment.steps
    restored = json.loads(json.dumps(full.as_data(42)))
    assert [line["name"] for line in restored["lines"]] == list(lines)


def test_the_first_experiment_has_all_oracles():
    oracles = [line.oracle for line in sweep("quadratic").lines if line.run.name == "polargrad"]
    assert oracles == list(ALL)
    assert set(ALL) == {
        *("qdwh-1", "qdwh-2", "qdwh-3", "qdwh-4", "exact", "training", "newton-schulz"),
    }


def test_the_full_command_is_planned_for_less_than_an_hour_on_two_cores():
    sweeps = [sweep(name) for name in STEP_SECONDS]
    assert sum(s.seconds(line) for s in sweeps for line in s.lines) <= 2 * 3600


def test_quick_grid_is_coarser():
    assert QUICK_GRID.fine > Grid().fine
    assert QUICK_GRID.coarse > Grid().coarse


def test_unknown_experiments_are_refused():
    with pytest.raises(ValueError, match="one of quadratic, logistic, completion, got 'cubic'"):
        sweep("cubic")


def test_logistic_metric_is_the_gap_per_entry():
    draws = torch.Generator().manual_seed(0)
    problem = MatrixLogisticRegression.random(5, 3, 60, 4, draws)
    X = torch.randn(5, 3, generator=draws)
    found = LogisticGap(problem, (X,), None).measure((X,))["gap_per_entry"]
    entries = problem.C.numel()
    # a mean of float32 entries, each rounded to its own size
    allowed = 4 * torch.finfo(torch.float32).eps * problem.loss_per_entry(X)
    assert found == pytest.approx(problem.gap(X) / entries, abs=allowed)


def test_results_do_not_depend_on_the_run_before():
    """Runs share the data, so a run must not change them."""
    full = short()
    line = full.lines[0]
    with one_thread():
        first, _, again = (run_at(full, line, 42, i) for i in (120, 160, 120))
    del first["seconds"], again["seconds"]
    assert first == again


def test_cells_tile_the_axis():
    tried = {i: Outcome(1.0) for i in (-40, -20, -16, 0)}
    ends = edges(tried)
    assert ends == sorted(ends)
    for index, low, high in zip(sorted(tried), ends, ends[1:], strict=False):
        assert low < rate(index) < high


def test_lost_cells_are_hatched_and_marks_stand_where_the_row_says(swept):
    figure = pytest.importorskip("matplotlib.figure").Figure()
    folder, _ = swept
    (row, *_) = read_sensitivity(folder)
    tried = read_tried(records_of(folder / "completion", "polargrad.qdwh-2"), 1e-12)
    axis = figure.subplots()
    _draw_panel(axis, [Strip(row, tried, 1.0, "two steps")], _scale([tried], worst=5.0))
    hatched = [patch for patch in axis.patches if patch.get_hatch()]
    assert len(hatched) == sum(o.lost for o in tried.values()) > 0
    marks = {float(line.get_xdata()[0]) for line in axis.lines}
    assert row.best_lr in marks
    assert axis.get_xscale() == "log"
    assert [label.get_text() for label in axis.get_yticklabels()] == ["two steps"]


def test_figures_and_files_are_there(swept):
    folder, _ = swept
    names = {path.name for path in (folder / "completion").iterdir()}
    assert names >= {"settings.json", "provenance.json", "summary.json", "table.txt"}
    for name in ("oracles.png", "optimizers.png"):
        image = (folder / "completion" / name).read_bytes()
        assert image.startswith(b"\x89PNG")
    assert read_json(folder / "completion" / "settings.json")["bound"] == BOUND
