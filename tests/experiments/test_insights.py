"""The insights end to end on a small model: parity with training, resuming, what is refused."""

import json
import math
import sys

import pytest
from insight_runs import SMALL, protocol

from polargrad.errors import RunFolderError
from polargrad.experiments.insights.figures import FIGURES
from polargrad.experiments.insights.protocol import (
    ADAMW,
    FULL,
    MUON,
    ONE_RATE,
    POLARGRAD,
    QUICK,
    VECTOR_LR,
    InsightRun,
    InsightsProtocol,
    all_runs,
)
from polargrad.experiments.insights.results import InsightsResults
from polargrad.experiments.insights.run import run_insights
from polargrad.experiments.insights.training import Training, without_warmup
from polargrad.language import TrainSettings, train
from polargrad.language.schedules import linear
from polargrad.records import read_records


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("".join(f"{n} + {n} = {2 * n}\n" for n in range(700)))
    return path


@pytest.fixture(scope="module")
def finished(text, tmp_path_factory):
    """A folder with all runs of all families on one seed, and what the call said."""
    out = tmp_path_factory.mktemp("insights") / "out"
    return out, run_insights(out, protocol=protocol(), seeds=[3], data=text, workers=1)


@pytest.mark.parametrize("family", [ADAMW, ONE_RATE, MUON, POLARGRAD], ids=lambda f: f.name)
def test_a_run_with_warmup_is_a_run_of_train(family, text, tmp_path):
    """Losses equal those of ``polargrad train`` to the bit: looking at a run does not change it."""
    run = InsightRun(family=family.name, lr=family.lrs[0], curvature=True)
    found = list(Training(run, protocol(steps=40), text, 5).records())
    settings = TrainSettings(
        optimizer=family.optimizer,
        steps=40,
        out=tmp_path / "out",
        preset=SMALL,
        seed=5,
        lr=run.lr,
        vector_lr=family.vector_lr,
        data=text,
    )
    result = train(settings)
    known = [r["loss"] for r in read_records(result.out / "records.jsonl") if "loss" in r]
    assert [r["loss"] for r in found if "loss" in r] == known
    assert found[-1]["validation_loss"] == result.validation_loss
    assert found[-1]["ended"] == "budget"


def test_without_warmup_the_matrices_begin_at_full_rate_and_vectors_do_not(text):
    for family in (ADAMW, MUON, POLARGRAD):
        training = Training(InsightRun(family=family.name, lr=0.5, warmup=False), QUICK, text, 0)
        rates = [group["lr"] for group in training.optimizer.param_groups]
        assert rates == pytest.approx([0.5, VECTOR_LR / 20])
        sizes = [len(group["params"]) for group in training.optimizer.param_groups]
        assert sizes[0] == len(training.hidden)
    training = Training(InsightRun(family=ONE_RATE.name, lr=0.5, warmup=False), QUICK, text, 0)
    assert [group["lr"] for group in training.optimizer.param_groups] == [0.5]


def test_without_warmup_the_decay_is_the_same():
    steps = FULL.steps
    assert [without_warmup(k, steps) for k in range(20)] == [1.0] * 20
    assert all(without_warmup(k, steps) == linear(k, steps) for k in range(19, steps))


def test_a_run_that_diverges_ends_as_such(text):
    run = InsightRun(family=ONE_RATE.name, lr=1e30, warmup=False)
    *_, last = Training(run, protocol(), text, 0).records()
    assert last["ended"] == "diverged"
    assert last["step"] < 40


def test_the_protocols():
    for known in (FULL, QUICK):
        assert InsightsProtocol.from_data(json.loads(json.dumps(known.as_data()))) == known
        assert len({run.name for run in known.runs}) == len(known.runs)
        # One run with the curvature for each rule; every run has a twin without warmup.
        assert sorted(r.family for r in known.runs if r.curvature) == ["adamw", "muon", "polargrad"]
        assert sum(run.warmup for run in known.runs) == len(known.runs) / 2
        # The decay must not begin before the warmup's end, or "without" would not begin at 1.
        assert without_warmup(0, known.steps) == 1.0
        assert known.curvature_stride % 7
    assert FULL.samples(FULL.dense - 1)
    assert not FULL.samples(FULL.dense + 1)


