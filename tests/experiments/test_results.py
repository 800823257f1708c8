"""What is read back from a folder: values, summaries, and which folders are refused."""

import json
import math
import statistics

import pytest
from small_experiments import DESCENT, DIVERGING, POLARGRAD, SMALL, small

from polargrad.errors import RunFolderError
from polargrad.experiments.reproduce import reproduce
from polargrad.experiments.results import Results, median_and_range
from polargrad.experiments.runner import records_of
from polargrad.records import read_records


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    experiment = small(runs=(POLARGRAD, DESCENT, DIVERGING))
    return reproduce(out, [experiment], seeds=(7, 3, 5), workers=1).folders["quadratic"]


@pytest.fixture(scope="module")
def results(folder):
    return Results.read(folder)


def test_values_are_those_of_the_records(folder, results):
    assert results.seeds == [3, 5, 7]
    for record in read_records(records_of(folder, 5, "polargrad")):
        assert results.value("polargrad", record["step"], seed=5) == record["gap"]
    assert results.value("polargrad", 3, seed=5) is None  # not sampled
    assert results.value("polargrad", 2, seed=4) is None  # not run
    assert results.value("sgd", 2, seed=5) is None


def test_all_runs_begin_at_the_same_point(results):
    for seed in results.seeds:
        names = ("polargrad", "gradient-descent", "newton")
        assert len({results.value(name, 0, seed=seed) for name in names}) == 1


def test_the_first_step_below_a_bound(results):
    values = [results.value("gradient-descent", step, seed=3) for step in (0, 2, 4)]
    assert values[0] > values[1] > values[2]
    for bound, step in ((values[0] + 1, 0), (values[0], 2), (values[1], 4), (values[2], None)):
        assert results.first_step_below("gradient-descent", bound, seed=3) == step
    assert results.first_step_below("sgd", 1e99, seed=3) is None


def test_finals_are_infinite_where_a_run_diverged(results):
    assert results.finals("newton") == [math.inf] * 3
    assert results.finals("gradient-descent") == [
        results.value("gradient-descent", 4, seed=seed) for seed in (3, 5, 7)
    ]


def test_the_summary_is_median_and_range(results):
    rows = {row["name"]: row for row in results.summary()}
    finals = [results.value("polargrad", 6, seed=seed) for seed in (3, 5, 7)]
    row = rows["polargrad"]
    assert row["median"] == statistics.median(finals)
    assert (row["least"], row["largest"]) == (min(finals), max(finals))
    assert (row["lr"], row["decay"], row["steps"], row["seeds"]) == (1e-3, 1.0, 6, [3, 5, 7])
    assert row["gradient_ms"] > 0 < row["update_ms"]
    assert rows["gradient-descent"]["steps"] == 4
    assert rows["newton"]["median"] == math.inf


@pytest.mark.parametrize(
    ("values", "median"), [([1.0], 1.0), ([1.0, 3.0], 2.0), ([1.0, math.inf, 2.0], 2.0)]
)
def test_median_and_range(values, median):
    found = median_and_range(iter(values))
    assert found == {"median": median, "least": min(values), "largest": max(values)}


@pytest.mark.parametrize(
    ("changes", "seeds", "command"),
    [
        ({"version": "full"}, (42, 142, 242), "polargrad reproduce quadratic"),
        ({"version": "quick"}, (42,), "polargrad reproduce quadratic --quick"),
        ({"version": "full"}, (42,), "polargrad reproduce quadratic --seeds 42"),
        (
            {"version": "quick", "era": "paper", "oracle": "exact"},
            (42, 7),
            "polargrad reproduce quadratic --quick --era paper --oracle exact --seeds 42 7",
        ),
    ],
)
def test_the_command_is_that_which_makes_the_results(changes, seeds, command):
    settings = small(**{"oracle": "published", **changes}).as_data()
    curves = {seed: {} for seed in seeds}
    assert Results(settings, [], curves, {}, {}).command == command


def test_a_seed_that_is_not_finished_is_left_out(folder, tmp_path):
    copy = tmp_path / "copy"
    for path in folder.rglob("*"):
        if path.is_file():
            target = copy / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    records_of(copy, 5, "polargrad").unlink()
    lines = records_of(copy, 7, "newton").read_text().splitlines()
    records_of(copy, 7, "newton").write_text("\n".join(lines[:-1]) + "\n")
    assert Results.read(copy).seeds == [3]
    records_of(copy, 3, "newton").write_text("")
    with pytest.raises(RunFolderError, match="has no finished seed: the experiment did not end"):
        Results.read(copy)


def test_broken_folders_are_refused(tmp_path):
    with pytest.raises(RunFolderError, match=r"settings\.json' is missing"):
        Results.read(tmp_path)
    (tmp_path / "settings.json").write_text('{"steps": 3}')
    with pytest.raises(RunFolderError, match="does not hold an experiment"):
        Results.read(tmp_path)
    (tmp_path / "settings.json").write_text(json.dumps(SMALL.as_data()))
    with pytest.raises(RunFolderError, match="has no finished seed"):
        Results.read(tmp_path)


def test_records_that_are_damaged_in_the_middle_are_refused(folder, tmp_path):
    copy = tmp_path / "seed-3"
    copy.mkdir()
    (tmp_path / "settings.json").write_text((folder / "settings.json").read_text())
    (copy / "polargrad.jsonl").write_text('{"step": 0}\n{"st\n{"step": 4}\n')
    with pytest.raises(RunFolderError, match=r"polargrad\.jsonl, line 2, is not JSON"):
        Results.read(tmp_path)
