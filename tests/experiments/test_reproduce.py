"""From nothing to summaries and figures: what is written, what a second call does, what is kept."""

import dataclasses
import json
import math

import pytest
import torch
from small_experiments import (
    ADAM,
    DESCENT,
    DIVERGING,
    POLARGRAD,
    build_completion,
    build_failing_at_13,
    contents,
    small,
    without_times,
)

from polargrad.errors import RunFolderError
from polargrad.experiments import reproduce as public
from polargrad.experiments.experiment import Figure, Panel
from polargrad.experiments.folders import at_work_in
from polargrad.experiments.reproduce import choose, finished_experiments, reproduce
from polargrad.experiments.results import Results
from polargrad.experiments.runner import records_of
from polargrad.records import read_json, read_records

COMPLETION = small(
    name="completion",
    build=build_completion,
    metric="observed_error",
    runs=(ADAM,),
    figures=(
        Figure(
            name="errors",
            runs=("adam",),
            panels=(Panel(quantity="unobserved_error", title="error"),),
            caption="Errors.",
        ),
    ),
)


@pytest.fixture
def out(tmp_path):
    reproduce(tmp_path, [small()], seeds=(7,), workers=1)
    return tmp_path


def test_the_folder_holds_what_is_promised(out):
    folder = out / "quadratic"
    assert {str(path) for path in contents(folder)} == {
        "settings.json",
        "provenance.json",
        "constants.json",
        "timing.json",
        "summary.json",
        "gap-7.png",
        "seed-7/polargrad.jsonl",
        "seed-7/gradient-descent.jsonl",
    }
    assert (folder / "gap-7.png").read_bytes().startswith(b"\x89PNG")
    settings = read_json(folder / "settings.json")
    assert (settings["experiment"], settings["steps"], settings["oracle"]) == (
        "quadratic",
        6,
        "exact",
    )
    assert [run["name"] for run in settings["runs"]] == ["polargrad", "gradient-descent"]
    rows = read_json(folder / "summary.json")["rows"]
    assert rows == Results.read(folder).summary()
    assert read_json(folder / "constants.json").keys() == {"7"}
    (session,) = read_json(folder / "provenance.json")["sessions"]
    assert session["torch"] == torch.__version__


def test_a_second_call_does_nothing(out):
    """No file is written: neither contents nor times change."""
    before = contents(out)
    done = reproduce(out, [small()], seeds=(7,), workers=1)
    assert done.runs == 0
    assert done.folders == {"quadratic": out / "quadratic"}
    assert contents(out) == before


def test_a_seed_that_is_added_later_runs_alone(out):
    before = contents(out)
    done = reproduce(out, [small()], seeds=(7, 3), workers=1)
    assert done.runs == 2
    after = contents(out)
    changed = {str(path) for path in before if after[path] != before[path]}
    assert changed == {
        f"quadratic/{name}"
        for name in (
            "provenance.json",
            "constants.json",
            "summary.json",
            "gap-7.png",
        )
    }
    assert Results.read(out / "quadratic").seeds == [3, 7]
    assert read_json(out / "quadratic" / "summary.json")["rows"][0]["seeds"] == [3, 7]
    assert len(read_json(out / "quadratic" / "provenance.json")["sessions"]) == 2
    assert (out / "quadratic" / "gap-3.png").exists()
    before = contents(out)
    assert reproduce(out, [small()], seeds=(3,), workers=1).runs == 0  # fewer seeds: nothing
    assert contents(out) == before


def test_results_are_the_same_again(out, tmp_path):
    reproduce(tmp_path / "again", [small()], seeds=(7,), workers=1)
    for name in ("polargrad", "gradient-descent"):
        one, two = (
            without_times(read_records(records_of(root / "quadratic", 7, name)))
            for root in (out, tmp_path / "again")
        )
        assert one == two


@pytest.mark.parametrize(
    ("lost", "made"),
    [
        ("summary.json", {"summary.json", "gap-7.png"}),
        ("gap-7.png", {"summary.json", "gap-7.png"}),
        ("timing.json", {"timing.json", "summary.json", "gap-7.png"}),
        ("constants.json", {"constants.json"}),
        (
            "seed-7/polargrad.jsonl",
            {"seed-7/polargrad.jsonl", "summary.json", "gap-7.png", "provenance.json"},
        ),
    ],
)
def test_what_is_lost_is_made_again(out, lost, made):
    """And nothing else: timing is measured once."""
    folder = out / "quadratic"
    before = contents(folder)
    (folder / lost).unlink()
    reproduce(out, [small()], seeds=(7,), workers=1)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert {str(path) for path in before if after[path] != before[path]} == made


def test_experiments_are_side_by_side(tmp_path):
    """The second call finds the first one's experiment finished, and leaves it alone."""
    reproduce(tmp_path, [small()], seeds=(7,), workers=1)
    before = contents(tmp_path / "quadratic")
    done = reproduce(tmp_path, [small(), COMPLETION], seeds=(7,), workers=1)
    assert done.runs == 1
    assert done.folders.keys() == {"quadratic", "completion"}
    assert contents(tmp_path / "quadratic") == before
    assert set(finished_experiments(tmp_path)) == {"quadratic", "completion"}