def test_a_folder_holds_records_figures_and_verdicts(finished):
    out, found = finished
    assert (found.runs, found.skipped) == (24, 0)
    assert len(found.verdicts) == 10
    for name in FIGURES:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    results = InsightsResults.read(out)
    assert results.seeds == [3]
    assert len(results.traces) == 24
    for trace in results.traces:
        assert len(trace.losses) == 40
        assert math.isfinite(trace.validation)
        assert len(trace.samples) == 8 + 8
        assert len(trace.curvature) == (2 if trace.run.curvature else 0)
        for sample in trace.samples:
            assert len(sample["update"]["condition"]) == len(trace.layers) == 7
    stored = json.loads((out / "verdicts.json").read_text())
    assert (stored["runs"], stored["seeds"]) == (24, [3])


def test_polargrads_measured_update_is_a_polar_factor(finished):
    """Its bulk of singular values is equal, to the accuracy the optimizer asks of the oracle."""
    results = InsightsResults.read(finished[0])
    for trace in results.chosen(["polargrad"]):
        assert trace.middle("update", "effective") < 1.25
        assert trace.middle("gradient", "effective") > 1.5


def test_a_second_call_does_nothing(finished, text):
    out, first = finished
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    again = run_insights(out, protocol=protocol(), seeds=[3], data=text, workers=1)
    assert (again.runs, again.skipped) == (0, 24)
    assert repr(again.verdicts) == repr(first.verdicts)
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_what_is_missing_is_run_again_and_comes_out_the_same(text, tmp_path):
    small = protocol((ADAMW, MUON), runs=all_runs((ADAMW, MUON), middle_alone=True), steps=32)
    run_insights(tmp_path / "out", protocol=small, seeds=[0], data=text, workers=1)
    path = tmp_path / "out" / "seed-0" / f"{small.runs[1].name}.jsonl"

    def kept():
        return [{k: v for k, v in r.items() if k != "seconds"} for r in read_records(path)]

    whole = kept()
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:9]) + '{"step": 9, "lo')
    found = run_insights(tmp_path / "out", protocol=small, seeds=[0], data=text, workers=1)
    assert (found.runs, found.skipped) == (1, 3)
    assert kept() == whole
    sessions = json.loads((tmp_path / "out" / "provenance.json").read_text())["sessions"]
    assert len(sessions) == 2


def test_unfinished_seeds_are_not_judged(text, tmp_path):
    small = protocol((ADAMW,), runs=all_runs((ADAMW,), middle_alone=True), steps=32)
    run_insights(tmp_path / "out", protocol=small, seeds=[0, 1], data=text, workers=1)
    (tmp_path / "out" / "seed-1" / f"{small.runs[0].name}.jsonl").unlink()
    assert InsightsResults.read(tmp_path / "out").seeds == [0]
    (tmp_path / "out" / "seed-0" / f"{small.runs[0].name}.jsonl").unlink()
    with pytest.raises(RunFolderError, match="holds no finished seed"):
        InsightsResults.read(tmp_path / "out")


def test_other_settings_and_other_folders_are_refused(finished, text, tmp_path):
    out, _ = finished
    with pytest.raises(RunFolderError, match=r"other settings.*steps: 40 there, 44 here"):
        run_insights(out, protocol=protocol(steps=44), seeds=[3], data=text, workers=1)
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(RunFolderError, match="other files"):
        run_insights(tmp_path, protocol=protocol(), seeds=[3], data=text, workers=1)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        run_insights(tmp_path / "new", protocol=protocol(), seeds=[3], data=text, workers=0)
    with pytest.raises(ValueError, match="seeds must be"):
        run_insights(tmp_path / "new", protocol=protocol(), seeds=[3, 3], data=text)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX")
def test_processes_side_by_side_give_the_same(text, tmp_path):
    small = protocol((ADAMW,), runs=all_runs((ADAMW,), middle_alone=True), steps=32)
    for name, workers in (("one", 1), ("two", 2)):
        run_insights(tmp_path / name, protocol=small, seeds=[0], data=text, workers=workers)
    one, two = (InsightsResults.read(tmp_path / name).traces for name in ("one", "two"))
    assert [t.run for t in one] == [t.run for t in two]
    for alone, beside in zip(one, two, strict=True):
        assert alone.losses == pytest.approx(beside.losses, rel=1e-6)
        assert alone.validation == pytest.approx(beside.validation, rel=1e-6)