def test_a_failed_session_goes_on_where_it_stopped(tmp_path):
    failing = small(build=build_failing_at_13)
    with pytest.raises(RuntimeError, match="the disk is on fire"):
        reproduce(tmp_path, [failing], seeds=(12, 13), workers=1)
    before = contents(tmp_path)
    done = reproduce(tmp_path, [small()], seeds=(12, 13), workers=1)  # the disk is new
    assert done.runs == 2
    after = contents(tmp_path)
    kept = [path for path in before if path.parent.name == "seed-12"]
    assert len(kept) == 2
    assert all(after[path] == before[path] for path in kept)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 8}, "steps: 6 there, 8 here"),
        ({"era": "paper"}, "era: 'reference' there, 'paper' here"),
        ({"runs": (POLARGRAD,)}, "other settings"),
        ({"runs": (dataclasses.replace(POLARGRAD, lr=2e-3), DESCENT)}, "other settings"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_changed(out, changes, message):
    before = contents(out)
    with pytest.raises(RunFolderError, match=message):
        reproduce(out, [small(**changes)], seeds=(7,), workers=1)
    assert contents(out) == before


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_of_something_else_is_refused_before_any_other_is_touched(out, overwrite):
    (out / "completion").mkdir()
    (out / "completion" / "thesis.tex").write_text("mine")
    before = contents(out)
    with pytest.raises(RunFolderError, match="which holds other files"):
        reproduce(out, [small(), COMPLETION], seeds=(7,), workers=1, overwrite=overwrite)
    assert contents(out) == before


def test_overwrite_begins_again(out):
    before = contents(out)
    done = reproduce(out, [small(steps=8)], seeds=(7,), workers=1, overwrite=True)
    assert done.runs == 2
    assert read_json(out / "quadratic" / "settings.json")["steps"] == 8
    done = reproduce(out, [small()], seeds=(7,), workers=1, overwrite=True)
    assert done.runs == 2
    after = contents(out)
    assert after.keys() == before.keys()
    assert all(after[path] != before[path] for path in before)  # at least in its time


def test_runs_that_diverge_are_results_too(tmp_path):
    done = reproduce(tmp_path, [small(runs=(POLARGRAD, DESCENT, DIVERGING))], seeds=(7,), workers=1)
    rows = {r["name"]: r for r in read_json(done.folders["quadratic"] / "summary.json")["rows"]}
    assert rows["newton"]["median"] == math.inf
    assert rows["polargrad"]["median"] < math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": (-1,)}, "seeds must be from 0 to 4294967295, got -1"),
        ({"seeds": (2**32,)}, "seeds must be from 0 to 4294967295, got 4294967296"),
        ({"seeds": (1, 1)}, r"at least one, each once, got \[1, 1\]"),
        ({"seeds": ()}, r"at least one, each once, got \[\]"),
        ({"seeds": (1,), "workers": 0}, "workers must be at least 1, got 0"),
    ],
)
def test_bad_options_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        reproduce(tmp_path / "out", [small()], **options)
    assert not (tmp_path / "out").exists()


def test_the_global_generator_is_left_alone(tmp_path):
    state = torch.random.get_rng_state()
    reproduce(tmp_path, [small()], seeds=(1,), workers=1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_experiments_are_chosen_by_name():
    names = ["completion", "quadratic"]
    assert [e.name for e in choose(names, quick=True)] == names
    for options in ({"era": "paper"}, {"oracle": "exact"}, {"oracle": "tolerance"}):
        for experiment in choose(["quadratic", "logistic", "completion"], **options):
            assert options.items() <= experiment.as_data().items()
    assert public is reproduce


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"names": ["cubic"]}, "one of quadratic, logistic, completion, got 'cubic'"),
        ({"names": ["quadratic"], "era": "now"}, "era must be one of reference, paper, got 'now'"),
        ({"names": ["quadratic"], "oracle": "svd"}, "oracle must be one of published, exact"),
    ],
)
def test_unknown_choices_are_refused(words, message):
    with pytest.raises(ValueError, match=message):
        choose(**words)


def test_unfinished_experiments_are_not_found(out):
    assert list(finished_experiments(out)) == ["quadratic"]
    (out / "logistic").mkdir()
    (out / "logistic" / "settings.json").write_text(json.dumps({"experiment": "logistic"}))
    records_of(out / "quadratic", 7, "polargrad").unlink()
    assert finished_experiments(out) == {}


def test_what_a_killed_process_left_half_written_is_removed(tmp_path):
    """Its own alone: a user's file of another name stays."""
    folder = tmp_path / "quadratic"
    settings = {folder: small().as_data()}
    with at_work_in(settings, overwrite=False):
        pass
    (folder / ".summary.json.abc.part").write_text("{")
    (folder / "notes.part").write_text("mine")
    with at_work_in(settings, overwrite=False):
        assert not (folder / ".summary.json.abc.part").exists()
    assert (folder / "notes.part").read_text() == "mine"
